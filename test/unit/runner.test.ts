import { execFileSync, spawn, spawnSync } from "node:child_process";
import {
    appendFileSync,
    chmodSync,
    existsSync,
    mkdirSync,
    readdirSync,
    readFileSync,
    readlinkSync,
    statSync,
    writeFileSync,
} from "node:fs";
import os from "node:os";
import path from "node:path";
import { describe, expect, test, vi } from "vitest";
import { digestOfFiles, sha256, type FileEntry } from "../../pipeline/identity";
import { listRuns } from "../../pipeline/store/runs";
import { Store } from "../../pipeline/store/store";
import { alive, read, until } from "./processes";
import {
    call,
    ended,
    folder,
    home,
    key,
    letGo,
    payload,
    processes,
    program,
    python,
    reached,
    runFolder,
    runner,
    runtime,
    starts,
    stateOf,
    type Status,
    status,
    submit,
    SUCCEED,
    WAIT,
} from "./runner-rig";

const pythonVersion = execFileSync(python, ["-c", "import platform; print(platform.python_version())"], {
    encoding: "utf8",
}).trim();

describe("a run", () => {
    test("ends with a result: digest, files, metrics and times, and its artifact in the store", async () => {
        const first = await submit(SUCCEED);
        expect(first).toMatchObject({ key, started: true, attempt: 1 });
        const last = await ended();
        const file: FileEntry = { path: "answer.txt", size: 2, sha256: sha256("42") };
        expect(last).toMatchObject({ state: "succeeded", attempt: 1, reason: null });
        expect(last.result).toMatchObject({
            ...{ key, kind: "Training", digest: digestOfFiles([file]), files: [file], metrics: { steps: 3 } },
        });
        expect(last.result?.host).toMatchObject({ machine: os.machine(), python: pythonVersion });
        expect(last.result?.seconds).toBeCloseTo((last.finishedAt ?? 0) - (last.startedAt ?? 0), 0);
        expect(await new Store(home).find(key)).toEqual(last.result);
        await until(() => !existsSync(path.join(runFolder(), "work")));
        expect(readFileSync(path.join(runFolder(), "out", "answer.txt"), "utf8")).toBe("42");
        expect(readlinkSync(path.join(runFolder(), "out"))).toBe(path.join("..", "..", "store", digestOfFiles([file])));
    });

    test("says which GPUs and which driver it was made on, where there are any", async () => {
        const bin = path.join(folder, "bin");
        mkdirSync(bin);
        const answers = "NVIDIA H100 80GB HBM3, 580.126.09\\nNVIDIA L4, 24 GB, 580.126.09\\n";
        const wants = "--query-gpu=name,driver_version --format=csv,noheader";
        const script = `#!/bin/sh\n[ "$*" = "${wants}" ] && printf '${answers}'\n`;
        writeFileSync(path.join(bin, "nvidia-smi"), script, { mode: 0o755 });
        vi.stubEnv("PATH", `${bin}${path.delimiter}${process.env["PATH"] ?? ""}`);
        await submit(SUCCEED);
        expect((await ended()).result?.host).toMatchObject({
            gpus: ["NVIDIA H100 80GB HBM3", "NVIDIA L4, 24 GB"],
            driver: "580.126.09",
        });
        writeFileSync(path.join(bin, "nvidia-smi"), "#!/bin/sh\necho No devices were found\nexit 6\n");
        const without = sha256("a run without a GPU");
        await submit(SUCCEED, { key: without });
        const { host } = (await ended(without)).result ?? {};
        expect([host?.machine, host?.gpus, host?.driver]).toEqual([os.machine(), undefined, undefined]);
    });

    test("is attached to while it goes on, and not started again after its success", async () => {
        await submit(WAIT);
        expect(await submit(WAIT)).toMatchObject({ started: false, attempt: 1 });
        await reached(["running"]);
        expect(await submit(WAIT)).toMatchObject({ started: false, state: "running" });
        letGo();
        expect(await ended()).toMatchObject({ state: "succeeded" });
        const answer = await submit(WAIT);
        expect(answer).toMatchObject({ started: false, state: "succeeded" });
        expect(answer.result?.files).toHaveLength(1);
        expect(starts()).toBe(1);
    });

    test("is started once by many that submit it at the same instant, and all follow it", async () => {
        const answers = await Promise.all(Array.from({ length: 6 }, () => submit(WAIT)));
        expect(answers.filter((answer) => answer.started)).toHaveLength(1);
        expect(new Set(answers.map((answer) => answer.attempt))).toEqual(new Set([1]));
        for (const { state } of answers) expect(["queued", "running"]).toContain(state);
        letGo();
        expect(await ended()).toMatchObject({ state: "succeeded", attempt: 1 });
        expect(starts()).toBe(1);
    });

    test("is repeated after its success only when asked to", async () => {
        await submit(SUCCEED);
        await ended();
        expect(await submit(SUCCEED, { again: true })).toMatchObject({ started: true, attempt: 2 });
        expect(await ended()).toMatchObject({ state: "succeeded", attempt: 2 });
        expect(starts()).toBe(2);
    });

    test("replaces a damaged artifact", async () => {
        await submit(SUCCEED);
        const { digest = "" } = (await ended()).result ?? {};
        const artifact = path.join(home, "store", digest);
        writeFileSync(path.join(artifact, "answer.txt"), "43");
        writeFileSync(path.join(artifact, "extra.txt"), "");
        await submit(SUCCEED, { again: true });
        expect((await ended()).result?.digest).toBe(digest);
        expect(readdirSync(artifact)).toEqual(["answer.txt"]);
        expect(readdirSync(path.join(home, "store")).sort()).toEqual([digest, `${digest}.json`]);
        expect(await new Store(home).damage(digest)).toBeUndefined();
    });

    test("finds its inputs by name, and its own variables", async () => {
        const source = sha256("source");
        await submit(SUCCEED, { key: source });
        const { digest = "" } = (await ended(source)).result ?? {};
        await submit(`succeed(Path("model/answer.txt").read_text() + os.environ["MARK"])`, {
            inputs: { model: digest },
        });
        expect(await ended()).toMatchObject({ state: "succeeded" });
        expect(readFileSync(path.join(runFolder(), "out", "answer.txt"), "utf8")).toBe("42stand-in");
    });

    test("is in the list, newest first", async () => {
        const other = sha256("other");
        await submit(SUCCEED);
        await ended();
        await submit("sys.exit(1)", { key: other });
        await ended(other);
        const { runs } = (await call(["list"])) as unknown as { runs: { key: string; state: string }[] };
        expect(runs.map((run) => [run.key, run.state])).toEqual([
            [other, "failed"],
            [key, "succeeded"],
        ]);
    });

    test("on a machine with a meter is told of with how long that was awake, and on any other without", () => {
        const file = path.join(folder, "seconds");
        const awake = (): unknown => {
            const program = [
                "import json, pathlib, runpy, sys",
                "runner = runpy.run_path(sys.argv[1])",
                'runner["awake_seconds"].__globals__["METER"] = pathlib.Path(sys.argv[4])',
                'print(json.dumps(runner["Run"](pathlib.Path(sys.argv[2]), sys.argv[3]).status()))',
            ].join("\n");
            const said = execFileSync(python, ["-c", program, runner, home, key, file], { encoding: "utf8" });
            return (JSON.parse(said) as Status).awakeSeconds;
        };
        expect(awake()).toBeUndefined();
        writeFileSync(file, "");
        expect(awake()).toBeUndefined();
        writeFileSync(file, "28800\n");
        expect(awake()).toBe(28_800);
    });

    test("that was never submitted is lost, and a key that is none is refused", async () => {
        expect(await status()).toMatchObject({ state: "lost", reason: "it was never started", cursor: 0, events: [] });
        await expect(call(["status", "../x"])).rejects.toThrow("not a key: ../x");
    });
});

