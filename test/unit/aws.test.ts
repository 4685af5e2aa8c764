import { execFileSync } from "node:child_process";
import path from "node:path";
import * as pulumi from "@pulumi/pulumi/runtime/index.js";
import { beforeEach, describe, expect, test } from "vitest";
import type { Output, ResourceHook, ResourceHookFunction } from "@pulumi/pulumi";
import type {} from "@pulumi/pulumi/runtime/state.js";
import { declaredTargetSchema, type AwsTarget } from "../../infra/target";
import { temporaryFolder } from "./datasets/folder";

const IMAGES: Readonly<Record<string, string>> = {
    "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id": "ami-gpu2204",
    "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id": "ami-ubuntu2404",
};

interface Made {
    readonly type: string;
    readonly name: string;
    readonly inputs: Readonly<Record<string, unknown>>;
}

let made: Made[];
let identity: string;
/** What the engine calls before it makes a machine. */
let beforeMachine: ResourceHookFunction | undefined;
/** What AWS waits for before it refuses an answer, in ms; `undefined`: it answers. */
let refusals: Readonly<Record<string, number>> | undefined;

beforeEach(async () => {
    made = [];
    beforeMachine = undefined;
    refusals = undefined;
    identity = path.join(temporaryFolder(), "key");
    execFileSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", identity]);
    await pulumi.setMocks(
        {
            newResource({ type, name, inputs }) {
                made.push({ type, name, inputs: inputs as Made["inputs"] });
                const outputs = {
                    ...(inputs as object),
                    arn: `arn:${name}`,
                    name,
                    keyName: name,
                    bucket: `${name}-0123`,
                    zone: "us-east-1a",
                    image: (inputs as { found?: { newest?: string } }).found?.newest,
                    until: "2026-12-02T10:00:00Z",
                    publicKey: "ssh-ed25519 PUBLIC",
                    privateKey: "PRIVATE",
                    stdout: "done",
                    target: (inputs as { target?: unknown }).target,
                    counts: { timers: 0, driver: 0, environment: 0 },
                };
                return { id: name === "machine" ? "i-0123" : `${name}-id`, state: outputs };
            },
            async call({ token, inputs }) {
                const asked = token.split("/").at(-1)?.split(":").at(-1) ?? "";
                if (refusals !== undefined) {
                    await new Promise((resolve) => setTimeout(resolve, refusals?.[asked]));
                    throw new Error(`${asked} is refused`);
                }
                switch (asked) {
                    case "getParameter":
                        return { insecureValue: IMAGES[(inputs as { name: string }).name] };
                    case "getServiceQuota":
                        return { value: 8 };
                    default:
                        return { locations: ["us-east-1a"] };
                }
            },
        },
        "retune",
        "huatuo",
    );
    // Pulumi's mocks know no hooks: here they go to nobody but the test.
    const registerResourceHook = ({ callback }: ResourceHook): Promise<void> => {
        beforeMachine = callback;
        return Promise.resolve();
    };
    const callbacks = { registerResourceHook, awaitStackRegistrations: () => Promise.resolve() };
    Object.assign(globalThis.globalStore, { callbacks });
});

async function target(settings: Readonly<Record<string, unknown>> = {}, stack = "huatuo"): Promise<unknown> {
    const declared = declaredTargetSchema.parse({ type: "aws", region: "us-east-1", identity, ...settings });
    const { awsTarget } = await import("../../infra/aws");
    const answer: Output<unknown> = awsTarget(declared as AwsTarget, stack, { precision: "bf16" });
    return new Promise((resolve) => answer.apply(resolve));
}

function inputsOf(name: string): Made["inputs"] {
    const found = made.find((one) => one.name === name);
    if (found === undefined) throw new Error(`${name} is not made`);
    return found.inputs;
}

const policyOf = (name: string): unknown => JSON.parse(inputsOf(name)["policy"] as string);

