import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as http from "node:http";
import type { AddressInfo } from "node:net";
import * as path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { JsonObject } from "../../pipeline/identity";
import { judge, type Gate, type Verdict } from "../../pipeline/gate";
import { reportSchema, type ModelEvaluation } from "../../pipeline/report/data";
import { Browser, chromium } from "../unit/chromium";
import { all, filesBelow, listing, pulumi, python, Rig, stageOf, type Answer } from "./rig";

/** `evaluation.json` of the stage. */
interface Evaluation {
    readonly base: ModelEvaluation;
    readonly incumbent?: ModelEvaluation;
    readonly tuned: ModelEvaluation;
    readonly gate: Gate;
    readonly verdict: Verdict;
}

const read = (file: string): unknown => JSON.parse(fs.readFileSync(file, "utf8"));
const folderOf = (answer: Answer, stage: "dataset" | "evaluation" | "export" | "report") =>
    fs.realpathSync(fileURLToPath(stageOf(answer, stage).uri ?? ""));

const SCORES = ["bleu4", "rouge1", "rouge2", "rougeL"] as const;

/** What recompute.py makes of an evaluation. */
interface Recomputed {
    readonly cases: Readonly<Record<string, readonly Readonly<Record<(typeof SCORES)[number], number>>[]>>;
    readonly metrics: Readonly<Record<string, Readonly<Record<"evalLoss" | (typeof SCORES)[number], number>>>>;
    readonly conditions: readonly {
        readonly tuned: number;
        readonly other: number | null;
        readonly held: boolean;
        readonly resampled?: {
            readonly certainty: number;
            readonly low: readonly [below: number, upTo: number];
            readonly high: readonly [below: number, upTo: number];
        };
    }[];
}

/** Holds scores, means and verdict against what another program works out from the answers, with draws of its own. */
function expectRecomputed({ verdict, gate, ...models }: Evaluation): void {
    const input = JSON.stringify({ ...models, gate, verdict });
    const program = path.join(import.meta.dirname, "recompute.py");
    const recomputed = JSON.parse(execFileSync(python, [program], { input, encoding: "utf8" })) as Recomputed;
    for (const [name, { cases, metrics }] of Object.entries(models)) {
        const scores = cases.map((one) => Object.fromEntries(SCORES.map((metric) => [metric, one[metric]])));
        expect(scores, name).toEqual(recomputed.cases[name]?.map(({ ...own }) => about(own, 1e-4)));
        const { evalLoss, ...means } = recomputed.metrics[name] ?? { evalLoss: NaN };
        expect(metrics).toMatchObject({ ...about({ evalLoss }, 1e-4), ...about(means, 0.01) });
    }
    for (const [number, { tuned, other, held, resampled }] of recomputed.conditions.entries()) {
        const outcome = verdict.conditions[number];
        expect(outcome, outcome?.text).toMatchObject({
            ...about({ tuned }, 1e-4),
            ...(other === null ? { other } : about({ other }, 1e-4)),
            held,
        });
        expect(outcome?.certainty === undefined).toBe(resampled === undefined);
        if (resampled === undefined) continue;
        const { certainty, low, high } = resampled;
        expect(Math.abs((outcome?.certainty ?? NaN) - certainty), outcome?.text).toBeLessThan(0.05);
        // Of few rows many resamples have the very same mean: a limit has 2.5 % of them below it, give or take its own.
        for (const [[below, upTo], share] of [
            [low, 0.025],
            [high, 0.975],
        ] as const) {
            expect({ below: below < share + 0.015, upTo: upTo > share - 0.015 }, outcome?.text).toEqual({
                ...{ below: true, upTo: true },
            });
        }
    }
    const isRefused = recomputed.conditions.some(({ held }) => !held);
    expect(verdict.decision).toBe(isRefused ? "refused" : "accepted");
}

/** Each number as one that may differ by so much, as rounding makes it. */
function about(values: Readonly<Record<string, number>>, tolerance: number): Record<string, number> {
    const digits = -Math.log10(2 * tolerance);
    return Object.fromEntries(
        Object.entries(values).map(([name, value]) => [name, expect.closeTo(value, digits) as number]),
    );
}

