import * as fs from "node:fs";
import * as path from "node:path";
import { gunzipSync } from "node:zlib";
import { isObject, parseJson, type JsonObject } from "../pipeline/identity";
import { UserError } from "../pipeline/user-error";
import { home } from "./locations.cjs";

/** What the state of a stack holds of its stages. */
export interface StackStatus {
    readonly stack: string;
    readonly stages: readonly {
        readonly name: string;
        readonly type: string;
        readonly inputs: JsonObject;
        readonly outputs: JsonObject;
    }[];
    /** Why its state cannot be read. */
    readonly problem?: string;
}

/** Of Pulumi's state files; 4 is 3 with a list of what a state makes use of, such as the hook of a machine of AWS. */
const NEWEST_STATE = 4;

/** The stacks whose state is in RETUNE_HOME, read without the engine. */
export function readStacks(): StackStatus[] {
    const folder = path.join(home(), "state", ".pulumi", "stacks", "retune");
    const files = fs.existsSync(folder) ? fs.readdirSync(folder).filter((name) => /\.json(\.gz)?$/.test(name)) : [];
    return files.map((file) => {
        interface Resource {
            readonly type: string;
            readonly urn: string;
            readonly inputs?: JsonObject;
            readonly outputs?: JsonObject;
        }
        const stack = file.replace(/\.json(\.gz)?$/, "");
        const place = path.join(folder, file);
        const state = parseJson(read(place));
        const { version, checkpoint } = state ?? {};
        if (typeof version === "number" && version > NEWEST_STATE) {
            const problem = `${place} is a state of version ${version}, but this Retune knows ${NEWEST_STATE}: a newer Pulumi has written it`;
            return { stack, stages: [], problem };
        }
        if (!isObject(checkpoint)) {
            const problem = `${place} is no state of Pulumi; the one before it is ${place}.bak`;
            return { stack, stages: [], problem };
        }
        const resources = (checkpoint as { latest?: { resources?: Resource[] } }).latest?.resources ?? [];
        const stages = resources.filter(({ type }) => type.startsWith("finetune:"));
        return {
            stack,
            stages: stages.map(({ type, urn, inputs, outputs }) => ({
                name: urn.slice(urn.lastIndexOf("::") + 2),
                type,
                inputs: inputs ?? {},
                outputs: outputs ?? {},
            })),
        };
    });
}

/** One stack of RETUNE_HOME. Throws UserError where it is not there, or cannot be read. */
export function findStack(name: string): StackStatus {
    const stacks = readStacks().filter(({ stages, problem }) => stages.length > 0 || problem !== undefined);
    const stack = stacks.find((one) => one.stack === name);
    if (stack === undefined) {
        const others = stacks.length === 0 ? "none yet" : stacks.map((one) => one.stack).join(", ");
        throw new UserError(
            `there is no stack ${name} in RETUNE_HOME (there is ${others}): \`npm run up -- --stack ${name}\``,
        );
    }
    if (stack.problem !== undefined) throw new UserError(stack.problem);
    return stack;
}

/** With PULUMI_SELF_MANAGED_STATE_GZIP Pulumi packs its states. */
function read(file: string): string {
    const content = fs.readFileSync(file);
    return (file.endsWith(".gz") ? gunzipSync(content) : content).toString("utf8");
}

/**
 * The keys that stacks were last seen to use by `npm run up`, wherever their state is kept: a backend elsewhere cannot be
 * asked in passing.
 */
export function readRoots(): { readonly stack: string; readonly keys: readonly string[] }[] {
    const folder = rootsFolder();
    const files = fs.existsSync(folder) ? fs.readdirSync(folder).filter((name) => name.endsWith(".json")) : [];
    return files.map((file) => {
        return { stack: decodeURIComponent(file.slice(0, -".json".length)), keys: readKeys(path.join(folder, file)) };
    });
}

/** A list of keys, of which something depends: one that cannot be read is not taken for empty. */
export function readKeys(file: string): string[] {
    if (!fs.existsSync(file)) return [];
    try {
        const keys: unknown = JSON.parse(fs.readFileSync(file, "utf8"));
        if (Array.isArray(keys) && keys.every((key) => typeof key === "string")) return keys;
    } catch {
        // Said below.
    }
    throw new UserError(`${file} is no list of runs: put it right, or remove it if nothing of it is to stay`);
}

/**
 * Notes what a stack uses: these keys and no others once it `settled`, nothing once it is destroyed. An update that did
 * not come to its end leaves some of what it used before.
 */
export function writeRoots(stack: string, used: readonly string[], settled: boolean): void {
    const backend = process.env["PULUMI_BACKEND_URL"];
    if (backend === undefined) return; // its state is in RETUNE_HOME, and says so itself
    const file = path.join(rootsFolder(), `${encodeURIComponent(`${stack} at ${backend}`)}.json`);
    const keys = settled ? used : [...new Set([...readKeys(file), ...used])];
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
