import * as path from "node:path";
import { z } from "zod";
import { targetSchema, type Target } from "../../infra/target";
import { changesBetween, type Change } from "../changes";
import { machineFor } from "../executor/executors";
import type { Machine, ServiceStart, ServiceStatus } from "../executor/machine";
import { hasUnknown, keyOf, UNKNOWN, type Json, type JsonObject } from "../identity";
import { serviceFields, serviceOwner, serviceTools, servingProgram, servingSources } from "../service";
import type { SessionEntry } from "../stage";
import type { Store } from "../store/store";
import { UserError } from "../user-error";
import { Detached, orDetached, placeOf } from "./ensure";
import {
    checkFields,
    driftOf,
    Interrupted,
    nameOf,
    reasonsFor,
    type Checked,
    type Log,
    type ResourceLifecycle,
} from "./lifecycle";
import { plain, withoutNulls } from "./values";

const SECOND = 1000;

/**
 * What happens to a service over its life. It is no run: it stays, and what is in the state is what it was last seen to
 * serve. The model of an update comes up beside the one before, which serves until then, and on where it does not.
 */
export class ServiceLifecycle implements ResourceLifecycle {
    private readonly machines = new Map<string, Promise<Machine>>();

    constructor(
        private readonly store: Store,
        private readonly log: Log,
        readonly cancelled: AbortSignal,
        private readonly session: Map<string, SessionEntry>,
    ) {}

    check(_urn: string, news: JsonObject): Promise<Checked> {
        const { inputs, failures } = checkFields(serviceFields, withoutNulls(news));
        return Promise.resolve({ inputs: { ...inputs, tools: serviceTools() }, failures });
    }

    diff(_urn: string, oldInputs: JsonObject, oldOutputs: JsonObject, news: JsonObject): Change[] {
        return [...changes(plain(oldInputs), plain(news)), ...driftOf(oldOutputs)];
    }

    preview(urn: string, news: JsonObject, olds: JsonObject | undefined, oldInputs: JsonObject | undefined) {
        const inputs = plain(news);
        const what = olds === undefined ? "start" : `swap: ${why(olds, oldInputs ?? {}, inputs).join("; ")}`;
        this.log(urn, `would ${what}`, { ephemeral: false });
        const { model, port } = inputs;
        const key = hasUnknown(identityOf(inputs)) ? UNKNOWN : keyOf("Service", identityOf(inputs));
        return Promise.resolve({ key, digest: model, uri: uriOf(port), action: "would-run" });
    }

    /** Answers when the model serves. One that does not come up throws UserError, and what served before goes on. */
    async apply(
        urn: string,
        news: JsonObject,
        olds: JsonObject | undefined,
        oldInputs: JsonObject | undefined,
    ): Promise<JsonObject> {
        const inputs = z.object(serviceFields).parse(plain(news));
        const { target, port, model, backend } = inputs;
        const key = keyOf("Service", identityOf(plain(news)));
        const began = Date.now();
        try {
            const machine = await this.machine(urn, target);
            const progress = (text: string): void => {
                this.log(urn, text, { ephemeral: true });
            };
            await orDetached(machine.wake(progress), this);
            const absent = await orDetached(machine.missing([model]), this);
            if (absent.length > 0) await orDetached(machine.send(model, progress), this);
            const job = servingProgram(inputs, key);
            const start = await machine.serve({ port, owner: ownerOf(urn), job, programs: servingSources() });
            const { boot } = await this.follow(machine, port, key, start, progress);
            await this.leave(urn, oldInputs, { target, port, boot });
            const action = start.started ? "ran" : "attached";
            const seconds = start.started ? Math.round((Date.now() - began) / 100) / 10 : 0;
            const reasons = olds === undefined ? [] : why(olds, oldInputs ?? {}, plain(news));
            this.session.set(nameOf(urn), { action, seconds, reasons });
            return {
                key,
                digest: model,
                uri: uriOf(port),
                keyFile: path.posix.join(target.type === "ssh" ? target.home : this.store.home, keyFileOf(port)),
                facts: { backend, port, ...(target.type === "ssh" ? { at: target.host } : {}) },
                seconds,
                finishedAt: new Date().toISOString(),
                action,
            };
        } catch (error) {
            if (error instanceof Detached) throw new Interrupted(olds ?? {});
            throw error;
        }
    }

    /** The old outputs, with `drift` where it does not serve what it did. Of a target that is silent nothing is known. */
    async read(urn: string, oldInputs: JsonObject, outputs: JsonObject): Promise<JsonObject> {
        const { drift: _drift, ...rest } = outputs;
        const known = z.object({ target: targetSchema, port: z.number() }).safeParse(plain(oldInputs));
        if (!known.success || typeof outputs["key"] !== "string") return outputs;
        try {
            const machine = await this.machine(urn, known.data.target);
            const status = await machine.service(known.data.port, true);
            if (status.state === "up" && status.warning !== null)
                this.log(urn, `it serves, but ${status.warning}`, { ephemeral: false, warning: true });
            const drift = driftSeen(status, outputs["key"]);
            return drift === undefined ? rest : { ...rest, drift };
        } catch (error) {
            if (!(error instanceof UserError)) throw error;
            this.log(urn, `${error.message}: taken as it was`, { ephemeral: false, warning: true });
            return outputs;
        }
    }