/** The same answers, with the verdict of a gate that has conditions of all kinds on all that is in the file. */
function judgedByAll({ base, incumbent, tuned, verdict }: Evaluation): Evaluation {
    const conditions = (["evalLoss", ...SCORES] as const).flatMap((metric) => [
        { metric, against: "base" as const, maxRegression: 0 },
        { metric, against: "incumbent" as const, maxRegression: metric === "evalLoss" ? 0.5 : 30 },
        { metric, against: metric === "evalLoss" ? 1 : 40, maxRegression: 0 },
    ]);
    const gate = { conditions, minRows: 0 };
    const models = { base, tuned, ...(incumbent === undefined ? {} : { incumbent }) };
    return { ...models, gate, verdict: judge(gate, { incumbent, ...models }, verdict.model) };
}

/** Complaints by the advice that they get: a question names three of them, so that even the tiny model learns the answer. */
const COMPLAINTS = {
    "多休息，少走动。": ["头痛", "头晕", "失眠", "疲劳", "心悸", "乏力"],
    "多喝水，少吃盐。": ["咳嗽", "咽干", "鼻塞", "痰多", "声哑", "喷嚏"],
    "先退热，再服药。": ["发烧", "寒战", "高热", "畏寒", "盗汗", "潮热"],
    "快就医，少耽误。": ["胸痛", "咯血", "昏迷", "抽搐", "便血", "失明"],
};

/** Every three complaints of the same kind once: 20 questions for each advice. */
function consultations() {
    const rows = Object.entries(COMPLAINTS).flatMap(([answer, all]) =>
        all.flatMap((one, i) =>
            all
                .slice(i + 1)
                .flatMap((two, j) => all.slice(i + j + 2).map((three) => [one, two, three].join("、")))
                .map((question) => ({ question, answer, label: "内科" })),
        ),
    );
    return rows.map((row, id) => ({ ...row, id, related_diseases: "", score: 5 }));
}

