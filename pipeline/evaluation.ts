import * as fs from "node:fs";
import * as path from "node:path";
import { createInterface } from "node:readline";
import { z } from "zod";
import { targetSchema } from "../infra/target";
import { home } from "../scripts/locations.cjs";
import { digest, integer, jsonObject, list, text } from "./fields";
import { describeRefusal, gateField, judge, settledGateField, type Verdict } from "./gate";
import { isObject, keyOf, parseJson, type Json, type JsonObject } from "./identity";
import { judgeField, scored } from "./judge";
import { answeringFields, type PRECISIONS } from "./llamafactory/answering";
import { llamafactoryRun, trainingVersions } from "./llamafactory/job";
import type { ModelEvaluation } from "./report/data";
import { metric, type Stage, type TargetRun } from "./stage";
import { readJson, Store, writeJson } from "./store/store";
import { UserError } from "./user-error";

/** `retune:evaluation`. */
export const evaluationSettings = {
    /** Questions that base and tuned model both answer, for people to read. */
    prompts: list(text("a question"), "a list of one or more questions").default([
        "感冒了应该怎么办？",
        "高血压患者饮食需要注意什么？",
    ]),
    /** How many held-out rows are answered and scored; the loss is taken over all of them. */
    answeredRows: integer("a whole number from 0", { from: 0 }).default(20),
    /** Tokens of an answer. */
    maxNewTokens: integer("a whole number from 1", { from: 1 }).default(256),
    batchSize: integer("a whole number from 1", { from: 1 }).default(4),
    /** A model that scores the answers, for the gate and for people. */
    judge: judgeField.optional(),
    /** When a model is accepted; it is in no key of a run, so that another gate runs no model. */
    gate: gateField,
};

/** A model that the stack has accepted, and how it is asked: as it was trained, whatever the next one is. */
interface Model {
    readonly model: string;
    readonly trained: string;
    readonly template: string;
    readonly enableThinking?: boolean;
    readonly instruction: string;
    readonly precision: (typeof PRECISIONS)[number];
    readonly threads: number;
}

const fields = {
    target: targetSchema,
    ...answeringFields,
    ...evaluationSettings,
    gate: settledGateField,
    /** The digest of the held-out rows, where there are any and the data set is here: set by `resolve`. */
    heldOut: digest("the digest of a file").optional(),
    /** The last accepted model, to compare with: set by `recalls`. */
    incumbent: z.custom<Model>(isObject).optional(),
    /** All that were accepted, each with the one that it was compared with, and the last one last: set by `recalls`. */
    accepted: z.array(z.custom<{ readonly model: Model; readonly incumbent?: Model }>(isObject)).optional(),
    tools: jsonObject().optional(),
};

type Inputs = z.infer<z.ZodObject<typeof fields>>;

/** What a program gives; the rest is found out. */
export type EvaluationArgs = Omit<Inputs, "tools" | "heldOut" | "incumbent" | "accepted">;

/** Of the models that a stack has accepted, as many are known by name, so that going back to one needs no new verdict. */
const REMEMBERED = 20;

/** Base, incumbent and tuned model on the held-out rows (loss, BLEU, ROUGE) and on the fixed prompts, greedy; and the verdict. */
export const evaluation: Stage<Inputs> = {
    kind: "Evaluation",
    fields,
    transport: ["target", "accepted", "heldOut"],
    tools: () => ({ contract: 4, ...trainingVersions() }),

    // Part of the data set, which is in the key.
    async resolve({ dataset }) {
        return { heldOut: await new Store(home()).digestOfFile(dataset, "test.jsonl") };
    },

    recalls(inputs, olds) {
        const accepted = (olds?.["accepted"] ?? []) as unknown as NonNullable<Inputs["accepted"]>;
        const { model, trained, template, enableThinking, instruction, precision, threads } = inputs;
        const own = { model, trained, template, instruction, precision, threads };
        const tuned = { ...own, ...(enableThinking === undefined ? {} : { enableThinking }) };
        const known = accepted.find((one) => one.model.model === model && one.model.trained === trained);
        // Who goes back to a model that was accepted once does so on purpose: its verdict stays what it was.
        const incumbent = known === undefined ? accepted.at(-1)?.model : known.incumbent;
        const entry = { model: tuned, ...(incumbent === undefined ? {} : { incumbent }) };
        const others = accepted.filter((one) => one !== known).slice(1 - REMEMBERED);
        const isCompared = incumbent !== undefined && inputs.gate.conditions.length > 0;
        const recalled = { accepted: [...others, entry], ...(isCompared ? { incumbent } : {}) };
        return recalled as unknown as JsonObject;
    },

    declares: ({ accepted = [] }) => ({ accepted: accepted as unknown as Json }),

    work(inputs) {
        const { model, trained, dataset, incumbent, gate } = inputs;
        const tuned = answers(inputs, { model, trained });
        const before: Record<string, TargetRun> = { baseline: answers(inputs, { model }) };
        // Of the same questions it has answered before, the store has the answers.
        if (incumbent !== undefined) {
            const { enableThinking: _ofThisModel, ...same } = inputs;
            before["incumbent"] = answers({ ...same, ...incumbent }, incumbent);
        }
        return {
            on: "client",
            // A preview asks nobody.
            inPreview: inputs.judge === undefined ? "run" : "unknown",
            before: { ...before, tuned },
            keeps: { trained, ...(incumbent === undefined ? {} : { "incumbent's training": incumbent.trained }) },
            async run({ folder, store, made, progress }) {
                const read = async (name: string): Promise<ModelEvaluation | undefined> => {
                    const answered = await evaluationIn(store, made[name]?.digest);
                    return answered && inputs.judge ? scored(answered, inputs.judge, store, progress) : answered;
                };
                const [base, last, own] = [await read("baseline"), await read("incumbent"), await read("tuned")];
                if (base === undefined || own === undefined) throw new Error("base and tuned model have not answered");
                const known = incumbent === undefined ? 0 : await trainedOn(incumbent.trained, dataset, store);
                const models = { base, incumbent: last, tuned: own, knownToIncumbent: known };
                const verdict = judge(gate, models, trained);
                // An override that did not decide has no part in it.
                const { override: _override, ...conditions } = gate;
                const content: EvaluationFile = { base, incumbent: last, tuned: own, gate: conditions, verdict };
                await writeJson(path.join(folder, "evaluation.json"), content);
                return {
                    rows: own.metrics.rows,
                    base: { ...base.metrics },
                    incumbent: last === undefined ? null : { ...last.metrics },
                    tuned: { ...own.metrics },
                    verdict: verdict as unknown as JsonObject,
                };
            },
        };
    },

    effort: ({ trained: _trained, ...like }) => ({ amount: 1, like }),

    objections(metrics) {
        const verdict = metric(metrics, "verdict") as unknown as Verdict;
        if (verdict.decision === "refused") return { refusal: describeRefusal(verdict), warnings: [] };
        const { override } = verdict;
        const overridden = override === undefined ? [] : [`the gate was overridden: ${override.reason}`];
        return { refusal: undefined, warnings: [...overridden, ...verdict.warnings.map(({ text: words }) => words)] };
    },

    facts(metrics) {
        const { decision, conditions, worse, override } = metric(metrics, "verdict") as unknown as Verdict;
        const failed = conditions.filter(({ held }) => !held);
        return {
            base: metric(metrics, "base"),
            incumbent: metric(metrics, "incumbent"),
            tuned: metric(metrics, "tuned"),
            rows: metric(metrics, "rows"),
            verdict: decision,
            ...(failed.length === 0 ? {} : ({ failed, worse } as unknown as JsonObject)),
            ...(decision === "overridden" ? ({ override } as unknown as JsonObject) : {}),
        };
    },

    unused: ({ facts }) => (isObject(facts) && facts["verdict"] !== "overridden" ? ["gate.override"] : []),
};

