import type { Input, Output } from "@pulumi/pulumi";
import { CustomResource, type CustomResourceOptions } from "@pulumi/pulumi/resource.js";
import { declared } from "../../pipeline/resources";

interface OfferArgs {
    readonly instanceType: string;
    readonly region: string;
    readonly zone: string | undefined;
    readonly spot: boolean;
    /** Of the stages, which is not always the one that was asked for. */
    readonly precision: string;
    readonly gpu: "none" | "required";
    /** Dollars an hour. */
    readonly pricePerHour: number;
    /** Hours. */
    readonly deadline: number;
    /** GiB. */
    readonly disk: number;
    readonly idleMinutes: number;
    readonly budget: number | undefined;
    /** Dollars, of one run. */
    readonly runCost: number | undefined;
    /** The same in hours. */
    readonly runHours: number | undefined;
    /** `kept`, `latest` or an id. */
    readonly image: string;
    readonly system: string;
    /** Whoever has its private half may come in: another key is another machine. */
    readonly publicKey: string;
    readonly found: Input<Found>;
}

/** What AWS says of itself today. */
export interface Found {
    /** Availability zones of the region that have the type. */
    readonly zones?: readonly string[];
    /** vCPUs of this kind that the account may have. */
    readonly quota?: number;
    /** The id of the newest image. */
    readonly newest?: string;
    /** What it did not say, and why. */
    readonly problems: readonly string[];
}

/** What AWS would give, and for how much: looked at before anything is made. */
export class Offer extends CustomResource {
    declare readonly zone: Output<string>;
    /** The id of the image: the newest when it was first asked, unless `image` says otherwise. */
    declare readonly image: Output<string>;
    /** When the machine is stopped for good, as 2026-12-01T00:00:00Z. */
    declare readonly until: Output<string>;

    constructor(name: string, args: OfferArgs, options?: CustomResourceOptions) {
        const type = "finetune:infra:Offer";
        super(type, name, { ...args, until: undefined }, options);
        declared.push({ name, type });
    }
}

/** The key by which the machine is known before it exists. */
export class HostKey extends CustomResource {
    declare readonly publicKey: Output<string>;
    declare readonly privateKey: Output<string>;

    constructor(name: string, options?: CustomResourceOptions) {
        const type = "finetune:infra:HostKey";
        super(type, name, { publicKey: undefined, privateKey: undefined }, options);
        declared.push({ name, type });
    }
}
