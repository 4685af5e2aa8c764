import { createReadStream, createWriteStream } from "node:fs";
import { open } from "node:fs/promises";
import path from "node:path";
import { pipeline } from "node:stream/promises";
import { createGunzip } from "node:zlib";
import { UserError } from "../pipeline/user-error";

export type Format = "lines" | "array" | "csv" | "parquet";

/** A file that can be read as it is: not compressed, and without a byte order mark where the reader minds one. */
export interface SourceFile {
    /** The name that the user knows; what messages call it. */
    name: string;
    path: string;
    format: Format;
}

const byteOrderMark = Buffer.from([0xef, 0xbb, 0xbf]);

/**
 * Finds out what a file is, by content first.
 *
 * @param unpacked path that a decompressed or cleaned copy may be written to.
 * @throws UserError when the file is missing, empty, cut off, or of no known format.
 */
export async function openSource(name: string, unpacked: string): Promise<SourceFile> {
    let file = name;
    let { head, tail } = await edges(name, file);
    if (head.length === 0) throw new UserError(`${name} is empty: there is no row to convert.`);
    if (head[0] === 0x1f && head[1] === 0x8b) {
        await unzip(name, unpacked);
        file = unpacked;
        ({ head, tail } = await edges(name, file));
    }
    const format = formatOf(name, head, tail);
    if (format === "lines" && head.subarray(0, 3).equals(byteOrderMark)) {
        const clean = file === unpacked ? `${unpacked}.clean` : unpacked;
        await pipeline(createReadStream(file, { start: 3 }), createWriteStream(clean));
        file = clean;
    }
    return { name, path: path.resolve(file), format };
}

function formatOf(name: string, head: Buffer, tail: Buffer): Format {
    const extension = path.extname(name.replace(/\.gz$/i, "")).toLowerCase();
    if (head.subarray(0, 4).toString("latin1") === "PAR1") {
        if (tail.length < 8 || tail.subarray(-4).toString("latin1") !== "PAR1") {
            throw new UserError(`${name} is a Parquet file that ends too early: fetch it again.`);
        }
        return "parquet";
    }
    if (extension === ".parquet") throw new UserError(`${name} is not a Parquet file, whatever its name says.`);
    const start = head.toString("utf8").replace(/^\uFEFF/, "");
    if (start.startsWith("version https://git-lfs")) {
        throw new UserError(`${name} is a Git LFS pointer, not the data: run \`git lfs pull\`, or download the file.`);
    }
    const first = start.trimStart()[0];
    if (first === undefined) throw new UserError(`${name} holds nothing but white space: there is no row to convert.`);
    if (extension === ".csv") return "csv";
    if (first === "[") {
        if (/^\s*\[\s*\]\s*$/.test(start)) throw new UserError(`${name}: there is no row to convert.`);
        // DuckDB takes an array without its end for a whole one.
        if (!tail.toString("utf8").trimEnd().endsWith("]")) {
            throw new UserError(
                `${name} is a JSON array that does not end with "]": it was cut off, so fetch or write it again.`,
            );
        }
        return "array";
    }
    if (first === "{" || extension === ".json" || extension === ".jsonl" || extension === ".ndjson") return "lines";
    return "csv";
}

/** The first and the last 512 bytes. */
async function edges(name: string, file: string): Promise<{ head: Buffer; tail: Buffer }> {
    let handle;
    try {
        handle = await open(file, "r");
    } catch (error) {
        if ((error as NodeJS.ErrnoException).code === "ENOENT") {
            throw new UserError(`${name} does not exist: correct the path of the data set's source.`);
        }
        throw new UserError(`${name} cannot be opened: ${(error as Error).message}.`);
    }
    try {
        const status = await handle.stat();
        if (status.isDirectory()) throw new UserError(`${name} is a folder: name the files in it instead.`);
        const length = Math.min(512, status.size);
        const head = Buffer.alloc(length);
        const tail = Buffer.alloc(length);
        await handle.read(head, 0, length, 0);
        await handle.read(tail, 0, length, status.size - length);
        return { head, tail };
    } finally {
        await handle.close();
    }
}

async function unzip(name: string, into: string): Promise<void> {
    try {
        await pipeline(createReadStream(name), createGunzip(), createWriteStream(into));
    } catch (error) {
        const { code, message } = error as NodeJS.ErrnoException;
        if (code?.startsWith("Z_") === true) {
            throw new UserError(`${name} is a gzip file that is damaged (${message}): fetch it again.`);
        }
        throw error;
    }
}

/**
 * The names in the first record of a CSV file.
 *
 * @throws UserError when two columns have the same name.
 */
export async function csvHeader(source: SourceFile): Promise<string[]> {
    let text = "";
    for await (const chunk of createReadStream(source.path, "utf8")) {
        text += chunk as string;
        const names = firstRecord(text.replace(/^\uFEFF/, ""), false);
        if (names !== undefined) return unique(source, names);
    }
    return unique(source, firstRecord(text.replace(/^\uFEFF/, ""), true) ?? []);
}

function firstRecord(text: string, complete: boolean): string[] | undefined {
    const names: string[] = [];
    let at = 0;
    for (;;) {
        const quoted = text[at] === '"';
        const field = quoted ? /"((?:[^"]|"")*)"/y : /[^,\r\n]*/y;
        field.lastIndex = at;
        const match = field.exec(text);
        if (match === null) return undefined;
        at += match[0].length;
        if (at === text.length && !complete) return undefined;
        names.push(quoted ? (match[1] ?? "").replaceAll('""', '"') : match[0]);
        if (text[at] !== ",") return names;
        at++;
    }
}

function unique(source: SourceFile, names: string[]): string[] {
    const twice = names.find((name, index) => names.indexOf(name) !== index);
    if (twice !== undefined) throw new UserError(`${source.name}: the header names the column "${twice}" twice.`);
    return names;
}
