import { spawn } from "node:child_process";
import * as crypto from "node:crypto";
import * as fs from "node:fs";
import * as net from "node:net";
import * as os from "node:os";
import * as path from "node:path";
import type { Readable, Writable } from "node:stream";
import type { SshTarget } from "../../infra/target";
import { cache, project } from "../../scripts/locations.cjs";
import { duration } from "../duration";
import { digestOfFiles, listFiles, same, sha256, temporaryName, type FileEntry, type Json } from "../identity";
import { bootId } from "../processes";
import { quote } from "../shell";
import { Instance, type InstanceState } from "./instance";
import { costOf, noteReading, readings } from "./meter";
import { readJson, writeJson, type Result, type Store } from "../store/store";
import { UserError } from "../user-error";
import { Attended } from "./attended";
import {
    Asleep,
    type Executor,
    type Garbage,
    type GarbageRequest,
    type Job,
    type RunStatus,
    type Submitted,
    type Supplies,
} from "./executor";
import type { Machine, Program, ServiceRequest, ServiceStart, ServiceStatus, Tunnel } from "./machine";

/** Exit code of ssh when the connection is the trouble; the runner has none so high. */
const CONNECTION_FAILED = 255;
/** The runner of this version is not on the host yet. */
const NO_RUNNER = 93;
/** Seconds for which a host that has answered before is tried again. */
const PATIENCE = 15 * 60;
/** Seconds for which a machine of AWS may take to start, or to stop and start. */
const START = 10 * 60;
/** Attempts at a host that has not answered yet. */
const FIRST_ATTEMPTS = 3;

/** What a host says of itself before anything is sent to it. */
interface Hello {
    /** RETUNE_HOME of the host, absolute. */
    readonly home: string;
    readonly boot: string;
    readonly inode: readonly number[];
}

/**
 * Runs jobs on a machine that is reached by the system's own OpenSSH: its configuration, agents and jump hosts work, all
 * calls share one connection, and nothing listens on the host but sshd. The runner there is the same as everywhere; it
 * is sent along, by the digest of its text. A connection that breaks is made again, and what was asked goes on where
 * it was: the runs are the host's.
 */
export class SshExecutor implements Executor, Machine {
    private greeting: Promise<Hello> | undefined;
    /** Where the runner is on the host. */
    private runner = "";
    /** Whether the host has answered before, or is starting: such a host will answer. */
    private answered = false;
    private readonly instance: Instance | undefined;
    /** Where an instance that is awake is reached, without Session Manager. */
    private address: string | undefined;
    private awake: Promise<void> | undefined;

    constructor(
        private readonly target: SshTarget,
        private readonly store: Store,
        private readonly notice: (text: string) => void,
    ) {
        const { host, instance } = this.target;
        this.instance = instance === undefined ? undefined : new Instance(host, instance.region);
    }

    async wake(progress: (text: string) => void): Promise<void> {
        if (this.instance === undefined) return;
        const found = await this.instance.look();
        if (found.state === "running" && this.awake !== undefined) return;
        this.refuseBeyondLimits(found.state);
        if (found.state !== "running") {
            progress(`starting ${this.target.host}`);
            await this.started(found.state);
        }
        this.awake = this.seen();
        await this.awake;
        this.answered = true;
        await this.readMeter();
    }

    /** A machine that sleeps is not woken to be asked something. */
    private async lookWhetherAwake(): Promise<void> {
        this.awake ??= this.seen();
        await this.awake.catch((error: unknown) => {
            this.awake = undefined;
            throw error;
        });
    }

    private async seen(): Promise<void> {
        const found = await this.instance?.look();
        if (found !== undefined && found.state !== "running")
            throw new Asleep(`${this.target.host} sleeps (${found.state})`);
        this.address = found?.address;
    }

    /** Until AWS has started it, which may have to wait until it has stopped. */
    private async started(state: string): Promise<void> {
        const until = Date.now() + START * 1000;
        let asked = state === "pending";
        for (;;) {
            const found = await this.instance?.look();
            if (found?.state === "running") return;
            if (found?.state === "stopped" && !asked) {
                await this.instance?.start();
                asked = true;
            } else if (Date.now() > until) {
                throw new UserError(
                    `${this.target.host} has not started within ${duration(START)}: it is ${String(found?.state)}`,
                );
            } else {
                await new Promise((resolve) => setTimeout(resolve, 3000));
            }
        }
    }

