import { z } from "zod";
import { DISK_PRICE, INSTANCE_TYPES, instanceTypeOf, PRICES, quotaOf } from "../../infra/aws/offers";
import { meaningOf } from "../../infra/aws/refusals";
import { changesBetween, type Change } from "../changes";
import { duration } from "../duration";
import type { Json, JsonObject } from "../identity";
import { UserError } from "../user-error";
import { checkFields, type Checked, type Log, type ResourceLifecycle } from "./lifecycle";
import { plain, withoutNulls } from "./values";

const fields = {
    instanceType: z.enum(INSTANCE_TYPES),
    region: z.string(),
    zone: z.string().optional(),
    spot: z.boolean(),
    precision: z.string(),
    gpu: z.enum(["none", "required"]),
    pricePerHour: z.number(),
    deadline: z.number(),
    disk: z.number(),
    idleMinutes: z.number(),
    budget: z.number().optional(),
    runCost: z.number().optional(),
    image: z.string(),
    system: z.string(),
    found: z.object({
        zones: z.array(z.string()).optional(),
        quota: z.number().optional(),
        newest: z.string().optional(),
        problems: z.array(z.string()),
    }),
};

const schema = z.object(fields);
type Terms = z.infer<typeof schema>;

/** Seconds that a run needs to get anywhere: its model is loaded, and a first step is done. */
const SHORTEST_RUN = 300;
const HOUR = 3_600_000;

/** What AWS offers, held against what the stack wants: money is never spent to find out that it does not fit. */
export class OfferLifecycle implements ResourceLifecycle {
    constructor(private readonly log: Log) {}

    check(_urn: string, news: JsonObject): Promise<Checked> {
        return Promise.resolve(checkFields(fields, withoutNulls(news)));
    }

    /** Zones, quotas and images are others each day, and sometimes AWS does not answer: that alone changes nothing. */
    diff(_urn: string, oldInputs: JsonObject, _oldOutputs: JsonObject, news: JsonObject): Change[] {
        const wanted = ({ found: _found, ...rest }: JsonObject): JsonObject => rest;
        return changesBetween(wanted(plain(oldInputs)), wanted(plain(news)));
    }

    preview(urn: string, news: JsonObject, olds?: JsonObject, oldInputs?: JsonObject): Promise<JsonObject> {
        return this.settle(urn, news, "would-run", olds, oldInputs);
    }

    apply(urn: string, news: JsonObject, olds?: JsonObject, oldInputs?: JsonObject): Promise<JsonObject> {
        return this.settle(urn, news, "ran", olds, oldInputs);
    }

    private async settle(
        urn: string,
        news: JsonObject,
        action: string,
        olds: JsonObject = {},
        oldInputs: JsonObject = {},
    ): Promise<JsonObject> {
        const terms = schema.parse(withoutNulls(plain(news)));
        const before = z.object({ image: z.string(), zone: z.string(), until: z.string() }).safeParse(plain(olds)).data;
        const found = objections(terms, before?.image);
        if (found.length > 0) {
            const count = found.length === 1 ? "" : `, for ${found.length} reasons`;
            throw new UserError(`nothing is made${count}:${found.map((one) => `\n  ${one}`).join("")}`);
        }
        const outputs = outputsOf(terms, before, plain(oldInputs)["deadline"]);
        const facts = factsOf(terms, outputs.until);
        const lines = Object.entries(facts).map(([name, text]) => `${name}: ${text}`);
        this.log(urn, lines.join("\n"), { ephemeral: false });
        return Promise.resolve({ ...outputs, facts, action });
    }

    read(_urn: string, _inputs: JsonObject, outputs: JsonObject): Promise<JsonObject> {
        return Promise.resolve(outputs);
    }

    delete(): Promise<void> {
        return Promise.resolve();
    }
}

