import type { ReportData, ReportStage } from "./data";
import { money, time } from "./format";
import { html, type Html } from "./html";
import { inline } from "./text";
import { wordsOf, type Words } from "./words";

/** The stages as a picture, and one by one in words: what each did, why, for how long, where, and what came of it. */
export function stageGraph({ stages, language, hasModel }: ReportData): Html {
    const words = wordsOf(language);
    if (stages.length === 0) return html`<p>${words.noStages}</p>`;
    return html`<div class="picture" role="img" aria-label="${words.graph}">
            <div class="wide">${picture(stages, words, "right")}</div>
            <div class="narrow">${picture(stages, words, "down")}</div>
        </div>
        <ol class="stages">
            ${stages.map((stage) => described(stage, words, hasModel !== false))}
        </ol>`;
}

const NODE = { width: 168, height: 66 };
const GAP = { along: 44, across: 14 };

/** Says what a colour says as well. */
const MARKS: Readonly<Record<ReportStage["action"], string>> = {
    ran: "●",
    attached: "●",
    cached: "↺",
    unchanged: "=",
    refused: "✕",
    failed: "✕",
    skipped: "–",
};

/** Each stage one step further than the last of those that it comes after. */
function layers(stages: readonly ReportStage[]): ReportStage[][] {
    const depths = new Map<string, number>();
    for (const { name, after } of stages) {
        depths.set(name, Math.max(-1, ...after.map((one) => depths.get(one) ?? -1)) + 1);
    }
    const count = Math.max(...depths.values()) + 1;
    return Array.from({ length: count }, (_, depth) => stages.filter(({ name }) => depths.get(name) === depth));
}

function picture(stages: readonly ReportStage[], words: Words, way: "right" | "down"): Html {
    const all = layers(stages);
    const broadest = Math.max(...all.map((layer) => layer.length));
    const [along, across] = way === "right" ? [NODE.width, NODE.height] : [NODE.height, NODE.width];
    const gap = way === "right" ? GAP.along : 26;
    const length = all.length * (along + gap) - gap;
    const breadth = broadest * (across + GAP.across) - GAP.across;
    const places = new Map<string, Place>();
    all.forEach((layer, depth) => {
        const begin = (breadth - layer.length * (across + GAP.across) + GAP.across) / 2;
        layer.forEach(({ name }, index) => {
            const [a, b] = [depth * (along + gap) + 1, begin + index * (across + GAP.across) + 1];
            places.set(name, way === "right" ? { x: a, y: b } : { x: b, y: a });
        });
    });
    const [width, height] = way === "right" ? [length, breadth] : [breadth, length];
    const edges = stages.flatMap(({ name, after, action }) =>
        after.flatMap((before) => {
            const [from, to] = [places.get(before), places.get(name)];
            return from && to ? [html`<path class="edge ${action}" d="${edge(from, to, way)}" />`] : [];
        }),
    );
    return html`<svg viewBox="0 0 ${width + 2} ${height + 2}" style="max-width: ${width + 2}px">
        ${edges}${stages.map((stage) => node(stage, places.get(stage.name) ?? { x: 0, y: 0 }, words))}
    </svg>`;
}

interface Place {
    readonly x: number;
    readonly y: number;
}

function edge(from: Place, to: Place, way: "right" | "down"): string {
    const { width, height } = NODE;
    const [x1, y1, x2, y2] =
        way === "right"
            ? [from.x + width, from.y + height / 2, to.x - 6, to.y + height / 2]
            : [from.x + width / 2, from.y + height, to.x + width / 2, to.y - 6];
    const [mx, my] = [(x1 + x2) / 2, (y1 + y2) / 2];
    const curve = way === "right" ? `${mx} ${y1} ${mx} ${y2}` : `${x1} ${my} ${x2} ${my}`;
    const head = way === "right" ? `M${x2 - 5} ${y2 - 5}l6 5l-6 5` : `M${x2 - 5} ${y2 - 5}l5 6l5 -6`;
    return `M${x1} ${y1}C${curve} ${x2} ${y2}${head}`;
}

