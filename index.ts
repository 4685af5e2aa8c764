// A fine-tune as infrastructure: configuration → target → stages → outputs. Read it like a table of contents; what a
// stage does is in the file of its name in pipeline/.
import { getStack } from "@pulumi/pulumi/metadata.js";
import { targetOf } from "./infra/targets";
import { portable, readConfiguration } from "./pipeline/configuration";
import { Dataset, Evaluation, Export, Model, Push, Report, Service, Training } from "./pipeline/resources";

Error.stackTraceLimit = 0; // 40 % of what the SDK costs per resource

const { target: declared, ...configuration } = readConfiguration();
const { precision, cutoffLength, threads } = configuration.training;
const { enabled, ...serving } = configuration.service;
const needsVllm = enabled && serving.backend === "vllm";

const target = targetOf(declared, getStack(), { precision, ...(needsVllm ? { vllm: true } : {}) });
const { template, enableThinking } = configuration.model;
const { recipe, licence } = configuration.dataset;
const chat = { template, ...(enableThinking === undefined ? {} : { enableThinking }) };

const limitsLength = configuration.dataset.quality.overCutoff !== undefined;
const dataset = new Dataset("dataset", { ...configuration.dataset, ...(limitsLength ? { cutoffLength } : {}) });

const model = new Model("model", { target, source: configuration.model.source });

const training = new Training("training", {
    target,
    model: model.digest,
    dataset: dataset.digest,
    ...chat,
    ...configuration.training,
});

const { prompts, maxNewTokens, gate } = configuration.evaluation;
const tuned = {
    target,
    model: model.digest,
    trained: training.digest,
    dataset: dataset.digest,
    ...chat,
    // A question is put as the rows of the data set are.
    instruction: "constant" in recipe.instruction ? recipe.instruction.constant : "",
    precision,
    cutoffLength,
    threads,
};

const evaluation = new Evaluation("evaluation", { ...tuned, ...configuration.evaluation });

const merged = new Export("export", {
    ...tuned,
    evaluation: evaluation.digest,
    prompts,
    maxNewTokens,
    notice: recipe.notice,
    base: model.origin,
    provenance: { template, recipe, training: configuration.training },
    // Only one that the model was accepted by: of another the model does not know.
    ...(gate.override === undefined ? {} : { override: evaluation.override }),
    data: dataset.origin,
    ...(licence === undefined ? {} : { dataLicence: licence }),
    configuration: portable(configuration),
    hardware: training.hardware,
});

const service = enabled
    ? new Service(
          "service",
          { target, model: merged.digest, ...chat, precision, threads, ...serving },
          { dependsOn: evaluation }, // a model that it refuses is not served
      )
    : undefined;

// What the evaluation refuses is not pushed either.
const { huggingface, s3 } = configuration.push;
if (huggingface) new Push("huggingface", { model: merged.digest, huggingface }, { dependsOn: evaluation });
if (s3) new Push("s3", { model: merged.digest, s3 }, { dependsOn: evaluation });

const stages = { dataset, model, training, evaluation, export: merged };
const page = new Report("report", {
    ...{ stack: getStack(), notice: recipe.notice, ...configuration.report, stages },
    ...(service === undefined ? {} : { service }),
});

export const trained = training.uri;
export const exported = merged.uri;
export const api = service?.uri ?? null;
export const report = page.uri.apply((folder) => `${folder}/report.html`);
