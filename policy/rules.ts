import { isObject, type Json, type JsonObject } from "../pipeline/identity";

/*
 * What a stack may do in an account, as pure functions: index.cjs hands them to Pulumi, which asks them about every resource
 * before it makes it. What is not known yet in a preview is judged in the update.
 */

export interface Settings {
    readonly regions: readonly string[];
    readonly instanceTypes: readonly string[];
    readonly dollarsPerRun: number;
}

interface Resource {
    readonly type: string;
    readonly props: JsonObject;
}

export interface Rule {
    readonly name: string;
    readonly description: string;
    /** What of a resource breaks the rule, in words; nothing where all is well, or the rule is not about it. */
    readonly broken: (resource: Resource) => string[];
}

const INSTANCE = "aws:ec2/instance:Instance";
const COMMIT = /^[0-9a-f]{40}$/;
/** The shortest prefix of a network that somebody may own: with fewer bits it is a part of the world. */
const SHORTEST = { v4: 8, v6: 32 };

export function rules({ regions, instanceTypes, dollarsPerRun }: Settings): Rule[] {
    return [
        {
            name: "region",
            description: `Machines are in ${regions.join(", ")}.`,
            broken: ({ type, props }) => {
                const zone = props["availabilityZone"];
                if (type !== INSTANCE || typeof zone !== "string") return [];
                const region = zone.replace(/[a-z]$/, "");
                return regions.includes(region)
                    ? []
                    : [`the machine is in ${region}, and may be in ${regions.join(", ")}`];
            },
        },
        {
            name: "instance-type",
            description: `Machines are of ${instanceTypes.join(", ")}.`,
            broken: ({ type, props }) => {
                const name = props["instanceType"];
                if (type !== INSTANCE || typeof name !== "string" || instanceTypes.includes(name)) return [];
                return [`the machine is a ${name}, and may be ${instanceTypes.join(", ")}`];
            },
        },
        {
            name: "deadline",
            description: "A machine has a tag that says when it is stopped for good.",
            broken: ({ type, props }) => {
                if (type !== INSTANCE) return [];
                const deadline = at(props, "tags", "deadline");
                return typeof deadline === "string" && !Number.isNaN(Date.parse(deadline))
                    ? []
                    : ["the machine has no tag deadline with a time such as 2026-12-01T00:00:00Z"];
            },
        },
        {
            name: "metadata",
            description: "A machine's metadata are had with a token (IMDSv2), and not from behind another hop.",
            broken: ({ type, props }) => {
                if (type !== INSTANCE) return [];
                const options = at(props, "metadataOptions");
                const hops = at(options, "httpPutResponseHopLimit");
                return [
                    ...(at(options, "httpTokens") === "required" ? [] : ["metadataOptions.httpTokens is not required"]),
                    ...(hops === 1 ? [] : ["metadataOptions.httpPutResponseHopLimit is not 1"]),
                ];
            },
        },
        {
            name: "encryption",
            description: "Disks are encrypted.",
            broken: ({ type, props }) => {
                if (type !== INSTANCE) return [];
                const disks = [props["rootBlockDevice"] ?? null, ...listOf(props["ebsBlockDevices"])];
                return disks.every((disk) => at(disk, "encrypted") === true) ? [] : ["a disk is not encrypted"];
            },
        },
        {
            name: "no-open-port",
            description: "No port is open to the whole world.",
            broken: ({ type, props }) => {
                if (type === "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule") {
                    return open([props["cidrIpv4"], props["cidrIpv6"]]);
                }
                if (type !== "aws:ec2/securityGroup:SecurityGroup") return [];
                return listOf(props["ingress"]).flatMap((rule) =>
                    open([...listOf(at(rule, "cidrBlocks")), ...listOf(at(rule, "ipv6CidrBlocks"))]),
                );
            },
        },
        {
            name: "host-key",
            description: "A host is believed with a key that is known beforehand.",
            broken: ({ type, props }) => {
                const way = type.startsWith("command:remote:") ? at(props, "connection") : at(props, "target");
                const wanted = type.startsWith("command:remote:") || at(way, "type") === "ssh";
                if (!wanted || !isObject(way)) return [];
                return typeof way["hostKey"] === "string" && way["hostKey"] !== "" ? [] : ["the host has no hostKey"];
            },
        },
        {
            name: "model-commit",
            description: "A model of a hub is pinned to a commit.",
            broken: ({ type, props }) => {
                const source = at(props, "source");
                const repository = at(source, "huggingface") ?? at(source, "modelscope");
                if (type !== "finetune:pipeline:Model" || typeof repository !== "string") return [];
                const revision = at(source, "revision");
                return typeof revision === "string" && COMMIT.test(revision)
                    ? []
                    : [`model.source.revision of ${repository} is not a commit (40 hexadecimal digits)`];
            },
        },
        {
            name: "money",
            description: `A run costs at most $${dollarsPerRun}.`,
            broken: ({ type, props }) => {
                // Before there is a machine only the offer has them: the target of a stage is not known yet.
                const isOffer = type === "finetune:infra:Offer";
                if (!isOffer && !type.startsWith("finetune:pipeline:")) return [];
                const { price, most, hours } = isOffer
                    ? { price: props["pricePerHour"], most: props["runCost"], hours: props["runHours"] }
                    : limitsOf(at(props, "target"));
                if (typeof price !== "number") return [];
                const limits = [most, typeof hours === "number" ? hours * price : null];
                const cost = Math.min(...limits.filter((one) => typeof one === "number"));
                if (cost <= dollarsPerRun) return [];
                const amount = cost === Infinity ? "any amount" : `$${cost.toFixed(2)}`;
                return [`a run may cost ${amount}, and the most is $${dollarsPerRun}: set target.limits.cost`];
            },
        },
    ];
}

function at(value: Json | undefined, ...path: readonly string[]): Json | undefined {
    return path.reduce<Json | undefined>((found, name) => (isObject(found) ? found[name] : undefined), value);
}

function listOf(value: Json | undefined): readonly Json[] {
    return Array.isArray(value) ? (value as readonly Json[]) : [];
}

function open(networks: readonly (Json | undefined)[]): string[] {
    return networks.flatMap((one) => {
        const network = typeof one === "string" ? one : "";
        const bits = Number(/\/(\d+)$/.exec(network)?.[1]);
        const shortest = network.includes(":") ? SHORTEST.v6 : SHORTEST.v4;
        if (!(bits < shortest)) return [];
        const part = bits === 0 ? "the whole world" : `a part of the world: the prefix may be /${shortest} or longer`;
        return [`a port is open to ${network}, ${part}`];
    });
}

function limitsOf(target: Json | undefined) {
    const [most, hours] = [at(target, "limits", "cost"), at(target, "limits", "hours")];
    return { price: at(target, "pricePerHour"), most, hours };
}