/** Why it cannot be had, each with its setting; `kept` is the image that the stack has. */
export function objections(terms: Terms, kept: string | undefined): string[] {
    const { instanceType, region, zone, spot, pricePerHour, image, system } = terms;
    const { zones, quota, newest, problems } = terms.found;
    const needsNewest = image === "latest" || (image === "kept" && kept === undefined);
    const found = unanswered(problems.filter((problem) => needsNewest || !problem.includes(`newest of ${system}`)));
    const { vcpus } = instanceTypeOf(instanceType);
    if (zones?.length === 0) {
        found.push(
            `target.instanceType: ${region} has no ${instanceType}: choose another type, or another target.region`,
        );
    } else if (zones !== undefined && zone !== undefined && !zones.includes(zone)) {
        found.push(`target.zone: ${zone} has no ${instanceType}; there is ${[...zones].sort().join(", ")}`);
    }
    if (needsNewest && newest === undefined && problems.length === 0) {
        found.push(`target.system: AWS names no image of ${system} in ${region}: set target.image to an id`);
    }
    if (quota !== undefined && quota < vcpus) {
        const { code, name } = quotaOf(instanceType, spot);
        found.push(
            `target.instanceType: ${instanceType} has ${vcpus} vCPUs, and this account may have ${quota} of "${name}" in ${region}: ask for more with \`aws service-quotas request-service-quota-increase --service-code ec2 --quota-code ${code} --desired-value ${vcpus} --region ${region}\` (hours to days)`,
        );
    }
    for (const [setting, money] of [
        ["limits.cost", terms.runCost],
        ["budget", terms.budget],
    ] as const) {
        if (money === undefined || pricePerHour === 0) continue;
        const seconds = (money / pricePerHour) * 3600;
        if (seconds >= SHORTEST_RUN) continue;
        found.push(
            `target.${setting}: ${dollars(money)} buys ${duration(seconds)} of ${instanceType} at ${dollars(pricePerHour)} an hour, and to load a model and do one step takes longer: ${dollars(Math.ceil((pricePerHour / 12) * 100) / 100)} is the least`,
        );
    }
    return found;
}

/** What AWS has not answered, once for each reason that Retune knows: one makes all questions fail. */
function unanswered(problems: readonly string[]): string[] {
    const said = new Map<string, string>();
    for (const problem of problems) {
        const meaning = meaningOf(problem);
        const text = `AWS was asked ${problem.trim()}`;
        said.set(meaning ?? text, meaning === undefined ? text : (said.get(meaning) ?? `${meaning} (${text})`));
    }
    return [...said.values()];
}

/**
 * The zone stays as long as it has the type, the image as long as it is not asked for another; the deadline counts from
 * the moment at which it was set.
 */
function outputsOf(
    { zone, deadline, image, found: { zones = [], newest = "" } }: Terms,
    before: { readonly image: string; readonly zone: string; readonly until: string } | undefined,
    oldDeadline: Json | undefined,
) {
    const stays = before !== undefined && zones.includes(before.zone) ? before.zone : undefined;
    const at = new Date(Date.now() + deadline * HOUR).toISOString().replace(/\.\d+Z$/, "Z");
    return {
        zone: zone ?? stays ?? [...zones].sort()[0] ?? "",
        image: image === "latest" ? newest : image === "kept" ? (before?.image ?? newest) : image,
        until: before !== undefined && oldDeadline === deadline ? before.until : at,
    };
}

/** Price, with its date and source, and what it can come to. */
function factsOf(terms: Terms, until: string): Record<string, string> {
    const { instanceType, region, spot, pricePerHour, disk, deadline, budget, idleMinutes, precision, gpu } = terms;
    const { gpu: name, gpus, memory, capability, price } = instanceTypeOf(instanceType);
    const cards = `${gpus === 1 ? "" : `${gpus} `}${name} of ${memory} GiB`;
    const elsewhere = region === PRICES.region ? "" : `, not of ${region}: target.pricePerHour can say it`;
    const source =
        pricePerHour === price
            ? `${PRICES.source}, ${PRICES.region}, ${PRICES.date}${elsewhere}`
            : "by target.pricePerHour";
    const bf16 = capability < 8 && gpu === "required" && precision === "fp16";
    return {
        asleep: `${dollars((disk * DISK_PRICE) / 30)} a day, after ${idleMinutes} idle minutes`,
        awake: `${dollars(pricePerHour)} an hour (${source})${spot ? ", less as spot" : ""}`,
        machine: `${instanceType}, ${cards}${bf16 ? ", which has no bf16: training.precision is fp16" : ""}`,
        most: `${dollars(Math.min(budget ?? Infinity, deadline * pricePerHour))} until ${until}`,
    };
}

function dollars(amount: number): string {
    return `$${amount < 0.1 ? amount.toPrecision(2) : amount.toFixed(2)}`;
}
