import type { ModelEvaluation, ReportData } from "./data";
import { difference, loss, score } from "./format";
import { html, type Html } from "./html";
import { fitting, inline, quoted } from "./text";
import { wordsOf, type Metric, type Words } from "./words";

interface Measure {
    readonly key: Metric;
    readonly format: (value: number) => string;
    /** What an improvement multiplies the difference with to be positive. */
    readonly better: 1 | -1;
}

const measures: Readonly<Record<Metric, Measure>> = {
    evalLoss: { key: "evalLoss", format: loss, better: -1 },
    bleu4: { key: "bleu4", format: score, better: 1 },
    rouge1: { key: "rouge1", format: score, better: 1 },
    rouge2: { key: "rouge2", format: score, better: 1 },
    rougeL: { key: "rougeL", format: score, better: 1 },
    judge: { key: "judge", format: score, better: 1 },
};

interface Comparison {
    readonly measure: Measure;
    readonly other: number;
    readonly tuned: number;
    /** As a reader would compute it from the rounded numbers: what looks the same is the same. */
    readonly change: number;
    readonly interval: ReportData["differences"][number]["interval"];
    readonly verdict: keyof Words["change"];
}

function compare({ differences }: ReportData, against: "base" | "incumbent"): readonly Comparison[] {
    return differences
        .filter((one) => one.against === against)
        .map(({ metric, tuned, other, interval }) => {
            const measure = measures[metric];
            const change = Number(measure.format(tuned)) - Number(measure.format(other));
            const gain = change * measure.better;
            const word = gain > 0 ? "better" : gain < 0 ? "worse" : "the same";
            const isSure = interval === undefined || interval.low > 0 || interval.high < 0 || word === "the same";
            return { measure, other, tuned, change, interval, verdict: isSure ? word : "unsure" };
        });
}

const arrow = ({ measure, other, tuned }: Comparison): string => `${measure.format(other)} → ${measure.format(tuned)}`;

/** The decision, what it rests on, and the one sentence of the report. */
export function verdict(data: ReportData): Html {
    const words = wordsOf(data.language);
    const { decision, conditions, warnings, override } = data.verdict;
    const reason =
        override &&
        html`<p>
            <strong>${words.reason}${words.colon}</strong>${inline(override.reason)}
            <code>${override.model.slice(0, 12)}</code>
        </p>`;
    // What does not hold is what a reader looks for.
    const listed = [...conditions.filter(({ held }) => !held), ...conditions.filter(({ held }) => held)].map(
        (one) =>
            html`<li class="${one.held ? "held" : "failed"}">
                <span class="badge">${one.held ? words.holds : words.fails}</span> ${condition(one, words)}
            </li>`,
    );
    return html`<div class="decision ${decision}">
            <p class="word">${words.decision[decision]}</p>
            <p>${data.hasModel === false ? words.decidedFirst : words.decided[decision]}</p>
            ${reason}
            ${
                listed.length === 0
                    ? undefined
                    : html`<h3>${words.conditions}</h3>
                          <ul class="conditions">
                              ${listed}
                          </ul>`
            }
        </div>
        ${summary(data, words)}
        ${warnings.map((one) => html`<p class="warning">${inline(words.warning(one, conditions))}</p>`)}`;
}

function condition(one: ReportData["verdict"]["conditions"][number], words: Words): Html {
    const { metric, against, tuned, other, difference: interval } = one;
    if (metric === undefined || against === "phrase" || tuned === null) return inline(words.condition(one));
    const { format } = measures[metric];
    const name = words.metric[metric];
    if (other === null) return html`${words.noIncumbent(name)}`;
    const sure = interval && [
        html`<br /><span class="muted"
                >${words.between(
                    difference(interval.low, format),
                    difference(interval.high, format),
                    Math.round(interval.confidence * 100),
                )}</span
            >`,
    ];
    const isRecounted = one.finding.kind === "compared" && one.finding.perTunedToken === true;
    const counted = isRecounted ? words.perTunedToken : "";
    return html`${words.against(name, format(tuned), format(other), against)}${counted}${sure}`;
}

function summary(data: ReportData, words: Words): readonly Html[] {
    // What decides about the stack comes first.
    const sentences = (["incumbent", "base"] as const).flatMap((other) => {
        const compared = compare(data, other).filter(({ measure }) => ["evalLoss", "rougeL"].includes(measure.key));
        if (compared.length === 0) return [];
        const gains = new Set(compared.map(({ change, measure }) => Math.sign(change * measure.better)));
        const result = gains.has(1) ? (gains.has(-1) ? "mixed" : "better") : gains.has(-1) ? "worse" : "same";
        const numbers = compared.map((one) => `${words.inSentence(words.metric[one.measure.key])} ${arrow(one)}`);
        return [
            html`<p class="summary">
                <strong>${words.compared(result, other)}${words.colon}</strong>${numbers.join(words.comma)}${words.stop}
            </p>`,
        ];
    });
    if (sentences.length > 0) return sentences;
    const instead = data.tuned.prompts.length > 0 ? words.readInstead : "";
    return [
        html`<p class="summary">
            <strong>${words.notMeasured}${words.colon}</strong>${words.nothingHeldOut} ${instead}
        </p>`,
    ];
}

