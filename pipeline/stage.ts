import type { z } from "zod";
import type { Job } from "./executor/executor";
import { keyOf, type Json, type JsonObject } from "./identity";
import type { Metrics, Result, Store } from "./store/store";

/** What a stage that runs in the client gets to work with. */
export interface ClientContext {
    /** Empty; what is left in it becomes the artifact. */
    readonly folder: string;
    readonly store: Store;
    /** Shows one line of progress; it is gone with the next one. */
    readonly progress: (text: string) => void;
    /** The results of the runs before it, by name. */
    readonly made: Readonly<Record<string, Result>>;
    /** What the other stages did in this update, by name; empty in a preview. */
    readonly session: ReadonlyMap<string, SessionEntry>;
}

/** What a stage did in the update that is going on, for the report. */
export interface SessionEntry {
    readonly action: "ran" | "cached" | "attached" | "refused" | "failed" | "skipped";
    /** Of all that was run for it; 0 where that was nothing. */
    readonly seconds: number;
    /** Of that time, in the money of the target's price; undefined where it has none. */
    readonly cost?: number | undefined;
    /** Why, in words, each with the old value and the new one. */
    readonly reasons: readonly string[];
    /** What earlier runs had let one expect. */
    readonly expectedSeconds?: number | undefined;
}

/** Of two runs that are alike, the time of the steps goes with the amount. */
export interface Effort {
    readonly amount: number;
    readonly like: JsonObject;
}

/** One execution on a target: a job without what the target adds to it. */
export type TargetRun = Omit<Job, "stage" | "limitSeconds" | "checkpoints"> & {
    /** Whether the artifact is left on the target until it is wanted elsewhere: it is large, and can be had again. */
    readonly stays: boolean;
};

/** What can be told of a result before it is made. */
export interface Foreseen {
    readonly digest: string;
    readonly metrics: Metrics;
}

/** How the result of a key comes about. */
export type Work =
    | {
          readonly on: "client";
          /** How a preview knows the result: it may do the work in a scratch folder, where that is quick and offline. */
          readonly inPreview: "run" | "unknown" | (() => Promise<Foreseen>);
          /** Runs on the target, with keys of their own, whose results this is made of. */
          readonly before?: Readonly<Record<string, TargetRun>>;
          /** Digests of what must stay in the store as long as the result does, besides those of the runs before it. */
          readonly keeps?: Readonly<Record<string, string>>;
          run(context: ClientContext): Promise<Metrics>;
      }
    | { readonly on: "target"; readonly run: TargetRun };

/**
 * A stage of the pipeline: its fields, what of them is its identity, and how its result comes about. A stage is a
 * plain description; the provider, the executors and the runner know nothing of particular ones.
 */
// eslint-disable-next-line @typescript-eslint/no-explicit-any -- the registry holds stages of all kinds
export interface Stage<Inputs = any> {
    readonly kind: string;
    readonly fields: z.ZodRawShape;
    /**
     * Fields that say where or how, never what: a change of them reruns nothing. Everything else is in the key, so
     * that a field that somebody forgets to think about costs a rerun, not a stale result.
     */
    readonly transport: readonly (keyof Inputs & string)[];
    /** Versions that are part of the key. `contract` grows when the stage itself changes what it makes of its inputs. */
    tools(inputs: Inputs): { readonly contract: number } & JsonObject;
    /**
     * What only a look at the world can tell, such as the digest of a file or the commit of a branch. `previous` are
     * the inputs of the last update: what a branch was resolved to stays until the branch is changed.
     */
    resolve?(inputs: Inputs, previous: Inputs | undefined): Promise<JsonObject>;
    /**
     * What of the stack's own past, which its last outputs tell, decides the result as well. It is added to the inputs, so
     * it is in the key unless it is transport; but no change of it alone makes the stage run again.
     */
    recalls?(inputs: Inputs, olds: JsonObject | undefined): JsonObject;
    /** Fields that had no part in the result that these outputs tell of: no change of them alone makes the stage run again. */
    unused?(outputs: JsonObject): readonly string[];
    work(inputs: Inputs, key: string): Work;
    /** How much there is to do, from a job's parameters and inputs; without it, one takes as long as another just like it. */
    effort?(job: JsonObject): Effort;
    /** The few numbers for people and `--json`, from the metrics of the run. */
    facts(metrics: Metrics): JsonObject;
    /** Why a result that was made does not count for the stack, and what else there is to say about it. */
    objections?(metrics: Metrics): { readonly refusal: string | undefined; readonly warnings: readonly string[] };
    /** Outputs that the inputs alone decide: every preview knows them. */
    declares?(inputs: Inputs): JsonObject;
}

/** The part of a stage's inputs that decides its result. */
export function identityOf(stage: Stage, inputs: JsonObject): JsonObject {
    const transport = new Set<string>(stage.transport);
    return Object.fromEntries(Object.entries(inputs).filter(([name]) => !transport.has(name)));
}

export function stageKey(stage: Stage, inputs: JsonObject): string {
    return keyOf(stage.kind, identityOf(stage, inputs));
}

/** For the metrics of a run, whose types are not known: a value of the JSON there, or null. */
export function metric(metrics: Metrics, name: string): Json {
    return metrics[name] ?? null;
}
