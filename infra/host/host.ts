import type { Input, Output } from "@pulumi/pulumi";
import { CustomResource, type CustomResourceOptions } from "@pulumi/pulumi/resource.js";
import { declared } from "../../pipeline/resources";
import type { SshTarget } from "../target";
import type { Repair } from "./contract";

/** What the stages want of a host besides what is in the target. */
export interface Needs {
    /** Of the weights and of the arithmetic. */
    readonly precision: string;
    /** There where a service is to answer with it. */
    readonly vllm?: true;
}

interface HostArgs extends Needs {
    readonly target: Input<SshTarget>;
    /** What its preparation last said: it is looked at again after each. */
    readonly prepared: Input<string>;
}

/**
 * How often a refresh has found what each script mends, and an update has taken it up: a trigger of that script, in the
 * state, so that every client of the stack knows it.
 */
export class HostRepairs extends CustomResource {
    declare readonly counts: Output<Readonly<Record<Repair, number>>>;

    constructor(name: string, args: Omit<HostArgs, "prepared">, options?: CustomResourceOptions) {
        const type = "finetune:infra:HostRepairs";
        super(type, name, { ...args, counts: undefined }, options);
        declared.push({ name, type });
    }
}

/** A machine that was looked at, and is what a run needs. A refresh looks again. */
export class Host extends CustomResource {
    /** The way to it, for stages that must not start before it is verified. */
    declare readonly target: Output<SshTarget>;

    constructor(name: string, args: HostArgs, options?: CustomResourceOptions) {
        const type = "finetune:infra:Host";
        super(type, name, { ...args, facts: undefined }, options);
        declared.push({ name, type });
    }
}
