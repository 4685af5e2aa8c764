import * as fs from "node:fs";
import * as path from "node:path";
import { createInterface } from "node:readline";
import { parseEvents } from "../executor/executor";
import { spentBy } from "../executor/meter";
import { judge, METRICS, type Verdict } from "../gate";
import { isObject, parseJson, type JsonObject } from "../identity";
import { serviceOwner } from "../service";
import type { SessionEntry } from "../stage";
import { readJson, type Metrics, type Result, type Store } from "../store/store";
import { UserError } from "../user-error";
import {
    REPORT_VERSION,
    type Curves,
    type Language,
    type ModelEvaluation,
    type ReportData,
    type ReportStage,
} from "./data";

export const REPORTED = ["dataset", "model", "training", "evaluation", "export"] as const;
export type Reported = (typeof REPORTED)[number];

/** Whose result each takes in; what follows from another is not drawn twice. */
const AFTER: Readonly<Record<Reported, readonly Reported[]>> = {
    dataset: [],
    model: [],
    training: ["dataset", "model"],
    evaluation: ["training"],
    export: ["evaluation"],
};

export interface Subject {
    readonly stack: string;
    readonly notice: string;
    readonly language: Language;
    /** Where the store has the results; there is no export of a model that was refused. */
    readonly keys: Readonly<Record<Exclude<Reported, "export">, string>> & { readonly export?: string };
    /** Whether the stack has an accepted model, be it an earlier one. */
    readonly hasModel?: boolean;
    /** The address of the stack's service, where it has one that serves. */
    readonly service?: string | undefined;
    /** What the stages did in the update that the report is of, by name. */
    readonly session: ReadonlyMap<string, SessionEntry>;
}

/** Takes from the store what there is to say about a model. Throws UserError where a run or an artifact is gone or altered. */
export async function gather(store: Store, subject: Subject): Promise<ReportData> {
    const { stack, notice, language, keys, hasModel = true, service, session } = subject;
    const resultOf = async (name: Reported, key: string): Promise<Result> => {
        const result = await store.result(key);
        if (result !== undefined) return result;
        throw new UserError(
            `the run of ${name} is gone from the store: \`npm run refresh\`, then \`npm run up\` repair it`,
        );
    };
    const [dataset, model, training, evaluation] = await Promise.all([
        resultOf("dataset", keys.dataset),
        resultOf("model", keys.model),
        resultOf("training", keys.training),
        resultOf("evaluation", keys.evaluation),
    ]);
    const exported = keys.export === undefined ? undefined : await resultOf("export", keys.export);
    const results = { dataset, model, training, evaluation, export: exported };
    for (const name of ["evaluation", "export"] as const) await requireUnaltered(store, name, results[name]);

    const artifact = ({ digest }: Result, file: string): string => path.join(store.artifactFolder(digest), file);
    const judged = await readJson<EvaluationFile>(artifact(evaluation, "evaluation.json"));
    if (judged === undefined)
        throw new UserError("the evaluation's artifact is gone; `npm run refresh` finds what else is");
    const asked = (await store.job(keys.evaluation))?.parameters ?? {};
    const spent = spentBy(store.home, stack);
    const settings = (await store.job(keys.training))?.parameters ?? {};
    const stages = REPORTED.map((name) => stageOf(name, results[name], session.get(name)));
    const served = serviceStage(service, session.get("service"));
    const costs = stages.flatMap(({ cost }) => cost ?? []);
    return {
        version: REPORT_VERSION,
        stack,
        at: new Date().toISOString(),
        language,
        notice,
        verdict: judged.verdict,
        differences: differencesOf(judged),
        stages: served === undefined ? stages : [...stages, served],
        ...(costs.length === 0 ? {} : { cost: costs.reduce((sum, one) => sum + one, 0) }),
        ...(spent === undefined ? {} : { spent }),
        settings,
        training: await curvesOf(store, keys.training),
        lost: lostWork(training.metrics),
        dataset: {
            ...(dataset.metrics as unknown as Omit<ReportData["dataset"], "examples">),
            ...tokensOf(settings, training.metrics),
            examples: await examples(artifact(dataset, "train.jsonl")),
        },
        base: judged.base,
        tuned: judged.tuned,
        ...(judged.incumbent === undefined ? {} : { incumbent: await incumbentOf(store, judged.incumbent, asked) }),
        ...(hasModel ? {} : { hasModel }),
        trained: store.artifactFolder(training.digest),
        ...(exported === undefined ? {} : { exported: exportedAs(exported, store, asked) }),
        ...(service === undefined
            ? {}
            : { service: { address: service, ...(await keyFileOf(store.home, stack, service)) } }),
        provenance: (exported && (await readJson<JsonObject>(artifact(exported, "retune.json")))) ?? {},
    };
}

