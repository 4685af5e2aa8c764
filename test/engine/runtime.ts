import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import type { TestProject } from "vitest/node";
import { commandOf, eventually, processes } from "./processes";

declare module "vitest" {
    interface ProvidedContext {
        /** XDG_RUNTIME_DIR of all commands: the tests share LLaMA-Factory's import, but wait for nobody else's runs. */
        runtime: string;
    }
}

export default function setup(project: TestProject): () => Promise<void> {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), "retune-runtime-"));
    project.provide("runtime", folder);
    return async () => {
        const workers = () => processes().filter((pid) => commandOf(pid).includes(`runner.py worker ${folder}/`));
        for (const pid of workers()) process.kill(pid);
        await eventually("the workers end", () => workers().length === 0);
        fs.rmSync(folder, { recursive: true, force: true });
    };
}
