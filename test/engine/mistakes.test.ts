import { execFileSync, spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { JsonObject } from "../../pipeline/identity";
import { all, listing, python, Rig } from "./rig";

interface Job {
    readonly inputs: Readonly<Record<string, string>>;
    readonly environment: Readonly<Record<string, string>>;
}

const jobIn = (run: string): Job => JSON.parse(fs.readFileSync(path.join(run, "job.json"), "utf8")) as Job;

/** Every weight in a safetensors file. */
function multiply(file: string, factor: string): void {
    const program = [
        "import sys; from safetensors.torch import load_file, save_file",
        "weights = {n: w * float(sys.argv[2]) for n, w in load_file(sys.argv[1]).items()}",
        "save_file(weights, sys.argv[1], {'format': 'pt'})",
    ];
    execFileSync(python, ["-c", program.join("\n"), file, factor], { stdio: "pipe" });
}

// Bad input gets a clear error before anything long starts, and loses nothing. One home, which a good `up` has filled.
describe("mistakes", () => {
    let rig: Rig;
    let before: string[];
    const untouched = () => listing(path.join(rig.home, "store"));
    beforeAll(async () => {
        rig = new Rig();
        expect((await rig.json("up")).actions).toEqual(all("ran"));
        before = untouched();
    });
    afterEach(() => {
        rig.configure();
    });
    afterAll(() => rig.dispose());

    /** A copy of the tiny model's folder with something done to it. */
    const tiny = (name: string, change: (folder: string) => void): string => {
        const folder = path.join(rig.folder, name);
        const [model] = rig.runs("Model");
        fs.cpSync(fs.realpathSync(path.join(model?.folder ?? "", "out")), folder, { recursive: true });
        change(folder);
        return folder;
    };

    describe("in the configuration", () => {
        test("several at once are reported together, with their paths, and nothing starts", async () => {
            rig.configure({
                model: { template: "qwen33" },
                dataset: { recipe: "huatuo-light", limit: 0 },
                training: {
                    learningrate: 1e-4,
                    learningRate: "fast",
                    method: "lora2",
                    llamafactory: { lora_droput: 0.1 },
                },
                evaluatoin: {},
            });
            const { code, stdout, stderr } = await rig.run("up");
            expect(code).toBe(2);
            expect(stdout).toMatch(/^up of stack test\nFailed after \d+\.\d s\.\n$/);
            const problems = [
                "evaluatoin: unknown; did you mean evaluation?",
                'model.template: unknown template "qwen33"; did you mean qwen3?',
                'dataset.recipe: unknown recipe "huatuo-light"; did you mean "huatuo-lite"? Known: huatuo-lite, huatuo-lite-english',
                "dataset.limit: expected a whole number from 1, got 0",
                'training.method: expected one of lora, qlora, full, freeze, got "lora2"; did you mean lora?',
                'training.learningRate: expected a number between 0 and 1, got "fast"',
                "training.learningrate: unknown; did you mean learningRate?",
                "training.llamafactory.lora_droput: unknown LLaMA-Factory option; did you mean lora_dropout?",
            ];
            const [first, ...lines] = stderr.trimEnd().split("\n");
            expect(first).toBe("the configuration has 8 problems:");
            expect(lines.sort()).toEqual(problems.map((problem) => `  retune:${problem}`).sort());
        });

        test("the preview says the same", async () => {
            const { code, stderr } = await rig.run("preview", "--set", "training.learningRate=2");
            expect({ code, stderr }).toEqual({
                code: 2,
                stderr:
                    "the configuration has a problem:\n" +
                    "  retune:training.learningRate: expected a number between 0 and 1, got 2\n",
            });
        });

        test("a fresh home stays empty", async () => {
            const home = rig.home;
            rig.home = path.join(rig.folder, "fresh");
            const { code } = await rig.run("up", "--set", "training.epochs=-1");
            expect(code).toBe(2);
            expect(rig.runs()).toEqual([]);
            expect(fs.existsSync(path.join(rig.home, "store"))).toBe(false);
            rig.home = home;
        });
    });

    describe("on the command line", () => {
        test.each([
            [["--stack", "nowhere"], "there is no stack nowhere: "],
            [
                ["--set", "training.learningRate"],
                "--set wants PATH=VALUE, such as training.learningRate=1e-4, got training.learningRate",
            ],
            [["--set", "=3"], "--set wants PATH=VALUE"],
            [["--sett", "a=1"], "unknown option '--sett'\n(Did you mean --set?)\n\nUsage: npm run up -- [options]"],
            [["now"], "too many arguments"],
        ])("%j", async (args, words) => {
            const { code, stdout, stderr } = await rig.run("up", ...args);
            expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
            expect(stderr.startsWith(words), stderr).toBe(true);
        });

        test.each([
            [["--stack", "nowhere"], "nowhere", "there is no stack nowhere: "],
            [["--stack=nowhere"], "nowhere", "there is no stack nowhere: "],
            [["--sett", "a=1", "--stack", "test"], "test", "unknown option '--sett'"],
        ])("with --json, %j is answered with an object too", async (args, stack, words) => {
            const { code, stdout, stderr } = await rig.run("up", "--json", ...args);
            expect(code).toBe(2);
            const answer = JSON.parse(stdout) as { error: string };
            expect(answer).toEqual({ stack, result: "failed", stages: [], outputs: {}, error: answer.error });
            expect(answer.error.startsWith(words), answer.error).toBe(true);
            expect(stderr).toBe(`${answer.error}\n`);
        });

        test.each(["logs", "stop"] as const)("%s of a run that is not there", async (command) => {
            expect(await rig.run(command, "abc")).toMatchObject({
                code: 1,
                stderr: "there is no run abc; `npm run status` lists the runs\n",
            });
            expect(await rig.run(command)).toMatchObject({ code: 2 });
        });
    });

    describe("in the data", () => {
        test.each(["preview", "up"] as const)("a file that is missing: %s", async (command) => {
            rig.configure({ dataset: { source: { file: "nowhere.jsonl" } } });
            const { code, answer, stderr } = await rig.json(command);
            expect({ code, result: answer.result, stages: answer.stages }).toEqual({
                code: 2,
                result: "failed",
                stages: [],
            });
            const file = path.join(rig.project, "nowhere.jsonl");
            expect(stderr).toContain(
                `the configuration has a problem:\n  retune:dataset.source.file: there is no file ${file}\n`,
            );
        });

        const rows = () => rig.sample(6).map((row) => JSON.stringify(row));
        test.each([
            ["empty", "", (file: string) => `${file} is empty: there is no row to convert.`],
            [
                "broken in a line",
                () => [...rows().slice(0, 4), '{"id": 5, "question":', ...rows().slice(5)].join("\n"),
                (file: string) => `${file}: line 5 is not valid JSON: `,
            ],
            [
                "not UTF-8",
                () =>
                    Buffer.concat([
                        Buffer.from(`${rows().slice(0, 2).join("\n")}\n{"question":"`),
                        Buffer.from([0xb8, 0xd0, 0xc3, 0xb0]),
                        Buffer.from('"}\n'),
                    ]),
                (file: string) =>
                    `${file}: line 3 is not UTF-8. Save the file as UTF-8, for example with \`iconv -f GB18030 -t UTF-8\`.`,
            ],
            [
                "without a column",
                () =>
                    rig
                        .sample(6)
                        .map(({ answer, ...row }) => JSON.stringify({ ...row, anwser: answer }))
                        .join("\n"),
                (file: string) =>
                    `${file} has no column "answer", which recipe huatuo-lite names. It has: id, question, label, related_diseases, score, anwser. Did you mean "anwser"?`,
            ],
            [
                "with no row that is kept",
                () =>
                    rig
                        .sample(6)
                        .map((row) => JSON.stringify({ ...row, label: " " }))
                        .join("\n"),
                (file: string) =>
                    `${file}: recipe huatuo-lite keeps none of 6 rows (empty label: 6). Check its columns and filters.`,
            ],
            [
                "leaking into what is held out",
                () => {
                    const please = "请医生看一看这个问题。".repeat(3);
                    return rig
                        .sample(60)
                        .flatMap(({ question, ...row }) => [
                            { ...row, question: `${please}${JSON.stringify(question)}` },
                            { ...row, question: `${please}${JSON.stringify(question)}谢谢` },
                        ])
                        .map((row) => JSON.stringify(row))
                        .join("\n");
                },
                () => "the data set is refused by its quality limits:\n  leaks: ",
            ],
        ])("a file that is %s", async (name, content, message) => {
            const file = path.join(rig.project, `${name}.jsonl`);
            rig.write(`${name}.jsonl`, typeof content === "string" ? content : content());
            rig.configure({ dataset: { source: { file: `${name}.jsonl` } } });
            const runs = rig.runs().length;
            for (const command of ["preview", "up"] as const) {
                const { code, answer, actions, stage } = await rig.json(command);
                expect({ code, result: answer.result }).toEqual({ code: 1, result: "failed" });
                // The model may or may not have had its turn before the engine stopped.
                expect({ ...actions, model: "" }).toEqual(all("skipped", { dataset: "failed", model: "" }));
                expect(stage("dataset").error?.startsWith(message(file)), stage("dataset").error).toBe(true);
            }
            expect(untouched()).toEqual(before);
            expect(rig.runs("Training")).toHaveLength(1);
            expect(rig.runs().length - runs).toBeLessThanOrEqual(1);
            rig.configure();
            expect((await rig.json("up")).actions).toEqual(all("unchanged"));
        });
    });

    describe("in the model", () => {
        const weights = "model.safetensors";
        test.each([
            [
                "no weights",
                (folder: string) => {
                    fs.rmSync(path.join(folder, weights));
                },
                " has no safetensors weights, nor any other: it is not the folder of a model, or its download is not complete",
            ],
            [
                "pickled weights",
                (folder: string) => {
                    fs.renameSync(path.join(folder, weights), path.join(folder, "pytorch_model.bin"));
                },
                " has no safetensors weights, only pickled ones (pytorch_model.bin), and loading those runs code: convert the model first",
            ],
            [
                "code of its own",
                (folder: string) => {
                    const file = path.join(folder, "config.json");
                    const config = JSON.parse(fs.readFileSync(file, "utf8")) as JsonObject;
                    fs.writeFileSync(file, JSON.stringify({ ...config, auto_map: { AutoModel: "modeling.Model" } }));
                },
                ": config.json has an auto_map, so the model needs trust_remote_code, which runs code from its repository; choose a model that transformers supports itself",
            ],
            [
                "no configuration",
                (folder: string) => {
                    fs.rmSync(path.join(folder, "config.json"));
                },
                " has no config.json: it is not a transformers model",
            ],
        ])("a folder with %s", async (name, change, message) => {
            const folder = tiny(name, change);
            rig.configure({ model: { source: { folder } } });
            const { code, stage, actions } = await rig.json("up");
            // The data set may or may not have had its turn before the engine stopped.
            expect({ code, ...actions, dataset: "" }).toEqual({
                code: 2,
                ...all("skipped", { dataset: "", model: "failed" }),
            });
            expect(stage("model").error).toBe(`source.folder: ${folder}${message}`);
            expect(untouched()).toEqual(before);
        });

        test("a good folder is the same model: nothing trains, and only the export, which names it, is made again", async () => {
            const folder = tiny("good", () => undefined);
            rig.configure({ model: { source: { folder } } });
            const { code, actions } = await rig.json("up");
            const named = { model: "ran", export: "ran", report: "ran" };
            expect({ code, actions }).toEqual({ code: 0, actions: all("unchanged", named) });
            rig.configure();
            const back = { model: "cached", export: "cached", report: "cached" };
            expect((await rig.json("up")).actions).toEqual(all("unchanged", back));
        });

        test("a template of another family fails before the first step", async () => {
            rig.configure({ model: { template: "llama3" } });
            const { code, actions, stage } = await rig.json("up");
            expect({ code, actions }).toEqual({
                code: 1,
                actions: all("skipped", { dataset: "unchanged", model: "unchanged", training: "failed" }),
            });
            const run = rig.runs("Training").at(-1)?.key.slice(0, 12) ?? "";
            expect(stage("training").error).toBe(
                `run ${run} failed: model.template: llama3 does not fit this model, whose tokenizer does not know ` +
                    "<|end_header_id|>, <|eot_id|>, <|start_header_id|>; set model.template to the one of the model's family\n" +
                    `  the whole log: npm run logs -- ${run}`,
            );
            expect(rig.runs("Training").at(-1)).toMatchObject({ state: "failed", steps: [] });
        });
    });

    describe("in a training", () => {
        test("a loss that becomes NaN ends it with the reason; the old model stays", async () => {
            const old = rig.stored("training")?.outputs;
            const folder = tiny("overflowing", (copy) => {
                multiply(path.join(copy, "model.safetensors"), "1e30");
            });
            rig.configure({ model: { source: { folder } } });
            const { code, answer, actions, stage, stderr } = await rig.json("up");
            const run = rig.runs("Training").at(-1);
            const name = run?.key.slice(0, 12) ?? "";
            expect(run?.reason).toMatch(
                /^(loss|grad_norm) became nan at step \d+: lower training\.learningRate, or check the data$/,
            );
            expect({ code, actions, result: answer.result }).toEqual({
                code: 1,
                actions: all("skipped", { dataset: "unchanged", model: "ran", training: "failed" }),
                result: "failed",
            });
            const error = stage("training").error ?? "";
            expect(
                error.startsWith(`run ${name} failed: ${run?.reason ?? ""}\n  last lines of its log:\n    `),
                error,
            ).toBe(true);
            expect(error.endsWith(`\n  the whole log: npm run logs -- ${name}`), error).toBe(true);
            expect(stderr).toContain(`the whole log: npm run logs -- ${name}`);
            expect(rig.stored("training")?.outputs).toEqual(old);
            expect((await rig.run("logs", name)).stdout).toContain(run?.reason);
            rig.configure();
            expect((await rig.json("up")).actions).toEqual(all("unchanged", { model: "cached" }));
        });

        test("a setting that is put right runs", async () => {
            rig.configure({ training: { learningRate: 0.001 } });
            const { code, actions } = await rig.json("up");
            expect({ code, actions }).toEqual({
                code: 0,
                actions: all("ran", { dataset: "unchanged", model: "unchanged" }),
            });
        });

        test.each([
            ["base", "Baseline", "its weights may be damaged: take another model.source"],
            ["tuned", "Answers", "lower training.learningRate"],
        ])("a %s model that gives no number is named when it is evaluated", (whose, kind, remedy) => {
            const run = rig.runs(kind).at(-1);
            const { inputs, environment } = jobIn(run?.folder ?? "");
            const { model = "", ...others } = inputs;
            const folder = fs.mkdtempSync(path.join(rig.folder, "evaluation-"));
            const work = path.join(folder, "work");
            fs.mkdirSync(path.join(work, "out"), { recursive: true });
            for (const name of ["job.json", "programs"]) {
                fs.cpSync(path.join(run?.folder ?? "", name), path.join(folder, name), { recursive: true });
            }
            for (const [name, digest] of Object.entries(others)) {
                fs.symlinkSync(path.join(rig.home, "store", digest), path.join(work, name));
            }
            fs.cpSync(path.join(rig.home, "store", model), path.join(work, "model"), { recursive: true });
            multiply(path.join(work, "model", "model.safetensors"), "nan");
            const env = { ...process.env, ...environment };
            const ended = spawnSync(python, ["../programs/evaluate.py"], { cwd: work, env, encoding: "utf8" });
            expect(ended.status, ended.stderr).toBe(1);
            expect(JSON.parse(fs.readFileSync(path.join(work, "outcome.json"), "utf8"))).toEqual({
                error: `the ${whose} model's loss is no number on any held-out row: ${remedy}`,
            });
        });
    });
});
