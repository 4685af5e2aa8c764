import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { parseEvents } from "../executor/executor";
import { hasUnknown, same, type JsonObject } from "../identity";
import { identityOf, type Effort, type Stage, type TargetRun, type Work } from "../stage";
import type { Result, Store } from "../store/store";

/** How long something is likely to take, in seconds. */
export interface Expectation {
    /** As an earlier run did that had as much to do, or whose steps tell how long as many of them take. */
    readonly expectedSeconds?: number;
    /** As the newest run did, where what it had to do is no measure. */
    readonly lastSeconds?: number;
}

/** What decides how fast a machine is, as far as a run has noted it. */
export type Machine = Pick<NonNullable<Result["host"]>, "name" | "machine" | "cpus" | "gpus">;

export const thisMachine: Machine = { name: os.hostname(), machine: os.machine(), cpus: os.cpus().length };

/** Earlier runs of a kind that are looked at: one that is alike is nearly always among the newest. */
const MOST = 20;

/** What the runs of a stage that are still to be done are likely to take on a machine; empty where nobody knows. */
export async function expectationOf(
    stage: Stage,
    inputs: JsonObject,
    work: Work,
    machine: Machine,
    store: Store,
): Promise<Expectation> {
    const parts: Expectation[] = [];
    // What the client makes of runs on a target takes no time beside them.
    if (work.on === "target" || work.before === undefined) {
        parts.push(await expectation(stage, stage.kind, descriptionOf(stage, inputs, work), machine, store));
    }
    for (const { parameters, inputs: artifacts, kind } of (await before(work, store)).missing) {
        parts.push(await expectation(stage, kind, { ...parameters, ...artifacts }, machine, store));
    }
    const seconds = parts.flatMap((part) => part.expectedSeconds ?? part.lastSeconds ?? []);
    if (seconds.length < parts.length) return {};
    const sum = Math.round(10 * seconds.reduce((total, one) => total + one, 0)) / 10;
    return parts.every((part) => part.expectedSeconds !== undefined) ? { expectedSeconds: sum } : { lastSeconds: sum };
}

/** The runs before a client's work: the results that the store has, by name, and the others. */
export async function before(
    work: Work,
    store: Store,
): Promise<{ stored: Record<string, Result>; missing: TargetRun[] }> {
    const stored: Record<string, Result> = {};
    const missing: TargetRun[] = [];
    for (const [name, run] of Object.entries(work.on === "client" ? (work.before ?? {}) : {})) {
        const known = hasUnknown(run.inputs) ? undefined : await store.find(run.key);
        if (known === undefined) missing.push(run);
        else stored[name] = known;
    }
    return { stored, missing };
}

async function expectation(stage: Stage, kind: string, job: JsonObject, machine: Machine, store: Store) {
    const wanted = effortOf(stage, job);
    const earlier = (await store.newest(kind, MOST)).filter((run) => isAlike(run.host ?? thisMachine, machine));
    for (const run of earlier) {
        const done = effortOf(stage, await jobOf(stage, run, store));
        if (!same(done.like, wanted.like)) continue;
        const expectedSeconds = await scaled(run, wanted.amount / done.amount, store);
        if (expectedSeconds !== undefined) return { expectedSeconds };
    }
    return earlier[0] === undefined ? {} : { lastSeconds: earlier[0].seconds };
}

function isAlike(one: Machine, other: Machine): boolean {
    // Which GPUs it has, a machine says only where a run has asked it.
    const gpus = one.name === other.name || same(one.gpus ?? [], other.gpus ?? []);
    return one.machine === other.machine && one.cpus === other.cpus && gpus;
}

function effortOf(stage: Stage, job: JsonObject): Effort {
    return stage.effort?.(job) ?? { amount: 1, like: job };
}

/** What a run has to do, in the words of its job file. */
function descriptionOf(stage: Stage, inputs: JsonObject, work: Work): JsonObject {
    return work.on === "target" ? { ...work.run.parameters, ...work.run.inputs } : withoutTools(stage, inputs);
}

async function jobOf(stage: Stage, run: Result, store: Store): Promise<JsonObject> {
    const { parameters = {}, inputs } = (await store.job(run.key)) ?? {};
    return inputs === undefined ? withoutTools(stage, parameters) : { ...parameters, ...inputs };
}

function withoutTools(stage: Stage, inputs: JsonObject): JsonObject {
    const { tools: _tools, ...rest } = identityOf(stage, inputs);
    return rest;
}

/** The time of a run with so many times as much to do; undefined where its steps do not tell what one of them takes. */
async function scaled(run: Result, times: number, store: Store): Promise<number | undefined> {
    if (times === 1) return run.seconds;
    const file = path.join(store.runFolder(run.key), "events.jsonl");
    const events = parseEvents(await fs.promises.readFile(file, "utf8").catch(() => ""));
    const steps = events.flatMap((event) => (event.type === "progress" && event.phase === "learning" ? event : []));
    const paces = steps.flatMap((event, index) => {
        const next = steps[index + 1];
        return next !== undefined && next.step > event.step ? (next.time - event.time) / (next.step - event.step) : [];
    });
    // The median: saving, validating and the time between two attempts are between some of the steps.
    const pace = paces.sort((a, b) => a - b)[Math.floor(paces.length / 2)];
    const last = steps.at(-1);
    if (pace === undefined || last === undefined) return undefined;
    // What is not steps, such as loading the model, takes as long whatever their number.
    return Math.max(run.seconds + pace * last.steps * (times - 1), 0);
}
