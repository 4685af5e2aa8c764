// The real runner, with plain Python in place of LLaMA-Factory's environment and programs of a few lines in place of its
// trainings: they are stand-ins for what runs, never for the runner. Every test has a home of its own.
import { execFileSync, spawn } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { beforeEach, expect, onTestFinished, vi } from "vitest";
import type { RunStatus } from "../../pipeline/executor/executor";
import { sha256 } from "../../pipeline/identity";
import { temporaryFolder } from "./datasets/folder";
import { alive, endAll, processesOf, read, until } from "./processes";

export const runner = path.resolve(import.meta.dirname, "../../pipeline/runner/runner.py");
export const python = execFileSync("python3", ["-c", "import os, sys; print(os.path.realpath(sys.executable))"], {
    encoding: "utf8",
}).trim();
export const key = sha256("a run");

export type Status = RunStatus & { readonly started?: boolean; readonly phase?: string | null };

export let folder: string;
export let home: string;
export let runtime: string;

beforeEach(() => {
    folder = temporaryFolder();
    home = path.join(folder, "home");
    runtime = path.join(folder, "runtime");
    mkdirSync(runtime);
    vi.stubEnv("RETUNE_CACHE", path.join(folder, "cache"));
    // Runs and workers outlive their clients: that is the point. All of this test's have its folder in their arguments.
    onTestFinished(async () => {
        vi.unstubAllEnvs();
        await endAll(folder);
    });
});

export const processes = (having?: string): number[] => processesOf(folder, having);

export async function call(verb: readonly string[], input = ""): Promise<Status> {
    const child = spawn(python, [runner, ...verb, "--home", home], {
        env: { PATH: process.env["PATH"], XDG_RUNTIME_DIR: runtime },
    });
    let stdout = "";
    let stderr = "";
    child.stdout.on("data", (data: Buffer) => (stdout += data.toString()));
    child.stderr.on("data", (data: Buffer) => (stderr += data.toString()));
    child.stdin.end(input);
    const code = await new Promise((resolve) => child.on("close", resolve));
    if (code !== 0) throw new Error(stderr);
    return JSON.parse(stdout) as Status;
}

export interface JobOptions {
    readonly key?: string;
    readonly produces?: readonly string[];
    readonly inputs?: Readonly<Record<string, string>>;
    readonly stoppable?: boolean;
    readonly checkpoints?: { readonly place: string; readonly region: string };
    readonly preload?: readonly string[];
    readonly python?: string;
    readonly limits?: { readonly hours: number };
    readonly again?: boolean;
    readonly secrets?: Readonly<Record<string, string>>;
}

export function payload(program: string, { again, secrets, ...options }: JobOptions = {}): string {
    const job = {
        ...{ key, kind: "Training", stage: "training", program: "program.py", parameters: {}, inputs: {}, python },
        ...{ produces: ["answer.txt"], stoppable: false, preload: [], environment: { MARK: "stand-in" } },
        ...options,
    };
    return JSON.stringify({ job, again: again ?? false, programs: { "program.py": PRELUDE + program }, secrets });
}

export const submit = (program: string, options?: JobOptions): Promise<Status> =>
    call(["submit"], payload(program, options));
export const status = (cursor = 0, of = key): Promise<Status> => call(["status", of, "--cursor", String(cursor)]);

/** The status of a run once it has one of these states, or its owner is gone without one. */
export async function reached(states: readonly string[], of = key): Promise<Status> {
    await until(() => {
        const file = read(path.join(runFolder(of), "state.json"));
        const { state, pid } = JSON.parse(file || "{}") as { state?: string; pid?: number };
        return (state !== undefined && states.includes(state)) || (pid !== undefined && !alive(pid));
    });
    const now = await status(0, of);
    expect(states).toContain(now.state);
    return now;
}

export const ended = (of = key): Promise<Status> => reached(["succeeded", "failed", "stopped", "lost"], of);
export const runFolder = (of = key): string => path.join(home, "runs", of);
export const starts = (of = key): number => read(path.join(runFolder(of), "starts")).length;
export const stateOf = (of = key) =>
    JSON.parse(readFileSync(path.join(runFolder(of), "state.json"), "utf8")) as { pid: number; attempt: number };
export const letGo = (of = key): void => {
    writeFileSync(path.join(runFolder(of), "go"), "");
};

// Each program counts its starts, and can wait for the test.
const PRELUDE = `
import json, os, signal, sys, time
from pathlib import Path
with Path("../starts").open("a") as file: file.write("x")
Path("../pid").write_text(str(os.getpid()))
def wait(name="go"):
    while not Path("..", name).exists(): time.sleep(0.01)
def event(step): 
    with Path("../events.jsonl").open("a") as file: file.write(json.dumps({"type": "progress", "step": step}) + "\\n")
def succeed(answer="42"):
    Path("out/answer.txt").write_text(answer)
    Path("outcome.json").write_text(json.dumps({"metrics": {"steps": 3}}))
`;
export const SUCCEED = "succeed()\n";
export const WAIT = "wait()\nsucceed()\n";
export const program = async (): Promise<number> => {
    await until(() => read(path.join(runFolder(), "pid")) !== "");
    return Number(read(path.join(runFolder(), "pid")));
};
