import { setTimeout } from "node:timers/promises";
import { Command } from "commander";
import { duration } from "../pipeline/duration";
import { costOf, readings, spentBy, type MeterReading } from "../pipeline/executor/meter";
import { COMING_UP, whySilent } from "../pipeline/front";
import { isObject, type JsonObject } from "../pipeline/identity";
import { sparkline } from "../pipeline/progress";
import { activeRun, followedRuns, type Followed } from "../pipeline/store/followed";
import { isActive, listRuns, lossesOf, type RunSummary } from "../pipeline/store/runs";
import { pendingUploads } from "../pipeline/store/uploads";
import { parseOrExplain, UsageError } from "./arguments";
import { localTime } from "./display";
import { LiveLines } from "./live-lines";
import { home } from "./locations.cjs";
import { readStacks, type StackStatus } from "./stacks";

/** Milliseconds for which another machine is waited for. */
const PATIENCE = 5000;
/** Seconds after which a word from another machine is no news. */
const OLD = 20;

/** Milliseconds between two looks of `--watch`: at a terminal, and where each is a text of its own. */
const LOOK = { live: 1000, plain: 10_000 };

/** `npm run status`: what the stacks hold and what runs, read from the files, without the engine. */
export async function status(args: readonly string[]): Promise<number> {
    const command = new Command("npm run status --")
        .description("stacks and runs on this machine")
        .option("--watch", "look again and again, until Ctrl-C; not on a terminal: until nothing runs", false)
        .option("--json", "one object on stdout", false);
    const options = parseOrExplain(command, args);
    if (options === undefined) return 0;
    if (options["watch"] === true && options["json"] === true)
        throw new UsageError("--watch is for people: with --json, ask again and again");
    if (options["watch"] === true) return watch();
    const seen = await look();
    const { stacks, runs, followed: _followed, ...rest } = seen;
    const text = options["json"] === true ? JSON.stringify({ stacks: stacks.map(forJson), runs, ...rest }) : undefined;
    process.stdout.write(`${text ?? described(seen).join("\n")}\n`);
    if (runs.some((run) => isActive(run) && silence(run) !== undefined)) process.exit(0); // ssh is still trying
    return 0;
}

async function look() {
    const stacks = readStacks().filter(({ stages, problem }) => stages.length > 0 || problem !== undefined);
    await Promise.all(listRuns(home()).filter(isActive).map(askTarget));
    const uploads = pendingUploads(home());
    return { stacks, runs: listRuns(home()), uploads, machines: readings(home()), followed: followedRuns(home()) };
}

function described({ stacks, runs, uploads, machines, followed }: Awaited<ReturnType<typeof look>>): string[] {
    const lines = [
        ...stacks.flatMap((stack) => describeStack(stack, runs, followed)),
        ...describeRuns(runs),
        ...(machines.length === 0 ? [] : ["machines", ...machines.map(describeMachine)]),
        ...(uploads.length === 0 ? [] : [describeUploads(uploads.length)]),
    ];
    return lines.length === 0 ? ["No stack and no run yet: `npm run up`."] : lines;
}

/** Paints the same lines again in place; elsewhere than on a terminal says them again when they have changed. */
async function watch(): Promise<number> {
    const lines = new LiveLines(process.stdout);
    const ended = new AbortController();
    process.once("SIGINT", () => {
        ended.abort();
    });
    process.stdout.on("error", () => process.exit(0)); // `npm run status -- --watch | head`
    let said = "";
    while (!ended.signal.aborted) {
        const seen = await look();
        const text = described(seen);
        if (lines.live) lines.show(text);
        else if (text.join("\n") !== said) lines.print(text.join("\n"));
        said = text.join("\n");
        if (!lines.live && !seen.runs.some(isActive)) break;
        const wait = lines.live ? LOOK.live : LOOK.plain;
        await setTimeout(wait, undefined, { signal: ended.signal }).catch(() => undefined);
    }
    return 0;
}

/** What is known of a run on another machine is as old as the last word from there: asks for a newer one. */
async function askTarget({ key, target }: RunSummary): Promise<void> {
    if (target === undefined) return;
    const { executorFor } = await import("../pipeline/executor/executors");
    const { Store } = await import("../pipeline/store/store");
    const executor = await executorFor(target, new Store(home()));
    await Promise.race([
        executor.status(key, { cursor: 0, waitSeconds: 0 }).catch(() => undefined),
        setTimeout(PATIENCE, undefined, { ref: false }),
    ]);
}

function forJson({ stack, stages, problem }: StackStatus) {
    const described = stages.map(({ name, type, outputs }) => ({ name, type, ...outputs }));
    return { stack, stages: described, ...(problem === undefined ? {} : { problem }) };
}

function describeUploads(count: number): string {
    const uploads = count === 1 ? "1 upload to a mirror is" : `${count} uploads to a mirror are`;
    return `${uploads} pending: the next \`npm run up\` sends what it could not`;
}

