import * as fs from "node:fs";
import * as path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { JsonObject } from "../../pipeline/identity";
import { writeModel } from "./description";
import { all, digestsOf, Rig, STAGES, stageOf, type Answer, type StageName } from "./rig";

// A model in a folder, so that every digest before the training is known in a preview; the programs are stand-ins.
describe("the preview is exact about what retrains", () => {
    let rig: Rig;
    let first: Answer;
    const base: JsonObject = { model: { source: { folder: "base" } } };
    const digest = (of: StageName, answer = first) => stageOf(answer, of).digest ?? null;
    /** What follows a training. */
    const RETRAINED = all("would-run", { dataset: "unchanged", model: "unchanged" });

    beforeAll(async () => {
        rig = new Rig({ standIns: true });
        writeModel(rig, "base", 1);
        rig.configure(base);
        first = (await rig.json("up")).answer;
    });
    afterAll(() => rig.dispose());

    test("of a model's folder, before it was copied: everything up to the training is known", async () => {
        writeModel(rig, "other", 2);
        rig.configure({ model: { source: { folder: "other" } } });
        const preview = await rig.json("preview");
        expect(preview.actions).toEqual(all("would-run", { dataset: "unchanged" }));
        const { key, digest: foreseen, facts } = preview.stage("model");
        expect(preview.stage("training").key).toMatch(/^[0-9a-f]{64}$/);
        expect(preview.stage("training").reasons).toEqual([{ field: "model", old: digest("model"), new: foreseen }]);
        const made = await rig.json("up");
        expect({ code: made.code, actions: made.actions }).toEqual({
            code: 0,
            actions: all("ran", { dataset: "unchanged" }),
        });
        expect(made.stage("model")).toMatchObject({ key, digest: foreseen, facts });
        rig.configure(base);
        expect((await rig.json("up")).actions).toEqual(all("cached", { dataset: "unchanged" }));
    });

    test("another tokenizer file in the same folder retrains", async () => {
        writeModel(rig, "base", 3);
        const preview = await rig.json("preview");
        expect(preview.actions).toEqual(all("would-run", { dataset: "unchanged" }));
        expect(preview.stage("training").reasons).toEqual([
            { field: "model", old: digest("model"), new: preview.stage("model").digest },
        ]);
        writeModel(rig, "base", 1);
        expect((await rig.json("preview")).actions).toEqual(all("unchanged"));
    });

    test("a file in the folder that is no part of the model changes nothing", async () => {
        const file = rig.write(path.join("base", "training_args.bin"), "x");
        expect((await rig.json("preview")).actions).toEqual(all("unchanged"));
        fs.rmSync(file);
    });

    test("the same model in another folder changes nothing: where it was first found stays its origin", async () => {
        for (const folder of ["copied", path.join("elsewhere", "base")]) {
            writeModel(rig, folder, 1);
            rig.configure({ model: { source: { folder } } });
            expect((await rig.json("preview")).actions).toEqual(all("unchanged"));
        }
    });

    test("a recipe that is written out, in another order, changes nothing; under another name it is only converted", async () => {
        const recipe = {
            require: ["label", "question", "answer"],
            columns: { output: "answer", input: "question" },
            instruction: { constant: "请根据患者的问题给出建议" },
            notice: "A demonstration, not medical advice: answers can be wrong. With a complaint, see a doctor.",
            name: "huatuo-lite",
            language: "zh",
        };
        rig.configure({ ...base, dataset: { recipe } });
        expect((await rig.json("preview")).actions).toEqual(all("unchanged"));
        rig.configure({ ...base, dataset: { recipe: { ...recipe, name: "ours" } } });
        const preview = await rig.json("preview");
        expect(preview.actions).toEqual(
            all("unchanged", { dataset: "would-run", export: "would-run", report: "would-run" }),
        );
        expect(preview.stage("dataset")).toMatchObject({
            digest: digest("dataset"),
            reasons: [{ field: "recipe.name", old: "huatuo-lite", new: "ours" }],
        });
    });

    test("another limit that keeps the same rows converts, and retrains nothing", async () => {
        rig.configure({ ...base, dataset: { limit: 4000 } });
        const preview = await rig.json("preview");
        expect(preview.actions).toEqual(all("unchanged", { dataset: "would-run" }));
        expect(preview.stage("dataset").digest).toBe(digest("dataset"));
    });

    test.each([
        ["batchSize", 2, 1],
        ["gradientAccumulation", 1, 2],
        ["seed", 42, 7],
        ["learningRate", 0.01, 0.001],
        ["epochs", 3, 1],
        ["maxSteps", 4, 5],
        ["maxSamples", 100_000, 10],
        ["loraRank", 4, 8],
        ["method", "lora", "full"],
    ])("another training.%s retrains, and is named", async (field, old, now) => {
        rig.configure(base);
        const preview = await rig.json("preview", "--set", `training.${field}=${now}`);
        expect(preview.actions).toEqual(RETRAINED);
        expect(preview.stage("training").reasons).toEqual([{ field, old, new: now }]);
    });

    test.each([
        ["cutoffLength", 128, 64],
        ["precision", "fp32", "bf16"],
        ["threads", 2, 1],
    ])(
        "another training.%s retrains, and evaluation and export, which use it, name it too",
        async (field, old, now) => {
            const preview = await rig.json("preview", "--set", `training.${field}=${now}`);
            expect(preview.actions).toEqual(RETRAINED);
            for (const stage of ["training", "evaluation", "export"] as const) {
                expect(preview.stage(stage).reasons).toContainEqual({ field, old, new: now });
            }
            expect(preview.stage("training").reasons).toHaveLength(1);
        },
    );

    test("the effective batch made of other parts is another training", async () => {
        const set = ["--set", "training.batchSize=1", "--set", "training.gradientAccumulation=2"];
        const preview = await rig.json("preview", ...set);
        expect(preview.actions).toEqual(RETRAINED);
        expect(preview.stage("training").reasons).toEqual([
            { field: "batchSize", old: 2, new: 1 },
            { field: "gradientAccumulation", old: 1, new: 2 },
        ]);
    });

    test("another seed of the split retrains, with the digests of both data sets", async () => {
        const preview = await rig.json("preview", "--set", "dataset.split.seed=7");
        expect(preview.actions).toEqual(all("would-run", { model: "unchanged" }));
        expect(preview.stage("dataset").reasons).toEqual([{ field: "split.seed", old: 42, new: 7 }]);
        expect(preview.stage("training").reasons).toEqual([
            { field: "dataset", old: digest("dataset"), new: preview.stage("dataset").digest },
        ]);
    });

    test.each([
        ["evaluation.batchSize=2", ["evaluation", "report"]],
        ["evaluation.answeredRows=1", ["evaluation", "report"]],
        ["evaluation.maxNewTokens=4", ["evaluation", "export", "report"]],
        ["target.mirror=/nowhere", []],
    ] as const)("%s retrains nothing", async (set, rerun) => {
        const preview = await rig.json("preview", "--set", set);
        const others = Object.fromEntries(rerun.map((name) => [name, "would-run"]));
        expect(preview.actions).toEqual(all("unchanged", others));
    });

    test("a project and a home that were moved have nothing to do, and a refresh says where things lie now", async () => {
        for (const what of ["project", "home"] as const) {
            const moved = path.join(rig.folder, "moved", what);
            fs.mkdirSync(path.dirname(moved), { recursive: true });
            fs.renameSync(rig[what], moved);
            rig[what] = moved;
        }
        const { code, actions, answer } = await rig.json("up");
        expect({ code, actions }).toEqual({ code: 0, actions: all("unchanged") });
        expect(digestsOf(answer)).toEqual(digestsOf(first));
        const refreshed = await rig.json("refresh");
        expect(refreshed.actions).toEqual(all("unchanged"));
        const again = (await rig.json("up")).answer;
        for (const name of STAGES) expect(fs.existsSync(fileURLToPath(stageOf(again, name).uri ?? ""))).toBe(true);
    });

    test("the same description in an empty home has the same keys, and gives the same digests", async () => {
        rig.home = path.join(rig.folder, "another");
        const { code, actions, answer } = await rig.json("up");
        expect({ code, actions }).toEqual({ code: 0, actions: all("ran") });
        const keys = (one: Answer) => one.stages.filter(({ name }) => name !== "report").map(({ key }) => key);
        expect(keys(answer)).toEqual(keys(first));
        expect({ ...digestsOf(answer), report: "" }).toEqual({ ...digestsOf(first), report: "" });
    });
});