    /** What is agreed about money and time holds for a machine that sleeps, and for one that was just made. */
    private refuseBeyondLimits(state: InstanceState["state"]): void {
        const { host, pricePerHour = 0, instance } = this.target;
        const refused =
            state === "running" ? `nothing more is run on ${host}, or fetched from it` : `${host} is not started`;
        if (instance?.until !== undefined && Date.parse(instance.until) <= Date.now()) {
            throw new UserError(
                `${refused}: its deadline was ${instance.until}. Another target.deadline, such as \`--set target.deadline=8\`, counts from now`,
            );
        }
        const last = readings(this.store.home).find(({ machine }) => machine === host);
        const spent = this.spentElsewhere() + (last === undefined ? 0 : costOf({ ...last, pricePerHour }));
        if (instance?.budget !== undefined && spent >= instance.budget) {
            const whose = instance.stack === undefined ? "it has" : `the machines of stack ${instance.stack} have`;
            throw new UserError(
                `${refused}: ${whose} cost $${spent.toFixed(2)}, and target.budget is $${instance.budget.toFixed(2)}. A larger target.budget lets it go on`,
            );
        }
    }

    /** What the stack's other machines have cost, which are gone by now. */
    private spentElsewhere(): number {
        const { host, instance } = this.target;
        const others = readings(this.store.home).filter(
            ({ machine, stack }) => stack !== undefined && stack === instance?.stack && machine !== host,
        );
        return others.reduce((sum, reading) => sum + costOf(reading), 0);
    }

    /**
     * Notes what the machine has cost, for those who ask while it sleeps; and tells its own meter what the stack's other
     * machines have, in seconds of this one: the budget is for all of them.
     */
    private async readMeter(): Promise<void> {
        const { home, instance, pricePerHour = 0 } = this.target;
        if (instance === undefined) return;
        const elsewhere = pricePerHour > 0 ? Math.ceil((this.spentElsewhere() / pricePerHour) * 3600) : 0;
        const file = quote(`${home}/spent-elsewhere`);
        const tell = `mkdir -p ${quote(home)}; [ "$(cat ${file} 2>/dev/null || echo 0)" -ge ${elsewhere} ] || echo ${elsewhere} >${file}; `;
        const said = await this.run(`${tell}cat /var/lib/retune-meter/seconds 2>/dev/null || echo 0`);
        await this.noteMeter(Number(said));
    }

    private async noteMeter(seconds: number): Promise<void> {
        const { host, instance, pricePerHour = 0 } = this.target;
        if (instance === undefined) return;
        const reading = { machine: host, seconds, pricePerHour, at: Date.now() / 1000 };
        const { stack, budget } = instance;
        await noteReading(this.store.home, {
            ...reading,
            ...(stack === undefined ? {} : { stack }),
            ...(budget === undefined ? {} : { budget }),
        });
    }

    /** Before it goes for good. One that sleeps or does not answer has said all that it will. */
    async lastReading(): Promise<void> {
        await this.readMeter().catch((error: unknown) => {
            if (!(error instanceof UserError)) throw error;
        });
    }

    async submit(job: Job, supplies: Supplies, again: boolean): Promise<Submitted> {
        const payload = { job: { ...job, python: await this.python() }, ...supplies };
        let repeat = again;
        const status = await this.call<Submitted>("submit", [], () => {
            const text = JSON.stringify({ ...payload, again: repeat });
            repeat = false; // a second try must not repeat what the first one has started
            return text;
        }).then(heard);
        const folder = this.store.runFolder(job.key);
        await fs.promises.mkdir(folder, { recursive: true });
        const noted = await readJson<{ target?: Json }>(path.join(folder, "state.json"));
        if (again || !same(noted?.target ?? null, this.target)) {
            // Copies of another machine's, or of an attempt that is no more.
            for (const name of ["log", "events.jsonl"]) await fs.promises.rm(path.join(folder, name), { force: true });
        }
        await writeJson(path.join(folder, "job.json"), payload.job);
        await this.note(status);
        return status;
    }

    async status(key: string, options: { cursor: number; waitSeconds: number }): Promise<RunStatus> {
        const { cursor, waitSeconds } = options;
        const words = [key, "--cursor", String(cursor), "--wait", String(waitSeconds)];
        const status = heard(await this.call<RunStatus>("status", words));
        await this.note(status);
        return status;
    }

    async stop(key: string): Promise<RunStatus> {
        const status = heard(await this.call<RunStatus>("stop", [key]));
        await this.note(status);
        return status;
    }

    async missing(digests: readonly string[]): Promise<string[]> {
        const answer = await this.call<{ missing: string[] }>("missing", [], () => JSON.stringify(digests));
        return answer.missing;
    }

