import { z } from "zod";
import { isObject } from "../pipeline/identity";
import { expecting, group, integer, notOneOf, number, oneOf, text } from "../pipeline/fields";

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
    ...common,
};

const options = { local: group(local), ssh: group(ssh) };

/** Where stages run. It is an input of each stage, but never part of a stage's identity: moving reruns nothing. */
export const targetSchema = z
    .discriminatedUnion("type", [options.local, options.ssh], {
        error: ({ input }) =>
            isObject(input)
                ? notOneOf(input["type"], Object.keys(options))
                : expecting("a target such as { type: local }").error({ input }),
    })
    .refine((target) => target.limits?.cost === undefined || target.pricePerHour !== undefined, {
        path: ["pricePerHour"],
        error: "missing: limits.cost needs the price of an hour",
    });

export type Target = z.infer<typeof targetSchema>;
export type SshTarget = Extract<Target, { type: "ssh" }>;

/** How long a run on a target may take, in seconds; undefined where there is no limit. */
export function limitSeconds({ limits, pricePerHour }: Target): number | undefined {
    const hours = [limits?.hours, limits?.cost && pricePerHour ? limits.cost / pricePerHour : undefined];
    const given = hours.filter((one) => one !== undefined);
    return given.length === 0 ? undefined : Math.min(...given) * 3600;
}