describe("a run fails", () => {
    test.each([
        [
            "in the program's own words",
            `Path("outcome.json").write_text(json.dumps({"error": "loss became nan at step 3"})); sys.exit(1)`,
            "loss became nan at step 3",
        ],
        [
            "also when it says so and exits with 0",
            `succeed(); Path("outcome.json").write_text(json.dumps({"error": "it answered 3 of 4"}))`,
            "it answered 3 of 4",
        ],
        ["without a word", "sys.exit(3)", "the program exited with code 3"],
        ["by an exception", `raise ValueError("bad rows")`, "ValueError: bad rows"],
        [
            "by an exit code of 0 without the expected file",
            `Path("out/other.txt").write_text("x")`,
            "the program ended without an error, but did not write answer.txt",
        ],
        [
            "when it is killed, as the kernel does when memory runs out",
            "os.kill(os.getpid(), signal.SIGKILL)",
            "the process was killed (signal 9); where nobody did it, the machine ran out of memory",
        ],
        ["by another signal", "os.kill(os.getpid(), signal.SIGSEGV)", "the process was ended by SIGSEGV"],
    ])("%s", async (_, source, reason) => {
        await submit(`print("the last words", flush=True)\n${source}\n`);
        const last = await ended();
        expect(last).toMatchObject({ state: "failed", reason });
        expect(last.log).toMatch(/^the last words$/m);
        expect(last.result).toBeUndefined();
        expect(existsSync(path.join(runFolder(), "result.json"))).toBe(false);
        expect(existsSync(path.join(home, "store"))).toBe(false);
        expect(await submit(SUCCEED)).toMatchObject({ started: true, attempt: 2 });
        expect(await ended()).toMatchObject({ state: "succeeded", attempt: 2 });
    });

    test.each([
        [
            "when an input is not there",
            { inputs: { model: sha256("nothing") } },
            `its input model (${sha256("nothing").slice(0, 12)}) is not in the store: \`npm run refresh\`, then \`npm run up\` bring it back`,
        ],
        [
            "when there is no Python",
            { python: "/nowhere/python" },
            "there is no Python environment at /nowhere/python; npm run setup makes it",
        ],
        [
            "when its environment lacks what it imports",
            { preload: ["no_such_module"] },
            "the worker process ended: ModuleNotFoundError: No module named 'no_such_module'",
        ],
    ])("%s", async (_, options, reason) => {
        await submit(SUCCEED, { ...options, secrets: { HF_TOKEN: "canary" } });
        expect(await ended()).toMatchObject({ state: "failed", reason });
        expect(starts()).toBe(0);
        // Nobody is left to take it.
        await until(() => !secretsFiles().some((name) => name.endsWith(".secrets")));
    });
});

