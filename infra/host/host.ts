import type { Input, Output } from "@pulumi/pulumi";
import { CustomResource, type CustomResourceOptions } from "@pulumi/pulumi/resource.js";
import { declared } from "../../pipeline/resources";
import type { SshTarget } from "../target";

interface HostArgs {
    readonly target: SshTarget;
    /** Of the weights and of the arithmetic that the stages want of it. */
    readonly precision: string;
    /** What its preparation last said: it is looked at again after each. */
    readonly prepared: Input<string>;
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
