import { z } from "zod";
import { targetSchema } from "../infra/target";
import { digest, flag, integer, jsonObject, list, oneOf, text } from "./fields";
import type { JsonObject } from "./identity";
import { llamafactoryRun, trainingVersions } from "./llamafactory/job";
import { modelDigest } from "./model";
import { metric, type Stage } from "./stage";

/** `retune:export`. */
export const exportSettings = {};

const fields = {
    target: targetSchema,
    model: modelDigest,
    trained: digest("the digest of a training"),
    template: text("the name of a template"),
    enableThinking: flag().optional(),
    instruction: z.string(),
    precision: oneOf(["fp32", "bf16", "fp16"]),
    cutoffLength: integer("a whole number from 16", { from: 16 }),
    threads: integer("a whole number from 1", { from: 1 }),
    /** Questions that the merged model must answer like base + adapter. */
    prompts: list(text("a question"), "a list of questions"),
    maxNewTokens: integer("a whole number from 1", { from: 1 }),
    dataset: digest("the digest of a data set"),
    /** What the model was made of besides, for the manifest in it. */
    provenance: jsonObject(),
    /** Said in the model card, such as "not medical advice". */
    notice: z.string(),
    tools: jsonObject().optional(),
};

type Inputs = z.infer<z.ZodObject<typeof fields>>;

/** What a program gives; the rest is found out. */
export type ExportArgs = Omit<Inputs, "tools">;

/** The merged model: safetensors weights, model card, manifest and SHA-256 list, proven to answer like the tuned one. */
export const exported: Stage<Inputs> = {
    kind: "Export",
    fields,
    transport: ["target"],
    tools: () => ({ contract: 1, ...trainingVersions() }),

    work(inputs, key) {
        const { target: _target, tools, model, trained, dataset, provenance, notice, ...parameters } = inputs;
        const manifest: JsonObject = { ...provenance, dataset, model, trained, tools: tools ?? {} };
        return {
            on: "target",
            run: llamafactoryRun({
                key,
                kind: "Export",
                program: "export.py",
                parameters: {
                    enableThinking: null,
                    ...parameters,
                    batchSize: 4,
                    manifest,
                    card: card(manifest, notice),
                },
                inputs: { model, trained },
                produces: ["*.safetensors", "config.json", "retune.json", "SHA256SUMS"],
                threads: inputs.threads,
            }),
        };
    },

    facts: (metrics) => ({
        files: metric(metrics, "files"),
        bytes: metric(metrics, "bytes"),
        parity: metric(metrics, "parity"),
    }),
};

function card(manifest: JsonObject, notice: string): string {
    return [
        "# A fine-tuned model",
        "",
        notice,
        "",
        "Made by Retune with LLaMA-Factory. `retune.json` says from what; `sha256sum -c SHA256SUMS` checks the files.",
        "",
        "```json",
        JSON.stringify(manifest, undefined, 2),
        "```",
        "",
    ].join("\n");
}
