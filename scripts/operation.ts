import { spawn } from "node:child_process";
import { once } from "node:events";
import * as fs from "node:fs";
import * as path from "node:path";
import { text } from "node:stream/consumers";
import { pathToFileURL } from "node:url";
import { Command } from "commander";
import { duration } from "../pipeline/duration";
import type { Manifest } from "../pipeline/manifest";
import { activeRun, followedRuns } from "../pipeline/store/followed";
import { listRuns } from "../pipeline/store/runs";
import { pendingUploads, type Upload } from "../pipeline/store/uploads";
import { UserError } from "../pipeline/user-error";
import { parseOrExplain, UsageError } from "./arguments";
import { Display } from "./display";
import { drive, explainCli, type Ended, type Operation } from "./driver";
import type { EngineEvent } from "./events";
import { keepReport } from "./generation";
import { fromUser, home, project } from "./locations.cjs";
import { resultsForNewMirror } from "./new-mirror";
import { brokenRule, Outcomes, type StageOutcome } from "./outcome";
import { passphraseWarning } from "./passphrase";
import { readStacks, writeRoots } from "./stacks";

/** Exit codes that scripts rely on. */
export const EXIT = { succeeded: 0, failed: 1, usage: 2, refused: 3, detached: 4 } as const;

interface Options {
    readonly stack: string;
    readonly json: boolean;
    readonly detach?: boolean;
    readonly set?: Record<string, unknown>;
    /** Of a manifest, or of the folder that it is in. */
    readonly from?: string;
    readonly policyPack?: string;
}

const SUMMARY: Record<Operation, string> = {
    up: "brings the stack up to its description",
    preview: "says what `up` would do, and changes nothing",
    refresh: "compares the stack with what is really there",
    destroy: "takes the stack down; artifacts stay in the store",
};

/** `npm run up`, `preview`, `refresh` and `destroy`. Answers the exit code. */
export async function operate(operation: Operation, args: readonly string[], pulumi: string): Promise<number> {
    const options = parse(operation, args);
    if (options === undefined) return EXIT.succeeded;
    requireStackFile(options.stack);
    const manifest = await manifestOf(options);
    if (operation === "up" && options.policyPack !== undefined) {
        const code = await plan(args);
        if (code !== EXIT.succeeded) return code;
    }
    process.env["RETUNE_SET"] = JSON.stringify(options.set ?? {});
    process.env["RETUNE_FROM"] = JSON.stringify(manifest?.configuration ?? {});

    const begin = Date.now();
    const display = new Display(options.json ? process.stderr : process.stdout);
    display.line(`${operation} of stack ${options.stack}`);
    const warning = operation === "up" ? passphraseWarning(stackFile(options.stack), process.env) : undefined;
    if (warning !== undefined) display.line(warning);
    const outcomes = new Outcomes(operation);
    const ofStack = (stage: StageOutcome) => withActiveRun(options.stack, stage);
    const unsent = operation === "up" ? pendingUploads(home()) : [];
    const forNewMirror: Promise<readonly Upload[]>[] = [];
    const detach = new AbortController();
    const ended = await drive({
        pulumi,
        operation,
        stack: options.stack,
        policyPack: options.policyPack,
        detach: detach.signal,
        onNotice: (text) => {
            display.line(text);
        },
        onEvent: (event) => {
            show(event, outcomes, display, ofStack);
            if (operation === "up" && event.resOutputsEvent)
                forNewMirror.push(resultsForNewMirror(home(), event.resOutputsEvent.metadata, begin));
            if (options.detach === true && isStep(event)) detach.abort();
        },
    }).finally(() => {
        display.end();
    });

    const lacking = (await Promise.all(forNewMirror)).flat();
    if (operation === "up" && !ended.cancelled) await sendAgain([...unsent, ...lacking], display);
    const { declared, reported } = await import("../pipeline/resources");
    const listed = outcomes.list(operation === "up" || operation === "preview" ? declared : []).map(ofStack);
    const stages = await Promise.all(listed.map(withVerdict));
    const result = judge(ended, outcomes, stages);
    const keys = operation === "destroy" ? [] : stages.flatMap((stage) => stage.key ?? []);
    if (["up", "destroy"].includes(operation)) writeRoots(options.stack, keys, result === "succeeded");
    const problem = result === "succeeded" || result === "detached" ? undefined : problemOf(ended, outcomes);
    for (const stage of stages.filter((one) => one.action === "failed" || one.action === "skipped")) {
        if (!outcomes.shown.has(stage.name)) display.stage(stage);
    }
    if (problem !== undefined) process.stderr.write(`${problem}\n`);
    const digests = new Map(stages.map(({ name, digest }) => [name, digest]));
    if (manifest !== undefined && result === "succeeded") {
        display.line((await import("../pipeline/manifest")).comparedWith(manifest, digests));
    }
    const hasModel = result !== "refused" || isExported(options.stack);
    const page = operation === "up" ? await keep(stages, hasModel, reported[0], display) : undefined;
    const report = page ?? outcomes.outputs["report"];
    display.line(closing(operation, result, hasModel, stages, (Date.now() - begin) / 1000, report));
    if (options.json) {
        const error = problem === undefined ? {} : { error: problem };
        // An update that was refused has no outputs, but a page.
        const outputs = result === "refused" && page !== undefined ? { report: page } : outcomes.outputs;
        const answer = { stack: options.stack, result, stages, outputs, ...error };
        process.stdout.write(`${JSON.stringify(answer)}\n`);
    }
    return result === "failed" && (ended.programError !== undefined || outcomes.misconfigured)
        ? EXIT.usage
        : EXIT[result];
}

