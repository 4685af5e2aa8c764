import { readFileSync } from "node:fs";
import { join } from "node:path";
import { lossCurves } from "./curves";
import type { ReportData, ReportStage } from "./data";
import { datasetFacts, exportedModel, provenance, settingsTable } from "./facts";
import { bytes, duration, loss, plural, time } from "./format";
import { Html, html } from "./html";
import { heldOutCases, metricTable, promptAnswers, qualityTiles, summary, type Tile } from "./quality";
import { inline } from "./text";

/** Nothing is loaded and nothing runs, whatever the data has in it. `data:,` keeps browsers from asking for an icon. */
const POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";

/** The page that an update ends in: one HTML file that needs nothing else, to be read, printed and sent to people. */
export async function renderReport(data: ReportData): Promise<string> {
    const style = readFileSync(join(__dirname, "style.css"), "utf8");
    const sections: readonly Section[] = [
        { id: "answers", title: "Answers", body: promptAnswers(data) },
        { id: "stages", title: "Stages", body: stageGraph(data.stages) },
        { id: "loss", title: "Loss", body: await lossCurves(data) },
        { id: "metrics", title: "Metrics", body: metricTable(data) },
        { id: "cases", title: "Held-out cases", body: heldOutCases(data) },
        { id: "dataset", title: "Data set", body: datasetFacts(data) },
        { id: "settings", title: "Training settings", body: settingsTable(data) },
        { id: "model", title: "Exported model", body: exportedModel(data) },
        { id: "provenance", title: "Provenance", body: provenance(data) },
    ];
    const page = html`<!doctype html>
        <html lang="en">
            <head>
                <meta charset="utf-8" />
                <meta http-equiv="Content-Security-Policy" content="${POLICY}" />
                <meta name="viewport" content="width=device-width, initial-scale=1" />
                <meta name="color-scheme" content="light dark" />
                <link rel="icon" href="data:," />
                <title>${data.stack}, ${time(data.at)}: Retune report</title>
                <style>
                    ${new Html(style)}
                </style>
            </head>
            <body>
                <header>
                    <p class="muted">
                        Retune report, <time datetime="${data.at.toISOString()}">${time(data.at)}</time>
                    </p>
                    <h1>${inline(data.stack)}</h1>
                    ${data.notice === "" ? undefined : html`<p class="notice" role="note">${data.notice}</p>`}
                </header>
                <nav aria-label="Sections">
                    <ul>
                        ${sections.map(({ id, title }) => html`<li><a href="#${id}">${title}</a></li> `)}
                    </ul>
                </nav>
                <main>
                    <section aria-labelledby="verdict">
                        <h2 id="verdict">Verdict</h2>
                        ${summary(data)}
                        <dl class="tiles">${tiles(data).map(tile)}</dl>
                    </section>
                    ${sections.map(section)}
                </main>
                <footer>
                    <p class="muted">Made by Retune. This page is one file; it runs no scripts and loads nothing.</p>
                </footer>
            </body>
        </html> `;
    return page.text;
}

interface Section {
    readonly id: string;
    readonly title: string;
    readonly body: Html;
}

function section({ id, title, body }: Section): Html {
    return html`<section aria-labelledby="${id}">
        <h2 id="${id}">${title}</h2>
        ${body}
    </section>`;
}

function tile({ name, value, note }: Tile): Html {
    return html`<div>
        <dt>${name}</dt>
        <dd>${value}</dd>
        <dd class="muted">${note}</dd>
    </div>`;
}

function tiles(data: ReportData): readonly Tile[] {
    const { losses, stages, exported } = data;
    return [
        ...qualityTiles(data),
        ...trainingTile(losses),
        updateTile(stages),
        { name: "Merged model", value: bytes(exported.bytes), note: plural(exported.files, "file") },
    ];
}

function trainingTile(losses: ReportData["losses"]): readonly Tile[] {
    const [first, last] = [losses[0], losses.at(-1)];
    if (first === undefined || last === undefined) return [];
    const name = "Training loss";
    const steps = plural(last.step, "step");
    if (losses.length === 1) return [{ name, value: loss(last.loss), note: `after ${steps}` }];
    return [{ name, value: `${loss(first.loss)} → ${loss(last.loss)}`, note: `first → last, ${steps}` }];
}

function updateTile(stages: readonly ReportStage[]): Tile {
    const name = "This update";
    const worked = stages.filter(({ action }) => action === "ran" || action === "attached");
    if (worked.length === 0) return { name, value: "Nothing to do", note: "all results were there" };
    const seconds = worked.reduce((total, stage) => total + stage.seconds, 0);
    return { name, value: duration(seconds), note: `work in ${worked.length} of ${plural(stages.length, "stage")}` };
}

/** Whose the time is that is shown with an action. */
const actions: Readonly<Record<ReportStage["action"], string>> = {
    ran: ", in this update",
    cached: ", in an earlier run whose result was taken over",
    attached: ", in a run that was already going on",
    unchanged: ", in an earlier run; nothing that it depends on has changed",
};

function stageGraph(stages: readonly ReportStage[]): Html {
    if (stages.length === 0) return html`<p>No stages.</p>`;
    return html`<ol class="graph">
        ${stages.map(
            (stage) =>
                html`<li class="${stage.action}">
                    <p>
                        <strong>${inline(stage.name)}</strong>
                        ${
                            stage.name.toLowerCase() === stage.kind.toLowerCase()
                                ? undefined
                                : html`<span>${stage.kind}</span>`
                        }
                        <span class="badge">${stage.action}</span>
                    </p>
                    <p>Took ${duration(stage.seconds)}${actions[stage.action]}${expectation(stage)}.</p>
                    ${why(stage)}
                    <p class="muted">
                        run <code>${stage.run}</code>, finished
                        <time datetime="${stage.finishedAt.toISOString()}">${time(stage.finishedAt)}</time
                        >${machine(stage)}, digest <code title="${stage.digest}">${stage.digest.slice(0, 12)}</code>
                    </p>
                </li>`,
        )}
    </ol>`;
}

function expectation({ action, expectedSeconds }: ReportStage): string {
    const worked = action === "ran" || action === "attached";
    return worked && expectedSeconds !== undefined ? `; ${duration(expectedSeconds)} were expected` : "";
}

function why({ action, reasons }: ReportStage): Html | undefined {
    if (action === "unchanged") return undefined;
    if (reasons.length === 0) return html`<p>Why: it is new in this stack.</p>`;
    if (reasons.length === 1) return html`<p>Why: ${inline(reasons[0] ?? "")}</p>`;
    return html`<p>Why:</p>
        <ul>
            ${reasons.map((reason) => html`<li>${inline(reason)}</li>`)}
        </ul>`;
}

function machine({ host }: ReportStage): string {
    if (host === undefined) return "";
    const { release, driver, torch, cuda, llamafactory } = host;
    const gpus = host.gpus === undefined || host.gpus.length === 0 ? [] : [host.gpus.join(" and ")];
    const software = Object.entries({ driver, torch, "CUDA": cuda, "LLaMA-Factory": llamafactory });
    const versions = software.flatMap(([name, version]) => (version === undefined ? [] : [`${name} ${version}`]));
    const system = release === undefined ? [] : [release];
    return ` on ${[`${plural(host.cpus, "CPU")} (${host.machine})`, ...gpus, ...system, ...versions].join(", ")}`;
}
