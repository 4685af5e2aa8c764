import * as fs from "node:fs";
import * as path from "node:path";
import { project } from "../locations.cjs";
import { sideBySide, type Benchmark } from "./benchmark";
import { median, ratioOf, round } from "./result";
import { writeRows } from "./rows";
import type { Workplace } from "./workplace";

export const ROWS = 180_000;
const scripts = path.join(project, "scripts", "bench");

export interface Usage {
    readonly wall: number;
    readonly cpu: number;
    readonly rss: number;
}

/** A conversion in a process of its own: what it took, and how many rows it kept. */
export async function used(place: Workplace, command: readonly string[]): Promise<Usage & { readonly kept: number }> {
    const wrapped = [place.tools.python, "-IS", path.join(scripts, "usage.py"), ...command] as const;
    const { stdout } = await place.run([...wrapped], { cwd: place.folder });
    const [kept = "", usage = ""] = stdout.trim().split("\n").slice(-2);
    return { kept: Number(kept), ...(JSON.parse(usage) as Usage) };
}

export const convert: Benchmark = {
    name: "convert",
    what: `${ROWS} rows into Alpaca form, to the tutorial's Python loop; times as fast`,
    async run(place, runs) {
        const folder = place.make("convert");
        const rows = path.join(folder, "rows.jsonl");
        place.say(`  writing ${ROWS} rows`);
        writeRows(rows, ROWS, 7);
        const usages = { plain: [] as Usage[], divided: [] as Usage[], loop: [] as Usage[] };
        const kept = new Set<number>();
        const sample = async (what: keyof typeof usages, command: (into: string) => readonly string[]) => {
            const into = place.make("converted");
            const { kept: count, ...usage } = await used(place, command(into));
            fs.rmSync(into, { recursive: true });
            kept.add(count);
            usages[what].push(usage);
            return usage.wall;
        };
        const task = path.join(scripts, "task.cjs");
        const loop = path.join(scripts, "tutorial_loop.py");
        const ours = async () => {
            const seconds = await sample("plain", (into) => [process.execPath, task, "convert", rows, into]);
            await sample("divided", (into) => [process.execPath, task, "convert-and-divide", rows, into]);
            return seconds;
        };
        const peer = () =>
            sample("loop", (into) => [place.tools.python, "-IS", loop, rows, path.join(into, "out.json")]);
        const measured = await sideBySide(place, runs, ours, peer);
        if (kept.size !== 1) throw new Error(`the two keep different numbers of rows: ${[...kept].join(", ")}`);

        // The first one is not in the samples either.
        const of = (side: keyof typeof usages, what: keyof Usage) => usages[side].slice(1).map((usage) => usage[what]);
        const rss = Math.max(...of("plain", "rss"), ...of("divided", "rss"));
        const speed = measured.peer === undefined ? undefined : ratioOf(measured.peer, measured.ours);
        return {
            unit: "s",
            ours: measured.ours,
            ...(measured.peer === undefined ? {} : { peer: measured.peer }),
            ...(speed === undefined ? {} : { ratio: speed }),
            peerName: "the tutorial's Python loop",
            limits: [
                { value: speed, relation: "≥", bound: 3.5, unit: "× as fast" },
                { value: rss, relation: "≤", bound: 320, unit: "MiB" },
            ],
            samples: {
                ...measured.samples,
                oursCpu: of("plain", "cpu"),
                oursMiB: of("plain", "rss"),
                peerCpu: of("loop", "cpu"),
                peerMiB: of("loop", "rss"),
                withSplits: of("divided", "wall"),
                withSplitsMiB: of("divided", "rss"),
            },
            notes: [
                `${round(fs.statSync(rows).size / 1e6)} MB; CPU ${round(median(of("plain", "cpu")))} s to ` +
                    `${round(median(of("loop", "cpu")))} s, at most ${round(rss)} MiB`,
                `without splits, which the loop has not; with them ${round(median(of("divided", "wall")))} s`,
            ],
        };
    },
};
