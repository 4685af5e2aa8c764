// The real runner and the real front of a service. What is behind the front is a stand-in for a model: a few lines of
// Python that answer as its parameters say, where LLaMA-Factory would need ten seconds to start.
import { spawn, spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as net from "node:net";
import path from "node:path";
import { beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import type { ServiceStart, ServiceStatus } from "../../pipeline/executor/machine";
import { sha256 } from "../../pipeline/identity";
import { processOf } from "../../pipeline/processes";
import { explain, ServiceLifecycle } from "../../pipeline/provider/service";
import { servingSources } from "../../pipeline/service";
import { Store } from "../../pipeline/store/store";
import { pythonEnvironment } from "../../scripts/locations.cjs";
import { freePort } from "../free-port";
import { call, folder, home, processes, python, runtime } from "./runner-rig";
import { read, until } from "./processes";

/** The digest of an artifact without files. */
const EMPTY = sha256("");

const STAND_IN = fs.readFileSync(path.join(import.meta.dirname, "..", "stand-in-model.py"), "utf8");

interface StandIn {
    readonly says: string;
    /** Python that it executes before it listens. */
    readonly first?: string;
    readonly answers?: boolean;
}

const namespaces = spawnSync("unshare", ["-Urm", "true"]).status === 0;
if (!namespaces) {
    console.warn("SKIPPED: a full log. It needs a file system of its own, but `unshare -Urm` is not allowed here.");
}

/** A folder with a file system of its own, of 1 MiB. */
async function smallDisk(): Promise<string> {
    const disk = path.join(folder, "disk");
    fs.mkdirSync(disk);
    const script = 'mount -t tmpfs -o size=1m tmpfs "$1" && touch "$1/there" && exec sleep 60';
    const holder = spawn("unshare", ["-Urm", "sh", "-c", script, "sh", disk], { stdio: "ignore" });
    onTestFinished(() => void holder.kill());
    const there = `/proc/${holder.pid ?? 0}/root${disk}`;
    await until(() => fs.existsSync(path.join(there, "there")));
    return there;
}

describe("the front of a service", () => {
    let port: number;
    beforeEach(async () => {
        port = await freePort();
        fs.mkdirSync(path.join(home, "store", EMPTY), { recursive: true });
        fs.writeFileSync(path.join(home, "store", `${EMPTY}.json`), JSON.stringify({ digest: EMPTY, files: [] }));
        onTestFinished(async () => {
            await call(["end-service", String(port), "--owner", "stack a (service)"]);
        });
    });

    const place = (): string => path.join(home, "services", String(port));
    async function serve(
        parameters: StandIn,
        { owner = "stack a (service)", at = port, front = (source: string) => source } = {},
    ): Promise<ServiceStart> {
        const job = {
            key: parameters.says,
            program: "serve.py",
            parameters,
            inputs: { model: EMPTY },
            environment: {},
        };
        const sources = servingSources();
        const programs = { ...sources, "front.py": front(sources["front.py"] ?? ""), "serve.py": STAND_IN };
        const request = { port: at, owner, job: { ...job, python }, programs };
        return (await call(["serve"], JSON.stringify(request))) as unknown as ServiceStart;
    }
    const status = async (...more: string[]) =>
        (await call(["service", String(port), ...more])) as unknown as ServiceStatus;
    /** The status once a key is served, or an attempt has failed. */
    async function settled(start: ServiceStart, key: string): Promise<ServiceStatus> {
        let now: ServiceStatus = start;
        await until(async () => {
            now = await status();
            return now.failed?.attempt === start.attempt || (now.state === "up" && now.active === key);
        });
        return now;
    }
    const up = async (says: string): Promise<void> => {
        expect(await settled(await serve({ says }), says)).toMatchObject({ state: "up", active: says, failed: null });
    };
    /** What a refresh says of it. */
    async function warnings(): Promise<string[]> {
        const said: string[] = [];
        const lifecycle = new ServiceLifecycle(
            new Store(home),
            (_urn, text) => said.push(text),
            new AbortController().signal,
            new Map(),
        );
        vi.stubEnv("RETUNE_HOME", home);
        const bin = path.join(pythonEnvironment(), "bin");
        if (fs.mkdirSync(bin, { recursive: true }) !== undefined) fs.symlinkSync(python, path.join(bin, "python"));
        const outputs = { key: "one" };
        const urn = "urn:pulumi:dev::retune::finetune:pipeline:Service::service";
        expect(await lifecycle.read(urn, { target: { type: "local" }, port }, outputs)).toEqual(outputs);
        return said;
    }
    async function ask(body: object = {}, options: { readonly key?: string } = {}) {
        const key = options.key ?? read(path.join(place(), "key")).trim();
        const answer = await fetch(`http://127.0.0.1:${port}/v1/chat/completions`, {
            method: "POST",
            headers: { "Content-Type": "application/json", "Authorization": `Bearer ${key}` },
            body: JSON.stringify(body),
        });
        const text = await answer.text();
        const front = answer.headers.get("server");
        return { status: answer.status, said: /"content": "(\w*)"/.exec(text)?.[1], text, front };
    }
    /** What four clients see that ask again and again, two of them for streams, while `work` goes on, and once more. */
    async function asking(work: () => Promise<unknown>): Promise<(string | undefined)[][]> {
        let isDone = false;
        const clients = [0, 30, 0, 30].map(async (pieces) => {
            const answers: (string | undefined)[] = [];
            for (let isLast = false; !isLast;) {
                isLast = isDone;
                const { status, said, text } = await ask(pieces > 0 ? { pieces } : {});
                expect(status).toBe(200);
                const words = pieces > 0 ? text.trimEnd().split(" ") : [said];
                expect(words).toEqual(Array(Math.max(pieces, 1)).fill(words[0]));
                if (answers.at(-1) !== words[0]) answers.push(words[0]);
            }
            return answers;
        });
        await work().finally(() => (isDone = true));
        return await Promise.all(clients);
    }

    test("serves a model, and starts it once however often it is asked to", async () => {
        const starts = await Promise.all([serve({ says: "one" }), serve({ says: "one" }), serve({ says: "one" })]);
        expect(starts.map(({ attempt }) => attempt)).toEqual([1, 1, 1]);
        expect(starts.filter(({ started }) => started)).toHaveLength(1);
        expect(await settled(starts[0], "one")).toMatchObject({ state: "up", active: "one" });
        expect(await ask()).toMatchObject({ status: 200, said: "one" });
        expect(await ask({}, { key: "another" })).toMatchObject({ status: 401 });
        expect(processes("serve.py")).toHaveLength(1);
        expect(await serve({ says: "one" })).toMatchObject({ started: false, active: "one" });
    });

    test("lets the old model finish what it has begun, and gives what comes next to the new one", async () => {
        await up("one");
        const slow = ask({ seconds: 2 });
        await up("two");
        expect(await ask()).toMatchObject({ said: "two" });
        expect(await slow).toMatchObject({ status: 200, said: "one" });
        await until(() => processes("serve.py").length === 1);
    });

    test("fails none of the requests that go on while it changes models, breaks no stream off, and changes once", async () => {
        await up("one");
        const seen = await asking(async () => {
            const broken = await serve({ says: "broken", first: "sys.exit(3)" });
            expect(await settled(broken, "broken")).toMatchObject({ active: "one", failed: { attempt: 2 } });
            // It has streams of about a second to end when this one takes its place.
            await up("two");
        });
        expect(seen).toEqual(Array(4).fill(["one", "two"]));
        await until(() => processes("serve.py").length === 1);
    });

    test("goes on with newer sources in its place: no request fails, and the model is not loaded again", async () => {
        await up("one");
        const before = processes(place());
        const newer = (name: string) => (source: string) =>
            source.replace('server_version = "retune"', `server_version = "${name}"`);
        const renewed = (name: string) => until(async () => (await ask()).front === `${name} `);
        const seen = await asking(async () => {
            expect(await serve({ says: "one" }, { front: newer("newer") })).toMatchObject({
                attempt: 1,
                started: false,
            });
            await renewed("newer");
        });
        expect(seen).toEqual(Array(4).fill(["one"]));
        expect(processes(place())).toEqual(before);
        expect(await status("--ask")).toMatchObject({ state: "up", active: "one", failed: null });

        // As it does before it brings another model up, which is then its own as any other.
        const both = await asking(async () => {
            const start = await serve({ says: "two" }, { front: newer("newest") });
            expect(await settled(start, "two")).toMatchObject({ active: "two" });
        });
        expect(both).toEqual(Array(4).fill(["one", "two"]));
        await until(() => processes("serve.py").length === 1);
        await renewed("newest");
        for (const pid of processes("serve.py")) process.kill(pid, "SIGKILL");
        await until(async () => (await status()).state === "down");
        expect(await status()).toMatchObject({
            reason: "its process was killed (signal 9); where nobody did it, the machine ran out of memory",
        });
    }, 60_000);

    test("reads with newer sources what has come in before them, at a connection that was open", async () => {
        await up("one");
        const key = read(path.join(place(), "key")).trim();
        const socket = net.connect(port, "127.0.0.1");
        onTestFinished(() => void socket.destroy());
        let said = "";
        socket.on("data", (data: Buffer) => (said += data.toString()));
        const answers = () => said.split(`"data": []`).length - 1;
        const question = `GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${key}\r\n\r\n`;
        // Two at once, which few clients do: what it has read of the second is the old one's.
        socket.write(question + question);
        await until(() => answers() === 2);
        // New ones wait where there is no moment without a request.
        const slow = ask({ seconds: 18 });
        const newer = (source: string) => source.replace('"retune"', '"newer"');
        await serve({ says: "one" }, { front: newer });
        await until(() => read(path.join(place(), "state.json")).includes('"renewing": true'));
        await new Promise((resolve) => setTimeout(resolve, 1000));
        socket.write(question);
        const connected = ask();
        // It is not taken for one that is silent, and ended.
        expect(await status("--ask")).toMatchObject({ state: "up", active: "one", reason: null });
        expect(await serve({ says: "one" }, { front: newer })).toMatchObject({ attempt: 1, started: false });
        expect(answers()).toBe(2);
        expect(await slow).toMatchObject({ status: 200, front: "retune " });
        await until(() => answers() === 3);
        expect(said).toMatch(/Server: newer \r\n[^]*"data": \[\]\}$/);
        expect(await connected).toMatchObject({ status: 200, front: "newer " });
    }, 45_000);

    test("makes place for one with newer sources where it is too old to go on as that", async () => {
        await up("one");
        const file = path.join(place(), "state.json");
        const { code: _code, ...old } = JSON.parse(read(file)) as Record<string, unknown>;
        fs.writeFileSync(file, JSON.stringify(old));
        const before = processes(place());
        const start = await serve({ says: "one" });
        expect(await settled(start, "one")).toMatchObject({ active: "one" });
        expect(processes(place()).filter((pid) => before.includes(pid))).toEqual([]);
    });

    test.each([
        ["that ends", { first: "raise ValueError('no such weights')" }, "ValueError: no such weights"],
        [
            "that is killed, as for memory",
            { first: "os.kill(os.getpid(), signal.SIGKILL)" },
            "its process was killed (signal 9); where nobody did it, the machine ran out of memory",
        ],
        [
            "that says why itself",
            { first: `Path("outcome.json").write_text('{"error": "out of memory"}'); sys.exit(1)` },
            "out of memory",
        ],
        [
            "that does not answer its question",
            { answers: false },
            'the model was loaded, but did not answer a question: it answered 500: {"choices": [{"message": {"content": "two"}}]}',
        ],
    ])("goes on with the old model where the new one is one %s", async (_, model, reason) => {
        await up("one");
        const start = await serve({ says: "two", ...model });
        expect(await settled(start, "two")).toMatchObject({ state: "up", active: "one", failed: { reason } });
        expect(await ask()).toMatchObject({ status: 200, said: "one" });
        // And tries again when it is asked to.
        await up("three");
        expect(await ask()).toMatchObject({ said: "three" });
    });

    test("loads a model as the process that is ended first where memory runs out, until it serves", async () => {
        const score = (pid: number): number => Number(read(`/proc/${pid}/oom_score_adj`));
        const usual = score(process.pid);
        await up("one");
        const [old = 0] = processes("serve.py");
        expect(score(old)).toBe(usual);
        const child =
            "import subprocess; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', f'{Path.cwd()}/child'])";
        const start = await serve({
            says: "two",
            first: `${child}\nwhile not Path("go").exists(): time.sleep(0.01)`,
        });
        await until(() => processes("work/child").length === 1);
        const loading = [...processes("serve.py").filter((pid) => pid !== old), ...processes("work/child")];
        expect(loading.map(score)).toEqual([1000, 1000]);
        expect([old, ...processes("front.py")].map(score)).toEqual([usual, usual]);
        fs.writeFileSync(path.join(place(), "2", "work", "go"), "");
        expect(await settled(start, "two")).toMatchObject({ active: "two" });
        expect(loading.map(score)).toEqual([usual, usual]);
    });

    test("is asked for what it serves after another has failed to come up: that failure is none of this attempt", async () => {
        await up("one");
        const failed = await serve({ says: "two", first: "sys.exit(3)" });
        expect(await settled(failed, "two")).toMatchObject({ active: "one", failed: { attempt: 2 } });
        const start = await serve({ says: "one" });
        expect(start).toMatchObject({ attempt: 1, started: false, active: "one", starting: null });
        await until(async () => (await status()).failed === null);
        expect(await ask()).toMatchObject({ said: "one" });
        expect(processes("serve.py")).toHaveLength(1);
    });

    test("is asked for what it serves while another comes up: that one ends", async () => {
        await up("one");
        await serve({ says: "two", first: "time.sleep(600)" });
        await until(() => processes("serve.py").length === 2);
        expect(await serve({ says: "one" })).toMatchObject({ attempt: 1, started: false, active: "one" });
        await until(async () => {
            const now = await status();
            return now.state === "up" && now.starting === null;
        });
        await until(() => processes("serve.py").length === 1);
        expect(await status("--ask")).toMatchObject({ state: "up", active: "one", failed: null });
        await up("two");
    });

    test("ends where the first model does not come up, and frees its port", async () => {
        const start = await serve({ says: "one", first: "sys.exit(3)" });
        expect(await settled(start, "one")).toMatchObject({ failed: { reason: "its process ended with code 3" } });
        await until(async () => (await status()).state === "down");
        await expect(ask()).rejects.toThrow("fetch failed");
    });

    test("says that its port is taken", async () => {
        const other = net.createServer().listen(port, "127.0.0.1");
        onTestFinished(() => void other.close());
        await new Promise((resolve) => other.once("listening", resolve));
        expect(await settled(await serve({ says: "one" }), "one")).toMatchObject({
            failed: { reason: `port ${port} is taken by another program on this machine: set service.port` },
        });
    });

    test("does not give its port to another stack", async () => {
        await up("one");
        await expect(serve({ says: "two" }, { owner: "stack b (service)" })).rejects.toThrow(
            `port ${port} is that of stack a (service): set service.port`,
        );
        await call(["end-service", String(port), "--owner", "stack b (service)"]);
        expect(await ask()).toMatchObject({ said: "one" });
    });

    test("is down when its model or itself is killed; a start brings it up with the same key", async () => {
        await up("one");
        const key = read(path.join(place(), "key"));
        for (const program of ["serve.py", "front.py"]) {
            for (const pid of processes(program)) process.kill(pid, "SIGKILL");
            await until(() => processes(place()).length === 0);
            expect(await status("--ask")).toMatchObject({ state: "down" });
            await up("one");
            expect(await ask()).toMatchObject({ said: "one" });
        }
        expect(read(path.join(place(), "key"))).toBe(key);
    });

    /** As a reboot leaves it: nothing runs, and the number of its front may be that of any process. */
    async function reboot(): Promise<void> {
        for (const pid of processes(place())) process.kill(pid, "SIGKILL");
        await until(() => processes(place()).length === 0);
        const file = path.join(place(), "state.json");
        const state = JSON.parse(read(file)) as object;
        const { started: pidStarted } = processOf(process.pid) ?? {};
        fs.writeFileSync(file, JSON.stringify({ ...state, pid: process.pid, pidStarted, boot: "the one before" }));
    }

    test("is down after a reboot where nothing starts it, and brought up by a start", async () => {
        await up("one");
        await reboot();
        expect(await status("--ask")).toMatchObject({ state: "down", reason: "the machine was restarted" });
        const start = await serve({ says: "one" });
        expect(start).toMatchObject({ attempt: 2, started: true });
        expect(await settled(start, "one")).toMatchObject({ state: "up", active: "one", failed: null });
        expect(await ask()).toMatchObject({ said: "one" });
    });

    test.each([
        ["another had failed to come up", "sys.exit(3)"],
        ["another was coming up", "time.sleep(600)"],
    ])("serves after a reboot what it did before, where it is started as its unit does it; %s", async (_, first) => {
        await up("one");
        await serve({ says: "two", first });
        await until(async () => {
            const now = await status();
            return now.failed?.attempt === 2 || (now.state === "up" && now.starting === "two");
        });
        await reboot();
        const front = spawn(python, ["-B", path.join(place(), "front.py"), place()], { stdio: "ignore" });
        await until(async () => {
            const now = await status();
            return now.state === "up" && now.active === "one" && now.starting === null;
        });
        expect(await ask()).toMatchObject({ said: "one" });
        expect(front.exitCode).toBeNull();
        await up("two");
    });

    test.each(["serve.py", "front.py"])(
        "is brought up again by a start where its %s is alive, but silent",
        async (program) => {
            await up("one");
            const before = processes(place());
            for (const pid of processes(program)) process.kill(pid, "SIGSTOP");
            const start = await serve({ says: "one" });
            expect(start).toMatchObject({ attempt: 2, started: true });
            expect(await settled(start, "one")).toMatchObject({ state: "up", active: "one", failed: null });
            expect(await ask()).toMatchObject({ status: 200, said: "one" });
            expect(processes(place()).filter((pid) => before.includes(pid))).toEqual([]);
        },
        40_000,
    );

    test("serves on when the login's folder goes with the login", async () => {
        await up("one");
        fs.rmSync(runtime, { recursive: true });
        expect(await ask()).toMatchObject({ status: 200, said: "one" });
    });

    test("says that its model cannot be reached", async () => {
        await up("one");
        const work = path.join(place(), "1", "work");
        const [socket = ""] = fs.readdirSync(work).filter((name) => name.endsWith(".sock"));
        fs.rmSync(path.join(work, socket));
        const { status, text } = await ask();
        expect([status, JSON.parse(text)]).toEqual([
            502,
            {
                error: {
                    message: "the model cannot be reached: No such file or directory",
                    type: "server_error",
                    code: "model_unreachable",
                },
            },
        ]);
    });

    test.skipIf(!namespaces)(
        "serves on where the disk of its log is full, and says so then and afterwards",
        async () => {
            const disk = await smallDisk();
            fs.mkdirSync(place(), { recursive: true });
            fs.symlinkSync(path.join(disk, "log"), path.join(place(), "log"));
            await up("one");
            fs.writeFileSync(path.join(disk, "else"), Buffer.alloc(500_000));
            expect(await warnings()).toEqual([]);
            expect(await ask({ print: 900_000 })).toMatchObject({ status: 200, said: "one" });
            await until(() => fs.statfsSync(disk).bavail === 0);
            expect(await ask({ print: 100_000 })).toMatchObject({ status: 200, said: "one" });
            expect(await warnings()).toEqual([
                `it serves, but services/${port}/log cannot be written: no space left on the disk: make room, or move RETUNE_HOME to a larger one`,
            ]);
            fs.rmSync(path.join(disk, "else"));
            expect(await ask({ print: 10 })).toMatchObject({ status: 200, said: "one" });
            const note = /\n\[\d{6} bytes of this log are lost: no space left on the disk: .*\]\nx{10}\n$/;
            await until(() => note.test(read(path.join(disk, "log"))));
            expect(await warnings()).toEqual([]);
        },
    );

    test("keeps its log within bounds", async () => {
        await up("one");
        for (let i = 0; i < 5; i++) await ask({ print: 2_000_000 });
        const size = (name: string) => fs.statSync(path.join(place(), name)).size;
        await until(() => size("log") + size("log.before") > 5_000_000);
        expect(size("log") + size("log.before")).toBeLessThan(10_000_000);
    });

    test("is gone without a trace when it is ended", async () => {
        await up("one");
        await call(["end-service", String(port), "--owner", "stack a (service)"]);
        expect(processes(place())).toEqual([]);
        expect(fs.existsSync(place())).toBe(false);
        expect(await status()).toMatchObject({ state: "absent" });
    });

    test("needs a model that is in the store", async () => {
        fs.rmSync(path.join(home, "store", `${EMPTY}.json`));
        await expect(serve({ says: "one" })).rejects.toThrow(
            `its model (${EMPTY.slice(0, 12)}) is not in the store: \`npm run refresh\`, then \`npm run up\` bring it back`,
        );
    });
});

test.each([
    [
        "the new one beside the old",
        { state: "up", active: "one", starting: null, phase: null, reason: null, warning: null } as const,
        "; the one before goes on serving\n  while one model takes the place of another both are in memory: make room for two, " +
            "or end the service first (service.enabled: false, `npm run up`) and start it again",
    ],
    ["the only one", { state: "down", reason: null } as const, ""],
])("a model that memory does not do for is explained: %s", (_, state, more) => {
    const reason = "out of memory while the model was loaded: Cannot allocate memory (os error 12)";
    expect(explain({ boot: "b", failed: { attempt: 2, reason }, ...state }, 8000)).toBe(
        `the model did not come up: ${reason}${more}\n  the whole log: services/8000/log in RETUNE_HOME of its machine`,
    );
});
