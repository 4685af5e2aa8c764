import { stageKey, type SessionEntry, type Stage, type TargetRun } from "../stage";
import {
    isEvent,
    type Executor,
    type Job,
    type RunEvent,
    type RunStatus,
    type Submitted,
    type Supplies,
} from "../executor/executor";
import type { JsonObject } from "../identity";
import type { Target } from "../../infra/target";
import { programs } from "../llamafactory/job";
import { describeProgress, type Progress } from "../progress";
import { secretOf } from "../secrets";
import { dropEnded, noteFollowed } from "../store/followed";
import { isActive, readRun } from "../store/runs";
import { Mirror, s3Remote, Unreachable } from "../store/mirror";
import type { Result, Store } from "../store/store";
import { dropUpload, noteUpload } from "../store/uploads";
import { UserError } from "../user-error";

/** What the stages of one update share. */
export interface Surroundings {
    readonly stack: string;
    readonly store: Store;
    readonly executor: Executor;
    readonly target: Target;
    /** Where results are also looked for, and sent to. */
    readonly mirror: Mirror | undefined;
    /** Of one run, with all its attempts; undefined where there is no limit. */
    readonly limitSeconds: number | undefined;
    /** Aborted when the update is cancelled: following ends, what runs on a target goes on. */
    readonly cancelled: AbortSignal;
    readonly session: ReadonlyMap<string, SessionEntry>;
    readonly progress: (text: string) => void;
    readonly warn: (text: string) => void;
}

/** The update was cancelled while the stage's run was going on. The next update attaches to it. */
export class Detached extends Error {}

interface Ensured {
    readonly result: Result;
    readonly action: "ran" | "cached" | "attached";
    /** Of all that was run for it, now or by those that it attached to. */
    readonly seconds: number;
}

/** The result of a stage: taken from the store, or of the run that is already going on, or of one that is started. */
export async function ensure(
    stage: Stage,
    name: string,
    inputs: JsonObject,
    surroundings: Surroundings,
): Promise<Ensured> {
    try {
        return await resultOf(stage, name, inputs, surroundings);
    } finally {
        await dropEnded(surroundings.store.home, surroundings.stack, name);
    }
}

async function resultOf(stage: Stage, name: string, inputs: JsonObject, surroundings: Surroundings): Promise<Ensured> {
    const { store, progress, session } = surroundings;
    const key = stageKey(stage, inputs);
    const work = stage.work(inputs, key);
    const stored = (await store.find(key)) ?? (work.on === "target" ? await fetched(key, surroundings) : undefined);
    if (stored !== undefined) {
        await store.touch(stored);
        if (work.on === "target" && stored.at === undefined) await sent(stored, surroundings);
        return { result: stored, action: "cached", seconds: 0 };
    }
    // A cancelled update starts nothing more, although the engine may still ask.
    if (surroundings.cancelled.aborted) throw new Detached();
    switch (work.on) {
        case "client": {
            const before: Ensured[] = [];
            const made: Record<string, Result> = {};
            for (const [input, one] of Object.entries(work.before ?? {})) {
                const ensured = await ensureRun(one, name, surroundings);
                made[input] = ensured.result;
                before.push(ensured);
            }
            const taken = Object.entries(made).map(([input, { digest }]) => [input, digest] as const);
            const run = {
                ...{ key, kind: stage.kind, stage: name, parameters: inputs },
                inputs: { ...work.keeps, ...Object.fromEntries(taken) },
                before: before.map(({ result }) => result.key),
                host: before.at(-1)?.result.host,
            };
            const making = store.make(run, (folder) => work.run({ folder, store, progress, session, made }));
            const result = await orDetached(making, surroundings);
            const followed = before.some((one) => one.action === "attached");
            return {
                result,
                action: followed && before.every((one) => one.action !== "ran") ? "attached" : "ran",
                seconds: Math.round(10 * before.reduce((sum, one) => sum + one.seconds, result.seconds)) / 10,
            };
        }
        case "target":
            return ensureRun(work.run, name, surroundings);
    }
}

