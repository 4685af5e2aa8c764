import type { ModelEvaluation, ReportData } from "./data";
import { difference, loss, plural, score } from "./format";
import { html, type Html } from "./html";
import { fitting, inline, quoted } from "./text";

interface Measure {
    readonly name: string;
    readonly key: "evalLoss" | "bleu4" | "rouge1" | "rouge2" | "rougeL";
    readonly format: (value: number) => string;
    /** What an improvement multiplies the difference with to be positive. */
    readonly better: 1 | -1;
}

const heldOutLoss: Measure = { name: "Held-out loss", key: "evalLoss", format: loss, better: -1 };
const rougeL: Measure = { name: "ROUGE-L", key: "rougeL", format: score, better: 1 };
const bleu4: Measure = { name: "BLEU-4", key: "bleu4", format: score, better: 1 };
const measures: readonly Measure[] = [
    heldOutLoss,
    bleu4,
    { name: "ROUGE-1", key: "rouge1", format: score, better: 1 },
    { name: "ROUGE-2", key: "rouge2", format: score, better: 1 },
    rougeL,
];

interface Comparison {
    readonly measure: Measure;
    readonly base: number;
    readonly tuned: number;
    /** As a reader would compute it from the rounded numbers: what looks the same is the same. */
    readonly change: number;
    readonly verdict: "better" | "worse" | "the same";
}

function compare({ base, tuned }: ReportData, which: readonly Measure[]): readonly Comparison[] {
    return which.flatMap((measure) => {
        const [before, after] = [base.metrics[measure.key], tuned.metrics[measure.key]];
        if (before === null || after === null) return [];
        const change = Number(measure.format(after)) - Number(measure.format(before));
        const gain = change * measure.better;
        const verdict = gain > 0 ? "better" : gain < 0 ? "worse" : "the same";
        return { measure, base: before, tuned: after, change, verdict };
    });
}

const arrow = ({ measure, base, tuned }: Comparison): string => `${measure.format(base)} → ${measure.format(tuned)}`;

/** The one sentence of the report. */
export function summary(data: ReportData): Html {
    const compared = compare(data, [heldOutLoss, rougeL]);
    if (compared.length === 0) {
        const instead = data.tuned.prompts.length > 0 ? " Read the answers below instead." : "";
        return html`<p class="summary"><strong>Not measured:</strong> nothing was held out for a test.${instead}</p>`;
    }
    const verdicts = new Set(compared.map(({ verdict }) => verdict));
    const word = verdicts.has("better")
        ? verdicts.has("worse")
            ? "Better in one measure, worse in another"
            : "Better than the base model"
        : verdicts.has("worse")
          ? "Worse than the base model"
          : "The same as the base model";
    const numbers = compared.map((one) => `${one.measure.name.replace(/^H/, "h")} ${arrow(one)}`).join(", ");
    return html`<p class="summary"><strong>${word}:</strong> ${numbers}.</p>`;
}

export interface Tile {
    readonly name: string;
    readonly value: string;
    readonly note: string;
}

export function qualityTiles(data: ReportData): readonly Tile[] {
    return compare(data, [heldOutLoss, rougeL, bleu4]).map((one) => ({
        name: one.measure.name,
        value: arrow(one),
        note: `base → tuned, ${one.verdict}`,
    }));
}

export function metricTable(data: ReportData): Html {
    const compared = compare(data, measures);
    if (compared.length === 0) return html`<p>There are no held-out rows, so nothing was scored.</p>`;
    const { rows } = data.tuned.metrics;
    const answered = data.tuned.cases.length;
    const rare = Math.min(rows, answered) < 30 ? " With so few, a difference may be chance." : "";
    return html`<table class="numbers">
            <caption>
                The loss is over ${plural(rows, "held-out row")}, the scores are over
                ${plural(answered, "answer")}.${rare}
            </caption>
            <thead>
                <tr>
                    <th scope="col">Measure</th>
                    <th scope="col">Base</th>
                    <th scope="col">Tuned</th>
                    <th scope="col">Difference</th>
                </tr>
            </thead>
            <tbody>
                ${compared.map(metricRow)}
            </tbody>
        </table>
        <p class="muted">
            Loss: mean cross-entropy per token of the reference answer; lower is better. BLEU (over characters) and
            ROUGE (F, over words) compare an answer with the reference, in percent; higher is better.
        </p>`;
}

function metricRow({ measure, base, tuned, change, verdict }: Comparison): Html {
    return html`<tr>
        <th scope="row">${measure.name}</th>
        <td>${measure.format(base)}</td>
        <td>${measure.format(tuned)}</td>
        <td>${difference(change, measure.format)} <span class="${verdict.replace(" ", "-")}">${verdict}</span></td>
    </tr>`;
}

export function promptAnswers({ base, tuned }: ReportData): Html {
    if (tuned.prompts.length === 0) return html`<p>No fixed prompts are configured.</p>`;
    const shown = fitting(
        tuned.prompts,
        200_000,
        (one, index) =>
            html`<article>
                <h3>${inline(one.prompt)}</h3>
                <div class="pair">
                    ${answer("Base model", "base", base.prompts[index])} ${answer("Tuned model", "tuned", one)}
                </div>
            </article>`,
    );
    return html`${shown}${leftOut(tuned.prompts.length - shown.length, "prompt")}`;
}

function answer(
    title: string,
    className: "base" | "tuned",
    given: { readonly answer: string; readonly complete: boolean } | undefined,
    scores?: string,
): Html {
    return html`<div class="answer ${className}">
        <p class="who">${title}${scores === undefined ? undefined : html` <span class="muted">${scores}</span>`}</p>
        ${given === undefined ? html`<p class="muted">(not asked)</p>` : quoted(given.answer)}
        ${given?.complete === false ? html`<p class="cut">Cut off: the limit of new tokens was reached.</p>` : undefined}
    </div>`;
}

/** Worst first: what went wrong is what a reader looks for. */
export function heldOutCases({ base, tuned }: ReportData): Html {
    if (tuned.cases.length === 0) return html`<p>No held-out question was answered.</p>`;
    const pairs = tuned.cases
        .map((one, index) => ({ tuned: one, base: base.cases[index] }))
        .sort((a, b) => a.tuned.rougeL - b.tuned.rougeL);
    const shown = fitting(pairs, 400_000, (pair, index) => heldOutCase(pair.tuned, pair.base, index === 0));
    return html`<p class="muted">Worst first. The number is the ROUGE-L of the tuned model's answer.</p>
        ${shown}${leftOut(pairs.length - shown.length, "case")}`;
}

type Case = ModelEvaluation["cases"][number];

function heldOutCase(tuned: Case, base: Case | undefined, open: boolean): Html {
    const scores = (one: Case): string => `ROUGE-L ${score(one.rougeL)}, BLEU-4 ${score(one.bleu4)}`;
    return html`<details class="case" ${open ? "open" : ""}>
        <summary>
            <span class="score">${score(tuned.rougeL)}</span>
            <span class="line">${inline(tuned.question)}</span>
        </summary>
        <p class="who">Question</p>
        ${quoted(tuned.question)}
        <p class="who">Reference</p>
        ${quoted(tuned.reference)}
        <div class="pair">
            ${answer("Base model", "base", base, base && scores(base))}
            ${answer("Tuned model", "tuned", tuned, scores(tuned))}
        </div>
    </details>`;
}

function leftOut(number: number, what: string): Html | undefined {
    if (number === 0) return undefined;
    return html`<p class="muted">
        ${plural(number, `more ${what}`)} left out to keep the page small; evaluation.json has them all.
    </p>`;
}
