import { isUtf8 } from "node:buffer";
import { createReadStream } from "node:fs";
import { readFile, stat } from "node:fs/promises";
import { UserError } from "../pipeline/user-error";
import type { SourceFile } from "./source-file";

/** The longest text that fits into one string of Node 20. */
const longestString = 0x1fffffe8;

const quote = 34;

/**
 * What is wrong with a file that DuckDB could not read. Its own messages count lines differently from an editor and tell
 * people to change settings that they cannot reach, so the file is read again here, on the error path only.
 */
export async function diagnose(source: SourceFile, error: Error): Promise<UserError> {
    const said = error.message.split("\n")[0] ?? "";
    if (/out of memory|maximum_object_size/i.test(error.message)) {
        const smaller =
            source.format === "parquet" ? "Write it with smaller row groups" : "Shorten or leave out such rows";
        return new UserError(`${source.name}: a row is too large to be read within 512 MB (${said}). ${smaller}.`);
    }
    if (source.format === "parquet") {
        return new UserError(`${source.name} cannot be read as Parquet (${said}): fetch or write it again.`);
    }
    const record = Number(/CSV Error on Line: (\d+)/.exec(error.message)?.[1]);
    let number = 0;
    let records = 0;
    let recordStart = record;
    let quoted = false;
    for await (const line of lines(source.path)) {
        number++;
        if (!isUtf8(line)) {
            return new UserError(
                `${source.name}: line ${number} is not UTF-8. Save the file as UTF-8, for example with \`iconv -f GB18030 -t UTF-8\`.`,
            );
        }
        if (source.format === "csv") {
            // DuckDB counts records, and one with a line feed in quotes has several lines.
            if (!quoted && ++records === record) recordStart = number;
            if (line.filter((byte) => byte === quote).length % 2 === 1) quoted = !quoted;
        }
        if (source.format !== "lines" || line.length === 0) continue;
        const wrong = wrongWith(line.toString("utf8"));
        if (wrong !== undefined) return new UserError(`${source.name}: line ${number} ${wrong}.`);
    }
    if (source.format === "csv") return new UserError(`${source.name}: ${csvProblem(error.message, recordStart)}.`);
    if (source.format === "array" && (await stat(source.path)).size < longestString) {
        const wrong = wrongElement((await readFile(source.path, "utf8")).replace(/^\uFEFF/, ""));
        if (wrong !== undefined) return new UserError(`${source.name}: ${wrong}.`);
    }
    const twice = /in line (\d+): .* has duplicate key "(.*)"/s.exec(error.message);
    if (twice !== null) {
        return new UserError(`${source.name}: line ${twice[1] ?? ""} has the key "${twice[2] ?? ""}" twice.`);
    }
    return new UserError(`${source.name} cannot be read: ${said}`);
}

async function* lines(file: string): AsyncGenerator<Buffer> {
    const pending: Buffer[] = [];
    for await (const chunk of createReadStream(file, { highWaterMark: 1 << 20 })) {
        let rest = chunk as Buffer;
        for (let end = rest.indexOf(10); end >= 0; end = rest.indexOf(10)) {
            yield Buffer.concat([...pending.splice(0), rest.subarray(0, end)]);
            rest = rest.subarray(end + 1);
        }
        pending.push(rest);
    }
    const last = Buffer.concat(pending);
    if (last.length > 0) yield last;
}

function wrongWith(text: string): string | undefined {
    if (text.trim() === "") return undefined;
    let value: unknown;
    try {
        value = JSON.parse(text);
    } catch (error) {
        return `is not valid JSON: ${(error as Error).message}`;
    }
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
        return `is not a JSON object, but ${Array.isArray(value) ? "an array" : JSON.stringify(value)}`;
    }
    // JSON.parse lets half a character pass, which no UTF-8 file can hold.
    if (/\p{Surrogate}/u.test(Object.values(value).map(String).join(" "))) {
        return "holds half of a surrogate pair (a \\ud800 to \\udfff escape by itself)";
    }
    return undefined;
}

/** Walks over the elements of a JSON array, so that the message can name the one that is broken and its line. */
function wrongElement(text: string): string | undefined {
    let row = 0;
    let at = text.indexOf("[") + 1;
    for (;;) {
        while (/\s/.test(text[at] ?? "")) at++;
        const end = endOfElement(text, at);
        const element = text.slice(at, end);
        row++;
        const where = `row ${row} (line ${text.slice(0, at).split("\n").length})`;
        if (element.trim() === "") return row === 1 && text[end] === "]" ? undefined : `${where} is missing`;
        const wrong = wrongWith(element);
        if (wrong !== undefined) return `${where} ${wrong}`;
        if (text[end] === "]") {
            return text.slice(end + 1).trim() === "" ? undefined : "there is more text after the array's end";
        }
        if (text[end] === undefined) return "the array has no end";
        at = end + 1;
    }
}

/** Where the element that starts at `at` ends: a comma or bracket outside strings and nested values. */
function endOfElement(text: string, at: number): number {
    const token = /"(?:[^"\\]|\\.)*"?|[[\]{},]/gs;
    token.lastIndex = at;
    let depth = 0;
    for (let match = token.exec(text); match !== null; match = token.exec(text)) {
        if (match[0] === "[" || match[0] === "{") depth++;
        else if (depth === 0 && (match[0] === "," || match[0] === "]")) return match.index;
        else if (match[0] === "]" || match[0] === "}") depth--;
    }
    return text.length;
}

function csvProblem(message: string, line: number): string {
    const where = Number.isNaN(line) ? "the file" : `line ${line}`;
    const columns = /Expected Number of Columns: (\d+) Found: (\d+)/.exec(message);
    if (columns !== null) return `${where} has ${columns[2] ?? ""} columns, but the header has ${columns[1] ?? ""}`;
    if (message.includes("unterminated quote")) {
        return `${where} has a quoted value that is not closed, or that is followed by more than a comma or the line's end`;
    }
    return `${where} cannot be read as CSV: ${message.split("\n").slice(0, 3).join(" ")}`;
}