async function ensureRun(run: TargetRun, stage: string, surroundings: Surroundings): Promise<Ensured> {
    const { executor, store, progress, limitSeconds, stack, target } = surroundings;
    const stored = (await store.result(run.key)) ?? (await fetched(run.key, surroundings));
    // A result without its artifact is no result: the run is repeated. One that appears from here on is a good one.
    if (stored !== undefined && (await store.flaw(stored)) === undefined) {
        return { result: stored, action: "cached", seconds: 0 };
    }
    if (surroundings.cancelled.aborted) throw new Detached();
    await refuseElsewhere(run.key, surroundings);
    await orDetached(executor.wake(progress), surroundings);
    await noteFollowed(store.home, { stack, stage, key: run.key, target });
    // What is damaged here may be whole on the target: then it is only brought here again.
    const again = stored !== undefined && (await executor.missing([stored.digest])).length > 0;
    const { stays, ...rest } = run;
    const checkpoints = run.stoppable ? checkpointsOn(surroundings.target) : undefined;
    const job = { ...rest, stage, limitSeconds, checkpoints };
    let status = again ? undefined : await goingOn(run.key, surroundings);
    if (status === undefined) {
        await provide(Object.entries(run.inputs), stage, surroundings);
        status = await executor.submit(job, supplies(run), again);
    }
    let made = await follow(status, surroundings);
    if (!status.started && (await executor.missing([made.digest])).length > 0) {
        status = await executor.submit(job, supplies(run), true);
        made = await follow(status, surroundings);
    }
    const result = await orDetached(executor.collect(made, stays, progress), surroundings);
    if (result.at === undefined) await sent(result, surroundings);
    if (checkpoints !== undefined) await dropCheckpoints(run.key, checkpoints, surroundings);
    return { result, action: status.started ? "ran" : "attached", seconds: result.seconds };
}

/** A run that this client knew to be going on, if it still is: it has its inputs, and there is nothing to submit. */
async function goingOn(key: string, { executor, store }: Surroundings): Promise<Submitted | undefined> {
    const known = readRun(store.home, key);
    if (known === undefined || !isActive(known)) return undefined;
    const status = await executor.status(key, { cursor: 0, waitSeconds: 0 });
    return isActive(status) ? { ...status, started: false } : undefined;
}

/** What the mirror has of a key. It only saves work: where it does not answer, the stage runs. */
async function fetched(key: string, surroundings: Surroundings): Promise<Result | undefined> {
    const { mirror, warn } = surroundings;
    if (mirror === undefined) return undefined;
    try {
        return await orDetached(mirror.fetch(key), surroundings);
    } catch (error) {
        if (!(error instanceof Unreachable)) throw error;
        warn(`${error.message}; what it may have runs again`);
        return undefined;
    }
}

/**
 * Sends a result to the mirror. One that does not get there counts all the same, and is sent by a later update: it is
 * noted before the transfer, for the update may be cancelled and the client killed in it.
 */
async function sent(result: Result, surroundings: Surroundings): Promise<void> {
    const { store, mirror, warn } = surroundings;
    if (mirror === undefined) return;
    const upload = { key: result.key, remote: mirror.remote };
    await noteUpload(store.home, upload);
    try {
        await orDetached(mirror.push(result), surroundings);
        await dropUpload(store.home, upload);
    } catch (error) {
        if (error instanceof Detached) return;
        if (!(error instanceof UserError)) throw error;
        warn(`${error.message}; run ${result.key.slice(0, 12)} counts, and the next \`npm run up\` sends it`);
    }
}

/** Where a machine that may be lost with its disk keeps copies of checkpoints. */
function checkpointsOn(target: Target): Job["checkpoints"] {
    const { checkpoints: place, region } = (target.type === "ssh" ? target.instance : undefined) ?? {};
    return place === undefined || region === undefined ? undefined : { place, region };
}