// One home with the real LLaMA-Factory, from a first model to one that is refused and back.
describe("a worse model", () => {
    let rig: Rig;
    let first: Answer;
    let exported: string[];
    const STEPS = 100;
    const HELD_OUT = 16;
    const ANSWERED = { answeredRows: HELD_OUT, maxNewTokens: 12 };
    const GATED: JsonObject = {
        dataset: { split: { test: 0.2 } },
        training: { method: "full", maxSteps: STEPS, batchSize: 8, threads: 1 },
        evaluation: { gate: null, ...ANSWERED },
    };
    const count = (kind: string): number => rig.runs(kind).length;
    const models = () => ["Baseline", "Answers", "Training", "Export"].map(count);

    beforeAll(() => {
        rig = new Rig();
        rig.writeRows(consultations());
        rig.configure(GATED);
    });
    afterAll(() => rig.dispose());

    test("a first model has no incumbent: it passes against the base alone", async () => {
        const { code, answer, actions, stage, stderr } = await rig.json("up");
        expect({ code, actions }, stderr).toEqual({ code: 0, actions: all("ran") });
        expect(stage("evaluation").facts).toMatchObject({ rows: HELD_OUT, incumbent: null, verdict: "accepted" });
        expect(stderr).toContain("warning: 16 held-out rows are fewer than 30: the verdict may be chance\n");
        first = answer;
        exported = listing(folderOf(first, "export"));
    });

    test("its verdict agrees with another computation from the answers in the file", () => {
        const evaluation = read(path.join(folderOf(first, "evaluation"), "evaluation.json")) as Evaluation;
        const { base, tuned, incumbent, verdict } = evaluation;
        const test = fs.readFileSync(path.join(folderOf(first, "dataset"), "test.jsonl"), "utf8").trimEnd();
        const rows = test.split("\n").map((line) => JSON.parse(line) as { input: string; output: string });
        expect(incumbent).toBeUndefined();
        for (const model of [base, tuned]) {
            expect(model.losses.map(({ question }) => question)).toEqual(rows.map(({ input }) => input));
            expect(model.cases.map(({ question, reference }) => ({ input: question, output: reference }))).toEqual(
                rows.map(({ input, output }) => ({ input, output })),
            );
        }
        expect(verdict.conditions.map(({ against, held }) => [against, held])).toEqual([
            ["base", true],
            ["incumbent", true],
        ]);
        expectRecomputed(evaluation);
        expectRecomputed(judgedByAll(evaluation));
    });

    test("answers that are shuffled before the training: refused, the old export stays byte for byte", async () => {
        const test = fs.readFileSync(path.join(folderOf(first, "dataset"), "test.jsonl"), "utf8");
        const isHeldOut = ({ question }: { question: string }) => test.includes(JSON.stringify(question));
        const trained = consultations().filter((row) => !isHeldOut(row));
        expect(trained).toHaveLength(80 - HELD_OUT);
        // The very same answers, dealt out anew: most questions get a wrong one.
        const shuffled = consultations().map((row) => {
            const place = trained.findIndex(({ id }) => id === row.id);
            return place < 0 ? row : { ...row, answer: trained[(place * 37 + 5) % trained.length]?.answer ?? "" };
        });
        const sorted = (rows: readonly { answer: string }[]) => rows.map(({ answer }) => answer).sort();
        expect(sorted(shuffled)).toEqual(sorted(consultations()));
        rig.writeRows(shuffled);
        const before = rig.stored("export");
        const { code, answer, actions, stage, stderr } = await rig.json("up");
        expect({ code, result: answer.result, actions }, stderr).toEqual({
            code: 3,
            result: "refused",
            actions: all("ran", { model: "unchanged", evaluation: "refused", export: "skipped", report: "skipped" }),
        });
        // The held-out rows are what they were: neither base nor incumbent is asked again.
        expect(["Baseline", "Answers", "Training"].map(count)).toEqual([1, 2, 2]);
        expect(stderr).toMatch(
            /^Refused by the gate after (\d+\.\d s|\d+ min); the old model stays\. Report: file:\S+$/m,
        );
        const error = stage("evaluation").error ?? "";
        const number = String.raw`\d+\.\d{4}`;
        expect(error).toMatch(
            new RegExp(
                String.raw`^refused by the gate: 1 of 2 conditions failed\n` +
                    `  evalLoss ${number} against ${number} of the incumbent: worse by ${number}, where 0 is allowed \\(`,
            ),
        );
        const named = [...error.matchAll(/^ {4}evalLoss \S+ against \S+ \(incumbent\): (.*?)…?$/gm)].map(
            (one) => one[1],
        );
        expect(named.length).toBeGreaterThan(0);
        for (const question of named) expect(test).toContain(question);

        expect(listing(folderOf(first, "export"))).toEqual(exported);
        execFileSync("sha256sum", ["--check", "--strict", "--quiet", "SHA256SUMS"], { cwd: folderOf(first, "export") });
        expect(rig.stored("export")).toEqual(before);
        expect(rig.stored("evaluation")?.outputs).toMatchObject({ key: stageOf(first, "evaluation").key });
        expect(rig.runs("Training").map(({ state }) => state)).toEqual(["succeeded", "succeeded"]);
        // The same for programs.
        const { key, facts } = stage("evaluation");
        const { tuned: accepted } = stageOf(first, "evaluation").facts as { tuned: { evalLoss: number } };
        const judged = facts as {
            verdict: string;
            failed: [{ certainty: number; tuned: number; other: number }];
            worse: { question: string }[];
        };
        expect(rig.runs("Evaluation").map((one) => one.key)).toContain(key);
        expect(judged).toMatchObject({
            verdict: "refused",
            // Against the base it holds: what an answer looks like was learned, only not which.
            failed: [
                {
                    metric: "evalLoss",
                    against: "incumbent",
                    held: false,
                    other: expect.closeTo(accepted.evalLoss, 3) as number,
                },
            ],
        });
        const [{ certainty, tuned: lost, other }] = judged.failed;
        expect({ isSure: certainty > 0.95, isFar: lost > 2 * other }).toEqual({ isSure: true, isFar: true });
        expect(judged.worse.length).toBeGreaterThan(0);
        for (const { question } of judged.worse) expect(test).toContain(question);
        // Every case of all three models is there to be looked at.
        const file = fileURLToPath(/all there is to say: (.*)$/m.exec(error)?.[1] ?? "");
        const evaluation = read(path.join(file, "evaluation.json")) as Evaluation;
        const { base, incumbent, tuned } = evaluation;
        const three = [base, incumbent, tuned].flatMap((model) => model ?? []);
        expect(three.map(({ losses, cases }) => [losses.length, cases.length])).toEqual(
            Array(3).fill([HELD_OUT, HELD_OUT]),
        );
        expect(lost).toBeLessThan(base.metrics.evalLoss ?? NaN);
        expectRecomputed(evaluation);
        expectRecomputed(judgedByAll(evaluation));
    });

    test("the same again is refused again, and nothing runs", async () => {
        const before = rig.runs().length;
        const { code, actions } = await rig.json("up");
        expect({ code, evaluation: actions["evaluation"] }).toEqual({ code: 3, evaluation: "refused" });
        expect(rig.runs()).toHaveLength(before);
    });

    test("its page is in the history beside that of the first model, with the curves of both", () => {
        const history = path.join(rig.home, "history", "test");
        expect(fs.readdirSync(history).sort()).toEqual(["1", "2", "index.html"]);
        const report = reportSchema.parse(read(path.join(history, "2", "report.json")));
        expect(report.verdict.decision).toBe("refused");
        expect(report.stages.map(({ name, action }) => `${name} ${action}`)).toEqual([
            ...["dataset ran", "model unchanged", "training ran", "evaluation refused", "export skipped"],
        ]);
        const { incumbent, training, differences } = report;
        expect(incumbent?.trained).toBe(stageOf(first, "training").digest);
        expect([incumbent?.training?.losses.length, training.losses.length]).toEqual([STEPS, STEPS]);
        // Each metric against both, each with its interval.
        expect(differences.filter(({ interval }) => interval !== undefined)).toHaveLength(10);
        const page = fs.readFileSync(path.join(history, "2", "report.html"), "utf8");
        expect(page).toContain('<div class="decision refused">');
        expect(page).toContain("Training loss of the incumbent: from ");
    });

    test("going back takes what is there, and then everything is unchanged", async () => {
        rig.writeRows(consultations());
        const before = rig.runs().length;
        const back = await rig.json("up");
        expect({ code: back.code, actions: back.actions }).toEqual({
            code: 0,
            actions: all("unchanged", { dataset: "cached", training: "cached" }),
        });
        expect((await rig.json("up")).actions).toEqual(all("unchanged"));
        expect(rig.runs()).toHaveLength(before);
        expect(listing(folderOf(first, "export"))).toEqual(exported);
    });

    /** As a refusal names it. */
    const model = () => stageOf(first, "training").digest?.slice(0, 12) ?? "";
    const STRICT = { conditions: [{ metric: "evalLoss", against: 0.001 }], minRows: 0 };

    test("a threshold that is raised refuses without running a model, also past an override of another one", async () => {
        const override = { reason: "of last week", model: "0".repeat(12) };
        rig.configure({ ...GATED, evaluation: { gate: { ...STRICT, override }, ...ANSWERED } });
        const before = models();
        const preview = await rig.json("preview");
        expect(preview.code).toBe(0);
        expect(preview.stderr).toContain("warning: this would be refused by the gate: the condition failed\n");
        const { code, actions, stage } = await rig.json("up");
        expect({ code, actions }).toEqual({
            code: 3,
            actions: all("unchanged", { evaluation: "refused", export: "skipped", report: "skipped" }),
        });
        const error = stage("evaluation").error ?? "";
        expect(error).toMatch(
            /^refused by the gate: the condition failed\n {2}evalLoss \d+\.\d{4} against 0\.0010, the most that is accepted: worse by \d+\.\d{4} \(100 % sure\)\n/,
        );
        expect(error).toContain(
            `\n  gate.override ("of last week") is for model 000000000000, this one is ${model()}\n` +
                `  to accept this model all the same: retune:evaluation.gate.override: { reason: …, model: "${model()}" }\n`,
        );
        expect(models()).toEqual(before);
    });

    test("an override is a recorded input: its reason and the model are in verdict, manifest, card and report", async () => {
        const override = { reason: "the threshold is a mistake", model: model() };
        rig.configure({ ...GATED, evaluation: { gate: { ...STRICT, override }, ...ANSWERED } });
        const { code, answer, stage, stderr } = await rig.json("up");
        expect({ code, verdict: stage("evaluation").facts?.["verdict"] }).toEqual({ code: 0, verdict: "overridden" });
        expect(stderr).toContain("warning: the gate was overridden: the threshold is a mistake\n");
        const manifest = read(path.join(folderOf(answer, "export"), "retune.json")) as JsonObject;
        const recorded = { ...override, model: stageOf(first, "training").digest };
        expect(manifest["override"]).toEqual(recorded);
        expect(stage("evaluation").facts?.["override"]).toEqual(recorded);
        const card = fs.readFileSync(path.join(folderOf(answer, "export"), "README.md"), "utf8");
        expect(card).toContain("**Accepted against its gate:** the threshold is a mistake\n");
        const page = fs.readFileSync(path.join(folderOf(answer, "report"), "report.html"), "utf8");
        expect(page).toContain(override.reason);
    });

    test.skipIf(chromium === undefined)(
        "all four updates, two of them refused, have pages without a finding",
        async () => {
            const history = path.join(rig.home, "history", "test");
            const decisions = [1, 2, 3, 4].map((number) => {
                const { verdict } = reportSchema.parse(read(path.join(history, String(number), "report.json")));
                return verdict.decision;
            });
            expect(decisions).toEqual(["accepted", "refused", "refused", "overridden"]);
            const browser = new Browser(chromium ?? "");
            try {
                for (const [number] of ["index", ...decisions].entries()) {
                    const file = number === 0 ? "index.html" : path.join(String(number), "report.html");
                    const look = {
                        width: number % 2 === 0 ? 390 : 1280,
                        scheme: number < 3 ? "dark" : "light",
                    } as const;
                    const opened = await browser.open(path.join(history, file), look);
                    expect(opened, file).toEqual({ complaints: [], requests: [], findings: [], overflow: 0 });
                }
            } finally {
                await browser.close();
            }
        },
    );

    test("an override that is not needed is in no key and no manifest: it may come and go", async () => {
        const override = { reason: "the threshold is a mistake", model: model() };
        rig.configure({ ...GATED, evaluation: { gate: { conditions: null, override }, ...ANSWERED } });
        const lenient = await rig.json("up");
        expect({ code: lenient.code, verdict: lenient.stage("evaluation").facts?.["verdict"] }).toEqual({
            ...{ code: 0, verdict: "accepted" },
        });
        expect(listing(folderOf(lenient.answer, "export"))).toEqual(exported);
        expect(stageOf(lenient.answer, "export").key).toBe(stageOf(first, "export").key);
        rig.configure(GATED);
        expect((await rig.json("up")).actions).toEqual(all("unchanged"));
    });
});

