import * as fs from "node:fs";
import * as path from "node:path";
import { z } from "zod";
import { hubAddress } from "../datasets/sources/huggingface";
import { resolveHubCommit } from "../datasets/sources/source";
import { targetSchema } from "../infra/target";
import { flag, group, holdsUser, integer, jsonObject, NO_USER, text, unknownKey } from "./fields";
import { digestOfFiles, fileDigest, isObject, same, type FileEntry, type JsonObject } from "./identity";
import { llamafactoryRun, modelPackages, versions } from "./llamafactory/job";
import { metric, type Stage } from "./stage";
import { UserError } from "./user-error";

const hubOptions = {
    revision: text("a branch, a tag or a commit").default("main"),
    endpoint: text("an address")
        .refine((given) => !holdsUser(given), NO_USER)
        .optional(),
};

const sources = {
    package: z.object({ package: text("a Python package that ships a GGUF file") }),
    folder: z.object({ folder: text("a folder with config.json, safetensors weights and tokenizer") }),
    huggingface: z.object({ huggingface: text("owner/name of a model on Hugging Face"), ...hubOptions }),
    modelscope: z.object({ modelscope: text("owner/name of a model on ModelScope"), ...hubOptions }),
    random: z.object({ random: group({ seed: integer("a whole number", { from: 0 }) }) }),
};

type Source = { [Name in keyof typeof sources]: z.infer<(typeof sources)[Name]> }[keyof typeof sources];

/** Exactly one of the sources, chosen by its name, so that a mistake inside it is named and not "invalid union". */
const sourceSchema = z.unknown().transform((value, context): Source => {
    const names = Object.keys(sources) as (keyof typeof sources)[];
    const given = typeof value === "object" && value !== null ? Object.keys(value) : [];
    const [name, ...more] = names.filter((one) => given.includes(one));
    if (name === undefined || more.length > 0) {
        const found = name === undefined ? "" : `, got ${[name, ...more].join(" and ")}`;
        context.addIssue(`expected exactly one of ${names.join(", ")}${found}`);
        return z.NEVER;
    }
    const known = Object.keys(sources[name].shape);
    for (const key of given.filter((one) => !known.includes(one))) {
        context.addIssue({ code: "custom", path: [key], message: unknownKey(key, known) });
    }
    const parsed = sources[name].safeParse(value);
    if (!parsed.success) {
        for (const issue of parsed.error.issues) {
            context.addIssue({ code: "custom", path: issue.path, message: issue.message });
        }
        return z.NEVER;
    }
    return parsed.data;
});

/** `retune:model`. */
export const modelSettings = {
    source: sourceSchema,
    template: text("the name of a LLaMA-Factory template"),
    /** For models that can think: whether an answer begins with a thinking block. */
    enableThinking: flag().optional(),
};

const fields = {
    target: targetSchema,
    source: sourceSchema,
    /** What the source is, wherever it comes from: set by `resolve`. */
    content: jsonObject().optional(),
    tools: jsonObject().optional(),
};

type Inputs = z.infer<z.ZodObject<typeof fields>>;

/** What a program gives; the rest is found out. */
export type ModelArgs = Omit<Inputs, "content" | "tools">;

/** The base model: safetensors weights, configuration and tokenizer in one folder, by content. */
export const model: Stage<Inputs> = {
    kind: "Model",
    fields,
    transport: ["target", "source"],
    tools: ({ source }) => ({
        contract: 2,
        // What comes from a hub or a folder is copied; only what is made here depends on the tools that make it.
        ...("package" in source ? versions("transformers", "torch", "gguf") : {}),
        ...("random" in source ? versions("transformers", "torch", "tokenizers") : {}),
    }),

    async resolve({ source }, previous) {
        if ("package" in source) return { content: packageContent(source.package) };
        if ("random" in source) return { content: { random: source.random } };
        if ("folder" in source) return { content: { folder: await folderDigest(source.folder) } };
        const hub = "huggingface" in source ? "huggingface" : "modelscope";
        const repository = "huggingface" in source ? source.huggingface : source.modelscope;
        // Also where nobody is asked for a commit: the job will carry the address, into a file.
        if ("huggingface" in source) hubAddress(source.endpoint);
        const unchanged = same(previous?.source, source);
        const before = unchanged ? previous?.content?.["commit"] : undefined;
        if (typeof before === "string") return { content: { [hub]: repository, commit: before } };
        const { revision, endpoint } = source;
        const commit = await resolveHubCommit({ hub, kind: "model", repo: repository, revision, endpoint });
        return { content: { [hub]: repository, commit } };
    },

    work({ source, content }, key) {
        if ("folder" in source) {
            return {
                on: "client",
                // The artifact is a copy: its digest is that of the folder.
                inPreview: async () => {
                    const files = await modelFiles(source.folder);
                    return { digest: await folderDigest(source.folder), metrics: { files: files.length } };
                },
                async run({ folder, progress }) {
                    progress(`copying ${source.folder}`);
                    const files = await modelFiles(source.folder);
                    for (const file of files) {
                        await fs.promises.copyFile(path.join(source.folder, file), path.join(folder, file));
                    }
                    if ((await folderDigest(source.folder)) !== content?.["folder"]) {
                        throw new UserError(`${source.folder} was changed while it was read: run \`npm run up\` again`);
                    }
                    return { files: files.length };
                },
            };
        }
        return {
            on: "target",
            run: llamafactoryRun({
                key,
                kind: "Model",
                program: "model.py",
                parameters: { source, commit: content?.["commit"] ?? null, endpoint: endpointOf(source) },
                inputs: {},
                produces: ["config.json", "*.safetensors", "tokenizer*.json"],
                hub: "huggingface" in source || "modelscope" in source,
                stays: true,
                threads: 2,
            }),
        };
    },

    facts: (metrics) => ({ files: metric(metrics, "files"), bytes: metric(metrics, "bytes") }),

    declares: ({ source, content }) => ({ origin: originOf(source, content) }),
};

