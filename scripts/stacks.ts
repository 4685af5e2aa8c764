import * as fs from "node:fs";
import * as path from "node:path";
import type { JsonObject } from "../pipeline/identity";
import { home } from "./locations.cjs";

/** What the state of a stack holds of its stages. */
export interface StackStatus {
    readonly stack: string;
    readonly stages: readonly { readonly name: string; readonly type: string; readonly outputs: JsonObject }[];
}

/** The stacks whose state is in RETUNE_HOME, read without the engine. */
export function readStacks(): StackStatus[] {
    const folder = path.join(home(), "state", ".pulumi", "stacks", "retune");
    const files = fs.existsSync(folder) ? fs.readdirSync(folder).filter((name) => name.endsWith(".json")) : [];
    return files.map((file) => {
        interface Resource {
            readonly type: string;
            readonly urn: string;
            readonly outputs?: JsonObject;
        }
        const text = fs.readFileSync(path.join(folder, file), "utf8");
        const state = JSON.parse(text) as { checkpoint: { latest?: { resources?: Resource[] } } };
        const resources = state.checkpoint.latest?.resources ?? [];
        const stages = resources.filter(({ type }) => type.startsWith("finetune:"));
        return {
            stack: file.slice(0, -".json".length),
            stages: stages.map(({ type, urn, outputs }) => ({
                name: urn.slice(urn.lastIndexOf("::") + 2),
                type,
                outputs: outputs ?? {},
            })),
        };
    });
}

/**
 * The keys that stacks were last seen to use by `npm run up`, wherever their state is kept: a backend elsewhere cannot be
 * asked in passing.
 */
export function readRoots(): { readonly stack: string; readonly keys: readonly string[] }[] {
    const folder = rootsFolder();
    const files = fs.existsSync(folder) ? fs.readdirSync(folder).filter((name) => name.endsWith(".json")) : [];
    return files.map((file) => {
        const keys = JSON.parse(fs.readFileSync(path.join(folder, file), "utf8")) as string[];
        return { stack: decodeURIComponent(file.slice(0, -".json".length)), keys };
    });
}

/** Notes what a stack uses from now on; nothing, once it is destroyed. */
export function writeRoots(stack: string, keys: readonly string[]): void {
    const backend = process.env["PULUMI_BACKEND_URL"];
    if (backend === undefined) return; // its state is in RETUNE_HOME, and says so itself
    const file = path.join(rootsFolder(), `${encodeURIComponent(`${stack} at ${backend}`)}.json`);
    if (keys.length === 0) {
        fs.rmSync(file, { force: true });
        return;
    }
    fs.mkdirSync(path.dirname(file), { recursive: true });
    fs.writeFileSync(`${file}.${process.pid}`, JSON.stringify(keys));
    fs.renameSync(`${file}.${process.pid}`, file);
}

function rootsFolder(): string {
    return path.join(home(), "roots");
}
