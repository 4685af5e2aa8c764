import { holdsUser, NO_USER } from "../../pipeline/fields";
import { secretOf } from "../../pipeline/secrets";
import { UserError } from "../../pipeline/user-error";
import type { ResolvedFile } from "./download";
import { requestJson, type Request } from "./request";

export interface HubRepository {
    kind: "model" | "dataset";
    /** `owner/name`. */
    repo: string;
    endpoint: string | undefined;
}

/** Where Hugging Face is: a mirror that is named for it, else the one in the environment, else its own address. */
export function hubAddress(endpoint: string | undefined): string {
    const given = endpoint ?? process.env["HF_ENDPOINT"] ?? "https://huggingface.co";
    if (holdsUser(given)) throw new UserError(`HF_ENDPOINT: ${NO_USER}`);
    return given.replace(/\/+$/, "");
}

/** The request for a part of a repository's API or one of its files. The token goes to the endpoint only, never into a message. */
function ask({ kind, repo, endpoint }: HubRepository, place: string): Request {
    const host = hubAddress(endpoint);
    const token = secretOf("huggingfaceToken");
    const local = kind === "model" ? "folder" : "file";
    return {
        url: `${host}/${place}`,
        headers: token === undefined ? {} : { authorization: `Bearer ${token}` },
        subject: `Hugging Face ${kind} ${repo}`,
        help: {
            denied: "If it is private or gated, accept its terms on the hub and set HF_TOKEN to a token that may read it.",
            unreachable: `Set \`endpoint\` (or HF_ENDPOINT) to a mirror that can be reached, or fetch the ${local} elsewhere and use \`{ ${local}: … }\`.`,
        },
    };
}

/** The commit that a branch, tag or shortened commit stands for, 40 hexadecimal digits. */
export async function huggingFaceCommit(from: HubRepository, revision: string): Promise<string> {
    const wanted = ask(from, `api/${from.kind}s/${from.repo}/revision/${encodeURIComponent(revision)}`);
    const { sha } = (await requestJson(wanted)) as { sha?: unknown };
    if (typeof sha === "string" && /^[0-9a-f]{40}$/.test(sha)) return sha;
    throw new UserError(`${wanted.subject}: ${new URL(wanted.url).host} names no commit for revision ${revision}.`);
}

/** Size and, for large files, SHA-256 of files at a commit. */
export async function huggingFaceFiles(from: HubRepository, commit: string, files: string[]): Promise<ResolvedFile[]> {
    const wanted = ask(from, `api/${from.kind}s/${from.repo}/paths-info/${commit}`);
    const found = (await requestJson({
        ...wanted,
        method: "POST",
        headers: { ...wanted.headers, "content-type": "application/json" },
        body: JSON.stringify({ paths: files }),
    })) as { path: string; type: string; size: number; lfs?: { oid: string } }[];
    return files.map((path) => {
        const info = found.find((entry) => entry.path === path && entry.type === "file");
        if (info === undefined) {
            throw new UserError(
                `${wanted.subject} has no file ${path} at commit ${commit}: check the name under \`files\`.`,
            );
        }
        return { path, size: info.size, ...(info.lfs === undefined ? {} : { sha256: info.lfs.oid }) };
    });
}

export function huggingFaceDownload(from: HubRepository, commit: string, file: string): Request {
    const folder = from.kind === "dataset" ? "datasets/" : "";
    return ask(from, `${folder}${from.repo}/resolve/${commit}/${file.split("/").map(encodeURIComponent).join("/")}`);
}
