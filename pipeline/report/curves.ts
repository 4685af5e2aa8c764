import { drawChart } from "./charts";
import type { ReportData } from "./data";
import { duration } from "../duration";
import { count, learningRate, loss, plural } from "./format";
import { html, type Html } from "./html";

export async function lossCurves({ losses, evalLosses, lost }: ReportData): Promise<Html> {
    if (losses.length === 0) return html`<p>No losses were logged.</p>`;
    const training = losses.map((one) => [one.step, one.loss] as const);
    const validation = evalLosses.map((one) => [one.step, one.loss] as const);
    const rates = losses.flatMap((one) =>
        one.learningRate === undefined ? [] : [[one.step, one.learningRate] as const],
    );
    const curves = [{ color: "var(--tuned)", points: training }] as const;
    const lossChart = await drawChart({
        description: [course("Training loss", training, loss), course("Validation loss", validation, loss)].join(" "),
        height: 280,
        format: loss,
        curves:
            validation.length === 0 ? curves : [...curves, { color: "var(--base)", marked: true, points: validation }],
    });
    const rateChart =
        rates.length > 0
            ? html`<figure>
                  <figcaption>Learning rate</figcaption>
                  ${await drawChart({
                      description: course("Learning rate", rates, learningRate),
                      height: 130,
                      format: learningRate,
                      curves: [{ color: "var(--muted)", points: rates }],
                  })}
              </figure>`
            : undefined;
    const best = validation.reduce<Point | undefined>((low, one) => (low && low[1] <= one[1] ? low : one), undefined);
    const bestText = best
        ? `The validation loss was lowest at step ${count(best[0])}: ${loss(best[1])}.`
        : "There are no validation rows, hence no validation loss.";
    return html`<figure>
            <figcaption>
                Loss: <span class="key training"></span>training${
                    validation.length > 0 ? html`, <span class="key validation"></span>validation` : undefined
                }
            </figcaption>
            ${lossChart}
        </figure>
        ${rateChart}
        <p>${course("Training loss", training, loss)} ${bestText} ${lostWork(lost)}</p>
        ${numbers(losses, evalLosses)}`;
}

function lostWork(lost: ReportData["lost"]): string {
    if (lost === undefined || lost.steps === 0) return "";
    const what = `${plural(lost.steps, "step")} (${duration(lost.seconds)})`;
    return `The training was interrupted: ${what} after the last checkpoint were lost and done again.`;
}

type Point = readonly [step: number, value: number];

/** A curve in words. */
function course(name: string, points: readonly Point[], format: (value: number) => string): string {
    const [first, last] = [points[0], points.at(-1)];
    if (first === undefined || last === undefined) return "";
    if (points.length === 1) return `${name}: ${format(first[1])} at step ${count(first[0])}.`;
    return `${name}: from ${format(first[1])} at step ${count(first[0])} to ${format(last[1])} at step ${count(last[0])}.`;
}

const MOST_ROWS = 40;

/** For those who do not see the charts, and for those who want to copy numbers. */
function numbers(losses: ReportData["losses"], evalLosses: ReportData["evalLosses"]): Html {
    const training = new Map(thinned(losses).map((one) => [one.step, one]));
    const validation = new Map(thinned(evalLosses).map((one) => [one.step, one]));
    const steps = [...new Set([...training.keys(), ...validation.keys()])].sort((a, b) => a - b);
    const all = steps.length >= losses.length;
    return html`<details>
        <summary>The numbers of the charts</summary>
        <table class="numbers">
            <caption>
                ${all ? "Every logged step." : `At ${count(steps.length)} of ${count(losses.length)} logged steps.`}
            </caption>
            <thead>
                <tr>
                    <th scope="col">Step</th>
                    <th scope="col">Training loss</th>
                    <th scope="col">Validation loss</th>
                    <th scope="col">Learning rate</th>
                </tr>
            </thead>
            <tbody>
                ${steps.map((step) => {
                    const [one, evaluated] = [training.get(step), validation.get(step)];
                    return html`<tr>
                        <th scope="row">${count(step)}</th>
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
