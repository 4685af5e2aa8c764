import path from "node:path";
import { z } from "zod";
import { group, holdsUser, NO_USER } from "../../pipeline/fields";
import { UserError } from "../../pipeline/user-error";
import { download, type Progress, type ResolvedFile } from "./download";
import { huggingFaceCommit, huggingFaceDownload, huggingFaceFiles, type HubRepository } from "./huggingface";
import { modelScopeCommit, modelScopeDownload, modelScopeFiles } from "./modelscope";
import { urlDownload, urlName } from "./url";

export type { Progress, ResolvedFile } from "./download";

const commitPattern = /^[0-9a-f]{40}$/;

const repo = z.string().regex(/^[\w.-]+\/[\w.-]+$/, "expected owner/name");
const httpUrl = z
    .url({ protocol: /^https?$/, error: "expected a URL that begins with https:// or http://", abort: true })
    .refine((given) => !holdsUser(given), NO_USER);
const files = z
    .array(
        z
            .string()
            .regex(/^(?!\/)(?!(?:.*\/)?\.\.?(?:\/|$))[^\\\0]+$/, "expected the path of a file inside the repository"),
    )
    .min(1, "expected at least one file");

const variants = {
    file: group({ file: z.string().min(1) }),
    url: group({
        url: httpUrl,
        sha256: z.string().regex(/^[0-9a-fA-F]{64}$/, "expected 64 hexadecimal digits, as sha256sum prints them"),
    }),
    huggingface: group({
        huggingface: repo,
        revision: z.string().min(1).default("main"),
        files,
        endpoint: httpUrl.optional(),
    }),
    modelscope: group({
        modelscope: repo,
        revision: z.string().min(1).default("master"),
        files,
        endpoint: httpUrl.optional(),
    }),
};

export type Source = { [Kind in keyof typeof variants]: z.output<(typeof variants)[Kind]> }[keyof typeof variants];

const kinds = Object.keys(variants) as (keyof typeof variants)[];

/** Where the rows come from: exactly one of `file`, `url`, `huggingface` and `modelscope` says how to read the rest. */
export const sourceSchema = z.unknown().transform((value, context): Source => {
    const given = typeof value === "object" && value !== null ? kinds.filter((kind) => kind in value) : [];
    const [kind] = given;
    if (kind === undefined || given.length > 1) {
        const found = given.length === 0 ? "none of them" : given.join(" and ");
        context.addIssue({ code: "custom", message: `expected exactly one of ${kinds.join(", ")}; found ${found}` });
        return z.NEVER;
    }
    const parsed = variants[kind].safeParse(value);
    if (parsed.success) return parsed.data;
    // Copied as they are, paths included: a union's own report would list what is wrong with all four.
    for (const issue of parsed.error.issues) context.issues.push({ ...issue, input: value } as z.core.$ZodRawIssue);
    return z.NEVER;
});

export interface ResolvedSource {
    /** 40 hexadecimal digits; only hubs have one. */
    commit?: string;
    files: ResolvedFile[];
}

/**
 * Finds out which bytes a source means right now.
 *
 * @throws UserError when the hub cannot be reached, or has no such repository, revision or file.
 */
export async function resolveSource(source: Source): Promise<ResolvedSource> {
    if ("file" in source) return { files: [{ path: source.file }] };
    if ("url" in source) return { files: [{ path: urlName(source.url), sha256: source.sha256.toLowerCase() }] };
    const commit = await resolveHubCommit({
        hub: "huggingface" in source ? "huggingface" : "modelscope",
        kind: "dataset",
        repo: "huggingface" in source ? source.huggingface : source.modelscope,
        revision: source.revision,
        endpoint: source.endpoint,
    });
    const list = "huggingface" in source ? huggingFaceFiles : modelScopeFiles;
    return { commit, files: await list(repositoryOf(source), commit, source.files) };
}

/**
 * Brings the files of a source onto this machine; a local file stays where it is.
 *
 * @param folder created when missing. It should be of one source and commit only.
 * @returns local paths, in the order of `resolved.files`.
 * @throws UserError see {@link download}.
 */
export async function downloadSource(
    source: Source,
    resolved: ResolvedSource,
    folder: string,
    onProgress: (progress: Progress) => void = () => undefined,
): Promise<string[]> {
    if ("file" in source) return [source.file];
    const local: string[] = [];
    for (const file of resolved.files) {
        const target = path.join(folder, file.path);
        await download(requestFor(source, resolved, file), file, target, onProgress);
        local.push(target);
    }
    return local;
}

function requestFor(source: Exclude<Source, { file: string }>, resolved: ResolvedSource, file: ResolvedFile) {
    if ("url" in source) return urlDownload(source.url);
    if (resolved.commit === undefined) throw new UserError("a source on a hub needs a commit");
    const place = "huggingface" in source ? huggingFaceDownload : modelScopeDownload;
    return place(repositoryOf(source), resolved.commit, file.path);
}

function repositoryOf(source: Extract<Source, { revision: string }>): HubRepository {
    const repo = "huggingface" in source ? source.huggingface : source.modelscope;
    return { kind: "dataset", repo, endpoint: source.endpoint };
}

/**
 * The commit that a revision of a model or data set stands for. A commit stands for itself, without a request.
 *
 * @param wanted `endpoint` undefined: HF_ENDPOINT, or the hub's own.
 * @returns 40 hexadecimal digits.
 * @throws UserError when the hub cannot be reached, or has no such repository or revision.
 */
export async function resolveHubCommit(wanted: {
    hub: "huggingface" | "modelscope";
    kind: "model" | "dataset";
    repo: string;
    revision: string;
    endpoint?: string | undefined;
}): Promise<string> {
    if (commitPattern.test(wanted.revision)) return wanted.revision;
    const from: HubRepository = { kind: wanted.kind, repo: wanted.repo, endpoint: wanted.endpoint };
    return wanted.hub === "huggingface"
        ? await huggingFaceCommit(from, wanted.revision)
        : await modelScopeCommit(from, wanted.revision);
}
