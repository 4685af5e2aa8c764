import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { JsonObject } from "../../pipeline/identity";
import type { Result } from "../../pipeline/store/store";
import { all, digestsOf, filesBelow, listing, python, Rig, stageOf, STAGES, type Answer } from "./rig";

// One home, from nothing to destroyed and back: each test goes on where the one before it ended.
describe("a pipeline over its life", () => {
    let rig: Rig;
    let first: Answer;
    beforeAll(() => {
        rig = new Rig();
    });
    afterAll(() => rig.dispose());

    const folderOf = (answer: Answer, stage: (typeof STAGES)[number]) =>
        fileURLToPath(stageOf(answer, stage).uri ?? "");
    const keys = () => rig.runs().map(({ key }) => key);
    const kindsSince = (before: readonly string[]) =>
        rig
            .runs()
            .filter(({ key }) => !before.includes(key))
            .map(({ kind }) => kind)
            .sort();

    test("the first up runs every stage", async () => {
        const { code, answer, actions, stage, stderr } = await rig.json("up");
        first = answer;
        expect(stderr).toMatch(/^Done in (\d+\.\d s|\d+ min)\. Report: file:\S+report\.html$/m);
        expect({ code, actions, stack: answer.stack, result: answer.result }).toEqual({
            code: 0,
            actions: all("ran"),
            stack: "test",
            result: "succeeded",
        });
        for (const { name, type, key, digest, run, seconds, uri, reasons } of answer.stages) {
            expect(type).toBe(`finetune:pipeline:${name.charAt(0).toUpperCase()}${name.slice(1)}`);
            expect([key, digest]).toEqual([
                expect.stringMatching(/^[0-9a-f]{64}$/),
                expect.stringMatching(/^[0-9a-f]{64}$/),
            ]);
            expect(run).toBe(key?.slice(0, 12));
            expect(seconds).toBeTypeOf("number");
            expect(fileURLToPath(uri ?? "")).toBe(path.join(rig.home, "runs", key ?? "", "out"));
            expect(fs.existsSync(fileURLToPath(uri ?? ""))).toBe(true);
            expect(reasons).toEqual([]);
        }
        expect(stage("dataset").facts).toEqual({
            scanned: 40,
            kept: 38,
            dropped: { "empty label": 1, "empty question": 1 },
            rows: { train: 30, validation: 4, test: 4 },
            found: {},
        });
        const host = { name: os.hostname(), machine: os.machine(), cpus: os.cpus().length };
        expect(stage("training").host).toMatchObject(host);
        const number = expect.any(Number) as number;
        expect(stage("model").facts).toEqual({ files: 6, bytes: number });
        expect(stage("training").facts).toEqual({ steps: 4, loss: number, evalLoss: number });
        const metrics = { evalLoss: number, bleu4: number, rouge1: number, rouge2: number, rougeL: number, rows: 4 };
        expect(stage("evaluation").facts).toEqual({
            rows: 4,
            base: metrics,
            incumbent: null,
            tuned: metrics,
            verdict: "ungated",
        });
        const parity = { checked: 2, equal: 2, tensors: 24, logits: number };
        expect(stage("export").facts).toEqual({ files: 11, bytes: number, parity });
        expect(answer.outputs).toEqual({
            trained: stage("training").uri,
            exported: stage("export").uri,
            api: null,
            report: `${stage("report").uri ?? ""}/report.html`,
        });
        const took = (kind: string): number =>
            (JSON.parse(fs.readFileSync(path.join(rig.runs(kind)[0]?.folder ?? "", "result.json"), "utf8")) as Result)
                .seconds;
        const answering = took("Baseline") + took("Answers");
        expect(stage("evaluation").seconds).toBeCloseTo(answering + took("Evaluation"), 5);
        expect(keys()).toHaveLength(8); // the six stages, and the answers of base and tuned model
    });

    test("its files are really there, and transformers loads the merged model", () => {
        expect(filesBelow(fs.realpathSync(folderOf(first, "training")))).toEqual(
            expect.arrayContaining(["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"]),
        );
        const exported = fs.realpathSync(folderOf(first, "export"));
        expect(filesBelow(exported)).toEqual(
            expect.arrayContaining(["README.md", "SHA256SUMS", "config.json", "model.safetensors", "retune.json"]),
        );
        const manifest = JSON.parse(fs.readFileSync(path.join(exported, "retune.json"), "utf8")) as JsonObject;
        expect(manifest).toMatchObject({ base: { random: { seed: 1 } }, licence: null });
        // A machine with a GPU has more to say, an Arm no name of its processor.
        const { machine, cpu, gpus, driver } = stageOf(first, "training").host ?? {};
        const hardware = JSON.stringify({ machine, cpu, gpus, driver });
        expect(manifest["hardware"]).toEqual(JSON.parse(hardware));
        expect(JSON.stringify(manifest)).not.toContain(os.hostname());
        execFileSync("sha256sum", ["--check", "--strict", "--quiet", "SHA256SUMS"], { cwd: exported });
        expect(fs.readFileSync(path.join(folderOf(first, "report"), "report.html"), "utf8")).toMatch(
            /^<!doctype html>/i,
        );
        const program = [
            "import sys, torch, transformers as t",
            "m = t.AutoModelForCausalLM.from_pretrained(sys.argv[1]); k = t.AutoTokenizer.from_pretrained(sys.argv[1])",
            "n = m.generate(k('感冒了', return_tensors='pt').input_ids, max_new_tokens=4, do_sample=False)",
            "print(type(m).__name__, n.shape[0], all(bool(torch.isfinite(p).all()) for p in m.parameters()))",
        ];
        const said = execFileSync(python, ["-c", program.join("\n"), exported], {
            encoding: "utf8",
            env: { ...process.env, HF_HUB_OFFLINE: "1" },
            stdio: "pipe", // what it says on stderr is part of the error
        });
        expect(said.trim()).toBe("Qwen3ForCausalLM 1 True");
    });

    test("the git tree is as it was committed", () => {
        expect(rig.gitStatus()).toBe("");
    });

    test("a second up, by somebody of another locale, does nothing, starts nothing, writes nothing", async () => {
        const runtime = fs.mkdtempSync(path.join(rig.folder, "runtime-"));
        const before = [...listing(path.join(rig.home, "runs")), ...listing(path.join(rig.home, "store"))];
        // Stages that do not depend on each other are written in any order.
        const resources = () =>
            STAGES.map((name) => ({ ...rig.stored(name), dependencies: [], propertyDependencies: {} }));
        const state = resources();
        Object.assign(rig.environment, { XDG_RUNTIME_DIR: runtime, LC_ALL: "zh_CN.UTF-8" });
        const { code, answer, actions, stderr } = await rig.json("up").finally(() => {
            Object.assign(rig.environment, { XDG_RUNTIME_DIR: rig.runtime, LC_ALL: undefined });
        });
        expect({ code, actions }).toEqual({ code: 0, actions: all("unchanged") });
        expect(stderr).toMatch(/^up of stack test\nNothing to do: 6 stages are unchanged \(\d+\.\d s\)\.\n$/);
        expect(digestsOf(answer)).toEqual(digestsOf(first));
        expect(answer.outputs).toEqual(first.outputs);
        // Whoever submits a run, or starts a worker, makes a folder there.
        expect(fs.readdirSync(runtime)).toEqual([]);
        expect([...listing(path.join(rig.home, "runs")), ...listing(path.join(rig.home, "store"))]).toEqual(before);
        expect(resources()).toEqual(state);
    });

    test("another learning rate: the preview names what would run, and why", async () => {
        const before = listing(rig.home);
        const { code, actions, stage, stderr } = await rig.json("preview", "--set", "training.learningRate=1e-4");
        expect({ code, actions }).toEqual({
            code: 0,
            actions: all("would-run", { dataset: "unchanged", model: "unchanged" }),
        });
        expect(stage("training").reasons).toEqual([{ field: "learningRate", old: 0.01, new: 0.0001 }]);
        expect(stage("evaluation").reasons).toEqual([
            { field: "trained", old: stageOf(first, "training").digest, new: "unknown" },
        ]);
        expect(stage("export").reasons).toEqual([
            { field: "provenance.training.learningRate", old: 0.01, new: 0.0001 },
            { field: "trained", old: stageOf(first, "training").digest, new: "unknown" },
        ]);
        expect(stage("training").key).toMatch(/^[0-9a-f]{64}$/);
        expect(stage("training").digest).toBeUndefined();
        expect(stage("training")).toMatchObject({
            keeps: ["dataset", "model"],
            expectedSeconds: stageOf(first, "training").seconds,
        });
        expect(stage("evaluation").keeps).toEqual(["dataset", "model", "baseline"]);
        expect(stage("model")).toMatchObject({
            run: stageOf(first, "model").run,
            madeAt: stageOf(first, "model").madeAt,
        });
        expect(stderr).toMatch(
            /^ {2}training {4}would run {7}about \d+ s\n {14}learningRate 0\.01 → 0\.0001\n {14}keeps dataset, model$/m,
        );
        expect(stderr).toMatch(/^Would run 4 \(about \d+ (s|min)\), reuse 0, unchanged 2 \(\d+\.\d s\)\.$/m);
        const more = await rig.json("preview", "--set", "training.maxSteps=4000");
        expect(more.stage("training").expectedSeconds).toBeGreaterThan(10 * (stageOf(first, "training").seconds ?? 0));
        const other = await rig.json("preview", "--set", "training.loraRank=8");
        expect(other.stage("training")).toMatchObject({ lastSeconds: stageOf(first, "training").seconds });
        expect(other.stage("training").expectedSeconds).toBeUndefined();
        expect(listing(rig.home)).toEqual(before);
    });

    test("up with it runs exactly those stages; up without it takes the old model back without a run", async () => {
        const before = keys();
        const changed = await rig.json("up", "--set", "training.learningRate=1e-4");
        expect({ code: changed.code, actions: changed.actions }).toEqual({
            code: 0,
            actions: all("ran", { dataset: "unchanged", model: "unchanged" }),
        });
        expect(changed.stage("training").reasons).toEqual([{ field: "learningRate", old: 0.01, new: 0.0001 }]);
        expect(changed.stage("training").digest).not.toBe(stageOf(first, "training").digest);
        expect(kindsSince(before)).toEqual(["Answers", "Evaluation", "Export", "Report", "Training"]); // the base is not evaluated again

        const page = fs.readFileSync(path.join(folderOf(changed.answer, "report"), "report.html"), "utf8");
        expect(page.replace(/<[^>]+>|\s+/g, " ")).toMatch(/were expected\. +Why: +learningRate 0\.01 → 0\.0001 /);

        const after = keys();
        const back = await rig.json("preview");
        expect(back.actions).toEqual(all("would-reuse", { dataset: "unchanged", model: "unchanged" }));
        const { run, madeAt, digest } = stageOf(first, "training");
        expect(back.stage("training")).toMatchObject({
            ...{ run, madeAt, digest },
            reasons: [{ field: "learningRate", old: 0.0001, new: 0.01 }],
        });
        const reverted = await rig.json("up");
        expect({ code: reverted.code, actions: reverted.actions }).toEqual({
            code: 0,
            actions: all("cached", { dataset: "unchanged", model: "unchanged" }),
        });
        expect(digestsOf(reverted.answer)).toEqual(digestsOf(first));
        expect(keys()).toEqual(after);
        expect(rig.gitStatus()).toBe("");
    });

    describe("the same rows in another file", () => {
        const reordered = (row: JsonObject): JsonObject => Object.fromEntries(Object.entries(row).reverse());
        const quoted = (value: unknown): string => `"${(value ?? "") as string}"`.replace(/(?<!^)"(?!$)/g, '""');

        test("a copy under another name is the same data", async () => {
            fs.copyFileSync(path.join(rig.project, "rows.jsonl"), path.join(rig.project, "copy.jsonl"));
            rig.configure({ dataset: { source: { file: "copy.jsonl" } } });
            expect((await rig.json("preview")).actions).toEqual(all("unchanged"));
        });

        test.each([
            ["a JSON array with its fields in another order", "rows.json"],
            ["CSV", "rows.csv"],
        ])("%s is converted again, and nothing after it runs", async (_, file) => {
            const rows = rig.sample(40).map(reordered);
            const names = Object.keys(rows[0] ?? {});
            const csv = [names, ...rows.map((row) => names.map((name) => row[name]))];
            rig.write(
                file,
                file.endsWith(".csv")
                    ? csv.map((values) => `${values.map(quoted).join(",")}\r\n`).join("")
                    : JSON.stringify(rows, undefined, 2),
            );
            rig.configure({ dataset: { source: { file } } });
            const before = keys();
            const preview = await rig.json("preview");
            expect(preview.actions).toEqual(all("unchanged", { dataset: "would-run" }));
            expect(preview.stage("dataset").digest).toBe(stageOf(first, "dataset").digest);
            const { code, actions, answer } = await rig.json("up");
            expect({ code, actions }).toEqual({ code: 0, actions: all("unchanged", { dataset: "ran" }) });
            expect(digestsOf(answer)).toEqual(digestsOf(first));
            expect(kindsSince(before)).toEqual(["Dataset"]);
        });

        test("a changed row trains again", async () => {
            const rows = rig.sample(40);
            rig.writeRows([...rows.slice(0, -1), { ...rows.at(-1), answer: "多休息，多喝水。" }], "changed.jsonl");
            rig.configure({ dataset: { source: { file: "changed.jsonl" } } });
            const preview = await rig.json("preview");
            expect(preview.actions).toEqual(all("would-run", { model: "unchanged" }));
            expect(preview.stage("training").reasons).toEqual([
                { field: "dataset", old: stageOf(first, "dataset").digest, new: preview.stage("dataset").digest },
            ]);
            const before = keys();
            const { code, actions } = await rig.json("up");
            expect({ code, actions }).toEqual({ code: 0, actions: all("ran", { model: "unchanged" }) });
            // The rows that are held out are the same: the base model is not asked again.
            expect(kindsSince(before)).toEqual(["Dataset", "Evaluation", "Export", "Report", "Training"]);
            rig.configure();
            expect((await rig.json("up")).actions).toEqual(all("cached", { model: "unchanged" }));
        });
    });

    test("refresh shows altered and deleted artifacts; up repairs exactly those", async () => {
        const adapter = path.join(fs.realpathSync(folderOf(first, "training")), "adapter_model.safetensors");
        fs.appendFileSync(adapter, "x");
        fs.rmSync(fs.realpathSync(folderOf(first, "report")), { recursive: true });
        const refreshed = await rig.json("refresh");
        expect({ code: refreshed.code, actions: refreshed.actions }).toEqual({
            code: 0,
            actions: all("unchanged", { training: "drifted", report: "drifted" }),
        });
        expect(refreshed.stderr).toMatch(/^Drifted \(\d+\.\d s\): `npm run up` repairs it\.$/m);
        expect(rig.stored("training")?.outputs).toMatchObject({
            drift: "adapter_model.safetensors was altered",
            digest: stageOf(first, "training").digest,
        });
        expect(rig.stored("report")?.outputs).toMatchObject({
            drift: "report.html is gone",
            digest: stageOf(first, "report").digest,
        });

        const attempts = () =>
            Object.fromEntries(rig.runs().map(({ kind, key, attempt }) => [`${kind} ${key}`, attempt]));
        const before = attempts();
        const preview = await rig.json("preview");
        expect(preview.stage("training")).toMatchObject({
            action: "would-run",
            reasons: [{ field: "drift", old: "adapter_model.safetensors was altered", new: null }],
        });
        const { code, actions, answer } = await rig.json("up");
        expect({ code, actions }).toEqual({ code: 0, actions: all("unchanged", { training: "ran", report: "ran" }) });
        // The page tells of this update, so it is another one; the adapter is the same to the byte.
        expect({ ...digestsOf(answer), report: "" }).toEqual({ ...digestsOf(first), report: "" });
        first = answer;
        expect(attempts()).toEqual({
            ...before,
            [`Training ${stageOf(first, "training").key ?? ""}`]: 2,
        });
        expect(rig.stored("training")?.outputs).not.toHaveProperty("drift");
        expect((await rig.json("refresh")).actions).toEqual(all("unchanged"));
    });

    test("destroy keeps the artifacts, and up takes everything from the store", async () => {
        const artifacts = listing(path.join(rig.home, "store"));
        const before = keys();
        const destroyed = await rig.json("destroy");
        expect({ code: destroyed.code, actions: destroyed.actions }).toEqual({ code: 0, actions: all("deleted") });
        expect(destroyed.stderr).toMatch(/^Destroyed \(\d+\.\d s\); runs and artifacts are still in the store\.$/m);
        expect(listing(path.join(rig.home, "store"))).toEqual(artifacts);
        const { code, actions, answer } = await rig.json("up");
        expect({ code, actions }).toEqual({ code: 0, actions: all("cached") });
        expect(digestsOf(answer)).toEqual(digestsOf(first));
        expect(keys()).toEqual(before);
    });

    test("a lost state costs no run", async () => {
        const before = keys();
        fs.rmSync(path.join(rig.home, "state"), { recursive: true });
        const preview = await rig.json("preview");
        expect(preview.actions).toEqual(all("would-reuse"));
        const { code, actions, answer } = await rig.json("up");
        expect({ code, actions }).toEqual({ code: 0, actions: all("cached") });
        expect(digestsOf(answer)).toEqual(digestsOf(first));
        expect(keys()).toEqual(before);
        expect(
            rig
                .gitStatus()
                .split("\n")
                .filter((line) => line.startsWith(" M")),
        ).toEqual([]);
    });
});
