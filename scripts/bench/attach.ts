import * as fs from "node:fs";
import * as path from "node:path";
import type { Benchmark } from "./benchmark";
import { newHome, tinyProject, type Home } from "./project";
import { median } from "./result";
import { until } from "./workplace";

/** Far more steps than there is time for. */
const ENDLESS = ["--stack", "bench", "--set", "training.maxSteps=1000000"];
const PROGRESS = /^ {2}training +… /;
const MINUTES = 300;

export const attach: Benchmark = {
    name: "attach",
    what: "up after a killed one, during a training: from its start to the stage's first line",
    async run(place, runs) {
        const project = await tinyProject(place);
        const home = newHome(place);
        place.say("  starting a training");
        let client = project.start(home, "up", ...ENDLESS);
        await Promise.race([
            until("the training's first steps", () => hasStep(home), MINUTES),
            client.ended.then(({ stdout, stderr }) => {
                throw new Error(`up ended before the training began:\n${stdout}${stderr}`);
            }),
        ]);
        await client.firstLine(PROGRESS);
        const samples: number[] = [];
        for (let run = 0; run < runs; run += 1) {
            client.kill("SIGKILL");
            await client.ended;
            // The Pulumi CLI outlives its client for a moment, with the stack locked.
            await until("the killed update ends", () => locks(home).length === 0, MINUTES);
            client = project.start(home, "up", ...ENDLESS);
            samples.push((await client.firstLine(PROGRESS)).at);
            place.say(`  ${run + 1}/${runs}`);
        }
        client.kill("SIGTERM");
        await client.ended;
        await place.endRunners(home.folder);
        await place.endRunners(home.runtime);
        const seconds = median(samples);
        return {
            unit: "s",
            ours: seconds,
            limits: [{ value: seconds, relation: "≤", bound: 2, unit: "s" }],
            samples: { ours: samples },
            notes: ["with the start of the whole process, while the training takes the cores"],
        };
    },
};

function hasStep({ folder }: Home): boolean {
    const runs = path.join(folder, "runs");
    const keys = fs.existsSync(runs) ? fs.readdirSync(runs) : [];
    return keys.some((key) => {
        const events = path.join(runs, key, "events.jsonl");
        return fs.existsSync(events) && fs.readFileSync(events, "utf8").includes('"phase": "learning"');
    });
}

function locks({ folder }: Home): string[] {
    const below = path.join(folder, "state", ".pulumi", "locks");
    if (!fs.existsSync(below)) return [];
    const entries = fs.readdirSync(below, { recursive: true, withFileTypes: true });
    return entries.filter((entry) => entry.isFile()).map(({ name }) => name);
}
