import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { pathToFileURL } from "node:url";
import { type z } from "zod";
import { limitSeconds, targetSchema, type Target } from "../../infra/target";
import { cache } from "../../scripts/locations.cjs";
import { changesBetween, describeChange, type Change } from "../changes";
import { duration } from "../duration";
import { Absent, type Executor } from "../executor/executor";
import { problemsOf, unknownKey } from "../fields";
import {
    digestOfFiles,
    hasUnknown,
    leaves,
    listFiles,
    same,
    sha256,
    UNKNOWN,
    type Json,
    type JsonObject,
} from "../identity";
import { identityOf, stageKey, type Foreseen, type SessionEntry, type Stage } from "../stage";
import { stages } from "../stages";
import { Mirror, Unreachable } from "../store/mirror";
import { dropFollowed, followedRuns } from "../store/followed";
import { isActive, readRun } from "../store/runs";
import { readJson, writeJson, type Metrics, type Result, type Store } from "../store/store";
import { UserError } from "../user-error";
import { Detached, ensure } from "./ensure";
import { before, expectationOf, thisMachine, type Expectation } from "./expectation";
import { plain, secretPaths, unwrapSecrets, withoutNulls } from "./values";

/** Shows text at a resource. An ephemeral line is replaced by the next one, another stays until the end. */
export type Log = (
    urn: string,
    text: string,
    options: { readonly ephemeral: boolean; readonly warning?: boolean },
) => void;

export interface Checked {
    readonly inputs: JsonObject;
    /** Each begins with the path of the field that it is about. */
    readonly failures: readonly string[];
}

/** What Pulumi asks of a resource. */
export type ResourceLifecycle = Pick<Lifecycle, "check" | "diff" | "preview" | "apply" | "read"> & {
    delete(urn: string, oldInputs: JsonObject): Promise<void>;
};

/** Seconds for which a run that is stopped may go on: a step and a checkpoint. */
const STOPPING = 120;

/** The update was cancelled. `outputs` are what the state shall say: never anything of the half-made run. */
export class Interrupted extends Error {
    constructor(readonly outputs: JsonObject) {
        super("detached: the run goes on; the next `npm run up` attaches to it");
    }
}

/**
 * What happens to a stage over its life, in plain values: the protocol around it is in protocol.ts, what a stage is
 * made of in its own file. Inputs and outputs are as Pulumi stores them.
 */
export class Lifecycle {
    /** What the stages have done so far. */
    readonly session = new Map<string, SessionEntry>();
    private readonly cancellation = new AbortController();
    private readonly executors = new Map<string, Promise<Executor>>();
    private readonly mirrors = new Map<string, Mirror>();
    private readonly warned = new Set<string>();

    constructor(
        private readonly store: Store,
        private readonly executorFor: (
            target: Target,
            store: Store,
            notice: (text: string) => void,
        ) => Promise<Executor>,
        private readonly log: Log,
    ) {}

    /** Stops following. Runs on targets go on. */
    cancel(): void {
        this.cancellation.abort();
    }

    /** Aborted when it is cancelled. */
    get cancelled(): AbortSignal {
        return this.cancellation.signal;
    }

    /** Validates, fills in defaults and resolves what only a look at the world can tell. Unknown values pass. */
    async check(urn: string, news: JsonObject, olds: JsonObject | undefined): Promise<Checked> {
        const stage = stageOf(urn);
        const secrets = secretPaths(news);
        if (secrets.length > 0) {
            const why = "is a secret, but what a stage is given is written into job files and manifests";
            return { inputs: news, failures: secrets.map((at) => `${at}: ${why}`) };
        }
        const given = withoutNulls(news);
        const { inputs, failures } = checkFields(stage.fields, given);
        const known = Object.keys(stage.fields);
        for (const name of Object.keys(given).filter((one) => !known.includes(one))) {
            failures.push(`${name}: ${unknownKey(name, known)}`);
        }
        if (failures.length > 0) return { inputs, failures };
        // What cannot be looked at yet can give another result: without this only transport would be unknown.
        if (hasUnknown(inputs["source"])) return { inputs: { ...inputs, content: UNKNOWN, tools: UNKNOWN }, failures };
        try {
            const previous = olds === undefined ? undefined : (unwrapSecrets(olds) as JsonObject);
            Object.assign(inputs, await stage.resolve?.(inputs, previous), { tools: stage.tools(inputs) });
            return { inputs, failures };
        } catch (error) {
            if (error instanceof UserError) return { inputs, failures: [error.message] };
            throw error;
        }
    }

