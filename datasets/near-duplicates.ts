import * as fs from "node:fs";
import * as path from "node:path";
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
 * No two texts that are nearly the same are missed, and of those that are named the words were counted. A text is the set
 * of its pairs of neighbouring words, each a number: 29 bits of a hash, and before them how often the pair is seen. Prefix
 * filtering, as in AllPairs and PPJoin: whatever the order of the pairs, two texts that are nearly the same have one in
 * common among the first few of both; with rare pairs first, next to no others have. Two pairs of a text that share a hash
 * count as one: of texts of 40 words that is one in 700,000.
 */
const SLOTS = 1 << 20;
const slotOf = (pair: number): number => pair & (SLOTS - 1);
/** Of a text, the first pairs in that order are in memory: all of most questions. Longer ones are in a file as well. */
const HEAD = 64;
const CHUNK = 1 << 18;
/** Of texts, what can be in common with one that is nearly the same is at least this much. */
const leastOfLonger = (length: number): number => Math.ceil((4 * length) / 5);
const leastOfShorter = (length: number): number => Math.ceil((8 * length) / 9);
const leastOfBoth = (lengths: number): number => Math.ceil((4 * lengths) / 9);

/** Finds all texts that are nearly the same among any number of them, in about 300 bytes for each, whatever their length. */
export class NearDuplicates {
    /** How often a pair was seen, by the end of its number. */
    private readonly seen = new Uint16Array(SLOTS);
    private readonly chunks: Uint32Array[] = [];
    private readonly starts: Float64Array;
    private readonly lengths: Uint32Array;
    /** Of each text 128 bits, each of them flipped by the pairs that it stands for. */
    private readonly bits: Uint32Array;
    private readonly whole: LongTexts;
    private used = CHUNK;
    private added = 0;
    private pairs = new Uint32Array(1024);

    /** @param folder where a file may lie until `close`. */
    constructor(
        private readonly capacity: number,
        folder: string,
    ) {
        this.starts = new Float64Array(capacity);
        this.lengths = new Uint32Array(capacity);
        this.bits = new Uint32Array(4 * capacity);
        this.whole = new LongTexts(capacity, path.join(folder, "long-texts"));
    }

    /** Learns from some of the texts, before the first one is added, which pairs are rare. */
    sample(words: Words): void {
        const length = this.read(words);
        for (let i = 0; i < length; i += 1) {
            const slot = slotOf(this.pairs[i] ?? 0);
            this.seen[slot] = Math.min(0xffff, (this.seen[slot] ?? 0) + 1);
        }
    }

    add(words: Words): void {
        const at = this.added;
        if (at === this.capacity) throw new Error(`more than ${this.capacity} texts`);
        this.added += 1;
        const length = this.read(words);
        this.lengths[at] = length;
        for (let i = 0; i < length; i += 1) {
            const bit = ((this.pairs[i] ?? 0) >>> 20) & 127;
            this.bits[4 * at + (bit >> 5)] = (this.bits[4 * at + (bit >> 5)] ?? 0) ^ (1 << (bit & 31));
        }
        const inMemory = Math.min(length, HEAD);
        if (this.used + inMemory > CHUNK) {
            this.chunks.push(new Uint32Array(CHUNK));
            this.used = 0;
        }
        this.chunks.at(-1)?.set(this.pairs.subarray(0, inMemory), this.used);
        this.starts[at] = CHUNK * (this.chunks.length - 1) + this.used;
        this.used += inMemory;
        if (length > HEAD) this.whole.add(at, this.pairs.subarray(0, length));
    }

