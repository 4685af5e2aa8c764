import * as fs from "node:fs";
import { mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { digestOfFiles, sha256 } from "../../pipeline/identity";
import { findRun, listRuns } from "../../pipeline/store/runs";
import { readJson, Store, writeJson, type Metrics } from "../../pipeline/store/store";
import { explainFileError } from "../../scripts/file-errors.cjs";
import { temporaryFolder } from "./datasets/folder";

const key = sha256("a key");
const run = { key, kind: "Dataset", stage: "dataset", parameters: { limit: 5 } };
const digest = digestOfFiles([
    { path: "deep/b.txt", size: 3, sha256: sha256("two") },
    { path: "train.jsonl", size: 4, sha256: sha256("rows") },
]);

let home: string;
let store: Store;

beforeEach(() => {
    home = temporaryFolder();
    store = new Store(home);
    vi.stubEnv("RETUNE_CACHE", temporaryFolder());
    onTestFinished(() => {
        vi.unstubAllEnvs();
    });
});

async function work(folder: string): Promise<Metrics> {
    expect(readdirSync(folder)).toEqual([]);
    mkdirSync(path.join(folder, "deep"));
    writeFileSync(path.join(folder, "train.jsonl"), "rows");
    writeFileSync(path.join(folder, "deep", "b.txt"), "two");
    return Promise.resolve({ kept: 4 });
}

describe("what is made", () => {
    test("is found by its key, with its digest, files, metrics and times", async () => {
        const before = Date.now() / 1000;
        const made = await store.make(run, work);
        expect(made).toMatchObject({ key, kind: "Dataset", digest, metrics: { kept: 4 } });
        expect(made.files.map((file) => file.path)).toEqual(["deep/b.txt", "train.jsonl"]);
        expect(made.startedAt).toBeGreaterThanOrEqual(before);
        expect(made.finishedAt).toBeGreaterThanOrEqual(made.startedAt);
        expect(await store.find(key)).toEqual(made);
        expect(await store.damage(digest)).toBeUndefined();
    });

    test("leaves the run's folder as the runner does: job, state, result and a link to the artifact", async () => {
        await store.make(run, work);
        const folder = store.runFolder(key);
        expect(readdirSync(folder).sort()).toEqual(["job.json", "out", "result.json", "state.json"]);
        expect(readlinkSync(path.join(folder, "out"))).toBe(path.join("..", "..", "store", digest));
        expect(readFileSync(path.join(folder, "out", "train.jsonl"), "utf8")).toBe("rows");
        expect(await readJson(path.join(folder, "job.json"))).toEqual(run);
        expect(readdirSync(path.join(home, "store")).sort()).toEqual([digest, `${digest}.json`]);
    });

    test("may be made twice: the artifact is kept once, and nothing else is left", async () => {
        await store.make(run, work);
        await store.make({ ...run, key: sha256("another key") }, work);
        expect((await store.find(key))?.digest).toBe(digest);
        expect((await store.find(sha256("another key")))?.digest).toBe(digest);
        expect(readdirSync(path.join(home, "store"))).toHaveLength(2);
    });

    test("may be made by several at the same instant", async () => {
        const made = await Promise.all(Array.from({ length: 6 }, () => store.make(run, work)));
        expect(new Set(made.map((one) => one.digest))).toEqual(new Set([digest]));
        expect((await store.find(key))?.digest).toBe(digest);
        expect(readdirSync(store.runFolder(key)).sort()).toEqual(["job.json", "out", "result.json", "state.json"]);
        expect(readdirSync(path.join(home, "store"))).toHaveLength(2);
    });

    test("is no entry when making it fails", async () => {
        const failure = new Error("the source ended in the middle of a row");
        const failing = store.make(run, async (folder) => {
            await work(folder);
            throw failure;
        });
        await expect(failing).rejects.toBe(failure);
        expect(await store.find(key)).toBeUndefined();
        expect(await store.result(key)).toBeUndefined();
        expect(readdirSync(home)).toEqual(["runs"]);
        expect(readdirSync(store.runFolder(key))).toEqual(["job.json"]);
    });

    test("is no entry when the process dies before the end", async () => {
        // What is on the disk at that moment: the work, and the artifact without its manifest.
        await store.make(run, work);
        rmSync(path.join(store.runFolder(key), "result.json"));
        rmSync(`${store.artifactFolder(digest)}.json`);
        mkdirSync(path.join(store.runFolder(key), "work.1.1"));
        expect(await store.find(key)).toBeUndefined();
        const again = await store.make(run, work);
        expect(await store.find(key)).toEqual(again);
    });
});

describe("an artifact counts only when it is as it was", () => {
    beforeEach(async () => {
        await store.make(run, work);
    });

    test.each([
        [
            "gone",
            "train.jsonl is gone",
            (file: string) => {
                rmSync(file);
            },
        ],
        [
            "cut short",
            "train.jsonl was altered",
            (file: string) => {
                writeFileSync(file, "row");
            },
        ],
        [
            "of the same size, but another content",
            "train.jsonl was altered",
            (file: string) => {
                writeFileSync(file, "ROWS");
            },
        ],
    ])("a file that is %s", async (_, damage, alter) => {
        alter(path.join(store.artifactFolder(digest), "train.jsonl"));
        expect(await store.damage(digest)).toBe(damage);
        expect(await store.find(key)).toBeUndefined();
        expect((await store.result(key))?.digest).toBe(digest);
        await store.make(run, work);
        expect(await store.damage(digest)).toBeUndefined();
    });

    test.each([
        [
            "its manifest",
            (artifact: string) => {
                rmSync(`${artifact}.json`);
            },
        ],
        [
            "its folder",
            (artifact: string) => {
                rmSync(artifact, { recursive: true });
                rmSync(`${artifact}.json`);
            },
        ],
    ])("an artifact without %s", async (_, remove) => {
        remove(store.artifactFolder(digest));
        expect(await store.damage(digest)).toBe("the artifact is gone");
        expect(await store.find(key)).toBeUndefined();
    });

    test("a manifest that is none", async () => {
        writeFileSync(`${store.artifactFolder(digest)}.json`, "{");
        expect(await store.damage(digest)).toBe("the artifact is gone");
        await store.make(run, work);
        expect(await store.damage(digest)).toBeUndefined();
    });

    test("a manifest that does not add up to the digest", async () => {
        const manifest = `${store.artifactFolder(digest)}.json`;
        const { files } = JSON.parse(readFileSync(manifest, "utf8")) as { files: object[] };
        writeFileSync(manifest, JSON.stringify({ digest, files: files.slice(1) }));
        expect(await store.damage(digest)).toBe("the artifact is gone");
    });
});

describe("a result counts only when it is whole and of its run", () => {
    const edit = (change: (result: Record<string, unknown>) => object): void => {
        const file = path.join(store.runFolder(key), "result.json");
        writeFileSync(file, JSON.stringify(change(JSON.parse(readFileSync(file, "utf8")) as Record<string, unknown>)));
    };
    test.each([
        [
            "not JSON",
            () => {
                writeFileSync(path.join(store.runFolder(key), "result.json"), '{"key":');
            },
        ],
        [
            "another run's",
            () => {
                edit((result) => ({ ...result, key: sha256("other") }));
            },
        ],
        [
            "one that names another digest",
            () => {
                edit((result) => ({ ...result, digest: sha256("other") }));
            },
        ],
        [
            "without files",
            () => {
                edit(({ files: _files, ...result }) => result);
            },
        ],
    ])("%s is none: it is made again", async (_, change) => {
        const made = await store.make(run, work);
        change();
        expect(await store.result(key)).toBeUndefined();
        expect(await store.newest("Dataset", 1)).toEqual([]);
        await store.make(run, work);
        expect((await store.find(key))?.digest).toBe(made.digest);
    });

    test("a link to the artifact that leads elsewhere is said, and put right when the result is used", async () => {
        const made = await store.make(run, work);
        const out = path.join(store.runFolder(key), "out");
        rmSync(out);
        mkdirSync(out);
        writeFileSync(path.join(out, "mine.txt"), "mine");
        expect(await store.strayLink(made)).toBe("its link to the artifact was altered");
        await store.touch(made);
        expect(await store.strayLink(made)).toBeUndefined();
        const aside = readdirSync(store.runFolder(key)).find((name) => name.startsWith("out.")) ?? "";
        expect(readFileSync(path.join(store.runFolder(key), aside, "mine.txt"), "utf8")).toBe("mine");
    });
});

describe("a disk that runs full", () => {
    type Method = (...args: unknown[]) => Promise<unknown>;
    const disk = fs.promises as unknown as Record<string, Method>;
    const real = { ...disk };
    const noSpace = () => Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
    let writes = 0;
    let at = 0;
    let hit = "";

    /** Counts the writes below the home and the cache, and has one of them fail. */
    function write(what: string, file: unknown): void {
        if (typeof file !== "string" || !/^\/tmp\/.*retune/.test(file)) return;
        writes += 1;
        if (writes !== at) return;
        hit = `${what} ${path
            .relative(home, file)
            .replace(/[0-9a-f]{64}/g, "KEY")
            .replace(/\.\d+\.\d+$/, ".TMP")}`;
        throw noSpace();
    }
    beforeEach(() => {
        const place: Record<string, number> = { mkdir: 0, writeFile: 0, symlink: 1, rename: 1, utimes: 0 };
        for (const [name, index] of Object.entries(place)) {
            vi.spyOn(disk, name).mockImplementation(async (...args) => {
                write(name, args[index]);
                return real[name]?.apply(fs.promises, args);
            });
        }
        vi.spyOn(disk, "open").mockImplementation(async (...args) => {
            if (args[1] === "w") write("open", args[0]);
            const handle = (await real["open"]?.apply(fs.promises, args)) as fs.promises.FileHandle;
            if (args[1] === "r" || args[1] === undefined) return handle;
            const whole = handle.writeFile.bind(handle);
            vi.spyOn(handle, "writeFile").mockImplementation(async (data) => {
                try {
                    write("write", args[0]);
                } catch (error) {
                    await whole(String(data).slice(0, 10)); // as much as there was room for
                    throw error;
                }
                await whole(data);
            });
            const sync = handle.sync.bind(handle);
            vi.spyOn(handle, "sync").mockImplementation(async () => {
                write("sync", args[0]);
                await sync();
            });
            return handle;
        });
        onTestFinished(() => {
            vi.restoreAllMocks();
        });
    });

    test("at any write of the store loses nothing: no entry is made, nothing torn is read, and the next try makes it", async () => {
        const hits: string[] = [];
        for (at = 1; ; at++) {
            [home, writes, hit] = [temporaryFolder(), 0, ""];
            store = new Store(home);
            const failure = await store.make(run, work).then(
                () => undefined,
                (error: unknown) => error,
            );
            if (hit === "") break;
            hits.push(hit);
            expect(explainFileError(failure)).toBe(
                "no space left on the disk: make room, or move RETUNE_HOME to a larger one",
            );
            const files = readdirSync(home, { recursive: true, encoding: "utf8" });
            for (const file of files.filter((name) => name.endsWith(".json")))
                expect(JSON.parse(readFileSync(path.join(home, file), "utf8"))).toBeTypeOf("object");
            expect(files.filter((name) => name.includes(".json."))).toEqual([]);
            const found = await store.find(key);
            expect(found === undefined || found.digest === digest).toBe(true);

            await store.make(run, work);
            expect((await store.find(key))?.digest).toBe(digest);
            expect(readFileSync(path.join(store.runFolder(key), "out", "train.jsonl"), "utf8")).toBe("rows");
        }
        console.info(`a full disk at ${hits.length} writes of the store: ${[...new Set(hits)].join(", ")}`);
        expect(hits.length).toBeGreaterThan(15);
    });

    test("does not keep what is there from being used", async () => {
        at = 0;
        const made = await store.make(run, work);
        for (const name of ["mkdir", "writeFile", "rename"]) vi.spyOn(disk, name).mockRejectedValue(noSpace());
        expect(await store.find(key)).toEqual(made);
    });
});

describe("a JSON file", () => {
    test("is replaced as a whole, also by several at once", async () => {
        const file = path.join(home, "one.json");
        expect(await readJson(file)).toBeUndefined();
        await Promise.all(Array.from({ length: 20 }, (_, i) => writeJson(file, { i, filler: "x".repeat(10_000) })));
        expect(await readJson<object>(file)).toMatchObject({ filler: "x".repeat(10_000) });
        expect(readdirSync(home)).toEqual(["one.json"]);
    });

    test("that cannot be read is not taken for absent", async () => {
        await expect(readJson(home)).rejects.toThrow("EISDIR");
    });
});

describe("the list of runs", () => {
    const keyOf = (first: string): string => first.padEnd(64, "0");
    const me = { pid: process.pid, pidStarted: startOfMe(), boot: bootId() };

    function startOfMe(): number {
        const stat = readFileSync("/proc/self/stat", "utf8");
        return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19]);
    }
    function bootId(): string {
        return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    }
    function addRun(first: string, state: object, events: readonly object[] = [], half = ""): void {
        const folder = path.join(home, "runs", keyOf(first));
        mkdirSync(folder, { recursive: true });
        writeFileSync(path.join(folder, "job.json"), JSON.stringify({ kind: "Training", stage: "training" }));
        writeFileSync(path.join(folder, "state.json"), JSON.stringify({ queuedAt: 1, ...state }));
        if ("state" in state && state.state === "succeeded")
            writeFileSync(path.join(folder, "result.json"), JSON.stringify({ key: keyOf(first) }));
        if (events.length > 0) {
            const lines = events.map((event) => `${JSON.stringify(event)}\n`).join("");
            writeFileSync(path.join(folder, "events.jsonl"), lines + half);
        }
    }
    const step = (time: number, at: number, phase = "learning") => ({
        type: "progress",
        time,
        phase,
        step: at,
        steps: 10,
        loss: 1 / at,
    });

    test("is empty without a home", () => {
        expect(listRuns(path.join(home, "nowhere"))).toEqual([]);
    });

    test("is newest first and tells step, loss and the time left of a run that goes on", () => {
        addRun("a", { state: "succeeded", queuedAt: 5 });
        addRun(
            "b",
            { state: "running", ...me, queuedAt: 9 },
            [step(90, 9, "answers"), step(100, 1), step(106, 4)],
            '{"type":"pro',
        );
        expect(listRuns(home).map((one) => one.run)).toEqual(["b00000000000", "a00000000000"]);
        expect(listRuns(home)[0]).toEqual({
            ...{ key: keyOf("b"), run: "b00000000000", kind: "Training", stage: "training", state: "running" },
            ...{ queuedAt: 9, startedAt: null, finishedAt: null },
            ...{ phase: "learning", step: 4, steps: 10, loss: 0.25, etaSeconds: 12 },
        });
    });

    test("counts no time between attempts, and tells no time left by a clock that was put", () => {
        const note = { type: "note", time: 0, text: "training on 4 rows" };
        addRun("a", { state: "running", ...me }, [step(10, 1), step(5000, 2), note, step(9000, 3), step(9002, 5)]);
        expect(listRuns(home)[0]).toMatchObject({ step: 5, etaSeconds: 5 });
        addRun("a", { state: "running", ...me }, [step(9000, 3), step(100, 5)]);
        expect(listRuns(home)[0]).not.toHaveProperty("etaSeconds");
    });

    test("passes over what is no event", () => {
        addRun("a", { state: "running", ...me }, [step(1, 1)], 'garbage\n\u0000\n{"type":"progress"}\n[1]\n{"type":');
        expect(listRuns(home)[0]).toMatchObject({ step: 1, steps: 10 });
    });

    test.each([
        ["{", "its state.json cannot be read"],
        ["[]", "its state.json cannot be read"],
        ['{"state":7}', "its state.json cannot be read"],
        [
            '{"state":"paused"}',
            "its state.json says 'paused', which this Retune does not know: a newer one may have written it",
        ],
        ['{"state":"succeeded"}', "its result.json is gone or was altered"],
    ])("a state.json that says %s makes a run lost, and says why", (content, reason) => {
        addRun("a", { state: "failed" });
        writeFileSync(path.join(home, "runs", keyOf("a"), "state.json"), content);
        expect(listRuns(home)).toMatchObject([{ state: "lost", reason }]);
        writeFileSync(path.join(home, "runs", keyOf("a"), "job.json"), "nonsense");
        expect(listRuns(home)).toMatchObject([{ kind: "?", stage: "?", state: "lost", reason }]);
        writeFileSync(path.join(home, "runs", keyOf("a"), "result.json"), JSON.stringify({ key: keyOf("a") }));
        expect(listRuns(home)).toMatchObject([{ state: "succeeded" }]);
    });

    const GONE = "its process is gone without a result";
    test.each([
        ["is of another boot", { ...me, boot: "another" }, "the machine was restarted"],
        ["has the number of another process now", { ...me, pidStarted: me.pidStarted - 1 }, GONE],
        ["is gone", { ...me, pid: 4_194_304 }, GONE],
        ["was never named", {}, "its state.json does not name its process"],
    ])("says lost when the owner of a run %s", (_, owner, reason) => {
        addRun("a", { state: "running", ...owner });
        expect(listRuns(home)).toMatchObject([{ state: "lost", reason }]);
        addRun("a", { state: "failed", reason: "no", ...owner });
        expect(listRuns(home)).toMatchObject([{ state: "failed", reason: "no" }]);
    });

    test("leaves out what is no run, or not one yet", () => {
        mkdirSync(path.join(home, "runs", keyOf("a")), { recursive: true });
        mkdirSync(path.join(home, "runs", "notes"));
        expect(listRuns(home)).toEqual([]);
    });

    test("finds a run by the beginning of its name, if it is one", () => {
        addRun("abc1", { state: "succeeded" });
        addRun("abc2", { state: "succeeded" });
        expect(findRun(home, "abc1").key).toBe(keyOf("abc1"));
        expect(() => findRun(home, "abc")).toThrow("abc stands for 2 runs: give more of its characters");
        expect(() => findRun(home, "f")).toThrow("there is no run f; `npm run status` lists the runs");
        expect(() => findRun(home, "../abc1")).toThrow("there is no run ../abc1");
    });
});
