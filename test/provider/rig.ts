// Plays the engine to the real provider: starts it as the engine does, speaks its protocol over gRPC, and takes the lines
// that it logs. Where a stage needs LLaMA-Factory, the Python environment is a stand-in (../stand-in/).
import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import * as grpc from "@grpc/grpc-js";
import { EngineService } from "@pulumi/pulumi/proto/engine_grpc_pb.js";
import { LogSeverity, type LogRequest } from "@pulumi/pulumi/proto/engine_pb.js";
import { ResourceProviderClient } from "@pulumi/pulumi/proto/provider_grpc_pb.js";
import * as messages from "@pulumi/pulumi/proto/provider_pb.js";
import { Status } from "@pulumi/pulumi/proto/status_pb.js";
import { Empty } from "google-protobuf/google/protobuf/empty_pb.js";
import { Struct, type JavaScriptValue } from "google-protobuf/google/protobuf/struct_pb.js";
import { afterAll, onTestFinished, vi } from "vitest";
import type { JsonObject } from "../../pipeline/identity";
import { project, pythonEnvironment } from "../../scripts/locations.cjs";
import { endAll, until } from "../unit/processes";

export interface Line {
    readonly urn: string;
    readonly text: string;
    readonly ephemeral: boolean;
    readonly warning: boolean;
    readonly at: number;
}

/** What the provider answers where an operation was interrupted: ErrorResourceInitFailed. */
export class InitFailed extends Error {
    constructor(
        readonly id: string,
        readonly properties: JsonObject,
        readonly inputs: JsonObject,
        readonly reasons: readonly string[],
    ) {
        super(reasons.join("; "));
    }
}

export const urnOf = (kind: string, name = kind.toLowerCase()): string =>
    `urn:pulumi:dev::retune::finetune:pipeline:${kind}::${name}`;

const python = execFileSync("python3", ["-c", "import os, sys; print(os.path.realpath(sys.executable))"], {
    encoding: "utf8",
}).trim();

// TypeScript is compiled once for all the providers that these tests start.
const compiled = mkdtempSync(path.join(tmpdir(), "retune-provider-ts-"));
afterAll(() => {
    rmSync(compiled, { recursive: true, force: true });
});

/** A home and a cache of a test's own, and the providers that run on them. All of it is gone after the test. */
export class Rig {
    readonly folder = mkdtempSync(path.join(tmpdir(), "retune-provider-"));
    readonly home = path.join(this.folder, "home");
    readonly cache = path.join(this.folder, "cache");
    readonly control = path.join(this.folder, "control");
    private readonly providers: Provider[] = [];

    constructor() {
        for (const name of ["cache", "control", "runtime"]) mkdirSync(path.join(this.folder, name));
        symlinkSync(compiled, path.join(this.cache, "ts"));
        vi.stubEnv("RETUNE_CACHE", this.cache);
        const bin = path.join(pythonEnvironment(), "bin");
        vi.unstubAllEnvs();
        mkdirSync(bin, { recursive: true });
        const modules = path.join(import.meta.dirname, "..", "stand-in");
        const script = `#!/bin/sh\nPYTHONPATH="${modules}" PYTHONDONTWRITEBYTECODE=1 exec "${python}" "$@"\n`;
        writeFileSync(path.join(bin, "python"), script);
        chmodSync(path.join(bin, "python"), 0o755);
    }

    /** Starts the provider's program as the engine does: with our address, for a port on its first line. */
    async start(environment: Readonly<Record<string, string>> = {}): Promise<Provider> {
        const provider = await Provider.start(this, environment);
        this.providers.push(provider);
        return provider;
    }

    environment(): Record<string, string> {
        return {
            PATH: `${path.dirname(process.execPath)}:${process.env["PATH"] ?? ""}`,
            HOME: this.folder,
            RETUNE_HOME: this.home,
            RETUNE_CACHE: this.cache,
            RETUNE_STAND_IN: this.control,
            XDG_RUNTIME_DIR: path.join(this.folder, "runtime"),
        };
    }

    /** Keeps what runs on the target from ending. */
    hold(): void {
        writeFileSync(path.join(this.control, "hold"), "");
    }

