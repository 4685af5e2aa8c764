import { z } from "zod";
import { expecting, group, integer, notOneOf, number, problemsOf, text } from "./fields";
import { isObject } from "./identity";
import type { ModelEvaluation } from "./report/data";

/** What models are compared in, each with what an improvement multiplies a difference with to be positive. */
const BETTER = { evalLoss: -1, bleu4: 1, rouge1: 1, rouge2: 1, rougeL: 1, judge: 1 } as const;
export type Metric = keyof typeof BETTER;
export const METRICS = Object.keys(BETTER) as Metric[];

/** The tuned model's metric against that of another model, or against a fixed number. */
interface MetricCondition {
    readonly metric: Metric;
    readonly against: "base" | "incumbent" | number;
    /** By how much the tuned model may be worse, in the metric's own unit; of no use with a fixed number. */
    readonly maxRegression: number;
}

/** What the tuned model's answer to one of the fixed prompts must say, and must not, upper or lower case. */
interface PhraseCondition {
    readonly prompt: string;
    readonly required: readonly string[];
    readonly forbidden: readonly string[];
}

/** The conditions under which a model is accepted; without any, every model is. */
export interface Gate {
    readonly conditions: readonly (MetricCondition | PhraseCondition)[];
    /** With fewer rows to compare in any condition the verdict carries a warning. */
    readonly minRows: number;
    /** Accepts one model that fails; `model` is the beginning of its digest. */
    readonly override?: Override;
    /** The configuration has no word about a gate, and no test rows that the default one could compare. */
    readonly nothingHeldOut?: true | undefined;
}

/** A decision of a person on one model, named by the digest of its training: what comes after it is judged again. */
export interface Override {
    readonly reason: string;
    readonly model: string;
}

/** What a condition's outcome says, for whoever says it in another language; `gain` is positive where tuned is better. */
export type ConditionFinding =
    | {
          readonly kind: "compared";
          readonly gain: number;
          readonly allowed: number;
          /** The other model splits the answers into other tokens: its loss is given per token of the tuned model. */
          readonly perTunedToken?: true;
      }
    | { readonly kind: "first" }
    | { readonly kind: "broken"; readonly rows: number; readonly of: number }
    | { readonly kind: "unmeasured" }
    | {
          readonly kind: "phrase";
          readonly prompt: string;
          readonly phrase: string;
          readonly says: boolean;
          readonly forbidden: boolean;
      }
    | { readonly kind: "silent"; readonly questions: number };

/** How a condition came out. `difference` and `certainty` are of a paired, seeded bootstrap over the held-out rows. */
export interface ConditionOutcome {
    /** In words, with both values: "evalLoss 2.1034 against 1.9110 of the base model, worse by 0.1924, allowed 0". */
    readonly text: string;
    readonly finding: ConditionFinding;
    readonly held: boolean;
    readonly against: "base" | "incumbent" | "threshold" | "phrase";
    readonly metric?: Metric;
    /** Null where it is no number, or where there is none: of a phrase, or against an incumbent that there is not yet. */
    readonly tuned: number | null;
    readonly other: number | null;
    /** Of tuned − other: the interval that holds this share of the resamples. */
    readonly difference?: { readonly low: number; readonly high: number; readonly confidence: number };
    /** The share of the resamples in which the condition comes out as it did. */
    readonly certainty?: number;
}

/** A held-out row in which the tuned model is worse. */
export interface WorseCase {
    readonly question: string;
    readonly against: "base" | "incumbent" | "threshold";
    readonly metric: Metric;
    readonly tuned: number;
    readonly other: number;
}

/** What makes a verdict doubtful, in words and as data; `condition` is the place of one in the verdict's list. */
export type Warning = { readonly text: string } & (
    | { readonly kind: "fewRows"; readonly rows: number; readonly least: number; readonly metric?: Metric }
    | { readonly kind: "chance"; readonly condition: number; readonly certainty: number }
    | {
          readonly kind: "leftOut";
          readonly metric: Metric;
          readonly against: "base" | "incumbent";
          readonly rows: number;
          readonly of: number;
      }
    | { readonly kind: "known"; readonly rows: number; readonly of: number }
    | { readonly kind: "empty"; readonly answers: number; readonly of: number }
    | { readonly kind: "nothingHeldOut" }
);

