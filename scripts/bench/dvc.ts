import * as fs from "node:fs";
import * as path from "node:path";
import { stringify } from "yaml";
import { cache } from "../locations.cjs";
import type { Workplace } from "./workplace";

const VERSION = "3.67.1";

/** DVC with a pipeline that has nothing to do. */
export interface Dvc {
    readonly name: string;
    /** Whole process, in seconds. */
    readonly repro: () => Promise<number>;
    readonly status: () => Promise<number>;
}

/** The same six stages as ours, with the same edges between them. */
const STAGES = {
    dataset: ["rows.jsonl"],
    model: ["seed.txt"],
    training: ["dataset.out", "model.out"],
    evaluation: ["dataset.out", "model.out", "training.out"],
    export: ["model.out", "training.out"],
    report: ["dataset.out", "model.out", "training.out", "evaluation.out", "export.out"],
};

/** Where DVC cannot be had, or does not work, the reason. */
export function dvcPipeline(place: Workplace): Promise<Dvc | { readonly missing: string }> {
    return place.once("dvc", async () => {
        try {
            return await pipeline(place, await install(place));
        } catch (error) {
            return { missing: `no DVC ${VERSION} to compare with: ${firstLines(String(error))}` };
        }
    });
}

/** DVC in a Python environment of its own in the user's cache: made once. */
async function install(place: Workplace): Promise<string> {
    const folder = path.join(cache(), "test-tools", `dvc-${VERSION}`);
    const stamp = path.join(folder, ".complete");
    if (!fs.existsSync(stamp)) {
        place.say(`  installing DVC ${VERSION} into the cache (once)`);
        const options = { cwd: place.folder };
        await place.run([place.tools.python, "-m", "venv", "--clear", folder], options);
        const pip = path.join(folder, "bin", "pip");
        await place.run([pip, "install", "--quiet", "--disable-pip-version-check", `dvc==${VERSION}`], options);
        fs.writeFileSync(stamp, "");
    }
    return path.join(folder, "bin", "dvc");
}

async function pipeline(place: Workplace, dvc: string): Promise<Dvc> {
    const cwd = place.make("dvc");
    const aside = place.make("dvc-settings");
    const env = {
        // Neither hooks nor signing of the user's.
        GIT_CONFIG_GLOBAL: "/dev/null",
        GIT_CONFIG_NOSYSTEM: "1",
        DVC_NO_ANALYTICS: "true",
        DVC_SITE_CACHE_DIR: path.join(aside, "site-cache"),
        DVC_GLOBAL_CONFIG_DIR: path.join(aside, "global"),
        DVC_SYSTEM_CONFIG_DIR: path.join(aside, "system"),
    };
    const stages = Object.entries(STAGES).map(([name, deps]) => {
        const settings = { params: [name], deps, outs: [`${name}.out`] };
        return [name, { cmd: `cat ${deps.join(" ")} > ${name}.out`, ...settings }];
    });
    fs.writeFileSync(path.join(cwd, "dvc.yaml"), stringify({ stages: Object.fromEntries(stages) as object }));
    const params = Object.keys(STAGES).map((name) => [name, { learningRate: 0.01, seed: 42 }]);
    fs.writeFileSync(path.join(cwd, "params.yaml"), stringify(Object.fromEntries(params)));
    fs.writeFileSync(path.join(cwd, "rows.jsonl"), '{"question": "?", "answer": "!"}\n'.repeat(40));
    fs.writeFileSync(path.join(cwd, "seed.txt"), "1\n");

    const run = (...command: readonly [string, ...string[]]) => place.run(command, { cwd, env });
    await run("git", "init", "--quiet");
    await run(dvc, "init", "--quiet");
    // Once a day it would look for a newer release.
    await run(dvc, "config", "core.check_update", "false");
    await run(dvc, "repro");
    await run("git", "add", "--all");
    await run(
        "git",
        "-c",
        "user.name=bench",
        "-c",
        "user.email=bench@localhost",
        "commit",
        "--quiet",
        "-m",
        "pipeline",
    );

    const upToDate = async (verb: "repro" | "status") => {
        const { seconds, stdout } = await run(dvc, verb);
        if (!stdout.includes("Data and pipelines are up to date.")) throw new Error(`dvc ${verb} said:\n${stdout}`);
        return seconds;
    };
    return {
        name: `dvc ${VERSION}`,
        repro: () => upToDate("repro"),
        status: () => upToDate("status"),
    };
}

function firstLines(text: string): string {
    return text.split("\n").slice(0, 3).join(" ");
}