const secretsFiles = (): string[] => readdirSync(runtime).flatMap((name) => readdirSync(path.join(runtime, name)));

describe("a process that is killed:", () => {
    test("of a key that once ran on another machine, it is this machine's run that is lost", async () => {
        const folder = path.join(home, "runs", key);
        mkdirSync(folder, { recursive: true });
        const note = { state: "failed", target: { type: "ssh", host: "gpu1" }, heardAt: 1, progress: { step: 7 } };
        writeFileSync(path.join(folder, "state.json"), JSON.stringify(note));
        await submit("event(1); wait()");
        await program();
        process.kill(stateOf().pid, "SIGKILL");
        expect(await ended()).toMatchObject({ state: "lost", reason: "its process is gone without a result" });
        expect(listRuns(home)).toMatchObject([{ state: "lost", reason: "its process is gone without a result" }]);
    });

    test("the supervisor; the run is lost, its program ends too, and the next submit goes on in the same folder", async () => {
        const keeping = `
if Path("checkpoint").exists(): succeed(Path("checkpoint").read_text())
else: Path("checkpoint").write_text("step 7"); event(7); wait()
`;
        await submit(keeping);
        const child = await program();
        await until(() => existsSync(path.join(runFolder(), "events.jsonl")));
        process.kill(stateOf().pid, "SIGKILL");
        const lost = await ended();
        expect(lost).toMatchObject({ state: "lost", reason: "its process is gone without a result", attempt: 1 });
        await until(() => !alive(child));
        expect(await submit(keeping)).toMatchObject({ started: true, attempt: 2 });
        expect(await ended()).toMatchObject({ state: "succeeded", attempt: 2, events: [{ step: 7 }] });
        expect(readFileSync(path.join(runFolder(), "out", "answer.txt"), "utf8")).toBe("step 7");
        expect(starts()).toBe(2);
    });

    test("the worker; the run fails, its program ends too, and the next submit starts another worker", async () => {
        await submit(WAIT);
        const child = await program();
        const [worker = 0] = processes("\0worker\0").filter((pid) => pid !== child);
        process.kill(worker, "SIGKILL");
        expect(await ended()).toMatchObject({
            state: "failed",
            reason: "the worker process was killed; where nobody did it, the machine ran out of memory",
        });
        await until(() => !alive(child));
        await submit(SUCCEED);
        expect(await ended()).toMatchObject({ state: "succeeded", attempt: 2 });
    });

    test("the client; the run goes on in a session of its own", async () => {
        const answer = await submit(WAIT);
        expect(answer.state).toMatch(/queued|running/);
        const stat = read(`/proc/${stateOf().pid}/stat`);
        const [, parent, , session] = stat
            .slice(stat.lastIndexOf(")") + 2)
            .split(" ")
            .map(Number);
        expect(session).not.toBe(process.pid);
        expect(parent).not.toBe(process.pid);
        letGo();
        expect(await ended()).toMatchObject({ state: "succeeded" });
    });
});

