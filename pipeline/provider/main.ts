import * as grpc from "@grpc/grpc-js";
import { EngineClient } from "@pulumi/pulumi/proto/engine_grpc_pb.js";
import { LogRequest, LogSeverity } from "@pulumi/pulumi/proto/engine_pb.js";
import { home } from "../../scripts/locations.cjs";
import { executorFor } from "../executor/executors";
import { processOf } from "../processes";
import { Store } from "../store/store";
import { UserError } from "../user-error";
import type { HostLifecycle } from "./host";
import { Lifecycle, type Log, type ResourceLifecycle } from "./lifecycle";
import { serveProvider } from "./protocol";

const SECOND = 1000;

/** Lines to the engine; ephemeral ones at most once a second for each resource, the newest wins. */
function engineLog(address: string | undefined): Log {
    if (address === undefined) return () => undefined;
    const engine = new EngineClient(address, grpc.credentials.createInsecure());
    const send = (urn: string, text: string, ephemeral: boolean, warning = false): void => {
        const request = new LogRequest()
            .setSeverity(warning ? LogSeverity.WARNING : LogSeverity.INFO)
            .setUrn(urn)
            .setMessage(text)
            .setEphemeral(ephemeral);
        engine.log(request, () => undefined); // an engine that is gone needs no lines
    };
    const waiting = new Map<string, { text?: string }>();
    return (urn, text, { ephemeral, warning }) => {
        if (!ephemeral) {
            send(urn, text, false, warning);
            return;
        }
        const slot = waiting.get(urn);
        if (slot !== undefined) {
            slot.text = text;
            return;
        }
        const fresh: { text?: string } = { text };
        waiting.set(urn, fresh);
        const next = (): void => {
            if (fresh.text === undefined) {
                waiting.delete(urn);
                return;
            }
            send(urn, fresh.text, true);
            delete fresh.text;
            setTimeout(next, SECOND).unref();
        };
        next();
    };
}

/** Calls back once when a process is gone: the client that started the update, or the engine that started us. */
function whenGone(gone: () => boolean, then: () => void): void {
    const timer = setInterval(() => {
        if (!gone()) return;
        clearInterval(timer);
        then();
    }, 300);
    timer.unref();
}

const server = new grpc.Server({ "grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1 });
const store = new Store(home());
const log = engineLog(process.argv[2]);
const lifecycle = new Lifecycle(store, executorFor, log);
let hosts: Promise<HostLifecycle> | undefined;
const kinds = new Map<string, Promise<ResourceLifecycle>>();
const others = (kind: string): Promise<ResourceLifecycle> => {
    const known = kinds.get(kind) ?? loaded(kind);
    kinds.set(kind, known);
    return known;
};
/** Only what the stack has is loaded. */
async function loaded(kind: string): Promise<ResourceLifecycle> {
    hosts ??= import("./host").then(({ HostLifecycle }) => new HostLifecycle(store, log));
    switch (kind) {
        case "Host":
            return hosts;
        case "HostRepairs":
            return new (await import("./host")).HostRepairsLifecycle(await hosts);
        case "HostCommand":
            return new (await import("./host-command")).HostCommandLifecycle(store, log);
        case "HostKey":
            return new (await import("./host-key")).HostKeyLifecycle();
        case "Offer":
            return new (await import("./offer")).OfferLifecycle(store, log);
        case "Service":
            return new (await import("./service")).ServiceLifecycle(store, log, lifecycle.cancelled, lifecycle.session);
        case "Push":
            return new (await import("./push")).PushLifecycle(store, log, lifecycle.cancelled);
        default:
            throw new UserError(`there is no kind of infrastructure ${kind}`);
    }
}
serveProvider(server, lifecycle, others);

// A client that was killed cannot cancel: without this the engine would follow a run for hours, holding the lock.
const client = Number(process.env["RETUNE_CLIENT_PID"] ?? 0);
if (client > 0) {
    // Its number may soon be another's: the start tells them apart.
    const started = processOf(client)?.started;
    whenGone(
        () => started === undefined || processOf(client)?.started !== started,
        () => {
            lifecycle.cancel();
        },
    );
}
const engine = process.ppid;
whenGone(
    () => process.ppid !== engine,
    () => {
        process.exit(0);
    },
);

server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) => {
    if (error) throw error;
    process.stdout.write(`${port}\n`);
});
