import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, open, rename, rm, stat } from "node:fs/promises";
import path from "node:path";
import { pipeline } from "node:stream/promises";
import { setTimeout as delay } from "node:timers/promises";
import { UserError } from "../../pipeline/user-error";
import { attempts, pause, request, unreachable, type Request } from "./request";

export interface ResolvedFile {
    /** Relative to the repository, or the name that a URL ends with. */
    path: string;
    /** Bytes. */
    size?: number;
    /** Hexadecimal. */
    sha256?: string;
}

export interface Progress {
    path: string;
    /** Bytes that are here, those of an earlier attempt included. */
    received: number;
    total: number | undefined;
}

/**
 * Downloads one file to `target`, which appears only complete and verified. A file that is there already is not fetched
 * again; what an interrupted download left is continued where the server can, if a digest will tell that it fits.
 *
 * @throws UserError when the host refuses or cannot be reached, when the bytes are not the expected ones, or when the disk is full.
 */
export async function download(
    from: Request,
    file: ResolvedFile,
    target: string,
    onProgress: (progress: Progress) => void,
): Promise<void> {
    if ((await mismatch(target, file)) === undefined) return;
    const partial = `${target}.partial`;
    try {
        await mkdir(path.dirname(target), { recursive: true });
        if (file.sha256 === undefined) await rm(partial, { force: true });
        const continued = (await sizeOf(partial)) > 0;
        await fetchInto(partial, from, file, onProgress);
        let wrong = await mismatch(partial, file);
        if (wrong !== undefined && continued) {
            // The rest may be of another version than the beginning.
            await rm(partial, { force: true });
            await fetchInto(partial, from, file, onProgress);
            wrong = await mismatch(partial, file);
        }
        if (wrong !== undefined) {
            await rm(partial, { force: true });
            throw new UserError(
                `${from.subject}: ${file.path} from ${new URL(from.url).host} is not the expected file: ${wrong}. ` +
                    "The server may have another version, or something on the way altered it.",
            );
        }
        await rename(partial, target);
    } catch (error) {
        if ((error as NodeJS.ErrnoException).code === "ENOSPC") {
            throw new UserError(`No space is left on the disk of ${path.dirname(target)} for ${file.path}: free some.`);
        }
        throw error;
    }
}

async function sizeOf(file: string): Promise<number> {
    return (await stat(file).catch(() => undefined))?.size ?? 0;
}

/** What is wrong with the file at `place`; undefined when it is the expected one. */
async function mismatch(place: string, { size, sha256 }: ResolvedFile): Promise<string | undefined> {
    const status = await stat(place).catch(() => undefined);
    if (status === undefined) return "it is missing";
    if (size !== undefined && status.size !== size) return `expected ${size} bytes, got ${status.size}`;
    if (sha256 === undefined) return undefined;
    const digest = createHash("sha256");
    await pipeline(createReadStream(place, { highWaterMark: 1 << 20 }), digest);
    const got = digest.digest("hex");
    return got === sha256.toLowerCase() ? undefined : `expected SHA-256 ${sha256.toLowerCase()}, got ${got}`;
}

async function fetchInto(
    partial: string,
    from: Request,
    file: ResolvedFile,
    onProgress: (progress: Progress) => void,
): Promise<void> {
    const handle = await open(partial, "a");
    try {
        let version: string | null = null;
        for (let attempt = 1; ; attempt++) {
            let received = (await handle.stat()).size;
            // An earlier process may have been stopped between the last byte and the verification.
            if (received > 0 && received === file.size) return;
            const headers: Record<string, string> = { ...from.headers };
            if (received > 0) headers["range"] = `bytes=${received}-`;
            if (received > 0 && version !== null) headers["if-range"] = version;
            const response = await request({ ...from, headers }, [416]);
            const length = Number(response.headers.get("content-length") ?? Number.NaN);
            if (response.status !== 206) {
                await handle.truncate(0);
                received = 0;
            }
            if (response.status === 416) {
                await response.body?.cancel();
                if (attempt === attempts) throw unreachable(from, undefined);
                continue;
            }
            version = strong(response.headers.get("etag"));
            const total = file.size ?? (Number.isNaN(length) ? undefined : received + length);
            const start = received;
            try {
                for await (const chunk of response.body ?? []) {
                    await handle.appendFile(chunk as Uint8Array);
                    received += (chunk as Uint8Array).length;
                    onProgress({ path: file.path, received, total });
                }
                return;
            } catch (error) {
                if (isFileError(error)) throw error;
                // A connection that is cut again and again still gets there, as long as each brings something.
                if (received > start) attempt = 1;
                if (attempt === attempts) throw unreachable(from, error);
                await delay(pause(attempt));
            }
        }
    } finally {
        await handle.close();
    }
}

function isFileError(error: unknown): boolean {
    return error instanceof Error && "syscall" in error && error.syscall === "write";
}

/** Only a strong validator may stand in `If-Range`. */
function strong(etag: string | null): string | null {
    return etag?.startsWith("W/") === true ? null : etag;
}
