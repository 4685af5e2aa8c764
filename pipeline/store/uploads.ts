import * as fs from "node:fs";
import * as path from "node:path";
import { parseJson } from "../identity";
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
    await writeJson(path.join(uploadsFolder(home), `${upload.key}.json`), upload);
}

/** Of a result that has arrived. */
export async function dropUpload(home: string, key: string): Promise<void> {
    await fs.promises.rm(path.join(uploadsFolder(home), `${key}.json`), { force: true });
}

function uploadsFolder(home: string): string {
    return path.join(home, "uploads");
}