    async send(digest: string, progress: (text: string) => void): Promise<void> {
        const folder = this.store.artifactFolder(digest);
        const manifest = await readJson<{ files: readonly FileEntry[] }>(`${folder}.json`);
        if (manifest === undefined) throw new UserError(`the artifact ${digest.slice(0, 12)} is not in the store`);
        const { files } = manifest;
        await this.persist(
            "receive",
            () => [digest],
            async (stdin, answers) => {
                stdin.write(`${JSON.stringify({ files })}\n`);
                const { present, have } = JSON.parse(await answers.line()) as {
                    present: boolean;
                    have?: Record<string, number>;
                };
                if (present) return;
                const meter = new Meter("sending", files, have ?? {}, progress);
                for (const file of files) {
                    const start = have?.[file.path] ?? 0;
                    if (start >= file.size) continue;
                    for await (const block of fs.createReadStream(path.join(folder, file.path), { start })) {
                        meter.add((block as Buffer).length);
                        if (!stdin.write(block)) await drained(stdin);
                    }
                }
            },
        );
    }

    async collect(result: Result, stays: boolean, progress: (text: string) => void): Promise<Result> {
        await fs.promises.mkdir(this.store.runFolder(result.key), { recursive: true });
        for (const name of ["log", "events.jsonl"] as const) await this.copy(result.key, name);
        await this.readMeter();
        if (stays) {
            const there: Result = { ...result, at: this.target.host };
            await this.store.record(there);
            return there;
        }
        if ((await this.store.damage(result.digest)) !== undefined) await this.fetch(result.digest, progress);
        await this.store.record(result);
        return result;
    }

    async copyLog(key: string): Promise<void> {
        await this.copy(key, "log");
    }

    collectGarbage(request: GarbageRequest): Promise<Garbage> {
        return this.call("gc", [], () => JSON.stringify(request));
    }

    async serve(request: ServiceRequest): Promise<ServiceStart> {
        const job = { ...request.job, python: await this.python() };
        return this.call("serve", [], () => JSON.stringify({ ...request, job }));
    }

    service(port: number, ask: boolean): Promise<ServiceStatus> {
        return this.call("service", [String(port), ...(ask ? ["--ask"] : [])]);
    }

    async endService(port: number, owner: string): Promise<void> {
        await this.call("end-service", [String(port), "--owner", owner]);
    }

    serviceKey(port: number): Promise<string> {
        return this.persist(
            "service-key",
            () => [String(port)],
            async (stdin, answers) => {
                stdin.end();
                return answers.text();
            },
        );
    }

    async attend(job: Program, programs: Readonly<Record<string, string>>): Promise<Attended> {
        const { home } = await this.hello().catch(this.sayHowToWake);
        const payload = { job: { ...job, python: await this.python() }, programs };
        const command = ["exec", "python3", this.runner, "attend", "--home", home].map(quote).join(" ");
        const child = this.spawn([...this.options(), this.destination(), `exec /bin/sh -c ${quote(command)}`], {
            detached: true, // the terminal's Ctrl-C is the client's business
        });
        child.stdin.write(`${JSON.stringify(payload)}\n`);
        return new Attended(child, (code, stderr) =>
            code === CONNECTION_FAILED
                ? new UserError(
                      this.hopeless(stderr) ?? `the connection to ${this.target.host} broke: ${reasonOf(stderr)}`,
                  )
                : new UserError(inTermsOfTheStack(reasonOf(stderr))),
        );
    }

    /** To somebody who wants to talk to a model: only what has to run wakes a machine by itself. */
    private readonly sayHowToWake = (error: unknown): never => {
        const { host, instance } = this.target;
        if (!(error instanceof Asleep) || instance === undefined) throw error;
        throw new UserError(
            `${error.message}: \`aws ec2 start-instances --instance-ids ${host} --region ${instance.region}\` wakes it; it costs until it has been idle again`,
        );
    };

    async tunnel(port: number): Promise<Tunnel> {
        const { host } = this.target;
        const local = await freePort();
        const way = `127.0.0.1:${local}:127.0.0.1:${port}`;
        // A connection of its own: that which is shared ends when nobody has used it for a while.
        const own = ["-o", "ControlPath=none", "-o", "ExitOnForwardFailure=yes", "-L", way];
        // Where we are killed, the end of its input ends it.
        const child = this.spawn([...own, ...this.options(), this.destination(), "exec cat"], { detached: true });
        let stderr = "";
        child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
        const broken = new Promise<never>((_, reject) => {
            child.on("error", reject);
            child.on("close", () => {
                reject(new UserError(this.hopeless(stderr) ?? `the tunnel to ${host} broke: ${reasonOf(stderr)}`));
            });
        });
        broken.catch(() => undefined); // whoever waits for it hears of it
        await Promise.race([broken, listens(local)]);
        return { port: local, broken, close: () => child.kill() };
    }