export interface Tile {
    readonly name: string;
    readonly value: string;
    readonly note: string;
    /** What that means. */
    readonly change?: keyof Words["change"];
}

export function qualityTiles(data: ReportData): readonly Tile[] {
    const words = wordsOf(data.language);
    const shown: readonly Metric[] = ["evalLoss", "rougeL", "bleu4"];
    const compared = compare(data, "base");
    return shown.flatMap((key) =>
        compared
            .filter(({ measure }) => measure.key === key)
            .map((one) => ({
                name: words.metric[key],
                value: arrow(one),
                note: words.baseToTuned,
                change: one.verdict,
            })),
    );
}

export function metricTable(data: ReportData): Html {
    const words = wordsOf(data.language);
    const base = compare(data, "base");
    const incumbent = compare(data, "incumbent");
    if (base.length === 0) return html`<p>${words.noHeldOut}</p>`;
    const { rows } = data.tuned.metrics;
    const answered = data.tuned.cases.length;
    const rare = Math.min(rows, answered) < 30 ? `${words.gap}${words.few}` : "";
    const alone = incumbent.length === 0;
    // In a narrow window each row is a block of its own, whose cells say what they are; the roles keep it a table.
    const cell = (name: string, content: Html | string | undefined, className = ""): Html =>
        html`<td role="cell" data-name="${name}" class="${className}">${content}</td>`;
    const row = (one: Comparison): Html => {
        const { measure } = one;
        const other = incumbent.find((two) => two.measure === measure);
        const { base: first, incumbent: last, tuned } = words.short;
        return html`<tr role="row">
            <th role="rowheader" scope="row">${words.metric[measure.key]}</th>
            ${cell(first, measure.format(one.other))}
            ${alone ? undefined : cell(last, other && measure.format(other.other))}
            ${cell(tuned, measure.format(one.tuned))}
            ${cell(words.difference("base", alone), changed(one, words), "difference")}
            ${alone ? undefined : cell(words.difference("incumbent", alone), other && changed(other, words), "difference")}
        </tr>`;
    };
    const heads = [
        words.short.base,
        ...(alone ? [] : [words.short.incumbent]),
        words.short.tuned,
        words.difference("base", alone),
        ...(alone ? [] : [words.difference("incumbent", alone)]),
    ];
    return html`<table role="table" class="numbers ${alone ? "" : "broad"}">
            <caption>
                ${words.measured(rows, answered)}${rare}
            </caption>
            <thead role="rowgroup">
                <tr role="row">
                    <th role="columnheader" scope="col">${words.measure}</th>
                    ${heads.map((head) => html`<th role="columnheader" scope="col">${head}</th>`)}
                </tr>
            </thead>
            <tbody role="rowgroup">
                ${base.map(row)}
            </tbody>
        </table>
        <p class="muted">
            ${words.explained}${base.some(({ interval }) => interval) ? `${words.gap}${words.interval}` : ""}
        </p>`;
}

function changed({ measure, change, interval, verdict }: Comparison, words: Words): Html {
    const shown = (value: number): string => difference(value, measure.format);
    const within = interval && html`<br /><span class="muted">[${shown(interval.low)}, ${shown(interval.high)}]</span>`;
    return html`${shown(change)} ${inWords(verdict, words)}${within}`;
}

/** In green or red, and in words. */
export function inWords(change: keyof Words["change"], words: Words): Html {
    return html`<span class="${change.replace(" ", "-")}">${words.change[change]}</span>`;
}

export function promptAnswers(data: ReportData): Html {
    const words = wordsOf(data.language);
    const { base, tuned, incumbent } = data;
    if (tuned.prompts.length === 0) return html`<p>${words.noPrompts}</p>`;
    const shown = fitting(
        tuned.prompts,
        200_000,
        (one, index) =>
            html`<article>
                <h3>${inline(one.prompt)}</h3>
                <div class="answers">
                    ${answer("base", base.prompts[index], words)}
                    ${incumbent && answer("incumbent", incumbent.evaluation.prompts[index], words)}
                    ${answer("tuned", one, words)}
                </div>
            </article>`,
    );
    return html`${shown}${leftOut(tuned.prompts.length - shown.length, words)}`;
}

