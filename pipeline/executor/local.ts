import { spawn, type ChildProcessWithoutNullStreams } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { home, project, pythonEnvironment } from "../../scripts/locations.cjs";
import { outputOf } from "../processes";
import { withoutSecrets } from "../secrets";
import { UserError } from "../user-error";
import { Store, type Result } from "../store/store";
import type { Executor, Garbage, GarbageRequest, Job, RunStatus, Submitted, Supplies } from "./executor";
import { Attended } from "./attended";
import type { Machine, Program, ServiceRequest, ServiceStart, ServiceStatus, Tunnel } from "./machine";

const runner = path.join(project, "pipeline", "runner", "runner.py");

/** Runs jobs on this machine, through the same runner and the same verbs as on any other target. */
export class LocalExecutor implements Executor, Machine {
    private readonly python = path.join(pythonEnvironment(), "bin", "python");

    /** Who asks is awake. */
    wake(): Promise<void> {
        return Promise.resolve();
    }

    submit(job: Job, supplies: Supplies, again: boolean): Promise<Submitted> {
        const payload = { job: { ...job, python: this.python }, again, ...supplies };
        return this.run(["submit"], JSON.stringify(payload));
    }

    status(key: string, options: { cursor: number; waitSeconds: number }): Promise<RunStatus> {
        return this.run(["status", key, "--cursor", String(options.cursor), "--wait", String(options.waitSeconds)]);
    }

    stop(key: string): Promise<RunStatus> {
        return this.run(["stop", key]);
    }

    async missing(digests: readonly string[]): Promise<string[]> {
        const store = new Store(home());
        const damages = await Promise.all(digests.map((digest) => store.damage(digest)));
        return digests.filter((_, index) => damages[index] !== undefined);
    }

    /** The target's store is the client's. */
    send(): Promise<void> {
        return Promise.resolve();
    }

    collect(result: Result): Promise<Result> {
        return Promise.resolve(result);
    }

    copyLog(): Promise<void> {
        return Promise.resolve();
    }

    collectGarbage(request: GarbageRequest): Promise<Garbage> {
        return this.run(["gc"], JSON.stringify(request));
    }

    serve(request: ServiceRequest): Promise<ServiceStart> {
        return this.run(["serve"], JSON.stringify({ ...request, job: { ...request.job, python: this.python } }));
    }

    service(port: number, ask: boolean): Promise<ServiceStatus> {
        return this.run(["service", String(port), ...(ask ? ["--ask"] : [])]);
    }

    async endService(port: number, owner: string): Promise<void> {
        await this.run(["end-service", String(port), "--owner", owner]);
    }

    serviceKey(port: number): Promise<string> {
        return fs.promises.readFile(path.join(home(), "services", String(port), "key"), "utf8");
    }

    attend(job: Program, programs: Readonly<Record<string, string>>): Promise<Attended> {
        const child = this.spawn(["attend"]);
        child.stdin.write(`${JSON.stringify({ job: { ...job, python: this.python }, programs })}\n`);
        return Promise.resolve(
            new Attended(child, (code, stderr) => {
                const why = lastLine(stderr) || `it ended with code ${String(code)}`;
                return new UserError(why);
            }),
        );
    }

    /** It is this machine's loopback. */
    tunnel(port: number): Promise<Tunnel> {
        const broken = new Promise<never>(() => undefined);
        return Promise.resolve({ port, broken, close: () => undefined });
    }

    private spawn(verb: readonly string[]): ChildProcessWithoutNullStreams {
        if (!fs.existsSync(this.python)) {
            const problem = `there is no Python environment at ${path.dirname(path.dirname(this.python))}`;
            throw new UserError(`${problem}: run \`npm run setup\``);
        }
        return spawn(this.python, [runner, ...verb, "--home", home()], {
            env: withoutSecrets(process.env),
            stdio: ["pipe", "pipe", "pipe"],
            detached: true, // the terminal's Ctrl-C is the client's business
        });
    }

    private async run<Answer>(verb: readonly string[], input = ""): Promise<Answer> {
        const { code, stdout, stderr } = await outputOf(this.spawn(verb), input);
        if (code === 0) return JSON.parse(stdout) as Answer;
        throw new UserError(`the runner could not ${verb[0] ?? ""}: ${lastLine(stderr)}`);
    }
}

function lastLine(text: string): string {
    return text.trim().split("\n").at(-1) ?? "";
}