    /** Python of the environment with LLaMA-Factory. */
    private async python(): Promise<string> {
        return this.target.python ?? `${(await this.hello()).home}/miniforge/envs/llama-factory/bin/python`;
    }

    /** Brings the copy of a run's file here up to date. It only grows, and its beginning is that of the host's. */
    private async copy(key: string, name: "log" | "events.jsonl"): Promise<void> {
        const file = path.join(this.store.runFolder(key), name);
        let cursor = 0;
        await this.persist(
            "read",
            () => {
                cursor = sizeOf(file);
                return [key, "--file", name, "--cursor", String(cursor)];
            },
            async (_stdin, answers) => {
                // Each block at its own place: another client may be bringing the same.
                let position = cursor;
                const handle = await fs.promises.open(file, fs.constants.O_WRONLY | fs.constants.O_CREAT);
                try {
                    for await (const block of answers.rest()) {
                        await handle.write(block, 0, block.length, position);
                        position += block.length;
                    }
                } finally {
                    await handle.close();
                }
            },
        );
    }

    /** Takes an artifact from the host into the store, from where the last try broke off. */
    private async fetch(digest: string, progress: (text: string) => void): Promise<void> {
        const incoming = path.join(this.store.home, "store", ".incoming", digest);
        let files: readonly FileEntry[] = [];
        await fs.promises.mkdir(incoming, { recursive: true });
        await this.persist(
            "send",
            () => [digest],
            async (stdin, answers) => {
                const arrived = await sizesBelow(incoming);
                stdin.end(JSON.stringify({ have: arrived }));
                files = (JSON.parse(await answers.line()) as { files: FileEntry[] }).files;
                for (const { path: name } of files) {
                    await fs.promises.mkdir(path.dirname(path.join(incoming, name)), { recursive: true });
                    await fs.promises.appendFile(path.join(incoming, name), "");
                }
                const meter = new Meter("fetching", files, arrived, progress);
                const wanted = files.map((file) => ({ ...file, left: file.size - (arrived[file.path] ?? 0) }));
                for await (let block of answers.rest()) {
                    meter.add(block.length);
                    while (block.length > 0) {
                        const next = wanted.find(({ left }) => left > 0);
                        if (next === undefined)
                            throw new UserError(`the host sent more than ${digest.slice(0, 12)} has`);
                        const part = block.subarray(0, next.left);
                        await fs.promises.appendFile(path.join(incoming, next.path), part);
                        next.left -= part.length;
                        block = block.subarray(part.length);
                    }
                }
            },
        );
        const found = await listFiles(incoming);
        if (digestOfFiles(found) !== digest) {
            await fs.promises.rm(incoming, { recursive: true, force: true });
            throw new UserError(`the artifact ${digest.slice(0, 12)} did not arrive as ${this.target.host} has it`);
        }
        await this.store.keep(incoming, digest, files);
        await fs.promises.rm(incoming, { recursive: true, force: true });
    }

    /** Runs a Python program on the host and answers what it prints; `args` are no secrets. */
    async execute(program: string, args: readonly string[]): Promise<string> {
        const command = ["python3", "-", ...args].map(quote).join(" ");
        const ended = await this.ended(`exec ${command}`, program);
        if (ended.code !== 0) throw this.refused("look at itself", ended);
        return ended.value;
    }

    /**
     * Runs a shell command on the host and answers what it prints. Throws UserError with what it says on stderr where it
     * fails. It has a connection of its own: one that is shared would outlast a restart that the command asks for.
     */
    async run(command: string, stdin: string | Buffer = ""): Promise<string> {
        const ended = await this.ended(command, stdin, ["-o", "ControlPath=none"]);
        if (ended.code === 0) return ended.value.trimEnd();
        throw new UserError(ended.stderr.trim() || `exit code ${String(ended.code)} on ${this.target.host}`);
    }

    private async ended(
        command: string,
        input: string | Buffer,
        options: readonly string[] = [],
    ): Promise<Ended<string>> {
        await this.lookWhetherAwake();
        return this.patiently(() =>
            this.once(
                command,
                async (stdin, answers) => {
                    stdin.end(input);
                    return answers.text();
                },
                options,
            ),
        );
    }

