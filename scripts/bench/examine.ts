import * as path from "node:path";
import { project } from "../locations.cjs";
import { sideBySide, type Benchmark } from "./benchmark";
import { ROWS, used, type Usage } from "./convert";
import { median, round } from "./result";
import { writeRows } from "./rows";

export const examine: Benchmark = {
    name: "examine",
    what: `${ROWS} rows into Alpaca form, with a look at their quality`,
    async run(place, runs) {
        const rows = path.join(place.make("examine"), "rows.jsonl");
        place.say(`  writing ${ROWS} rows`);
        writeRows(rows, ROWS, 7);
        const usages = { examined: [] as Usage[], divided: [] as Usage[] };
        const sample = async (what: keyof typeof usages, task: string) => {
            const program = path.join(project, "scripts", "bench", "task.cjs");
            const { kept: _kept, ...usage } = await used(place, [
                process.execPath,
                ...[program, task, rows, place.make("examined")],
            ]);
            usages[what].push(usage);
            return usage.wall;
        };
        const measured = await sideBySide(
            place,
            runs,
            () => sample("examined", "convert-and-examine"),
            () => sample("divided", "convert-and-divide"),
        );
        const of = (side: keyof typeof usages, what: keyof Usage) => usages[side].slice(1).map((usage) => usage[what]);
        const rss = Math.max(...of("examined", "rss"));
        return {
            unit: "s",
            ours: measured.ours,
            ...(measured.peer === undefined ? {} : { peer: measured.peer }),
            peerName: "the same without a look",
            limits: [
                { value: measured.ours, relation: "≤", bound: 10, unit: "s" },
                { value: rss, relation: "≤", bound: 480, unit: "MiB" },
            ],
            samples: { ...measured.samples, oursCpu: of("examined", "cpu"), oursMiB: of("examined", "rss") },
            notes: [
                `CPU ${round(median(of("examined", "cpu")))} s, at most ${round(rss)} MiB; four of five of these rows ` +
                    "are nearly the same as another one, which is the most work",
            ],
        };
    },
};