// What a model answers is said by the test; the engine, the provider and the runner are the real ones.
describe("the incumbent", () => {
    let rig: Rig;
    const ROWS = 42;
    const rows = (loss: number | null) =>
        Array.from({ length: ROWS }, (_, index) => ({
            ...{ question: `question ${index + 1}`, loss: loss === null ? null : loss + (index % 3) / 100, tokens: 10 },
        }));
    const says = (kind: "Answers" | "Baseline", loss: number | null, answer = "Drink water."): void => {
        const prompts = ["A cold?"].map((prompt) => ({ prompt, answer, complete: true }));
        const scores = { bleu4: 0, rouge1: 0, rouge2: 0, rougeL: 0 };
        const cases = [{ question: "question 1", reference: "Rest.", answer, complete: true, ...scores }];
        const content = JSON.stringify({ losses: rows(loss), cases, prompts });
        fs.writeFileSync(path.join(rig.control, `evaluation-${kind}.json`), content);
    };
    /** Trains a model of its own with this loss. */
    const train = async (seed: number, loss: number | null, answer?: string) => {
        says("Answers", loss, answer);
        return rig.json("up", "--set", `training.seed=${seed}`);
    };
    const verdict = (stage: (name: "evaluation") => { facts?: JsonObject }) => stage("evaluation").facts?.["verdict"];

    beforeAll(() => {
        rig = new Rig({ standIns: true });
        rig.configure({ evaluation: { gate: null } });
        says("Baseline", 3);
    });
    afterAll(() => rig.dispose());

    test("is the last model that was accepted: a better one takes its place, one that beats only the base does not", async () => {
        const first = await train(1, 2);
        expect({ code: first.code, verdict: verdict(first.stage) }, first.stderr).toEqual({
            code: 0,
            verdict: "accepted",
        });
        const better = await train(2, 1);
        expect({ code: better.code, verdict: verdict(better.stage) }).toEqual({ code: 0, verdict: "accepted" });
        const between = await train(3, 1.5);
        expect(between.code).toBe(3);
        const [, failed] = (between.stage("evaluation").error ?? "").split("\n");
        expect(failed).toBe(
            "  evalLoss 1.5100 against 1.0100 of the incumbent: worse by 0.5000, where 0 is allowed (100 % sure; the difference is between +0.5000 and +0.5000 (95 %))",
        );
        // It was never asked again: its answers are those of its own evaluation.
        expect(rig.runs("Answers")).toHaveLength(3);
    });

    test("a model that was accepted once is taken back without a run and without a new verdict", async () => {
        const before = rig.runs().length;
        const back = await rig.json("up", "--set", "training.seed=1");
        expect({ code: back.code, actions: back.actions }).toEqual({
            code: 0,
            actions: all("unchanged", { training: "cached", evaluation: "cached", export: "cached", report: "cached" }),
        });
        expect(rig.runs()).toHaveLength(before);
        // From here on it is the one to beat.
        expect((await train(4, 1.7)).code).toBe(0);
    });

    test("a loss that is no number is refused, and so is a model that answers with nothing", async () => {
        const broken = await train(5, null);
        expect(broken.code).toBe(3);
        expect(broken.stage("evaluation").error).toContain(
            "evalLoss of the tuned model is not a number in 42 of 42 rows\n",
        );
        const silent = await train(6, 0.5, "");
        expect(silent.code).toBe(3);
        expect(silent.stage("evaluation").error).toContain(
            "refused by the gate: 1 of 3 conditions failed\n  the tuned model answers none of 2 questions: it says nothing\n",
        );
    });

    test("is asked the new rows where the test set has changed", async () => {
        rig.configure({ evaluation: { gate: null }, dataset: { split: { seed: 7 } } });
        const before = rig.runs("Answers").length;
        const { code, stage, stderr } = await train(7, 1.6);
        expect({ code, incumbent: stage("evaluation").facts?.["incumbent"] !== null }).toEqual({
            code: 0,
            incumbent: true,
        });
        expect(rig.runs("Answers")).toHaveLength(before + 2);
        const rowsIn = (run: number, name: string) => {
            const file = path.join(rig.runs("Dataset").at(run)?.folder ?? "", "out", name);
            return fs.readFileSync(file, "utf8").trim().split("\n");
        };
        const learned = new Set(rowsIn(0, "train.jsonl"));
        const known = rowsIn(-1, "test.jsonl").filter((row) => learned.has(row)).length;
        expect(known).toBeGreaterThan(0);
        expect(stderr).toContain(
            `warning: ${known} of 42 held-out rows ${known === 1 ? "was" : "were"} among the training rows of the incumbent, ` +
                "which may know them by heart: for a fair comparison set dataset.split back, or accept a model that " +
                "loses to it alone with gate.override\n",
        );
    });

    test("is scored by a judge, once: its key is in no file, and a judge that fails loses nothing", async () => {
        const KEY = "sk-canary-40ac71";
        let requests = 0;
        let status = 503;
        const judge = http.createServer((request, response) => {
            requests += 1;
            expect(request.headers.authorization).toBe(`Bearer ${KEY}`);
            const message = { content: '{"score": 70}' };
            response.writeHead(status).end(status === 200 ? JSON.stringify({ choices: [{ message }] }) : KEY);
        });
        await new Promise<void>((resolve) => judge.listen(0, "127.0.0.1", resolve));
        try {
            const endpoint = `http://127.0.0.1:${(judge.address() as AddressInfo).port}/v1`;
            const gate = { conditions: [{ metric: "judge", against: 60 }], minRows: 0 };
            rig.configure({ evaluation: { gate, judge: { endpoint, model: "grader" } } });
            const set = ["config", "set", "--stack", "test", "--secret", "finetune:judgeKey", KEY];
            const env = { PULUMI_BACKEND_URL: `file://${rig.home}/state`, PULUMI_CONFIG_PASSPHRASE: "" };
            const ended = await rig.start(pulumi, set, { env }).ended;
            expect(ended.code, ended.stderr).toBe(0);
            const failed = await train(1, 2);
            expect(failed.code).toBe(1);
            expect(failed.stage("evaluation").error).toBe(
                `the judge grader at ${endpoint} failed: HTTP 503, "…"; 0 of 1 scores of this model are kept, and the next \`npm run up\` goes on from there`,
            );
            status = 200;
            requests = 0;
            const { code, stage } = await train(1, 2);
            expect({ code, facts: stage("evaluation").facts }).toMatchObject({
                code: 0,
                facts: { verdict: "accepted", tuned: { judge: 70 } },
            });
            expect(requests).toBe(1); // all models have said the same
            // Without the secret: nobody is asked.
            rig.configure({ evaluation: { gate: { ...gate, minRows: 1 }, judge: { endpoint, model: "grader" } } });
            expect((await train(1, 2)).code).toBe(0);
            expect(requests).toBe(1);
            for (const file of filesBelow(rig.home)) {
                const content = fs.lstatSync(path.join(rig.home, file)).isFile()
                    ? fs.readFileSync(path.join(rig.home, file))
                    : "";
                expect(content.includes(KEY), file).toBe(false);
            }
        } finally {
            judge.closeAllConnections();
            judge.close();
        }
    });

    test.each([
        [
            { metric: "rougel" },
            { split: { test: 0 } },
            "evaluation.gate: compares rougeL over the test rows, but retune:dataset.split.test is 0",
        ],
        [
            {
                conditions: [
                    { metric: "evalLoss", against: 1 },
                    { metric: "evalLoss", against: 2 },
                ],
            },
            {},
            "evaluation.gate.conditions: evalLoss is held against 1 and against 2: which is meant?",
        ],
        [
            { metric: "evaloss" },
            {},
            'evaluation.gate.metric: expected one of evalLoss, bleu4, rouge1, rouge2, rougeL, judge, got "evaloss"; did you mean evalLoss?',
        ],
        [
            { conditions: [{ prompt: "感冒了应该怎么办", required: ["水"] }] },
            {},
            'evaluation.gate: "感冒了应该怎么办" is not one of retune:evaluation.prompts; did you mean "感冒了应该怎么办？"?',
        ],
    ])("a gate that cannot be meant, %j with %j, is refused before anything starts", async (gate, dataset, problem) => {
        rig.configure({ evaluation: { gate: { conditions: null, ...gate } }, dataset });
        const before = listing(path.join(rig.home, "store"));
        const { code, stderr } = await rig.run("up");
        expect({ code, stderr }).toEqual({
            code: 2,
            stderr: `the configuration has a problem:\n  retune:${problem}\n`,
        });
        expect(listing(path.join(rig.home, "store"))).toEqual(before);
    });
});
