import * as crypto from "node:crypto";
import * as path from "node:path";
import canonicalize from "canonicalize";
import { isObject, type Json, type JsonObject } from "../../pipeline/identity";
import { STAGES, tinyConfiguration, type Rig, type StageName } from "./rig";

/*
 * What random edits change, and this test's own account of what each of them means for every stage: nothing here asks
 * the product, so that the two can be compared.
 */

/** A stack's description in the terms in which it is edited. */
export interface Description {
    /** How the rows are stored: none of it is in a model. */
    readonly file: string;
    readonly format: "jsonl" | "json" | "csv";
    readonly spelling: "numbers" | "texts";
    readonly mirror: boolean;
    readonly recipe: "named" | "written out" | "renamed" | "instructed";
    /** A variant of the last row's answer. */
    readonly row: number;
    readonly limit: number;
    readonly splitSeed: number;
    readonly model: ModelChoice;
    readonly enableThinking: boolean | null;
    readonly training: JsonObject;
    readonly evaluation: JsonObject;
}

type ModelChoice = { readonly seed: number } | { readonly folder: string; readonly tokenizer: number };

export const FIRST: Description = {
    ...{ file: "rows", format: "jsonl", spelling: "numbers", mirror: false, recipe: "named" },
    ...{ row: 0, limit: 5000, splitSeed: 42, model: { seed: 1 }, enableThinking: false, training: {}, evaluation: {} },
};

/** One edit: the values that a field may take. Few, so that a random walk comes back to where it was. */
export const EDITS = {
    file: ["rows", "renamed"],
    format: ["jsonl", "json", "csv"],
    spelling: ["numbers", "texts"],
    mirror: [false, true],
    recipe: ["named", "written out", "renamed", "instructed"],
    row: [0, 1],
    limit: [5000, 4000, 20],
    splitSeed: [42, 7],
    model: [
        { seed: 1 },
        { seed: 2 },
        { folder: "base", tokenizer: 1 },
        { folder: "base", tokenizer: 2 },
        { folder: "moved", tokenizer: 1 },
    ],
    enableThinking: [false, true, null],
    training: [
        {},
        { learningRate: 0.001 },
        { batchSize: 1, gradientAccumulation: 2 },
        { gradientAccumulation: 4 },
        { batchSize: 4 },
        { seed: 7 },
        { loraRank: 8 },
        { precision: "bf16" },
        { cutoffLength: 64 },
        { threads: 1 },
        { epochs: 2, maxSteps: null },
        { maxSamples: 10 },
        { llamafactory: { lora_dropout: 0.05 } },
        { llamafactory: { lora_dropout: 0.1, weight_decay: 0.01 } },
    ],
    evaluation: [{}, { maxNewTokens: 4 }, { answeredRows: 1 }, { batchSize: 2 }, { prompts: ["感冒了应该怎么办？"] }],
} as const satisfies { readonly [Name in keyof Description]: readonly Description[Name][] };

/** What of a description can alter the model: two descriptions with the same answer must not train twice. */
export function ofTheModel({ recipe, row, limit, splitSeed, model, enableThinking, training }: Description): string {
    const base = "seed" in model ? model : { tokenizer: model.tokenizer };
    return canonical({ rows: rowsOf({ recipe, row, limit, splitSeed }), base, enableThinking, training });
}

function rowsOf({ recipe, row, limit, splitSeed }: Pick<Description, "recipe" | "row" | "limit" | "splitSeed">) {
    // Of 40 rows 38 are kept; a lower limit keeps the first ones, and not the last, which has the variants.
    const kept = Math.min(limit, 38);
    return { instructed: recipe === "instructed", row: kept < 38 ? 0 : row, limit: kept, splitSeed };
}

const NOTICE = "A demonstration, not medical advice: answers can be wrong. With a complaint, see a doctor.";
const RECIPE = {
    name: "huatuo-lite",
    notice: NOTICE,
    language: "zh",
    instruction: { constant: "请根据患者的问题给出建议" },
    columns: { input: "question", output: "answer" },
    require: ["label", "question", "answer"],
};
const RECIPE_DEFAULTS = { where: [], lineEndings: "lf", unicode: "none", trim: false, deduplicate: false };
const TRAINING_DEFAULTS = { method: "lora", epochs: 3, maxSamples: 100_000, seed: 42, llamafactory: {} };

function recipeOf({ recipe }: Description): JsonObject {
    if (recipe === "renamed") return { ...RECIPE, name: "another" };
    if (recipe === "instructed") return { ...RECIPE, instruction: { constant: "Give advice." } };
    return RECIPE;
}

/** Writes the description into the rig's project, as a person would. */
export function write(rig: Rig, description: Description): void {
    const { file, format, spelling, mirror, recipe, limit, splitSeed, model, enableThinking } = description;
    rig.write(`${file}.${format}`, contentOf(rig, description));
    if ("folder" in model) writeModel(rig, model.folder, model.tokenizer);
    const tiny = tinyConfiguration as Record<keyof typeof tinyConfiguration, JsonObject>;
    const reversed = Object.fromEntries(Object.entries(recipeOf(description)).reverse());
    rig.configure({
        target: mirror ? { mirror: path.join(rig.folder, "mirror") } : {},
        model: { source: "seed" in model ? { random: model } : { folder: model.folder }, enableThinking },
        dataset: {
            recipe: recipe === "named" ? "huatuo-lite" : reversed,
            source: { file: `${file}.${format}` },
            limit,
            split: { seed: splitSeed },
        },
        training: spelled({ ...tiny["training"], ...description.training }, spelling),
        evaluation: description.evaluation,
    });
}

