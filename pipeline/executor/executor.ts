import { isObject, parseJson, type JsonObject } from "../identity";
import type { Result } from "../store/store";
import { UserError } from "../user-error";

/** What a target is asked to do. Everything that matters for the result is in the key; the rest is how. */
export interface Job {
    readonly key: string;
    readonly kind: string;
    /** The stage's name, for people who look at a list of runs. */
    readonly stage: string;
    /** File name of the Python program among `programs`. */
    readonly program: string;
    readonly parameters: JsonObject;
    /** Artifacts that appear in the working folder, name → digest. */
    readonly inputs: Readonly<Record<string, string>>;
    /** Patterns of files below out/ without which an exit code of 0 is no success. */
    readonly produces: readonly string[];
    /** Whether the program saves a checkpoint and ends by itself when it is asked to stop. */
    readonly stoppable: boolean;
    /** Where its checkpoints are copied to, as `bucket/folder`, in case that the machine is lost. */
    readonly checkpoints?: { readonly place: string; readonly region: string } | undefined;
    /** Modules that the worker imports before it forks the program's process. */
    readonly preload: readonly string[];
    readonly environment: Readonly<Record<string, string>>;
    /** Whether the program talks to a hub, and may have the token for it. */
    readonly hub: boolean;
    /** Seconds, of all attempts together; then it is stopped. */
    readonly limitSeconds?: number | undefined;
}

/** Program files, name → source, and variables that must appear in no file, list or log. */
export interface Supplies {
    readonly programs: Readonly<Record<string, string>>;
    readonly secrets: Readonly<Record<string, string>>;
}

export type RunState = "queued" | "running" | "succeeded" | "failed" | "stopped" | "lost";

/** One line of a run's events. `time` is in seconds since 1970. */
export type RunEvent =
    | { readonly type: "note"; readonly time: number; readonly text: string; readonly warning?: boolean }
    | { readonly type: "evaluated"; readonly time: number; readonly step: number; readonly evalLoss: number }
    | {
          readonly type: "progress";
          readonly time: number;
          readonly phase: string;
          readonly step: number;
          readonly steps: number;
          readonly loss?: number;
          readonly learningRate?: number;
      };

/** Whether this is an event as we know it: a run's folder may have been edited, or written by a newer Retune. */
export function isEvent(value: unknown): value is RunEvent {
    if (!isObject(value) || typeof value["time"] !== "number") return false;
    const numbers = (...names: string[]) => names.every((name) => typeof value[name] === "number");
    switch (value["type"]) {
        case "note":
            return typeof value["text"] === "string";
        case "evaluated":
            return numbers("step", "evalLoss");
        case "progress":
            return typeof value["phase"] === "string" && numbers("step", "steps");
        default:
            return false;
    }
}

/** The events in the text of an events.jsonl, without a half line at its end or what else is none. */
export function parseEvents(text: string): RunEvent[] {
    return text
        .split("\n")
        .slice(0, -1)
        .map((line) => parseJson(line))
        .filter(isEvent);
}

export interface RunStatus {
    readonly key: string;
    readonly state: RunState;
    readonly reason?: string | null;
    readonly attempt?: number;
    readonly queuedAt?: number;
    readonly startedAt?: number | null;
    readonly finishedAt?: number | null;
    /** Where the next call goes on: a byte position in the run's events. */
    readonly cursor: number;
    readonly events: readonly RunEvent[];
    readonly result?: Result;
    /** The last lines of the log, of a run that did not succeed. */
    readonly log?: string;
    /** How long the machine was awake in all, of one that has a meter. */
    readonly awakeSeconds?: number;
}

export type Submitted = RunStatus & {
    /** Whether this submission has started it. */
    readonly started: boolean;
};

/** A run, an artifact, or what a killed process has left of one, as garbage collection sees it. */
export interface GarbageItem {
    readonly what: "run" | "artifact" | "leftover";
    /** Key of a run, digest of an artifact. */
    readonly name: string;
    readonly kind?: string | null;
    /** Bytes. */
    readonly size: number;
    readonly kept: boolean;
    readonly why: string;
}

export interface GarbageRequest {
    /** Keys that stay, with the reason. */
    readonly roots: Readonly<Record<string, string>>;
    readonly graceSeconds: number;
    readonly dryRun: boolean;
}

/** What was found, and how many bytes of it were, or would be, freed. */
export interface Garbage {
    readonly items: readonly GarbageItem[];
    readonly freed: number;
}

/** The machine sleeps, or is no more: nothing runs on it. */
export class Absent extends UserError {}

/** It can be started again. */
export class Asleep extends Absent {}

/** How a client reaches a target. A lost connection throws; it never changes the state of a run. */
export interface Executor {
    /** Sees to it that the machine is awake: before something has to run, and never otherwise. */
    wake(progress: (text: string) => void): Promise<void>;
    /** Starts the job, unless it is running or has succeeded. `again` repeats one that succeeded. */
    submit(job: Job, supplies: Supplies, again: boolean): Promise<Submitted>;
    /** Answers as soon as there is news after `cursor`, at the latest after `waitSeconds`. */
    status(key: string, options: { cursor: number; waitSeconds: number }): Promise<RunStatus>;
    stop(key: string): Promise<RunStatus>;
    /** Those of these artifacts that the target does not have. */
    missing(digests: readonly string[]): Promise<string[]>;
    /** Brings an artifact from the client's store to the target. */
    send(digest: string, progress: (text: string) => void): Promise<void>;
    /**
     * Brings the result of a run that succeeded into the client's store, with its artifact unless that `stays` on the
     * target: the answer says so in `at`.
     */
    collect(result: Result, stays: boolean, progress: (text: string) => void): Promise<Result>;
    /** Brings the client's copy of a run's log up to date. */
    copyLog(key: string): Promise<void>;
    /** Removes what nobody needs from the target's store. */
    collectGarbage(request: GarbageRequest): Promise<Garbage>;
}
