import { isIPv4 } from "node:net";
import { z } from "zod";
import { expecting, flag, group, integer, list, notOneOf, number, oneOf, text } from "../pipeline/fields";
import { isObject } from "../pipeline/identity";
import { INSTANCE_TYPES, instanceTypeOf, SYSTEMS } from "./aws/offers";

/** Reaches what every target has. */
const common = {
    /** A copy of the store on any remote that rclone knows: what is there is taken instead of run again. */
    mirror: text("an rclone remote such as s3:bucket/prefix").optional(),
    /** What the machine costs while it runs, in whatever money `limits.cost` is. */
    pricePerHour: number("a number from 0", { from: 0 }).optional(),
    /** Of one run, with all its attempts. A training that reaches one saves a checkpoint and stops. */
    limits: group({
        hours: number("a number of hours above 0", { above: 0 }).optional(),
        cost: number("an amount above 0", { above: 0 }).optional(),
    }).optional(),
};

/** This machine. */
const local = { type: z.literal("local"), ...common };

/** A key as `ssh-keyscan` and the host's own `/etc/ssh/ssh_host_ed25519_key.pub` say it: its kind and its body. */
const PUBLIC_KEY = /^(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)) [A-Za-z0-9+/]{40,}={0,2}$/;

const region = text("a region such as us-east-1").regex(
    /^[a-z]{2}(-[a-z]+)+-\d$/,
    "expected a region such as us-east-1",
);

/** Parts of AWS with accounts, prices, images and names of their own: what is made there was never tried. */
const OTHER_PARTITION = /^(cn|us-gov|[a-z]{2}-iso[a-z]?)-/;

/** A network of IPv4 as AWS takes it, and no more of the world than somebody may own. */
function isNetwork(given: string): boolean {
    const [, address = "", length = ""] = /^([\d.]+)\/(\d{1,2})$/.exec(given) ?? [];
    const bits = Number(length);
    if (!isIPv4(address) || bits < 8 || bits > 32) return false;
    const number = address.split(".").reduce((sum, octet) => sum * 256 + Number(octet), 0);
    return number % 2 ** (32 - bits) === 0;
}

/** `ssm`: through AWS's Session Manager, and no port is open. `key`: to port 22 of its public address. */
const access = oneOf(["ssm", "key"]).default("ssm");

/** Of a machine that is prepared over SSH. */
const preparation = {
    /** Python of an environment with LLaMA-Factory that is already on the host. */
    python: text("the path of a Python on the host").optional(),
    gpu: oneOf(["required", "none"]).default("required"),
    /** Branch of the driver in Ubuntu's archive, where none is installed yet. */
    driver: text("a branch such as 580-server-open").optional(),
    /** Where something compiles on the host. */
    cudaToolkit: text("a version such as 12.8").optional(),
    /** Other places for the same bytes, such as China's. */
    mirrors: group({
        miniforge: text("the folder of Miniforge's releases").optional(),
        conda: text("the folder that holds the channel conda-forge").optional(),
        pypi: text("an index of Python packages").optional(),
    }).optional(),
};

/** A machine with Ubuntu that is reached by SSH. */
const ssh = {
    type: z.literal("ssh"),
    host: text("a host name or an address").regex(
        /^[A-Za-z0-9][A-Za-z0-9.:_-]*$/,
        "expected a host name or an address",
    ),
    port: integer("a port number", { from: 1, to: 65_535 }).default(22),
    user: text("a user name").regex(/^[A-Za-z_][A-Za-z0-9._-]*$/, "expected a user name"),
    /** The only key that the host is believed with; nothing is trusted on first use. */
    hostKey: text("the host's public key").regex(
        PUBLIC_KEY,
        "expected the host's public key, such as ssh-ed25519 AAAA…; `ssh-keyscan -t ed25519 HOST` shows it, and the machine's own /etc/ssh/ssh_host_ed25519_key.pub proves it",
    ),
    /** A private key file, where it is not one of ssh's own or in an agent. */
    identity: text("the path of a private key").optional(),
    /** Other machines on the way, as for `ssh -J`. */
    proxyJump: text("a host to jump through, such as user@bastion").optional(),
    /** A command whose input and output are the connection, such as one of AWS SSM. */
    proxyCommand: text("a command that connects").optional(),
    /** RETUNE_HOME of the host; relative to the user's home directory. */
    home: text("a path on the host").default(".retune"),
    ...preparation,
    /** Where `host` is the id of an EC2 instance: it may sleep, and is started when a stage has to run. */
    instance: group({
        region,
        access,
        /** Whose machine it is: what is spent counts for all that the stack has had. */
        stack: text("the name of a stack").optional(),
        /** Where its role may keep copies of checkpoints: a spot machine may be taken away with its disk. */
        checkpoints: text("a folder of a bucket")
            .regex(/^[a-z0-9.-]{3,63}(\/[\w.-]+)+$/, "expected a folder of a bucket such as my-bucket/checkpoints")
            .optional(),
        /** After this time, as 2026-12-01T00:00:00Z, it is not started any more. */
        until: text("a time").optional(),
        /** Nor when all hours of the stack's machines together have cost this much. */
        budget: number("an amount above 0", { above: 0 }).optional(),
    }).optional(),
    ...common,
};