/**
 * The preview of an update that has rules, silent unless one is broken: the engine alone would make everything before the
 * first that is forbidden. In a process of its own, because a program runs but once in one. Answers its exit code.
 */
async function plan(args: readonly string[]): Promise<number> {
    const script = path.join(project, "scripts", "preview.cjs");
    const preview = spawn(process.execPath, [script, ...args.filter((word) => word !== "--detach")], {
        stdio: ["ignore", "pipe", "pipe"],
    });
    const [stdout, stderr, [code]] = await Promise.all([
        text(preview.stdout),
        text(preview.stderr),
        once(preview, "close") as Promise<[number | null]>,
    ]);
    if (code !== EXIT.succeeded) {
        process.stdout.write(stdout);
        process.stderr.write(stderr);
    }
    return code ?? EXIT.failed;
}

/** The engine calls no stage that is as it was: what it could not send is sent here. */
async function sendAgain(unsent: readonly Upload[], display: Display): Promise<void> {
    const keys = pendingUploads(home()).map(({ key }) => key);
    const pending = unsent.filter(({ key }) => keys.includes(key));
    if (pending.length === 0) return;
    const { sendPending } = await import("../pipeline/store/mirror");
    const { Store } = await import("../pipeline/store/store");
    await sendPending(new Store(home()), pending, (text) => {
        display.line(text);
    });
}

/** Whether a stack has a model that was accepted. Where its state cannot be read here, that is taken for granted. */
function isExported(stack: string): boolean {
    const state = readStacks().find((one) => one.stack === stack);
    if (state === undefined || state.problem !== undefined) return true;
    return state.stages.some(({ type, outputs }) => type === "finetune:pipeline:Export" && "digest" in outputs);
}

/** The page of this update in the stack's history. What was done counts, with a page or without. */
async function keep(
    stages: readonly StageOutcome[],
    hasModel: boolean,
    report: Omit<Parameters<typeof keepReport>[2], "hasModel"> | undefined,
    display: Display,
): Promise<string | undefined> {
    if (report === undefined) return undefined;
    try {
        const page = await keepReport(home(), stages, { ...report, hasModel });
        return page === undefined ? undefined : pathToFileURL(page).href;
    } catch (error) {
        display.line(`warning: this update has no page in the history: ${(error as Error).message}`);
        return undefined;
    }
}

