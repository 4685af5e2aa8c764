import { z } from "zod";
import { targetSchema } from "../infra/target";
import { digest, jsonObject, text } from "./fields";
import type { JsonObject } from "./identity";
import { answeringFields } from "./llamafactory/answering";
import { environmentLock, llamafactoryRun, trainingVersions } from "./llamafactory/job";
import { codeRevision, MANIFEST_VERSION } from "./manifest";
import { metric, type Stage } from "./stage";

/** `retune:export`. */
export const exportSettings = {};

const fields = {
    target: targetSchema,
    /** The merged model must have the weights of base + adapter, and answer the prompts like it. */
    ...answeringFields,
    /** Only a model that was accepted is exported. What the evaluation says is not in it, so it is not in the key. */
    evaluation: digest("the digest of an evaluation"),
    /** Where the base model came from: for the manifest. */
    base: jsonObject(),
    /** Settings that the manifest names: it must not name those of another training. */
    provenance: jsonObject(),
    /** By which the gate accepted the model, where it had failed. */
    override: jsonObject().optional(),
    /** The data by content, and the configuration from which the manifest alone can start the same run. */
    data: jsonObject(),
    dataLicence: text("the name of a licence").optional(),
    configuration: jsonObject(),
    /** Of the machine that the training ran on. Results of before it was asked for its processor have less. */
    hardware: jsonObject().optional(),
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
    // The weights are the same wherever the data came from and they were trained, and whatever else the configuration says:
    // of several ways to them, the manifest names the one that was taken first.
    transport: ["target", "evaluation", "data", "configuration", "hardware"],
    tools: () => ({ contract: 6, ...trainingVersions() }),

    work(inputs, key) {
        const { target: _target, evaluation: _evaluation, provenance: _provenance, override, ...rest } = inputs;
        const {
            tools,
            model,
            trained,
            dataset,
            base,
            data,
            dataLicence,
            configuration,
            hardware,
            notice,
            ...parameters
        } = rest;
        const manifest: JsonObject = {
            ...{ retune: MANIFEST_VERSION, configuration, data, base, dataset, model, trained, notice },
            ...(override === undefined ? {} : { override }),
            ...(dataLicence === undefined ? {} : { dataLicence }),
            code: codeRevision(),
            environment: { lock: environmentLock(), ...tools },
            ...(hardware === undefined ? {} : { hardware }),
        };
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
                },
                inputs: { model, trained },
                produces: ["*.safetensors", "config.json", "retune.json", "SHA256SUMS"],
                threads: inputs.threads,
            }),
        };
    },

    effort: ({ trained: _trained, manifest: _manifest, ...like }) => ({ amount: 1, like }),

    facts: (metrics) => ({
        files: metric(metrics, "files"),
        bytes: metric(metrics, "bytes"),
        parity: metric(metrics, "parity"),
    }),
};