    release(): void {
        rmSync(path.join(this.control, "hold"));
    }

    async end(): Promise<void> {
        for (const provider of this.providers) await provider.end();
        await endAll(this.folder);
        rmSync(this.folder, { recursive: true, force: true });
    }
}

/** A rig for one test. */
export function rigForTest(): Rig {
    const rig = new Rig();
    onTestFinished(() => rig.end());
    return rig;
}

export class Provider {
    private constructor(
        readonly child: ChildProcess,
        readonly client: ResourceProviderClient,
        readonly lines: Line[],
        private readonly engine: grpc.Server,
    ) {}

    static async start(rig: Rig, environment: Readonly<Record<string, string>>): Promise<Provider> {
        const lines: Line[] = [];
        const engine = new grpc.Server();
        const unused = Object.keys(EngineService).map((name) => [name, () => undefined] as const);
        engine.addService(EngineService, {
            ...Object.fromEntries(unused),
            log: (call: grpc.ServerUnaryCall<LogRequest, Empty>, done: grpc.sendUnaryData<Empty>) => {
                const request = call.request;
                const severity = request.getSeverity();
                const warning = severity === LogSeverity.WARNING;
                if (severity !== LogSeverity.INFO && !warning)
                    throw new Error(`severity ${severity}: ${request.getMessage()}`);
                lines.push({
                    warning,
                    urn: request.getUrn(),
                    text: request.getMessage(),
                    ephemeral: request.getEphemeral(),
                    at: performance.now(),
                });
                done(null, new Empty());
            },
        });
        const port = await new Promise<number>((resolve, reject) => {
            engine.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, bound) => {
                if (error) reject(error);
                else resolve(bound);
            });
        });
        const program = path.join(project, "pipeline", "provider", "pulumi-resource-finetune");
        const env = { ...rig.environment(), ...environment };
        const child = spawn(program, [`127.0.0.1:${port}`], { env, stdio: ["ignore", "pipe", "inherit"] });
        const own = await firstLine(child);
        const client = new ResourceProviderClient(`127.0.0.1:${own}`, grpc.credentials.createInsecure());
        return new Provider(child, client, lines, engine);
    }

    async end(): Promise<void> {
        this.client.close();
        this.engine.forceShutdown();
        if (this.child.exitCode === null && this.child.signalCode === null) {
            const gone = new Promise((resolve) => this.child.once("close", resolve));
            this.child.kill("SIGKILL");
            await gone;
        }
    }

    async check(kind: string, news: JsonObject, olds?: JsonObject) {
        const request = new messages.CheckRequest().setUrn(urnOf(kind)).setNews(struct(news));
        if (olds !== undefined) request.setOlds(struct(olds));
        const response = await unary<messages.CheckResponse>((done) => this.client.check(request, done));
        const failures = response.getFailuresList().map((one) => [one.getProperty(), one.getReason()]);
        return { inputs: json(response.getInputs()), failures };
    }

    async diff(kind: string, oldInputs: JsonObject, news: JsonObject, olds: JsonObject = oldInputs) {
        const request = new messages.DiffRequest()
            .setUrn(urnOf(kind))
            .setId(kind.toLowerCase())
            .setOldInputs(struct(oldInputs))
            .setOlds(struct(olds))
            .setNews(struct(news));
        const response = await unary<messages.DiffResponse>((done) => this.client.diff(request, done));
        const { DIFF_NONE, DIFF_SOME, DIFF_UNKNOWN } = messages.DiffResponse.DiffChanges;
        const { ADD, DELETE, UPDATE } = messages.PropertyDiff.Kind;
        const detailed: Record<string, string> = {};
        response.getDetaileddiffMap().forEach((one: messages.PropertyDiff, field: string) => {
            const kinds = new Map<number, string>([
                [ADD, "ADD"],
                [DELETE, "DELETE"],
                [UPDATE, "UPDATE"],
            ]);
            const change = kinds.get(one.getKind()) ?? "a replacement";
            detailed[field] = one.getInputdiff() ? change : `${change} of an output`;
        });
        return {
            changes: { [DIFF_NONE]: "none", [DIFF_SOME]: "some", [DIFF_UNKNOWN]: "unknown" }[response.getChanges()],
            detailed,
            fields: response.getDiffsList(),
            replaces: response.getReplacesList(),
        };
    }

    async create(kind: string, inputs: JsonObject, options: { preview?: boolean; name?: string } = {}) {
        const request = new messages.CreateRequest()
            .setUrn(urnOf(kind, options.name))
            .setProperties(struct(inputs))
            .setPreview(options.preview ?? false);
        const response = await unary<messages.CreateResponse>((done) => this.client.create(request, done));
        return { id: response.getId(), outputs: json(response.getProperties()) };
    }

    async update(kind: string, oldInputs: JsonObject, olds: JsonObject, news: JsonObject, preview = false) {
        const request = new messages.UpdateRequest()
            .setUrn(urnOf(kind))
            .setId(kind.toLowerCase())
            .setOldInputs(struct(oldInputs))
            .setOlds(struct(olds))
            .setNews(struct(news))
            .setPreview(preview);
        return json(
            (await unary<messages.UpdateResponse>((done) => this.client.update(request, done))).getProperties(),
        );
    }

    async read(kind: string, inputs: JsonObject, outputs: JsonObject) {
        const request = new messages.ReadRequest()
            .setUrn(urnOf(kind))
            .setId(kind.toLowerCase())
            .setInputs(struct(inputs))
            .setProperties(struct(outputs));
        const response = await unary<messages.ReadResponse>((done) => this.client.read(request, done));
        return { id: response.getId(), inputs: json(response.getInputs()), outputs: json(response.getProperties()) };
    }

    async delete(kind: string, oldInputs: JsonObject, outputs: JsonObject): Promise<void> {
        const request = new messages.DeleteRequest()
            .setUrn(urnOf(kind))
            .setId(kind.toLowerCase())
            .setOldInputs(struct(oldInputs))
            .setProperties(struct(outputs));
        await unary<Empty>((done) => this.client.delete(request, done));
    }

    async cancel(): Promise<void> {
        await unary<Empty>((done) => this.client.cancel(new Empty(), done));
    }

    /** The lines that stay, once there are so many: they come beside the answers, not before them. */
    async lasting(count: number): Promise<string[][]> {
        const found = (): Line[] => this.lines.filter((line) => !line.ephemeral);
        await until(() => found().length >= count);
        return found().map(({ urn, text }) => [urn, text]);
    }

    /** Waits for a line at a resource. */
    async said(text: string): Promise<Line> {
        return vi.waitUntil(() => this.lines.find((line) => line.text.includes(text)), {
            timeout: 15_000,
            interval: 10,
        });
    }
}

