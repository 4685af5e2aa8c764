import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { describeRefusal, gateField, judge as judgeModel, settledGateField, type Gate } from "../../pipeline/gate";
import { problemsOf } from "../../pipeline/fields";
import type { JsonObject } from "../../pipeline/identity";
import type { ModelEvaluation } from "../../pipeline/report/data";

/** A model with these losses, each of an answer of ten tokens, and an answer with these scores to each row. */
function model(losses: readonly (number | null)[], score = 20, answer = "Drink water."): ModelEvaluation {
    const question = (index: number): string => `question ${index + 1}`;
    const scores = { bleu4: score, rouge1: score, rouge2: score, rougeL: score };
    return {
        metrics: { evalLoss: null, bleu4: null, rouge1: null, rouge2: null, rougeL: null, rows: losses.length },
        losses: losses.map((loss, index) => ({ question: question(index), loss, tokens: 10 })),
        cases: losses.map((_, index) => ({
            ...{ question: question(index), reference: "Rest.", answer, complete: true, ...scores },
        })),
        prompts: [{ prompt: "A cold?", answer, complete: true }],
    };
}

/** The digest of the tuned model's training. */
const MODEL = "3f2a91c07b1e".padEnd(64, "d");
const ACCEPTING =
    '  to accept this model all the same: retune:evaluation.gate.override: { reason: …, model: "3f2a91c07b1e" }';
const judge = (conditions: Gate, models: Parameters<typeof judgeModel>[1]) => judgeModel(conditions, models, MODEL);

const gate = (settings: unknown): Gate => gateField.parse(settings);
const lenient = { minRows: 0 };
const rows = (count: number, loss: (index: number) => number): number[] =>
    Array.from({ length: count }, (_, index) => loss(index));

