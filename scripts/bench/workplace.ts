import { spawn, type ChildProcess } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { cache } from "../locations.cjs";

/** The programs that set-up has brought or found. */
export interface Tools {
    readonly pulumi: string;
    readonly python: string;
}

export interface Ended {
    readonly code: number | null;
    /** From the start of the process until it had ended and said everything. */
    readonly seconds: number;
    readonly stdout: string;
    readonly stderr: string;
    readonly lines: readonly Line[];
}

/** A line of standard output, and when it came: seconds after the start. */
export interface Line {
    readonly at: number;
    readonly text: string;
}

interface Options {
    readonly cwd: string;
    readonly env?: NodeJS.ProcessEnv;
}

/** What of the user's own environment could change what the commands do. */
const EXCLUDED = /^(PULUMI_|RETUNE_|npm_|VITEST|NODE_OPTIONS$|HF_|DVC_|LLAMABOARD_|PYTHONDONTWRITEBYTECODE$)/;
/** What is written while commands run; the rest of the cache is the user's own. */
const OWN_CACHE = ["ts", "digests", "previews", "downloads"];
const PATIENCE = 15;

/** A process that is going on. */
export class Running {
    readonly lines: Line[] = [];
    readonly ended: Promise<Ended>;
    over = false;
    private readonly begin = performance.now();
    private readonly waiting: ((line: Line) => void)[] = [];

    constructor(
        readonly child: ChildProcess,
        readonly words: string,
    ) {
        let stdout = "";
        let stderr = "";
        let half = "";
        child.stdout?.setEncoding("utf8").on("data", (text: string) => {
            stdout += text;
            const whole = (half + text).split("\n");
            half = whole.pop() ?? "";
            for (const one of whole) this.line({ at: this.now(), text: one });
        });
        child.stderr?.setEncoding("utf8").on("data", (text: string) => (stderr += text));
        this.ended = new Promise((resolve, reject) => {
            child.on("error", (error) => {
                this.over = true;
                reject(new Error(`${words} could not be started: ${error.message}`));
            });
            child.on("close", (code) => {
                this.over = true;
                resolve({ code, seconds: this.now(), stdout, stderr, lines: this.lines });
            });
        });
    }

    /** The first line that fits, also one that has already come. */
    async firstLine(fits: RegExp): Promise<Line> {
        const found = this.lines.find(({ text }) => fits.test(text));
        if (found !== undefined) return found;
        const coming = new Promise<Line>((resolve) => {
            this.waiting.push((line) => {
                if (fits.test(line.text)) resolve(line);
            });
        });
        const ended = this.ended.then((end) => {
            throw new Error(`${this.words} ended without a line like ${String(fits)}:\n${lastLines(end)}`);
        });
        return Promise.race([coming, ended]);
    }

    /** A signal to it and to all that it has started in its session. */
    kill(signal: NodeJS.Signals): void {
        if (this.child.pid !== undefined && !this.over) quietly(-this.child.pid, signal);
    }

    private line(line: Line): void {
        this.lines.push(line);
        for (const look of this.waiting) look(line);
    }

    private now(): number {
        return (performance.now() - this.begin) / 1000;
    }
}

/** One temporary folder with all that the benchmarks make, and the processes that they start. */
export class Workplace {
    readonly folder = fs.mkdtempSync(path.join(os.tmpdir(), "retune-bench-"));
    /** The user's cache, seen through links: what commands would leave in it is taken away with the rest. */
    private readonly cache = path.join(this.folder, "cache");
    private readonly running = new Set<Running>();
    private readonly made = new Map<string, unknown>();
    private readonly endings: (() => Promise<void>)[] = [];
    private disposed: Promise<void> | undefined;
    private folders = 0;

    constructor(
        readonly tools: Tools,
        readonly say: (text: string) => void,
    ) {
        fs.mkdirSync(this.cache);
        for (const name of fs.readdirSync(cache())) {
            if (!OWN_CACHE.includes(name)) fs.symlinkSync(path.join(cache(), name), path.join(this.cache, name));
        }
    }

    /** Whether it is being left: what still goes on will fail for no reason of its own. */
    get isOver(): boolean {
        return this.disposed !== undefined;
    }