describe("a machine of AWS", () => {
    test("comes with exactly this, and is then prepared like any other host", async () => {
        await target();
        const aws = made.filter(({ type }) => type.startsWith("aws:") || type.startsWith("pulumi:providers"));
        expect(aws.map(({ name }) => name).sort()).toEqual([
            "aws",
            "client-key",
            "deadline",
            "deadline-role",
            "deadline-stop",
            "machine",
            "machine-models",
            "machine-network",
            "machine-profile",
            "machine-role",
            "machine-session",
            "models",
            "models-encryption",
            "models-lifecycle",
            "models-private",
            "models-versions",
        ]);
        const ours = made.filter(({ type }) => type.startsWith("finetune:")).map(({ name }) => name);
        expect(ours.sort()).toEqual([
            ...["host", "host-cuda-toolkit", "host-driver", "host-environment", "host-key", "host-lock", "host-meter"],
            ...["host-miniforge", "host-reboot", "host-rebooted", "host-repairs", "host-timers", "host-wait", "offer"],
        ]);
    });

    test("is encrypted, tagged, without a door, and its metadata are out of reach of others", async () => {
        await target({ owner: "li" });
        const machine = inputsOf("machine");
        expect(machine).toMatchObject({
            ami: "ami-gpu2204",
            instanceType: "g5.xlarge",
            availabilityZone: "us-east-1a",
            instanceInitiatedShutdownBehavior: "stop",
            metadataOptions: { httpEndpoint: "enabled", httpTokens: "required", httpPutResponseHopLimit: 1 },
            rootBlockDevice: { volumeType: "gp3", volumeSize: 200, encrypted: true, deleteOnTermination: true },
            tags: {
                owner: "li",
                stack: "huatuo",
                deadline: "2026-12-02T10:00:00Z",
                program: "retune",
                Name: "retune-huatuo",
            },
        });
        expect(machine).not.toHaveProperty("instanceMarketOptions");
        expect(inputsOf("machine-network")["ingress"]).toEqual([]);
        expect(machine["userData"]).toContain('"ed25519_private": "PRIVATE"');
    });

    test("may touch the mirror below its prefix, and nothing else", async () => {
        await target();
        expect(policyOf("machine-models")).toEqual({
            Version: "2012-10-17",
            Statement: [
                {
                    Effect: "Allow",
                    Action: ["s3:ListBucket"],
                    Resource: ["arn:models"],
                    Condition: { StringLike: { "s3:prefix": ["retune/*"] } },
                },
                { Effect: "Allow", Action: ["s3:GetObject", "s3:PutObject"], Resource: ["arn:models/retune/*"] },
            ],
        });
    });

    test("is stopped from outside from its deadline on, by a role that can do nothing else", async () => {
        await target();
        expect(inputsOf("deadline")).toMatchObject({
            scheduleExpression: "rate(1 hours)",
            startDate: "2026-12-02T10:00:00Z",
            target: {
                arn: "arn:aws:scheduler:::aws-sdk:ec2:stopInstances",
                roleArn: "arn:deadline-role",
                input: '{"InstanceIds":["i-0123"]}',
            },
        });
        expect(policyOf("deadline-stop")).toEqual({
            Version: "2012-10-17",
            Statement: [{ Effect: "Allow", Action: ["ec2:StopInstances"], Resource: ["arn:machine"] }],
        });
    });

    test("is not made after its deadline, when no clock would stop it", async () => {
        await target();
        const make = (deadline: string): unknown =>
            beforeMachine?.({ urn: "", id: "", name: "machine", type: "", newInputs: { tags: { deadline } } });
        expect(beforeMachine).toBeDefined();
        expect(() => make("2020-12-02T10:00:00Z")).toThrow(
            "no machine is made: the deadline was 2020-12-02T10:00:00Z. Another target.deadline, such as `--set target.deadline=8`, counts from now",
        );
        expect(make(new Date(Date.now() + 60_000).toISOString())).toBeUndefined();
    });

    test("keeps its models versioned, encrypted and to itself", async () => {
        await target();
        expect(inputsOf("models")).toMatchObject({ bucketPrefix: "retune-huatuo-", forceDestroy: true });
        expect(inputsOf("models-versions")["versioningConfiguration"]).toEqual({ status: "Enabled" });
        expect(inputsOf("models-encryption")["rules"]).toEqual([
            { applyServerSideEncryptionByDefault: { sseAlgorithm: "AES256" } },
        ]);
        expect(inputsOf("models-lifecycle")["rules"]).toMatchObject([
            {
                filter: { prefix: "" },
                abortIncompleteMultipartUpload: { daysAfterInitiation: 7 },
                noncurrentVersionExpiration: { noncurrentDays: 30 },
            },
            {
                filter: { prefix: "retune/checkpoints/" },
                expiration: { days: 30 },
                noncurrentVersionExpiration: { noncurrentDays: 1 },
            },
        ]);
    });

    test.each([
        ["huatuo", "retune-huatuo-"],
        ["My_stack.2", "retune-my-stack-2-"],
        ["a".repeat(100), `retune-${"a".repeat(29)}-`],
    ])("the bucket of stack %s has a name that S3 takes", async (stack, prefix) => {
        await target({}, stack);
        expect(inputsOf("models")["bucketPrefix"]).toBe(prefix);
        expect(prefix.length).toBeLessThanOrEqual(37);
    });

    test("is what the stages are given: a host that may sleep, with its price and its mirror", async () => {
        expect(await target({ budget: 5, limits: { cost: 1 } })).toMatchObject({
            type: "ssh",
            host: "i-0123",
            user: "ubuntu",
            hostKey: "ssh-ed25519 PUBLIC",
            identity,
            instance: {
                ...{ region: "us-east-1", access: "ssm", stack: "huatuo" },
                ...{ until: "2026-12-02T10:00:00Z", budget: 5 },
            },
            pricePerHour: 1.006,
            limits: { cost: 1 },
            mirror: ":s3,provider=AWS,env_auth=true,no_check_bucket=true,region=us-east-1:models-0123/retune",
        });
        expect(await target()).not.toHaveProperty("instance.checkpoints");
    });

    test("has a door for the networks that are named, and no Session Manager, with access: key", async () => {
        await target({ access: "key", from: ["203.0.113.7/32"] });
        expect(inputsOf("machine-network")["ingress"]).toEqual([
            { protocol: "tcp", fromPort: 22, toPort: 22, cidrBlocks: ["203.0.113.7/32"] },
        ]);
        expect(made.some(({ name }) => name === "machine-session")).toBe(false);
    });

    test("is stopped, not lost, when AWS takes a spot machine back", async () => {
        await target({ spot: true, system: "ubuntu-24.04" });
        expect(inputsOf("machine")).toMatchObject({
            ami: "ami-ubuntu2404",
            instanceMarketOptions: {
                marketType: "spot",
                spotOptions: { spotInstanceType: "persistent", instanceInterruptionBehavior: "stop" },
            },
        });
    });

    test("has rclone and a place in its bucket for checkpoints where it is a spot machine, and only there", async () => {
        await target();
        expect(inputsOf("machine")["userData"]).not.toContain("rclone");
        made = [];
        expect(await target({ spot: true })).toMatchObject({
            instance: { checkpoints: "models-0123/retune/checkpoints" },
        });
        expect(inputsOf("machine")["userData"]).toMatch(
            /"runcmd": \[\n {2}"[^"]*apt-get [^"]* install [^"]* rclone \|\| true"\n \]/,
        );
    });

    test("is offered with what AWS does not answer in the order in which it was asked, however long each takes", async () => {
        refusals = { getInstanceTypeOfferings: 40, getServiceQuota: 20, getParameter: 0 };
        await target();
        const { problems } = inputsOf("offer")["found"] as { problems: string[] };
        expect(problems.map((problem) => problem.split(":")[0])).toEqual([
            "which zones have the instance type",
            "what the account's quota is",
            "which image is the newest of gpu-ubuntu-22.04",
        ]);
    });

    test("needs a public key to let somebody in", async () => {
        await expect(target({ identity: "/nowhere/key" })).rejects.toThrow(
            "target.identity: there is no /nowhere/key.pub: `ssh-keygen -t ed25519` makes a key pair, or name another private key whose .pub is beside it",
        );
        expect(made).toEqual([]);
    });
});