    /** The changes that make the stage run again; none where only the way to the result has changed. */
    diff(urn: string, oldInputs: JsonObject, oldOutputs: JsonObject, news: JsonObject): Change[] {
        const stage = stageOf(urn);
        const changes = changesBetween(identityOf(stage, plain(oldInputs)), identityOf(stage, plain(news)));
        const unused = stage.unused?.(plain(oldOutputs)) ?? [];
        const used = ({ field }: Change) => !unused.some((one) => field === one || field.startsWith(`${one}.`));
        // What had no part in the old result may have one in the next: it is named where something else changes.
        return [...(changes.some(used) ? changes : []), ...driftOf(oldOutputs)];
    }

    /** The outputs that an update would have, as far as they can be known; nothing but caches is touched. */
    async preview(urn: string, news: JsonObject, olds: JsonObject | undefined, oldInputs: JsonObject | undefined) {
        const stage = stageOf(urn);
        const given = plain(news);
        const inputs = recalled(stage, given, olds);
        const identity = identityOf(stage, inputs);
        const declared = hasUnknown(identity) ? {} : stage.declares?.(inputs);
        const outputs = { ...declared, ...(await this.foreseen(stage, urn, inputs, identity)) };
        const why = olds === undefined ? "new" : reasons(stage, given, olds, oldInputs ?? {}).join("; ");
        if (outputs["action"] === "would-reuse") {
            this.log(urn, `would be taken from the store: ${why}`, { ephemeral: false });
            return outputs;
        }
        const expected = await this.expected(stage, inputs, olds, oldInputs);
        const target = targetSchema.safeParse(inputs["target"]);
        const price = target.success ? target.data.pricePerHour : undefined;
        const { expectedSeconds } = expected;
        const expectedCost =
            price === undefined || expectedSeconds === undefined ? undefined : (expectedSeconds / 3600) * price;
        this.log(urn, `would run${inWords(expected, expectedCost)}: ${why}`, { ephemeral: false });
        const keeps = oldInputs === undefined ? [] : await this.kept(stage, plain(oldInputs), inputs);
        const cost = expectedCost === undefined ? {} : { expectedCost };
        return { ...outputs, ...expected, ...cost, ...(keeps.length === 0 ? {} : { keeps }) };
    }

    /** The results that stay what they were, by the name of the input. */
    private async kept(stage: Stage, old: JsonObject, now: JsonObject): Promise<string[]> {
        const were = leaves(identityOf(stage, old));
        const are = leaves(identityOf(stage, now));
        const unchanged = [...are].filter(([field, value]) => isDigest(value) && were.get(field) === value);
        const inputs = unchanged.flatMap(([field]) => /^(?:digests\.)?(\w+)$/.exec(field)?.[1] ?? []);
        if (hasUnknown(now["source"])) return inputs;
        return [...inputs, ...Object.keys((await before(stage.work(now, ""), this.store)).stored)];
    }

    /** How long a stage is likely to take: on another machine it depends on what that one was the last time. */
    private async expected(
        stage: Stage,
        inputs: JsonObject,
        olds: JsonObject | undefined,
        oldInputs: JsonObject | undefined,
    ): Promise<Expectation> {
        if (hasUnknown(inputs["source"])) return {};
        const target = targetSchema.safeParse(inputs["target"]);
        const work = stage.work(inputs, "");
        const client = work.on === "client" && work.before === undefined;
        const here = client || (target.success && target.data.type === "local");
        const machine = here ? thisMachine : await this.lastHost(inputs, olds, oldInputs);
        return machine === undefined ? {} : expectationOf(stage, inputs, work, machine, this.store);
    }

    private async lastHost(inputs: JsonObject, olds: JsonObject = {}, oldInputs: JsonObject = {}) {
        const key = olds["key"];
        if (typeof key !== "string" || !same(plain(oldInputs)["target"], inputs["target"])) return undefined;
        return (await this.store.result(key))?.host;
    }

