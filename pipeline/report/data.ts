import { z } from "zod";
import type { JsonObject } from "../identity";

/*
 * Everything that a report shows: gather.ts takes it from the store, render.ts turns it into a page, and report.json is
 * the same for programs. report.schema.json says this as a JSON schema; a test compares the two.
 */

/** Grows when report.json gets another form. */
export const REPORT_VERSION = 3;

const list = <Item extends z.ZodType>(item: Item) => z.array(item).readonly();
const count = z.number().int().min(0);
const json = z.custom<JsonObject>((value) => typeof value === "object" && value !== null).meta({ type: "object" });
const time = z.string().meta({ format: "date-time", description: "in UTC" });

const metrics = z.object({
    evalLoss: z.number().nullable().describe("mean cross-entropy per token of the held-out answers"),
    bleu4: z.number().nullable().describe("percent, as are the ROUGE scores"),
    rouge1: z.number().nullable(),
    rouge2: z.number().nullable(),
    rougeL: z.number().nullable(),
    judge: z.number().nullable().optional().describe("the mean score of the configured judge, from 0 to 100"),
    rows: count.describe("that were held out"),
});

/** What evaluate.py writes. Scores are percent, the loss is mean cross-entropy per token; null where nothing was held out. */
const modelEvaluation = z.object({
    metrics,
    /** Of every held-out row; null where no token of its answer is left within the cut-off, or where it is no number. */
    losses: list(z.object({ question: z.string(), loss: z.number().nullable(), tokens: count })),
    /** The rows that were answered: the first ones. */
    cases: list(
        z.object({
            question: z.string(),
            reference: z.string(),
            answer: z.string(),
            complete: z.boolean().describe("whether the model ended by itself within the limit of new tokens"),
            bleu4: z.number(),
            rouge1: z.number(),
            rouge2: z.number(),
            rougeL: z.number(),
            judge: z.number().optional(),
        }),
    ),
    prompts: list(z.object({ prompt: z.string(), answer: z.string(), complete: z.boolean() })),
});
export type ModelEvaluation = z.infer<typeof modelEvaluation>;

const metric = z.enum(["evalLoss", "bleu4", "rouge1", "rouge2", "rougeL", "judge"]);

const interval = z
    .object({ low: z.number(), high: z.number(), confidence: z.number() })
    .describe("of tuned − other: what holds this share of a paired bootstrap's resamples");

const conditionFinding = z
    .discriminatedUnion("kind", [
        z.object({
            kind: z.literal("compared"),
            gain: z.number(),
            allowed: z.number(),
            perTunedToken: z
                .literal(true)
                .optional()
                .describe("the other model has another tokenizer: its loss is given per token of the tuned model"),
        }),
        z.object({ kind: z.literal("first") }),
        z.object({ kind: z.literal("broken"), rows: count, of: count }),
        z.object({ kind: z.literal("unmeasured") }),
        z.object({
            kind: z.literal("phrase"),
            prompt: z.string(),
            phrase: z.string(),
            says: z.boolean(),
            forbidden: z.boolean(),
        }),
        z.object({ kind: z.literal("silent"), questions: count }),
    ])
    .describe("the same as data; a gain is positive where the tuned model is better");

const english = { text: z.string().describe("in English") };
const warning = z.discriminatedUnion("kind", [
    z.object({
        kind: z.literal("fewRows"),
        ...english,
        rows: count,
        least: count,
        metric: metric.optional().describe("of the answers; none: of the loss"),
    }),
    z.object({ kind: z.literal("chance"), ...english, condition: count, certainty: z.number() }),
    z.object({
        kind: z.literal("leftOut"),
        ...english,
        metric,
        against: z.enum(["base", "incumbent"]),
        rows: count,
        of: count,
    }),
    z
        .object({ kind: z.literal("known"), ...english, rows: count, of: count })
        .describe("held-out rows that the incumbent was trained on"),
    z.object({ kind: z.literal("empty"), ...english, answers: count, of: count }),
    z.object({ kind: z.literal("nothingHeldOut"), ...english }),
]);

const override = z.object({ reason: z.string(), model: z.string() });

const verdict = z.object({
    decision: z.enum(["accepted", "refused", "overridden", "ungated"]),
    model: z.string().describe("the digest of the training whose result was judged"),
    conditions: list(
        z.object({
            text: z.string().describe("in English, with both values"),
            finding: conditionFinding,
            held: z.boolean(),
            against: z.enum(["base", "incumbent", "threshold", "phrase"]),
            metric: metric.optional(),
            tuned: z.number().nullable(),
            other: z.number().nullable(),
            difference: interval.optional(),
            certainty: z.number().optional(),
        }),
    ),
    worse: list(
        z.object({
            question: z.string(),
            against: z.enum(["base", "incumbent", "threshold"]),
            metric,
            tuned: z.number(),
            other: z.number(),
        }),
    ),
    warnings: list(warning),
    override: override.optional().describe("by which a model that fails was accepted"),
    overrideOfAnother: override.optional().describe("of a refused model: the override is for another one"),
});

