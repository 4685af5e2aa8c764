import { spawnSync } from "node:child_process";
import {
    appendFileSync,
    chmodSync,
    chownSync,
    existsSync,
    mkdirSync,
    readdirSync,
    readFileSync,
    readlinkSync,
    rmSync,
    statSync,
    symlinkSync,
    truncateSync,
    unlinkSync,
    utimesSync,
    writeFileSync,
} from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import type { GarbageItem } from "../../pipeline/executor/executor";
import { sha256 } from "../../pipeline/identity";
import { alive, read, until } from "./processes";
import {
    call,
    ended,
    folder,
    home,
    key,
    letGo,
    payload,
    program,
    python,
    reached,
    runFolder,
    runner,
    runtime,
    starts,
    stateOf,
    status,
    submit,
    SUCCEED,
    WAIT,
} from "./runner-rig";

const NO_SPACE = "no space left on the disk: make room, or move RETUNE_HOME to a larger one";
const DAY = 86_400;

const unlucky = (environment: Record<string, string>, verb: readonly string[], input = "") =>
    spawnSync(python, [path.join(import.meta.dirname, "unlucky.py"), runner, ...verb, "--home", home], {
        encoding: "utf8",
        input,
        env: { PATH: process.env["PATH"], XDG_RUNTIME_DIR: runtime, ...environment },
    });
const edit = (file: string, change: (content: Record<string, unknown>) => object): void => {
    const place = path.join(runFolder(), file);
    writeFileSync(place, JSON.stringify(change(JSON.parse(readFileSync(place, "utf8")) as Record<string, unknown>)));
};
const collect = async (graceSeconds: number, dryRun = false): Promise<GarbageItem[]> => {
    const answer = await call(["gc"], JSON.stringify({ roots: {}, graceSeconds, dryRun }));
    return [...(answer as unknown as { items: GarbageItem[] }).items];
};

describe("a disk that runs full", () => {
    test.each([
        ["for a moment", {}],
        ["until the run gives back its reserve", { FULL_UNTIL: "reserve" }],
    ])(
        "%s, at any write of the runner, is said plainly, and the next attempt succeeds",
        async (_, until) => {
            const source = sha256("source");
            await submit(SUCCEED, { key: source });
            const { digest = "" } = (await ended(source)).result ?? {};
            const log = path.join(folder, "hit");
            const hits: string[] = [];
            for (let at = 1; ; at++) {
                rmSync(log, { force: true });
                const run = sha256(`full at ${at}`);
                const job = payload(`succeed("${at}")`, { key: run, inputs: { model: digest } });
                const environment = { ...until, FULL_AT: String(at), FULL_LOG: log };
                const answer = unlucky(environment, ["submit"], job);
                const refused = answer.status !== 0;
                if (refused) expect(answer.stderr).toBe(`${NO_SPACE}\n`);
                else {
                    const last = await ended(run);
                    if (last.state !== "succeeded") {
                        expect([at, read(log), last.state, last.reason]).toEqual([at, read(log), "failed", NO_SPACE]);
                        expect(last.log).toBeUndefined();
                    }
                }
                if (!existsSync(log)) break;
                hits.push(
                    read(log)
                        .replace(/[0-9a-f]{64}/g, "KEY")
                        .replace(/\d+$/, "PID"),
                );
                // Nothing torn is where somebody reads it, nothing temporary is left, and no room is kept.
                const left = existsSync(runFolder(run)) ? readdirSync(runFolder(run)) : [];
                for (const file of left.filter((name) => name.endsWith(".json")))
                    expect(JSON.parse(read(path.join(runFolder(run), file)))).toBeTypeOf("object");
                expect(left.filter((name) => name.startsWith(".") || name === "reserve")).toEqual([]);
                expect((await call(["submit"], job)).state).not.toBe("failed");
                const last = await ended(run);
                expect([at, last.state]).toEqual([at, "succeeded"]);
                expect(read(path.join(runFolder(run), "out", "answer.txt"))).toBe(String(at));
                expect(starts(run)).toBeLessThanOrEqual(2);
            }
            console.info(`a full disk at ${hits.length} writes of the runner: ${[...new Set(hits)].join(", ")}`);
            expect(hits.length).toBeGreaterThan(25);
        },
        120_000,
    );
});

