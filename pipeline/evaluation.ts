import type { z } from "zod";
import { targetSchema } from "../infra/target";
import { integer, jsonObject, list, text } from "./fields";
import { keyOf } from "./identity";
import { answeringFields } from "./llamafactory/answering";
import { llamafactoryRun, trainingVersions } from "./llamafactory/job";
import { metric, type Stage } from "./stage";

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
};

const fields = {
    target: targetSchema,
    ...answeringFields,
    ...evaluationSettings,
    tools: jsonObject().optional(),
};

type Inputs = z.infer<z.ZodObject<typeof fields>>;

/** What a program gives; the rest is found out. */
export type EvaluationArgs = Omit<Inputs, "tools">;

/** Base and tuned model on the held-out rows (loss, BLEU, ROUGE) and on the fixed prompts, greedy. */
export const evaluation: Stage<Inputs> = {
    kind: "Evaluation",
    fields,
    transport: ["target"],
    tools: () => ({ contract: 1, ...trainingVersions() }),

    work(inputs, key) {
        const { target: _target, tools, model, dataset, trained, ...settings } = inputs;
        const run = {
            program: "evaluate.py",
            parameters: { enableThinking: null, ...settings },
            produces: ["evaluation.json"],
            threads: inputs.threads,
        } as const;
        // The base is evaluated once for its data and settings, however many trainings are compared with it.
        const baseKey = keyOf("Baseline", { model, dataset, tools: tools ?? {}, ...settings });
        return {
            on: "target",
            before: {
                baseline: llamafactoryRun({ ...run, key: baseKey, kind: "Baseline", inputs: { model, dataset } }),
            },
            run: llamafactoryRun({ ...run, key, kind: "Evaluation", inputs: { model, dataset, trained } }),
        };
    },

    effort: ({ trained: _trained, baseline: _baseline, ...like }) => ({ amount: 1, like }),

    facts: (metrics) => ({
        base: metric(metrics, "base"),
        tuned: metric(metrics, "tuned"),
        rows: metric(metrics, "rows"),
        // There is no gate yet that would compare with the last accepted model and judge.
        incumbent: null,
        verdict: "ungated",
    }),
};