/** `pulumi config set` stores numbers as texts. */
function spelled(values: JsonObject, spelling: Description["spelling"]): JsonObject {
    const texts = Object.entries(values).map(([name, one]) => [name, typeof one === "number" ? String(one) : one]);
    return spelling === "numbers" ? values : (Object.fromEntries(texts) as JsonObject);
}

/** A folder that passes for a model. */
export function writeModel(rig: Rig, folder: string, tokenizer: number): void {
    for (const [name, content] of modelFiles(tokenizer)) rig.write(path.join(folder, name), content);
}

function modelFiles(tokenizer: number): [string, string | Buffer][] {
    return [
        ["config.json", "{}"],
        // The least that is a safetensors file: the length of a header, and the header of no tensors.
        ["model.safetensors", Buffer.from([2, 0, 0, 0, 0, 0, 0, 0, 0x7b, 0x7d])],
        ["tokenizer.json", JSON.stringify({ variant: tokenizer })],
    ];
}

function contentOf(rig: Rig, { format, row }: Description): string {
    const rows = rig.sample(40);
    if (row > 0) rows[39] = { ...rows[39], answer: `多休息，多喝水。${row}` };
    switch (format) {
        case "jsonl":
            return rows.map((one) => `${JSON.stringify(one)}\n`).join("");
        case "json":
            return JSON.stringify(rows, undefined, 2);
        case "csv": {
            const names = Object.keys(rows[0] ?? {});
            const quoted = (value: unknown) =>
                `"${((value ?? "") as string | number).toString().replaceAll('"', '""')}"`;
            const lines = [names, ...rows.map((one) => names.map((name) => one[name]))];
            return lines.map((values) => `${values.map(quoted).join(",")}\r\n`).join("");
        }
    }
}

/** The fields that decide a stage's result, flat, with the digests of what it takes in; an unknown one is "unknown". */
export function fieldsOf(
    stage: StageName,
    rig: Rig,
    description: Description,
    /** The folder that the model was last taken from. */
    folder: string | undefined,
    digest: (of: StageName) => string,
) {
    const tiny = tinyConfiguration as Record<keyof typeof tinyConfiguration, JsonObject>;
    const { model, enableThinking } = description;
    const recipe: JsonObject = { ...recipeOf(description), ...RECIPE_DEFAULTS };
    const training: JsonObject = { ...TRAINING_DEFAULTS, ...tiny["training"], ...description.training };
    const evaluation: JsonObject = { ...tiny["evaluation"], ...description.evaluation };
    const chat = { template: "qwen3", enableThinking };
    const { precision, cutoffLength, threads } = training;
    const { prompts, maxNewTokens } = evaluation;
    const { constant: instruction } = recipe["instruction"] as JsonObject;
    const tuned = {
        ...{ model: digest("model"), trained: digest("training"), dataset: digest("dataset"), ...chat },
        ...{ instruction, precision, cutoffLength, threads },
    };
    const split = { validation: 0.1, test: 0.1, seed: description.splitSeed, together: "same" };
    const fields: Record<StageName, () => JsonObject> = {
        dataset: () => ({
            ...{ recipe, limit: description.limit, split, quality: { leaks: 0 } },
            content: { files: [sha256(contentOf(rig, description))] },
        }),
        model: () =>
            "seed" in model
                ? { content: { random: model }, tools: { transformers: "any", torch: "any", tokenizers: "any" } }
                : { content: { folder: digestOf(modelFiles(model.tokenizer)) } },
        training: () => ({ model: digest("model"), dataset: digest("dataset"), ...chat, ...training }),
        evaluation: () => ({ ...tuned, ...evaluation, gate: { conditions: [], minRows: 30 } }),
        export: () => ({
            ...{ ...tuned, prompts, maxNewTokens, notice: NOTICE },
            base: "seed" in model ? { random: model } : { folder: folder ?? model.folder },
            provenance: { template: "qwen3", recipe, training },
        }),
        report: () => ({ digests: Object.fromEntries(STAGES.slice(0, -1).map((one) => [one, digest(one)])) }),
    };
    return flat(fields[stage]());
}

/** What is known of a result before it is made: the rows of a data set, the digest of a folder. */
export function contentBeforehand(stage: StageName, description: Description): string | undefined {
    if (stage === "dataset") return canonical(rowsOf(description));
    const { model } = description;
    return stage === "model" && "folder" in model ? canonical({ tokenizer: model.tokenizer }) : undefined;
}

/** Dotted fields; what is null counts as absent, and of an empty group nothing is there. */
function flat(value: JsonObject, prefix = ""): Map<string, Json> {
    const found = new Map<string, Json>();
    for (const [name, one] of Object.entries(value)) {
        if (one === null || one === undefined) continue;
        if (!isObject(one)) found.set(prefix + name, one);
        else for (const [below, leaf] of flat(one, `${prefix}${name}.`)) found.set(below, leaf);
    }
    return found;
}

/** The names of the fields that differ, sorted. */
export function differing(old: ReadonlyMap<string, Json>, now: ReadonlyMap<string, Json>): string[] {
    const names = [...new Set([...old.keys(), ...now.keys()])];
    return names.filter((name) => canonical(old.get(name) ?? null) !== canonical(now.get(name) ?? null)).sort();
}

export function canonical(value: Json): string {
    return canonicalize(value) ?? "";
}

/** As `sha256sum * | sha256sum` says it. */
function digestOf(files: readonly (readonly [string, string | Buffer])[]): string {
    return sha256(files.map(([name, content]) => `${sha256(content)}  ${name}\n`).join(""));
}

function sha256(content: string | Buffer): string {
    return crypto.createHash("sha256").update(content).digest("hex");
}