const namespaces = spawnSync("unshare", ["-Urm", "true"]).status === 0;
if (!namespaces) console.warn("SKIPPED: a read-only disk. It needs `unshare -Urm`, which is not allowed here.");

/** Runs a verb of the runner where a folder is read-only. */
function readOnly(place: string, verb: readonly string[], input = "") {
    const script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"';
    const words = ["-Urm", "sh", "-c", script, place, python, runner, ...verb, "--home", home];
    const env = { PATH: process.env["PATH"], XDG_RUNTIME_DIR: runtime };
    return spawnSync("unshare", words, { encoding: "utf8", input, env });
}

describe.skipIf(!namespaces)("a store on a read-only disk", () => {
    const MUST = "Read-only file system; RETUNE_HOME must be a folder that you can write to\n";

    test("starts nothing, and says which folder it is", () => {
        mkdirSync(home);
        expect(readOnly(home, ["submit"], payload(SUCCEED))).toMatchObject({
            ...{ status: 1, stdout: "", stderr: `${path.join(home, "runs")}: ${MUST}` },
        });
        expect(readdirSync(home)).toEqual([]);
    });

    test("can be looked at, but nothing can be stopped or removed there", async () => {
        await submit(WAIT);
        await program();
        const seen = readOnly(home, ["status", key]);
        expect(JSON.parse(seen.stdout)).toMatchObject({ state: "running" });
        expect(readOnly(home, ["stop", key]).stderr).toBe(`${path.join(runFolder(), "stop")}: ${MUST}`);
        letGo();
        expect((await ended()).state).toBe("succeeded");
        const request = JSON.stringify({ roots: {}, graceSeconds: 0, dryRun: false });
        expect(readOnly(home, ["gc"], request).stderr).toMatch(/: Read-only file system; RETUNE_HOME must be /);
        expect(readdirSync(path.join(home, "store"))).toHaveLength(2);
        expect((await status()).state).toBe("succeeded");
    });
});

test("a home of somebody else's starts nothing, and says which folder it is", () => {
    mkdirSync(home);
    chmodSync(home, 0o555);
    chmodSync(folder, 0o755);
    // Nothing keeps root out: then the runner lays that down, once it has loaded.
    const root = process.getuid?.() === 0;
    if (root) chownSync(runtime, 65_534, 65_534);
    const drop =
        "import os, sys, runpy; main = runpy.run_path(sys.argv[1])['main']; os.setgid(65534); os.setuid(65534); ";
    const start = root ? ["-c", `${drop}sys.argv = sys.argv[1:]; main()`, runner] : [runner];
    const answer = spawnSync(python, [...start, "submit", "--home", home], {
        encoding: "utf8",
        input: payload(SUCCEED),
        env: { PATH: process.env["PATH"], XDG_RUNTIME_DIR: runtime },
    });
    const why = "Permission denied; RETUNE_HOME must be a folder that you can write to\n";
    expect(answer).toMatchObject({ status: 1, stdout: "", stderr: `${path.join(home, "runs")}: ${why}` });
});

