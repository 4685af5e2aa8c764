import type { DuckDBDataChunk, DuckDBVector } from "@duckdb/node-api";
import { hash } from "node:crypto";
import { open, type FileHandle } from "node:fs/promises";
import path from "node:path";
import { UserError } from "../pipeline/user-error";
import type { Recipe } from "./recipe";
import { divide, orderOf, parts, type Part, type Split } from "./split";

const lineFeed = 10;
const blockSize = 1 << 20;
const nothing = new Uint8Array();

/**
 * The kept rows, spooled into one file in their order, with what has to be known of each to divide them afterwards:
 * which part a row belongs to is not known before the last row is.
 */
export class RowFile {
    scanned = 0;
    kept = 0;
    readonly dropped: Record<string, number> = {};
    private block = Buffer.allocUnsafe(2 * blockSize);
    private readonly lengths = new Numbers();
    private readonly characters = new Numbers();
    private readonly orders = new Numbers();
    private readonly seen = new Set<string>();

    private constructor(
        private readonly file: FileHandle,
        private readonly recipe: Recipe,
        private readonly split: Split,
        private readonly limit: number | undefined,
    ) {}

    /** @param name path of a file that does not exist yet. */
    static async create(name: string, recipe: Recipe, split: Split, limit: number | undefined): Promise<RowFile> {
        return new RowFile(await open(name, "wx+"), recipe, split, limit);
    }

    async close(): Promise<void> {
        await this.file.close();
    }

    get full(): boolean {
        return this.limit !== undefined && this.kept >= this.limit;
    }

    /** @param chunk rows of a `conversionQuery`. Those after the last that the limit lets in are not looked at. */
    async add(chunk: DuckDBDataChunk, reasons: readonly string[]): Promise<void> {
        const count = chunk.rowCount;
        const reasonOf = chunk.getColumnVector(0) as DuckDBVector<number>;
        const blobs = chunk.getColumnVector(1) as DuckDBVector<{ bytes: Uint8Array }>;
        const characters = chunk.getColumnVector(2) as DuckDBVector<number>;
        const lines: Uint8Array[] = [];
        let size = 0;
        for (let row = 0; row < count; row++) {
            const line = reasonOf.getItem(row) === 0 ? (blobs.getItem(row)?.bytes ?? nothing) : nothing;
            lines.push(line);
            size += line.length + 1;
        }
        if (this.block.length < size) this.block = Buffer.allocUnsafe(2 * size);
        const prompts = promptsOf(lines, this.recipe);
        const folded = fold(prompts, "");
        const collapsed = this.recipe.deduplicate ? fold(prompts, " ") : undefined;
        let at = 0;
        for (let row = 0; row < count && !this.full; row++) {
            this.scanned++;
            const reason = reasonOf.getItem(row) ?? 0;
            if (reason !== 0) {
                this.drop(reasons[reason - 1] ?? "");
                continue;
            }
            if (collapsed !== undefined && !this.isFirst(collapsed[row] ?? "")) {
                this.drop("duplicate");
                continue;
            }
            const line = lines[row] ?? nothing;
            this.block.set(line, at);
            at += line.length;
            this.block[at++] = lineFeed;
            this.orders.push(orderOf(folded[row] ?? "", this.split.seed));
            this.lengths.push(line.length + 1);
            this.characters.push(characters.getItem(row) ?? 0);
            this.kept++;
        }
        await writeAll(this.file, this.block.subarray(0, at));
    }

    /**
     * Writes `train.jsonl`, `validation.jsonl` and `test.jsonl` (those with rows) into `folder`.
     *
     * @throws UserError when no row is left for training.
     */
    async divide(
        folder: string,
    ): Promise<{ rows: Record<Part, number>; characters: { p50: number; p95: number; max: number } }> {
        const { heldOut, rows: counted } = divide(this.orders.copy(), this.split);
        const rows: Record<Part, number> = { train: counted[0], validation: counted[1], test: counted[2] };
        if (rows.train === 0) {
            throw new UserError(
                `The split leaves no row for training: ${this.kept} kept, ${rows.validation} for validation, ${rows.test} for test. ` +
                    "Lower the shares, or keep more rows.",
            );
        }
        const writers = await Promise.all(
            parts.map(async (part) =>
                rows[part] === 0 ? undefined : new Writer(await open(path.join(folder, `${part}.jsonl`), "wx")),
            ),
        );
        try {
            const reader = new Reader(this.file);
            for (let row = 0; row < this.kept;) {
                const part = heldOut.get(this.orders.at(row)) ?? 0;
                let left = 0;
                // Most rows have neighbours of the same part, and are copied together with them.
                do left += this.lengths.at(row++);
                while (row < this.kept && (heldOut.get(this.orders.at(row)) ?? 0) === part);
                while (left > 0) {
                    const piece = reader.take(left) ?? (await reader.refill(left));
                    left -= piece.length;
                    if (writers[part]?.add(piece) === false) await writers[part].flush(piece);
                }
            }
            for (const writer of writers) await writer?.flush();
        } finally {
            for (const writer of writers) await writer?.close();
        }
        return { rows, characters: this.characters.quantiles() };
    }