    /** A new folder. */
    make(name: string): string {
        this.folders += 1;
        const folder = path.join(this.folder, `${name}-${this.folders}`);
        fs.mkdirSync(folder);
        return folder;
    }

    /** What several benchmarks need, made for the first of them. */
    async once<Value>(name: string, make: () => Promise<Value>): Promise<Value> {
        if (!this.made.has(name)) this.made.set(name, make());
        return this.made.get(name) as Promise<Value>;
    }

    /** The environment of everything that is started: the user's, without what could change the results. */
    environment(): NodeJS.ProcessEnv {
        const inherited = Object.entries(process.env).filter(([name]) => !EXCLUDED.test(name));
        return { ...Object.fromEntries(inherited), RETUNE_CACHE: this.cache };
    }

    /** No digest of a file is remembered from here on. */
    forgetDigests(): void {
        fs.rmSync(path.join(this.cache, "digests"), { recursive: true, force: true });
    }

    start([program, ...args]: readonly [string, ...string[]], { cwd, env }: Options): Running {
        if (this.disposed !== undefined) throw new Error("the benchmarks were interrupted");
        const child = spawn(program, args, {
            cwd,
            env: { ...this.environment(), ...env },
            stdio: ["ignore", "pipe", "pipe"],
            // A session of its own: the terminal's Ctrl-C reaches it only through us, in order.
            detached: true,
        });
        const running = new Running(child, [path.basename(program), ...args].join(" "));
        this.running.add(running);
        void running.ended.catch(() => undefined).finally(() => this.running.delete(running));
        return running;
    }

    /** Takes what ends something that is no process of the workplace's own. */
    atTheEnd(end: () => Promise<void>): void {
        this.endings.push(end);
    }

    /** Runs a program to its end. Throws when it fails. */
    async run(command: readonly [string, ...string[]], options: Options): Promise<Ended> {
        const running = this.start(command, options);
        const ended = await running.ended;
        if (ended.code !== 0) throw new Error(`${running.words} failed (${String(ended.code)}):\n${lastLines(ended)}`);
        return ended;
    }

    /** Ends the runs and workers that belong to a folder of the workplace. */
    async endRunners(folder: string): Promise<void> {
        const left = () => processesWith("runner.py", `${folder}/`);
        for (const pid of left()) quietly(pid, "SIGKILL");
        await until("the runs end", () => left().length === 0);
    }

    /** Ends everything that was started, and removes everything that was made. */
    dispose(): Promise<void> {
        this.disposed ??= (async () => {
            // Commands take their Pulumi CLI with them when they are asked to end, and not when they are killed.
            for (const running of this.running) running.kill("SIGTERM");
            await until("the commands end", () => this.running.size === 0).catch(() => {
                for (const running of this.running) running.kill("SIGKILL");
            });
            await this.endRunners(this.folder).catch(() => undefined);
            for (const end of this.endings) await end().catch(() => undefined);
            fs.rmSync(this.folder, { recursive: true, force: true, maxRetries: 5 });
        })();
        return this.disposed;
    }
}

/** Waits until something holds, but not for ever. */
export async function until(what: string, holds: () => boolean, seconds = PATIENCE): Promise<void> {
    const end = Date.now() + seconds * 1000;
    while (!holds()) {
        if (Date.now() > end) throw new Error(`waited ${seconds} s in vain: ${what}`);
        await new Promise((resolve) => setTimeout(resolve, 20));
    }
}

/** Processes whose command line holds all of these words. The runner is for Linux, so there is /proc. */
function processesWith(...words: readonly string[]): number[] {
    return fs
        .readdirSync("/proc")
        .filter((name) => /^\d+$/.test(name))
        .filter((pid) => {
            const command = commandOf(pid);
            return words.every((word) => command.includes(word));
        })
        .map(Number);
}

function commandOf(pid: string): string {
    try {
        return fs.readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
    } catch {
        return ""; // it has just ended
    }
}

function quietly(pid: number, signal: NodeJS.Signals): void {
    try {
        process.kill(pid, signal);
    } catch {
        // It ended by itself.
    }
}

function lastLines({ stdout, stderr }: Ended): string {
    return `${stdout}\n${stderr}`.trim().split("\n").slice(-12).join("\n");
}