    private async foreseen(stage: Stage, urn: string, inputs: JsonObject, identity: JsonObject): Promise<JsonObject> {
        const unknown = { key: UNKNOWN, run: UNKNOWN, digest: UNKNOWN, uri: UNKNOWN, facts: UNKNOWN };
        if (hasUnknown(identity)) return { ...unknown, action: "would-run" };
        const key = stageKey(stage, inputs);
        const work = stage.work(inputs, key);
        const mirror = work.on === "target" ? this.mirrorOf(inputs) : undefined;
        const stored = (await this.store.find(key)) ?? (await this.entry(urn, mirror, key));
        if (stored !== undefined) {
            this.tell(stage, urn, stored.metrics);
            return this.outputs(stage, stored, "would-reuse");
        }
        const { stored: made, missing } = await before(work, this.store);
        if (work.on === "client" && work.inPreview !== "unknown" && missing.length === 0) {
            const progress = (text: string): void => {
                this.log(urn, text, { ephemeral: true });
            };
            const context = { store: this.store, progress, session: this.session, made };
            const foreseen =
                work.inPreview === "run"
                    ? await tryInScratch(key, (folder) => work.run({ ...context, folder }))
                    : await work.inPreview();
            this.tell(stage, urn, foreseen.metrics);
            return { ...this.outputs(stage, { key, ...foreseen }, "would-run"), uri: UNKNOWN };
        }
        return { ...unknown, key, run: runName(key), action: "would-run" };
    }

    /**
     * Brings the result of the inputs about. Where the update is cancelled meanwhile, `Interrupted` carries the old
     * outputs (of an update) or none (of a create): what is returned would reach the stages after this one.
     */
    async apply(
        urn: string,
        news: JsonObject,
        olds: JsonObject | undefined,
        oldInputs: JsonObject | undefined,
    ): Promise<JsonObject> {
        const stage = stageOf(urn);
        const name = nameOf(urn);
        const given = plain(news);
        const inputs = recalled(stage, given, olds);
        const target = targetSchema.safeParse(inputs["target"] ?? { type: "local" });
        if (!target.success) throw new UserError(`target: ${problemsOf(target.error)[0]?.message ?? ""}`);
        const why = olds === undefined ? [] : reasons(stage, given, olds, oldInputs ?? {});
        // Before the run itself is among the earlier ones.
        const { expectedSeconds } = await this.expected(stage, inputs, olds, oldInputs);
        try {
            const { result, action, seconds } = await ensure(stage, name, inputs, {
                stack: stackOf(urn),
                store: this.store,
                executor: await this.executor(target.data, urn),
                target: target.data,
                limitSeconds: limitSeconds(target.data),
                mirror: this.mirrorOf(inputs),
                cancelled: this.cancellation.signal,
                session: this.session,
                progress: (text) => {
                    this.log(urn, text, { ephemeral: true });
                },
                warn: (text) => {
                    this.warn(urn, text);
                },
            });
            const { refusal, warnings = [] } = stage.objections?.(result.metrics) ?? {};
            // The result is recorded, but the stack goes on with the one that it has.
            if (refusal !== undefined) {
                throw new UserError(`${refusal}\n  all there is to say: ${uriOf(result, this.store)}`);
            }
            for (const text of warnings) this.warn(urn, text);
            const { pricePerHour } = target.data;
            const cost = pricePerHour === undefined || seconds === 0 ? undefined : (seconds / 3600) * pricePerHour;
            this.session.set(name, { action, seconds, cost, reasons: why, expectedSeconds });
            const outputs = this.outputs(stage, action === "cached" ? result : { ...result, seconds }, action);
            return { ...stage.declares?.(inputs), ...outputs, ...(cost === undefined ? {} : { cost }) };
        } catch (error) {
            if (error instanceof Detached) {
                throw new Interrupted(olds ?? {});
            }
            throw error;
        }
    }

    /** The old outputs, with `drift` where the artifact is no longer what it was. The digest stays as it is. */
    async read(urn: string, inputs: JsonObject, outputs: JsonObject): Promise<JsonObject> {
        const { drift: _drift, ...rest } = outputs;
        const { key, digest } = outputs;
        if (typeof digest !== "string" || typeof key !== "string") return outputs;
        const result = await this.store.result(key);
        const damage =
            result === undefined
                ? "its result.json is gone or was altered"
                : result.at === undefined
                  ? ((await this.store.damage(digest)) ?? (await this.store.strayLink({ key, digest })))
                  : await this.absence(urn, inputs, result);
        // The home may have been moved.
        const now = result === undefined ? rest : { ...rest, uri: uriOf(result, this.store) };
        return damage === undefined ? now : { ...now, drift: damage };
    }

    /** Whether an artifact that has stayed on a target is still there. A target that does not answer tells nothing. */
    private async absence(urn: string, inputs: JsonObject, { digest, at }: Result): Promise<string | undefined> {
        const target = targetSchema.safeParse(plain(inputs)["target"]);
        if (!target.success) return undefined;
        const executor = await this.executor(target.data, urn);
        const missing = await executor.missing([digest]).catch(() => []);
        return missing.length === 0 ? undefined : `the artifact is gone from ${at ?? "the target"}`;
    }