function firstLine(child: ChildProcess): Promise<string> {
    return new Promise((resolve, reject) => {
        let text = "";
        child.stdout?.on("data", (data: Buffer) => {
            text += data.toString();
            if (text.includes("\n")) resolve(text.trim());
        });
        child.on("error", reject);
        child.on("exit", (code) => {
            reject(new Error(`the provider exited with code ${String(code)}`));
        });
    });
}

export function unary<Response>(
    call: (done: (error: grpc.ServiceError | null, response: Response) => void) => unknown,
): Promise<Response> {
    return new Promise((resolve, reject) => {
        call((error, response) => {
            if (error === null) resolve(response);
            else reject(initFailure(error) ?? error);
        });
    });
}

function initFailure(error: grpc.ServiceError): InitFailed | undefined {
    const [details] = error.metadata.get("grpc-status-details-bin");
    if (!(details instanceof Buffer)) return undefined;
    const [detail] = Status.deserializeBinary(details).getDetailsList();
    if (detail?.getTypeName() !== "pulumirpc.ErrorResourceInitFailed") return undefined;
    const failure = messages.ErrorResourceInitFailed.deserializeBinary(detail.getValue_asU8());
    return new InitFailed(
        failure.getId(),
        json(failure.getProperties()),
        json(failure.getInputs()),
        failure.getReasonsList(),
    );
}

export function struct(value: JsonObject): Struct {
    return Struct.fromJavaScript(JSON.parse(JSON.stringify(value)) as Record<string, JavaScriptValue>);
}

export function json(value: Struct | undefined): JsonObject {
    return value?.toJavaScript() ?? {};
}
