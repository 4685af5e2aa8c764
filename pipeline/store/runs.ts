import * as fs from "node:fs";
import * as path from "node:path";
import type { Target } from "../../infra/target";
import { parseEvents, type RunEvent, type RunState } from "../executor/executor";
import { parseJson, type JsonObject } from "../identity";
import { whyLost } from "../processes";
import { UserError } from "../user-error";

/** A run as its folder tells it, without asking anybody. Times are seconds since 1970. */
export interface RunSummary {
    readonly key: string;
    /** The beginning of the key, as commands take it. */
    readonly run: string;
    readonly kind: string;
    readonly stage: string;
    readonly state: RunState;
    readonly reason?: string;
    readonly queuedAt: number | null;
    readonly startedAt: number | null;
    readonly finishedAt: number | null;
    readonly phase?: string;
    readonly step?: number;
    readonly steps?: number;
    readonly loss?: number;
    readonly etaSeconds?: number;
    /** Of a run on another machine: where it is, and when it was last heard of. */
    readonly target?: Target;
    readonly heardAt?: number;
}

/** As they ought to be; what is really in a file is found out field by field. */
interface JobFile {
    readonly kind?: unknown;
    readonly stage?: unknown;
}

interface StateFile {
    readonly state?: RunState;
    readonly reason?: unknown;
    readonly pid?: number;
    readonly pidStarted?: number;
    readonly boot?: string;
    readonly queuedAt?: unknown;
    readonly startedAt?: unknown;
    readonly finishedAt?: unknown;
    readonly target?: Target;
    readonly heardAt?: number;
    readonly progress?: Progress;
}

type Progress = Extract<RunEvent, { type: "progress" }>;

/** All runs of a home on this machine, newest first. */
export function listRuns(home: string): RunSummary[] {
    const folder = path.join(home, "runs");
    const keys = fs.existsSync(folder) ? fs.readdirSync(folder).filter((name) => /^[0-9a-f]{64}$/.test(name)) : [];
    const runs = keys.flatMap((key) => readRun(home, key) ?? []);
    return runs.sort((a, b) => (b.queuedAt ?? 0) - (a.queuedAt ?? 0));
}

export function isActive({ state }: { readonly state?: RunState }): boolean {
    return state === "queued" || state === "running";
}

/** The one run whose key begins with `name`. Throws UserError where there is none, or more than one. */
export function findRun(home: string, name: string): RunSummary {
    const found = listRuns(home).filter((run) => /^[0-9a-f]+$/.test(name) && run.key.startsWith(name));
    if (found[0] === undefined) throw new UserError(`there is no run ${name}; \`npm run status\` lists the runs`);
    if (found.length > 1) throw new UserError(`${name} stands for ${found.length} runs: give more of its characters`);
    return found[0];
}

/** A run of this home; undefined where there is none of this key. */
export function readRun(home: string, key: string): RunSummary | undefined {
    const folder = path.join(home, "runs", key);
    const file = path.join(folder, "state.json");
    if (!fs.existsSync(file) && !hasResult(folder, key)) return undefined; // not one yet
    const state: StateFile = readObject(file) ?? {};
    const job: JobFile = readObject(path.join(folder, "job.json")) ?? {};
    const { state: is, reason } = judged(folder, key, state);
    const active = isActive({ state: is });
    return {
        key,
        run: key.slice(0, 12),
        kind: typeof job.kind === "string" ? job.kind : "?",
        stage: typeof job.stage === "string" ? job.stage : "?",
        state: is,
        ...(reason ? { reason } : {}),
        queuedAt: time(state.queuedAt),
        startedAt: time(state.startedAt),
        finishedAt: time(state.finishedAt),
        ...(state.target === undefined ? progressOf(path.join(folder, "events.jsonl"), active) : shown(state.progress)),
        ...(state.target === undefined ? {} : { target: state.target }),
        ...(state.heardAt === undefined ? {} : { heardAt: state.heardAt }),
    };
}

/** As the runner judges it, but for its lock: what cannot be told from the files is lost. */
function judged(folder: string, key: string, state: StateFile): { state: RunState; reason?: string | null } {
    const { state: is, target } = state;
    const reason = typeof state.reason === "string" ? state.reason : null;
    if (target !== undefined && is !== undefined) return { state: is, reason }; // a note of a run elsewhere
    const gone = isActive(state) ? whyLost(state) : undefined;
    if (is !== undefined && isActive(state) && gone === undefined) return { state: is };
    if (hasResult(folder, key)) return { state: "succeeded" };
    if (is === "failed" || is === "stopped") return { state: is, reason };
    return { state: "lost", reason: gone ?? whatIsWrong(is) };
}

function hasResult(folder: string, key: string): boolean {
    return readObject(path.join(folder, "result.json"))?.["key"] === key;
}

function whatIsWrong(state: unknown): string {
    if (state === "succeeded") return "its result.json is gone or was altered";
    if (typeof state !== "string") return "its state.json cannot be read";
    return `its state.json says '${state}', which this Retune does not know: a newer one may have written it`;
}

function progressOf(file: string, active: boolean): Partial<RunSummary> {
    const events = fs.existsSync(file) ? parseEvents(fs.readFileSync(file, "utf8")) : [];
    const last = events.findLast((event) => event.type === "progress");
    if (last === undefined) return {};
    // From the last note on: between two attempts time has passed in which no step was done.
    const since = events.findLastIndex((event) => event.type === "note");
    const first = events.slice(since + 1).find((event) => event.type === "progress" && event.phase === last.phase);
    const done = first?.type === "progress" ? last.step - first.step : 0;
    const perStep = first !== undefined && done > 0 ? (last.time - first.time) / done : 0;
    const eta = active && perStep > 0 ? { etaSeconds: Math.round(perStep * (last.steps - last.step)) } : {};
    return { ...shown(last), ...eta };
}

/** The losses that a run has told so far; none of one on another machine, whose events stay there until it ends. */
export function lossesOf(home: string, key: string): number[] {
    const file = path.join(home, "runs", key, "events.jsonl");
    const events = fs.existsSync(file) ? parseEvents(fs.readFileSync(file, "utf8")) : [];
    return events.flatMap((event) => (event.type === "progress" ? (event.loss ?? []) : []));
}

function shown(last: Progress | undefined): Partial<RunSummary> {
    if (last === undefined) return {};
    const { phase, step, steps, loss } = last;
    return { phase, step, steps, ...(loss === undefined ? {} : { loss }) };
}

function readObject(file: string): JsonObject | undefined {
    try {
        return parseJson(fs.readFileSync(file, "utf8"));
    } catch {
        return undefined;
    }
}

function time(value: unknown): number | null {
    return typeof value === "number" ? value : null;
}