function answer(
    model: keyof Words["model"],
    given: { readonly answer: string; readonly complete: boolean } | undefined,
    words: Words,
    scores?: string,
): Html {
    return html`<div class="answer ${model}">
        <p class="who">
            ${words.model[model]}${scores === undefined ? undefined : html` <span class="muted">${scores}</span>`}
        </p>
        ${given === undefined ? html`<p class="muted">${words.notAsked}</p>` : quoted(given.answer, words)}
        ${given?.complete === false ? html`<p class="cut">${words.cutOff}</p>` : undefined}
    </div>`;
}

type Case = ModelEvaluation["cases"][number];

interface Compared {
    readonly base: Case | undefined;
    readonly incumbent: Case | undefined;
    readonly tuned: Case;
    /** Of ROUGE-L, against the incumbent, or where there is none against the base. */
    readonly change: number;
    readonly shownBy: readonly (keyof Words["show"])[];
}

/** Worst first: what went wrong is what a reader looks for. As many as fit into a number of bytes. */
export function heldOutCases(data: ReportData, budget: number): Html {
    const words = wordsOf(data.language);
    const { base, tuned, incumbent } = data;
    if (tuned.cases.length === 0) return html`<p>${words.noCases}</p>`;
    const cases = tuned.cases
        .map((one, index): Compared => {
            const others = { base: base.cases[index], incumbent: incumbent?.evaluation.cases[index] };
            const opponent = others.incumbent ?? others.base;
            const change = one.rougeL - (opponent?.rougeL ?? one.rougeL);
            const shownBy = (["worse", "better", "cut", "empty"] as const).filter((kind) => belongs(kind, one, change));
            return { ...others, tuned: one, change, shownBy };
        })
        .sort((a, b) => a.change - b.change || a.tuned.rougeL - b.tuned.rougeL);
    const shown = fitting(cases, budget, (one, index) => heldOutCase(one, index === 0, words));
    return html`<p class="muted">${words.worstFirst(incumbent === undefined ? "base" : "incumbent")}</p>
        <div class="cases">${filter(cases.slice(0, shown.length), words)}${shown}</div>
        ${leftOut(cases.length - shown.length, words)}`;
}

function belongs(
    kind: "worse" | "better" | "cut" | "empty",
    { answer: text, complete }: Case,
    change: number,
): boolean {
    switch (kind) {
        case "worse":
            return Number(score(change)) < 0;
        case "better":
            return Number(score(change)) > 0;
        case "cut":
            return !complete;
        case "empty":
            return text.trim() === "";
    }
}

/** Radio buttons that style.css looks at: a filter that needs no script. */
function filter(cases: readonly Compared[], words: Words): Html {
    const kinds = Object.keys(words.show) as (keyof Words["show"])[];
    const choice = (kind: (typeof kinds)[number]): Html => {
        const number = kind === "all" ? cases.length : cases.filter(({ shownBy }) => shownBy.includes(kind)).length;
        return html`<label
            ><input
                type="radio"
                name="show"
                id="show-${kind}"
                ${kind === "all" ? "checked" : ""}
                ${number === 0 ? "disabled" : ""}
            />
            ${words.show[kind]} <span class="muted">${number}</span></label
        > `;
    };
    return html`<fieldset class="filter">
        <legend>${words.filter}</legend>
        ${kinds.map(choice)}
    </fieldset>`;
}

function heldOutCase({ base, incumbent, tuned, change, shownBy }: Compared, open: boolean, words: Words): Html {
    const scores = (one: Case): string => `ROUGE-L ${score(one.rougeL)}, BLEU-4 ${score(one.bleu4)}`;
    const word = shownBy.includes("worse") ? "worse" : shownBy.includes("better") ? "better" : "the-same";
    return html`<details class="case ${shownBy.map((kind) => `is-${kind}`).join(" ")}" ${open ? "open" : ""}>
        <summary>
            <span class="score">${score(tuned.rougeL)}</span>
            <span class="change ${word}">${difference(change, score)}</span>
            <span class="line">${inline(tuned.question)}</span>
        </summary>
        <p class="who">${words.question}</p>
        ${quoted(tuned.question, words)}
        <p class="who">${words.reference}</p>
        ${quoted(tuned.reference, words)}
        <div class="answers">
            ${answer("base", base, words, base && scores(base))}
            ${incumbent && answer("incumbent", incumbent, words, scores(incumbent))}
            ${answer("tuned", tuned, words, scores(tuned))}
        </div>
    </details>`;
}

function leftOut(number: number, words: Words): Html | undefined {
    return number === 0 ? undefined : html`<p class="muted">${words.leftOut(number)}</p>`;
}
