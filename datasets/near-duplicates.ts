import { mixed, type Words } from "./words";

/** From here on two texts count as nearly the same: the share of neighbouring words that both have, of all that either has. */
export const NEARLY_THE_SAME = 0.8;

/** Two texts that are nearly the same, by their positions in the order in which they were added. */
export interface Link {
    readonly first: number;
    readonly second: number;
    /** From NEARLY_THE_SAME to 1. */
    readonly alike: number;
}

/*
 * MinHash: in each of 12 bands, texts that agree in 4 minima are compared. Of pairs that are alike by 0.8 three in a
 * thousand are missed, by 0.9 none in a million; of those alike by 0.1 one in a thousand is compared.
 */
const BANDS = 12;
const ROWS = 4;
/** Of a text, the smallest hashes are kept: all of most questions, and a fair sample of a longer one. */
const SKETCH = 64;
const CHUNK = 1 << 18;
/** In a larger group each text is compared with the first one and the one before it, so that the work stays in bounds. */
const ALL_PAIRS_UP_TO = 8;

const multipliers = Uint32Array.from({ length: BANDS * ROWS }, (_, k) => mixed(2 * k + 1) | 1);
const addends = Uint32Array.from({ length: BANDS * ROWS }, (_, k) => mixed(2 * k + 2));

/** Finds texts that are nearly the same among any number of them, in about 300 bytes for each. */
export class NearDuplicates {
    private readonly bands: Uint32Array;
    private readonly chunks: Uint32Array[] = [];
    private readonly starts: Float64Array;
    private readonly lengths: Uint8Array;
    private used = CHUNK;
    private added = 0;
    private pairs = new Uint32Array(1024);

    constructor(private readonly capacity: number) {
        this.bands = new Uint32Array(BANDS * capacity);
        this.starts = new Float64Array(capacity);
        this.lengths = new Uint8Array(capacity);
    }

    add({ count, hashes }: Words): void {
        const at = this.added;
        if (at === this.capacity) throw new Error(`more than ${this.capacity} texts`);
        this.added += 1;
        if (count === 0) return;
        const distinct = this.distinctPairs(count, hashes);
        let k = 0;
        for (let band = 0; band < BANDS; band += 1) {
            let hash = band;
            for (let row = 0; row < ROWS; row += 1, k += 1) {
                const multiplier = multipliers[k] ?? 0;
                const addend = addends[k] ?? 0;
                let smallest = 0xffffffff;
                for (let i = 0; i < distinct; i += 1) {
                    const value = (Math.imul(this.pairs[i] ?? 0, multiplier) + addend) >>> 0;
                    if (value < smallest) smallest = value;
                }
                hash = mixed(hash ^ smallest);
            }
            this.bands[BANDS * at + band] = hash;
        }
        this.keep(at, Math.min(distinct, SKETCH));
    }

    /** A link for each text that is nearly the same as an earlier one or its like: enough to connect all that belong together. */
    links(): { readonly links: readonly Link[]; readonly clusters: Clusters } {
        const clusters = new Clusters(this.added);
        const links: Link[] = [];
        const compare = (first: number, second: number): void => {
            if (clusters.of(first) === clusters.of(second)) return;
            const alike = this.alike(first, second);
            if (alike < NEARLY_THE_SAME) return;
            clusters.join(first, second);
            links.push({ first, second, alike });
        };
        for (let band = 0; band < BANDS; band += 1) {
            for (const group of this.groups(band)) {
                for (let i = 1; i < group.length; i += 1) {
                    const second = group[i] ?? 0;
                    const from = group.length <= ALL_PAIRS_UP_TO ? 0 : i - 1;
                    if (from > 0) compare(group[0] ?? 0, second);
                    for (let j = from; j < i; j += 1) compare(group[j] ?? 0, second);
                }
            }
        }
        links.sort((a, b) => a.first - b.first || a.second - b.second);
        return { links, clusters };
    }