/** `evaluation.json` of the stage: what there is to say about every held-out row, and what was made of it. */
interface EvaluationFile {
    readonly base: ModelEvaluation;
    readonly incumbent?: ModelEvaluation | undefined;
    readonly tuned: ModelEvaluation;
    readonly gate: Inputs["gate"];
    readonly verdict: Verdict;
}

/**
 * A run in which one model answers: the base where nothing was trained. One for all evaluations that ask it the same:
 * of the data set only the held-out rows count.
 */
function answers(inputs: Inputs, artifacts: { readonly model: string; readonly trained?: string }): TargetRun {
    const { template, enableThinking, instruction, precision, cutoffLength, threads, tools = {} } = inputs;
    const { prompts, answeredRows, maxNewTokens, batchSize, dataset, heldOut } = inputs;
    const chat = { template, enableThinking: enableThinking ?? null, instruction };
    const parameters = { ...chat, precision, cutoffLength, threads, prompts, answeredRows, maxNewTokens, batchSize };
    const models: Record<string, string> = { model: artifacts.model };
    if (artifacts.trained !== undefined) models["trained"] = artifacts.trained;
    const kind = artifacts.trained === undefined ? "Baseline" : "Answers";
    return llamafactoryRun({
        key: keyOf(kind, { ...parameters, ...models, ...(heldOut === undefined ? { dataset } : { heldOut }), tools }),
        kind,
        program: "evaluate.py",
        parameters,
        inputs: { ...models, dataset },
        produces: ["evaluation.json"],
        threads,
    });
}

async function evaluationIn(store: Store, digest: string | undefined): Promise<ModelEvaluation | undefined> {
    if (digest === undefined) return undefined;
    const file = path.join(store.artifactFolder(digest), "evaluation.json");
    const read = await readJson<ModelEvaluation>(file);
    if (read !== undefined) return read;
    throw new UserError(`${file} cannot be read: \`npm run refresh\`, then \`npm run up\` bring it back`);
}

/**
 * How many held-out rows of a data set ask what a model was trained on: another split has put them there. 0 where the
 * model's own data set is not in the store any more.
 */
async function trainedOn(trained: string, dataset: string, store: Store): Promise<number> {
    const own = (await store.jobOf(trained))?.inputs["dataset"];
    if (own === undefined || own === dataset) return 0;
    const heldOut = new Map<string, number>();
    for await (const prompt of promptsIn(dataset, "test.jsonl", store)) {
        heldOut.set(prompt, (heldOut.get(prompt) ?? 0) + 1);
    }
    let count = 0;
    for await (const prompt of promptsIn(own, "train.jsonl", store)) {
        count += heldOut.get(prompt) ?? 0;
        heldOut.delete(prompt);
    }
    return count;
}

/** Of every row what the model is asked; of a file that is not there, nothing. */
async function* promptsIn(dataset: string, name: string, store: Store): AsyncGenerator<string> {
    const file = path.join(store.artifactFolder(dataset), name);
    if (!fs.existsSync(file)) return;
    for await (const line of createInterface({ input: fs.createReadStream(file, "utf8") })) {
        const { instruction, input } = parseJson(line) ?? {};
        yield JSON.stringify([instruction, input]);
    }
}
