import type { Input, Output } from "@pulumi/pulumi";
import { CustomResource, type CustomResourceOptions } from "@pulumi/pulumi/resource.js";
import type { DatasetArgs } from "./dataset";
import type { EvaluationArgs } from "./evaluation";
import type { ExportArgs } from "./export";
import type { JsonObject } from "./identity";
import type { ModelArgs } from "./model";
import type { PushInputs } from "./push";
import type { ReportArgs } from "./report";
import type { ServiceArgs } from "./service";
import type { Result } from "./store/store";
import type { TrainingArgs } from "./training";

/** Names of the stages that this program has declared, in order: what never got its turn is reported as skipped. */
export const declared: { readonly name: string; readonly type: string }[] = [];

/** What the program has said of its report: for an update that ends before it. */
export const reported: Pick<ReportArgs, "stack" | "notice" | "language">[] = [];

/** Every field of a stage's arguments may be the output of another resource. */
export type Inputs<Fields> = { readonly [Name in keyof Fields]: Input<Fields[Name]> };

/** What every stage answers, whatever it does. */
export abstract class StageResource extends CustomResource {
    /** Digest of everything that can change the result. */
    declare readonly key: Output<string>;
    /** The run's name, as in `npm run logs -- RUN`. */
    declare readonly run: Output<string>;
    /** Digest of the result's content: what the next stage takes in. */
    declare readonly digest: Output<string>;
    /** Where the result lies. */
    declare readonly uri: Output<string>;
    /** A few numbers of the stage's own. */
    declare readonly facts: Output<JsonObject>;

    protected constructor(kind: string, name: string, args: object, options?: CustomResourceOptions) {
        const type = `finetune:pipeline:${kind}`;
        const outputs = { key: undefined, run: undefined, digest: undefined, uri: undefined, facts: undefined };
        // A stage is never there twice: a forced replacement must end the old one before it starts the new one.
        super(type, name, { ...args, ...outputs }, { ...options, deleteBeforeReplace: true });
        declared.push({ name, type });
    }
}

/** Rows of a source in Alpaca form, split by seed. */
export class Dataset extends StageResource {
    /** What it is made of, exactly: digests of the files, or a commit. */
    declare readonly origin: Output<JsonObject>;

    constructor(name: string, args: Inputs<DatasetArgs>, options?: CustomResourceOptions) {
        super("Dataset", name, { ...args, origin: undefined }, options);
    }
}

/** The base model. */
export class Model extends StageResource {
    /** Where it comes from, exactly. */
    declare readonly origin: Output<JsonObject>;

    constructor(name: string, args: Inputs<ModelArgs>, options?: CustomResourceOptions) {
        super("Model", name, { ...args, origin: undefined }, options);
    }
}

/** The fine-tune: an adapter, or a whole model. */
export class Training extends StageResource {
    /** The machine that it was made on. */
    declare readonly host: Output<NonNullable<Result["host"]> | undefined>;

    /** What of that machine the weights may depend on beyond the locked environment: for the manifest. */
    get hardware(): Output<JsonObject | undefined> {
        return this.host.apply((host) => {
            if (host === undefined) return undefined;
            const parts = { machine: host.machine, cpu: host.cpu, gpus: host.gpus, driver: host.driver };
            return Object.fromEntries(Object.entries(parts).filter(([, part]) => part !== undefined));
        });
    }

    constructor(name: string, args: Inputs<TrainingArgs>, options?: CustomResourceOptions) {
        super("Training", name, { ...args, host: undefined }, options);
    }
}

/** Base and tuned model, measured on held-out rows and on fixed prompts. */
export class Evaluation extends StageResource {
    /** The override of the gate by which the model was accepted, where it was. */
    get override(): Output<JsonObject | undefined> {
        return this.facts.apply((facts) => facts["override"] as JsonObject | undefined);
    }

    constructor(name: string, args: Inputs<EvaluationArgs>, options?: CustomResourceOptions) {
        super("Evaluation", name, args, options);
    }
}

/** The merged model with manifest. */
export class Export extends StageResource {
    constructor(name: string, args: Inputs<ExportArgs>, options?: CustomResourceOptions) {
        super("Export", name, args, options);
    }
}

/** The exported model behind an OpenAI-compatible API; `uri` is its base address, on the target's loopback. */
export class Service extends StageResource {
    /** The file, on the target, that has the key which every request must carry. */
    declare readonly keyFile: Output<string>;

    constructor(name: string, args: Inputs<ServiceArgs>, options?: CustomResourceOptions) {
        super("Service", name, { ...args, keyFile: undefined }, options);
    }
}

/** A copy of the exported model, on Hugging Face or in a bucket; `uri` is its address. */
export class Push extends StageResource {
    constructor(name: string, args: Inputs<PushInputs>, options?: CustomResourceOptions) {
        super("Push", name, args, options);
    }
}

/** One HTML page about what the other stages made. */
export class Report extends StageResource {
    constructor(
        name: string,
        args: Pick<ReportArgs, "stack" | "notice" | "language"> & {
            readonly stages: Readonly<Record<keyof ReportArgs["keys"], StageResource>>;
            readonly service?: Service;
        },
        options?: CustomResourceOptions,
    ) {
        const { stages, service, ...rest } = args;
        const all = Object.entries(stages);
        const digests = Object.fromEntries(all.map(([stage, { digest }]) => [stage, digest]));
        const keys = Object.fromEntries(all.map(([stage, { key }]) => [stage, key]));
        const served = service === undefined ? {} : { service: { key: service.key, address: service.uri } };
        super("Report", name, { ...rest, digests, keys, ...served }, options);
        reported.push(rest);
    }
}
