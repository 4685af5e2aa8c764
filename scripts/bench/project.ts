import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { parse, stringify } from "yaml";
import { project as checkout } from "../locations.cjs";
import type { Ended, Running, Workplace } from "./workplace";

type Values = Readonly<Record<string, unknown>>;

/** The random tiny model with few steps: a whole pipeline in seconds. */
export const tiny = {
    target: { type: "local" },
    model: { source: { random: { seed: 1 } }, template: "qwen3", enableThinking: false },
    dataset: {
        recipe: "huatuo-lite",
        source: { file: "rows.jsonl" },
        split: { validation: 0.1, test: 0.1, seed: 42 },
    },
    training: {
        loraRank: 4,
        learningRate: 0.01,
        maxSteps: 30,
        batchSize: 2,
        gradientAccumulation: 1,
        cutoffLength: 128,
        precision: "fp32",
        threads: 2,
    },
    evaluation: {
        prompts: ["感冒了应该怎么办？", "高血压患者饮食需要注意什么？"],
        answeredRows: 2,
        maxNewTokens: 8,
        batchSize: 4,
        // It learns next to nothing: whether it is better is chance.
        gate: { conditions: [] },
    },
} as const;

/** Copies the files of this checkout, committed or not, into a folder. */
export function copyProject(into: string): void {
    const listed = spawnSync("git", ["ls-files", "-co", "--exclude-standard", "-z"], { cwd: checkout });
    if (listed.status !== 0) throw new Error("git cannot list the files of this checkout, of which a copy is needed");
    const files = listed.stdout.toString("utf8").split("\0").slice(0, -1);
    for (const file of files.filter((one) => fs.existsSync(path.join(checkout, one)))) {
        fs.cpSync(path.join(checkout, file), path.join(into, file));
    }
    fs.symlinkSync(path.join(checkout, "node_modules"), path.join(into, "node_modules"));
}

/** What a stack's file holds, with the committed salt of the empty passphrase. */
export function stackFile(parts: Values): string {
    const dev = parse(fs.readFileSync(path.join(checkout, "Pulumi.dev.yaml"), "utf8")) as Values;
    const config = Object.fromEntries(Object.entries(parts).map(([part, value]) => [`retune:${part}`, value]));
    return stringify({ config, encryptionsalt: dev["encryptionsalt"] });
}

/** A copy of the project with stacks of its own, so that the user's configuration and git tree stay out of it. */
export class ProjectCopy {
    readonly folder: string;

    constructor(private readonly place: Workplace) {
        this.folder = place.make("project");
        copyProject(this.folder);
    }

    write(file: string, content: string): string {
        const target = path.join(this.folder, file);
        fs.writeFileSync(target, content);
        return target;
    }

    /** The first rows of the Chinese sample. */
    writeRows(count: number): string {
        const sample = fs.readFileSync(path.join(checkout, "datasets", "samples", "huatuo-lite.jsonl"), "utf8");
        return this.write("rows.jsonl", sample.split("\n").slice(0, count).join("\n") + "\n");
    }

    writeStack(stack: string, parts: Values): void {
        this.write(`Pulumi.${stack}.yaml`, stackFile(parts));
    }

    /** Starts one of the commands in a home. */
    start(home: Home, command: "up" | "preview" | "status", ...args: readonly string[]): Running {
        return this.place.start([process.execPath, path.join("scripts", `${command}.cjs`), ...args], this.in(home));
    }

    /** Runs one of the commands in a home to its end. */
    run(home: Home, command: "up" | "preview" | "status", args: readonly string[], env: NodeJS.ProcessEnv = {}) {
        const { cwd, env: own } = this.in(home);
        const options = { cwd, env: { ...own, ...env } };
        return this.place.run([process.execPath, path.join("scripts", `${command}.cjs`), ...args], options);
    }

    private in({ folder, runtime }: Home) {
        return { cwd: this.folder, env: { RETUNE_HOME: folder, XDG_RUNTIME_DIR: runtime } };
    }
}

/** A RETUNE_HOME with a place for sockets of its own: no worker of somebody else, and no worker that is warm. */
export interface Home {
    readonly folder: string;
    readonly runtime: string;
}

export function newHome(place: Workplace): Home {
    return { folder: place.make("home"), runtime: place.make("run") };
}

/** The project copy with the tiny stack `bench`. */
export function tinyProject(place: Workplace): Promise<ProjectCopy> {
    return place.once("tiny project", () => {
        const project = new ProjectCopy(place);
        project.writeRows(40);
        project.writeStack("bench", tiny);
        return Promise.resolve(project);
    });
}

/** A home in which the stack `bench` is up, with all six stages. */
export function finishedHome(place: Workplace): Promise<{ home: Home; answer: Answer }> {
    return place.once("finished home", async () => {
        const project = await tinyProject(place);
        const home = newHome(place);
        place.say("  bringing up a stack of 6 stages with the random tiny model");
        const answer = answerOf(await project.run(home, "up", ["--stack", "bench", "--json"]));
        await place.endRunners(home.runtime);
        return { home, answer };
    });
}

/** What of `--json` is looked at. */
export interface Answer {
    readonly stages: readonly { readonly name: string; readonly key: string; readonly digest: string }[];
}

export function answerOf({ stdout }: Ended): Answer {
    return JSON.parse(stdout.trimEnd().split("\n").at(-1) ?? "") as Answer;
}

export function stageOf(answer: Answer, name: string) {
    const found = answer.stages.find((stage) => stage.name === name);
    if (found === undefined) throw new Error(`there is no stage ${name} in the answer`);
    return found;
}