describe("a clock that is put", () => {
    test.each([
        ["back", -DAY],
        ["forward", DAY],
    ])("%s while a run goes on: it ends after it began, and took as long as it took", async (_, seconds) => {
        const clock = path.join(folder, "clock");
        writeFileSync(clock, "0");
        const begin = performance.now();
        expect(unlucky({ CLOCK: clock }, ["submit"], payload(WAIT)).status).toBe(0);
        await program();
        writeFileSync(clock, String(seconds));
        letGo();
        const { queuedAt = 0, startedAt, finishedAt, result } = await ended();
        const took = (performance.now() - begin) / 1000;
        expect(startedAt).toBeGreaterThanOrEqual(queuedAt);
        expect(finishedAt).toBeGreaterThanOrEqual(startedAt ?? Number.NaN);
        expect((finishedAt ?? 0) - queuedAt).toBeLessThan(took);
        expect(result?.seconds).toBeGreaterThanOrEqual(0);
        expect(result?.seconds).toBeLessThan(took);
    });

    const age = (of: readonly string[], days: number): void => {
        const then = Date.now() / 1000 + days * DAY;
        for (const file of of) utimesSync(file, then, then);
    };
    const filesOf = (digest: string) => [
        path.join(runFolder(), "result.json"),
        path.join(runFolder(), "state.json"),
        path.join(home, "store", `${digest}.json`),
    ];

    test("forward does not make garbage of what was used before", async () => {
        await submit(SUCCEED);
        const { digest = "" } = (await ended()).result ?? {};
        // As if the clock had been put forward by 30 days since.
        edit("state.json", (state) => ({ ...state, bootedAt: Number(state["bootedAt"]) - 30 * DAY }));
        age(filesOf(digest), -30);
        const kept = await collect(14 * DAY);
        expect(kept).toMatchObject([
            { what: "run", kept: true, why: "used 0.0 days ago, within the grace period" },
            { what: "artifact", kept: true, why: "of a run that is kept" },
        ]);
        // What is that old by a clock that nobody has put goes.
        edit("state.json", (state) => ({ ...state, bootedAt: Number(state["bootedAt"]) + 30 * DAY }));
        age(filesOf(digest), -30);
        expect((await collect(14 * DAY)).map((item) => item.kept)).toEqual([false, false]);
    });

    test("back makes times of the future, which are no reason to remove anything, or to show a negative age", async () => {
        await submit(SUCCEED);
        const { digest = "" } = (await ended()).result ?? {};
        age(filesOf(digest), 30);
        expect(await collect(14 * DAY)).toMatchObject([
            { kept: true, why: "used 0.0 days ago, within the grace period" },
            { kept: true, why: "of a run that is kept" },
        ]);
        expect(await collect(0)).toMatchObject([{ why: "no stack uses it, last used 0.0 days ago" }, {}]);
    });
});

