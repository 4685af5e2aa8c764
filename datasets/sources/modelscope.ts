import { UserError } from "../../pipeline/user-error";
import type { ResolvedFile } from "./download";
import type { HubRepository } from "./huggingface";
import { requestJson, type Request } from "./request";

function ask({ kind, repo, endpoint }: HubRepository, place: string, parameters: Record<string, string>): Request {
    const host = (endpoint ?? "https://modelscope.cn").replace(/\/+$/, "");
    const local = kind === "model" ? "folder" : "file";
    return {
        url: `${host}/api/v1/${kind}s/${repo}/${place}?${new URLSearchParams(parameters).toString()}`,
        subject: `ModelScope ${kind} ${repo}`,
        help: {
            denied: `Private repositories of ModelScope are not supported: fetch the ${local} and use \`{ ${local}: … }\`.`,
            unreachable: `Set \`endpoint\` to a host that can be reached, or fetch the ${local} elsewhere and use \`{ ${local}: … }\`.`,
        },
    };
}

/** ModelScope answers 200 with a code of its own for some failures. */
async function data(wanted: Request): Promise<Record<string, unknown>> {
    const answer = (await requestJson(wanted)) as { Code?: number; Message?: string; Data?: unknown };
    if (answer.Code === 200 && typeof answer.Data === "object" && answer.Data !== null) {
        return answer.Data as Record<string, unknown>;
    }
    const said = answer.Message ?? `code ${answer.Code ?? "missing"}`;
    throw new UserError(
        `${wanted.subject}: ${new URL(wanted.url).host} answered "${said}". Check its name and revision.`,
    );
}

/** The commit that a branch, tag or shortened commit stands for, 40 hexadecimal digits. */
export async function modelScopeCommit(from: HubRepository, revision: string): Promise<string> {
    const wanted = ask(from, "commits", { Ref: revision, PageNumber: "1", PageSize: "1" });
    const commits = (await data(wanted))["Commit"] as { Id?: unknown }[] | null | undefined;
    const id = commits?.[0]?.Id;
    if (typeof id === "string" && /^[0-9a-f]{40}$/.test(id)) return id;
    throw new UserError(`${wanted.subject}: ${new URL(wanted.url).host} names no commit for revision ${revision}.`);
}

const pageSize = 100;

/** Size and SHA-256 of files of a data set at a commit. */
export async function modelScopeFiles(from: HubRepository, commit: string, files: string[]): Promise<ResolvedFile[]> {
    const found = new Map<string, ResolvedFile>();
    for (let page = 1; ; page++) {
        const wanted = ask(from, "repo/tree", {
            Revision: commit,
            Root: "/",
            Recursive: "True",
            PageNumber: String(page),
            PageSize: String(pageSize),
        });
        const listed = (await data(wanted))["Files"] as { Path: string; Size?: number; Sha256?: string }[] | null;
        const before = found.size;
        for (const { Path, Size, Sha256 } of listed ?? []) {
            found.set(Path, {
                path: Path,
                ...(Size === undefined ? {} : { size: Size }),
                ...(Sha256 === undefined || Sha256 === "" ? {} : { sha256: Sha256 }),
            });
        }
        // A server that knows no pages answers the same list again.
        if ((listed?.length ?? 0) < pageSize || found.size === before || files.every((file) => found.has(file))) break;
    }
    return files.map((file) => {
        const info = found.get(file);
        if (info !== undefined) return info;
        throw new UserError(
            `ModelScope ${from.kind} ${from.repo} has no file ${file} at commit ${commit}: check the name under \`files\`.`,
        );
    });
}

export function modelScopeDownload(from: HubRepository, commit: string, file: string): Request {
    return ask(from, "repo", { Revision: commit, FilePath: file });
}