describe("a verdict", () => {
    test("a model that is better than base and incumbent is accepted, and says how sure that is", () => {
        const models = {
            base: model(rows(40, (index) => 3 + (index % 4) / 10)),
            incumbent: model(rows(40, (index) => 2 + (index % 3) / 10)),
            tuned: model(rows(40, (index) => 1 + (index % 5) / 10)),
        };
        const verdict = judge(gate({}), models);
        expect(verdict).toMatchObject({ decision: "accepted", worse: [], warnings: [] });
        expect(verdict.conditions.map(({ text, held, certainty }) => ({ text, held, certainty }))).toEqual([
            { text: "evalLoss 1.2000 against 3.1500 of the base model: better by 1.9500", held: true, certainty: 1 },
            { text: "evalLoss 1.2000 against 2.0975 of the incumbent: better by 0.8975", held: true, certainty: 1 },
        ]);
        const [base] = verdict.conditions;
        expect(base?.finding).toEqual({ kind: "compared", gain: expect.closeTo(1.95) as number, allowed: 0 });
        expect(base?.difference?.low).toBeGreaterThan(-2.05);
        expect(base?.difference?.low).toBeLessThan(-1.95);
        expect(base?.difference?.high).toBeGreaterThan(-1.95);
        expect(base?.difference?.confidence).toBe(0.95);
        expect(judge(gate({}), models)).toEqual(verdict); // the draws are always the same
    });

    test("without an incumbent the base decides alone", () => {
        const verdict = judge(gate(lenient), { base: model([2, 2]), tuned: model([1, 1]), incumbent: undefined });
        expect(verdict.decision).toBe("accepted");
        expect(verdict.conditions[1]).toEqual({
            ...{ text: "evalLoss 1.0000: there is no incumbent, as after a destroy or at first" },
            ...{ finding: { kind: "first" }, held: true },
            ...{ against: "incumbent", metric: "evalLoss", tuned: 1, other: null },
        });
    });

    test("a worse model is refused, with both values and the cases that lost most, worst first", () => {
        const verdict = judge(gate({ ...lenient, against: "incumbent" }), {
            base: model([9, 9, 9]),
            incumbent: model([1, 1, 1]),
            tuned: model([1.5, 4, 0.5]),
        });
        expect(verdict.decision).toBe("refused");
        const worse = { against: "incumbent", metric: "evalLoss", other: 1 };
        expect(verdict.worse).toEqual([
            { question: "question 2", tuned: 4, ...worse },
            { question: "question 1", tuned: 1.5, ...worse },
        ]);
        expect(describeRefusal(verdict)).toBe(
            [
                "refused by the gate: the condition failed",
                "  evalLoss 2.0000 against 1.0000 of the incumbent: worse by 1.0000, where 0 is allowed (86 % sure; the difference is between −0.5000 and +3.0000 (95 %))",
                "  the cases that lost most:",
                "    evalLoss 4.0000 against 1.0000 (incumbent): question 2",
                "    evalLoss 1.5000 against 1.0000 (incumbent): question 1",
                ACCEPTING,
            ].join("\n"),
        );
    });

    test.each([
        [0.5, "accepted"],
        [0.49, "refused"],
    ])("a loss that is worse by 0.5 with a maxRegression of %d is %s", (maxRegression, decision) => {
        const models = { base: model([1, 1]), tuned: model([1.5, 1.5]), incumbent: undefined };
        expect(judge(gate({ ...lenient, maxRegression }), models).decision).toBe(decision);
    });

    test("the loss of a long answer weighs more: it is per token", () => {
        const [base, tuned] = [model([1, 1]), model([0.5, 1.2])];
        const long = {
            ...tuned,
            losses: tuned.losses.map((one, index) => ({ ...one, tokens: index === 1 ? 90 : 10 })),
        };
        const equal = { ...base, losses: base.losses.map((one, index) => ({ ...one, tokens: index === 1 ? 90 : 10 })) };
        const verdict = judge(gate(lenient), { base: equal, tuned: long, incumbent: undefined });
        expect(verdict.conditions[0]?.text).toBe(
            "evalLoss 1.1300 against 1.0000 of the base model: worse by 0.1300, where 0 is allowed",
        );
    });

    test("against a model of another tokenizer, what the same answers cost is compared", () => {
        const split = (one: ModelEvaluation, tokens: number): ModelEvaluation => ({
            ...one,
            losses: one.losses.map((row) => ({ ...row, tokens })),
        });
        const judged = (loss: number) =>
            judge(gate({ ...lenient, against: "incumbent" }), {
                base: model([9, 9]),
                incumbent: split(model([1.5, 1.5]), 20), // 30 nats for each answer
                tuned: split(model([loss, loss]), 10),
            });
        const better = judged(2);
        expect(better.decision).toBe("accepted");
        expect(better.conditions[0]).toMatchObject({
            text: "evalLoss 2.0000 against 3.0000 of the incumbent, per token of the tuned model: better by 1.0000",
            finding: { kind: "compared", gain: 1, allowed: 0, perTunedToken: true },
        });
        const worse = judged(3.1);
        expect(worse.decision).toBe("refused");
        expect(worse.conditions[0]?.text).toBe(
            "evalLoss 3.1000 against 3.0000 of the incumbent, per token of the tuned model: worse by 0.1000, where 0 is allowed",
        );
    });

    test.each([
        ["rougeL", 20, "accepted", "rougeL 20.00 against 20.00, the least that is accepted: the same"],
        ["rougeL", 21, "refused", "rougeL 20.00 against 21.00, the least that is accepted: worse by 1.00"],
        ["evalLoss", 1.5, "accepted", "evalLoss 1.0000 against 1.5000, the most that is accepted: better by 0.5000"],
        ["evalLoss", 0.5, "refused", "evalLoss 1.0000 against 0.5000, the most that is accepted: worse by 0.5000"],
    ])("%s against the fixed number %d is %s", (metric, against, decision, text) => {
        const conditions = [{ metric, against }];
        const models = { base: model([2]), tuned: model([1]), incumbent: undefined };
        const verdict = judge(gate({ ...lenient, conditions }), models);
        expect({ decision: verdict.decision, text: verdict.conditions[0]?.text }).toEqual({ decision, text });
    });

    test("required and forbidden phrases, in upper or lower case", () => {
        const conditions = [{ prompt: "A cold?", required: ["drink", "doctor"], forbidden: ["WATER", "antibiotics"] }];
        const models = { base: model([1]), tuned: model([1]), incumbent: undefined };
        const verdict = judge(gate({ ...lenient, conditions }), models);
        expect(verdict.decision).toBe("refused");
        expect(verdict.conditions.map(({ text, held }) => [text, held])).toEqual([
            ['the answer to "A cold?" says "drink"', true],
            ['the answer to "A cold?" does not say "doctor"', false],
            ['the answer to "A cold?" says "WATER", which is forbidden', false],
            ['the answer to "A cold?" does not say "antibiotics", which is forbidden', true],
        ]);
        expect(verdict.conditions[2]?.finding).toEqual({
            ...{ kind: "phrase", prompt: "A cold?", phrase: "WATER", says: true, forbidden: true },
        });
        expect(describeRefusal(verdict).split("\n")[0]).toBe("refused by the gate: 2 of 4 conditions failed");
    });

    test("a model that says nothing is refused whatever its loss; some empty answers are a warning", () => {
        const silent = judge(gate(lenient), { base: model([2]), tuned: model([1], 0, " "), incumbent: undefined });
        expect(silent.decision).toBe("refused");
        expect(silent.conditions.at(-1)).toMatchObject({
            text: "the tuned model answers none of 2 questions: it says nothing",
            finding: { kind: "silent", questions: 2 },
            held: false,
        });
        const half = { ...model([1]), prompts: [{ prompt: "A cold?", answer: "", complete: true }] };
        const verdict = judge(gate(lenient), { base: model([2]), tuned: half, incumbent: undefined });
        expect(verdict).toMatchObject({
            decision: "accepted",
            warnings: [{ text: "1 of 2 answers of the tuned model are empty", kind: "empty", answers: 1, of: 2 }],
        });
    });

    test("a loss that is no number is refused; a row without a token to measure is left out", () => {
        const models = { base: model([2, 2]), tuned: model([1, null]), incumbent: undefined };
        const verdict = judge(gate(lenient), models);
        expect(verdict.decision).toBe("refused");
        expect(verdict.conditions[0]).toEqual({
            ...{ text: "evalLoss of the tuned model is not a number in 1 of 2 rows", held: false },
            finding: { kind: "broken", rows: 1, of: 2 },
            ...{ against: "base", metric: "evalLoss", tuned: null, other: 2 },
        });
        const cut = (one: ModelEvaluation): ModelEvaluation => ({
            ...one,
            losses: [...one.losses, { question: "too long", loss: null, tokens: 0 }],
        });
        const whole = judge(gate(lenient), { base: cut(model([2])), tuned: cut(model([1])), incumbent: undefined });
        expect(whole.decision).toBe("accepted");
    });

    test("nothing to measure is no success", () => {
        const verdict = judge(gate({}), { base: model([]), tuned: model([]), incumbent: undefined });
        expect(verdict.decision).toBe("refused");
        expect(verdict.conditions[0]).toMatchObject({
            text: "evalLoss against base: no held-out row could be measured",
            finding: { kind: "unmeasured" },
        });
    });

    test("too few rows, and a difference that may be chance, are warned of", () => {
        const models = { base: model([1, 3, 1, 3]), tuned: model([0.5, 3.4, 0.9, 3]), incumbent: undefined };
        const { decision, warnings } = judge(gate({ against: "base" }), models);
        expect(decision).toBe("accepted");
        expect(warnings[0]).toEqual({
            text: "4 held-out rows are fewer than 30: the verdict may be chance",
            ...{ kind: "fewRows", rows: 4, least: 30 },
        });
        expect(warnings[1]).toMatchObject({ kind: "chance", condition: 0 });
        expect(warnings[1]?.text).toMatch(
            /^may be chance \(\d\d % sure\): evalLoss 1\.9500 against 2\.0000 of the base model/,
        );
    });

    test("too few rows are those that a condition compares: of scores only the answered ones", () => {
        const answered = (one: ModelEvaluation): ModelEvaluation => ({ ...one, cases: one.cases.slice(0, 1) });
        const [base, tuned] = [
            answered(model(rows(1000, () => 2))),
            answered(
                model(
                    rows(1000, () => 1),
                    30,
                ),
            ),
        ];
        const verdict = judge(gate({ metric: "rougeL" }), { base, tuned, incumbent: undefined });
        expect(verdict.conditions[0]).toMatchObject({ held: true, certainty: 1 });
        expect(verdict.warnings).toEqual([
            {
                text: "rougeL is of 1 answered row, fewer than 30: the verdict may be chance",
                ...{ kind: "fewRows", rows: 1, least: 30, metric: "rougeL" },
            },
        ]);
        expect(judge(gate({}), { base, tuned, incumbent: undefined }).warnings).toEqual([]);
        const first = judge(gate({ metric: "rougeL", against: "incumbent" }), { base, tuned, incumbent: undefined });
        expect(first.warnings).toEqual(verdict.warnings);
    });

    test("rows that only one of both models has a number in are left out, which is said", () => {
        const [whole, lost] = [model([1, 50, 50]), model([1, null, null])];
        const verdict = judge(gate(lenient), { base: lost, tuned: whole, incumbent: whole });
        expect(verdict.conditions.map(({ text }) => text)).toEqual([
            "evalLoss 1.0000 against 1.0000 of the base model: the same",
            "evalLoss 33.6667 against 33.6667 of the incumbent: the same",
        ]);
        expect(verdict.warnings).toEqual([
            {
                text: "evalLoss against the base model leaves out 2 of 3 rows: only one of the two models has a number there",
                ...{ kind: "leftOut", metric: "evalLoss", against: "base", rows: 2, of: 3 },
            },
        ]);
    });

    test("held-out rows that the incumbent was trained on are warned of where it is compared with", () => {
        const models = { base: model([2, 2, 2]), tuned: model([1, 1, 1]), incumbent: model([1, 1, 1]) };
        const known = { ...models, knownToIncumbent: 2 };
        expect(judge(gate(lenient), known).warnings).toEqual([
            {
                text:
                    "2 of 3 held-out rows were among the training rows of the incumbent, which may know them by heart: for a fair " +
                    "comparison set dataset.split back, or accept a model that loses to it alone with gate.override",
                ...{ kind: "known", rows: 2, of: 3 },
            },
        ]);
        expect(judge(gate(lenient), { ...models, knownToIncumbent: 0 }).warnings).toEqual([]);
        expect(judge(gate({ ...lenient, against: "base" }), known).warnings).toEqual([]);
        expect(judge(gate(lenient), { ...known, incumbent: undefined }).warnings).toEqual([]);
    });

    test("an override accepts the model that it names, with its reason and the whole digest", () => {
        const override = { reason: "the data set is another one", model: MODEL.slice(0, 12) };
        const failing = { base: model([1]), tuned: model([2]), incumbent: undefined };
        const overridden = judge(gate({ ...lenient, override }), failing);
        expect(overridden).toMatchObject({ decision: "overridden", model: MODEL });
        expect(overridden.override).toEqual({ reason: override.reason, model: MODEL });
        // Of a model that needs none nothing is to be seen of it.
        const better = { ...failing, tuned: model([0.5]) };
        expect(judge(gate({ ...lenient, override }), better)).toEqual(judge(gate(lenient), better));
    });

    test("an override of another model accepts nothing, and the refusal says so", () => {
        const override = { reason: "the data set is another one", model: "0".repeat(12) };
        const failing = { base: model([1]), tuned: model([2]), incumbent: undefined };
        const refused = judge(gate({ ...lenient, override }), failing);
        expect(refused.decision).toBe("refused");
        expect(refused).not.toHaveProperty("override");
        expect(describeRefusal(refused).split("\n").slice(-2)).toEqual([
            '  gate.override ("the data set is another one") is for model 000000000000, this one is 3f2a91c07b1e',
            ACCEPTING,
        ]);
    });

    test("without conditions there is no verdict", () => {
        const models = { base: model([1]), tuned: model([2]), incumbent: undefined };
        expect(judge(gate({ conditions: [] }), models)).toEqual({
            ...{ decision: "ungated", model: MODEL, conditions: [], worse: [], warnings: [] },
        });
        // Where nobody has asked for that, it is said.
        expect(judge(settledGateField.parse({ conditions: [], nothingHeldOut: true }), models).warnings).toEqual([
            {
                text: "dataset.split.test is 0, so there is no gate: a worse model is accepted as well",
                kind: "nothingHeldOut",
            },
        ]);
    });
});

