import * as os from "node:os";
import { Command, InvalidArgumentError } from "commander";
import { parseOrExplain } from "./arguments";
import { attach } from "./bench/attach";
import type { Benchmark } from "./bench/benchmark";
import { convert } from "./bench/convert";
import { examine } from "./bench/examine";
import { attachOverSsh, bareHostToFirstStep } from "./bench/host";
import { noopPreview, noopUp, status } from "./bench/idle";
import { pipeline } from "./bench/pipeline";
import { restore } from "./bench/restore";
import { forJson, table, type Outcome } from "./bench/result";
import { stages } from "./bench/stages";
import { Workplace, type Tools } from "./bench/workplace";

const BENCHMARKS: readonly Benchmark[] = [
    ...[noopUp, noopPreview, status, stages, pipeline, convert, examine, attach, restore],
    ...[bareHostToFirstStep, attachOverSsh],
];
const NAMES = BENCHMARKS.map(({ name }) => name);
const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

interface Options {
    readonly json: boolean;
    readonly only: readonly Benchmark[];
    readonly runs: number;
}

/** `npm run bench`: it measures, so a budget that is missed is said and is no failure. Answers the exit code. */
export async function bench(args: readonly string[], tools: Tools): Promise<number> {
    const options = parse(args);
    if (options === undefined) return 0;
    const say = (text: string) => process.stderr.write(`${text}\n`);
    const place = new Workplace(tools, say);
    const interrupt = (signal: NodeJS.Signals): void => {
        say("ending what was started …");
        void place.dispose().finally(() => process.exit(128 + os.constants.signals[signal]));
    };
    for (const signal of SIGNALS) process.on(signal, interrupt);

    const load = () => os.loadavg().map((one) => Number(one.toFixed(2)));
    const machine = { cpus: os.cpus().length, memory: os.totalmem(), node: process.version, loadBefore: load() };
    const outcomes: Outcome[] = [];
    try {
        for (const { name, what, run } of options.only) {
            say(`${name}: ${what}`);
            try {
                outcomes.push({ name, what, ...(await run(place, options.runs)) });
            } catch (error) {
                if (place.isOver) await new Promise(() => undefined); // interrupted: the process is about to exit
                const problem = error instanceof Error ? error.message : String(error);
                outcomes.push({ name, what, problem });
                say(`${name} could not run: ${problem}`);
            }
        }
    } finally {
        await place.dispose();
    }
    for (const signal of SIGNALS) process.off(signal, interrupt);
    if (options.json) {
        const answer = {
            runs: options.runs,
            machine: { ...machine, loadAfter: load() },
            results: outcomes.map(forJson),
        };
        process.stdout.write(`${JSON.stringify(answer)}\n`);
    } else {
        process.stdout.write(`${table(outcomes)}\n`);
    }
    return outcomes.some((outcome) => "problem" in outcome) ? 1 : 0;
}

function parse(args: readonly string[]): Options | undefined {
    const command = new Command("npm run bench --")
        .description("measures Retune beside what it is compared with; medians, and whether the budgets are met")
        .option("--json", "one object on stdout, progress on stderr", false)
        .option("--only <names>", `some of ${NAMES.join(", ")}, with commas between them`, chosen)
        .option("--runs <number>", "samples of each", wholeNumber, 5);
    const given = parseOrExplain(command, args);
    return given === undefined ? undefined : ({ only: BENCHMARKS, ...given } as unknown as Options);
}

function chosen(text: string): readonly Benchmark[] {
    const wanted = text.split(",");
    const unknown = wanted.find((name) => !NAMES.includes(name));
    if (unknown !== undefined) throw new InvalidArgumentError(`There is no benchmark "${unknown}".`);
    return BENCHMARKS.filter(({ name }) => wanted.includes(name));
}

function wholeNumber(text: string): number {
    if (!/^[1-9]\d*$/.test(text)) throw new InvalidArgumentError("It is a whole number from 1.");
    return Number(text);
}