export interface Verdict {
    readonly decision: "accepted" | "refused" | "overridden" | "ungated";
    /** The digest of the training whose result it is on. */
    readonly model: string;
    readonly conditions: readonly ConditionOutcome[];
    /** Of each condition the rows that lost most, the worst first. */
    readonly worse: readonly WorseCase[];
    readonly warnings: readonly Warning[];
    /** By which a model that fails was accepted, with its whole digest. */
    readonly override?: Override;
    /** Of a refused model: the override that there is, but for another one. */
    readonly overrideOfAnother?: Override;
}

const CONFIDENCE = 0.95;
const RESAMPLES = 2000;
/** Cases that are named for each condition. */
const NAMED = 5;
/** Sums of floating-point numbers in another order are not worse. */
const ROUNDING = 1e-9;

/**
 * The verdict on a tuned model. All models have answered the same rows, in the same order, and the same prompts.
 *
 * @param model the digest of the tuned model's training.
 */
export function judge(
    gate: Gate,
    models: {
        readonly base: ModelEvaluation;
        readonly tuned: ModelEvaluation;
        readonly incumbent: ModelEvaluation | undefined;
        /** How many of the rows the incumbent was trained on, as where the data was split in another way since. */
        readonly knownToIncumbent?: number;
    },
    model: string,
): Verdict {
    if (gate.conditions.length === 0) {
        const words = "dataset.split.test is 0, so there is no gate: a worse model is accepted as well";
        const warned = gate.nothingHeldOut ? [{ text: words, kind: "nothingHeldOut" as const }] : [];
        return { decision: "ungated", model, conditions: [], worse: [], warnings: warned };
    }
    const { tuned } = models;
    const conditions: ConditionOutcome[] = [];
    const worse: WorseCase[] = [];
    const measured: Measured[] = [];
    for (const condition of gate.conditions) {
        if ("prompt" in condition) {
            conditions.push(...phrases(condition, tuned));
            continue;
        }
        const compared = compare(condition, models);
        conditions.push(compared.outcome);
        worse.push(...compared.worse);
        measured.push({ ...condition, rows: compared.rows, leftOut: compared.leftOut });
    }
    conditions.push(...somethingSaid(tuned));
    const found = { model, conditions, worse, warnings: warnings(gate, conditions, measured, models) };
    if (conditions.every(({ held }) => held)) return { decision: "accepted", ...found };
    const { override } = gate;
    if (override === undefined) return { decision: "refused", ...found };
    return model.startsWith(override.model)
        ? { decision: "overridden", ...found, override: { ...override, model } }
        : { decision: "refused", ...found, overrideOfAnother: override };
}

/** A held-out row: a value, and how much it weighs in the mean. A loss is per token, so that of a longer answer weighs more. */
interface Row {
    readonly question: string;
    readonly value: number | null;
    readonly weight: number;
}

function rowsOf(model: ModelEvaluation, metric: Metric): readonly Row[] {
    if (metric === "evalLoss") {
        return model.losses.map(({ question, loss, tokens }) => ({ question, value: loss, weight: tokens }));
    }
    return model.cases.map((one) => ({ question: one.question, value: one[metric] ?? null, weight: 1 }));
}

/** Over how many held-out rows a condition was decided: of a score, over no more than were answered. */
interface Measured extends Pick<MetricCondition, "metric" | "against"> {
    readonly rows: number;
    /** Rows in which one model has a value and the other has none. */
    readonly leftOut: number;
}

interface Means {
    readonly tuned: number;
    /** Of the other model, or the fixed number. */
    readonly other: number;
}

interface Pair extends Means {
    readonly question: string;
    readonly weight: number;
}

