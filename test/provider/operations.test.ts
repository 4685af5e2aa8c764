import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { describe, expect, test } from "vitest";
import { UNKNOWN, type JsonObject } from "../../pipeline/identity";
import { followedRuns } from "../../pipeline/store/followed";
import { read, until } from "../unit/processes";
import { datasetOf, model, training } from "./inputs";
import { InitFailed, rigForTest, urnOf, type Provider, type Rig } from "./rig";

const DETACHED = "detached: the run goes on; the next `npm run up` attaches to it";
const digest = expect.stringMatching(/^[0-9a-f]{64}$/) as unknown as string;

const checked = async (provider: Provider, kind: string, news: JsonObject): Promise<JsonObject> => {
    const { inputs, failures } = await provider.check(kind, news);
    expect(failures).toEqual([]);
    return inputs;
};
const starts = (rig: Rig): string[] =>
    read(path.join(rig.control, "starts"))
        .split("\n")
        .filter((line) => line !== "");

/** What an operation that must not succeed ended with. */
async function interruption(operation: Promise<unknown>): Promise<InitFailed> {
    const error = await operation.then(
        () => "it succeeded",
        (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(InitFailed);
    return error as InitFailed;
}

/** A model of which an update to another is cancelled at work, and goes on: the rig holds it. */
async function interruptedUpdate() {
    const rig = rigForTest();
    const provider = await rig.start();
    const before = await checked(provider, "Model", model);
    const { outputs: olds } = await provider.create("Model", before);
    const after = await checked(provider, "Model", { ...model, source: { random: { seed: 2 } } });
    rig.hold();
    // One whose lines are all of this update: those of an operation may arrive after its end.
    const updating = await rig.start();
    const ending = interruption(updating.update("Model", before, olds, after));
    await updating.said("learning, step");
    await updating.cancel();
    return { rig, before, olds, after, ended: await ending };
}

describe("a preview", () => {
    test("really converts a data set, so that its digest is known, and touches nothing but caches", async () => {
        const rig = rigForTest();
        const provider = await rig.start();
        const inputs = await checked(provider, "Dataset", datasetOf(rig));
        const { id, outputs } = await provider.create("Dataset", inputs, { preview: true });
        expect(id).toBe("");
        expect(outputs).toEqual({
            ...{ key: digest, run: (outputs["key"] as string).slice(0, 12), digest, uri: UNKNOWN, action: "would-run" },
            facts: { scanned: 20, kept: 20, dropped: {}, rows: { train: 14, validation: 4, test: 2 }, found: {} },
            origin: { files: [digest] },
        });
        expect(await provider.lasting(1)).toEqual([[urnOf("Dataset"), "would run: new"]]);
        expect(existsSync(rig.home)).toBe(false);

        const again = await provider.create("Dataset", inputs, { preview: true });
        expect(again.outputs).toEqual(outputs);
        const real = await provider.create("Dataset", inputs);
        expect(real.outputs).toMatchObject({ key: outputs["key"], digest: outputs["digest"], facts: outputs["facts"] });
    });

    test("takes what the store has, down to where it lies", async () => {
        const rig = rigForTest();
        const provider = await rig.start();
        const inputs = await checked(provider, "Dataset", datasetOf(rig));
        const made = await provider.create("Dataset", inputs);
        const { outputs } = await provider.create("Dataset", inputs, { preview: true });
        expect(outputs).toEqual({ ...made.outputs, action: "would-reuse" });
        expect(await provider.lasting(1)).toEqual([[urnOf("Dataset"), "would be taken from the store: new"]]);
    });

    test("knows the key of a training before it has run, but not its digest", async () => {
        const rig = rigForTest();
        const provider = await rig.start();
        const inputs = await checked(provider, "Training", training);
        const { outputs } = await provider.create("Training", inputs, { preview: true });
        expect(outputs).toEqual({
            ...{ key: digest, run: (outputs["key"] as string).slice(0, 12), action: "would-run" },
            ...{ digest: UNKNOWN, uri: UNKNOWN, facts: UNKNOWN },
        });
        expect(existsSync(rig.home)).toBe(false);
        expect(starts(rig)).toEqual([]);
    });

    test("knows nothing of what comes after a stage that would run", async () => {
        const provider = await rigForTest().start();
        const inputs = await checked(provider, "Training", { ...training, dataset: UNKNOWN });
        const { outputs } = await provider.create("Training", inputs, { preview: true });
        expect(outputs).toEqual({
            ...{ key: UNKNOWN, run: UNKNOWN, digest: UNKNOWN, uri: UNKNOWN, facts: UNKNOWN, action: "would-run" },
        });
    });

    test("of an update names every reason, old value and new", async () => {
        const provider = await rigForTest().start();
        const before = await checked(provider, "Training", { ...training, maxSteps: 4 });
        const news = { ...training, learningRate: 0.0001, enableThinking: true, dataset: UNKNOWN };
        const after = await checked(provider, "Training", news);
        const outputs = await provider.update("Training", before, { digest: "old" }, after, true);
        expect(outputs).toMatchObject({ digest: UNKNOWN, action: "would-run" });
        expect(await provider.lasting(1)).toEqual([
            [
                urnOf("Training"),
                `would run: dataset ${(training["dataset"] as string).slice(0, 12)} → known after the stage before has run; ` +
                    "enableThinking added: true; learningRate 0.0005 → 0.0001; maxSteps removed (was 4)",
            ],
        ]);
    });

    test("of a repair, or after an interruption, has its reason too", async () => {
        const provider = await rigForTest().start();
        const inputs = await checked(provider, "Training", training);
        await provider.update("Training", inputs, { digest: "d", drift: "the artifact is gone" }, inputs, true);
        await provider.update("Training", inputs, { digest: "d" }, inputs, true);
        expect((await provider.lasting(2)).map(([, text]) => text)).toEqual([
            "would run: repairs: the artifact is gone",
            "would run: the last update did not come to its end",
        ]);
    });
});

describe("creating a data set", () => {
    test("makes it, and answers where it is and what is in it", async () => {
        const rig = rigForTest();
        const provider = await rig.start();
        const inputs = await checked(provider, "Dataset", datasetOf(rig));
        const { id, outputs } = await provider.create("Dataset", inputs);
        expect(id).toBe("dataset");
        const key = outputs["key"] as string;
        const folder = path.join(rig.home, "runs", key, "out");
        expect(outputs).toEqual({
            ...{ key: digest, run: key.slice(0, 12), digest, uri: pathToFileURL(folder).href, action: "ran" },
            facts: { scanned: 20, kept: 20, dropped: {}, rows: { train: 14, validation: 4, test: 2 }, found: {} },
            origin: { files: [digest] },
            seconds: expect.any(Number) as unknown,
            finishedAt: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/) as unknown,
        });
        expect(readdirSync(fileURLToPath(outputs["uri"] as string)).sort()).toEqual([
            ...["test.jsonl", "train.jsonl", "validation.jsonl"],
        ]);
        const [first = ""] = readFileSync(path.join(folder, "train.jsonl"), "utf8").split("\n");
        expect(JSON.parse(first)).toMatchObject({
            instruction: "Answer.",
            input: expect.stringContaining("question") as unknown,
        });
    });

    test("takes it from the store the second time, also for another name or place", async () => {
        const rig = rigForTest();
        const provider = await rig.start();
        const inputs = await checked(provider, "Dataset", datasetOf(rig));
        const first = await provider.create("Dataset", inputs);
        const second = await provider.create("Dataset", inputs, { name: "other" });
        expect(second).toEqual({ id: "other", outputs: { ...first.outputs, action: "cached" } });
        const elsewhere = await rig.start();
        const file = path.join(rig.folder, "copy.jsonl");
        writeFileSync(file, readFileSync(path.join(rig.folder, "data", "rows.jsonl")));
        const moved = await checked(elsewhere, "Dataset", { ...datasetOf(rig), source: { file } });
        expect((await elsewhere.create("Dataset", moved)).outputs).toEqual({ ...first.outputs, action: "cached" });
    });

    test("at once under two names works", async () => {
        const rig = rigForTest();
        const provider = await rig.start();
        const inputs = await checked(provider, "Dataset", datasetOf(rig));
        const both = await Promise.all(["a", "b"].map((name) => provider.create("Dataset", inputs, { name })));
        expect(new Set(both.map(({ outputs }) => outputs["digest"])).size).toBe(1);
        expect(readdirSync(path.join(rig.home, "store"))).toHaveLength(2);
    });

    test("that fails says why, and leaves nothing in the store", async () => {
        const rig = rigForTest();
        const provider = await rig.start();
        const inputs = await checked(provider, "Dataset", { ...datasetOf(rig), split: { validation: 0.5, test: 0.5 } });
        await expect(provider.create("Dataset", inputs)).rejects.toMatchObject({
            code: 2,
            details: expect.not.stringContaining("defect") as unknown,
        });
        expect(existsSync(path.join(rig.home, "store"))).toBe(false);
    });
});

describe("a stage that runs on the target", () => {
    test("is run once, told of while it runs, and taken from the store afterwards", async () => {
        const rig = rigForTest();
        const provider = await rig.start();
        const inputs = await checked(provider, "Model", model);
        const made = await provider.create("Model", inputs);
        expect(made.outputs).toMatchObject({ digest, action: "ran", facts: { files: 6, bytes: 1000 } });
        const again = await provider.create("Model", inputs);
        expect(again.outputs).toEqual({ ...made.outputs, action: "cached" });
        expect(starts(rig)).toEqual(["Model"]);
        expect(await provider.lasting(0)).toEqual([]);
    });

    test("is attached to where another client has started it", async () => {
        const rig = rigForTest();
        rig.hold();
        const [one, two] = await Promise.all([rig.start(), rig.start()]);
        const inputs = await checked(one, "Model", model);
        const first = one.create("Model", inputs);
        await one.said("learning, step");
        const second = two.create("Model", inputs);
        await two.said("learning, step");
        rig.release();
        expect((await first).outputs["action"]).toBe("ran");
        expect((await second).outputs["action"]).toBe("attached");
        expect(starts(rig)).toEqual(["Model"]);
    });

    test("that fails says its last words, and what to do; nothing is kept of it", async () => {
        const rig = rigForTest();
        const provider = await rig.start();
        writeFileSync(path.join(rig.control, "fail"), "loss became nan at step 3");
        const inputs = await checked(provider, "Model", model);
        const [run] = [(await provider.create("Model", inputs, { preview: true })).outputs["run"] as string];
        await expect(provider.create("Model", inputs)).rejects.toMatchObject({
            code: 2,
            details: `run ${run} failed: loss became nan at step 3\n  the whole log: npm run logs -- ${run}`,
        });
        rmSync(path.join(rig.control, "fail"));
        expect((await provider.create("Model", inputs)).outputs["action"]).toBe("ran");
        expect(starts(rig)).toEqual(["Model", "Model"]);
    });

    test("runs again when its artifact is gone", async () => {
        const rig = rigForTest();
        const provider = await rig.start();
        const inputs = await checked(provider, "Model", model);
        const { outputs } = await provider.create("Model", inputs);
        rmSync(path.join(rig.home, "store"), { recursive: true });
        expect(await provider.update("Model", inputs, outputs, inputs)).toMatchObject({
            ...{ digest: outputs["digest"], action: "ran" },
        });
        expect(starts(rig)).toEqual(["Model", "Model"]);
    });

    test("tells its progress at a line a second, which does not stay", async () => {
        const rig = rigForTest();
        const provider = await rig.start();
        rig.hold();
        const inputs = await checked(provider, "Model", model);
        const creating = provider.create("Model", inputs);
        const steps = () => provider.lines.filter((line) => line.text.startsWith("learning, step"));
        await until(() => steps().length >= 3);
        rig.release();
        await creating;
        expect(provider.lines.every((line) => line.ephemeral && line.urn === urnOf("Model"))).toBe(true);
        const times = provider.lines.map((line) => line.at);
        const gaps = times.slice(1).map((time, i) => time - (times[i] ?? 0));
        // Sent a second apart; on a busy machine one may arrive late, and the next one then seems early.
        expect(Math.min(...gaps)).toBeGreaterThan(500);
        expect(gaps.reduce((sum, gap) => sum + gap, 0)).toBeGreaterThan(900 * gaps.length);
        expect(steps()[0]?.text).toMatch(/^learning, step \d+\/1000 \(\d+ %\), loss 2\.5000(, \d+ s left)?$/);
    });

    test("on a target with a price it tells what the run costs, then and in its outputs", async () => {
        const rig = rigForTest();
        const provider = await rig.start();
        rig.hold();
        const priced = { ...model, target: { type: "local", pricePerHour: 3600 } };
        const creating = provider.create("Model", await checked(provider, "Model", priced));
        await until(() => provider.lines.some((line) => /^learning, step [^c]+, cost \d+\.\d\d$/.test(line.text)));
        rig.release();
        const { outputs } = await creating;
        expect(outputs["cost"]).toBe(outputs["seconds"]); // one for a second
        const again = await checked(provider, "Model", priced);
        expect((await (await rig.start()).create("Model", again)).outputs).not.toHaveProperty("cost"); // it is in the store
    });
});

describe("an update that is cancelled", () => {
    test("answers the old outputs, whatever the run goes on to make", async () => {
        const { rig, before, olds, after, ended } = await interruptedUpdate();
        const { id, properties, reasons } = ended;
        expect({ id, properties, reasons }).toEqual({ id: "model", properties: olds, reasons: [DETACHED] });
        rig.release();

        // The run goes on; the next update attaches to it, or finds that it has ended.
        const next = await rig.start();
        const outputs = await next.update("Model", before, olds, after);
        expect(["attached", "cached"]).toContain(outputs["action"]);
        expect(outputs["digest"]).not.toBe(olds["digest"]);
        expect(starts(rig)).toEqual(["Model", "Model"]);
    });

    test("answers no digest where there was none before", async () => {
        const rig = rigForTest();
        const provider = await rig.start();
        rig.hold();
        const inputs = await checked(provider, "Model", model);
        const ending = interruption(provider.create("Model", inputs));
        await provider.said("learning, step");
        await provider.cancel();
        const failure = await ending;
        expect(failure.id).toBe("model");
        expect(failure.properties).toEqual({});
        expect(failure.inputs).toEqual(inputs);
        expect(failure.reasons).toEqual([DETACHED]);
        rig.release();
        const next = await rig.start();
        expect(["attached", "cached"]).toContain((await next.create("Model", inputs)).outputs["action"]);
        expect(starts(rig)).toEqual(["Model"]);
    });

    test("starts nothing any more, but still answers what the store has", async () => {
        const rig = rigForTest();
        const provider = await rig.start();
        const data = await checked(provider, "Dataset", datasetOf(rig));
        const weights = await checked(provider, "Model", model);
        const { outputs } = await provider.create("Dataset", data);
        await provider.cancel();
        expect((await provider.create("Dataset", data)).outputs).toEqual({ ...outputs, action: "cached" });
        const other = await checked(provider, "Dataset", { ...datasetOf(rig), limit: 10 });
        await interruption(provider.create("Dataset", other));
        await interruption(provider.create("Model", weights));
        expect(readdirSync(path.join(rig.home, "runs"))).toEqual([outputs["key"]]);
        expect(starts(rig)).toEqual([]);
    });

    test("needs nothing to be going on: the engine cancels at the end of every operation", async () => {
        const rig = rigForTest();
        const provider = await rig.start();
        await provider.cancel();
        await provider.cancel();
        const inputs = await checked(provider, "Dataset", datasetOf(rig));
        expect(await provider.diff("Dataset", inputs, inputs)).toMatchObject({ changes: "none" });
        expect(await provider.read("Dataset", inputs, { key: "k" })).toMatchObject({ outputs: { key: "k" } });
        expect(provider.child.exitCode).toBeNull();
    });
});

describe("reading", () => {
    const prepared = async () => {
        const rig = rigForTest();
        const provider = await rig.start();
        const inputs = await checked(provider, "Dataset", datasetOf(rig));
        const { outputs } = await provider.create("Dataset", inputs);
        return { provider, inputs, outputs, artifact: path.join(rig.home, "store", outputs["digest"] as string) };
    };

    test("a result that is gone, or nonsense, is drift: the stage is made again", async () => {
        const { provider, inputs, outputs, artifact } = await prepared();
        const run = path.join(path.dirname(artifact), "..", "runs", outputs["key"] as string);
        writeFileSync(path.join(run, "result.json"), "{}");
        const read = await provider.read("Dataset", inputs, outputs);
        expect(read).toMatchObject({ outputs: { ...outputs, drift: "its result.json is gone or was altered" } });
        const again = await provider.update("Dataset", inputs, read.outputs, inputs);
        expect(again).toMatchObject({ digest: outputs["digest"], action: "ran" });
    });

    test("what is as it was changes nothing", async () => {
        const { provider, inputs, outputs } = await prepared();
        expect(await provider.read("Dataset", inputs, outputs)).toEqual({ id: "dataset", inputs, outputs });
    });

    test.each([
        [
            "altered",
            "train.jsonl was altered",
            (artifact: string): void => {
                writeFileSync(path.join(artifact, "train.jsonl"), "tampered");
            },
        ],
        [
            "without a file",
            "test.jsonl is gone",
            (artifact: string): void => {
                rmSync(path.join(artifact, "test.jsonl"));
            },
        ],
        [
            "gone",
            "the artifact is gone",
            (artifact: string): void => {
                rmSync(artifact, { recursive: true });
                rmSync(`${artifact}.json`);
            },
        ],
    ])("an artifact that is %s sets drift, and nothing else: never the digest", async (_, drift, damage) => {
        const { provider, inputs, outputs, artifact } = await prepared();
        damage(artifact);
        const seen = await provider.read("Dataset", inputs, outputs);
        expect(seen).toEqual({ id: "dataset", inputs, outputs: { ...outputs, drift } });
        expect(await provider.diff("Dataset", inputs, inputs, seen.outputs)).toMatchObject({
            ...{ changes: "some", detailed: { drift: "UPDATE of an output" } },
        });
        const repaired = await provider.update("Dataset", inputs, seen.outputs, inputs);
        expect(repaired).toMatchObject({ digest: outputs["digest"], action: "ran" });
        expect(repaired["drift"]).toBeUndefined();
        expect((await provider.read("Dataset", inputs, { ...outputs, drift })).outputs).toEqual(outputs);
    });
});

describe("deleting", () => {
    test("stops a run that goes on", async () => {
        const rig = rigForTest();
        const provider = await rig.start();
        rig.hold();
        const inputs = await checked(provider, "Model", model);
        const creating = provider.create("Model", inputs).catch((error: unknown) => error);
        await provider.said("learning, step");
        const deleting = await rig.start();
        await deleting.delete("Model", inputs, {});
        expect(await creating).toMatchObject({
            details: expect.stringMatching(/^run [0-9a-f]{12} stopped: stopped on request\n/) as unknown,
        });
    });

    test("stops the run of an update that was interrupted, of which the state keeps the inputs from before", async () => {
        const { rig, before, ended } = await interruptedUpdate();
        const [{ key } = { key: "" }, ...more] = followedRuns(rig.home);
        expect(more).toEqual([]);
        await (await rig.start()).delete("Model", before, ended.properties);
        expect(followedRuns(rig.home)).toEqual([]);
        const state = JSON.parse(readFileSync(path.join(rig.home, "runs", key, "state.json"), "utf8")) as object;
        expect(state).toMatchObject({ state: "stopped", reason: "stopped on request" });
    });

    test("leaves artifacts to garbage collection", async () => {
        const rig = rigForTest();
        const provider = await rig.start();
        const inputs = await checked(provider, "Dataset", datasetOf(rig));
        const { outputs } = await provider.create("Dataset", inputs);
        await provider.delete("Dataset", inputs, outputs);
        expect((await provider.create("Dataset", inputs)).outputs["action"]).toBe("cached");
    });

    test("of what never ran is nothing", async () => {
        const rig = rigForTest();
        const provider = await rig.start();
        await provider.delete("Training", await checked(provider, "Training", { ...training, model: UNKNOWN }), {});
        await provider.delete("Training", await checked(provider, "Training", training), {});
        expect(existsSync(rig.home)).toBe(false);
    });
});

test("a model's folder is copied on the client, without anything of it that could run code", async () => {
    const rig = rigForTest();
    const provider = await rig.start();
    const folder = path.join(rig.folder, "weights");
    mkdirSync(folder);
    for (const name of ["config.json", "tokenizer.json"]) writeFileSync(path.join(folder, name), "{}");
    for (const name of ["pytorch_model.bin", "modeling.py"]) writeFileSync(path.join(folder, name), "x");
    // The least that is a safetensors file: the length of a header, and the header of no tensors.
    writeFileSync(path.join(folder, "model.safetensors"), Buffer.from([2, 0, 0, 0, 0, 0, 0, 0, 0x7b, 0x7d]));
    const inputs = await checked(provider, "Model", { ...model, source: { folder } });
    const { outputs } = await provider.create("Model", inputs);
    expect(outputs).toMatchObject({ action: "ran", facts: { files: 3 } });
    expect(readdirSync(fileURLToPath(outputs["uri"] as string)).sort()).toEqual([
        ...["config.json", "model.safetensors", "tokenizer.json"],
    ]);
});

test("a model's folder that was changed since its digest was taken is not stored under that digest", async () => {
    const rig = rigForTest();
    const provider = await rig.start();
    const folder = path.join(rig.folder, "weights");
    mkdirSync(folder);
    for (const name of ["config.json", "tokenizer.json"]) writeFileSync(path.join(folder, name), "{}");
    writeFileSync(path.join(folder, "model.safetensors"), Buffer.from([2, 0, 0, 0, 0, 0, 0, 0, 0x7b, 0x7d]));
    const inputs = await checked(provider, "Model", { ...model, source: { folder } });
    writeFileSync(path.join(folder, "tokenizer.json"), '{"another": 1}');
    await expect(provider.create("Model", inputs)).rejects.toThrow(
        `${folder} was changed while it was read: run \`npm run up\` again`,
    );
    writeFileSync(path.join(folder, "tokenizer.json"), "{}");
    expect((await provider.create("Model", inputs)).outputs).toMatchObject({ action: "ran" });
});
