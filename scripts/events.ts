import type { JsonObject } from "../pipeline/identity";

/** The engine's events that are looked at, as `--event-log` sends them: one field is set in each. */
export interface EngineEvent {
    readonly resourcePreEvent?: { readonly metadata: StepMetadata };
    readonly resOutputsEvent?: { readonly metadata: StepMetadata };
    readonly resOpFailedEvent?: { readonly metadata: StepMetadata };
    readonly diagnosticEvent?: {
        readonly urn?: string;
        readonly message: string;
        readonly severity: "debug" | "info" | "info#err" | "warning" | "error";
        readonly ephemeral?: boolean;
    };
    /** A resource that does not keep a rule of `--policy-pack`. */
    readonly policyEvent?: {
        readonly resourceUrn?: string;
        readonly message: string;
        readonly policyName: string;
        readonly enforcementLevel: "advisory" | "mandatory" | "remediate" | "disabled";
    };
}

export interface StepMetadata {
    readonly op: string;
    readonly urn: string;
    readonly type: string;
    readonly old: ResourceState | null;
    readonly new: ResourceState | null;
    readonly detailedDiff: Readonly<Record<string, { readonly diffKind: string; readonly inputDiff: boolean }>> | null;
}

export interface ResourceState {
    readonly inputs: JsonObject;
    readonly outputs: JsonObject;
    /** Why the last operation on it did not come to its end. */
    readonly initErrors?: readonly string[];
}
