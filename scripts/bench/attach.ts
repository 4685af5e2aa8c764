import * as fs from "node:fs";
import * as path from "node:path";
import { parseEvents } from "../../pipeline/executor/executor";
import type { Benchmark } from "./benchmark";
import { newHome, tinyProject, type Home, type ProjectCopy } from "./project";
import { median, type Measured } from "./result";
import { until, type Workplace } from "./workplace";

/** Far more steps than there is time for. */
const ENDLESS = ["--set", "training.maxSteps=1000000"];
const PROGRESS = /^ {2}training +… /;
const MINUTES = 300;

export const attach: Benchmark = {
    name: "attach",
    what: "up after a killed one, during a training: from its start to the stage's first line",
    async run(place, runs) {
        const project = await tinyProject(place);
        const home = newHome(place);
        return attached(place, runs, { project, home, stack: "bench", runsFolder: path.join(home.folder, "runs") });
    },
};

interface Followed {
    readonly project: ProjectCopy;
    readonly home: Home;
    readonly stack: string;
    /** Where the runs are, on whatever machine. */
    readonly runsFolder: string;
}

/** Kills the client of a training again and again, and measures how long the next one takes to follow it. */
export async function attached(place: Workplace, runs: number, followed: Followed): Promise<Measured> {
    const { project, home, stack, runsFolder } = followed;
    const args = ["--stack", stack, ...ENDLESS];
    place.say("  starting a training");
    let client = project.start(home, "up", ...args);
    await Promise.race([
        until("the training's first steps", () => firstStep(runsFolder) !== undefined, MINUTES),
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
        client = project.start(home, "up", ...args);
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
}

/** When the first step of a training among these runs was done, in seconds since 1970. */
export function firstStep(runsFolder: string): number | undefined {
    const keys = fs.existsSync(runsFolder) ? fs.readdirSync(runsFolder) : [];
    const events = keys.flatMap((key) => {
        const file = path.join(runsFolder, key, "events.jsonl");
        return fs.existsSync(file) ? parseEvents(fs.readFileSync(file, "utf8")) : [];
    });
    return events.find((event) => event.type === "progress" && event.phase === "learning")?.time;
}

function locks({ folder }: Home): string[] {
    const below = path.join(folder, "state", ".pulumi", "locks");
    if (!fs.existsSync(below)) return [];
    const entries = fs.readdirSync(below, { recursive: true, withFileTypes: true });
    return entries.filter((entry) => entry.isFile()).map(({ name }) => name);
}
