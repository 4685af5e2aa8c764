import * as fs from "node:fs";
import * as path from "node:path";
import { parseJson, sha256 } from "../identity";
import { writeJson } from "./store";

/** A result that its mirror does not have yet, because it could not be reached. */
export interface Upload {
    readonly key: string;
    readonly remote: string;
}

/** What is to be sent, one file each, below RETUNE_HOME: whoever updates any stack next sends it. */
export function pendingUploads(home: string): Upload[] {
    const folder = uploadsFolder(home);
    const files = fs.existsSync(folder) ? fs.readdirSync(folder).filter((name) => name.endsWith(".json")) : [];
    return files.flatMap((file) => {
        const { key, remote } = parseJson(fs.readFileSync(path.join(folder, file), "utf8")) ?? {};
        return typeof key === "string" && typeof remote === "string" ? { key, remote } : [];
    });
}

export async function noteUpload(home: string, upload: Upload): Promise<void> {
    await fs.promises.mkdir(uploadsFolder(home), { recursive: true });
    await writeJson(uploadFile(home, upload), upload);
}

/** Of a result that has arrived. */
export async function dropUpload(home: string, upload: Upload): Promise<void> {
    await fs.promises.rm(uploadFile(home, upload), { force: true });
}

function uploadFile(home: string, { key, remote }: Upload): string {
    return path.join(uploadsFolder(home), `${key}-${sha256(remote).slice(0, 8)}.json`);
}

function uploadsFolder(home: string): string {
    return path.join(home, "uploads");
}