describe("a run's folder that somebody has edited", () => {
    const again = async (answer = "42"): Promise<void> => {
        expect(await submit(SUCCEED)).toMatchObject({ started: true });
        expect(await ended()).toMatchObject({ state: "succeeded", reason: null });
        expect(read(path.join(runFolder(), "out", "answer.txt"))).toBe(answer);
    };
    const succeeded = async (): Promise<string> => {
        await submit(SUCCEED);
        await ended();
        await until(() => !existsSync(path.join(runFolder(), "work")));
        return runFolder();
    };
    const write = (file: string, text: string | Buffer) => () => {
        writeFileSync(path.join(runFolder(), file), text);
    };

    test.each([
        ["is not JSON", write("state.json", "{"), "its state.json cannot be read"],
        ["is not text", write("state.json", Buffer.from([0xff, 0, 0xfe])), "its state.json cannot be read"],
        ["is empty", write("state.json", ""), "its state.json cannot be read"],
        ["is another thing", write("state.json", "[1]"), "its state.json cannot be read"],
        ["says nothing", write("state.json", '{"attempt":"x","queuedAt":"y"}'), "its state.json cannot be read"],
        [
            "is of a newer Retune",
            write("state.json", '{"state":"paused","attempt":1}'),
            "its state.json says 'paused', which this Retune does not know: a newer one may have written it",
        ],
        [
            "does not say whose it is",
            write("state.json", '{"state":"running"}'),
            "its state.json does not name its process",
        ],
        [
            "says success",
            () => {
                edit("state.json", (state) => ({ ...state, state: "succeeded" }));
            },
            "its result.json is gone or was altered",
        ],
    ])(
        "after a failure: a state.json that %s makes it lost, for that reason; the next attempt is a good one",
        async (_, change, reason) => {
            await submit("sys.exit(1)");
            await ended();
            change();
            expect(await status()).toMatchObject({ state: "lost", reason });
            expect(await call(["stop", key])).toMatchObject({ state: "lost", reason });
            expect(await call(["list"])).toMatchObject({ runs: [{ key, state: "lost", reason }] });
            expect(await collect(14 * DAY)).toMatchObject([{ kept: true }]);
            await again();
        },
    );

    test.each([
        ["is not JSON", write("result.json", '{"key":')],
        [
            "is of another run",
            () => {
                edit("result.json", (result) => ({ ...result, key: sha256("other") }));
            },
        ],
        [
            "names another digest",
            () => {
                edit("result.json", (result) => ({ ...result, digest: sha256("other") }));
            },
        ],
        [
            "lists no files",
            () => {
                edit("result.json", ({ files: _files, ...result }) => result);
            },
        ],
        [
            "is gone",
            () => {
                unlinkSync(path.join(runFolder(), "result.json"));
            },
        ],
    ])(
        "a result.json that %s is no result: the run is made again, and its artifact is not garbage",
        async (_, change) => {
            await succeeded();
            change();
            const reason = "its result.json is gone or was altered";
            expect(await status()).toMatchObject({ state: "lost", reason });
            expect((await status()).result).toBeUndefined();
            const items = await call(
                ["gc"],
                JSON.stringify({ roots: { [key]: "pinned" }, graceSeconds: 0, dryRun: false }),
            );
            expect(items).toMatchObject({ freed: 0, items: [{ why: "pinned" }, { why: "of a run that is kept" }] });
            await again();
            expect(starts()).toBe(2);
        },
    );

    test.each([
        [
            "job.json is gone",
            () => {
                unlinkSync(path.join(runFolder(), "job.json"));
            },
        ],
        ["job.json is nonsense", write("job.json", "nonsense")],
        [
            "state.json is gone",
            () => {
                unlinkSync(path.join(runFolder(), "state.json"));
            },
        ],
        ["state.json is nonsense", write("state.json", "nonsense")],
        ["state.json says that it failed", write("state.json", '{"state":"failed","reason":"no"}')],
    ])("a result counts although %s", async (_, change) => {
        await succeeded();
        change();
        expect(await submit(SUCCEED)).toMatchObject({ state: "succeeded", reason: null, started: false });
        expect(await call(["list"])).toMatchObject({ runs: [{ key, state: "succeeded" }] });
        expect((await collect(14 * DAY)).map((item) => item.kept)).toEqual([true, true]);
        expect(starts()).toBe(1);
    });

    test("a run that goes on is attached to, not started beside itself, without its state.json and with a wrong one", async () => {
        await submit(WAIT);
        await program();
        write("state.json", '{"state":"pausing","attempt":1}')();
        expect(await submit(WAIT)).toMatchObject({ state: "running", started: false });
        expect((await collect(0)).map((item) => item.why)).toEqual(["it is going on"]);
        unlinkSync(path.join(runFolder(), "state.json"));
        expect(await status()).toMatchObject({ state: "running" });
        letGo();
        await until(() => read(path.join(runFolder(), "state.json")).includes("succeeded"));
        expect((await status()).result?.files).toHaveLength(1);
        expect(starts()).toBe(1);
    });

    test("another folder in place of the link to its result is put aside, not removed", async () => {
        await submit("sys.exit(1)");
        await ended();
        mkdirSync(path.join(runFolder(), "out"));
        write("out/mine.txt", "mine")();
        await again();
        const aside = readdirSync(runFolder()).find((name) => name.startsWith("out.")) ?? "";
        expect(read(path.join(runFolder(), aside, "mine.txt"))).toBe("mine");
    });

    test("a link to something else in its place is replaced", async () => {
        await submit("sys.exit(1)");
        await ended();
        symlinkSync("/nowhere", path.join(runFolder(), "out"));
        await again();
        expect(readlinkSync(path.join(runFolder(), "out"))).toMatch(/^\.\.\/\.\.\/store\/[0-9a-f]{64}$/);
    });
});