function compare(
    { metric, against, maxRegression }: MetricCondition,
    models: Parameters<typeof judge>[1],
): Pick<Measured, "rows" | "leftOut"> & {
    readonly outcome: ConditionOutcome;
    readonly worse: readonly WorseCase[];
} {
    const rows = rowsOf(models.tuned, metric);
    const fixed = typeof against === "number";
    const about = { against: fixed ? "threshold" : against, metric } as const;
    const other = fixed ? undefined : models[against];
    if (against === "incumbent" && other === undefined) {
        const own = rows.flatMap((row) => paired(row, 0));
        const tuned = mean(own)?.tuned ?? null;
        const words = `${metric} ${shown(metric, tuned)}: there is no incumbent, as after a destroy or at first`;
        const outcome = { text: words, finding: { kind: "first" }, held: true, ...about, tuned, other: null } as const;
        return { outcome, worse: [], rows: own.length, leftOut: 0 };
    }
    const others = other === undefined ? undefined : rowsOf(other, metric);
    if (others !== undefined && others.length !== rows.length) {
        throw new Error(`${rows.length} rows of the tuned model against ${others.length} of the ${about.against}`);
    }
    const pairs = rows.flatMap((row, index) => {
        const opposite = others?.[index];
        return paired(row, fixed ? against : opposite === undefined ? null : valueFor(row, opposite));
    });
    const isRecounted = rows.some((row, index) => {
        const opposite = others?.[index] ?? row;
        return row.value !== null && opposite.value !== null && row.weight !== opposite.weight;
    });
    const means = mean(pairs);
    const broken = rows.filter(({ value, weight }) => value === null && weight > 0).length;
    if (means === undefined || broken > 0) {
        const said =
            broken > 0
                ? ({
                      text: `${metric} of the tuned model is not a number in ${broken} of ${rows.length} rows`,
                      finding: { kind: "broken", rows: broken, of: rows.length },
                  } as const)
                : ({
                      text: `${metric} against ${about.against}: no held-out row could be measured`,
                      finding: { kind: "unmeasured" },
                  } as const);
        const values = { tuned: null, other: means?.other ?? null };
        const outcome = { ...said, held: false, ...about, ...values };
        return { outcome, worse: [], rows: pairs.length, leftOut: 0 };
    }
    const better = BETTER[metric];
    const allowed = fixed ? 0 : maxRegression;
    const gainOf = (one: Means): number => better * (one.tuned - one.other);
    const holds = (one: Means): boolean => gainOf(one) >= -allowed - ROUNDING;
    const held = holds(means);
    const samples = resampled(pairs);
    const differences = samples.map((one) => one.tuned - one.other).sort((a, b) => a - b);
    const at = (share: number): number => differences[Math.round(share * (differences.length - 1))] ?? 0;
    const worse = pairs
        .filter((pair) => gainOf(pair) < -ROUNDING)
        .sort((a, b) => gainOf(a) - gainOf(b))
        .slice(0, NAMED)
        .map(({ question, tuned, other: opposite }) => ({ question, ...about, tuned, other: opposite }));
    const outcome = {
        text: inWords({ ...about, isRecounted }, means, gainOf(means), maxRegression),
        finding: {
            ...{ kind: "compared" as const, gain: gainOf(means), allowed },
            ...(isRecounted ? { perTunedToken: true as const } : {}),
        },
        ...{ held, ...about, ...means },
        difference: { low: at((1 - CONFIDENCE) / 2), high: at((1 + CONFIDENCE) / 2), confidence: CONFIDENCE },
        certainty: samples.filter((one) => holds(one) === held).length / samples.length,
    };
    const leftOut = others?.filter((one, index) => (one.value === null) !== (rows[index]?.value === null)).length ?? 0;
    return { outcome, worse, rows: pairs.length, leftOut };
}

