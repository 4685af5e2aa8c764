import { spawn, spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import * as fs from "node:fs";
import * as path from "node:path";
import { pathToFileURL } from "node:url";
import * as grpc from "@grpc/grpc-js";
import { Empty } from "google-protobuf/google/protobuf/empty_pb.js";
import { EventsService } from "@pulumi/pulumi/proto/events_grpc_pb.js";
import type { EventRequest } from "@pulumi/pulumi/proto/events_pb.js";
import { LanguageRuntimeService } from "@pulumi/pulumi/proto/language_grpc_pb.js";
import { UserError } from "../pipeline/user-error";
import type { EngineEvent } from "./events";
import { cache, home, project } from "./locations.cjs";
import { removeStaleLocks, type Lock } from "./locks";

/*
 * Drives the Pulumi CLI as the Automation API does, with its flags and its protocol, but with one call of the CLI
 * instead of six and with the SDK loaded while the CLI starts: an update with nothing to do takes a third of the time.
 * All flags and variables that the CLI is given are in this file.
 */

export type Operation = "up" | "preview" | "refresh" | "destroy";

export interface Ended {
    /** The CLI's exit code. */
    readonly code: number;
    readonly stderr: string;
    /** Whether this process was asked to end and passed that on. */
    readonly cancelled: boolean;
    /** What the program itself threw for people, such as a wrong configuration. */
    readonly programError: UserError | undefined;
}

const PROJECT = "retune";
const NO_SUCH_STACK = 6;
const LOCK_ATTEMPTS = 4;
const LOCK_JITTER = 500;
const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** Pulumi's own environment: state below RETUNE_HOME and an empty passphrase, unless the user has chosen otherwise. */
function environment(): NodeJS.ProcessEnv {
    return {
        PULUMI_BACKEND_URL: `${pathToFileURL(stateFolder()).href}?create_dir=true&metadata=skip`,
        PULUMI_HOME: path.join(cache(), "pulumi-home"),
        ...(process.env["PULUMI_CONFIG_PASSPHRASE_FILE"] === undefined ? { PULUMI_CONFIG_PASSPHRASE: "" } : {}),
        ...process.env,
        PULUMI_SKIP_UPDATE_CHECK: "true",
        PULUMI_AUTOMATION_API: "true",
        // Without it there is no --event-log.
        PULUMI_DEBUG_COMMANDS: "true",
        // Its logs hold outputs, encrypted with a key that an empty passphrase gives away.
        PULUMI_LOG_ROTATION_MAX_AGE_DAYS: "1",
        RETUNE_CLIENT_PID: String(process.pid),
    };
}

/** Before the CLI says it in Go's words. */
function requireWritableHome(): void {
    try {
        // First: of a folder on a read-only disk mkdir says that it is not there.
        if (fs.existsSync(home())) fs.accessSync(home(), fs.constants.W_OK);
        fs.mkdirSync(stateFolder(), { recursive: true });
        fs.accessSync(stateFolder(), fs.constants.W_OK);
    } catch (error) {
        const why = (error as Error).message.replace(/^E\w+: /, "");
        throw new UserError(`RETUNE_HOME, ${home()}, cannot be used: ${why}; set it to a folder that you can write to`);
    }
}

function stateFolder(): string {
    return path.join(home(), "state");
}

/** Runs one operation to its end. Stopping this process stops following: what runs on targets goes on. */
export async function drive(request: {
    readonly pulumi: string;
    readonly operation: Operation;
    readonly stack: string;
    readonly onEvent: (event: EngineEvent) => void;
    /** Called when there is something to say about the way to the result. */
    readonly onNotice: (text: string) => void;
    /** The folder of rules that are asked about every resource before it is made. */
    readonly policyPack?: string | undefined;
    /** Aborted to detach from what is running. */
    readonly detach?: AbortSignal;
}): Promise<Ended> {
    if (request.operation === "preview" && isTruthy(process.env["PULUMI_DISABLE_PROVIDER_PREVIEW"])) {
        request.onNotice(
            "warning: PULUMI_DISABLE_PROVIDER_PREVIEW is set: this preview cannot tell what is in the store and what follows a change",
        );
    }
    requireWritableHome();
    for (let attempt = 1; ; attempt++) {
        const { removed, held } = removeStaleLocks(stateFolder(), PROJECT, request.stack);
        const itsRun = request.operation === "destroy" ? "is stopped" : "goes on and is attached to";
        if (removed > 0) request.onNotice(`the lock of an update that was killed is removed; its run ${itsRun}`);
        if (held[0] !== undefined && request.operation !== "preview") throw locked(held[0], request.stack);
        if (removed > 0) settlePendingCreates(request.pulumi, request.stack);

        const ended = await callCli(request);
        if (ended.code === NO_SUCH_STACK) {
            initialise(request.pulumi, request.stack);
        } else if (isLocked(ended.stderr) && attempt < LOCK_ATTEMPTS) {
            // Of two that start at the same moment each may see the other's lock, and both give up.
            await new Promise((resolve) => setTimeout(resolve, Math.random() * LOCK_JITTER));
        } else {
            return ended;
        }
    }
}

async function callCli(request: Parameters<typeof drive>[0]): Promise<Ended> {
    // A terminal that is gone makes writes fail. Unhandled, the SDK would report that through the engine, whose event
    // we would try to print, for ever.
    for (const stream of [process.stdout, process.stderr]) stream.on("error", () => undefined);

    let programError: UserError | undefined;
    const program = async (): Promise<unknown> => {
        try {
            return { ...((await import("../index")) as object) };
        } catch (error) {
            if (error instanceof UserError) programError = error;
            throw error;
        }
    };
    const server = new grpc.Server({ "grpc.max_receive_message_length": -1 });
    const host = languageHost(program);
    server.addService(LanguageRuntimeService, host.implementation);
    server.addService(EventsService, {
        streamEvents: (call: grpc.ServerReadableStream<EventRequest, Empty>, done: grpc.sendUnaryData<Empty>) => {
            call.on("data", (message: EventRequest) => {
                request.onEvent(JSON.parse(message.getEvent()) as EngineEvent);
            });
            call.on("end", () => {
                done(null, new Empty());
            });
            call.on("error", () => undefined);
        },
    });
    const port = await new Promise<number>((resolve, reject) => {
        server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, bound) => {
            if (error) reject(error);
            else resolve(bound);
        });
    });

    const address = `127.0.0.1:${port}`;
    const confirmed = request.operation === "preview" ? [] : ["--yes", "--skip-preview"];
    const flags = [...confirmed, "--stack", request.stack, "--non-interactive", "--color", "never"];
    const rules = request.policyPack === undefined ? [] : ["--policy-pack", request.policyPack];
    const hosting = [`--client=${address}`, "--exec-kind", "auto.inline", "--event-log", `tcp://${address}`];
    const child = spawn(request.pulumi, [request.operation, ...flags, ...rules, ...hosting], {
        cwd: project,
        env: environment(),
        // A session of its own, so that the terminal's Ctrl-C and hang-up reach only us; no pipe on stdout, so that our
        // death is no SIGPIPE. Then even a killed client leaves neither a lock nor a pending operation behind.
        detached: true,
        stdio: ["ignore", "ignore", "pipe"],
    });
    let stderr = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));

    let asked = 0;
    const interrupt = (): void => {
        // One Ctrl-C may arrive twice, and a second SIGINT would mean "terminate at once".
        if (Date.now() - asked < 1000) return;
        asked = Date.now();
        child.kill("SIGINT");
    };
    for (const signal of SIGNALS) process.on(signal, interrupt);
    request.detach?.addEventListener("abort", interrupt);
    // npm does not pass SIGTERM on, but dies of it.
    const parent = process.ppid;
    const orphaned = setInterval(() => {
        if (process.ppid !== parent && asked === 0) interrupt();
    }, 500);

    setImmediate(host.load);
    try {
        const code = await new Promise<number>((resolve, reject) => {
            child.on("error", reject);
            child.on("close", (exit) => {
                resolve(exit ?? 255);
            });
        });
        return { code, stderr, cancelled: asked > 0, programError };
    } finally {
        clearInterval(orphaned);
        // One that was asked to end is about to: the second of two Ctrl-C must not take its exit code away.
        if (asked === 0) for (const signal of SIGNALS) process.off(signal, interrupt);
        request.detach?.removeEventListener("abort", interrupt);
        server.forceShutdown();
    }
}

