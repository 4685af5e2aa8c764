import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { inject } from "vitest";
import { isObject, type Json, type JsonObject } from "../../pipeline/identity";
import { copyProject, stackFile, tiny } from "../../scripts/bench/project";
import type { StageOutcome } from "../../scripts/outcome";
import { setup } from "../../scripts/setup.cjs";
import { childrenOf, commandOf, endWorkers, eventually, workersIn } from "./processes";
import { pythonEnvironment } from "../../scripts/locations.cjs";

export { eventually };

/*
 * A project copy with a home of its own, for tests with the real Pulumi CLI, provider, runner and LLaMA-Factory. The
 * model is a random tiny Qwen3, so that a whole pipeline takes seconds.
 */

export const python = path.join(pythonEnvironment(), "bin", "python");

/** The Pulumi CLI that set-up has brought or found. */
export const pulumi = (await setup({ only: ["pulumi-cli"] })).pulumi ?? "";

/** The order in which the program declares its stages. */
export const STAGES = ["dataset", "model", "training", "evaluation", "export", "report"] as const;
export type StageName = (typeof STAGES)[number];

/** What `--json` prints. */
export interface Answer {
    readonly stack: string;
    readonly result: "succeeded" | "failed" | "refused" | "detached";
    readonly stages: readonly StageOutcome[];
    readonly outputs: JsonObject;
}

export interface Ended {
    readonly code: number | null;
    readonly signal: NodeJS.Signals | null;
    readonly stdout: string;
    readonly stderr: string;
}

/** Seconds for what a whole update is waited for, on a machine that has much else to do. */
const PATIENCE = 300;

export type Command = "up" | "preview" | "refresh" | "destroy" | "status" | "logs" | "stop";

/** A run as its folder tells it. */
export interface RunFolder {
    readonly key: string;
    readonly folder: string;
    readonly kind: string;
    readonly state: string;
    readonly attempt: number;
    readonly pid: number | undefined;
    readonly reason: string | null;
    /** Steps of the training so far. */
    readonly steps: readonly number[];
}

/** A command that is going on. */
export class Running {
    stdout = "";
    stderr = "";
    readonly ended: Promise<Ended>;
    private over = false;

    constructor(
        readonly child: ChildProcess,
        private readonly words: string,
    ) {
        child.stdout?.setEncoding("utf8").on("data", (text: string) => (this.stdout += text));
        child.stderr?.setEncoding("utf8").on("data", (text: string) => (this.stderr += text));
        this.ended = new Promise((resolve, reject) => {
            child.on("error", reject);
            child.on("close", (code, signal) => {
                this.over = true;
                resolve({ code, signal, stdout: this.stdout, stderr: this.stderr });
            });
        });
    }

    get pid(): number {
        if (this.child.pid === undefined) throw new Error(`${this.words} did not start`);
        return this.child.pid;
    }

    get isOver(): boolean {
        return this.over;
    }

    /** Waits for something that happens while the command goes on. */
    until<Value>(what: string, look: () => Value | undefined | false | null): Promise<Value> {
        return eventually(
            `${what} (${this.words})`,
            () => {
                const found = look();
                if (found === undefined || found === false || found === null) {
                    if (this.over)
                        throw new Error(`${this.words} ended before: ${what}\n${this.stdout}\n${this.stderr}`);
                }
                return found;
            },
            PATIENCE,
        );
    }

    /** The Pulumi CLI that it drives. */
    cli(): Promise<number> {
        return this.until("its Pulumi CLI", () =>
            childrenOf(this.pid).find((pid) => commandOf(pid).includes("pulumi")),
        );
    }
}

/** What of the tester's own environment could change what the commands do. */
const EXCLUDED = /^(PULUMI_|RETUNE_(?!CACHE)|npm_|INIT_CWD$|VITEST|NODE_OPTIONS$|HF_)/;

