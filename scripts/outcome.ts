import { meaningOf } from "../infra/aws/refusals";
import { hasUnknown, type Json, type JsonObject } from "../pipeline/identity";
import type { Operation } from "./driver";
import type { EngineEvent, StepMetadata } from "./events";

/** What happened to a stage, or in a preview would happen. */
export type Action =
    | "unchanged"
    | "cached"
    | "attached"
    | "ran"
    | "detached"
    | "failed"
    | "refused"
    | "skipped"
    | "would-run"
    | "would-reuse"
    | "unknown"
    | "deleted"
    | "drifted";

/** Why a stage runs again. A field that is absent on one side is null there; what is not known yet is "unknown". */
export interface Reason {
    readonly field: string;
    readonly old: Json;
    readonly new: Json;
}

export interface StageOutcome {
    readonly name: string;
    readonly type: string;
    readonly action: Action;
    readonly key?: string;
    readonly digest?: string;
    /** The run that the result is of, and when that was made; in a preview also the one that would be. */
    readonly run?: string;
    readonly madeAt?: string;
    /** The machine that it was made on, of a run on a target. */
    readonly host?: JsonObject;
    readonly seconds?: number;
    /** Of these seconds, in the money of the target's price. */
    readonly cost?: number;
    /** In a preview: whether the stack does not have the stage yet. */
    readonly isNew?: true;
    /** In a preview: how long it takes, going by an earlier run with as much to do on such a machine. */
    readonly expectedSeconds?: number;
    /** In a preview: what that costs, in the money of `target.pricePerHour`. */
    readonly expectedCost?: number;
    /** In a preview, where there is none of these: how long the newest one took on such a machine. */
    readonly lastSeconds?: number;
    /** In a preview: inputs that stay what they are, by name, of a stage that would run again. */
    readonly keeps?: readonly string[];
    readonly uri?: string;
    readonly facts?: JsonObject;
    readonly reasons: readonly Reason[];
    /** What went wrong, for a stage that failed; what the gate objects to, for one that was refused. */
    readonly error?: string;
}

const DETACHED = "detached:";
const PROBLEM = "has a problem: ";
const REFUSED = "refused by the gate: ";
/** Of a service whose new model has not come up. */
const SERVES_ON = "; the one before goes on serving";
/** The last line of a refusal: the verdict's own run, as the URI of its result. */
const JUDGEMENT = /^ {2}all there is to say: (file:\S+\/([0-9a-f]{64})\/out)$/m;

/** Reads the engine's events into what became of each stage. */
export class Outcomes {
    private readonly stages = new Map<string, StageOutcome>();
    private readonly errorsByUrn = new Map<string, string[]>();
    /** Names of the stages whose outcome was shown as it came. */
    readonly shown = new Set<string>();
    /** Errors that belong to no stage. */
    readonly errors: string[] = [];
    /** Whether a stage refused its inputs: a mistake in the configuration, not a failure of a run. */
    misconfigured = false;
    outputs: JsonObject = {};

    constructor(readonly operation: Operation) {}

    /** Takes one event; answers the stage that it completed, if any. */
    take(event: EngineEvent): StageOutcome | undefined {
        if (event.resOutputsEvent) return this.ended(event.resOutputsEvent.metadata);
        if (event.resOpFailedEvent) return this.failed(event.resOpFailedEvent.metadata);
        if (event.diagnosticEvent?.severity === "error") this.error(event.diagnosticEvent);
        const rule = event.policyEvent;
        if (rule?.enforcementLevel === "mandatory")
            this.error({ urn: rule.resourceUrn ?? "", message: brokenRule(rule) });
        return undefined;
    }

    /** All stages in the order of the program, the ones that never had their turn as skipped. */
    list(declared: readonly { readonly name: string; readonly type: string }[]): StageOutcome[] {
        const ordered = declared.map(({ name, type }): StageOutcome => {
            const urn = [...this.stages.keys()].find((one) => one.endsWith(`::${type}::${name}`));
            const found = urn === undefined ? undefined : this.stages.get(urn);
            return found ?? this.unfinished(name, type);
        });
        const rest = [...this.stages.values()].filter((one) => !declared.some(({ name }) => name === one.name));
        return [...ordered, ...rest];
    }

    hasStageErrors(): boolean {
        return this.errorsByUrn.size > 0;
    }

    private ended(step: StepMetadata): StageOutcome | undefined {
        if (step.type === "pulumi:pulumi:Stack") {
            const outputs = Object.entries(step.new?.outputs ?? {});
            this.outputs = Object.fromEntries(outputs.filter(([, value]) => !hasUnknown(value)));
            return undefined;
        }
        if (!step.type.startsWith("finetune:")) return undefined;
        const outputs = step.new?.outputs ?? step.old?.outputs ?? {};
        // A preview goes on with what a rule forbids.
        const forbidden = this.errorsByUrn.get(step.urn);
        if (forbidden !== undefined)
            return this.put(step, { action: "failed", reasons: [], error: forbidden.join("\n") });
        return this.put(step, {
            action: this.actionOf(step, outputs),
            reasons: step.op === "update" ? reasonsOf(step) : [],
            ...(this.operation === "preview" && step.op === "create" ? { isNew: true } : {}),
            ...pick(outputs),
        });
    }