    /** A link for each text that is nearly the same as another one or its like: enough to connect all that belong together. */
    links(): { readonly links: readonly Link[]; readonly clusters: Clusters } {
        const clusters = new Clusters(this.added);
        const links: Link[] = [];
        const { lengths } = this;
        const byLength = this.byLength();
        // For each slot the texts that have such a pair at their beginning, the longest first: a list that is linked by
        // positions from 1.
        const firsts = new Uint32Array(SLOTS);
        let number = 1;
        for (const at of byLength) number += 1 + (lengths[at] ?? 0) - leastOfShorter(lengths[at] ?? 0);
        const texts = new Uint32Array(number);
        const places = new Uint16Array(number);
        const nexts = new Uint32Array(number);
        // Beyond the ones that are in the same cluster: thousands of texts that are all alike are passed in one step.
        const others = new Uint32Array(number);
        const compared = new Uint32Array(this.added);
        let used = 1;
        for (const [turn, at] of byLength.entries()) {
            const length = lengths[at] ?? 0;
            const pairs = this.pairsOf(at);
            const least = leastOfLonger(length);
            let own = clusters.of(at);
            for (let i = 0; i <= length - least; i += 1) {
                let entry = firsts[slotOf(pairs[i] ?? 0)] ?? 0;
                while (entry !== 0) {
                    const text = texts[entry] ?? 0;
                    const otherLength = lengths[text] ?? 0;
                    if (otherLength < least) break;
                    // What is behind this pair in either is the most that can follow in both.
                    const most = Math.min(length - i, otherLength - (places[entry] ?? 0));
                    if (most >= leastOfBoth(length + otherLength) && compared[text] !== turn + 1) {
                        if (clusters.of(text) !== own) {
                            compared[text] = turn + 1;
                            const both = this.inCommon(at, pairs, text);
                            if (both > 0) {
                                const [first, second] = at < text ? [at, text] : [text, at];
                                links.push({ first, second, alike: both / (length + otherLength - both) });
                                clusters.join(at, text);
                                own = clusters.of(at);
                            }
                        }
                    }
                    if (clusters.of(text) !== own) {
                        entry = nexts[entry] ?? 0;
                        continue;
                    }
                    let other = others[entry] ?? 0;
                    while (other !== 0 && clusters.of(texts[other] ?? 0) === own) other = others[other] ?? 0;
                    others[entry] = other;
                    entry = other;
                }
            }
            for (let i = 0; i <= length - leastOfShorter(length); i += 1) {
                const slot = slotOf(pairs[i] ?? 0);
                texts[used] = at;
                places[used] = Math.min(i, 0xffff);
                nexts[used] = others[used] = firsts[slot] ?? 0;
                firsts[slot] = used;
                used += 1;
            }
        }
        links.sort((a, b) => a.first - b.first || a.second - b.second);
        return { links, clusters };
    }

    close(): void {
        this.whole.close();
    }

    /** Positions of the texts that have words, the shortest first. */
    private byLength(): Uint32Array {
        // Length and position in one number, which sorts natively.
        const keys = Float64Array.from({ length: this.added }, (_, at) => (this.lengths[at] ?? 0) * this.capacity + at);
        return Uint32Array.from(
            keys.sort().filter((key) => key >= this.capacity),
            (key) => key % this.capacity,
        );
    }

    /** Writes the pairs of a text into `pairs`, in their order, each once; answers their number. */
    private read({ count, hashes }: Words): number {
        if (count === 0) return 0;
        const number = Math.max(1, count - 1);
        if (this.pairs.length < number) {
            this.pairs = new Uint32Array(2 * number);
        }
        const { pairs, seen } = this;
        for (let i = 0; i < number; i += 1) {
            const one = hashes[i] ?? 0;
            const pair = mixed(count === 1 ? one : Math.imul(one, 0x9e3779b1) + (hashes[i + 1] ?? 0)) >>> 3;
            // Of up to 8,192 texts, in steps of four: 0, 1 to 3, 4 to 15, …
            const often = Math.min(7, (33 - Math.clz32(seen[slotOf(pair)] ?? 0)) >> 1);
            pairs[i] = (often << 29) | pair;
        }
        const sorted = pairs.subarray(0, number).sort();
        let distinct = 1;
        for (let i = 1; i < number; i += 1) {
            const pair = sorted[i] ?? 0;
            if (pair !== pairs[distinct - 1]) pairs[distinct++] = pair;
        }
        return distinct;
    }

    /** All pairs of a text, until it is asked for another one. */
    private pairsOf(at: number): Uint32Array {
        const length = this.lengths[at] ?? 0;
        return length > HEAD ? this.whole.read(at, length, 0) : this.headOf(at);
    }