/** A machine that Retune makes at AWS, with what belongs to it. */
const aws = {
    type: z.literal("aws"),
    region: region.refine((name) => !OTHER_PARTITION.test(name), {
        error: ({ input }) =>
            `${String(input)} is in a part of AWS of its own (China, GovCloud), where Retune makes nothing: choose another region, or make the machine there yourself and use it with type: ssh`,
    }),
    /** An availability zone; otherwise one that offers the type. */
    zone: text("an availability zone such as us-east-1a").optional(),
    instanceType: oneOf(INSTANCE_TYPES).default("g5.xlarge"),
    /** For a part of the price, and AWS may stop it at any time: the next update resumes. */
    spot: flag().default(false),
    /** What is on the image; `gpu-` has NVIDIA's driver already. */
    system: oneOf(SYSTEMS).default("gpu-ubuntu-22.04"),
    /**
     * `kept`: the newest at the first update, from then on the same. Setting `latest` moves to the newest, with a new machine;
     * where it is set already, the newest comes with the next other machine.
     */
    image: text("kept, latest or an image's id")
        .regex(/^(kept|latest|ami-[0-9a-f]{8,17})$/, "expected kept, latest or an image's id such as ami-0abc1234")
        .default("kept"),
    /** GiB. Image and environment take 80 of them. */
    disk: integer("a number of GiB from 100", { from: 100, to: 16_384 }).default(200),
    access,
    /** Networks that may knock at port 22, for `access: key`. */
    from: list(
        text("a network").refine(
            isNetwork,
            "expected a network such as 203.0.113.7/32 or 203.0.113.0/24: its first address, and a prefix from 8 to 32",
        ),
        "a list of networks such as 203.0.113.7/32",
    ).optional(),
    /** A private key file with its public part beside it. */
    identity: text("the path of a private key").default("~/.ssh/id_ed25519"),
    /** Of the image. */
    user: text("a user name").default("ubuntu"),
    owner: text("who is to be asked about it").default("retune"),
    /** Hours after the first update; then AWS stops the machine, and it is not started any more. */
    deadline: number("a number of hours above 0", { above: 0 }).default(24),
    /** Without a run and without anybody who is logged in. */
    idleMinutes: integer("a number of minutes from 1", { from: 1, to: 1440 }).default(15),
    /** Dollars, for all hours of all machines that the stack has had. */
    budget: number("an amount above 0", { above: 0 }).optional(),
    /** `destroy` leaves the bucket with the models. */
    keepModels: flag().default(false),
    home: text("a path on the host").default(".retune"),
    ...preparation,
    ...common,
};

const options = { local: group(local), ssh: group(ssh), aws: group(aws) };

const wrongType =
    (types: readonly string[]) =>
    ({ input }: { readonly input?: unknown }): string =>
        isObject(input)
            ? notOneOf(input["type"], types)
            : expecting("a target such as { type: local }").error({ input });

const costNeedsPrice = {
    path: ["pricePerHour"],
    error: "missing: limits.cost needs the price of an hour",
};

/** Where stages run. It is an input of each stage, but never part of a stage's identity: moving reruns nothing. */
export const targetSchema = z
    .discriminatedUnion("type", [options.local, options.ssh], { error: wrongType(["local", "ssh"]) })
    .refine(({ limits, pricePerHour }) => limits?.cost === undefined || pricePerHour !== undefined, costNeedsPrice);

export type Target = z.infer<typeof targetSchema>;
export type SshTarget = Extract<Target, { type: "ssh" }>;

/** What a stack's file says of it: a machine that does not exist yet is made, and then reached like any other. */
export const declaredTargetSchema = z
    .discriminatedUnion("type", [options.local, options.ssh, options.aws], { error: wrongType(Object.keys(options)) })
    .refine(
        (target) => target.limits?.cost === undefined || target.pricePerHour !== undefined || target.type === "aws",
        costNeedsPrice,
    )
    .refine((target) => target.type !== "aws" || target.access === "ssm" || target.from !== undefined, {
        path: ["from"],
        error: "missing: access: key needs the networks that you come from, such as [203.0.113.7/32]; with access: ssm no port is open",
    });

export type DeclaredTarget = z.infer<typeof declaredTargetSchema>;
export type AwsTarget = Extract<DeclaredTarget, { type: "aws" }>;

/** The precision that a target can do: a GPU without bf16 gets fp16. */
export function precisionOn<Precision extends string>(
    target: DeclaredTarget,
    precision: Precision,
): Precision | "fp16" {
    if (target.type !== "aws" || target.gpu === "none" || precision !== "bf16") return precision;
    return instanceTypeOf(target.instanceType).capability < 8 ? "fp16" : precision;
}

/** How long a run on a target may take, in seconds; undefined where there is no limit. */
export function limitSeconds({ limits, pricePerHour }: Target): number | undefined {
    const hours = [limits?.hours, limits?.cost && pricePerHour ? limits.cost / pricePerHour : undefined];
    const given = hours.filter((one) => one !== undefined);
    return given.length === 0 ? undefined : Math.min(...given) * 3600;
}
