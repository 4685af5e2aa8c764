import { describeChange } from "../pipeline/changes";
import { isObject, UNKNOWN, type Json, type JsonObject } from "../pipeline/identity";
import { duration } from "../pipeline/duration";
import { percent, readProgress, sparkline } from "../pipeline/progress";
import { columnsOf, LiveLines } from "./live-lines";
import type { StageOutcome } from "./outcome";
import { visible } from "./side-by-side";

const PLAIN_INTERVAL = 10_000;
const WORDS: Partial<Record<StageOutcome["action"], string>> = {
    "would-run": "would run",
    "would-reuse": "would be reused",
};

/** Columns that the name of a stage has. */
const NAME = 11;

interface AtWork {
    readonly since: number;
    /** All of the run that goes on. */
    readonly losses: number[];
    text: string;
}

/**
 * Shows an operation on a stream. On a terminal the stages that are at work have a line each below the finished ones,
 * painted again in place; elsewhere a stage's progress is a line of its own at most every ten seconds.
 */
export class Display {
    private readonly lines: LiveLines;
    private readonly atWork = new Map<string, AtWork>();
    private readonly lastPlain = new Map<string, number>();
    private readonly ended = new Set<string>();
    private clock: NodeJS.Timeout | undefined;

    constructor(private readonly stream: NodeJS.WriteStream) {
        this.lines = new LiveLines(stream);
    }

    line(text: string): void {
        this.lines.print(text.split("\n").map(plain).join("\n"));
    }

    progress(stage: string, text: string): void {
        if (this.ended.has(stage)) return; // lines come at most once a second: the last one may come late
        if (this.lines.live) {
            const work = this.atWork.get(stage) ?? { since: Date.now(), losses: [], text };
            const loss = readProgress(text)?.loss;
            if (loss !== undefined) work.losses.push(Number(loss));
            work.text = text;
            this.atWork.set(stage, work);
            // Where there is no news, the time shows that the stage is at work.
            this.clock ??= setInterval(() => {
                this.paint();
            }, 1000).unref();
            this.paint();
            return;
        }
        const last = this.lastPlain.get(stage) ?? 0;
        if (Date.now() - last < PLAIN_INTERVAL) return;
        this.lastPlain.set(stage, Date.now());
        this.stream.write(`  ${stage.padEnd(NAME)} … ${text}\n`);
    }

    stage(outcome: StageOutcome): void {
        this.ended.add(outcome.name);
        this.atWork.delete(outcome.name);
        this.paint();
        const word = WORDS[outcome.action] ?? outcome.action;
        this.line(this.hung(`  ${outcome.name.padEnd(NAME)} ${word.padEnd(15)} `, details(outcome)));
        for (const reason of outcome.reasons) this.line(`              ${describeReason(reason)}`);
        if (outcome.keeps !== undefined) this.line(`              keeps ${outcome.keeps.join(", ")}`);
        if (outcome.error) this.line(indent(outcome.error));
    }

    /** On a terminal what does not fit goes on below where it began; elsewhere a stage is one line, for whoever searches. */
    private hung(start: string, text: string): string {
        if (!this.lines.live) return `${start}${text}`.trimEnd();
        const [first = "", ...more] = folded(text, this.lines.columns - start.length);
        return [`${start}${first}`.trimEnd(), ...more.map((line) => " ".repeat(start.length) + line)].join("\n");
    }

    /** Leaves the terminal as it was found. */
    end(): void {
        clearInterval(this.clock);
        this.atWork.clear();
        this.paint();
    }

    private paint(): void {
        const line = ([stage, work]: [string, AtWork]): string => {
            const name = `  ${stage.padEnd(NAME)} `;
            return name + atWork(work, this.lines.columns - name.length);
        };
        this.lines.show([...this.atWork].map(line));
    }
}

/** In lines of so many columns, broken between words; a word that is longer has a line of its own. */
function folded(text: string, columns: number): string[] {
    const lines: string[] = [];
    for (const word of text.split(/(?<=\S) (?=\S)/)) {
        const last = lines.at(-1);
        if (last === undefined || columnsOf(`${last} ${word}`) > columns) lines.push(word);
        else lines[lines.length - 1] = `${last} ${word}`;
    }
    return lines;
}

const BAR = 10;
const SPARKS = 8;

/**
 * Everything is where it was a second ago, whatever the numbers are now. In a narrow window the validation loss is left
 * out first, then the word for what is done, then the bar.
 */