function node(stage: ReportStage, { x, y }: Place, words: Words): Html {
    const { action, name, seconds, cost, made } = stage;
    const took =
        made === undefined && seconds === 0
            ? ""
            : words.duration(seconds) + (cost === undefined ? "" : words.costs(money(cost)));
    return html`<g class="node ${action}">
        <rect x="${x}" y="${y}" width="${NODE.width}" height="${NODE.height}" rx="8" />
        <text x="${x + 14}" y="${y + 24}" class="name">${name.slice(0, 18)}</text>
        <text x="${x + 14}" y="${y + 41}">${MARKS[action]} ${words.action[action]}</text>
        <text x="${x + 14}" y="${y + 57}" class="time">${took}</text>
    </g>`;
}

function described(stage: ReportStage, words: Words, hasModel: boolean): Html {
    const { name, kind, action, seconds, cost, made } = stage;
    const what = words.kind(kind);
    const same = name.toLowerCase() === what.toLowerCase();
    return html`<li class="${action}">
        <p>
            <strong>${inline(name)}</strong> ${same ? undefined : html`<span>${what}</span> `}<span class="badge"
                >${words.action[action]}</span
            >
        </p>
        <p>
            ${deed(kind, action, words, hasModel)(words.duration(seconds))}${expectation(stage, words)}${
                cost === undefined ? undefined : words.costs(money(cost))
            }${words.stop}
        </p>
        ${why(stage, words)}
        ${
            made === undefined
                ? undefined
                : html`<p class="muted">
                      ${words.run} <code>${made.run}</code>${words.comma}${words.digest}
                      <code title="${made.digest}">${made.digest.slice(0, 12)}</code>${words.comma}${words.finished}
                      <time datetime="${made.finishedAt}">${time(made.finishedAt)}</time>${machine(stage, words)}
                  </p>`
        }
    </li>`;
}

/**
 * What a stage did, where it is told how long that took. A service is never taken from the store, nor refused; without a
 * model there is none yet.
 */
function deed(kind: string, action: ReportStage["action"], words: Words, hasModel: boolean): (time: string) => string {
    const isService = kind === "Service" && hasModel && action !== "cached" && action !== "refused";
    return isService ? words.served[action] : words.took[action];
}

function expectation({ action, expectedSeconds }: ReportStage, words: Words): string {
    const worked = action === "ran" || action === "attached";
    return worked && expectedSeconds !== undefined ? words.expected(words.duration(expectedSeconds)) : "";
}

function why({ action, reasons }: ReportStage, words: Words): Html | undefined {
    if (action === "unchanged" || action === "skipped") return undefined;
    if (reasons.length === 0) return html`<p>${words.why}${words.gap}${words.isNew}</p>`;
    if (reasons.length === 1) return html`<p>${words.why}${words.gap}${inline(reasons[0] ?? "")}</p>`;
    return html`<p>${words.why}</p>
        <ul>
            ${reasons.map((reason) => html`<li>${inline(reason)}</li>`)}
        </ul>`;
}

function machine({ host }: ReportStage, words: Words): string {
    if (host === undefined) return "";
    const { release, driver, python, torch, cuda, llamafactory } = host;
    const gpus = host.gpus === undefined || host.gpus.length === 0 ? [] : [host.gpus.join(" and ")];
    const software = Object.entries({
        [words.driver]: driver,
        "Python": python,
        torch,
        "CUDA": cuda,
        "LLaMA-Factory": llamafactory,
    });
    const versions = software.flatMap(([name, version]) => (version === undefined ? [] : [`${name} ${version}`]));
    const system = release === undefined ? [] : [release];
    const all = [`${words.cpus(host.cpus)} (${host.machine})`, ...gpus, ...system, ...versions];
    return `${words.clause}${words.on} ${all.join(words.listed)}`;
}