/** The result is here: nothing goes on from a checkpoint any more. Those that stay are removed by the bucket's own rule. */
async function dropCheckpoints(
    key: string,
    { place, region }: NonNullable<Job["checkpoints"]>,
    surroundings: Surroundings,
): Promise<void> {
    const { store, warn } = surroundings;
    try {
        await orDetached(new Mirror(s3Remote(place, region), store).dropCheckpoints(key), surroundings);
    } catch (error) {
        if (error instanceof Detached) return;
        if (!(error instanceof UserError)) throw error;
        warn(`${error.message}; the checkpoints of run ${key.slice(0, 12)} stay in s3://${place}/${key}`);
    }
}

/** The same run on another machine would be the same work twice. */
async function refuseElsewhere(key: string, { store, target }: Surroundings): Promise<void> {
    const run = readRun(store.home, key);
    if (run === undefined || !isActive(run)) return;
    const there = run.target ?? { type: "local" as const };
    if (placeOf(there) === placeOf(target)) return;
    if (there.type === "ssh" && there.instance !== undefined) {
        const { Instance } = await import("../executor/instance");
        if (!(await new Instance(there.host, there.instance.region).isAwake())) return;
    }
    const where = there.type === "ssh" ? there.host : "this machine";
    const gone = there.type === "ssh" ? `; if ${where} is gone for good, remove ${store.runFolder(key)}` : "";
    throw new UserError(
        `run ${run.run} goes on at ${where}: set the target back to follow it, or \`npm run stop -- ${run.run}\`${gone}`,
    );
}

/** Where a target keeps what it has. */
export function placeOf(target: Target): string {
    return target.type === "ssh" ? `${target.user}@${target.host}:${target.port} ${target.home}` : target.type;
}

/**
 * Sees to it that a target has the artifacts of these inputs: from the client's store, or, of one that stayed on
 * another target, by the run that it came from.
 */
async function provide(
    inputs: readonly (readonly [name: string, digest: string])[],
    stage: string,
    surroundings: Surroundings,
): Promise<void> {
    const { executor, store, progress, limitSeconds, stack, target } = surroundings;
    const missing = await executor.missing(inputs.map(([, digest]) => digest));
    for (const [name, digest] of inputs.filter(([, one]) => missing.includes(one))) {
        if ((await store.damage(digest)) === undefined) {
            await orDetached(executor.send(digest, progress), surroundings);
            continue;
        }
        const job = await store.jobOf(digest);
        if (job === undefined) {
            const what = `${name} (${digest.slice(0, 12)})`;
            throw new UserError(
                `its input ${what} is not in the store: \`npm run refresh\`, then \`npm run up\` bring it back`,
            );
        }
        progress(`bringing about ${name} again`);
        await provide(Object.entries(job.inputs), stage, surroundings);
        const checkpoints = job.stoppable ? checkpointsOn(target) : undefined;
        await noteFollowed(store.home, { stack, stage, key: job.key, target });
        const status = await executor.submit({ ...job, limitSeconds, checkpoints }, supplies(job), true);
        const made = await follow(status, surroundings);
        if (made.digest === digest) continue;
        throw new UserError(
            `its input ${name} came out as ${made.digest.slice(0, 12)} instead of ${digest.slice(0, 12)}: run \`npm run refresh\`, then \`npm run up\``,
        );
    }
}

function supplies({ program, hub }: Pick<Job, "program" | "hub">): Supplies {
    // Of a run that asks no hub the token is none of its business, be it a usable one or not.
    const token = hub ? secretOf("huggingfaceToken") : undefined;
    return { programs: programs(program), secrets: token === undefined ? {} : { HF_TOKEN: token } };
}

