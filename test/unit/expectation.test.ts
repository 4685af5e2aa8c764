import { mkdirSync, utimesSync, writeFileSync } from "node:fs";
import path from "node:path";
import { beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { evaluation } from "../../pipeline/evaluation";
import { digestOfFiles, sha256, UNKNOWN, type JsonObject } from "../../pipeline/identity";
import { expectationOf, thisMachine } from "../../pipeline/provider/expectation";
import type { Stage, TargetRun } from "../../pipeline/stage";
import { Store, type Result } from "../../pipeline/store/store";
import { training } from "../../pipeline/training";
import { temporaryFolder } from "./datasets/folder";

let home: string;
let store: Store;
let runs = 0;

beforeEach(() => {
    home = temporaryFolder();
    store = new Store(home);
    runs = 0;
    vi.stubEnv("RETUNE_CACHE", temporaryFolder());
    onTestFinished(() => {
        vi.unstubAllEnvs();
    });
});

const given = {
    target: { type: "local" },
    model: sha256("a model"),
    dataset: sha256("a data set"),
    template: "qwen3",
    learningRate: 0.01,
    epochs: 1,
    maxSteps: 4,
    seed: 42,
    loraRank: 4,
    batchSize: 2,
    threads: 2,
};

/** The run of these inputs on a target. */
function runOf(stage: Stage, inputs: JsonObject): TargetRun {
    const work = stage.work(inputs, "");
    if (work.on === "client") throw new Error("it runs on the client");
    return work.run;
}

/** An earlier run, as the runner leaves it; a newer one than those before it. */
function made(run: Pick<TargetRun, "kind" | "parameters" | "inputs">, seconds: number, rest: Partial<Result> = {}) {
    runs += 1;
    const key = sha256(String(runs));
    const folder = store.runFolder(key);
    mkdirSync(folder, { recursive: true });
    const { kind, parameters, inputs } = run;
    writeFileSync(path.join(folder, "job.json"), JSON.stringify({ kind, parameters, inputs }));
    const host = { ...thisMachine, name: "h" };
    const result = {
        key,
        kind,
        seconds,
        finishedAt: 1000 * runs,
        host,
        metrics: {},
        digest: digestOfFiles([]),
        files: [],
        ...rest,
    };
    writeFileSync(path.join(folder, "result.json"), JSON.stringify(result));
    utimesSync(path.join(folder, "result.json"), 1000 * runs, 1000 * runs);
    return folder;
}

/** The events of steps that take three seconds each, and one that took longer. */
function stepsOf(folder: string, steps: number): void {
    const lines = Array.from({ length: steps }, (_, index) => {
        const time = 100 + 3 * index + (index > 1 ? 20 : 0);
        return JSON.stringify({ type: "progress", phase: "learning", step: index + 1, steps, time, loss: 1 });
    });
    writeFileSync(path.join(folder, "events.jsonl"), `${lines.join("\n")}\n`);
}

const expected = (inputs: JsonObject, stage: Stage = training) =>
    expectationOf(stage, inputs, stage.work(inputs, ""), thisMachine, store);

describe("a training is expected to take", () => {
    test("nothing that anybody knows, where there was none", async () => {
        expect(await expected(given)).toEqual({});
    });

    test("as long as one that differs in what costs no time", async () => {
        made(runOf(training, given), 100);
        const other = { ...given, learningRate: 0.1, seed: 7, epochs: 3, target: { type: "local", mirror: "x:y" } };
        expect(await expected(other)).toEqual({ expectedSeconds: 100 });
    });

    test("the time of its steps, and what is not steps once", async () => {
        stepsOf(made(runOf(training, given), 100), 4);
        expect(await expected({ ...given, maxSteps: 16 })).toEqual({ expectedSeconds: 100 + 12 * 3 });
        expect(await expected({ ...given, maxSteps: 2 })).toEqual({ expectedSeconds: 100 - 2 * 3 });
    });

    test("as many times the steps as epochs, where no number of steps is given", async () => {
        const { maxSteps: _maxSteps, ...epochs } = given;
        stepsOf(made(runOf(training, epochs), 100), 30);
        expect(await expected({ ...epochs, epochs: 3 })).toEqual({ expectedSeconds: 100 + 60 * 3 });
        // How many steps an epoch has is not known before the data set is counted.
        expect(await expected(given)).toEqual({ lastSeconds: 100 });
    });

    test.each([
        ["other data", { dataset: sha256("other data") }],
        ["data that is not known yet", { dataset: UNKNOWN }],
        ["larger batches", { batchSize: 4 }],
        ["more steps, of whose time nothing is known", { maxSteps: 16 }],
    ])("nobody knows how long with %s: the last one is told", async (_, change) => {
        made(runOf(training, given), 100);
        expect(await expected({ ...given, ...change })).toEqual({ lastSeconds: 100 });
    });

    test("nothing by a run on another kind of machine", async () => {
        const hosts = [{ cpus: thisMachine.cpus + 1 }, { machine: "riscv" }, { gpus: ["A10"] }];
        for (const other of hosts) {
            made(runOf(training, given), 100, { host: { ...thisMachine, name: "h", ...other } });
        }
        const on = (machine: typeof thisMachine) =>
            expectationOf(training, given, training.work(given as never, ""), machine, store);
        expect(await on(thisMachine)).toEqual({});
        expect(await on({ ...thisMachine, gpus: ["A10"] })).toEqual({ expectedSeconds: 100 });
        expect(await on({ ...thisMachine, gpus: ["H100"] })).toEqual({});
    });

    test("what the newest of those that are alike took, whichever was used last", async () => {
        const old = made(runOf(training, given), 300);
        made(runOf(training, given), 100);
        made(runOf(training, { ...given, loraRank: 8 }), 200);
        utimesSync(path.join(old, "result.json"), 9999, 9999);
        expect(await expected(given)).toEqual({ expectedSeconds: 100 });
        expect(await expected({ ...given, loraRank: 16 })).toEqual({ lastSeconds: 200 });
    });
});

test("an evaluation takes the base's with it, unless the store has that one", async () => {
    const inputs = {
        ...{ target: given.target, model: given.model, dataset: given.dataset, template: "qwen3", threads: 2 },
        trained: sha256("an adapter"),
        answeredRows: 2,
    };
    const work = evaluation.work(inputs as never, "");
    const { baseline: base, tuned } = work.on === "client" ? (work.before ?? {}) : {};
    if (base === undefined || tuned === undefined) throw new Error("there is no run before it");
    made(base, 30);
    made(tuned, 50);
    expect(await expected({ ...inputs, trained: UNKNOWN }, evaluation)).toEqual({ expectedSeconds: 80 });
    await store.make({ key: base.key, kind: "Baseline", stage: "evaluation", parameters: {} }, () =>
        Promise.resolve({}),
    );
    expect(await expected({ ...inputs, trained: UNKNOWN }, evaluation)).toEqual({ expectedSeconds: 50 });
});

test("of a store with thousands of runs, few are read", async () => {
    for (let index = 0; index < 2000; index++) made({ kind: "Training", parameters: {}, inputs: {} }, index);
    const result = vi.spyOn(store, "result");
    expect((await store.newest("Training", 5)).map(({ seconds }) => seconds)).toEqual([1999, 1998, 1997, 1996, 1995]);
    expect(result.mock.calls.length).toBeLessThanOrEqual(6);
    await store.newest("Training", 5);
    expect(result.mock.calls.length).toBeLessThanOrEqual(6);
    expect(await store.newest("Export", 5)).toEqual([]);
    await store.newest("Report", 5);
    expect(result).toHaveBeenCalledTimes(2000);
});
