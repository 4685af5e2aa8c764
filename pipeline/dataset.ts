import * as path from "node:path";
import { z } from "zod";
import { recipeSchema } from "../datasets/recipe";
import { sourceSchema } from "../datasets/sources/source";
import { cache } from "../scripts/locations.cjs";
import { group, integer, jsonObject, number } from "./fields";
import { fileDigest, sha256 } from "./identity";
import { metric, type Stage } from "./stage";

/** `retune:dataset`. */
export const datasetSettings = {
    recipe: recipeSchema,
    source: sourceSchema,
    /** Rows that are kept, not rows that are read. */
    limit: integer("a whole number from 1", { from: 1 }).default(5000),
    /** Shares of the kept rows; the same question is never in two of them. */
    split: group({
        validation: number("a number from 0 to 0.5", { from: 0, to: 0.5 }).default(0.1),
        test: number("a number from 0 to 0.5", { from: 0, to: 0.5 }).default(0.05),
        seed: integer("a whole number from 0", { from: 0 }).default(42),
    }).prefault({}),
};

const fields = {
    ...datasetSettings,
    /** The source by content (files) or by commit (hubs), and what is needed to fetch it: set by `resolve`. */
    content: jsonObject().optional(),
    resolved: jsonObject().optional(),
    tools: jsonObject().optional(),
};

type Inputs = z.infer<z.ZodObject<typeof fields>>;

/** What a program gives; the rest is found out. */
export type DatasetArgs = Omit<Inputs, "content" | "resolved" | "tools">;

/** Rows of any source in Alpaca form: train.jsonl, validation.jsonl, test.jsonl. Made in the client, before any machine. */
export const dataset: Stage<Inputs> = {
    kind: "Dataset",
    fields,
    transport: ["source", "resolved"],
    tools: () => ({ contract: 1 }),

    async resolve({ source }, previous) {
        if ("file" in source) return { content: { files: [await fileDigest(source.file)] } };
        const { resolveSource } = await import("../datasets/sources/source");
        const unchanged = JSON.stringify(previous?.source) === JSON.stringify(source);
        const resolved = unchanged && previous?.resolved ? previous.resolved : await resolveSource(source);
        return { resolved };
    },

    work({ recipe, source, limit, split, resolved }) {
        return {
            on: "client",
            inPreview: "file" in source,
            async run({ folder, progress }) {
                const { downloadSource } = await import("../datasets/sources/source");
                const { convert } = await import("../datasets/convert");
                const downloads = path.join(cache(), "downloads", sha256(JSON.stringify(resolved)).slice(0, 16));
                const files = await downloadSource(source, resolved, downloads, progress);
                const conversion = await convert({ files, recipe, limit, split, into: folder });
                return { ...conversion };
            },
        };
    },

    facts: (metrics) => ({
        scanned: metric(metrics, "scanned"),
        kept: metric(metrics, "kept"),
        dropped: metric(metrics, "dropped"),
        rows: metric(metrics, "rows"),
    }),
};
