import type { JsonObject } from "../identity";
import type { Attended } from "./attended";
import type { Executor } from "./executor";

/** A program that is no run: it makes nothing, but serves, or works for a client for as long as that listens. */
export interface Program {
    readonly key: string;
    /** File name among `programs`. */
    readonly program: string;
    readonly parameters: JsonObject;
    /** Artifacts that appear in the working folder, name → digest. */
    readonly inputs: Readonly<Record<string, string>>;
    readonly environment: Readonly<Record<string, string>>;
}

export interface ServiceRequest {
    /** On the target's loopback. */
    readonly port: number;
    /** Whose it is, for people: nobody takes the port of another. */
    readonly owner: string;
    readonly job: Program;
    /** Sources, name → text. */
    readonly programs: Readonly<Record<string, string>>;
}

/** A model that did not come up, of which a later attempt knows nothing. */
interface FailedAttempt {
    readonly attempt: number;
    readonly reason: string;
    /** The last that its process has said. */
    readonly log?: string;
}

/** What a port serves. Keys are those of the programs. */
export type ServiceStatus = {
    /** Names the time since the machine was started, hence the machine. */
    readonly boot: string;
    readonly failed: FailedAttempt | null;
} & (
    | { readonly state: "absent" }
    | { readonly state: "down"; readonly reason: string | null }
    | {
          readonly state: "up";
          /** What answers; null where nothing does, or not yet. */
          readonly active: string | null;
          readonly starting: string | null;
          readonly phase: string | null;
          readonly reason: string | null;
          /** What is amiss, though it serves. */
          readonly warning: string | null;
      }
);

/** The number of the attempt that brings the wanted model up, and whether this request has begun it. */
export type ServiceStart = ServiceStatus & { readonly attempt: number; readonly started: boolean };

/** A target that is one machine, on which something can stay. */
export interface Machine extends Pick<Executor, "wake" | "missing" | "send"> {
    /** Sees to it that a port serves, or will serve, a model; answers at once. */
    serve(request: ServiceRequest): Promise<ServiceStart>;
    /** With `ask` the service is asked something, which takes a moment. */
    service(port: number, ask: boolean): Promise<ServiceStatus>;
    /** Ends a service with all that is known of it, unless it has become another's. */
    endService(port: number, owner: string): Promise<void>;
    /** What every request to the service must carry. */
    serviceKey(port: number): Promise<string>;
    /** Starts a program that works for us alone. */
    attend(job: Program, programs: Readonly<Record<string, string>>): Promise<Attended>;
    /** The way to a port of the target's loopback. */
    tunnel(port: number): Promise<Tunnel>;
}

export interface Tunnel {
    /** Of this machine's loopback. */
    readonly port: number;
    /** Rejects, with a UserError, when the way is gone. */
    readonly broken: Promise<never>;
    close(): void;
}