describe("events", () => {
    const file = (): string => path.join(runFolder(), "events.jsonl");
    const line = (step: number): string => `{"type":"progress","step":${step}}\n`;

    test("pass over what is none: garbage, half a line that was gone on with, another kind of value", async () => {
        await submit(WAIT);
        await program();
        const garbage = Buffer.from([0xff, 0x00, 0x0a, 0xc3, 0x28, 0x0a]);
        writeFileSync(
            file(),
            Buffer.concat([Buffer.from(line(1)), garbage, Buffer.from('{"type":"pro{"type":1}\n17\n')]),
        );
        appendFileSync(file(), line(2));
        const now = await status();
        expect(now.events).toEqual([
            { type: "progress", step: 1 },
            { type: "progress", step: 2 },
        ]);
        expect(now.cursor).toBe(statSync(file()).size);
    });

    test("are read from the beginning when the file was cut short behind the reader's back", async () => {
        await submit(WAIT);
        await program();
        writeFileSync(file(), line(1) + line(2));
        const { cursor } = await status();
        truncateSync(file(), line(1).length);
        expect((await status(cursor)).events).toHaveLength(1);
        const next = await status(cursor);
        appendFileSync(file(), line(3));
        expect((await status(next.cursor)).events).toEqual([{ type: "progress", step: 3 }]);
    });
});

describe("a run that did not end by itself says why:", () => {
    test("the machine was restarted; the next attempt goes on in the same folder", async () => {
        const keeping = `
if Path("checkpoint").exists(): succeed(Path("checkpoint").read_text())
else: Path("checkpoint").write_text("step 7"); wait()
`;
        await submit(keeping);
        const child = await program();
        process.kill(stateOf().pid, "SIGKILL");
        await until(() => !alive(child));
        edit("state.json", (state) => ({ ...state, boot: "00000000-0000-0000-0000-000000000000" }));
        expect(await status()).toMatchObject({ state: "lost", reason: "the machine was restarted" });
        expect(await submit(keeping)).toMatchObject({ started: true, attempt: 2 });
        expect((await ended()).state).toBe("succeeded");
        expect(read(path.join(runFolder(), "out", "answer.txt"))).toBe("step 7");
    });

    test("the kernel, when memory ran out", () => {
        const script = `import runpy, sys; print(runpy.run_path(sys.argv[1])["explain_exit"](None, -9, True), end="")`;
        const { stdout } = spawnSync(python, ["-c", script, runner], { encoding: "utf8" });
        expect(stdout).toBe("the machine ran out of memory, and the kernel killed the process (signal 9)");
    });
});

test("the time of an attempt that was killed counts as far as it is known: until its last event", async () => {
    const program = (then: string) => `
with Path("../events.jsonl").open("a") as file: file.write(json.dumps({"type": "note", "time": time.time() + 100}) + "\\n")
${then}
`;
    await submit(program("wait()"));
    await until(() => read(path.join(runFolder(), "events.jsonl")).endsWith("\n"));
    process.kill(stateOf().pid, "SIGKILL");
    await reached(["lost", "running"]);
    await submit(program("succeed()"));
    const { result } = await ended();
    expect(result?.seconds).toBeGreaterThanOrEqual(100);
    expect(result?.seconds).toBeLessThan(115);
});

describe("stop", () => {
    const stop = () => call(["stop", key]);

    test("asked for twice is one stop, and later it changes nothing", async () => {
        await submit(`wait("stop")\nwait("stopped twice")\nsys.exit(75)\n`, { stoppable: true });
        await program();
        expect((await Promise.all([stop(), stop()])).map((one) => one.state)).toEqual(["running", "running"]);
        expect((await stop()).state).toBe("running");
        writeFileSync(path.join(runFolder(), "stopped twice"), "");
        const stopped = { state: "stopped", reason: "stopped on request; a checkpoint was saved" };
        expect(await ended()).toMatchObject(stopped);
        expect(await stop()).toMatchObject(stopped);
        await submit(SUCCEED);
        expect(await ended()).toMatchObject({ state: "succeeded" });
    });

    test("that comes as the run ends leaves it as it ended, and does not reach the next attempt", async () => {
        await submit("sys.exit(1)");
        const failing = ended();
        while ((await stop()).state === "queued" || (await stop()).state === "running");
        const { state } = await failing;
        expect(["failed", "stopped"]).toContain(state);
        writeFileSync(path.join(runFolder(), "stop"), ""); // it came too late
        await submit(SUCCEED);
        expect(await ended()).toMatchObject({ state: "succeeded" });
    });
});

