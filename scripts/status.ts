import { Command } from "commander";
import { duration } from "../pipeline/duration";
import type { JsonObject } from "../pipeline/identity";
import { isActive, listRuns, type RunSummary } from "../pipeline/store/runs";
import { pendingUploads } from "../pipeline/store/uploads";
import { parseOrExplain } from "./arguments";
import { localTime } from "./display";
import { home } from "./locations.cjs";
import { readStacks, type StackStatus } from "./stacks";

/** Milliseconds for which another machine is waited for. */
const PATIENCE = 5000;
/** Seconds after which a word from another machine is no news. */
const OLD = 20;

/** `npm run status`: what the stacks hold and what runs, read from the files, without the engine. */
export async function status(args: readonly string[]): Promise<number> {
    const command = new Command("npm run status --")
        .description("stacks and runs on this machine")
        .option("--json", "one object on stdout", false);
    const options = parseOrExplain(command, args);
    if (options === undefined) return 0;
    const stacks = readStacks().filter(({ stages, problem }) => stages.length > 0 || problem !== undefined);
    await Promise.all(listRuns(home()).filter(isActive).map(askTarget));
    const runs = listRuns(home());
    const uploads = pendingUploads(home());
    if (options["json"] === true) {
        process.stdout.write(`${JSON.stringify({ stacks: stacks.map(forJson), runs, uploads })}\n`);
        return 0;
    }
    const lines = [
        ...stacks.flatMap((stack) => describeStack(stack, runs)),
        ...describeRuns(runs),
        ...(uploads.length === 0 ? [] : [describeUploads(uploads.length)]),
    ];
    process.stdout.write(lines.length === 0 ? "No stack and no run yet: `npm run up`.\n" : `${lines.join("\n")}\n`);
    if (runs.some((run) => isActive(run) && silence(run) !== undefined)) process.exit(0); // ssh is still trying
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
        new Promise((resolve) => setTimeout(resolve, PATIENCE).unref()),
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

function describeStack({ stack, stages, problem }: StackStatus, runs: readonly RunSummary[]): string[] {
    if (problem !== undefined) return [`stack ${stack}`, `  ${problem}`];
    const lines = stages.map(({ name, outputs }) => {
        const run = typeof outputs["run"] === "string" ? outputs["run"] : "";
        const active = runs.find((one) => one.stage === name && isActive(one));
        const state = active !== undefined ? progress(active) : run === "" ? "interrupted" : finished(outputs);
        return `  ${name.padEnd(11)} ${run.padEnd(13)} ${state}`;
    });
    return [`stack ${stack}`, ...lines];
}

function finished(outputs: JsonObject): string {
    const at = outputs["finishedAt"];
    return typeof at === "string" ? `made ${localTime(at)}` : "";
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
    const loss = run.loss === undefined ? "" : `loss ${run.loss.toFixed(4)}`;
    const eta = run.etaSeconds === undefined ? "" : `${duration(run.etaSeconds)} left`;
    return [step, loss, eta, silence(run) ?? ""].filter((part) => part !== "").join(", ");
}

function silence({ target, heardAt }: RunSummary): string | undefined {
    const age = Date.now() / 1000 - (heardAt ?? 0);
    return target?.type === "ssh" && age > OLD
        ? `as of ${duration(age)} ago: ${target.host} does not answer`
        : undefined;
}
