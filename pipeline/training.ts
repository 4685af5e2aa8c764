import { type z } from "zod";
import { targetSchema } from "../infra/target";
import { digest, integer, jsonObject, number, oneOf } from "./fields";
import { chatFields, PRECISIONS } from "./llamafactory/answering";
import { llamafactoryRun, trainingVersions } from "./llamafactory/job";
import { metric, type Stage } from "./stage";

/** `retune:training`; the defaults are those of LLaMA-Factory's web page. */
export const trainingSettings = {
    method: oneOf(["lora", "qlora", "full", "freeze"]).default("lora"),
    loraRank: integer("a whole number from 1 to 1024", { from: 1, to: 1024 }).default(8),
    learningRate: number("a number between 0 and 1", { above: 0, to: 1 }).default(5e-5),
    epochs: number("a number above 0", { above: 0 }).default(3),
    /** Ends the training after this many steps, whatever `epochs` says. */
    maxSteps: integer("a whole number from 1", { from: 1 }).optional(),
    /** At most this many rows of the data set. */
    maxSamples: integer("a whole number from 1", { from: 1 }).default(100_000),
    batchSize: integer("a whole number from 1", { from: 1 }).default(2),
    gradientAccumulation: integer("a whole number from 1", { from: 1 }).default(8),
    /** Tokens; what is longer is cut off. */
    cutoffLength: integer("a whole number from 16", { from: 16 }).default(2048),
    /** Of weights and arithmetic. bf16 wants a GPU, or a CPU with instructions for it. */
    precision: oneOf(PRECISIONS).default("bf16"),
    seed: integer("a whole number from 0", { from: 0 }).default(42),
    /** Of a CPU. Another number gives another rounding, hence another model: it does not follow the machine. */
    threads: integer("a whole number from 1", { from: 1 }).default(2),
    /** Any other option of LLaMA-Factory by its own name; checked against its schema. */
    llamafactory: jsonObject().default({}),
};

const fields = {
    target: targetSchema,
    model: digest("the digest of a model"),
    dataset: digest("the digest of a data set"),
    ...chatFields,
    ...trainingSettings,
    tools: jsonObject().optional(),
};

type Inputs = z.infer<z.ZodObject<typeof fields>>;

/** What a program gives; the rest is found out. */
export type TrainingArgs = Omit<Inputs, "tools">;

/** The fine-tune itself: an adapter (lora, qlora) or a whole model (full, freeze). */
export const training: Stage<Inputs> = {
    kind: "Training",
    fields,
    transport: ["target"],
    tools: () => ({ contract: 1, ...trainingVersions() }),

    work(inputs, key) {
        const { target: _target, tools: _tools, model, dataset, ...parameters } = inputs;
        return {
            on: "target",
            run: llamafactoryRun({
                key,
                kind: "Training",
                program: "train.py",
                parameters: { enableThinking: null, maxSteps: null, ...parameters },
                inputs: { model, dataset },
                produces: ["*.safetensors", "*config.json", "tokenizer*.json"],
                threads: inputs.threads,
                stoppable: true,
            }),
        };
    },

    effort({ learningRate: _rate, seed: _seed, epochs, maxSteps, ...like }) {
        return typeof maxSteps === "number"
            ? { amount: maxSteps, like: { ...like, per: "step" } }
            : { amount: Number(epochs), like: { ...like, per: "epoch" } };
    },

    facts: (metrics) => ({
        steps: metric(metrics, "steps"),
        loss: metric(metrics, "loss"),
        evalLoss: metric(metrics, "evalLoss"),
        // Of one that was interrupted.
        ...(typeof metrics["resumedFrom"] === "number"
            ? { resumedFrom: metrics["resumedFrom"], lostSteps: metric(metrics, "lostSteps") }
            : {}),
    }),
};