    private drop(reason: string): void {
        this.dropped[reason] = (this.dropped[reason] ?? 0) + 1;
    }

    private isFirst(prompt: string): boolean {
        // A digest takes 48 bytes, however long the prompt is.
        const before = this.seen.size;
        return this.seen.add(hash("sha256", prompt, "binary")).size > before;
    }
}

/**
 * What makes rows the same prompt: the input, or instruction and input where each row has its own instruction. Taken
 * from the lines (a quote inside a JSON string has a backslash before it, so the marks are found nowhere else), as one
 * value per row less is fetched from DuckDB, which is what takes the time.
 */
function promptsOf(lines: readonly Uint8Array[], recipe: Recipe): string[] {
    const own = "column" in recipe.instruction;
    let start = own ? '{"instruction":"'.length : -1;
    return lines.map((bytes) => {
        if (bytes.length === 0) return "";
        const line = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
        if (start < 0) start = line.indexOf('","input":"') + '","input":"'.length;
        const text = line.toString("utf8", start, line.indexOf(outputMark, start));
        return text.includes("\\") ? unescape(text).replace(/\s+/g, " ") : text;
    });
}

const outputMark = Buffer.from('","output":"');

function unescape(text: string): string {
    return text.replace(/\\(?:u[0-9a-fA-F]{4}|.)/g, (escape) => JSON.parse(`"${escape}"`) as string);
}

/**
 * NFKC with every run of white space as `gap`; without a gap, in lower case too. All texts at once, as a call for each
 * costs three times as much; none of them holds a line feed.
 */
function fold(prompts: readonly string[], gap: "" | " "): string[] {
    const all = prompts
        .join("\n")
        .normalize("NFKC")
        .replace(/[^\S\n]+/g, gap);
    return (gap === "" ? all.toLowerCase() : all).split("\n").map((text) => text.trim());
}

/** A list of numbers that takes 8 bytes for each. */
class Numbers {
    private values = new Float64Array(4096);
    private length = 0;

    push(value: number): void {
        if (this.length === this.values.length) {
            const longer = new Float64Array(2 * this.length);
            longer.set(this.values);
            this.values = longer;
        }
        this.values[this.length++] = value;
    }

    at(index: number): number {
        return this.values[index] ?? 0;
    }

    copy(): Float64Array {
        return this.values.slice(0, this.length);
    }

    /** Nearest-rank percentiles; the list must not be empty. */
    quantiles(): { p50: number; p95: number; max: number } {
        const sorted = this.copy().sort();
        const rank = (share: number): number => sorted[Math.ceil(share * this.length) - 1] ?? 0;
        return { p50: rank(0.5), p95: rank(0.95), max: rank(1) };
    }
}

/** Reads a file from its start in blocks. */
class Reader {
    private readonly block = Buffer.allocUnsafe(blockSize);
    private at = 0;
    private end = 0;
    private position = 0;

    constructor(private readonly file: FileHandle) {}

    /** Up to `length` bytes of the block, or undefined when it is used up. Valid until the next refill. */
    take(length: number): Buffer | undefined {
        if (this.at === this.end) return undefined;
        const piece = this.block.subarray(this.at, Math.min(this.end, this.at + length));
        this.at += piece.length;
        return piece;
    }

    async refill(length: number): Promise<Buffer> {
        const { bytesRead } = await this.file.read(this.block, 0, blockSize, this.position);
        if (bytesRead === 0) throw new Error("the spooled rows end too early");
        this.position += bytesRead;
        this.at = 0;
        this.end = bytesRead;
        return this.take(length) ?? this.block;
    }
}

/** Collects small pieces into blocks, synchronously as long as there is room. */
class Writer {
    private readonly block = Buffer.allocUnsafe(blockSize);
    private used = 0;

    constructor(private readonly file: FileHandle) {}

    /** False when there is no room for the piece: `flush` takes it then. */
    add(piece: Buffer): boolean {
        if (this.used + piece.length > blockSize) return false;
        this.used += piece.copy(this.block, this.used);
        return true;
    }

    async flush(piece: Buffer = Buffer.alloc(0)): Promise<void> {
        await writeAll(this.file, this.block.subarray(0, this.used));
        this.used = piece.copy(this.block);
    }

    async close(): Promise<void> {
        await this.file.close();
    }
}

/** A single write may take less than all, for example just before the disk is full. */
async function writeAll(file: FileHandle, bytes: Buffer): Promise<void> {
    for (let done = 0; done < bytes.length;) {
        done += (await file.write(bytes, done, bytes.length - done, null)).bytesWritten;
    }
}
