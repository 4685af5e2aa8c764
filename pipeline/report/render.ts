import { trainingCurves } from "./curves";
import type { ReportData } from "./data";
import { datasetFacts, provenance, settingsTable, usage } from "./facts";
import { loss, money, time } from "./format";
import { stageGraph } from "./graph";
import { wayToIndex } from "./history";
import { html, type Html } from "./html";
import { page } from "./page";
import { heldOutCases, inWords, metricTable, promptAnswers, qualityTiles, verdict, type Tile } from "./quality";
import { inline } from "./text";
import { wordsOf, type Words } from "./words";

/** The page has to be below 1 MB, to be sent around; what the cases have around them is beyond this. */
const PAGE_BYTES = 950_000;
const CASES_BYTES = 400_000;

type Sections = Readonly<Record<Exclude<keyof Words["section"], "verdict">, Html>>;

/** The page that an update ends in. */
export async function renderReport(data: ReportData): Promise<string> {
    const sections: Sections = {
        answers: promptAnswers(data),
        metrics: metricTable(data),
        stages: stageGraph(data),
        curves: await trainingCurves(data),
        cases: html``,
        dataset: datasetFacts(data),
        settings: settingsTable(data),
        use: usage(data),
        provenance: provenance(data),
    };
    const left = PAGE_BYTES - Buffer.byteLength(pageOf(data, sections));
    return pageOf(data, { ...sections, cases: heldOutCases(data, Math.min(CASES_BYTES, left)) });
}

function pageOf(data: ReportData, sections: Sections): string {
    const words = wordsOf(data.language);
    const all = Object.entries(sections) as [keyof typeof sections, Html][];
    const section = ([id, body]: (typeof all)[number]): Html =>
        html`<section aria-labelledby="${id}">
            <h2 id="${id}">${words.section[id]}</h2>
            ${body}
        </section>`;
    return page(data.language, {
        title: `${data.stack}, ${time(data.at)}: ${words.title}`,
        header: html`<a class="skip" href="#verdict">${words.skip}</a>
            <header>
                <p class="muted">${words.title}${words.comma}<time datetime="${data.at}">${time(data.at)}</time></p>
                <h1>${inline(data.stack)}</h1>
                <p>
                    <a href="${wayToIndex(data.stack)}">${words.history}</a>
                    <span class="muted">${words.historyNote}</span>
                </p>
                ${data.notice === "" ? undefined : html`<p class="notice" role="note">${inline(words.notice(data.notice))}</p>`}
            </header>
            <nav aria-label="${words.sections}">
                <ul>
                    ${all.map(([id]) => html`<li><a href="#${id}">${words.section[id]}</a></li> `)}
                </ul>
            </nav>`,
        main: html`<section aria-labelledby="verdict">
                <h2 id="verdict">${words.section.verdict}</h2>
                ${verdict(data)}
                <dl class="tiles">${tiles(data, words).map((one) => tile(one, words))}</dl>
            </section>
            ${all.map(section)}`,
    });
}

function tile({ name, value, note, change }: Tile, words: Words): Html {
    return html`<div>
        <dt>${name}</dt>
        <dd>${value}</dd>
        <dd class="muted">
            ${note}${change === undefined ? undefined : html`${words.comma}${inWords(change, words)}`}
        </dd>
    </div>`;
}

function tiles(data: ReportData, words: Words): readonly Tile[] {
    return [
        ...qualityTiles(data),
        ...trainingTile(data.training.losses, words),
        updateTile(data, words),
        ...spentTile(data, words),
    ];
}

function spentTile({ spent }: ReportData, words: Words): readonly Tile[] {
    if (spent === undefined) return [];
    const { amount, budget } = spent;
    const note = words.spentNote(budget === undefined ? undefined : money(budget));
    return [{ name: words.spent, value: money(amount), note }];
}

function trainingTile(losses: ReportData["training"]["losses"], words: Words): readonly Tile[] {
    const [first, last] = [losses[0], losses.at(-1)];
    if (first === undefined || last === undefined) return [];
    const name = words.trainingLoss;
    if (losses.length === 1) return [{ name, value: loss(last.loss), note: words.afterSteps(last.step) }];
    return [{ name, value: `${loss(first.loss)} → ${loss(last.loss)}`, note: words.firstToLast(last.step) }];
}

function updateTile({ stages, cost }: ReportData, words: Words): Tile {
    const name = words.thisUpdate;
    const worked = stages.filter(({ action }) => action === "ran" || action === "attached" || action === "refused");
    if (worked.length === 0) return { name, value: words.nothingToDo, note: words.allThere };
    const seconds = worked.reduce((total, stage) => total + stage.seconds, 0);
    const note = words.workIn(worked.length, stages.length) + (cost === undefined ? "" : words.costs(money(cost)));
    return { name, value: words.duration(seconds), note };
}