/** `evaluation.json` of the stage. */
interface EvaluationFile {
    readonly base: ModelEvaluation;
    readonly incumbent?: ModelEvaluation;
    readonly tuned: ModelEvaluation;
    readonly verdict: Verdict;
}

/** By how much the tuned model differs in every metric, and how sure that is, whether or not the gate asks. */
function differencesOf({ base, incumbent, tuned, verdict }: EvaluationFile): ReportData["differences"] {
    const conditions = METRICS.flatMap((metric) => [
        { metric, against: "base", maxRegression: 0 } as const,
        { metric, against: "incumbent", maxRegression: 0 } as const,
    ]);
    const judged = judge({ conditions, minRows: 0 }, { base, incumbent, tuned }, verdict.model);
    return conditions.flatMap(({ metric, against }) => {
        const [own, other] = [tuned, { base, incumbent }[against]].map((model) => model?.metrics[metric] ?? null);
        if (own === null || other === null || own === undefined || other === undefined) return [];
        const outcome = judged.conditions.find((one) => one.metric === metric && one.against === against);
        const interval = outcome?.difference;
        const isRecounted = outcome?.finding.kind === "compared" && outcome.finding.perTunedToken === true;
        const opposite = isRecounted ? (outcome.other ?? other) : other;
        return [{ metric, against, tuned: own, other: opposite, ...(interval === undefined ? {} : { interval }) }];
    });
}

async function requireUnaltered(store: Store, name: string, result: Result | undefined): Promise<void> {
    const damage = result && (await store.flaw(result));
    if (result === undefined || damage === undefined) return;
    const what = `the artifact of ${name} (${result.digest.slice(0, 12)}) is not as it was made, ${damage}`;
    throw new UserError(`${what}: \`npm run refresh\`, then \`npm run up\` bring it back`);
}

function stageOf(name: Reported, result: Result | undefined, done: SessionEntry | undefined): ReportStage {
    const common = { name, after: AFTER[name], reasons: done?.reasons ?? [] };
    if (result === undefined) {
        const kind = `${name.charAt(0).toUpperCase()}${name.slice(1)}`;
        return { ...common, kind, action: "skipped", seconds: 0 };
    }
    const { key, kind, digest, finishedAt, host } = result;
    return {
        ...common,
        kind,
        action: done?.action ?? "unchanged",
        // What was taken from the store was made by the run whose result it is.
        seconds: done === undefined || done.seconds === 0 ? result.seconds : done.seconds,
        ...(done?.expectedSeconds === undefined ? {} : { expectedSeconds: done.expectedSeconds }),
        ...(done?.cost === undefined ? {} : { cost: done.cost }),
        ...(host === undefined ? {} : { host: withoutName(host) }),
        made: { run: key.slice(0, 12), digest, finishedAt: new Date(finishedAt * 1000).toISOString() },
    };
}

/** It is no run: all that there is to tell is what became of it. */
function serviceStage(address: string | undefined, done: SessionEntry | undefined): ReportStage | undefined {
    if (address === undefined && done === undefined) return undefined;
    const { action = "unchanged", seconds = 0, reasons = [] } = done ?? {};
    return { name: "service", kind: "Service", after: ["export"], action, seconds, reasons };
}