    /**
     * Stops what is still going on of the stage, and waits for its checkpoint: the run of the newest update too, whose inputs
     * the state does not have where it was interrupted. Artifacts stay until garbage is collected.
     */
    async delete(urn: string): Promise<void> {
        const { home } = this.store;
        const stack = stackOf(urn);
        const all = followedRuns(home);
        const own = all.filter((one) => one.stack === stack && one.stage === nameOf(urn));
        for (const { key, target } of own) {
            const known = readRun(home, key);
            const other = all.find((one) => one.key === key && one.stack !== stack);
            if (known !== undefined && !isActive(known)) continue;
            if (other === undefined) await this.stop(urn, key, target, known !== undefined);
            else this.warn(urn, `run ${runName(key)} goes on: stack ${other.stack} follows it, too`);
        }
        for (const followed of own) await dropFollowed(home, followed);
    }

    /** @param isKnown whether the target has said that there is such a run. */
    private async stop(urn: string, key: string, target: Target, isKnown: boolean): Promise<void> {
        try {
            const executor = await this.executor(target, urn);
            const until = Date.now() + STOPPING * 1000;
            let now = await executor.stop(key);
            while (isActive(now) && Date.now() < until && !this.cancelled.aborted) {
                this.log(urn, `stopping run ${runName(key)} after its current step`, { ephemeral: true });
                now = await executor.status(key, { cursor: now.cursor, waitSeconds: 10 });
            }
        } catch (error) {
            if (error instanceof Absent) return; // it has ended with its machine
            if (!(error instanceof UserError)) throw error;
            // A machine that Retune has made is never left on because it does not answer; and for a run that may never have
            // been started, a host that is gone for good does not keep the stack.
            if (!isOfStack(target) && isKnown) throw error;
            const end = isOfStack(target) ? "ends with its machine" : "goes on if it was started";
            this.warn(urn, `run ${runName(key)} could not be stopped, and ${end}: ${error.message}`);
        }
    }

    /** One for all stages on a target: it asks once what there is to know of it. */
    private executor(target: Target, urn: string): Promise<Executor> {
        const name = JSON.stringify(target);
        const executor =
            this.executors.get(name) ??
            this.executorFor(target, this.store, (text) => {
                this.log(urn, text, { ephemeral: false, warning: true });
            });
        this.executors.set(name, executor);
        return executor;
    }

    /** One for all stages: one that does not answer is found out once. */
    private mirrorOf(inputs: JsonObject): Mirror | undefined {
        const target = targetSchema.safeParse(inputs["target"]);
        const remote = target.success ? target.data.mirror : undefined;
        if (remote === undefined) return undefined;
        const mirror = this.mirrors.get(remote) ?? new Mirror(remote, this.store);
        this.mirrors.set(remote, mirror);
        return mirror;
    }

    /** What a mirror says of a key; nothing, with a warning, where it does not answer. */
    private async entry(urn: string, mirror: Mirror | undefined, key: string): Promise<Result | undefined> {
        try {
            return await mirror?.entry(key);
        } catch (error) {
            if (!(error instanceof Unreachable)) throw error;
            this.warn(urn, `${error.message}; this plan cannot tell what it has`);
            return undefined;
        }
    }

    /** What a result would meet with, in a preview. */
    private tell(stage: Stage, urn: string, metrics: Metrics): void {
        const { refusal } = stage.objections?.(metrics) ?? {};
        if (refusal !== undefined) this.warn(urn, `this would be ${refusal}`);
    }

    /** Once, however many stages come upon it. */
    private warn(urn: string, text: string): void {
        if (this.warned.has(text)) return;
        this.warned.add(text);
        this.log(urn, text, { ephemeral: false, warning: true });
    }

    private outputs(stage: Stage, result: ResultInPreview, action: string): JsonObject {
        return {
            key: result.key,
            run: runName(result.key),
            digest: result.digest,
            uri: uriOf(result, this.store),
            facts: stage.facts(result.metrics),
            ...("seconds" in result
                ? { seconds: result.seconds, finishedAt: new Date(result.finishedAt * 1000).toISOString() }
                : {}),
            ...("host" in result ? { host: result.host } : {}),
            action,
        };
    }
}