    /**
     * Leaves the run's state here for those who ask without the engine, and what the machine has cost: each answer may be
     * the last that it gives.
     */
    private async note(status: RunStatus): Promise<void> {
        if (status.awakeSeconds !== undefined) await this.noteMeter(status.awakeSeconds);
        const { key, state, reason, attempt, queuedAt, startedAt, finishedAt } = status;
        const file = path.join(this.store.runFolder(key), "state.json");
        await fs.promises.mkdir(path.dirname(file), { recursive: true }); // of a client that was killed before it knew more
        const before = await readJson<{ progress?: unknown }>(file);
        const progress = status.events.findLast(({ type }) => type === "progress") ?? before?.progress;
        const known = { state, reason, attempt, queuedAt, startedAt, finishedAt, progress };
        await writeJson(file, { ...known, target: this.target, heardAt: Date.now() / 1000 });
    }

    /** What the host says of itself; the first thing that is asked, once. */
    private hello(): Promise<Hello> {
        this.greeting ??= this.greet().catch((error: unknown) => {
            this.greeting = undefined;
            throw error;
        });
        return this.greeting;
    }

    private async greet(): Promise<Hello> {
        await this.lookWhetherAwake();
        const source = await fs.promises.readFile(path.join(project, "pipeline", "runner", "runner.py"), "utf8");
        this.runner = `${this.target.home}/runner/${sha256(source).slice(0, 32)}.py`;
        const say = ["python3", quote(this.runner), "hello", "--home", quote(this.target.home)].join(" ");
        const ask = `test -f ${quote(this.runner)} || exit ${NO_RUNNER}; exec ${say}`;
        const put = `umask 077; mkdir -p ${quote(path.posix.dirname(this.runner))} && cat > ${quote(this.runner)}.$$`;
        const clear = `{ rm -f ${quote(this.runner)}.$$; exit 1; }`;
        const install = `{ ${put} && mv ${quote(this.runner)}.$$ ${quote(this.runner)}; } || ${clear}; exec ${say}`;
        const text = async (stdin: Writable, answers: Answers): Promise<string> => {
            stdin.end();
            return answers.text();
        };
        let answer = await this.patiently(() => this.once(ask, text));
        if (answer.code === NO_RUNNER) {
            answer = await this.patiently(() =>
                this.once(install, (stdin, answers) => {
                    stdin.write(source);
                    return text(stdin, answers);
                }),
            );
        }
        if (answer.code !== 0) throw this.refused("start", answer);
        const hello = JSON.parse(answer.value) as Hello;
        const here = fs.statSync(this.store.home, { throwIfNoEntry: false });
        if (hello.boot === bootId() && here !== undefined && same([here.dev, here.ino], hello.inode)) {
            throw new UserError(
                `target.home on ${this.target.host} is this machine's own RETUNE_HOME: use \`type: local\`, or another home`,
            );
        }
        return hello;
    }

    /** One verb of the runner that takes and gives JSON. */
    private call<Answer>(verb: string, words: readonly string[], input: () => string = () => ""): Promise<Answer> {
        return this.persist(
            verb,
            () => words,
            async (stdin, answers) => {
                stdin.end(input());
                return JSON.parse(await answers.text()) as Answer;
            },
        );
    }

    /** One verb of the runner, again and again until the connection has lasted long enough for it. */
    private async persist<Value>(
        verb: string,
        words: () => readonly string[],
        talk: (stdin: Writable, answers: Answers) => Promise<Value>,
    ): Promise<Value> {
        const { home } = await this.hello();
        const ended = await this.patiently(() => {
            const command = ["python3", this.runner, verb, "--home", home, ...words()].map(quote).join(" ");
            return this.once(`exec ${command}`, talk);
        });
        if (ended.code !== 0) throw this.refused(verb, ended);
        return ended.value;
    }

    private refused(verb: string, { code, stderr }: { code: number | null; stderr: string }): UserError {
        const { host } = this.target;
        if (code === 127) return new UserError(`${host} has no python3: \`sudo apt-get install python3\` there`);
        const last = stderr.trim().split("\n").at(-1) ?? "";
        const why = last === "" ? `exit code ${String(code)}` : inTermsOfTheStack(last);
        return new UserError(`the runner on ${host} could not ${verb}: ${why}`);
    }