describe("settings that are refused", () => {
    const problems = (settings: Readonly<Record<string, unknown>>): string[] =>
        declaredTargetSchema
            .safeParse({ type: "aws", region: "us-east-1", ...settings })
            .error?.issues.map(({ path: at, message }) => `${at.join(".")}: ${message}`) ?? [];

    test.each<[Readonly<Record<string, unknown>>, string]>([
        [
            { instanceType: "g5.xlarg" },
            'instanceType: expected one of g4dn.xlarge, g5.xlarge, g5.12xlarge, g5.48xlarge, g6.xlarge, g6.2xlarge, g6e.xlarge, g6e.2xlarge, g6e.4xlarge, g6e.12xlarge, g6e.48xlarge, p4d.24xlarge, p4de.24xlarge, p5.48xlarge, got "g5.xlarg"; did you mean g5.xlarge?',
        ],
        [{ region: "Virginia" }, "region: expected a region such as us-east-1"],
        [{ image: "newest" }, "image: expected kept, latest or an image's id such as ami-0abc1234"],
        [
            { access: "key" },
            "from: missing: access: key needs the networks that you come from, such as [203.0.113.7/32]; with access: ssm no port is open",
        ],
        ...["0.0.0.0/0", "0.0.0.0/1", "1.2.3.4/0", "999.1.1.1/99", "1.2.3.256/32", "203.0.113.7/24", "203.0.113.7"].map(
            (network): [Readonly<Record<string, unknown>>, string] => [
                { access: "key", from: [network] },
                "from.0: expected a network such as 203.0.113.7/32 or 203.0.113.0/24: its first address, and a prefix from 8 to 32",
            ],
        ),
        ...["cn-north-1", "us-gov-west-1", "us-iso-east-1"].map(
            (region): [Readonly<Record<string, unknown>>, string] => [
                { region },
                `region: ${region} is in a part of AWS of its own (China, GovCloud), where Retune makes nothing: choose another region, or make the machine there yourself and use it with type: ssh`,
            ],
        ),
    ])("%j", (settings, message) => {
        expect(problems(settings)).toEqual([message]);
    });

    test("networks that somebody may own, and any other region, are taken", () => {
        const from = ["203.0.113.7/32", "203.0.113.0/24", "10.0.0.0/8", "255.255.255.255/32"];
        expect(problems({ access: "key", from })).toEqual([]);
        expect(["us-east-1", "ap-southeast-1", "mx-central-1"].flatMap((region) => problems({ region }))).toEqual([]);
    });
});