/*
 * Another computation of the same, in whole numbers, so that nothing is rounded: values are thousandths. Of a loss each
 * token weighs the same, of a score each row; less loss is better, more of any score is.
 */
describe("a verdict agrees with another computation", () => {
    const SCORES = ["bleu4", "rouge1", "rouge2", "rougeL"] as const;
    type Measured = "evalLoss" | (typeof SCORES)[number];
    type Thousandths = Readonly<Record<Measured, number>>;
    const value = fc.integer({ min: 0, max: 9000 });
    const one = fc.record({ evalLoss: value, bleu4: value, rouge1: value, rouge2: value, rougeL: value });
    const row = fc.record({ tokens: fc.integer({ min: 1, max: 30 }), base: one, incumbent: one, tuned: one });
    type Row = { readonly tokens: number } & Readonly<Record<"base" | "incumbent" | "tuned", Thousandths>>;
    const condition = fc.record({
        metric: fc.constantFrom<Measured>("evalLoss", ...SCORES),
        against: fc.oneof(fc.constantFrom("base" as const, "incumbent" as const), value),
        allowed: fc.constantFrom(0, 0, 1, 250, 4000),
    });

    /** What `evaluation.json` has of a model. */
    const evaluated = (all: readonly Row[], who: "base" | "incumbent" | "tuned"): ModelEvaluation => {
        const { losses, cases, ...rest } = model(all.map((each) => each[who].evalLoss / 1000));
        const scores = (each: Row) => Object.fromEntries(SCORES.map((name) => [name, each[who][name] / 1000]));
        return {
            ...rest,
            losses: losses.map((loss, index) => ({ ...loss, tokens: all[index]?.tokens ?? 0 })),
            cases: cases.map((each, index) => ({ ...each, ...(all[index] === undefined ? {} : scores(all[index])) })),
        };
    };
    /** By how many thousandths the tuned model loses a row, times what the row weighs. */
    const lostIn = (each: Row, { metric, against }: { metric: Measured; against: "base" | "incumbent" | number }) => {
        const other = typeof against === "number" ? against : each[against][metric];
        const lost = metric === "evalLoss" ? each.tuned[metric] - other : other - each.tuned[metric];
        return { lost, weight: metric === "evalLoss" ? each.tokens : 1 };
    };
    const total = (all: readonly { lost: number; weight: number }[]) => ({
        lost: all.reduce((sum, { lost, weight }) => sum + lost * weight, 0),
        weight: all.reduce((sum, { weight }) => sum + weight, 0),
    });
    const verdictOf = (all: readonly Row[], conditions: readonly JsonObject[]) =>
        judge(gate({ ...lenient, conditions }), {
            base: evaluated(all, "base"),
            incumbent: evaluated(all, "incumbent"),
            tuned: evaluated(all, "tuned"),
        });

    test("of what holds, of the decision and of the cases that lost most", () => {
        const distinct = {
            selector: ({ metric, against }: { metric: Measured; against: unknown }) =>
                `${metric} ${typeof against === "number" ? "" : String(against)}`,
        };
        const conditions = fc.uniqueArray(condition, { minLength: 1, maxLength: 6, ...distinct });
        const rowsOf = fc.array(row, { minLength: 1, maxLength: 12 });
        const decisions = new Set<string>();
        fc.assert(
            fc.property(rowsOf, conditions, (all, wanted) => {
                const verdict = verdictOf(
                    all,
                    wanted.map(({ metric, against, allowed }) =>
                        typeof against === "number"
                            ? { metric, against: against / 1000 }
                            : { metric, against, maxRegression: allowed / 1000 },
                    ),
                );
                const held = wanted.map((each) => {
                    const { lost, weight } = total(all.map((of) => lostIn(of, each)));
                    return lost <= (typeof each.against === "number" ? 0 : each.allowed) * weight;
                });
                expect(verdict.conditions.map((each) => each.held)).toEqual(held);
                expect(verdict.decision).toBe(held.every(Boolean) ? "accepted" : "refused");
                decisions.add(verdict.decision);
                const losses = wanted.flatMap((each) =>
                    all
                        .map((of) => lostIn(of, each).lost)
                        .filter((lost) => lost > 0)
                        .sort((a, b) => b - a)
                        .slice(0, 5),
                );
                const named = verdict.worse.map(({ metric, tuned, other }) =>
                    Math.round((metric === "evalLoss" ? tuned - other : other - tuned) * 1000),
                );
                expect(named).toEqual(losses);
            }),
            { numRuns: 300 },
        );
        expect([...decisions].sort()).toEqual(["accepted", "refused"]);
    });

    test("of how sure it is: of four rows, all 256 draws counted one by one", () => {
        fc.assert(
            fc.property(fc.array(row, { minLength: 4, maxLength: 4 }), (all) => {
                const { conditions } = verdictOf(all, [{ metric: "evalLoss", against: "incumbent" }]);
                const lost = all.map((of) => lostIn(of, { metric: "evalLoss", against: "incumbent" }));
                const holds = (some: typeof lost): boolean => total(some).lost <= 0;
                let same = 0;
                for (let draw = 0; draw < 256; draw += 1) {
                    const drawn = [0, 2, 4, 6].flatMap((shift) => lost[(draw >> shift) & 3] ?? []);
                    if (holds(drawn) === holds(lost)) same += 1;
                }
                // 2,000 draws are within 0.05 of that in all but one of 100,000 cases.
                expect(Math.abs((conditions[0]?.certainty ?? 9) - same / 256)).toBeLessThan(0.05);
            }),
            { numRuns: 100 },
        );
    });
});

