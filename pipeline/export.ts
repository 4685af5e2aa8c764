import { z } from "zod";
import { targetSchema } from "../infra/target";
import { digest, jsonObject } from "./fields";
import type { JsonObject } from "./identity";
import { answeringFields } from "./llamafactory/answering";
import { llamafactoryRun, trainingVersions } from "./llamafactory/job";
import { metric, type Stage } from "./stage";

/** `retune:export`. */
export const exportSettings = {};

const fields = {
    target: targetSchema,
    /** The merged model must have the weights of base + adapter, and answer the prompts like it. */
    ...answeringFields,
    /** Only a model that was accepted is exported. What the evaluation says is not in it, so it is not in the key. */
    evaluation: digest("the digest of an evaluation"),
    /** Where the base model came from, and what else the model was made of: for the manifest in it. */
    base: jsonObject(),
    provenance: jsonObject(),
    /** Said in the model card, such as "not medical advice". */
    notice: z.string(),
    tools: jsonObject().optional(),
};

type Inputs = z.infer<z.ZodObject<typeof fields>>;

/** What a program gives; the rest is found out. */
export type ExportArgs = Omit<Inputs, "tools">;

/** The merged model: safetensors weights, model card, manifest and SHA-256 list, proven to be the tuned one. */
export const exported: Stage<Inputs> = {
    kind: "Export",
    fields,
    transport: ["target", "evaluation"],
    tools: () => ({ contract: 3, ...trainingVersions() }),

    work(inputs, key) {
        const { target: _target, evaluation: _evaluation, tools, model, trained, dataset, ...rest } = inputs;
        const { base, provenance, notice, ...parameters } = rest;
        const manifest: JsonObject = { base, ...provenance, dataset, model, trained, tools: tools ?? {} };
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

    effort: ({ trained: _trained, manifest: _manifest, card: _card, ...like }) => ({ amount: 1, like }),

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
