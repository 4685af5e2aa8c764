import * as crypto from "node:crypto";
import * as fs from "node:fs";
import * as path from "node:path";
import canonicalize from "canonicalize";
import { cache } from "../scripts/locations.cjs";

export type Json = string | number | boolean | null | readonly Json[] | JsonObject;
/** A field that is undefined is as good as absent: neither canonical JSON nor Pulumi's wire format has it. */
export interface JsonObject {
    readonly [name: string]: Json | undefined;
}

/** What Pulumi hands over in a preview for a value that is not known yet, at any depth. */
export const UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9";

/** SHA-256 in hex. */
export function sha256(content: string | Buffer): string {
    return crypto.createHash("sha256").update(content).digest("hex");
}

/**
 * The key of a run: SHA-256 of the canonical JSON (RFC 8785) of everything that can change its result. Inputs are in
 * it as digests of their content, so that a new way to the same content reruns nothing.
 */
export function keyOf(kind: string, identity: JsonObject): string {
    return sha256(canonicalize({ kind, ...identity }) ?? "");
}

/** Whether two values are the same, whatever the order of the fields in them: the engine keeps its own. */
export function same(a: Json | undefined, b: Json | undefined): boolean {
    return canonicalize(a) === canonicalize(b);
}

/** The leaves of an object by their dotted path, as people write it in `pulumi config set --path`. */
export function leaves(value: JsonObject): Map<string, Json> {
    const found = new Map<string, Json>();
    const visit = (name: string, one: Json | undefined): void => {
        if (one === undefined) return;
        if (isObject(one) && Object.keys(one).length > 0) {
            for (const [key, below] of Object.entries(one)) visit(name === "" ? key : `${name}.${key}`, below);
        } else {
            found.set(name, one);
        }
    };
    for (const [key, below] of Object.entries(value)) visit(key, below);
    return found;
}

export function isObject(value: unknown): value is JsonObject {
    return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The object in a text; undefined where it is something else, as after an edit by hand. */
export function parseJson(text: string): JsonObject | undefined {
    try {
        const value: unknown = JSON.parse(text);
        return isObject(value) ? value : undefined;
    } catch {
        return undefined;
    }
}

/** The object that a file holds; undefined where it is gone, as another client may have taken it away, or torn. */
export function objectIn(file: string): JsonObject | undefined {
    try {
        return parseJson(fs.readFileSync(file, "utf8"));
    } catch {
        return undefined;
    }
}

/** Whether a value holds something that is known only after another stage has run. */
export function hasUnknown(value: unknown): boolean {
    if (Array.isArray(value)) return value.some(hasUnknown);
    if (isObject(value)) return Object.values(value).some(hasUnknown);
    return value === UNKNOWN;
}

/** One file of an artifact: path relative to the artifact's folder, size in bytes, SHA-256 in hex. */
export interface FileEntry {
    readonly path: string;
    readonly size: number;
    readonly sha256: string;
}

/**
 * The digest of a folder: SHA-256 of its listing as `sha256sum` prints it, sorted by the bytes of the paths. So anybody
 * can check it with two commands, and names, contents and nothing else decide.
 */
export function digestOfFiles(files: readonly FileEntry[]): string {
    const sorted = [...files].sort((a, b) => Buffer.compare(Buffer.from(a.path), Buffer.from(b.path)));
    return sha256(sorted.map((file) => `${file.sha256}  ${file.path}\n`).join(""));
}

/** All files below a folder with their digests. Links are followed, because an artifact must hold its content. */
export async function listFiles(folder: string): Promise<FileEntry[]> {
    const files: FileEntry[] = [];
    const visit = async (relative: string): Promise<void> => {
        for (const name of await fs.promises.readdir(path.join(folder, relative))) {
            const one = path.posix.join(relative, name);
            const stat = await fs.promises.stat(path.join(folder, one));
            if (stat.isDirectory()) await visit(one);
            else files.push({ path: one, size: stat.size, sha256: await fileDigest(path.join(folder, one)) });
        }
    };
    await visit("");
    return files.sort((a, b) => Buffer.compare(Buffer.from(a.path), Buffer.from(b.path)));
}

/**
 * SHA-256 of a file. A file whose device, inode, size and times are as they were when it was last hashed is not read
 * again: a check of a 140 MB data set then takes a stat. Times are compared to the nanosecond, and a file that was
 * changed within the two seconds before it was hashed is not remembered, because it could change again unseen.
 */
export async function fileDigest(file: string): Promise<string> {
    const stat = await fs.promises.stat(file, { bigint: true });
    const settled = Date.now() - Number(stat.ctimeNs / 1_000_000n) > 2000;
    const fingerprint = [stat.dev, stat.ino, stat.size, stat.mtimeNs, stat.ctimeNs].join(":");
    const memory = path.join(cache(), "digests", sha256(path.resolve(file)).slice(0, 32));
    const remembered = await fs.promises.readFile(memory, "utf8").catch(() => "");
    const [known, digest] = remembered.split(" ");
    if (known === fingerprint && digest !== undefined) return digest;

    const hash = crypto.createHash("sha256");
    for await (const block of fs.createReadStream(file, { highWaterMark: 1 << 20 })) hash.update(block as Buffer);
    const fresh = hash.digest("hex");
    if (settled) await remember(memory, `${fingerprint} ${fresh}`);
    return fresh;
}

/** Where that fails, as on a full disk, the file is hashed again the next time. */
async function remember(memory: string, text: string): Promise<void> {
    const temporary = temporaryName(memory);
    try {
        await fs.promises.mkdir(path.dirname(memory), { recursive: true });
        await fs.promises.writeFile(temporary, text);
        await fs.promises.rename(temporary, memory);
    } catch {
        await fs.promises.rm(temporary, { force: true }).catch(() => undefined);
    }
}

let temporaries = 0;

/** A name beside a file that nobody else uses, not even this process: stages work side by side. */
export function temporaryName(file: string): string {
    temporaries += 1;
    return `${file}.${process.pid}.${temporaries}`;
}