/** Both values, what lies between them, and what may: of a loss, less is better. */
function inWords(
    { metric, against, isRecounted }: Pick<WorseCase, "metric" | "against"> & { readonly isRecounted: boolean },
    { tuned, other }: Means,
    gain: number,
    maxRegression: number,
): string {
    const values = `${metric} ${shown(metric, tuned)} against ${shown(metric, other)}`;
    const by = shown(metric, Math.abs(gain));
    const change = Math.abs(gain) <= ROUNDING ? "the same" : `${gain < 0 ? "worse" : "better"} by ${by}`;
    switch (against) {
        case "threshold":
            return `${values}, the ${BETTER[metric] < 0 ? "most" : "least"} that is accepted: ${change}`;
        case "base":
        case "incumbent": {
            const model = against === "base" ? "of the base model" : "of the incumbent";
            const whose = isRecounted ? `${model}, per token of the tuned model` : model;
            return `${values} ${whose}: ${change}${gain < -ROUNDING ? `, where ${maxRegression} is allowed` : ""}`;
        }
    }
}

/**
 * Another model's value of the same row. A loss per token says nothing to one of another tokenizer's tokens: what the
 * whole answer costs does, and is spread over the tokens of the tuned model.
 */
function valueFor({ weight }: Row, other: Row): number | null {
    if (other.value === null || other.weight === weight) return other.value;
    return (other.value * other.weight) / weight;
}

/** A row counts where both values are numbers. */
function paired({ question, value, weight }: Row, other: number | null): Pair[] {
    return value === null || other === null ? [] : [{ question, tuned: value, other, weight }];
}

function mean(pairs: readonly Pair[]): Means | undefined {
    const weight = pairs.reduce((sum, pair) => sum + pair.weight, 0);
    const of = (name: "tuned" | "other"): number =>
        pairs.reduce((sum, pair) => sum + pair[name] * pair.weight, 0) / weight;
    return weight === 0 ? undefined : { tuned: of("tuned"), other: of("other") };
}

/** The means of as many rows drawn with replacement, time and again: the same rows of both models, always the same draws. */
function resampled(pairs: readonly Pair[]): Means[] {
    const random = randomNumbers(42);
    // Of thousands of rows there are millions of draws: numbers side by side are many times as fast as objects.
    const weights = Float64Array.from(pairs, ({ weight }) => weight);
    const tuned = Float64Array.from(pairs, (pair) => pair.tuned * pair.weight);
    const other = Float64Array.from(pairs, (pair) => pair.other * pair.weight);
    return Array.from({ length: RESAMPLES }, () => {
        const sum = { weight: 0, tuned: 0, other: 0 };
        for (let left = pairs.length; left > 0; left--) {
            const drawn = Math.floor(random() * pairs.length);
            sum.weight += weights[drawn] ?? 0;
            sum.tuned += tuned[drawn] ?? 0;
            sum.other += other[drawn] ?? 0;
        }
        return { tuned: sum.tuned / sum.weight, other: sum.other / sum.weight };
    });
}

/** From 0 to 1, always the same ones: mulberry32. */
function randomNumbers(seed: number): () => number {
    let state = seed;
    return () => {
        state = (state + 0x6d2b79f5) | 0;
        let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
        mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
        return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
    };
}

function phrases({ prompt, required, forbidden }: PhraseCondition, tuned: ModelEvaluation): ConditionOutcome[] {
    const answer = tuned.prompts.find((one) => one.prompt === prompt)?.answer ?? "";
    const says = (phrase: string): boolean => folded(answer).includes(folded(phrase));
    const outcome = (phrase: string, isForbidden: boolean): ConditionOutcome => {
        const said = says(phrase);
        const words = `${said ? "says" : "does not say"} "${phrase}"${isForbidden ? ", which is forbidden" : ""}`;
        return {
            text: `the answer to "${prompt}" ${words}`,
            finding: { kind: "phrase", prompt, phrase, says: said, forbidden: isForbidden },
            ...{ held: said !== isForbidden, against: "phrase", tuned: null, other: null },
        };
    };
    return [...required.map((phrase) => outcome(phrase, false)), ...forbidden.map((phrase) => outcome(phrase, true))];
}

function folded(words: string): string {
    return words.normalize("NFC").toLowerCase();
}

