import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import type { TestProject } from "vitest/node";
import { endWorkers } from "./processes";

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
        await endWorkers(folder);
        fs.rmSync(folder, { recursive: true, force: true });
    };
}