/** The file of a service's key, where it is on this machine: a target's own loopback may have the same port. */
async function keyFileOf(home: string, stack: string, address: string): Promise<{ readonly keyFile?: string }> {
    const folder = path.join(home, "services", new URL(address).port);
    const wanted = await readJson<{ readonly owner: string }>(path.join(folder, "wanted.json"));
    return wanted?.owner === serviceOwner(stack, "service") ? { keyFile: path.join(folder, "key") } : {};
}

/** The name of a machine is nobody's business to whom a page is sent. */
function withoutName({ name: _name, ...host }: NonNullable<Result["host"]>): NonNullable<ReportStage["host"]> {
    return host;
}

function lostWork({ lostSteps, lostSeconds, resumedFrom }: Metrics): ReportData["lost"] {
    const number = (value: unknown) => (typeof value === "number" ? value : 0);
    return {
        steps: number(lostSteps),
        seconds: number(lostSeconds),
        ...(typeof resumedFrom === "number" ? { resumedFrom } : {}),
    };
}

/** What the training's preflight has found out about the lengths of rows. */
function tokensOf(settings: JsonObject, metrics: Metrics): Pick<ReportData["dataset"], "tokens"> {
    const { cutoffLength: cutoff } = settings;
    const { longestRow: longest, rowsLookedAt: lookedAt, rowsCutOff: shareCutOff } = metrics;
    if (typeof cutoff !== "number" || typeof longest !== "number") return {};
    if (typeof lookedAt !== "number" || typeof shareCutOff !== "number") return {};
    return { tokens: { cutoff, longest, lookedAt, shareCutOff } };
}

const EXAMPLES = 3;

/** The first rows that the model learned from. */
async function examples(file: string): Promise<ReportData["dataset"]["examples"]> {
    if (!fs.existsSync(file)) return [];
    const found: { input: string; output: string }[] = [];
    for await (const line of createInterface({ input: fs.createReadStream(file, "utf8") })) {
        const { input, output } = parseJson(line) ?? {};
        if (typeof input === "string" && typeof output === "string") found.push({ input, output });
        if (found.length === EXAMPLES) break;
    }
    return found;
}

function exportedAs({ digest, metrics }: Result, store: Store, asked: JsonObject): NonNullable<ReportData["exported"]> {
    const { files, bytes, parity } = metrics as unknown as Pick<
        NonNullable<ReportData["exported"]>,
        "files" | "bytes" | "parity"
    >;
    const { template, instruction, enableThinking } = asked;
    return {
        folder: store.artifactFolder(digest),
        ...{ files, bytes, parity },
        template: typeof template === "string" ? template : "default",
        instruction: typeof instruction === "string" ? instruction : "",
        ...(typeof enableThinking === "boolean" ? { enableThinking } : {}),
    };
}

/** The incumbent's answers, and its curves where its training is still there. */
async function incumbentOf(
    store: Store,
    evaluation: ModelEvaluation,
    { incumbent }: JsonObject,
): Promise<NonNullable<ReportData["incumbent"]>> {
    const trained = isObject(incumbent) && typeof incumbent["trained"] === "string" ? incumbent["trained"] : "";
    const run = (await store.newest("Training", 1000)).find(({ digest }) => digest === trained);
    return { trained, evaluation, ...(run === undefined ? {} : { training: await curvesOf(store, run.key) }) };
}

/** The losses of a training. A resumed run has told some steps twice: the later line is the one that counts. */
async function curvesOf(store: Store, key: string): Promise<Curves> {
    const file = path.join(store.runFolder(key), "events.jsonl");
    const losses = new Map<number, Curves["losses"][number]>();
    const evalLosses = new Map<number, Curves["evalLosses"][number]>();
    for (const event of parseEvents(await fs.promises.readFile(file, "utf8").catch(() => ""))) {
        if (event.type === "progress" && event.loss !== undefined) {
            const { step, loss, learningRate } = event;
            losses.set(step, { step, loss, ...(learningRate === undefined ? {} : { learningRate }) });
        } else if (event.type === "evaluated") {
            evalLosses.set(event.step, { step: event.step, loss: event.evalLoss });
        }
    }
    return { losses: [...losses.values()], evalLosses: [...evalLosses.values()] };
}
