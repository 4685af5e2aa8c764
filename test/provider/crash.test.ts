// What a client is killed at: every step that it and the processes of its run take into the file system, a lock, a socket
// or another process, one after the other. The store, the executor and the runner are the real ones (crash/client.ts).
import { execFile, execFileSync, fork, spawn, type ChildProcess } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { Store } from "../../pipeline/store/store";
import { listRuns } from "../../pipeline/store/runs";
import { project, pythonEnvironment } from "../../scripts/locations.cjs";
import { endAll, processesOf, read } from "../unit/processes";
import type { Outcome } from "./crash/client";

/** Milliseconds, of a machine that has much else to do. */
const PATIENCE = 120_000;
const WAYS = ["SIGINT", "SIGTERM", "SIGKILL"] as const;
const here = path.join(import.meta.dirname, "crash");
const typescript = path.join(project, "scripts", "ts.cjs");
const folder = fs.mkdtempSync(path.join(os.tmpdir(), "retune-crash-"));
const python = execFileSync("python3", ["-c", "import os, sys; print(os.path.realpath(sys.executable))"], {
    encoding: "utf8",
}).trim();

interface Point {
    /** Which process: the client, the runner's submit, its two children, or its status. */
    readonly role: "client" | "submit" | "session" | "supervisor" | "status";
    readonly number: number;
    readonly step: string;
}

/** A home of its own, and what happens there. */
class Place {
    readonly folder = fs.mkdtempSync(path.join(folder, "point-"));
    readonly home = path.join(this.folder, "kept", "home");
    readonly runtime = path.join(this.folder, "kept", "runtime");
    private readonly control = path.join(this.folder, "control");

    constructor() {
        for (const one of [this.control, this.runtime]) fs.mkdirSync(one, { recursive: true });
    }

    environment(instruments: Readonly<Record<string, string>> = {}): Record<string, string> {
        return {
            RETUNE_HOME: this.home,
            RETUNE_CACHE: path.join(folder, "cache"),
            XDG_RUNTIME_DIR: this.runtime,
            CRASH_CONTROL: this.control,
            CRASH_FOLDER: path.dirname(this.home),
            ...{ CRASH_STEPS: "", CRASH_AT: "", CRASH_RECORD: "" },
            ...instruments,
            // Nothing is found there: on a machine with a GPU the runner would take more steps.
            PATH: "/nowhere",
            HF_TOKEN: "canary",
        };
    }

    /** What the program has noted: how often it was started, whether two ran at once. */
    note(name: "starts" | "overlap" | "hit"): number {
        const file = path.join(this.control, name);
        return fs.existsSync(file) ? Math.max(read(file).length, 1) : 0;
    }

    /** Lets the program end. */
    release(): void {
        fs.writeFileSync(path.join(this.control, "go"), "");
    }

    /** Every path of the home, and every secret; what was verified is remembered only when it is old enough. */
    tree(): string[] {
        const home = fs.readdirSync(this.home, { recursive: true, encoding: "utf8" });
        const runtime = fs.readdirSync(this.runtime, { recursive: true, encoding: "utf8" });
        const kept = home.filter((name) => !/^verified($|\/[0-9a-f]{64}\.json$)/.test(name));
        return [...kept, ...runtime.filter((name) => name.endsWith(".secrets"))].sort();
    }

    async end(): Promise<void> {
        await endAll(this.folder);
        // What was killed in the middle of a call may finish that call.
        fs.rmSync(this.folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
    }
}

/** A process that plays client after client; starting one for each would take most of the time. */
class Clients {
    private readonly child = fork(path.join(here, "client.ts"), {
        execArgv: ["-r", typescript],
        env: new Place().environment(),
        stdio: ["ignore", "inherit", "inherit", "ipc"],
    });

    up(place: Place, options: { instruments?: Record<string, string>; release?: boolean } = {}): Promise<Outcome> {
        return new Promise((resolve) => {
            const timer = setTimeout(resolve, PATIENCE, { error: "no answer" } satisfies Outcome);
            this.child.once("message", (outcome: Outcome) => {
                clearTimeout(timer);
                resolve(outcome);
            });
            this.child.send({ environment: place.environment(options.instruments), release: options.release ?? false });
        });
    }

