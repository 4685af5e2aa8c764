// A fine-tune as infrastructure: configuration → target → stages → outputs. Read it like a table of contents; what a
// stage does is in the file of its name in pipeline/.
import { getStack } from "@pulumi/pulumi/metadata.js";
import { readConfiguration } from "./pipeline/configuration";
import { Dataset, Evaluation, Export, Model, Report, Training } from "./pipeline/resources";

Error.stackTraceLimit = 0; // 40 % of what the SDK costs per resource

const { target, ...configuration } = readConfiguration();
const { template, enableThinking } = configuration.model;
const { precision, cutoffLength, threads } = configuration.training;
const { recipe } = configuration.dataset;
const notice = recipe.notice;
// A question of the evaluation is put as the rows of the data set are.
const instruction = "constant" in recipe.instruction ? recipe.instruction.constant : "";
const chat = { template, ...(enableThinking === undefined ? {} : { enableThinking }) };

const dataset = new Dataset("dataset", configuration.dataset);

const model = new Model("model", { target, source: configuration.model.source });

const training = new Training("training", {
    target,
    model: model.digest,
    dataset: dataset.digest,
    ...chat,
    ...configuration.training,
});

const evaluation = new Evaluation("evaluation", {
    target,
    model: model.digest,
    trained: training.digest,
    dataset: dataset.digest,
    ...chat,
    ...{ instruction, precision, cutoffLength, threads },
    ...configuration.evaluation,
});

const merged = new Export("export", {
    target,
    model: model.digest,
    trained: training.digest,
    ...chat,
    ...{ instruction, precision, cutoffLength, threads, notice },
    prompts: configuration.evaluation.prompts,
    maxNewTokens: configuration.evaluation.maxNewTokens,
    dataset: dataset.digest,
    provenance: { recipe, training: configuration.training },
});

const stages = { dataset, model, training, evaluation, export: merged };
const page = new Report("report", { stack: getStack(), notice, stages });

export const trained = training.uri;
export const exported = merged.uri;
export const report = page.uri.apply((folder) => `${folder}/report.html`);