    /** Tries again while the connection is the trouble: for long, once the host has answered. */
    private async patiently<Value>(attempt: () => Promise<Ended<Value>>): Promise<Ended<Value>> {
        const { user, host } = this.target;
        let since = Date.now();
        let broken = false;
        for (let attempts = 1; ; attempts++) {
            const ended = await attempt();
            if (ended.code !== CONNECTION_FAILED) {
                if (broken) this.notice(`${host} answers again`);
                this.answered = true;
                return ended;
            }
            // It has got somewhere: however short its connections are, it will get to the end.
            if (ended.heard) {
                attempts = 1;
                since = Date.now();
            }
            const why = reasonOf(ended.stderr);
            const problem = this.hopeless(ended.stderr);
            if (problem !== undefined) throw new UserError(problem);
            if (broken && this.awake !== undefined) await this.requireRunning();
            const tired = this.answered ? Date.now() - since > PATIENCE * 1000 : attempts >= FIRST_ATTEMPTS;
            if (tired) {
                const goesOn = this.answered
                    ? "; what runs there goes on, and the next `npm run up` attaches to it"
                    : "";
                throw new UserError(`${user}@${host} cannot be reached: ${why}${goesOn}`);
            }
            if (!broken && this.answered) {
                broken = true;
                this.notice(`the connection to ${host} broke (${why}): trying for ${duration(PATIENCE)}`);
            }
            await new Promise((resolve) => setTimeout(resolve, Math.min(250 * 2 ** attempts, 10_000)));
        }
    }

    /** A connection that breaks because the machine was powered off does not come back by itself. */
    private async requireRunning(): Promise<void> {
        const found = await this.instance?.look();
        if (found === undefined || found.state === "running" || found.state === "pending") return;
        throw new UserError(
            `${this.target.host} was powered off: by its own meter, its deadline or AWS. The next \`npm run up\` starts it, and what was interrupted goes on at its last checkpoint`,
        );
    }

    /** What will not get better by trying again, in words; undefined for a connection that may come back. */
    private hopeless(stderr: string): string | undefined {
        const { user, host, hostKey } = this.target;
        if (/Host key verification failed|IDENTIFICATION HAS CHANGED/.test(stderr)) {
            const sent = /SHA256:[A-Za-z0-9+/]+/.exec(stderr)?.[0] ?? "another kind of key";
            return `${host} is not the machine that target.hostKey names: it has ${sent}, expected ${fingerprint(hostKey)}; nothing was sent to it. Where the machine was set up anew, put its new key into target.hostKey`;
        }
        const offer = /no matching host key type found\. Their offer: (.*)/.exec(stderr)?.[1];
        if (offer !== undefined)
            return `${host} has no ${hostKey.split(" ")[0] ?? ""} key as target.hostKey says; it has ${offer.trim()}`;
        const methods = /Permission denied \(([^)]*)\)/.exec(stderr)?.[1]?.split(",");
        if (methods !== undefined) {
            const password = methods.includes("publickey")
                ? "put your public key into its ~/.ssh/authorized_keys, or name its private key in target.identity"
                : `it wants ${methods.join(" or ")}, and Retune never types one: allow keys there`;
            return `${host} does not let ${user} in with a key: ${password}`;
        }
        if (stderr.includes("SessionManagerPlugin is not found")) {
            return `${host} is reached through Session Manager, whose plugin is not on PATH: https://docs.aws.amazon.com/systems-manager/latest/userguide/session-manager-working-with-install-plugin.html, or set target.access to key`;
        }
        const setting = /Bad configuration option: .*|Bad owner or permissions on .*|no such identity: .*/.exec(stderr);
        return setting === null ? undefined : `ssh refuses: ${setting[0]}`;
    }

    /** Runs one command on the host. Whatever it answers is an answer; ssh's own failure is CONNECTION_FAILED. */
    private async once<Value>(
        command: string,
        talk: (stdin: Writable, answers: Answers) => Promise<Value>,
        options: readonly string[] = [],
    ): Promise<Ended<Value>> {
        // The first of a name counts.
        const args = [...options, ...this.options(), this.destination()];
        const child = this.spawn([...args, `exec /bin/sh -c ${quote(command)}`]);
        let stderr = "";
        let heard = false;
        child.stdout.once("data", () => (heard = true));
        child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
        child.stdin.on("error", () => undefined); // it ended early; its exit code says why
        const closed = new Promise<number | null>((resolve, reject) => {
            child.on("error", (error) => {
                const missing = (error as NodeJS.ErrnoException).code === "ENOENT";
                reject(missing ? new UserError("target.type ssh wants OpenSSH's ssh on PATH") : error);
            });
            child.on("close", resolve);
        });
        const answers = new Answers(child.stdout);
        const spoken = talk(child.stdin, answers).then(
            async (value) => {
                child.stdin.end();
                await answers.text(); // unread, it would keep the stream from closing
                return { value };
            },
            (error: unknown) => {
                // What it says makes no sense where it broke off; anything else is our own trouble.
                if (!(error instanceof SyntaxError)) child.kill();
                child.stdout.destroy();
                return { error };
            },
        );
        const code = await closed;
        const outcome = await spoken;
        if ("value" in outcome) return { code, stderr, heard, value: outcome.value };
        if (code === 0 || code === null) throw outcome.error;
        return { code, stderr, heard, value: undefined as Value };
    }

    private destination(): string {
        return `${this.target.user}@${this.target.host}`;
    }

    private spawn(args: readonly string[], options: { readonly detached?: boolean } = {}) {
        // The shared connection's process outlives this one, and SendEnv of the user's settings would pass a token on.
        const env = { ...process.env, HF_TOKEN: undefined, SSH_ASKPASS_REQUIRE: "never" };
        return spawn("ssh", args, { ...options, env, stdio: "pipe" });
    }

    private options(): string[] {
        const { host, port, hostKey, identity, proxyJump, instance } = this.target;
        const throughSession = instance?.access === "ssm" ? Instance.proxyCommand(host, instance.region) : undefined;
        const proxyCommand = this.target.proxyCommand ?? throughSession;
        const kind = hostKey.split(" ")[0] ?? "";
        const settings = {
            // Without a terminal nobody could answer.
            BatchMode: "yes",
            StrictHostKeyChecking: "yes",
            HostKeyAlias: ALIAS,
            HostKeyAlgorithms: kind === "ssh-rsa" ? "rsa-sha2-512,rsa-sha2-256" : kind,
            UserKnownHostsFile: `"${knownHosts(hostKey)}"`,
            GlobalKnownHostsFile: "/dev/null",
            UpdateHostKeys: "no",
            ForwardAgent: "no",
            ConnectTimeout: "10",
            ServerAliveInterval: "5",
            ServerAliveCountMax: "3",
            ControlMaster: "auto",
            ControlPath: `"${controlPath(this.target)}"`,
            ControlPersist: "60",
            ...(throughSession !== undefined || this.address === undefined ? {} : { HostName: this.address }),
            ...(identity === undefined ? {} : { IdentityFile: `"${identity}"`, IdentitiesOnly: "yes" }),
            ...(proxyJump === undefined ? {} : { ProxyJump: proxyJump }),
            ...(proxyCommand === undefined ? {} : { ProxyCommand: proxyCommand }),
        };
        return [
            "-T",
            "-p",
            String(port),
            ...Object.entries(settings).flatMap(([name, value]) => ["-o", `${name}=${value}`]),
        ];
    }
}