/** The address that the target asks. Like `huggingface-cli`, but the job carries it: a worker outlives its client. */
function endpointOf(source: Source): string | null {
    if ("huggingface" in source) return source.endpoint ?? process.env["HF_ENDPOINT"] ?? null;
    return "modelscope" in source ? (source.endpoint ?? null) : null;
}

/** How a model's origin is named in what is made of it: exactly, but without what is true of one machine only. */
function originOf(source: Source, content: JsonObject | undefined): JsonObject {
    if ("folder" in source) return { folder: path.basename(source.folder) };
    const { sha256: _sha256, ...origin } = content ?? {};
    return origin;
}

function packageContent(name: string): JsonObject {
    const known = modelPackages();
    const pinned = known.get(name);
    if (pinned === undefined) {
        throw new UserError(
            `source.package: ${unknownKey(name, [...known.keys()])} (pipeline/llamafactory/model-packages.lock)`,
        );
    }
    return { package: name, ...pinned };
}

/** The files of a model folder that count; throws where it is not a model that can be trained safely. */
async function modelFiles(folder: string): Promise<string[]> {
    const names = await fs.promises.readdir(folder).catch(() => {
        throw new UserError(`source.folder: there is no folder ${folder}`);
    });
    const wanted = names.filter((name) => /\.(safetensors|json|jinja|txt|model)$|^(LICENSE|README)/.test(name));
    if (!names.includes("config.json")) {
        throw new UserError(`source.folder: ${folder} has no config.json: it is not a transformers model`);
    }
    const config = await parsedJson(folder, "config.json");
    for (const name of wanted.filter((one) => one.endsWith(".json"))) await parsedJson(folder, name);
    if ("auto_map" in config) {
        const why =
            "config.json has an auto_map, so the model needs trust_remote_code, which runs code from its repository";
        throw new UserError(`source.folder: ${folder}: ${why}; choose a model that transformers supports itself`);
    }
    if (!names.some((name) => name.endsWith(".safetensors"))) {
        const pickled = names.filter((name) => /\.(bin|pt|pth|ckpt)$/.test(name));
        const instead =
            pickled.length > 0
                ? `only pickled ones (${pickled.join(", ")}), and loading those runs code: convert the model first`
                : "nor any other: it is not the folder of a model, or its download is not complete";
        throw new UserError(`source.folder: ${folder} has no safetensors weights, ${instead}`);
    }
    for (const name of wanted.filter((one) => one.endsWith(".safetensors"))) await checkSafetensors(folder, name);
    await checkShards(folder, names);
    if (!names.some((name) => /^(tokenizer|vocab)/.test(name))) {
        throw new UserError(`source.folder: ${folder} has no tokenizer files`);
    }
    return wanted.sort();
}

async function folderDigest(folder: string): Promise<string> {
    const files: FileEntry[] = [];
    for (const name of await modelFiles(folder)) {
        files.push({ path: name, size: 0, sha256: await fileDigest(path.join(folder, name)) });
    }
    return digestOfFiles(files);
}

async function parsedJson(folder: string, name: string): Promise<JsonObject> {
    const file = path.join(folder, name);
    const text = await fs.promises.readFile(file, "utf8");
    try {
        const parsed: unknown = JSON.parse(text);
        if (isObject(parsed)) return parsed;
    } catch (error) {
        throw new UserError(`source.folder: ${file} is not JSON: ${(error as Error).message}`);
    }
    throw new UserError(`source.folder: ${file} is not a JSON object`);
}

/** A safetensors file begins with the length of its header, and that is JSON: enough to see a torn download. */
async function checkSafetensors(folder: string, name: string): Promise<void> {
    const file = path.join(folder, name);
    const handle = await fs.promises.open(file);
    try {
        const { size } = await handle.stat();
        const prefix = Buffer.alloc(8);
        await handle.read(prefix, 0, 8, 0);
        const length = Number(prefix.readBigUInt64LE());
        if (size >= 8 && length <= size - 8) {
            const header = Buffer.alloc(length);
            await handle.read(header, 0, length, 8);
            const tensors = JSON.parse(header.toString("utf8")) as Record<string, { data_offsets?: number[] }>;
            const ends = Object.values(tensors).map((tensor) => tensor.data_offsets?.[1] ?? 0);
            if (8 + length + Math.max(0, ...ends) === size) return;
        }
    } catch (error) {
        if (!(error instanceof SyntaxError)) throw error;
    } finally {
        await handle.close();
    }
    throw new UserError(`source.folder: ${file} is not a whole safetensors file`);
}

/** A model in several files has an index of them. */
async function checkShards(folder: string, names: readonly string[]): Promise<void> {
    const index = "model.safetensors.index.json";
    if (!names.includes(index)) return;
    const map = (await parsedJson(folder, index))["weight_map"];
    const files = isObject(map) ? Object.values(map) : [];
    const missing = files.find((file) => typeof file === "string" && !names.includes(file));
    if (typeof missing === "string")
        throw new UserError(`source.folder: ${folder} lacks ${missing}, which ${index} names`);
}