describe("a run that is asked to stop", () => {
    const stop = (of = key): Promise<Status> => call(["stop", of]);

    test("ends by itself when its program can, after saving what it has", async () => {
        await submit(`event(1)\nwait("stop")\nPath("checkpoint").write_text("1")\nsys.exit(75)\n`, { stoppable: true });
        await program();
        await stop();
        expect(await ended()).toMatchObject({ state: "stopped", reason: "stopped on request; a checkpoint was saved" });
        expect(existsSync(path.join(runFolder(), "work", "checkpoint"))).toBe(true);
        expect(await submit(`succeed(Path("checkpoint").read_text())`)).toMatchObject({ started: true, attempt: 2 });
        expect(await ended()).toMatchObject({ state: "succeeded" });
    });

    test("is ended when its program cannot", async () => {
        await submit(WAIT);
        const child = await program();
        await stop();
        expect(await ended()).toMatchObject({ state: "stopped", reason: "stopped on request" });
        await until(() => !alive(child));
    });

    test("succeeds when it was about to end anyway", async () => {
        await submit(`wait("stop")\nsucceed()\n`, { stoppable: true });
        await program();
        await stop();
        expect(await ended()).toMatchObject({ state: "succeeded" });
        expect(await stop()).toMatchObject({ state: "succeeded" });
    });

    test("leaves the queue when it was waiting, and no secret behind", async () => {
        const other = sha256("other");
        await submit(WAIT);
        await program();
        expect((await submit(SUCCEED, { key: other, secrets: { HF_TOKEN: "canary" } })).state).toBe("queued");
        await stop(other);
        expect(await ended(other)).toMatchObject({ state: "stopped", reason: "stopped while it was queued" });
        expect(starts(other)).toBe(0);
        await until(() => !secretsFiles().some((name) => name.endsWith(".secrets")));
        letGo();
        expect(await ended()).toMatchObject({ state: "succeeded" });
    });

    test("is not called into being by that", async () => {
        expect(await stop()).toMatchObject({ state: "lost", reason: "it was never started" });
        expect(existsSync(runFolder())).toBe(false);
    });
});

test("one run at a time: the second waits in the queue until the first has ended", async () => {
    const other = sha256("other");
    await submit(WAIT);
    await program();
    expect((await submit(SUCCEED, { key: other })).state).toBe("queued");
    expect(await status(0, other)).toMatchObject({ state: "queued", startedAt: null });
    expect(starts(other)).toBe(0);
    letGo();
    const first = await ended();
    const second = await ended(other);
    expect([first.state, second.state]).toEqual(["succeeded", "succeeded"]);
    expect(second.startedAt).toBeGreaterThanOrEqual(first.finishedAt ?? Number.NaN);
});