export class Rig {
    readonly folder = fs.mkdtempSync(path.join(os.tmpdir(), "retune-engine-"));
    /** The project's folder; a test may point it to another clone. */
    project = path.join(this.folder, "project");
    /** RETUNE_HOME; a test may point it elsewhere. */
    home = path.join(this.folder, "home");
    /** Where sockets and locks of the commands are. */
    readonly runtime: string;
    /** Where a test says what the stand-ins shall do: see there. */
    readonly control = path.join(this.folder, "control");
    readonly environment: Record<string, string | undefined>;
    private readonly running = new Set<Running>();
    private readonly homes = new Set<string>();

    /** With `standIns` the programs of the target are those of test/stand-in, so that a whole `up` takes two seconds. */
    constructor({ rows = 40, standIns = false }: { readonly rows?: number; readonly standIns?: boolean } = {}) {
        copyProject(this.project);
        const inherited = Object.entries(process.env).filter(([name]) => !EXCLUDED.test(name));
        this.runtime = standIns ? path.join(this.folder, "runtime") : inject("runtime");
        this.environment = { ...Object.fromEntries(inherited), XDG_RUNTIME_DIR: this.runtime };
        if (standIns) {
            for (const folder of [this.runtime, this.control]) fs.mkdirSync(folder);
            const modules = path.join(import.meta.dirname, "..", "stand-in");
            Object.assign(this.environment, { PYTHONPATH: modules, RETUNE_STAND_IN: this.control });
        }
        this.writeRows(this.sample(rows));
        this.writeStack("test", tinyConfiguration);
        git(this.project, "init", "--quiet");
        fs.writeFileSync(path.join(this.project, ".git", "info", "exclude"), "node_modules\n");
        git(this.project, "add", "--all");
        git(this.project, "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "--quiet", "-m", "copy");
    }

    /** Rows of the Chinese sample. */
    sample(count: number): JsonObject[] {
        const file = path.join(this.project, "datasets", "samples", "huatuo-lite.jsonl");
        const lines = fs.readFileSync(file, "utf8").split("\n").slice(0, count);
        return lines.map((line) => JSON.parse(line) as JsonObject);
    }

    /** Writes the stack's data. */
    writeRows(rows: readonly JsonObject[], file = "rows.jsonl"): void {
        this.write(file, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
    }

    /** Writes a file of the project. */
    write(file: string, content: string | Buffer): string {
        const place = path.join(this.project, file);
        fs.mkdirSync(path.dirname(place), { recursive: true });
        fs.writeFileSync(place, content);
        return place;
    }

    /** Writes a stack's file. */
    writeStack(stack: string, parts: JsonObject): void {
        this.write(`Pulumi.${stack}.yaml`, stackFile(parts));
    }

    /** The stack's configuration from now on: the tiny one with these values over it; null takes one away. */
    configure(changes: JsonObject = {}): void {
        this.writeStack("test", merged(tinyConfiguration, changes));
    }

    /** Runs a command to its end. */
    async run(command: Command, ...args: readonly string[]): Promise<Ended> {
        return this.spawn(command, args).ended;
    }

    /** Runs a command with `--json` to its end. */
    async json(command: "up" | "preview" | "refresh" | "destroy", ...args: readonly string[]) {
        const ended = await this.run(command, "--json", ...args);
        const line = ended.stdout.trimEnd().split("\n").at(-1) ?? "";
        if (line === "")
            throw new Error(`${command} --json printed nothing (exit ${String(ended.code)}):\n${ended.stderr}`);
        const answer = JSON.parse(line) as Answer;
        return { ...ended, answer, actions: actionsOf(answer), stage: (name: StageName) => stageOf(answer, name) };
    }

    /** Starts a command of the project. */
    spawn(command: Command, args: readonly string[], options: { readonly env?: NodeJS.ProcessEnv } = {}): Running {
        const stacked = ["up", "preview", "refresh", "destroy"].includes(command) && !args.includes("--stack");
        const script = path.join("scripts", `${command}.cjs`);
        return this.start(process.execPath, [script, ...(stacked ? ["--stack", "test"] : []), ...args], options);
    }

    /**
     * Starts `pulumi` on the stack, as people do from a shell who have all of Pulumi. This machine has its CLI only:
     * language-host.cjs stands in for the language host, the rest is real.
     */
    shell(...args: readonly string[]): Running {
        const bin = path.join(this.folder, "bin");
        if (!fs.existsSync(bin)) {
            fs.mkdirSync(bin);
            const host = path.join(this.project, "test", "engine", "language-host.cjs");
            fs.chmodSync(host, 0o755);
            fs.symlinkSync(host, path.join(bin, "pulumi-language-nodejs"));
        }
        const env = {
            PATH: `${bin}${path.delimiter}${process.env["PATH"] ?? ""}`,
            PULUMI_BACKEND_URL: `file://${this.home}/state?create_dir=true&metadata=skip`,
            PULUMI_CONFIG_PASSPHRASE: "",
            PULUMI_SKIP_UPDATE_CHECK: "true",
        };
        return this.start(pulumi, [...args, "--stack", "test", "--non-interactive"], { env });
    }

    /** Starts any program in the project's folder with the environment of its commands. */
    start(
        program: string,
        args: readonly string[],
        options: { readonly env?: NodeJS.ProcessEnv; readonly stdin?: boolean } = {},
    ): Running {
        this.homes.add(this.home);
        const env = { ...this.environment, RETUNE_HOME: this.home, ...options.env };
        const child = spawn(program, args, {
            cwd: this.project,
            env,
            stdio: [options.stdin === true ? "pipe" : "ignore", "pipe", "pipe"],
        });
        const running = new Running(child, [path.basename(program), ...args].join(" "));
        this.running.add(running);
        void running.ended.finally(() => this.running.delete(running)).catch(() => undefined);
        return running;
    }

    /** The runs of the home, oldest first; of one kind where it is given. */
    runs(kind?: string): RunFolder[] {
        return runsIn(this.home).filter((run) => kind === undefined || run.kind === kind);
    }

    /** The one run of a kind that is going on. */
    active(kind: string): RunFolder | undefined {
        return this.runs(kind).find(({ state }) => state === "running");
    }

    /** Stops the clock of the job that is going on: it is still running, but gets no further. */
    pause(): void {
        for (const pid of this.jobs()) process.kill(pid, "SIGSTOP");
    }

    resume(): void {
        for (const pid of this.jobs()) process.kill(pid, "SIGCONT");
    }

    /** The programs that the workers of the tests have forked. */
    jobs(): number[] {
        const workers = workersIn(this.runtime);
        return workers.flatMap((worker) => childrenOf(worker)).filter((pid) => workers.includes(pid));
    }

    /** What the stack's state says. */
    state(stack = "test"): Checkpoint {
        const file = path.join(this.home, "state", ".pulumi", "stacks", "retune", `${stack}.json`);
        const state = JSON.parse(fs.readFileSync(file, "utf8")) as { checkpoint: { latest: Checkpoint } };
        return state.checkpoint.latest;
    }

    /** What the state holds of a stage. */
    stored(stage: StageName): Stored | undefined {
        return this.state().resources?.find(({ urn }) => urn.endsWith(`::${stage}`));
    }

    /** Lock files of Pulumi's backend. */
    locks(): string[] {
        return filesBelow(path.join(this.home, "state", ".pulumi", "locks"));
    }

    /** What git says is not as it was committed. */
    gitStatus(): string {
        return git(this.project, "status", "--porcelain");
    }

    /** Ends what the rig has started, and takes everything away. */
    async dispose(): Promise<void> {
        for (const running of this.running) running.child.kill("SIGKILL");
        for (const home of this.homes) {
            const active = () => runsIn(home).filter(({ state }) => state === "running" || state === "queued");
            for (const { folder } of active()) fs.writeFileSync(path.join(folder, "stop"), "");
            await eventually("the runs of the rig end", () => active().length === 0, 10).catch(() => {
                for (const { pid } of active()) if (pid !== undefined) killQuietly(pid);
            });
        }
        if (this.runtime.startsWith(this.folder)) await endWorkers(this.runtime);
        fs.rmSync(this.folder, { recursive: true, force: true, maxRetries: 5 });
    }
}

interface Stored {
    readonly urn: string;
    readonly inputs: JsonObject;
    readonly outputs?: JsonObject;
    readonly initErrors?: readonly string[];
}

interface Checkpoint {
    readonly resources?: readonly Stored[];
    readonly pending_operations?: readonly { readonly type: string; readonly resource: Stored }[];
}

/** The benchmarks' tiny stack with four steps: a whole pipeline in seconds. */
export const tinyConfiguration = merged(tiny, { training: { maxSteps: 4 } });

/** `{ dataset: "ran", … }`, with every stage of the answer. */
export function actionsOf(answer: Answer): Record<string, string> {
    return Object.fromEntries(answer.stages.map(({ name, action }) => [name, action]));
}

/** The same action for all stages, others for some of them. */
export function all(action: string, others: Partial<Record<StageName, string>> = {}): Record<string, string> {
    return { ...Object.fromEntries(STAGES.map((name) => [name, action])), ...others };
}

export function digestsOf(answer: Answer): Record<string, string | undefined> {
    return Object.fromEntries(answer.stages.map(({ name, digest }) => [name, digest]));
}

export function stageOf(answer: Answer, name: StageName): StageOutcome {
    const found = answer.stages.find((stage) => stage.name === name);
    if (found === undefined) throw new Error(`there is no stage ${name} in the answer`);
    return found;
}

/** Every path below a folder with size and time: equal listings mean that nothing was touched. */
export function listing(folder: string): string[] {
    return filesBelow(folder).map((file) => {
        const { size, mtimeMs } = fs.lstatSync(path.join(folder, file));
        return `${file} ${size} ${mtimeMs}`;
    });
}

/** All files below a folder, links and hidden ones included, sorted. */
export function filesBelow(folder: string): string[] {
    if (!fs.existsSync(folder)) return [];
    const entries = fs.readdirSync(folder, { recursive: true, withFileTypes: true });
    const files = entries.filter((entry) => !entry.isDirectory());
    return files.map((entry) => path.relative(folder, path.join(entry.parentPath, entry.name))).sort();
}

export function runsIn(home: string): RunFolder[] {
    const folder = path.join(home, "runs");
    const keys = fs.existsSync(folder) ? fs.readdirSync(folder) : [];
    const runs = keys.flatMap((key) => {
        const read = <Content>(name: string): Partial<Content> => {
            try {
                return JSON.parse(fs.readFileSync(path.join(folder, key, name), "utf8")) as Content;
            } catch {
                return {};
            }
        };
        const state = read<RunFolder & { queuedAt: number }>("state.json");
        return {
            key,
            folder: path.join(folder, key),
            kind: read<RunFolder>("job.json").kind ?? "",
            state: state.state ?? "",
            attempt: state.attempt ?? 0,
            pid: state.pid,
            reason: state.reason ?? null,
            queuedAt: state.queuedAt ?? 0,
            steps: stepsOf(path.join(folder, key, "events.jsonl")),
        };
    });
    return runs.sort((a, b) => a.queuedAt - b.queuedAt);
}

function stepsOf(events: string): number[] {
    const lines = fs.existsSync(events) ? fs.readFileSync(events, "utf8").split("\n").slice(0, -1) : [];
    return lines
        .map((line) => JSON.parse(line) as { type: string; phase?: string; step?: number })
        .filter(({ type, phase }) => type === "progress" && phase === "learning")
        .map(({ step }) => step ?? 0);
}

function merged(base: JsonObject, changes: JsonObject): JsonObject {
    const result: Record<string, Json | undefined> = { ...base };
    for (const [name, change] of Object.entries(changes)) {
        const before = result[name];
        if (change === null) result[name] = undefined;
        // One source replaces the other.
        else if (isObject(change) && isObject(before) && name !== "source") result[name] = merged(before, change);
        else result[name] = change;
    }
    return Object.fromEntries(Object.entries(result).filter(([, value]) => value !== undefined));
}

function killQuietly(pid: number): void {
    try {
        process.kill(pid, "SIGKILL");
    } catch {
        // It ended by itself.
    }
}

function git(folder: string, ...args: readonly string[]): string {
    return execFileSync("git", args, { cwd: folder, encoding: "utf8" });
}
