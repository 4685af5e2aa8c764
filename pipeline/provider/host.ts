import * as fs from "node:fs";
import * as path from "node:path";
import { z } from "zod";
import { check, REPAIRS, type Facts, type Finding, type Repair } from "../../infra/host/contract";
import { targetSchema, type SshTarget } from "../../infra/target";
import { project } from "../../scripts/locations.cjs";
import { changesBetween, type Change } from "../changes";
import { SshExecutor } from "../executor/ssh";
import type { Json, JsonObject } from "../identity";
import { PRECISIONS } from "../llamafactory/answering";
import { versions } from "../llamafactory/job";
import type { Store } from "../store/store";
import { UserError } from "../user-error";
import { checkFields, driftOf, type Checked, type Log, type ResourceLifecycle } from "./lifecycle";
import { plain, withoutNulls } from "./values";

const wanted = { target: targetSchema, precision: z.enum(PRECISIONS), vllm: z.boolean().optional() };
const fields = { ...wanted, prepared: z.string() };

interface Look {
    readonly facts: Facts;
    readonly findings: readonly Finding[];
}

/** What happens to a host over its life: it is looked at, never changed. */
export class HostLifecycle implements ResourceLifecycle {
    private readonly seen = new Map<string, Promise<Look>>();

    constructor(
        private readonly store: Store,
        private readonly log: Log,
    ) {}

    check(_urn: string, news: JsonObject): Promise<Checked> {
        return Promise.resolve(checkFields(fields, withoutNulls(news)));
    }

    diff(_urn: string, oldInputs: JsonObject, oldOutputs: JsonObject, news: JsonObject): Change[] {
        return [...changesBetween(plain(oldInputs), plain(news)), ...driftOf(oldOutputs)];
    }

    preview(urn: string, news: JsonObject): Promise<JsonObject> {
        this.log(urn, "would be verified", { ephemeral: false });
        // The way to it does not change by looking.
        return Promise.resolve({ target: news["target"] as Json, action: "would-run" });
    }

    async apply(urn: string, news: JsonObject): Promise<JsonObject> {
        const inputs = plain(news);
        const { facts, findings } = await this.look(urn, inputs, "wake");
        for (const { message } of findings.filter(({ severity }) => severity === "warning"))
            this.log(urn, message, { ephemeral: false, warning: true });
        const errors = findings.filter(({ severity }) => severity === "error");
        if (errors.length > 0) {
            const { host } = inputs["target"] as SshTarget;
            const count = errors.length === 1 ? "" : `, for ${errors.length} reasons`;
            const lines = errors.map(({ message }) => `\n  ${message}`).join("");
            const mends = isPrepared(inputs) && errors.some(({ repairedBy }) => repairedBy !== undefined);
            const next = mends ? "\n`npm run refresh`, then `npm run up` runs the scripts that mend such a thing" : "";
            throw new UserError(`${host} cannot be used${count}:${lines}${next}`);
        }
        return { target: inputs["target"] as Json, facts: shown(facts), action: "ran" };
    }

    /** The old outputs, with `drift` where the host is no longer what it must be. Of one that is silent nothing is known. */
    async read(urn: string, oldInputs: JsonObject, outputs: JsonObject): Promise<JsonObject> {
        const { drift: _drift, ...rest } = outputs;
        try {
            const inputs = plain(oldInputs);
            const { facts, findings } = await this.glance(urn, inputs);
            // What is worth a warning only is worth a script, where there is one.
            const amiss = findings.filter(
                ({ severity, repairedBy }) => severity === "error" || (repairedBy !== undefined && isPrepared(inputs)),
            );
            const drift = describe(amiss);
            return { ...rest, facts: shown(facts), ...(drift === "" ? {} : { drift }) };
        } catch (error) {
            if (!(error instanceof UserError)) throw error;
            this.log(urn, `${error.message}: taken as it was`, { ephemeral: false, warning: true });
            return outputs;
        }
    }

    /** The machine stays as it is; where it is one of the stack, it is about to go, and what it has cost is noted before. */
    async delete(_urn: string, oldInputs: JsonObject): Promise<void> {
        const target = targetSchema.safeParse(plain(oldInputs)["target"]).data;
        if (target?.type === "ssh") await new SshExecutor(target, this.store, () => undefined).lastReading();
    }

    /** What was seen in this operation already, or a look. */
    glance(urn: string, inputs: JsonObject): Promise<Look> {
        const { target, precision, vllm = false } = inputs;
        const machine = JSON.stringify([target, precision, vllm]);
        const seen = this.seen.get(machine) ?? this.look(urn, inputs);
        this.seen.set(machine, seen);
        return seen;
    }