/** The name under which the pinned key is known, whatever the address of the day. */
const ALIAS = "retune-target";

interface Ended<Value> {
    readonly code: number | null;
    readonly stderr: string;
    /** Whether the host has said anything. */
    readonly heard: boolean;
    /** Meaningful for a code of 0 only. */
    readonly value: Value;
}

/** What the runner calls RETUNE_HOME is another folder to the client's user. */
function inTermsOfTheStack(text: string): string {
    return text.replace("RETUNE_HOME", "target.home");
}

function heard<Status extends RunStatus>(status: Status): Status {
    return typeof status.reason === "string" ? { ...status, reason: inTermsOfTheStack(status.reason) } : status;
}

/** What a command prints: first, where there is one, a line; then the rest. */
class Answers {
    private readonly blocks: AsyncIterator<Buffer>;
    private ahead: Buffer = Buffer.alloc(0);

    constructor(stdout: Readable) {
        this.blocks = stdout[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
    }

    async line(): Promise<string> {
        for (;;) {
            const end = this.ahead.indexOf("\n");
            if (end >= 0) {
                const line = this.ahead.subarray(0, end).toString("utf8");
                this.ahead = this.ahead.subarray(end + 1);
                return line;
            }
            const next = await this.blocks.next();
            if (next.done === true) return "";
            this.ahead = Buffer.concat([this.ahead, next.value]);
        }
    }

    async *rest(): AsyncGenerator<Buffer> {
        if (this.ahead.length > 0) yield this.ahead;
        for (;;) {
            const next = await this.blocks.next();
            if (next.done === true) return;
            yield next.value;
        }
    }

    async text(): Promise<string> {
        const blocks: Buffer[] = [];
        for await (const block of this.rest()) blocks.push(block);
        return Buffer.concat(blocks).toString("utf8");
    }
}

/** Says how far an artifact has come, at most once a second. */
class Meter {
    private done: number;
    private readonly total: number;
    private readonly begin = Date.now();
    private readonly first: number;
    private last = 0;

