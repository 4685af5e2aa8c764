import * as fs from "node:fs";
import * as path from "node:path";
import { z } from "zod";
import { check, type Facts, type Finding } from "../../infra/host/contract";
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

const fields = {
    target: targetSchema,
    precision: z.enum(PRECISIONS),
    prepared: z.string(),
};

/** What happens to a host over its life: it is looked at, never changed. */
export class HostLifecycle implements ResourceLifecycle {
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
        const { facts, findings } = await this.look(urn, inputs);
        for (const { message } of findings.filter(({ severity }) => severity === "warning"))
            this.log(urn, message, { ephemeral: false, warning: true });
        const errors = findings.filter(({ severity }) => severity === "error");
        if (errors.length > 0) {
            const { host } = inputs["target"] as SshTarget;
            const count = errors.length === 1 ? "" : `, for ${errors.length} reasons`;
            throw new UserError(
                `${host} cannot be used${count}:\n${errors.map(({ message }) => `  ${message}`).join("\n")}`,
            );
        }
        return { target: inputs["target"] as Json, facts: shown(facts), action: "ran" };
    }

    /** The old outputs, with `drift` where the host is no longer what it must be. Of one that is silent nothing is known. */
    async read(urn: string, oldInputs: JsonObject, outputs: JsonObject): Promise<JsonObject> {
        const { drift: _drift, ...rest } = outputs;
        try {
            const { facts, findings } = await this.look(urn, plain(oldInputs));
            const errors = findings.filter(({ severity }) => severity === "error");
            const drift = errors.map(({ field, found, wanted }) => `${field} is ${found}, wanted ${wanted}`).join("; ");
            return { ...rest, facts: shown(facts), ...(drift === "" ? {} : { drift }) };
        } catch (error) {
            if (!(error instanceof UserError)) throw error;
            this.log(urn, `${error.message}: taken as it was`, { ephemeral: false, warning: true });
            return outputs;
        }
    }

    /** The machine stays as it is. */
    delete(): Promise<void> {
        return Promise.resolve();
    }

    private async look(urn: string, inputs: JsonObject): Promise<{ facts: Facts; findings: Finding[] }> {
        const { target, precision } = z.object(fields).parse(inputs);
        if (target.type !== "ssh") throw new UserError(`target.type: a host is reached by ssh, not ${target.type}`);
        const executor = new SshExecutor(target, this.store, (line) => {
            this.log(urn, line, { ephemeral: false, warning: true });
        });
        this.log(urn, `looking at ${target.host}`, { ephemeral: true });
        const program = await fs.promises.readFile(path.join(project, "infra", "host", "probe.py"), "utf8");
        const before = Date.now() / 1000;
        const answer = await executor.execute(program, [
            target.home,
            ...(target.python === undefined ? [] : [target.python]),
        ]);
        const facts = JSON.parse(answer) as Facts;
        const { llamafactory } = versions("llamafactory");
        const wanted = { gpu: target.gpu, precision, llamafactory, time: (before + Date.now() / 1000) / 2 };
        return { facts, findings: check(facts, wanted) };
    }
}

/** What of the facts is worth a place in the state: what does not change by itself. */
function shown({ release, architecture, driver, gpus, environment }: Facts): JsonObject {
    return {
        release: `${release.id ?? "?"} ${release.version ?? ""}`.trim(),
        architecture,
        driver: driver.loaded,
        gpus: gpus.map(({ name, memoryMiB }) => `${name}, ${(memoryMiB / 1024).toFixed(0)} GiB`),
        torch: environment?.torch?.version ?? null,
        llamafactory: environment?.llamafactory ?? null,
    };
}
