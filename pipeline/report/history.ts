import * as fs from "node:fs";
import * as path from "node:path";
import { drawChart } from "./charts";
import { objectIn } from "../identity";
import type { Language, ModelEvaluation, ReportData } from "./data";
import { loss, score, time } from "./format";
import { html, type Html } from "./html";
import { page } from "./page";
import { inline } from "./text";
import { wordsOf } from "./words";

/*
 * RETUNE_HOME/history/STACK/ keeps what every update made that changed something, whatever becomes of its runs: a folder
 * for each, from 1 on, with report.html, report.json and generation.json, and index.html over all of them.
 */

/** `generation.json`: what the index says of an update. */
export interface Generation {
    readonly number: number;
    readonly at: string;
    readonly decision: ReportData["verdict"]["decision"];
    /** The run whose verdict it is. */
    readonly evaluation: string;
    readonly metrics: ModelEvaluation["metrics"];
    /** What made the stages run, in words; none of the first update. */
    readonly changes: readonly string[];
}

export function historyFolder(home: string, stack: string): string {
    return path.join(home, "history", encodeURIComponent(stack));
}

/** The way from a report to its index: the same from here and from RETUNE_HOME/runs/KEY/out/, where it was made. */
export function wayToIndex(stack: string): string {
    return `../../../history/${encodeURIComponent(encodeURIComponent(stack))}/index.html`;
}

/** All of a stack, the oldest first. What of a folder is lost or torn is passed over, and keeps nobody from the others. */
export function generationsOf(home: string, stack: string): Generation[] {
    const folder = historyFolder(home, stack);
    return numbersIn(folder).flatMap((number) => {
        const made = objectIn(path.join(folder, String(number), "generation.json"));
        return made === undefined ? [] : [{ ...(made as unknown as Generation), number }];
    });
}

function numbersIn(folder: string): number[] {
    const names = fs.existsSync(folder) ? fs.readdirSync(folder).filter((name) => /^\d+$/.test(name)) : [];
    return names.map(Number).sort((a, b) => a - b);
}

export function pageOf(home: string, stack: string, number: number): string {
    return path.join(historyFolder(home, stack), String(number), "report.html");
}

/** What the stack's last report is in; undefined where there is none, or it is gone. */
export function languageOfHistory(home: string, stack: string): Language | undefined {
    const last = generationsOf(home, stack).at(-1);
    if (last === undefined) return undefined;
    const file = path.join(historyFolder(home, stack), String(last.number), "report.json");
    const report = objectIn(file) as Partial<ReportData> | undefined;
    return report?.language;
}

/** Keeps a report as the next generation of its stack. Answers the path of its page. */
export async function keepGeneration(home: string, data: ReportData, report: string): Promise<string> {
    const folder = historyFolder(home, data.stack);
    const number = (numbersIn(folder).at(-1) ?? 0) + 1;
    const { at, verdict, tuned } = data;
    const made: Generation = {
        ...{ number, at, decision: verdict.decision, metrics: tuned.metrics },
        evaluation: data.stages.find(({ kind }) => kind === "Evaluation")?.made?.run ?? "",
        changes: data.stages.flatMap(({ reasons }) => reasons).filter((reason) => !isConsequence(reason)),
    };
    const place = path.join(folder, String(number));
    const temporary = path.join(folder, `.${number}.${process.pid}`);
    await fs.promises.mkdir(temporary, { recursive: true });
    await fs.promises.writeFile(path.join(temporary, "report.html"), report);
    await fs.promises.writeFile(path.join(temporary, "report.json"), JSON.stringify(data, undefined, 1));
    await fs.promises.writeFile(path.join(temporary, "generation.json"), JSON.stringify(made, undefined, 1));
    await fs.promises.rename(temporary, place);
    const index = path.join(folder, "index.html");
    await fs.promises.writeFile(`${index}.${process.pid}`, await renderHistory(home, data));
    await fs.promises.rename(`${index}.${process.pid}`, index);
    return pageOf(home, data.stack, number);
}

/** That a stage took in another result says only that the one before it made another. Other data is a change of its own. */
function isConsequence(reason: string): boolean {
    return /^(?!content\.)\S+ [0-9a-f]{12} → [0-9a-f]{12}$/.test(reason);
}

async function renderHistory(
    home: string,
    { stack, language }: Pick<ReportData, "stack" | "language">,
): Promise<string> {
    const words = wordsOf(language);
    const all = generationsOf(home, stack);
    const losses = all.flatMap(({ number, metrics }) =>
        metrics.evalLoss === null ? [] : [[number, metrics.evalLoss] as const],
    );
    const title = words.generations(stack);
    return page(language, {
        title,
        header: html`<header>
            <h1>${inline(title)}</h1>
            <p class="muted">${words.historyIntro}</p>
        </header>`,
        main: html`${
                losses.length < 2
                    ? undefined
                    : html`<figure>
                          <figcaption><span>${words.metricsOverTime}</span></figcaption>
                          ${await drawChart({
                              description: losses.map(([number, value]) => `${number}: ${loss(value)}`).join(", "),
                              height: 220,
                              axis: words.generation,
                              from: 1,
                              format: loss,
                              curves: [{ color: "var(--tuned)", line: "solid", marked: true, points: losses }],
                          })}
                      </figure>`
            }
            <table role="table" class="history">
                <thead role="rowgroup">
                    <tr role="row">
                        <th role="columnheader" scope="col">${words.generation}</th>
                        <th role="columnheader" scope="col">${words.made}</th>
                        <th role="columnheader" scope="col">${words.result}</th>
                        <th role="columnheader" scope="col" class="number">${words.metric.evalLoss}</th>
                        <th role="columnheader" scope="col" class="number">${words.metric.rougeL}</th>
                        <th role="columnheader" scope="col" class="number">${words.metric.bleu4}</th>
                        <th role="columnheader" scope="col">${words.changed}</th>
                    </tr>
                </thead>
                <tbody role="rowgroup">
                    ${all.toReversed().map((one) => row(one, one === all[0], language))}
                </tbody>
            </table>`,
    });
}

/** In a narrow window a block of its own, whose numbers say what they are; the roles keep it a row of a table. */
function row({ number, at, decision, metrics, changes }: Generation, first: boolean, language: Language): Html {
    const words = wordsOf(language);
    const measured = (name: "evalLoss" | "rougeL" | "bleu4", format: (value: number) => string): Html => {
        const value = metrics[name];
        const shown = value === null ? "–" : format(value);
        return html`<td role="cell" class="number" data-name="${words.metric[name]}">${shown}</td>`;
    };
    const nothing = html`<span class="muted">${first ? words.firstOfAll : words.nothingChanged}</span>`;
    return html`<tr role="row" class="${decision}">
        <th role="rowheader" scope="row"><a href="${number}/report.html">${number}</a></th>
        <td role="cell"><time datetime="${at}">${time(at)}</time></td>
        <td role="cell"><span class="badge">${words.inShort[decision]}</span></td>
        ${measured("evalLoss", loss)} ${measured("rougeL", score)} ${measured("bleu4", score)}
        <td role="cell">${changes.length === 0 ? nothing : inline(changes.join("; "))}</td>
    </tr>`;
}