test("one worker serves several runs: what it imports is imported once", async () => {
    const library = path.join(folder, "library");
    mkdirSync(library);
    writeFileSync(
        path.join(library, "heavy.py"),
        `open(${JSON.stringify(path.join(folder, "imports"))}, "a").write("x")\n`,
    );
    const heavy = path.join(folder, "python");
    writeFileSync(heavy, `#!/bin/sh\nPYTHONPATH=${library} exec ${python} "$@"\n`);
    chmodSync(heavy, 0o755);
    const keys = ["one", "two", "three"].map((name) => sha256(name));
    for (const one of keys) {
        await submit(`import heavy\nsucceed()\n`, { key: one, python: heavy, preload: ["heavy"] });
        expect(await ended(one)).toMatchObject({ state: "succeeded" });
    }
    expect(read(path.join(folder, "imports"))).toBe("x");
    expect(processes("\0worker\0")).toHaveLength(1);
});

test("a worker without work ends, but not while a supervisor is at its door", async () => {
    const impatient = path.join(folder, "runner.py");
    writeFileSync(impatient, read(runner).replace("WORKER_IDLE = 60", "WORKER_IDLE = 0"));
    const address = path.join(runtime, "worker.sock");
    // Who connects holds this lock, from looking for a worker until it has one.
    const door = spawn("flock", [path.join(runtime, "worker.lock"), "cat"], { stdio: ["pipe", "ignore", "ignore"] });
    await until(() => existsSync(path.join(runtime, "worker.lock")));
    const worker = spawn(python, [impatient, "worker", address], { stdio: "ignore" });
    const gone = new Promise((resolve) => worker.once("close", resolve));
    await until(() => existsSync(address));
    // It looks once a second whether it may end.
    const ended = await Promise.race([gone, new Promise((resolve) => setTimeout(resolve, 2500, "still there"))]);
    expect([ended, existsSync(address)]).toEqual(["still there", true]);
    door.stdin.end();
    expect(await gone).toBe(0);
    expect(existsSync(address)).toBe(false);
});

test("a secret reaches the program, and no file, argument, environment or log that outlives the moment", async () => {
    const canary = `canary-${process.pid}-${Date.now()}`;
    const token = sha256(canary);
    const source = `
import hashlib
Path("../token").write_text(hashlib.sha256(os.environ["HF_TOKEN"].encode()).hexdigest())
wait()
succeed()
`;
    const other = sha256("other");
    const everything = (): string[] =>
        readdirSync(folder, { recursive: true, withFileTypes: true })
            .filter((entry) => entry.isFile())
            .map((entry) => path.join(entry.parentPath, entry.name))
            .filter((file) => read(file).includes(canary));
    const lists = (): number[] =>
        processes().filter((pid) =>
            ["cmdline", "environ"].some((list) => read(`/proc/${pid}/${list}`).includes(canary)),
        );

    await submit(source, { secrets: { HF_TOKEN: canary } });
    await until(() => read(path.join(runFolder(), "token")) === token);
    expect(processes().length).toBeGreaterThanOrEqual(3);
    expect(everything()).toEqual([]);
    expect(lists()).toEqual([]);

    // While a run waits its secret does too, on this boot's memory file system, for nobody else to read.
    await submit(source, { key: other, secrets: { HF_TOKEN: canary } });
    const [waiting = ""] = everything();
    expect(everything()).toEqual([path.join(runtime, `retune-${process.getuid?.() ?? 0}`, `${other}.secrets`)]);
    expect(statSync(waiting).mode & 0o777).toBe(0o600);
    expect(statSync(path.dirname(waiting)).mode & 0o777).toBe(0o700);
    expect(lists()).toEqual([]);

    letGo();
    await reached(["succeeded"]);
    letGo(other);
    await reached(["succeeded"], other);
    expect(read(path.join(runFolder(other), "token"))).toBe(token);
    expect(everything()).toEqual([]);
    expect(lists()).toEqual([]);
});