/** The fields of a resource with their defaults, and what is wrong with them. What is not known yet passes. */
export function checkFields(fields: z.ZodRawShape, given: JsonObject) {
    const inputs: Record<string, Json> = {};
    const failures: string[] = [];
    for (const [name, schema] of Object.entries(fields) as [string, z.ZodType][]) {
        const value = given[name];
        if (hasUnknown(value)) {
            inputs[name] = value as Json;
            continue;
        }
        const parsed = schema.safeParse(value);
        if (parsed.success) {
            if (parsed.data !== undefined) inputs[name] = parsed.data as Json;
        } else {
            failures.push(...problemsOf(parsed.error, [name]).map(({ path, message }) => `${path}: ${message}`));
        }
    }
    return { inputs, failures };
}

/** What a refresh has found, as a change: an update takes it away. */
export function driftOf(outputs: JsonObject): Change[] {
    const drift = outputs["drift"];
    return drift === undefined || drift === null ? [] : [{ kind: "removed", field: "drift", old: drift }];
}

function reasons(stage: Stage, inputs: JsonObject, olds: JsonObject, oldInputs: JsonObject): string[] {
    return reasonsFor(changesBetween(identityOf(stage, plain(oldInputs)), identityOf(stage, inputs)), olds);
}

/** Why an update is called, in words: also where nothing has changed. */
export function reasonsFor(changes: readonly Change[], olds: JsonObject): string[] {
    const said = changes.map(describeChange);
    if (typeof olds["drift"] === "string") said.push(`repairs: ${olds["drift"]}`);
    return said.length > 0 ? said : ["the last update did not come to its end"];
}

/** The inputs with what the stack's past adds to them. */
function recalled(stage: Stage, inputs: JsonObject, olds: JsonObject | undefined): JsonObject {
    // What is not known yet has no past; nor has its key.
    if (hasUnknown(identityOf(stage, inputs))) return inputs;
    return { ...inputs, ...stage.recalls?.(inputs, olds === undefined ? undefined : plain(olds)) };
}

/** Whether the machine is a resource of the stack itself, and goes where the stack goes. */
function isOfStack(target: Target): boolean {
    return target.type === "ssh" && target.instance !== undefined;
}

function isDigest(value: Json): boolean {
    return typeof value === "string" && /^[0-9a-f]{64}$/.test(value);
}

function inWords({ expectedSeconds, lastSeconds }: Expectation, cost: number | undefined): string {
    if (expectedSeconds !== undefined) {
        const money = cost === undefined ? "" : `, cost ${cost.toFixed(2)}`;
        return ` (about ${duration(expectedSeconds)}${money})`;
    }
    return lastSeconds === undefined ? "" : ` (took ${duration(lastSeconds)} last time)`;
}

/** Where the artifact lies. */
function uriOf(result: ResultInPreview, store: Store): string {
    return "at" in result
        ? `ssh://${result.at}/store/${result.digest}`
        : pathToFileURL(path.join(store.runFolder(result.key), "out")).href;
}

type ResultInPreview = Result | ({ readonly key: string } & Foreseen);

/** The digest and metrics that a client's work would have, remembered in the cache: previews are made often. */
async function tryInScratch(key: string, make: (folder: string) => Promise<Metrics>): Promise<Foreseen> {
    const memory = path.join(cache(), "previews", `${sha256(key).slice(0, 32)}.json`);
    const remembered = await readJson<Foreseen>(memory);
    if (remembered !== undefined) return remembered;
    const folder = await fs.promises.mkdtemp(path.join(os.tmpdir(), "retune-preview-"));
    try {
        const metrics = await make(folder);
        const made = { digest: digestOfFiles(await listFiles(folder)), metrics };
        await fs.promises.mkdir(path.dirname(memory), { recursive: true });
        await writeJson(memory, made);
        return made;
    } finally {
        await fs.promises.rm(folder, { recursive: true, force: true });
    }
}

/** A run's name for people: the beginning of its key. */
function runName(key: string): string {
    return key.slice(0, 12);
}

/** The stage of a URN such as urn:pulumi:dev::retune::finetune:pipeline:Training::training. */
function stageOf(urn: string): Stage {
    const kind = urn.split("::")[2]?.split(":").at(-1) ?? "";
    const stage = stages.get(kind);
    if (stage === undefined)
        throw new UserError(`there is no stage ${kind}; there is ${[...stages.keys()].join(", ")}`);
    return stage;
}

export function stackOf(urn: string): string {
    const [start = ""] = urn.split("::");
    return start.slice("urn:pulumi:".length);
}

export function nameOf(urn: string): string {
    return urn.slice(urn.lastIndexOf("::") + 2);
}