    constructor(
        private readonly what: string,
        files: readonly FileEntry[],
        have: Readonly<Record<string, number>>,
        private readonly progress: (text: string) => void,
    ) {
        this.total = files.reduce((sum, { size }) => sum + size, 0);
        this.done = Object.values(have).reduce((sum, size) => sum + size, 0);
        this.first = this.done;
    }

    add(bytes: number): void {
        this.done += bytes;
        const now = Date.now();
        if (now - this.last < 1000) return;
        this.last = now;
        const seconds = (now - this.begin) / 1000;
        const left = ((this.total - this.done) * seconds) / Math.max(1, this.done - this.first);
        const megabytes = `${(this.done / 1e6).toFixed(0)} of ${(this.total / 1e6).toFixed(0)} MB`;
        this.progress(`${this.what} ${megabytes}${seconds > 2 ? `, ${duration(left)} left` : ""}`);
    }
}

async function freePort(): Promise<number> {
    const server = net.createServer().listen(0, "127.0.0.1");
    await new Promise((resolve) => server.once("listening", resolve));
    const { port } = server.address() as net.AddressInfo;
    await new Promise((resolve) => server.close(resolve));
    return port;
}

/** Waits until somebody listens on a port of loopback. */
async function listens(port: number): Promise<void> {
    const tried = (): Promise<boolean> =>
        new Promise((resolve) => {
            const socket = net.connect(port, "127.0.0.1", () => {
                socket.destroy();
                resolve(true);
            });
            socket.on("error", () => {
                resolve(false);
            });
        });
    while (!(await tried())) await new Promise((resolve) => setTimeout(resolve, 100));
}

/** As `ssh-keygen -l` shows a public key. */
function fingerprint(hostKey: string): string {
    const body = Buffer.from(hostKey.split(" ")[1] ?? "", "base64");
    return `SHA256:${crypto.createHash("sha256").update(body).digest("base64").replace(/=+$/, "")}`;
}

/** A file of known hosts in which there is nothing but the pinned key. */
function knownHosts(hostKey: string): string {
    const file = path.join(cache(), "known-hosts", sha256(hostKey).slice(0, 16));
    if (fs.existsSync(file)) return file;
    fs.mkdirSync(path.dirname(file), { recursive: true });
    const temporary = temporaryName(file);
    fs.writeFileSync(temporary, `${ALIAS} ${hostKey}\n`);
    fs.renameSync(temporary, file);
    return file;
}

/** The socket of the shared connection, the same for all who mean the same host in the same way: it must be short. */
function controlPath(target: SshTarget): string {
    const { host, port, user, hostKey, identity, proxyJump, proxyCommand } = target;
    const way = JSON.stringify([host, port, user, hostKey, identity, proxyJump, proxyCommand]);
    const base = process.env["XDG_RUNTIME_DIR"] ?? os.tmpdir();
    const folder = path.join(base, `retune-${os.userInfo().uid}`);
    fs.mkdirSync(folder, { recursive: true, mode: 0o700 });
    return path.join(folder, `ssh-${sha256(way).slice(0, 16)}`);
}

function reasonOf(stderr: string): string {
    const lines = stderr
        .trim()
        .split("\n")
        .filter((line) => line.trim() !== "");
    return (
        lines
            .at(-1)
            ?.replace(/\r$/, "")
            .replace(/^ssh: /, "") ?? "ssh gave no reason"
    );
}

function sizeOf(file: string): number {
    return fs.existsSync(file) ? fs.statSync(file).size : 0;
}

async function sizesBelow(folder: string): Promise<Record<string, number>> {
    const entries = await fs.promises.readdir(folder, { recursive: true, withFileTypes: true });
    const files = entries.filter((entry) => entry.isFile());
    return Object.fromEntries(
        files.map((entry) => {
            const file = path.join(entry.parentPath, entry.name);
            return [path.relative(folder, file), sizeOf(file)];
        }),
    );
}

/** Until there is room again for what is written, or nobody who reads it. */
function drained(stream: Writable): Promise<void> {
    return new Promise((resolve) => {
        if (stream.destroyed || !stream.writableNeedDrain) {
            resolve();
            return;
        }
        const go = (): void => {
            stream.off("drain", go).off("close", go);
            resolve();
        };
        stream.on("drain", go).on("close", go);
    });
}