describe("an input that is not as it was made", () => {
    const source = sha256("source");
    const made = async (): Promise<string> => {
        await submit(SUCCEED, { key: source });
        const { digest = "" } = (await ended(source)).result ?? {};
        return digest;
    };
    const use = (digest: string) =>
        submit(`succeed(Path("model/answer.txt").read_text() * 2)`, { inputs: { model: digest }, again: true });
    const fileOf = (digest: string) => path.join(home, "store", digest, "answer.txt");
    const backdate = (file: string): void => {
        utimesSync(file, 1, 1);
    };
    const refused = (digest: string, damage: string) => ({
        state: "failed",
        reason: `its input model (${digest.slice(0, 12)}) ${damage}: \`npm run refresh\`, then \`npm run up\` bring it back`,
    });

    test.each([
        [
            "another content of the same size",
            (file: string) => {
                writeFileSync(file, "24");
            },
            "is damaged, answer.txt was altered",
        ],
        [
            "a file that is gone",
            (file: string) => {
                unlinkSync(file);
            },
            "is damaged, answer.txt is gone",
        ],
        [
            "no manifest",
            (file: string) => {
                unlinkSync(`${path.dirname(file)}.json`);
            },
            "is not in the store",
        ],
        [
            "a manifest that was altered to fit",
            (file: string) => {
                writeFileSync(file, "24");
                const files = [{ path: "answer.txt", size: 2, sha256: sha256("24") }];
                writeFileSync(
                    `${path.dirname(file)}.json`,
                    JSON.stringify({ digest: path.basename(path.dirname(file)), files }),
                );
            },
            "is not in the store",
        ],
    ])("%s: the run does not begin, and says what to do", async (_, alter, damage) => {
        const digest = await made();
        alter(fileOf(digest));
        await use(digest);
        expect(await ended()).toMatchObject(refused(digest, damage));
        expect(starts()).toBe(0);
        await submit(SUCCEED, { key: source, again: true });
        await ended(source);
        await use(digest);
        expect(await ended()).toMatchObject({ state: "succeeded" });
        expect(read(path.join(runFolder(), "out", "answer.txt"))).toBe("4242");
    });

    test("is found although it was known to be good and its time was put back", async () => {
        const digest = await made();
        const file = fileOf(digest);
        const memory = path.join(home, "verified", `${digest}.json`);
        // Only what has been left alone for two seconds is remembered.
        await until(() => Date.now() - statSync(file).ctimeMs > 2100);
        await use(digest);
        expect((await ended()).state).toBe("succeeded");
        const [mark] = Object.values(JSON.parse(read(memory)) as object) as [number[]];
        expect(mark[2]).toBe(2);

        const before = statSync(file, { bigint: true });
        writeFileSync(file, "24");
        utimesSync(file, Number(before.atimeMs) / 1000, Number(before.mtimeMs) / 1000);
        backdate(file);
        await use(digest);
        expect(await ended()).toMatchObject(refused(digest, "is damaged, answer.txt was altered"));
    });

    test("what has not been touched since it was hashed is not read again", async () => {
        const digest = await made();
        await until(() => Date.now() - statSync(fileOf(digest)).ctimeMs > 2100);
        await use(digest);
        await ended();
        // Whoever reads it would find another content there: a memory that fits is believed.
        const memory = path.join(home, "verified", `${digest}.json`);
        const marks = read(memory);
        writeFileSync(fileOf(digest), "24");
        const { dev, ino, size, mtimeNs, ctimeNs } = statSync(fileOf(digest), { bigint: true });
        writeFileSync(memory, `{"answer.txt":[${[dev, ino, size, mtimeNs, ctimeNs].join(",")}]}`);
        expect(read(memory)).not.toBe(marks);
        await use(digest);
        expect(await ended()).toMatchObject({ state: "succeeded" });
        expect(read(path.join(runFolder(), "out", "answer.txt"))).toBe("2424");
    });

    test("its memory goes with it", async () => {
        const digest = await made();
        await until(() => Date.now() - statSync(fileOf(digest)).ctimeMs > 2100);
        await use(digest);
        await ended();
        expect(readdirSync(path.join(home, "verified"))).toEqual([`${digest}.json`]);
        await collect(0);
        expect(readdirSync(path.join(home, "verified"))).toEqual([]);
    });
});