/** The manifest of `--from`. That it cannot be started from is a mistake in the command line. */
async function manifestOf({ from, set }: Options): Promise<Manifest | undefined> {
    if (from === undefined) return undefined;
    const { readManifest } = await import("../pipeline/manifest");
    const file = set?.["dataset.source.file"];
    return readManifest(fromUser(from), typeof file === "string" ? file : undefined).catch((error: unknown) => {
        throw error instanceof UserError ? new UsageError(error.message) : error;
    });
}

type Result = "succeeded" | "failed" | "refused" | "detached";

function parse(operation: Operation, args: readonly string[]): Options | undefined {
    const command = new Command(`npm run ${operation} --`)
        .description(SUMMARY[operation])
        .option("--stack <name>", "the stack", "dev")
        .option("--json", "one object on stdout, progress on stderr", false);
    if (operation === "up" || operation === "preview") {
        command.option(
            "--set <path=value>",
            "a setting for this run only, such as training.learningRate=1e-4",
            setting,
            {},
        );
    }
    if (operation === "up" || operation === "preview") {
        command.option(
            "--policy-pack <folder>",
            "rules that every resource must keep, such as those in policy/; an update that breaks one makes nothing",
            policyPack,
        );
        command.option(
            "--from <manifest>",
            "the data, model and settings of an exported model, for this run only: its retune.json, or the folder of it",
        );
    }
    if (operation === "up") {
        command.option("--detach", "end as soon as a run is under way; it goes on", false);
    }
    return parseOrExplain(command, args) as Options | undefined;
}

function policyPack(text: string): string {
    const folder = fromUser(text);
    if (fs.existsSync(path.join(folder, "PulumiPolicy.yaml"))) return folder;
    throw new UsageError(
        `--policy-pack: ${folder} is no policy pack: it has no PulumiPolicy.yaml; this project's is policy/`,
    );
}

function setting(text: string, before: Record<string, unknown>): Record<string, unknown> {
    const equals = text.indexOf("=");
    if (equals <= 0) throw new UsageError(`--set wants PATH=VALUE, such as training.learningRate=1e-4, got ${text}`);
    const parts = text.slice(0, equals).split(".");
    if (!parts.every((part) => /^[A-Za-z]\w*$/.test(part))) {
        throw new UsageError(`--set: ${text.slice(0, equals)} is not the path of a setting`);
    }
    const value = text.slice(equals + 1);
    let parsed: unknown = value;
    try {
        parsed = JSON.parse(value);
    } catch {
        // Not JSON: a text, as it stands.
    }
    return { ...before, [text.slice(0, equals)]: parsed };
}

function requireStackFile(stack: string): void {
    const names = fs.readdirSync(project).flatMap((file) => /^Pulumi\.(.+)\.yaml$/.exec(file)?.[1] ?? []);
    if (names.includes(stack)) return;
    throw new UsageError(
        `there is no stack ${stack}: ${stackFile(stack)} does not exist; there is ${names.join(", ")}`,
    );
}

function stackFile(stack: string): string {
    return path.join(project, `Pulumi.${stack}.yaml`);
}

function show(
    event: EngineEvent,
    outcomes: Outcomes,
    display: Display,
    ofStack: (stage: StageOutcome) => StageOutcome,
): void {
    const outcome = outcomes.take(event);
    if (outcome !== undefined) {
        outcomes.shown.add(outcome.name);
        // Quiet when all is well: the closing line counts what is as it was.
        if (outcome.action !== "unchanged" || outcomes.operation === "preview") display.stage(ofStack(outcome));
    }
    const diagnostic = event.diagnosticEvent;
    if (diagnostic?.ephemeral === true && diagnostic.urn) {
        const stage = diagnostic.urn.slice(diagnostic.urn.lastIndexOf("::") + 2);
        // A line may come after the end of the stage that it is of: it has waited for its second.
        if (!outcomes.shown.has(stage)) display.progress(stage, diagnostic.message.trim());
    } else if (diagnostic?.severity === "warning") {
        display.line(`warning: ${diagnostic.message.trim()}`);
    }
    const rule = event.policyEvent;
    if (rule?.enforcementLevel === "advisory") display.line(`warning: ${brokenRule(rule)}`);
}