    private async look(urn: string, inputs: JsonObject, sleeping: "wake" | "let sleep" = "let sleep"): Promise<Look> {
        const { target, precision, vllm } = z.object(wanted).parse(inputs);
        if (target.type !== "ssh") throw new UserError(`target.type: a host is reached by ssh, not ${target.type}`);
        const executor = new SshExecutor(target, this.store, (line) => {
            this.log(urn, line, { ephemeral: false, warning: true });
        });
        const progress = (text: string): void => {
            this.log(urn, text, { ephemeral: true });
        };
        if (sleeping === "wake") await executor.wake(progress);
        progress(`looking at ${target.host}`);
        const program = await fs.promises.readFile(path.join(project, "infra", "host", "probe.py"), "utf8");
        const before = Date.now() / 1000;
        const answer = await executor.execute(program, [
            target.home,
            ...(target.python === undefined ? [] : [target.python]),
        ]);
        const facts = JSON.parse(answer) as Facts;
        const { llamafactory } = versions("llamafactory");
        const time = (before + Date.now() / 1000) / 2;
        return { facts, findings: check(facts, { gpu: target.gpu, precision, llamafactory, vllm, time }) };
    }
}

/**
 * What happens to the count of repairs: a refresh notes what a script mends, the next update counts it, and the script,
 * of which the count is a trigger, runs again. Nothing is looked at in an update.
 */
export class HostRepairsLifecycle implements ResourceLifecycle {
    constructor(private readonly hosts: HostLifecycle) {}

    check(_urn: string, news: JsonObject): Promise<Checked> {
        return Promise.resolve(checkFields(wanted, withoutNulls(news)));
    }

    /** Another way to the host, or another host, needs no repair for that. */
    diff(_urn: string, _oldInputs: JsonObject, oldOutputs: JsonObject): Change[] {
        return driftOf(oldOutputs);
    }

    preview(_urn: string, _news: JsonObject, olds: JsonObject | undefined): Promise<JsonObject> {
        return Promise.resolve({ counts: counted(olds), action: "would-run" });
    }

    apply(_urn: string, _news: JsonObject, olds: JsonObject | undefined): Promise<JsonObject> {
        return Promise.resolve({ counts: counted(olds), action: "ran" });
    }

    async read(urn: string, oldInputs: JsonObject, outputs: JsonObject): Promise<JsonObject> {
        const { drift: _drift, amiss: _amiss, ...rest } = outputs;
        try {
            const { findings } = await this.hosts.glance(urn, plain(oldInputs));
            const mendable = findings.filter(({ repairedBy }) => repairedBy !== undefined);
            if (mendable.length === 0) return rest;
            return {
                ...rest,
                amiss: mendable.flatMap(({ repairedBy }) => repairedBy ?? []),
                drift: describe(mendable),
            };
        } catch (error) {
            if (!(error instanceof UserError)) throw error;
            return outputs; // the host itself says so
        }
    }

    delete(): Promise<void> {
        return Promise.resolve();
    }
}

/** The counts of before, with one more for each script that mends what is amiss. */
function counted(olds: JsonObject = {}): Record<Repair, number> {
    const before = z.record(z.string(), z.number()).catch({}).parse(olds["counts"]);
    const amiss = z.array(z.string()).catch([]).parse(olds["amiss"]);
    const one = (repair: Repair): number => (before[repair] ?? 0) + (amiss.includes(repair) ? 1 : 0);
    return Object.fromEntries(REPAIRS.map((repair) => [repair, one(repair)])) as Record<Repair, number>;
}

function describe(findings: readonly Finding[]): string {
    return findings.map(({ field, found, wanted }) => `${field} is ${found}, wanted ${wanted}`).join("; ");
}

/** Whether the scripts of infra/host/ have made it: what another has prepared, that other mends. */
function isPrepared({ prepared }: JsonObject): boolean {
    return prepared !== "";
}

/** What of the facts is worth a place in the state: what does not change by itself. */
function shown({ release, architecture, driver, gpus, memory, environment }: Facts): JsonObject {
    return {
        release: `${release.id ?? "?"} ${release.version ?? ""}`.trim(),
        architecture,
        driver: driver.loaded,
        gpus: gpus.map(({ name, memoryMiB }) => `${name}, ${(memoryMiB / 1024).toFixed(0)} GiB`),
        memory: `${(memory.totalMiB / 1024).toFixed(0)} GiB`,
        torch: environment?.torch?.version ?? null,
        cuda: environment?.torch?.cuda ?? null,
        llamafactory: environment?.llamafactory ?? null,
        ...(environment?.vllm ? { vllm: environment.vllm } : {}),
    };
}