/** A model can have a good loss and still end each answer before its first word: nobody wants that one. */
function somethingSaid({ cases, prompts }: ModelEvaluation): ConditionOutcome[] {
    const answers = [...cases, ...prompts];
    if (answers.length === 0 || answers.some(({ answer }) => answer.trim() !== "")) return [];
    const words = `the tuned model answers none of ${answers.length} questions: it says nothing`;
    const finding = { kind: "silent", questions: answers.length } as const;
    return [{ text: words, finding, held: false, against: "phrase", tuned: null, other: null }];
}

function warnings(
    gate: Gate,
    conditions: readonly ConditionOutcome[],
    measured: readonly Measured[],
    { tuned, incumbent, knownToIncumbent: known = 0 }: Parameters<typeof judge>[1],
): Warning[] {
    const all: Warning[] = [];
    const [fewest] = [...measured].sort((a, b) => a.rows - b.rows);
    if (fewest !== undefined && fewest.rows < gate.minRows) {
        const { metric, rows } = fewest;
        const few = { kind: "fewRows", rows, least: gate.minRows } as const;
        const what = `fewer than ${gate.minRows}: the verdict may be chance`;
        if (metric === "evalLoss") all.push({ text: `${rows} held-out rows are ${what}`, ...few });
        else
            all.push({ text: `${metric} is of ${rows} answered row${rows === 1 ? "" : "s"}, ${what}`, ...few, metric });
    }
    for (const { metric, against, leftOut } of measured) {
        if (typeof against === "number" || leftOut === 0) continue;
        const of = (metric === "evalLoss" ? tuned.losses : tuned.cases).length;
        const left = `${metric} against the ${against === "base" ? "base model" : against} leaves out ${leftOut} of ${of} rows`;
        const words = `${left}: only one of the two models has a number there`;
        all.push({ text: words, kind: "leftOut", metric, against, rows: leftOut, of });
    }
    if (incumbent !== undefined && known > 0 && measured.some(({ against }) => against === "incumbent")) {
        const of = tuned.losses.length;
        const what = `${known} of ${of} held-out rows ${known === 1 ? "was" : "were"} among the training rows of the incumbent`;
        const words = `${what}, which may know them by heart: for a fair comparison set dataset.split back, or accept a model that loses to it alone with gate.override`;
        all.push({ text: words, kind: "known", rows: known, of });
    }
    for (const [condition, { text: words, held, certainty }] of conditions.entries()) {
        if (!held || certainty === undefined || certainty >= CONFIDENCE) continue;
        const sure = `${Math.round(certainty * 100)} % sure`;
        all.push({ text: `may be chance (${sure}): ${words}`, kind: "chance", condition, certainty });
    }
    const empty = [...tuned.cases, ...tuned.prompts].filter(({ answer }) => answer.trim() === "").length;
    const asked = tuned.cases.length + tuned.prompts.length;
    if (empty > 0 && empty < asked) {
        const words = `${empty} of ${asked} answers of the tuned model are empty`;
        all.push({ text: words, kind: "empty", answers: empty, of: asked });
    }
    return all;
}

function shown(metric: Metric, value: number | null): string {
    if (value === null) return "unknown";
    return value.toFixed(metric === "evalLoss" ? 4 : 2);
}