/** The engine's way to the program. Its calls wait for the SDK, which is loaded while the CLI starts. */
function languageHost(program: () => Promise<unknown>) {
    type Server = Record<string, (call: unknown, done: grpc.sendUnaryData<unknown>) => void>;
    let load: () => void = () => undefined;
    const server = new Promise<Server>((resolve, reject) => {
        load = () => {
            import("@pulumi/pulumi/automation/server.js")
                .then(({ LanguageServer }) => {
                    // Debug messages carry outputs, secrets included, and cost 1.7 ms a resource. What import() answers
                    // is a copy; the SDK's own module is the one to change.
                    const log = createRequire(__filename)("@pulumi/pulumi/log/index.js") as { debug: unknown };
                    log.debug = () => Promise.resolve();
                    resolve(new LanguageServer(program) as unknown as Server);
                })
                .catch(reject);
        };
    });
    const forward = (method: string) => (call: unknown, done: grpc.sendUnaryData<unknown>) => {
        server.then(
            (host) => host[method]?.(call, done),
            (error: unknown) => {
                done({ code: grpc.status.INTERNAL, details: String(error) });
            },
        );
    };
    const methods = ["getPluginInfo", "getRequiredPlugins", "run"];
    const implementation = Object.fromEntries(methods.map((method) => [method, forward(method)]));
    return { implementation, load };
}