    private actionOf(step: StepMetadata, outputs: JsonObject): Action {
        if (this.operation === "refresh") return outputs["drift"] ? "drifted" : "unchanged";
        switch (step.op) {
            case "same":
                return "unchanged";
            case "delete":
                return "deleted";
            case "create":
            case "update":
                return (outputs["action"] as Action | undefined) ?? "unknown";
            default:
                return "unknown";
        }
    }

    private failed(step: StepMetadata): StageOutcome | undefined {
        if (!step.type.startsWith("finetune:")) return undefined;
        const error = (this.errorsByUrn.get(step.urn) ?? []).join("\n");
        const detached = error.includes(DETACHED);
        const [, uri, key] = JUDGEMENT.exec(error) ?? [];
        return this.put(step, {
            action: detached ? "detached" : error.startsWith(REFUSED) ? "refused" : "failed",
            reasons: step.op === "update" ? reasonsOf(step) : [],
            ...(detached ? {} : { error }),
            ...(uri === undefined || key === undefined ? {} : { key, uri }),
            ...(error.includes(SERVES_ON) ? pick(step.old?.outputs ?? {}, ["uri"]) : {}),
        });
    }

    private error({ urn, message }: { readonly urn?: string; readonly message: string }): void {
        const text = message.trim();
        if (urn === undefined || urn === "" || urn.includes("pulumi:pulumi:Stack")) {
            this.errors.push(text);
            return;
        }
        const [, , type = "", name = ""] = urn.split("::");
        if (type.split("$").at(-1)?.startsWith("finetune:") !== true) {
            const meaning = type.startsWith("aws:") || type === "pulumi:providers:aws" ? meaningOf(text) : undefined;
            this.errors.push(`${name}: ${tidy(text)}${meaning === undefined ? "" : `\n  ${meaning}`}`);
            return;
        }
        const said = this.errorsByUrn.get(urn) ?? [];
        this.errorsByUrn.set(urn, [...said, tidy(text)]);
        // A refused input has no event of a failed step.
        if (text.includes(PROBLEM)) this.misconfigured = true;
    }

    private unfinished(name: string, type: string): StageOutcome {
        const urn = [...this.errorsByUrn.keys()].find((one) => one.endsWith(`::${type}::${name}`));
        if (urn === undefined) return { name, type, action: "skipped", reasons: [] };
        const error = this.errorsByUrn.get(urn)?.join("\n") ?? "";
        return { name, type, action: "failed", reasons: [], error };
    }

    private put(step: StepMetadata, rest: Omit<StageOutcome, "name" | "type">): StageOutcome {
        const outcome = { name: step.urn.slice(step.urn.lastIndexOf("::") + 2), type: step.type, ...rest };
        this.stages.set(step.urn, outcome);
        return outcome;
    }
}

/** The rule's description comes first, then what of the resource breaks it. */
export function brokenRule({ policyName, message }: NonNullable<EngineEvent["policyEvent"]>): string {
    const [description = "", ...broken] = message.trim().split("\n");
    return `rule ${policyName}: ${broken.join(" ") || description}`;
}

/** The engine's frame around a provider's words is taken off. */
function tidy(text: string): string {
    const problem = text.indexOf(PROBLEM);
    if (problem >= 0) return text.slice(problem + PROBLEM.length);
    return text.replace(/^1 error occurred:\s*\* /, "").replace(/^(creating|updating|Preview) failed: /, "");
}

const SHOWN = [
    "key",
    "digest",
    "run",
    "host",
    "seconds",
    "cost",
    "expectedSeconds",
    "expectedCost",
    "lastSeconds",
    "keeps",
    "uri",
    "facts",
    "finishedAt",
];

function pick(outputs: JsonObject, wanted: readonly string[] = SHOWN): Partial<StageOutcome> {
    const known = Object.entries(outputs).filter(([name, value]) => wanted.includes(name) && !hasUnknown(value));
    return Object.fromEntries(known.map(([name, value]) => [name === "finishedAt" ? "madeAt" : name, value]));
}

function reasonsOf(step: StepMetadata): Reason[] {
    const fields = Object.keys(step.detailedDiff ?? {});
    // Nothing differs: the engine repeats what was interrupted.
    if (fields.length === 0) return [{ field: "interrupted", old: step.old?.initErrors?.[0] ?? null, new: null }];
    return fields.map((field) => {
        // A refresh finds it, an update takes it away.
        if (field === "drift") {
            return { field, old: step.old?.outputs["drift"] ?? null, new: step.new?.outputs["drift"] ?? null };
        }
        return { field, old: at(step.old?.inputs, field), new: at(step.new?.inputs, field) };
    });
}

function at(value: JsonObject | undefined, field: string): Json {
    let found: Json | undefined = value;
    for (const part of field.split(".")) {
        found = typeof found === "object" && found !== null ? (found as JsonObject)[part] : undefined;
    }
    return hasUnknown(found) ? "unknown" : (found ?? null);
}
