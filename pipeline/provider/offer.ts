import { z } from "zod";
import { DISK_PRICE, INSTANCE_TYPES, instanceTypeOf, PRICES, quotaOf } from "../../infra/aws/offers";
import { meaningOf } from "../../infra/aws/refusals";
import { changesBetween, type Change } from "../changes";
import { duration } from "../duration";
import { readings } from "../executor/meter";
import type { JsonObject } from "../identity";
import { listRuns } from "../store/runs";
import type { Store } from "../store/store";
import { UserError } from "../user-error";
import { checkFields, stackOf, type Checked, type Log, type ResourceLifecycle } from "./lifecycle";
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
    runHours: z.number().optional(),
    image: z.string(),
    system: z.string(),
    publicKey: z.string(),
    found: z.object({
        zones: z.array(z.string()).optional(),
        quota: z.number().optional(),
        newest: z.string().optional(),
        problems: z.array(z.string()),
    }),
};

const schema = z.object(fields);
type Terms = z.infer<typeof schema>;

/** What the stack has had until now, and the settings that it came of. */
const had = z.object({ image: z.string(), zone: z.string(), until: z.string() });
type Before = z.infer<typeof had> & { readonly terms: JsonObject };

/** Seconds that a run needs to get anywhere: its model is loaded, and a first step is done. */
const SHORTEST_RUN = 300;
const HOUR = 3_600_000;

/** What AWS offers, held against what the stack wants: money is never spent to find out that it does not fit. */
export class OfferLifecycle implements ResourceLifecycle {
    constructor(
        private readonly store: Store,
        private readonly log: Log,
    ) {}

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

    async apply(urn: string, news: JsonObject, olds?: JsonObject, oldInputs?: JsonObject): Promise<JsonObject> {
        const outputs = await this.settle(urn, news, "ran", olds, oldInputs);
        if (olds !== undefined) await this.readMeterOf(stackOf(urn));
        return outputs;
    }

    /** Other terms may mean another machine: what the one that is there has cost is noted while it can say so. */
    private async readMeterOf(stack: string): Promise<void> {
        const { home } = this.store;
        const [latest] = readings(home).filter((reading) => reading.stack === stack);
        const targets = listRuns(home).flatMap(({ target }) => (target?.type === "ssh" ? [target] : []));
        const target = targets.find(({ host }) => host === latest?.machine);
        if (target === undefined) return;
        const { SshExecutor } = await import("../executor/ssh");
        await new SshExecutor(target, this.store, () => undefined).lastReading();
    }

    private async settle(
        urn: string,
        news: JsonObject,
        action: string,
        olds: JsonObject = {},
        oldInputs: JsonObject = {},
    ): Promise<JsonObject> {
        const terms = schema.parse(withoutNulls(plain(news)));
        const known = had.safeParse(plain(olds)).data;
        const outputs = outputsOf(terms, known && { ...known, terms: plain(oldInputs) });
        const found = objections(terms, outputs.image);
        if (found.length > 0) {
            const count = found.length === 1 ? "" : `, for ${found.length} reasons`;
            throw new UserError(`nothing is made${count}:${found.map((one) => `\n  ${one}`).join("")}`);
        }
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

/** Why it cannot be had, each with its setting; `image` is empty where AWS would have to name it. */
function objections(terms: Terms, image: string): string[] {
    const { instanceType, region, zone, spot, pricePerHour, system } = terms;
    const { zones, quota, newest, problems } = terms.found;
    const needsNewest = image === "";
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
 * The zone stays as long as it has the type, the image as long as it is not asked for another. The deadline counts from the
 * moment at which it was set; where it is past, another machine has another one, for nothing would stop that.
 */
function outputsOf(terms: Terms, before: Before | undefined) {
    const { deadline, found } = terms;
    const { zones = [], newest = "" } = found;
    const stays = before !== undefined && zones.includes(before.zone) ? before.zone : undefined;
    const zone = terms.zone ?? stays ?? [...zones].sort()[0] ?? "";
    const isAnother =
        zone !== before?.zone || differs(before, terms, ["instanceType", "region", "spot", "system", "publicKey"]);
    const image = imageOf(terms, before, isAnother) ?? newest;
    const now = Date.now();
    const isOver = before !== undefined && Date.parse(before.until) <= now && (isAnother || image !== before.image);
    const keepsUntil = before !== undefined && !differs(before, terms, ["deadline"]) && !isOver;
    const at = new Date(now + deadline * HOUR).toISOString().replace(/\.\d+Z$/, "Z");
    return { zone, image, until: keepsUntil ? before.until : at };
}

/** Undefined for the newest. To set `latest` asks for that once; from then on it comes with the next new machine. */
function imageOf({ image, ...terms }: Terms, before: Before | undefined, isAnother: boolean): string | undefined {
    if (image !== "kept" && image !== "latest") return image;
    // Each region has ids of its own.
    if (before === undefined || differs(before, terms, ["region", "system"])) return undefined;
    const asks = image === "latest" && (isAnother || before.terms["image"] !== "latest");
    return asks ? undefined : before.image;
}

function differs(before: Before, terms: Partial<Terms>, names: readonly (keyof Terms)[]): boolean {
    return names.some((name) => before.terms[name] !== terms[name]);
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
