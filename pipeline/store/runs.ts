import * as fs from "node:fs";
import * as path from "node:path";
import type { Target } from "../../infra/target";
import type { RunEvent, RunState } from "../executor/executor";
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

interface JobFile {
    readonly kind: string;
    readonly stage: string;
}

interface StateFile {
    readonly state: Exclude<RunState, "lost">;
    readonly reason?: string | null;
    readonly pid?: number;
    readonly pidStarted?: number;
    readonly boot?: string;
    readonly queuedAt?: number;
    readonly startedAt?: number | null;
    readonly finishedAt?: number | null;
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

/** The one run whose key begins with `name`. Throws UserError where there is none, or more than one. */
export function findRun(home: string, name: string): RunSummary {
    const found = listRuns(home).filter((run) => /^[0-9a-f]+$/.test(name) && run.key.startsWith(name));
    if (found[0] === undefined) throw new UserError(`there is no run ${name}; \`npm run status\` lists the runs`);
    if (found.length > 1) throw new UserError(`${name} stands for ${found.length} runs: give more of its characters`);
    return found[0];
}

function readRun(home: string, key: string): RunSummary | undefined {
    const folder = path.join(home, "runs", key);
    const state = parse(path.join(folder, "state.json")) as StateFile | undefined;
    const job = parse(path.join(folder, "job.json")) as JobFile | undefined;
    if (state === undefined || job === undefined) return undefined;
    const active = state.state === "queued" || state.state === "running";
    const remote = state.target !== undefined;
    const lost = active && !remote && !ownerAlive(state);
    const reason = lost ? "its process is gone without a result" : state.reason;
    return {
        key,
        run: key.slice(0, 12),
        kind: job.kind,
        stage: job.stage,
        state: lost ? "lost" : state.state,
        ...(reason ? { reason } : {}),
        queuedAt: state.queuedAt ?? null,
        startedAt: state.startedAt ?? null,
        finishedAt: state.finishedAt ?? null,
        ...(remote ? shown(state.progress) : progressOf(path.join(folder, "events.jsonl"), active && !lost)),
        ...(state.target === undefined ? {} : { target: state.target }),
        ...(state.heardAt === undefined ? {} : { heardAt: state.heardAt }),
    };
}

/** The same test as the runner's: a process of that number that started at that time, since this boot. */
function ownerAlive(state: StateFile): boolean {
    if (state.boot !== fs.readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()) return false;
    try {
        const stat = fs.readFileSync(`/proc/${state.pid ?? 0}/stat`, "utf8");
        const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
        return !"ZX".includes(fields[0] ?? "Z") && Number(fields[19]) === state.pidStarted;
    } catch {
        return false;
    }
}

function progressOf(file: string, active: boolean): Partial<RunSummary> {
    const lines = fs.existsSync(file) ? fs.readFileSync(file, "utf8").split("\n").slice(0, -1) : [];
    const steps = lines.map((line) => JSON.parse(line) as RunEvent).filter((event) => event.type === "progress");
    const last = steps.at(-1);
    if (last === undefined) return {};
    const ofPhase = steps.filter((event) => event.phase === last.phase);
    const first = ofPhase[0];
    const done = first === undefined ? 0 : last.step - first.step;
    const perStep = first !== undefined && done > 0 ? (last.time - first.time) / done : undefined;
    const eta = active && perStep !== undefined ? { etaSeconds: Math.round(perStep * (last.steps - last.step)) } : {};
    return { ...shown(last), ...eta };
}

function shown(last: Progress | undefined): Partial<RunSummary> {
    if (last === undefined) return {};
    const { phase, step, steps, loss } = last;
    return { phase, step, steps, ...(loss === undefined ? {} : { loss }) };
}

function parse(file: string): unknown {
    try {
        return JSON.parse(fs.readFileSync(file, "utf8"));
    } catch {
        return undefined;
    }
}