/**
 * Whether the CLI met another update's lock. It may meet one in the moment in which it is written or removed: then it reads
 * an empty file, or finds none under the name that it has just listed.
 */
function isLocked(stderr: string): boolean {
    return /currently locked|^error: unexpected end of JSON input$|\/locks\/.*: no such file or directory$/m.test(
        stderr,
    );
}

/** As Pulumi reads its variables. */
function isTruthy(value: string | undefined): boolean {
    return value === "1" || value?.toLowerCase() === "true";
}

function cli(pulumi: string, args: readonly string[], input?: string) {
    const options = {
        cwd: project,
        env: environment(),
        encoding: "utf8",
        maxBuffer: 1 << 30,
        input: input ?? "",
    } as const;
    return spawnSync(pulumi, [...args, "--non-interactive", "--color", "never"], options);
}

function initialise(pulumi: string, stack: string): void {
    const { status, stderr } = cli(pulumi, ["stack", "init", stack]);
    // Another update may have made it meanwhile.
    if (status !== 0 && !stderr.includes("already exists")) throw new UserError(explainCli(stderr));
}

/**
 * A create that was killed stays in the state as pending for ever, and warns at every update. A stage becomes what an
 * interrupted one is, a resource without outputs: the next update attaches to its run, a destroy stops it. Of our others it
 * means nothing, because making is finding; those of other providers stay, because their warning is right.
 */
function settlePendingCreates(pulumi: string, stack: string): void {
    const exported = cli(pulumi, ["stack", "export", "--stack", stack]);
    if (exported.status !== 0) return;
    interface Resource {
        readonly urn: string;
        readonly type: string;
    }
    interface Pending {
        readonly type: string;
        readonly resource: Resource;
    }
    const state = JSON.parse(exported.stdout) as {
        deployment?: { resources?: Resource[]; pending_operations?: Pending[] };
    };
    const { resources = [], pending_operations: pending = [] } = state.deployment ?? {};
    const isOurs = ({ type, resource }: Pending) => type === "creating" && resource.type.startsWith("finetune:");
    const interrupted = pending
        .filter((one) => isOurs(one) && one.resource.type.startsWith("finetune:pipeline:"))
        .filter(({ resource: { urn } }) => !resources.some((one) => one.urn === urn))
        .map(({ resource }) => ({
            ...resource,
            id: resource.urn.slice(resource.urn.lastIndexOf("::") + 2),
            outputs: {},
            initErrors: ["its update was killed"],
        }));
    if (state.deployment === undefined || !pending.some(isOurs)) return;
    state.deployment.pending_operations = pending.filter((one) => !isOurs(one));
    state.deployment.resources = [...resources, ...interrupted];
    cli(pulumi, ["stack", "import", "--stack", stack], JSON.stringify(state));
}

function locked(lock: Lock, stack: string): UserError {
    const since = new Date(lock.timestamp).toLocaleTimeString();
    return new UserError(
        `stack ${stack} is being updated by ${lock.username}@${lock.hostname} (pid ${lock.pid}) since ${since}; ` +
            "`npm run status` shows how far it is, `npm run logs -- RUN` follows a run",
    );
}

/** The CLI's words for a failure outside of any resource, in ours where we know a way out. */
export function explainCli(stderr: string): string {
    if (stderr.includes("incorrect passphrase")) {
        return (
            "PULUMI_CONFIG_PASSPHRASE is not the one that this stack was made with; the stacks of this repository have " +
            "an empty one: unset the variable, or set it to nothing"
        );
    }
    if (isLocked(stderr)) return "another update of this stack started at the same moment; try again";
    return stderr.trim().replace(/^error: /gm, "") || "the Pulumi CLI failed without a word";
}