function atWork({ since, losses, text }: AtWork, columns: number): string {
    const progress = readProgress(text);
    if (progress === undefined) {
        const seconds = (Date.now() - since) / 1000;
        return seconds < 1 ? `… ${text}` : `… ${text}, ${duration(seconds)}`;
    }
    const { phase, step, steps, loss, evalLoss, left, cost } = progress;
    const done = Math.min(Math.round((BAR * step) / Math.max(steps, 1)), BAR);
    const bar = `${"█".repeat(done)}${"░".repeat(BAR - done)} `;
    const line = (least: number): string =>
        [
            `${least < 3 ? bar : ""}${String(percent(step, steps)).padStart(3)} %`,
            `${least < 2 ? `${phase} ` : ""}${String(step).padStart(String(steps).length)}/${steps}`,
            ...(loss === undefined ? [] : [`loss ${loss} ${sparkline(losses, SPARKS).padStart(SPARKS)}`]),
            ...(left === undefined ? [] : [left.padStart("59 min left".length)]),
            ...(cost === undefined ? [] : [`cost ${cost}`]),
            ...(evalLoss === undefined || least > 0 ? [] : [`validation ${evalLoss}`]),
        ].join("  ");
    return [0, 1, 2].map(line).find((one) => one.length <= columns) ?? line(3);
}

/** Why a stage runs again, in one line. */
export function describeReason({ field, old, new: now }: StageOutcome["reasons"][number]): string {
    if (field === "drift") return now === null ? `repairs: ${compact(old)}` : compact(now);
    if (field === "interrupted") return "the last update did not come to its end";
    const after = now === "unknown" ? UNKNOWN : now;
    if (old === null) return describeChange({ kind: "added", field, new: after });
    if (after === null) return describeChange({ kind: "removed", field, old });
    return describeChange({ kind: "changed", field, old, new: after });
}

function details(outcome: StageOutcome): string {
    const { action, run, madeAt, facts } = outcome;
    if (action === "unchanged") return "";
    if (action === "detached") return run === undefined ? "" : `npm run logs -- ${run}`;
    const reused = action === "cached" || action === "would-reuse";
    const from =
        reused && run !== undefined && madeAt !== undefined ? `run ${run} of ${localTime(madeAt)}` : time(outcome);
    const all = [outcome.isNew === true ? "new" : "", from].filter((part) => part !== "").join(", ");
    const known = facts === undefined || action === "drifted" ? "" : summary(facts);
    // Whoever has just started it wants to know where it is.
    const started = outcome.type === "finetune:pipeline:Service" && (action === "ran" || action === "attached");
    const address = started ? outcome.uri : undefined;
    const what = [address, known].filter((part) => part !== undefined && part !== "").join(", ");
    return (all.length > 6 ? `${all}  ${what}` : `${all.padEnd(6)} ${what}`).trimEnd();
}

function time({ action, seconds, expectedSeconds, expectedCost, lastSeconds }: StageOutcome): string {
    if (expectedSeconds !== undefined) {
        const cost = expectedCost === undefined ? "" : `, cost ${expectedCost.toFixed(2)}`;
        return `about ${duration(expectedSeconds)}${cost}`;
    }
    if (lastSeconds !== undefined) return `took ${duration(lastSeconds)} last time`;
    return seconds !== undefined && (action === "ran" || action === "attached") ? duration(seconds) : "";
}

/** A time as the reader's clock shows it: 2026-07-30 14:05. */
export function localTime(time: string): string {
    const at = new Date(time);
    return new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 16).replace("T", " ");
}

/** Facts in one line; two groups of the same measures, such as of base and tuned model, side by side. */
function summary(facts: JsonObject): string {
    const { base, tuned, incumbent: _incumbent, ...rest } = facts;
    if (!isObject(base) || !isObject(tuned)) return listed(facts);
    const pairs = Object.keys(tuned).filter((name) => typeof base[name] === "number" && base[name] !== tuned[name]);
    const compared = pairs.map((name) => `${name} ${compact(base[name] ?? null)} → ${compact(tuned[name] ?? null)}`);
    return [...compared, listed(rest)].filter((part) => part !== "").join(", ");
}

/** The engine sorts fields by their names; people follow rows from the source to the split, and steps to losses. */
const ORDER = ["scanned", "kept", "dropped", "rows", "train", "validation", "test", "files", "bytes", "steps", "loss"];

function listed(facts: JsonObject): string {
    const place = (name: string): number => (ORDER.includes(name) ? ORDER.indexOf(name) : ORDER.length);
    return Object.entries(facts)
        .filter(([, value]) => value !== null && value !== undefined)
        .sort(([one], [other]) => place(one) - place(other))
        .map(([name, value]) => (name === "bytes" ? size(Number(value)) : `${name} ${compact(value ?? null)}`))
        .join(", ");
}

function size(bytes: number): string {
    return bytes < 1e6 ? `${(bytes / 1e3).toFixed(0)} kB` : `${(bytes / 1e6).toFixed(0)} MB`;
}

function compact(value: Json): string {
    if (typeof value === "string") return value;
    return isObject(value) ? `(${listed(value)})` : JSON.stringify(value);
}

function indent(text: string): string {
    return text
        .split("\n")
        .map((line) => `              ${plain(line)}`)
        .join("\n");
}

/** What a program's bars and colours leave of a line in the end: nothing in it moves the cursor or changes the terminal. */
function plain(line: string): string {
    const withoutSequences = line.replace(/\u001b(\[[0-?]*[ -/]*[@-~]|\][^\u0007\u001b]*)/g, "");
    return visible(withoutSequences.trimEnd().replace(/[^]*\r/, ""));
}
