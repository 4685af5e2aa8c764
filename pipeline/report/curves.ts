import { drawChart, type Curve } from "./charts";
import type { Curves, ReportData } from "./data";
import { learningRate, loss } from "./format";
import { html, type Html } from "./html";
import { wordsOf, type Words } from "./words";

type Point = readonly [step: number, value: number];

interface Named extends Curve {
    readonly name: string;
    /** How it is called in the legend. */
    readonly key: string;
}

/** Loss, validation loss and learning rate over the steps, of this training and of the incumbent's. */
export async function trainingCurves(data: ReportData): Promise<Html> {
    const words = wordsOf(data.language);
    const { training, lost } = data;
    const incumbent = data.incumbent?.training;
    if (training.losses.length === 0) return html`<p>${words.noLosses}</p>`;
    const validation = points(training.evalLosses);
    const losses: Named[] = [
        {
            name: words.trainingLoss,
            key: words.ofTraining,
            color: "var(--tuned)",
            line: "solid",
            points: points(training.losses),
        },
        { name: words.validationLoss, key: words.ofValidation, color: "var(--base)", ...dashed, points: validation },
        ...(incumbent === undefined ? [] : ofIncumbent(incumbent, words)),
    ];
    const rates: Named[] = [
        {
            name: words.learningRate,
            key: words.ofTraining,
            color: "var(--tuned)",
            line: "solid",
            points: rate(training),
        },
        {
            name: words.incumbentRate,
            key: words.ofIncumbent,
            color: "var(--incumbent)",
            line: "dotted",
            points: incumbent === undefined ? [] : rate(incumbent),
        },
    ];
    const best = validation.reduce<Point | undefined>((low, one) => (low && low[1] <= one[1] ? low : one), undefined);
    return html`${await figure(words.loss, losses, 280, loss, words)}
        ${await figure(words.learningRate, rates, 140, learningRate, words)}
        <p>
            ${[
                course(words.trainingLoss, points(training.losses), loss, words),
                best ? words.lowest(best[0], loss(best[1])) : words.noValidation,
                ...interruption(lost, words),
            ].join(words.gap)}
        </p>
        ${numbers(training, words)}`;
}

function interruption({ steps, seconds, resumedFrom }: ReportData["lost"], words: Words): string[] {
    if (steps === 0 && resumedFrom === undefined) return [];
    const lost = steps > 0 ? words.lost(steps, words.duration(seconds)) : words.nothingLost;
    // At step 0 there was no checkpoint.
    return resumedFrom ? [lost, words.resumed(resumedFrom)] : [lost];
}

const dashed = { line: "dashed", marked: true } as const;

function ofIncumbent({ losses, evalLosses }: Curves, words: Words): Named[] {
    const color = "var(--incumbent)";
    return [
        { name: words.incumbentLoss, key: words.ofIncumbent, color, line: "dotted", points: points(losses) },
        {
            name: words.incumbentValidation,
            key: words.ofIncumbentValidation,
            color,
            ...dashed,
            points: points(evalLosses),
        },
    ];
}

function points(all: readonly { readonly step: number; readonly loss: number }[]): Point[] {
    return all.map((one) => [one.step, one.loss] as const);
}

function rate({ losses }: Curves): Point[] {
    return losses.flatMap((one) => (one.learningRate === undefined ? [] : [[one.step, one.learningRate] as const]));
}

async function figure(
    title: string,
    all: readonly Named[],
    height: number,
    format: (value: number) => string,
    words: Words,
): Promise<Html | undefined> {
    const curves = all.filter((one) => one.points.length > 0);
    if (curves.length === 0) return undefined;
    const description = curves.map((one) => course(one.name, one.points, format, words)).join(" ");
    const keys = curves.map(
        ({ key, color, line }) =>
            html`<li><span class="key" style="border-top: 2px ${line} ${color}"></span>${key}</li> `,
    );
    return html`<figure>
        <figcaption>
            <span>${title}</span>
            ${
                curves.length > 1
                    ? html`<ul class="keys">
                          ${keys}
                      </ul>`
                    : undefined
            }
        </figcaption>
        ${await drawChart({ description, height, axis: words.step, curves, format })}
    </figure>`;
}

/** A curve in words. */
function course(name: string, all: readonly Point[], format: (value: number) => string, words: Words): string {
    const [first, last] = [all[0], all.at(-1)];
    if (first === undefined || last === undefined) return "";
    return all.length === 1
        ? words.atStep(name, format(first[1]), first[0])
        : words.fromTo(name, format(first[1]), first[0], format(last[1]), last[0]);
}

const MOST_ROWS = 40;

/** For those who do not see the charts, and for those who want to copy numbers. */
function numbers({ losses, evalLosses }: Curves, words: Words): Html {
    const training = new Map(thinned(losses).map((one) => [one.step, one]));
    const validation = new Map(thinned(evalLosses).map((one) => [one.step, one]));
    const steps = [...new Set([...training.keys(), ...validation.keys()])].sort((a, b) => a - b);
    const all = steps.length >= losses.length;
    return html`<details class="spare">
        <summary>${words.numbers}</summary>
        <table class="numbers">
            <caption>
                ${all ? words.everyStep : words.someSteps(steps.length, losses.length)}
            </caption>
            <thead>
                <tr>
                    <th scope="col">${words.columns.step}</th>
                    <th scope="col">${words.trainingLoss}</th>
                    <th scope="col">${words.validationLoss}</th>
                    <th scope="col">${words.learningRate}</th>
                </tr>
            </thead>
            <tbody>
                ${steps.map((step) => {
                    const [one, evaluated] = [training.get(step), validation.get(step)];
                    return html`<tr>
                        <th scope="row">${words.count(step)}</th>
                        <td>${one && loss(one.loss)}</td>
                        <td>${evaluated && loss(evaluated.loss)}</td>
                        <td>${one?.learningRate === undefined ? undefined : learningRate(one.learningRate)}</td>
                    </tr>`;
                })}
            </tbody>
        </table>
    </details>`;
}

/** Evenly, first and last included. */
function thinned<T>(all: readonly T[]): readonly T[] {
    if (all.length <= MOST_ROWS) return all;
    const wanted = new Set(
        Array.from({ length: MOST_ROWS }, (_, index) => Math.round((index * (all.length - 1)) / (MOST_ROWS - 1))),
    );
    return all.filter((_, index) => wanted.has(index));
}