describe("what a killed process has left", () => {
    const NO_PROCESS = 4_194_304; // beyond the largest number that Linux gives out
    const lost = sha256("an artifact without its manifest");
    const left = async (): Promise<Record<string, string>> => {
        await submit(SUCCEED);
        const { digest = "" } = (await ended()).result ?? {};
        await until(() => !existsSync(path.join(runFolder(), "work")));
        return Object.fromEntries(
            [
                ...[".state.json", ".job.json"].map((name) => path.join(runFolder(), `${name}.${NO_PROCESS}`)),
                ...["work", "job.json"].map((name) => path.join(runFolder(), `${name}.${NO_PROCESS}.1`)),
                path.join(home, "store", `.${digest}.json.${NO_PROCESS}`),
                path.join(home, "store", `${digest}.${NO_PROCESS}.2`),
                path.join(runFolder(), "work"),
                path.join(runFolder(), "reserve"),
                path.join(home, "store", lost),
            ].map((place) => {
                const isFolder = path.basename(place).startsWith("work") || path.basename(place) === lost;
                if (isFolder) mkdirSync(place);
                writeFileSync(isFolder ? path.join(place, "file") : place, "some bytes");
                return [place, path.basename(place)];
            }),
        );
    };

    test("goes with garbage collection once it is past the grace, and a dry run tells", async () => {
        const places = await left();
        const leftover = (items: readonly GarbageItem[]) => items.filter((item) => item.what === "leftover");
        const why = (grace: string) =>
            Object.values(places)
                .map((name) => `a killed process has left ${name}${grace}`)
                .sort();
        const fresh = leftover(await collect(14 * DAY));
        expect(fresh.map((item) => item.why).sort()).toEqual(why(", within the grace period"));
        expect(fresh.every((item) => item.kept)).toBe(true);
        const pinned = { roots: { [key]: "pinned" }, graceSeconds: 0 };
        for (const dryRun of [true, false]) {
            const answer = await call(["gc"], JSON.stringify({ ...pinned, dryRun }));
            const { items, freed } = answer as unknown as { items: GarbageItem[]; freed: number };
            expect(
                leftover(items)
                    .map((item) => item.why)
                    .sort(),
            ).toEqual(why(""));
            expect(new Set(leftover(items).map((item) => item.name))).toEqual(
                new Set([key, lost, ...items.filter((item) => item.what === "artifact").map((item) => item.name)]),
            );
            expect(freed).toBe(Object.keys(places).length * "some bytes".length);
            expect(Object.keys(places).filter((place) => existsSync(place))).toHaveLength(dryRun ? freed / 10 : 0);
        }
        expect(await status()).toMatchObject({ state: "succeeded" });
        expect(readFileSync(path.join(runFolder(), "out", "answer.txt"), "utf8")).toBe("42");
    });

    test("is told from what lives, what a run resumes from, and what somebody has put there", async () => {
        await submit(`Path("checkpoint").write_text("step 7"); sys.exit(1)`);
        await ended();
        const places = [
            path.join(runFolder(), "work", "checkpoint"),
            path.join(runFolder(), `job.json.${process.pid}.1`),
            path.join(runFolder(), `out.${NO_PROCESS}.1`, "mine.txt"),
            path.join(runFolder(), "notes.2024"),
        ];
        mkdirSync(path.dirname(places[2] ?? ""));
        for (const place of places.slice(1)) writeFileSync(place, "");
        const request = { roots: { [key]: "pinned" }, graceSeconds: 0, dryRun: false };
        const answer = await call(["gc"], JSON.stringify(request));
        expect(answer).toMatchObject({ items: [{ what: "run", kept: true, why: "pinned" }], freed: 0 });
        expect(places.filter((place) => existsSync(place))).toEqual(places);
    });
});