describe("events", () => {
    const file = (): string => path.join(runFolder(), "events.jsonl");

    test("come once each, byte for byte, and never by half", async () => {
        await submit(WAIT);
        await program();
        const one = '{"type":"note","text":"感冒 😀"}\n';
        const two = '{"type":"progress","step":2}\n';
        writeFileSync(file(), one + two.slice(0, 9));
        const first = await status();
        expect(first.events).toEqual([{ type: "note", text: "感冒 😀" }]);
        expect(first.cursor).toBe(Buffer.byteLength(one));
        expect(await status(first.cursor)).toMatchObject({ events: [], cursor: first.cursor });
        writeFileSync(file(), one + two + one);
        const second = await status(first.cursor);
        expect(second.events).toEqual([
            { type: "progress", step: 2 },
            { type: "note", text: "感冒 😀" },
        ]);
        expect(second.cursor).toBe(Buffer.byteLength(one + two + one));
        expect(await status(second.cursor)).toMatchObject({ events: [], cursor: second.cursor });
    });

    test("end the wait for news as they come", async () => {
        await submit(WAIT);
        await program();
        const waiting = call(["status", key, "--cursor", "0", "--wait", "60"]);
        await until(() => processes("--wait").length === 1);
        writeFileSync(file(), '{"type":"progress","step":1}\n');
        expect(await waiting).toMatchObject({ state: "running", events: [{ step: 1 }] });
    });

    test("are all there once the state is a final one", async () => {
        await submit(`for step in range(200): event(step)\nsucceed()\n`);
        const last = await ended();
        expect(last.events).toHaveLength(200);
        expect(last.cursor).toBe(statSync(file()).size);
    });

    test("of an earlier attempt stay before those of the one that goes on, but for a line that was torn", async () => {
        await submit("event(1)\nsys.exit(1)\n");
        expect((await ended()).events).toHaveLength(1);
        appendFileSync(file(), '{"type":"progress","st');
        await submit("event(2)\nsucceed()\n");
        expect((await ended()).events).toMatchObject([{ step: 1 }, { step: 2 }]);
    });

    test("of an earlier attempt are gone when the run is repeated from the beginning", async () => {
        await submit("event(1)\nsucceed()\n");
        expect((await ended()).events).toHaveLength(1);
        await submit(SUCCEED, { again: true });
        expect((await ended()).events).toEqual([]);
    });
});

const namespaces = spawnSync("unshare", ["-Urm", "true"]).status === 0;
if (!namespaces) {
    console.warn("SKIPPED: a full disk. It needs a file system of its own, but `unshare -Urm` is not allowed here.");
}

test.skipIf(!namespaces)("a disk that runs full fails the run, and says so", () => {
    mkdirSync(home);
    const source = `
with Path("out/answer.txt").open("wb") as file:
    while True: file.write(b"x" * 65536); file.flush()
`;
    writeFileSync(path.join(folder, "submission"), payload(source));
    const driver = `
import json, subprocess, sys
def call(*verb, **more):
    return json.loads(subprocess.run([sys.executable, *sys.argv[1:2], *verb, "--home", sys.argv[2]], stdout=-1, **more).stdout)
call("submit", stdin=open(sys.argv[3]))
while (now := call("status", sys.argv[4], "--wait", "5"))["state"] in ("queued", "running"): pass
print(json.dumps(now))
`;
    const script = 'mount -t tmpfs -o size=2m tmpfs "$1" && shift && exec "$@"';
    const answer = spawnSync(
        "unshare",
        [
            "-Urm",
            "sh",
            "-c",
            script,
            "sh",
            home,
            python,
            "-c",
            driver,
            runner,
            home,
            path.join(folder, "submission"),
            key,
        ],
        { encoding: "utf8", env: { PATH: process.env["PATH"], XDG_RUNTIME_DIR: runtime } },
    );
    expect(answer.stderr).toBe("");
    expect(JSON.parse(answer.stdout)).toMatchObject({
        state: "failed",
        reason: "no space left on the disk: make room, or move RETUNE_HOME to a larger one",
    });
});