/** What a person needs who was not there: what failed, by how much, and where; and how to accept the model all the same. */
export function describeRefusal(verdict: Verdict): string {
    const { conditions, worse, warnings: warned, model, overrideOfAnother: other } = verdict;
    const failed = conditions.filter(({ held }) => !held);
    const of = conditions.length === 1 ? "the condition" : `${failed.length} of ${conditions.length} conditions`;
    const lines = failed.map(({ text: words, difference, certainty, metric, against }) => {
        if (difference === undefined || certainty === undefined || metric === undefined) return `  ${words}`;
        const [low, high] = [difference.low, difference.high].map((value) => signed(metric, value));
        const sure = `${Math.round(certainty * 100)} % sure`;
        const interval =
            against === "threshold" ? "" : `; the difference is between ${low ?? ""} and ${high ?? ""} (95 %)`;
        return `  ${words} (${sure}${interval})`;
    });
    const named = failed.flatMap(({ metric, against }) =>
        worse.filter((one) => one.metric === metric && one.against === against),
    );
    const cases = named.map(
        ({ question, metric, tuned, other, against }) =>
            `    ${metric} ${shown(metric, tuned)} against ${shown(metric, other)} (${against}): ${clipped(question)}`,
    );
    const own = model.slice(0, SHORTEST);
    const unfit =
        other === undefined
            ? []
            : [`  gate.override ("${clipped(other.reason)}") is for model ${other.model}, this one is ${own}`];
    return [
        `refused by the gate: ${of} failed`,
        ...lines,
        ...(cases.length > 0 ? ["  the cases that lost most:", ...cases] : []),
        ...warned.map(({ text: words }) => `  warning: ${words}`),
        ...unfit,
        `  to accept this model all the same: retune:evaluation.gate.override: { reason: …, model: "${own}" }`,
    ].join("\n");
}

function signed(metric: Metric, value: number): string {
    return `${value < 0 ? "−" : "+"}${shown(metric, Math.abs(value))}`;
}

function clipped(question: string): string {
    const line = question.replace(/\s+/g, " ");
    return line.length > 60 ? `${line.slice(0, 59)}…` : line;
}

const metricField = z.preprocess(
    // As LLaMA-Factory spells them: eval_loss, rouge-l.
    (given) => METRICS.find((name) => name.toLowerCase() === String(given).replace(/[-_]/g, "").toLowerCase()) ?? given,
    z.enum(METRICS, { error: ({ input }) => notOneOf(input, METRICS) }),
);
const OPPONENTS = ["base", "incumbent"] as const;
const againstField = z.union([z.enum(OPPONENTS), number("a number", {})], {
    error: ({ input }) => notOneOf(input, [...OPPONENTS, "a number"]),
});
const regressionField = number("a number from 0", { from: 0 });
/** Empty in a gate that was read once: the stage reads it again. */
const phrasesField = z.array(text("a phrase"), expecting("a list of phrases"));

/** Digits of a digest that name a model. */
const SHORTEST = 12;
const modelName = `the beginning of the model's digest as a refusal shows it, ${SHORTEST} digits or more`;

const commonFields = {
    minRows: integer("a whole number from 0", { from: 0 }).default(30),
    override: group(
        {
            reason: text("why a model is accepted that fails"),
            model: text(modelName).regex(/^[0-9a-f]{12,64}$/, expecting(modelName)),
        },
        "{ reason: …, model: … }",
    ).optional(),
};

const FIXED_REGRESSION = "has a fixed number and a maxRegression: put the number where it is to be";

/** What a fixed number is never compared with. */
function impossible(metric: Metric, against: number): string[] {
    if (against < 0) return [`expected a number from 0, got ${against}`];
    return metric !== "evalLoss" && against > 100 ? [`${metric} is in percent: it is never ${against}`] : [];
}

const conditionField = group({
    metric: metricField.optional(),
    against: againstField.optional(),
    maxRegression: regressionField.optional(),
    prompt: text("one of the prompts").optional(),
    required: phrasesField.optional(),
    forbidden: phrasesField.optional(),
}).transform((given, context): MetricCondition | PhraseCondition => {
    const { metric, against, maxRegression, prompt, required = [], forbidden = [] } = given;
    const refuse = (message: string): void => {
        context.addIssue({ code: "custom", message });
    };
    if (prompt !== undefined) {
        if (metric !== undefined || against !== undefined || maxRegression !== undefined)
            refuse("has a metric and a prompt: make it two conditions");
        if (required.length + forbidden.length === 0) refuse("names no phrase: give required or forbidden");
        for (const phrase of required) {
            const no = forbidden.find((one) => folded(phrase).includes(folded(one)));
            if (no !== undefined) refuse(`requires "${phrase}" and forbids "${no}": no answer can do both`);
        }
        return { prompt, required, forbidden };
    }
    if (required.length + forbidden.length > 0) refuse("names phrases but no prompt");
    if (metric === undefined) refuse(`names neither a metric (${METRICS.join(", ")}) nor a prompt`);
    else if (against === undefined) refuse("missing: against, which is base, incumbent or a number");
    if (typeof against === "number") {
        if (maxRegression !== undefined && maxRegression > 0) refuse(FIXED_REGRESSION);
        if (metric !== undefined) impossible(metric, against).forEach(refuse);
    }
    return { metric: metric ?? "evalLoss", against: against ?? "base", maxRegression: maxRegression ?? 0 };
});