    end(): void {
        this.child.kill("SIGKILL");
    }
}

/** A client in a process of its own, with its steps counted. */
async function client(place: Place, instruments: Readonly<Record<string, string>>): Promise<string> {
    const preloaded = ["-r", path.join(here, "steps.cjs"), "-r", typescript];
    const child: ChildProcess = spawn(process.execPath, [...preloaded, path.join(here, "client.ts")], {
        env: place.environment(instruments),
        stdio: ["ignore", "ignore", "pipe"],
    });
    let stderr = "";
    child.stderr?.on("data", (data: Buffer) => (stderr += data.toString()));
    const [code, signal] = await new Promise<unknown[]>((resolve) => {
        child.on("exit", (...how) => {
            resolve(how);
        });
    });
    return `${String(signal ?? code)} ${stderr}`.trim();
}

const steps = path.join(here, "steps.py");
let points: Point[] = [];
let reference: { digests: Outcome["digests"]; tree: string[]; keys: string[] };

beforeAll(async () => {
    const cache = path.join(folder, "cache");
    vi.stubEnv("RETUNE_CACHE", cache);
    const bin = path.join(pythonEnvironment(), "bin");
    fs.mkdirSync(bin, { recursive: true });
    const script = `#!/bin/sh\n[ -z "$CRASH_STEPS" ] || set -- "$CRASH_STEPS" "$@"\nexec "${python}" "$@"\n`;
    fs.writeFileSync(path.join(bin, "python"), script, { mode: 0o755 });

    const [first, again] = [await count(), await count()];
    expect(again).toEqual(first);
    points = first;
});

afterAll(() => {
    vi.unstubAllEnvs();
    fs.rmSync(folder, { recursive: true, force: true });
});

/** The steps of an undisturbed run. */
async function count(): Promise<Point[]> {
    const place = new Place();
    const record = path.join(place.folder, "steps");
    expect(await client(place, { CRASH_STEPS: steps, CRASH_RECORD: record })).toBe("0");
    await quiet(place);
    const clients = new Clients();
    const { actions, digests } = await clients.up(place);
    clients.end();
    expect(actions).toEqual({ rows: "cached", words: "cached" });
    reference = { digests, tree: place.tree(), keys: fs.readdirSync(path.join(place.home, "runs")) };
    const found = fs.readFileSync(record, "utf8").trimEnd().split("\n");
    await place.end();
    return found
        .map((line) => {
            const [role = "", number = "", ...step] = line.split(" ");
            return { role, number: Number(number), step: step.join(" ") } as Point;
        })
        .sort((a, b) => a.role.localeCompare(b.role) || a.number - b.number);
}

/** Waits until nothing of a run goes on but its worker, which stays for the next. */
async function quiet(place: Place): Promise<void> {
    const isQuiet = () => ["\0submit\0", "\0status\0"].every((verb) => processesOf(place.folder, verb).length === 0);
    await vi.waitUntil(isQuiet, { timeout: PATIENCE, interval: 10 });
}

/** Kills at a point in one way, goes on, and answers what is not as it must be. */
async function survive(clients: Clients, { role, number }: Point, signal: string): Promise<string[]> {
    const place = new Place();
    const problems: string[] = [];
    const mustBe = (what: string, found: unknown, right: unknown): void => {
        const [is, should] = [JSON.stringify(found), JSON.stringify(right)];
        if (is !== should) problems.push(`${what} ${is} instead of ${should}`);
    };
    try {
        const instruments = { CRASH_STEPS: steps, CRASH_AT: `${role}:${number}:${signal}` };
        if (role === "client") {
            const ended = await client(place, instruments);
            const right = signal === "SIGKILL" ? ["SIGKILL"] : ["4 detached", "0"];
            if (!right.includes(ended)) problems.push(`the client ended with ${ended}`);
        } else {
            await clients.up(place, { instruments });
        }
        mustBe("reached", place.note("hit"), 1);
        const store = new Store(place.home);
        const before = await Promise.all(reference.keys.map((key) => store.result(key)));

        const second = await clients.up(place, { release: true });
        mustBe("the next client", second.digests ?? second.error, reference.digests);
        place.release();
        await quiet(place);
        const third = await clients.up(place);
        mustBe("the one after it", third.actions ?? third.error, { rows: "cached", words: "cached" });

        const after = await Promise.all(reference.keys.map((key) => store.result(key)));
        before.forEach((result, index) => {
            if (result !== undefined) mustBe("the result that was there is now", after[index], result);
        });
        mustBe("two at once", place.note("overlap"), 0);
        const starts = place.note("starts");
        if (role === "supervisor" && !before.some((result) => result?.kind === "Words")) {
            if (starts > 2) problems.push(`started ${starts} times`);
        } else {
            mustBe("starts", starts, 1);
        }
        const states = listRuns(place.home).map(({ state }) => state);
        mustBe("states", states, ["succeeded", "succeeded"]);
        const outs = reference.keys.map((key) => fs.existsSync(path.join(place.home, "runs", key, "out")));
        mustBe("results in their place", outs, [true, true]);
        await quiet(place);
        if (JSON.stringify(place.tree()) !== JSON.stringify(reference.tree)) await collect(place);
        const tree = place.tree();
        mustBe(
            "left over",
            tree.filter((one) => !reference.tree.includes(one)),
            [],
        );
        // A result counts without a state: it says as much.
        const missing = reference.tree.filter((one) => !tree.includes(one) && path.basename(one) !== "state.json");
        mustBe("missing", missing, []);
    } catch (error) {
        problems.push(String(error));
    } finally {
        await place.end();
    }
    return problems;
}

/** Garbage collection with both runs in use. */
async function collect(place: Place): Promise<void> {
    const roots = Object.fromEntries(reference.keys.map((key) => [key, "used"]));
    const runner = path.join(project, "pipeline", "runner", "runner.py");
    const call = promisify(execFile)(python, [runner, "gc", "--home", place.home], { env: place.environment() });
    call.child.stdin?.end(JSON.stringify({ roots, graceSeconds: 0, dryRun: false }));
    await call;
}

test("a client that is killed at any step, in any way, loses nothing and starts nothing twice", async () => {
    const cases = points.flatMap((point) => WAYS.map((way) => ({ point, way })));
    const waiting = [...cases];
    const problems: string[] = [];
    const work = async (): Promise<void> => {
        const clients = new Clients();
        for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
            const { point, way } = next;
            const found = await survive(clients, point, way);
            if (found.length > 0) problems.push(`${way} at ${Object.values(point).join(" ")}: ${found.join("; ")}`);
        }
        clients.end();
    };
    await Promise.all(Array.from({ length: Math.max(2, os.availableParallelism()) }, work));
    const survived = cases.length - problems.length;
    console.log(`crash matrix: ${points.length} points × ${WAYS.length} ways, ${survived} survived`);
    expect(problems).toEqual([]);
}, 3_600_000);

test("the README's number of steps is the one counted, give or take those of another Python or Node", () => {
    const readme = fs.readFileSync(path.join(project, "README.md"), "utf8").replaceAll("\n", " ");
    const said = Number(/each of the (\d+) steps that it takes in/.exec(readme)?.[1]);
    expect(Math.abs(said - points.length) / points.length).toBeLessThan(0.1);
});