    /** Writes the hashes of neighbouring words into `pairs`, sorted, each once; answers their number. */
    private distinctPairs(count: number, hashes: Uint32Array): number {
        const number = Math.max(1, count - 1);
        if (this.pairs.length < number) this.pairs = new Uint32Array(2 * number);
        const { pairs } = this;
        if (count === 1) pairs[0] = mixed(hashes[0] ?? 0);
        else {
            for (let i = 0; i < number; i += 1) {
                pairs[i] = mixed(Math.imul(hashes[i] ?? 0, 0x9e3779b1) + (hashes[i + 1] ?? 0));
            }
        }
        const sorted = pairs.subarray(0, number).sort();
        let distinct = 1;
        for (let i = 1; i < number; i += 1) {
            const value = sorted[i] ?? 0;
            if (value !== pairs[distinct - 1]) pairs[distinct++] = value;
        }
        return distinct;
    }

    private keep(at: number, length: number): void {
        if (this.used + length > CHUNK) {
            this.chunks.push(new Uint32Array(CHUNK));
            this.used = 0;
        }
        this.chunks.at(-1)?.set(this.pairs.subarray(0, length), this.used);
        this.starts[at] = CHUNK * (this.chunks.length - 1) + this.used;
        this.lengths[at] = length;
        this.used += length;
    }

    /** Exact for texts of up to SKETCH pairs; else by the smallest SKETCH of both together. */
    private alike(first: number, second: number): number {
        const [a, b] = [this.chunkOf(first), this.chunkOf(second)];
        let [i, j] = [(this.starts[first] ?? 0) % CHUNK, (this.starts[second] ?? 0) % CHUNK];
        const [lengthA, lengthB] = [this.lengths[first] ?? 0, this.lengths[second] ?? 0];
        const [endA, endB] = [i + lengthA, j + lengthB];
        const most = lengthA < SKETCH && lengthB < SKETCH ? 2 * SKETCH : SKETCH;
        let both = 0;
        let either = 0;
        for (; i < endA && j < endB && either < most; either += 1) {
            const one = a[i] ?? 0;
            const other = b[j] ?? 0;
            if (one === other) both += 1;
            if (one <= other) i += 1;
            if (other <= one) j += 1;
        }
        return both / Math.min(most, either + endA - i + endB - j);
    }

    private chunkOf(at: number): Uint32Array {
        return this.chunks[Math.floor((this.starts[at] ?? 0) / CHUNK)] ?? new Uint32Array();
    }

    /** Positions of texts that agree in a band, two or more at a time, in ascending order. */
    private *groups(band: number): Generator<number[]> {
        // Hash and position in one number, which sorts natively.
        const bits = Math.ceil(Math.log2(Math.max(2, this.added)));
        const room = 2 ** bits;
        const coarser = 2 ** Math.max(0, 32 + bits - 53);
        const keys = new Float64Array(this.added);
        let number = 0;
        for (let at = 0; at < this.added; at += 1) {
            if (this.lengths[at] === 0) continue;
            keys[number++] = Math.floor((this.bands[BANDS * at + band] ?? 0) / coarser) * room + at;
        }
        const sorted = keys.subarray(0, number).sort();
        for (let start = 0, end = 0; start < number; start = end) {
            const hash = Math.floor((sorted[start] ?? 0) / room);
            while (end < number && Math.floor((sorted[end] ?? 0) / room) === hash) end += 1;
            if (end - start > 1) yield Array.from(sorted.subarray(start, end), (key) => key % room);
        }
    }
}

/** Which texts belong together, directly or by others between them. */
export class Clusters {
    private readonly parents: Uint32Array;

    constructor(size: number) {
        this.parents = Uint32Array.from({ length: size }, (_, at) => at);
    }

    /** The first one of those that a text belongs to. */
    of(at: number): number {
        let one = at;
        for (let above = this.parents[one] ?? one; above !== one; above = this.parents[one] ?? one) {
            this.parents[one] = this.parents[above] ?? above;
            one = above;
        }
        return one;
    }

    join(a: number, b: number): void {
        const [one, other] = [this.of(a), this.of(b)];
        this.parents[Math.max(one, other)] = Math.min(one, other);
    }
}