    private headOf(at: number): Uint32Array {
        const start = this.starts[at] ?? 0;
        const from = start % CHUNK;
        const length = Math.min(this.lengths[at] ?? 0, HEAD);
        return (this.chunks[Math.floor(start / CHUNK)] ?? new Uint32Array()).subarray(from, from + length);
    }

    /** How many pairs a text, whose pairs these are, has in common with another one, or 0 where that is too few. */
    private inCommon(at: number, pairs: Uint32Array, text: number): number {
        const [length, otherLength] = [this.lengths[at] ?? 0, this.lengths[text] ?? 0];
        const least = leastOfBoth(length + otherLength);
        // As many as either may have for itself.
        let own = length - least;
        let others = otherLength - least;
        // Each bit that differs is due to one of them at least.
        let differing = 0;
        for (let k = 0; k < 4; k += 1) {
            differing += ones((this.bits[4 * at + k] ?? 0) ^ (this.bits[4 * text + k] ?? 0));
        }
        if (differing > own + others) return 0;
        let other = this.headOf(text);
        let both = 0;
        for (let i = 0, j = 0; i < length && j < otherLength;) {
            if (j === other.length) other = this.whole.read(text, otherLength, 1);
            const one = pairs[i] ?? 0;
            const two = other[j] ?? 0;
            if (one === two) {
                both += 1;
                i += 1;
                j += 1;
            } else if (one < two) {
                own -= 1;
                i += 1;
            } else {
                others -= 1;
                j += 1;
            }
            if (own < 0 || others < 0) return 0;
        }
        return both < least ? 0 : both;
    }
}

/** How many bits of 32 are set. */
function ones(bits: number): number {
    let sum = bits - ((bits >>> 1) & 0x55555555);
    sum = (sum & 0x33333333) + ((sum >>> 2) & 0x33333333);
    return Math.imul((sum + (sum >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}

/** Sets of pairs that are too large to be kept in memory, in a file. */
class LongTexts {
    private readonly starts: Float64Array;
    private readonly buffers: [Uint32Array<ArrayBuffer>, Uint32Array<ArrayBuffer>] = [
        new Uint32Array(1024),
        new Uint32Array(1024),
    ];
    private handle: number | undefined;
    private waiting: Uint8Array[] = [];
    private waitingBytes = 0;
    private written = 0;

    constructor(
        capacity: number,
        private readonly file: string,
    ) {
        this.starts = new Float64Array(capacity);
    }

    add(at: number, pairs: Uint32Array): void {
        this.starts[at] = this.written + this.waitingBytes;
        this.waiting.push(new Uint8Array(pairs.slice().buffer));
        this.waitingBytes += pairs.byteLength;
        if (this.waitingBytes > 1 << 20) this.write();
    }

    /** Its pairs, until another one is read into the same of the two buffers. */
    read(at: number, length: number, buffer: 0 | 1): Uint32Array {
        if (this.waitingBytes > 0) this.write();
        if (this.buffers[buffer].length < length) this.buffers[buffer] = new Uint32Array(2 * length);
        const pairs = this.buffers[buffer].subarray(0, length);
        const bytes = new Uint8Array(pairs.buffer, 0, pairs.byteLength);
        const start = this.starts[at] ?? 0;
        for (let got = 0; got < bytes.length;) {
            const more = fs.readSync(this.handle ?? -1, bytes, got, bytes.length - got, start + got);
            if (more === 0) throw new Error(`${this.file} is shorter than what was written`);
            got += more;
        }
        return pairs;
    }

    close(): void {
        if (this.handle !== undefined) fs.closeSync(this.handle);
        this.handle = undefined;
    }

    private write(): void {
        this.handle ??= fs.openSync(this.file, "w+");
        const bytes = Buffer.concat(this.waiting);
        for (let put = 0; put < bytes.length;) {
            put += fs.writeSync(this.handle, bytes, put, bytes.length - put, this.written + put);
        }
        this.written += bytes.length;
        this.waiting = [];
        this.waitingBytes = 0;
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