/**
 * Whether a run has reported a step, such as `learning, step 3/10`: from then on nothing is lost by leaving. What has to
 * be there before a training, data set and model, has no steps.
 */
function isStep({ diagnosticEvent }: EngineEvent): boolean {
    return diagnosticEvent?.ephemeral === true && /^[a-z -]+, step \d/.test(diagnosticEvent.message);
}

/** What a detached stage has going on: an interrupted operation answers no outputs. */
function withActiveRun(stack: string, stage: StageOutcome): StageOutcome {
    if (stage.action !== "detached") return stage;
    const active = activeRun(listRuns(home()), followedRuns(home()), stack, stage.name);
    return active === undefined ? stage : { ...stage, key: active.key, run: active.run };
}

/** A stage that was refused has no outputs, but a result in the store. */
async function withVerdict(stage: StageOutcome): Promise<StageOutcome> {
    if (stage.action !== "refused" || stage.key === undefined) return stage;
    const { Store } = await import("../pipeline/store/store");
    const { evaluation } = await import("../pipeline/evaluation");
    const result = await new Store(home()).result(stage.key);
    return result === undefined ? stage : { ...stage, digest: result.digest, facts: evaluation.facts(result.metrics) };
}

function judge(ended: Ended, outcomes: Outcomes, stages: readonly StageOutcome[]): Result {
    if (ended.code === 0) return "succeeded";
    if (stages.some((stage) => stage.action === "refused")) return "refused";
    const failed = stages.some((stage) => stage.action === "failed") || outcomes.misconfigured;
    const detached = ended.cancelled || stages.some((stage) => stage.action === "detached");
    return detached && !failed && ended.programError === undefined ? "detached" : "failed";
}

/** What to say about a failure that no stage has said yet. */
function problemOf(ended: Ended, outcomes: Outcomes): string | undefined {
    if (ended.programError !== undefined) return ended.programError.message;
    const others = outcomes.errors.filter((text) => !/^(update|preview) failed$/.test(text)).join("\n");
    return others || (outcomes.hasStageErrors() ? undefined : explainCli(ended.stderr));
}

/** The sum of what is expected; where that is not known of every stage, of how many it is. */
function expected(stages: readonly StageOutcome[]): string {
    const running = stages.filter((stage) => stage.action === "would-run");
    const known = running.flatMap((stage) => stage.expectedSeconds ?? []);
    if (known.length === 0) return "";
    const sum = duration(known.reduce((total, one) => total + one, 0));
    return ` (about ${sum}${known.length < running.length ? ` for ${known.length} of them` : ""})`;
}

function closing(
    operation: Operation,
    result: Result,
    hasModel: boolean,
    stages: readonly StageOutcome[],
    seconds: number,
    report: unknown,
): string {
    const page = typeof report === "string" ? ` Report: ${report}` : "";
    const took = seconds < 90 ? `${seconds.toFixed(1)} s` : duration(seconds);
    if (result === "detached") return `Detached after ${took}: what runs goes on; \`npm run up\` attaches to it.`;
    if (result === "refused") {
        const now = hasModel ? "the old model stays" : "the stack has no model yet";
        return `Refused by the gate after ${took}; ${now}.${page}`;
    }
    if (result === "failed") return `Failed after ${took}.`;
    const count = (action: StageOutcome["action"]) => stages.filter((stage) => stage.action === action).length;
    if (operation === "destroy") return `Destroyed (${took}); runs and artifacts are still in the store.`;
    if (operation === "refresh")
        return count("drifted") > 0 ? `Drifted (${took}): \`npm run up\` repairs it.` : `No drift (${took}).`;
    if (stages.every((stage) => stage.action === "unchanged")) {
        return `Nothing to do: ${stages.length} stages are unchanged (${took}).`;
    }
    if (operation === "preview") {
        return `Would run ${count("would-run")}${expected(stages)}, reuse ${count("would-reuse")}, unchanged ${count("unchanged")} (${took}).`;
    }
    return `Done in ${took}.${page}`;
}