    async delete(urn: string, oldInputs: JsonObject): Promise<void> {
        await this.leave(urn, oldInputs, undefined);
    }

    /** Waits until a model serves, or has failed to. */
    private async follow(
        machine: Machine,
        port: number,
        key: string,
        start: ServiceStart,
        progress: (text: string) => void,
    ): Promise<ServiceStatus> {
        let status: ServiceStatus = start;
        for (;;) {
            // What came up then is not tried again: the machine starts the model that served.
            if (status.boot !== start.boot) {
                throw new UserError(
                    `service: the machine was restarted while the model came up: \`npm run up\` brings it up again`,
                );
            }
            if ((status.failed?.attempt ?? 0) === start.attempt) throw new UserError(explain(status, port));
            switch (status.state) {
                case "up":
                    if (status.active === key && status.starting === null) return status;
                    progress(status.phase ?? "starting");
                    break;
                case "down":
                case "absent":
                    throw new UserError(explain(status, port));
            }
            await orDetached(new Promise((resolve) => setTimeout(resolve, SECOND / 2)), this);
            status = await orDetached(machine.service(port, false), this);
        }
    }

    /** Ends the service where it was, unless that is where it is now. */
    private async leave(
        urn: string,
        oldInputs: JsonObject | undefined,
        now: { readonly target: Target; readonly port: number; readonly boot: string } | undefined,
    ): Promise<void> {
        const was = z.object({ target: targetSchema, port: z.number() }).safeParse(plain(oldInputs ?? {})).data;
        if (was === undefined) return;
        const { target, port } = was;
        if (now?.port === port && placeOf(now.target) === placeOf(target)) return;
        try {
            const machine = await this.machine(urn, target);
            // The same machine may have got another name.
            if (now?.port === port && (await machine.service(port, false)).boot === now.boot) return;
            await machine.endService(port, ownerOf(urn));
        } catch (error) {
            if (!(error instanceof UserError)) throw error;
            this.log(urn, `it could not be ended: ${error.message}`, { ephemeral: false, warning: true });
        }
    }

    private machine(urn: string, target: Target): Promise<Machine> {
        const name = JSON.stringify(target);
        const machine =
            this.machines.get(name) ??
            machineFor(target, this.store, (text) => {
                this.log(urn, text, { ephemeral: false, warning: true });
            });
        this.machines.set(name, machine);
        return machine;
    }
}

/** The part of its inputs that decides what is served. */
function identityOf({ target: _target, ...identity }: JsonObject): JsonObject {
    return identity;
}

/** Other than a run, a service is where it is; another way to the same place is no change. */
function changes(old: JsonObject, now: JsonObject): Change[] {
    const [before, after] = [old, now].map((inputs) => {
        const target = targetSchema.safeParse(inputs["target"]).data;
        const { type, host, user, home } = (target ?? {}) as Record<string, string | undefined>;
        // Of a host that is about to be verified again the way is not known, nor does it change.
        const place = hasUnknown(now["target"]) ? {} : { target: { type, host, user, home } };
        return { ...identityOf(inputs), ...place };
    });
    return changesBetween(before ?? {}, after ?? {});
}

function why(olds: JsonObject, oldInputs: JsonObject, inputs: JsonObject): string[] {
    return reasonsFor(changes(plain(oldInputs), inputs), olds);
}

function driftSeen(status: ServiceStatus, key: string): string | undefined {
    switch (status.state) {
        case "absent":
            return "there is no such service";
        case "down":
            return `it does not serve: ${status.reason ?? "its process is gone"}`;
        case "up":
            if (status.active === key) return undefined;
            return status.active === null
                ? `it does not serve: ${status.reason ?? "it is coming up"}`
                : "it serves another model";
    }
}

/** Why an update of the service has failed, in words. */
export function explain(status: ServiceStatus, port: number): string {
    const reason = status.failed?.reason ?? (status.state === "down" ? status.reason : null) ?? "no reason is known";
    const isServed = status.state === "up" && status.active !== null;
    const serves = isServed ? "; the one before goes on serving" : "";
    const advice =
        isServed && /\bmemory\b/.test(reason)
            ? "\n  while one model takes the place of another both are in memory: make room for two, or end the service first " +
              "(service.enabled: false, `npm run up`) and start it again"
            : "";
    const lines = (status.failed?.log ?? "")
        .trimEnd()
        .split("\n")
        .filter((line) => line.trim() !== "" && !reason.includes(line))
        .slice(-8);
    const log =
        lines.length === 0 ? "" : `\n  last lines of its log:\n${lines.map((line) => `    ${line}`).join("\n")}`;
    return `the model did not come up: ${reason}${serves}${advice}${log}\n  the whole log: services/${port}/log in RETUNE_HOME of its machine`;
}

function uriOf(port: Json | undefined): string {
    return typeof port === "number" ? `http://127.0.0.1:${port}/v1` : UNKNOWN;
}

function keyFileOf(port: number): string {
    return `services/${port}/key`;
}

/** Of urn:pulumi:dev::retune::finetune:pipeline:Service::service. */
function ownerOf(urn: string): string {
    const [start = ""] = urn.split("::");
    return serviceOwner(start.slice("urn:pulumi:".length), nameOf(urn));
}