describe("its settings", () => {
    const problems = (settings: unknown): string[] => {
        const parsed = gateField.safeParse(settings);
        if (parsed.success) throw new Error(`accepted: ${JSON.stringify(parsed.data)}`);
        return problemsOf(parsed.error, ["gate"]).map(({ path, message }) => `${path}: ${message}`);
    };
    const against = (...names: readonly unknown[]) =>
        names.map((one) => ({ metric: "evalLoss", against: one, maxRegression: 0 }));

    test("the default is the loss against base and incumbent; the short form says so too", () => {
        const expected = { conditions: against("base", "incumbent"), minRows: 30 };
        expect(gate(undefined)).toEqual(expected);
        expect(gate({})).toEqual(expected);
        expect(gate({ against: ["base", "incumbent"], metric: "eval_loss", maxRegression: 0 })).toEqual(expected);
        expect(gate(expected)).toEqual(expected);
        expect(gate({ against: "base", metric: "rouge-l", maxRegression: "0.5", minRows: "8" })).toEqual({
            ...{ conditions: [{ metric: "rougeL", against: "base", maxRegression: 0.5 }], minRows: 8 },
        });
        const fixed = gate({ against: ["base", 2.5] });
        expect(fixed.conditions).toEqual(against("base", 2.5));
        expect(gate({ against: ["base", 2.5], maxRegression: 0.5 }).conditions).toEqual([
            { metric: "evalLoss", against: "base", maxRegression: 0.5 },
            ...against(2.5),
        ]);
    });

    test("that the configuration has read are read again by the stage", () => {
        const phrases = {
            conditions: [
                { prompt: "A cold?", required: ["doctor"] },
                { prompt: "A cough?", forbidden: ["pills"] },
            ],
        };
        for (const settings of [{}, { against: ["base", 2.5] }, phrases]) {
            const read = gate(settings);
            expect(settledGateField.parse(read)).toEqual(read);
        }
    });

    test.each([
        [
            { conditions: [{ metric: "rougel2", against: "base" }] },
            'gate.conditions[0].metric: expected one of evalLoss, bleu4, rouge1, rouge2, rougeL, judge, got "rougel2"; did you mean rouge2?',
        ],
        [
            { metric: "eval_los" },
            'gate.metric: expected one of evalLoss, bleu4, rouge1, rouge2, rougeL, judge, got "eval_los"; did you mean evalLoss?',
        ],
        [
            { against: ["incumbant"] },
            'gate.against[0]: expected one of base, incumbent, a number, got "incumbant"; did you mean incumbent?',
        ],
        [{ maxRegresion: 1 }, "gate.maxRegresion: unknown; did you mean maxRegression?"],
        [
            { conditions: [{ metric: "rougeL" }] },
            "gate.conditions[0]: missing: against, which is base, incumbent or a number",
        ],
        [
            { conditions: [{}] },
            "gate.conditions[0]: names neither a metric (evalLoss, bleu4, rouge1, rouge2, rougeL, judge) nor a prompt",
        ],
        [
            { conditions: [{ metric: "rougeL", against: 120 }] },
            "gate.conditions[0]: rougeL is in percent: it is never 120",
        ],
        [{ metric: "rouge1", against: 150 }, "gate: rouge1 is in percent: it is never 150"],
        [{ metric: "rougeL", against: -5 }, "gate: expected a number from 0, got -5"],
        [{ against: ["base", -1] }, "gate: expected a number from 0, got -1"],
        [
            { against: 2, maxRegression: 0.5 },
            "gate: has a fixed number and a maxRegression: put the number where it is to be",
        ],
        [
            { conditions: [{ metric: "evalLoss", against: 2, maxRegression: 1 }] },
            "gate.conditions[0]: has a fixed number and a maxRegression: put the number where it is to be",
        ],
        [
            {
                conditions: [
                    { metric: "evalLoss", against: 2 },
                    { metric: "evalLoss", against: 3 },
                ],
            },
            "gate.conditions: evalLoss is held against 2 and against 3: which is meant?",
        ],
        [
            {
                conditions: [
                    { metric: "rougeL", against: "base", maxRegression: 1 },
                    { metric: "rougeL", against: "base" },
                ],
            },
            "gate.conditions: rougeL may be worse than base by 1 and by 0: which is meant?",
        ],
        [
            { conditions: [{ prompt: "A cold?", required: ["see a doctor"], forbidden: ["Doctor"] }] },
            'gate.conditions[0]: requires "see a doctor" and forbids "Doctor": no answer can do both',
        ],
        ...[{}, { required: [] }].map((none): [object, string] => [
            { conditions: [{ prompt: "A cold?", ...none }] },
            "gate.conditions[0]: names no phrase: give required or forbidden",
        ]),
        [{ conditions: [{ required: ["x"] }] }, "gate.conditions[0]: names phrases but no prompt"],
        // It is said where the data set has no test rows, and by nobody else.
        ...[{ conditions: [] }, {}].map((rest): [object, string] => [
            { ...rest, nothingHeldOut: true },
            `gate.nothingHeldOut: unknown; there is minRows, override, ${"conditions" in rest ? "conditions" : "metric, against, maxRegression"}`,
        ]),
        [{ override: {} }, "gate.override.reason: missing: expected why a model is accepted that fails"],
        [
            { override: { reason: "once" } },
            "gate.override.model: missing: expected the beginning of the model's digest as a refusal shows it, 12 digits or more",
        ],
        [
            { override: { reason: "once", model: 123456789012 } },
            "gate.override.model: expected the beginning of the model's digest as a refusal shows it, 12 digits or more, got the number 123456789012: put it in quotes",
        ],
        [
            { override: { reason: "once", model: "3f2a" } },
            'gate.override.model: expected the beginning of the model\'s digest as a refusal shows it, 12 digits or more, got "3f2a"',
        ],
    ])("%j", (settings, problem) => {
        expect(problems(settings)).toContain(problem);
    });
});