async function follow(first: RunStatus, surroundings: Surroundings): Promise<Result> {
    const { executor, cancelled, progress, target, warn } = surroundings;
    const tell = new Teller(progress, warn, target.pricePerHour);
    let status = first;
    for (;;) {
        tell.since = status.startedAt ?? undefined;
        for (const event of status.events.filter(isEvent)) tell.event(event);
        switch (status.state) {
            case "queued":
                // For a moment every run is.
                if (status !== first) tell.line("waiting for another run on this machine to end");
                break;
            case "running":
                tell.start();
                break;
            case "succeeded":
                if (status.result === undefined) throw new Error(`run ${status.key} succeeded without a result`);
                return status.result;
            case "failed":
            case "stopped":
            case "lost":
                throw new UserError(explain(status));
        }
        if (cancelled.aborted) throw new Detached();
        const waitSeconds = status === first ? 1 : 10;
        const next = executor.status(status.key, { cursor: status.cursor, waitSeconds });
        status = await orDetached(next, surroundings);
    }
}

/** Waits for something, but not beyond the moment at which the update is cancelled. */
export async function orDetached<Value>(
    value: Promise<Value>,
    { cancelled }: { readonly cancelled: AbortSignal },
): Promise<Value> {
    if (cancelled.aborted) throw new Detached();
    let stop: () => void = () => undefined;
    const abort = new Promise<never>((_, reject) => {
        stop = () => {
            reject(new Detached());
        };
        cancelled.addEventListener("abort", stop, { once: true });
    });
    try {
        return await Promise.race([value, abort]);
    } finally {
        cancelled.removeEventListener("abort", stop);
        // Nobody waits any more; what it ends with has to go nowhere.
        value.catch(() => undefined);
    }
}

function explain(status: RunStatus): string {
    const run = status.key.slice(0, 12);
    // The reason is often the last thing that the program has said.
    const said = new Set(status.reason?.split("\n"));
    const lines = (status.log ?? "")
        .trimEnd()
        .split("\n")
        .filter((line) => !said.has(line))
        .slice(-12);
    const log =
        lines.join("").trim() === "" ? "" : `\n  last lines of its log:\n${lines.map((l) => `    ${l}`).join("\n")}`;
    const next = status.state === "failed" ? "the whole log" : "`npm run up` resumes it; its log";
    return `run ${run} ${status.state}: ${status.reason ?? "no reason is known"}${log}\n  ${next}: npm run logs -- ${run}`;
}

/** Turns events into lines, with the time left and the cost from this client's own clock. */
class Teller {
    /** When the run began, in seconds since 1970; undefined before. */
    since: number | undefined;
    private firstStep: { step: number; at: number } | undefined;
    private last: Progress | undefined;
    private said = "";

    constructor(
        private readonly progress: (text: string) => void,
        private readonly warn: (text: string) => void,
        private readonly pricePerHour: number | undefined,
    ) {}

    start(): void {
        if (this.since !== undefined && this.firstStep === undefined && this.said === "") this.line("starting");
    }

    line(text: string): void {
        if (text === this.said) return;
        this.said = text;
        this.progress(text);
    }

    event(event: RunEvent): void {
        switch (event.type) {
            case "note":
                this.firstStep = undefined;
                this.last = undefined;
                if (event.warning === true) this.warn(event.text);
                else this.line(event.text);
                break;
            case "evaluated":
                if (this.last === undefined) this.line(`validation loss ${event.evalLoss.toFixed(4)}`);
                else this.tell({ ...this.last, evalLoss: event.evalLoss });
                break;
            case "progress": {
                const { phase, step, steps, loss } = event;
                this.firstStep ??= { step, at: event.time };
                const done = step - this.firstStep.step;
                const perStep = done > 0 ? (event.time - this.firstStep.at) / done : 0;
                const secondsLeft = perStep > 0 ? perStep * (steps - step) : undefined;
                const { evalLoss } = this.last ?? {};
                this.tell({ phase, step, steps, loss, evalLoss, secondsLeft, cost: this.costAt(event.time) });
                break;
            }
        }
    }

    private tell(progress: Progress): void {
        this.last = progress;
        this.line(describeProgress(progress));
    }

    /** The price of the time since the run began; undefined where the target has none. */
    private costAt(time: number): number | undefined {
        if (this.pricePerHour === undefined || this.since === undefined) return undefined;
        return (Math.max(time - this.since, 0) / 3600) * this.pricePerHour;
    }
}