const listed = {
    ...commonFields,
    conditions: z.array(conditionField, expecting("a list of conditions")),
};

const shortGate = group({
    ...commonFields,
    metric: metricField.default("evalLoss"),
    against: z
        .preprocess(
            (given) => (Array.isArray(given) || given === undefined ? given : [given]),
            z.array(againstField).min(1, expecting("base, incumbent or a number, or a list of them")),
        )
        .default([...OPPONENTS]),
    maxRegression: regressionField.optional(),
}).transform(({ metric, against, maxRegression, ...common }, context) => {
    const numbers = against.filter((one) => typeof one === "number");
    const flaws = numbers.flatMap((one) => impossible(metric, one));
    // With base or incumbent in the list, it is of them.
    if (numbers.length === against.length && (maxRegression ?? 0) > 0) flaws.push(FIXED_REGRESSION);
    for (const message of flaws) context.addIssue({ code: "custom", message });
    const conditions = against.map((one) => ({
        ...{ metric, against: one, maxRegression: typeof one === "number" ? 0 : (maxRegression ?? 0) },
    }));
    return { ...common, conditions };
});

/**
 * `retune:evaluation.gate`: a list of conditions, or the short form of metric conditions,
 * { against: [base, incumbent], metric: evalLoss, maxRegression: 0 }, which is also the default.
 */
export const gateField = fieldOf(group(listed));

/** The same for the stage, with what only the reader of the configuration says. */
export const settledGateField = fieldOf(group({ ...listed, nothingHeldOut: z.literal(true).optional() }));

function fieldOf(listedGate: z.ZodType<Omit<Gate, "override"> & { override?: Override | undefined }>) {
    return z
        .unknown()
        .optional()
        .transform((given, context): Gate => {
            const value = given ?? {};
            const parsed = (isObject(value) && "conditions" in value ? listedGate : shortGate).safeParse(value);
            if (!parsed.success) {
                for (const { path, message } of problemsOf(parsed.error)) {
                    context.addIssue({ code: "custom", message, path: path === "" ? [] : [path] });
                }
                return z.NEVER;
            }
            const { override, ...rest } = parsed.data;
            for (const message of contradictions(rest.conditions)) {
                context.addIssue({ code: "custom", message, path: ["conditions"] });
            }
            return { ...rest, ...(override === undefined ? {} : { override }) };
        });
}

/** Two conditions of which at least one is not meant. */
function contradictions(conditions: Gate["conditions"]): string[] {
    const found: string[] = [];
    conditions.forEach((one, index) => {
        for (const other of conditions.slice(index + 1)) {
            if ("prompt" in one || "prompt" in other) {
                if ("prompt" in one && "prompt" in other && one.prompt === other.prompt)
                    found.push(`two are about the prompt "${one.prompt}": make them one`);
                continue;
            }
            if (one.metric !== other.metric) continue;
            if (typeof one.against === "number" && typeof other.against === "number") {
                found.push(
                    `${one.metric} is held against ${one.against} and against ${other.against}: which is meant?`,
                );
            } else if (one.against === other.against) {
                const [first, second] = [one.maxRegression, other.maxRegression];
                found.push(
                    `${one.metric} may be worse than ${one.against} by ${first} and by ${second}: which is meant?`,
                );
            }
        }
    });
    return found;
}