const host = z
    .object({
        machine: z.string(),
        cpus: count,
        cpu: z.string().optional(),
        gpus: list(z.string()).optional(),
        driver: z.string().optional(),
        release: z.string().optional(),
        python: z.string().optional(),
        torch: z.string().optional(),
        cuda: z.string().optional(),
        llamafactory: z.string().optional(),
    })
    .describe("the machine that a result was made on");

const stage = z.object({
    name: z.string(),
    kind: z.string(),
    after: list(z.string()).describe("names of the stages whose results it takes in"),
    action: z.enum(["ran", "cached", "attached", "unchanged", "refused", "failed", "skipped"]),
    /** Of all that this update ran for it; of one that it did not run, of the run that made the result. */
    seconds: z.number(),
    /** What earlier runs had let one expect of this one. */
    expectedSeconds: z.number().optional(),
    cost: z.number().optional().describe("of this update, in the money of target.pricePerHour"),
    /** Why this update looked at it, in words. */
    reasons: list(z.string()),
    host: host.optional(),
    /** None of a stage that was skipped, nor of a service. */
    made: z.object({ run: z.string(), digest: z.string(), finishedAt: time }).optional(),
});
export type ReportStage = z.infer<typeof stage>;

const curves = z.object({
    losses: list(z.object({ step: count, loss: z.number(), learningRate: z.number().optional() })),
    evalLosses: list(z.object({ step: count, loss: z.number() })),
});
export type Curves = z.infer<typeof curves>;

export const reportSchema = z.object({
    version: z.literal(REPORT_VERSION),
    stack: z.string(),
    at: time,
    language: z.enum(["en", "zh"]),
    /** Shown at the top, such as "This is a demonstration, not medical advice." Empty: nothing to say. */
    notice: z.string(),
    verdict,
    differences: list(
        z.object({
            metric,
            against: z.enum(["base", "incumbent"]),
            tuned: z.number(),
            other: z.number(),
            interval: interval.optional(),
        }),
    ),
    stages: list(stage),
    /** Of a stack whose machine Retune has made. */
    spent: z
        .object({ amount: z.number(), budget: z.number().optional() })
        .optional()
        .describe("what all its machines have cost up to now, in dollars"),
    cost: z.number().optional().describe("of all stages together"),
    settings: json.describe("of the training"),
    training: curves,
    /** What interruptions of the training have cost: done after the last checkpoint, and again. */
    lost: z.object({
        steps: count,
        seconds: z.number(),
        resumedFrom: count
            .optional()
            .describe("the step of the checkpoint that the last attempt went on from; 0 where there was none"),
    }),
    dataset: z.object({
        scanned: count,
        kept: count,
        dropped: z.record(z.string(), count),
        rows: z.object({ train: count, validation: count, test: count }),
        /** Lengths of question + answer. */
        characters: z.object({ p50: z.number(), p95: z.number(), max: z.number() }),
        /** Tokens of a row, of the first rows of the training; none where the training came from elsewhere. */
        tokens: z.object({ cutoff: count, longest: count, lookedAt: count, shareCutOff: z.number() }).optional(),
        /** What was looked for in the rows; null where it was not. */
        quality: z.record(z.string(), z.object({ rows: count, examples: list(z.string()) }).nullable()).optional(),
        examples: list(z.object({ input: z.string(), output: z.string() })),
    }),
    base: modelEvaluation,
    tuned: modelEvaluation,
    /** The last accepted model before this one; its curves, where its run is still there. */
    incumbent: z.object({ trained: z.string(), evaluation: modelEvaluation, training: curves.optional() }).optional(),
    hasModel: z.literal(false).optional().describe("the model was refused, and the stack has none of before"),
    trained: z.string().describe("the folder of what the training made, on the machine that made the page"),
    /** None of a model that was refused. */
    exported: z
        .object({
            folder: z.string().describe("of the merged model on the machine that made it"),
            files: count,
            bytes: count,
            parity: z
                .object({
                    checked: count,
                    equal: count.optional(),
                    logits: z.number().optional(),
                    tensors: count.optional(),
                })
                .describe("prompts, the largest difference of logits as a share of the largest one, tensors compared"),
            template: z.string(),
            instruction: z.string(),
            enableThinking: z.boolean().optional(),
        })
        .optional(),
    service: z
        .object({
            address: z.string().describe("on the loopback of the target"),
            keyFile: z.string().optional().describe("of its key, where the target is the machine that made the report"),
        })
        .optional()
        .describe("where the stack has one that serves"),
    provenance: json.describe("the manifest of the merged model: digests, versions, sources"),
});
export type ReportData = z.infer<typeof reportSchema>;
export type Language = ReportData["language"];