/** As it was when it was last asked: a machine that sleeps is not woken for it. */
function describeMachine(reading: MeterReading): string {
    const { machine, stack, seconds, budget, at } = reading;
    // What a stack's machines may cost together is said of the stack.
    const limit = budget === undefined || stack !== undefined ? "" : ` of $${budget.toFixed(2)}`;
    const asOf = localTime(new Date(at * 1000).toISOString());
    return `  ${machine.padEnd(20)} $${costOf(reading).toFixed(2)}${limit} for ${duration(seconds)} awake, as of ${asOf}`;
}

function describeStack(
    { stack, stages, problem }: StackStatus,
    runs: readonly RunSummary[],
    followed: readonly Followed[],
): string[] {
    if (problem !== undefined) return [`stack ${stack}`, `  ${problem}`];
    const made = stages.filter(({ type }) => type.startsWith("finetune:pipeline:"));
    const lines = made.map((stage) => {
        const { name, type, outputs } = stage;
        const run = typeof outputs["run"] === "string" ? outputs["run"] : "";
        const active = activeRun(runs, followed, stack, name);
        const held = type === "finetune:pipeline:Service" ? served(stack, stage) : finished(stack, outputs);
        const state = active === undefined ? held : progress(active);
        return `  ${name.padEnd(11)} ${run.padEnd(13)} ${state}`;
    });
    return [`stack ${stack}${spent(stack)}`, ...lines];
}

/** By the machines that were made for the stack, those that are no more included. */
function spent(stack: string): string {
    const { amount, budget } = spentBy(home(), stack) ?? {};
    if (amount === undefined) return "";
    return `, spent $${amount.toFixed(2)}${budget === undefined ? "" : ` of $${budget.toFixed(2)}`}`;
}

/** A service of this machine says itself whether it is up; of another machine it is known as of the last refresh. */
function served(stack: string, { inputs, outputs }: StackStatus["stages"][number]): string {
    const { uri, drift } = outputs;
    if (typeof uri !== "string") return "interrupted";
    if (typeof drift === "string") return `${drift}; ${command("up", stack)} repairs it`;
    const { target, port } = inputs;
    const isHere = isObject(target) && target["type"] === "local" && typeof port === "number";
    const why = isHere ? whySilent(port, home()) : undefined;
    if (why === undefined) return `serves at ${uri}`;
    if (why === COMING_UP) return `does not serve yet: ${why}`;
    return `does not serve: ${why}; ${command("refresh", stack)}, then ${command("up", stack)} bring it back`;
}

function finished(stack: string, { finishedAt, drift }: JsonObject): string {
    if (typeof finishedAt !== "string") return "interrupted";
    const made = `made ${localTime(finishedAt)}`;
    return typeof drift === "string" ? `${made}, but ${drift}; ${command("up", stack)} repairs it` : made;
}

function command(name: string, stack: string): string {
    return `\`npm run ${name}${stack === "dev" ? "" : ` -- --stack ${stack}`}\``;
}

function describeRuns(runs: readonly RunSummary[]): string[] {
    if (runs.length === 0) return [];
    const shown = runs.slice(0, 20);
    const lines = shown.map((run) =>
        `  ${run.run} ${run.kind.padEnd(11)} ${run.state.padEnd(10)} ${progress(run)}`.trimEnd(),
    );
    const more =
        runs.length > shown.length ? [`  … and ${runs.length - shown.length} older ones (--json lists all)`] : [];
    return ["runs", ...lines, ...more];
}

function progress(run: RunSummary): string {
    if (run.reason !== undefined) return run.reason;
    if (run.state === "queued") return "waits for another run to end";
    const step = run.step === undefined ? "" : `step ${run.step}/${run.steps ?? "?"}`;
    const sparks = isActive(run) ? ` ${sparkline(lossesOf(home(), run.key), 12)}`.trimEnd() : "";
    const loss = run.loss === undefined ? "" : `loss ${run.loss.toFixed(4)}${sparks}`;
    const eta = run.etaSeconds === undefined ? "" : `${duration(run.etaSeconds)} left`;
    return [step, loss, eta, cost(run), silence(run) ?? ""].filter((part) => part !== "").join(", ");
}

/** Of a run on a machine that has a price, up to now. */
function cost({ target, startedAt, finishedAt }: RunSummary): string {
    if (target?.pricePerHour === undefined || startedAt === null) return "";
    const hours = ((finishedAt ?? Date.now() / 1000) - startedAt) / 3600;
    return `cost ${(hours * target.pricePerHour).toFixed(2)}`;
}

function silence({ target, heardAt }: RunSummary): string | undefined {
    const age = Date.now() / 1000 - (heardAt ?? 0);
    return target?.type === "ssh" && age > OLD
        ? `as of ${duration(age)} ago: ${target.host} does not answer`
        : undefined;
}
