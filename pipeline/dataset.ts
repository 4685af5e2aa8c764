import * as fs from "node:fs";
import * as path from "node:path";
import { z } from "zod";
import { foundIn, qualitySchema, type Quality } from "../datasets/quality";
import { recipeReferenceSchema } from "../datasets/recipe";
import {
    downloadSource,
    resolveSource,
    sourceSchema,
    type ResolvedSource,
    type Source,
} from "../datasets/sources/source";
import { cache } from "../scripts/locations.cjs";
import { group, integer, jsonObject, number, oneOf, text } from "./fields";
import { fileDigest, isObject, same, sha256, type JsonObject } from "./identity";
import { metric, type Stage } from "./stage";
import { UserError } from "./user-error";

/** `retune:dataset`. */
export const datasetSettings = {
    recipe: recipeReferenceSchema,
    source: sourceSchema,
    /** Under which the rows may be used, such as `apache-2.0`: for the manifest and the card of what is made of them. */
    licence: text("the name of a licence, such as apache-2.0").optional(),
    /** Rows that are kept, not rows that are read. */
    limit: integer("a whole number from 1", { from: 1 }).default(5000),
    /** Shares of the kept rows; the same question is never in two of them, nor a similar one where `together` says so. */
    split: group({
        validation: number("a number from 0 to 0.5", { from: 0, to: 0.5 }).default(0.1),
        test: number("a number from 0 to 0.5", { from: 0, to: 0.5 }).default(0.05),
        seed: integer("a whole number from 0", { from: 0 }).default(42),
        together: oneOf(["same", "similar"]).default("same"),
    }).prefault({}),
    quality: qualitySchema,
};

const fields = {
    ...datasetSettings,
    /** Tokens of a row in training, where `quality` wants to know which rows are longer. */
    cutoffLength: integer("a whole number from 16", { from: 16 }).optional(),
    /** The source by content (files) or by commit (hubs), and what is needed to fetch it: set by `resolve`. */
    content: jsonObject().optional(),
    resolved: z.custom<ResolvedSource>(isObject).optional(),
    tools: jsonObject().optional(),
};

type Inputs = z.infer<z.ZodObject<typeof fields>>;

/** What a program gives; the rest is found out. */
export type DatasetArgs = Omit<Inputs, "content" | "resolved" | "tools">;

/** Rows of any source in Alpaca form: train.jsonl, validation.jsonl, test.jsonl. Made in the client, before any machine. */
export const dataset: Stage<Inputs> = {
    kind: "Dataset",
    fields,
    transport: ["source", "resolved", "licence"],
    tools: () => ({ contract: 3 }),

    async resolve({ source }, previous) {
        if ("file" in source) return { content: { files: [await digestOrExplain(source.file)] } };
        // What a branch stood for stays until the source is changed: looking again at every update would need the hub.
        const unchanged = same(previous?.source, source);
        const known = unchanged ? previous?.resolved : undefined;
        const resolved = known ?? (await resolveSource(source));
        return { resolved: resolved as unknown as JsonObject, content: contentOf(source, resolved) };
    },

    work({ recipe, source, limit, split, quality, cutoffLength, resolved }) {
        return {
            on: "client",
            inPreview: "file" in source ? "run" : "unknown",
            async run({ folder, progress }) {
                const { convert } = await import("../datasets/convert");
                const fetched = resolved ?? (await resolveSource(source));
                const downloads = path.join(
                    cache(),
                    "downloads",
                    sha256(JSON.stringify([source, fetched])).slice(0, 16),
                );
                const files = await downloadSource(source, fetched, downloads, ({ path: file, received, total }) => {
                    const of = total === undefined ? "" : ` of ${megabytes(total)}`;
                    progress(`downloading ${file}: ${megabytes(received)}${of}`);
                });
                progress("converting");
                const standards = { limits: quality, cutoffLength };
                const conversion = await convert({ files, recipe, limit, split, quality: standards, into: folder });
                return { ...conversion };
            },
        };
    },

    facts: (metrics) => ({
        scanned: metric(metrics, "scanned"),
        kept: metric(metrics, "kept"),
        dropped: metric(metrics, "dropped"),
        rows: metric(metrics, "rows"),
        found: metrics["quality"] === undefined ? {} : foundIn(metrics["quality"] as unknown as Quality),
    }),

    declares: ({ content, resolved }) => ({
        origin: { ...content, ...(resolved?.commit === undefined ? {} : { commit: resolved.commit }) },
    }),
};

async function digestOrExplain(file: string): Promise<string> {
    const stat = await fs.promises.stat(file).catch(() => undefined);
    if (stat === undefined) throw new UserError(`source.file: there is no file ${file}`);
    if (!stat.isFile()) throw new UserError(`source.file: ${file} is not a file`);
    return fileDigest(file);
}

/** Digests where they are known, so that the same bytes from any mirror are the same data; else the commit. */
function contentOf(source: Source, resolved: ResolvedSource): JsonObject {
    const digests = resolved.files.map((file) => file.sha256);
    if (digests.every((digest) => digest !== undefined)) return { files: digests };
    const repository = "huggingface" in source ? source.huggingface : "modelscope" in source ? source.modelscope : null;
    return { repository, commit: resolved.commit ?? null, files: resolved.files.map((file) => file.path) };
}

function megabytes(bytes: number): string {
    return `${(bytes / 1e6).toFixed(1)} MB`;
}
