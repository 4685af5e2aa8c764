import * as fs from "node:fs";
import * as path from "node:path";
import { Command } from "commander";
import { targetSchema, type SshTarget, type Target } from "../infra/target";
import type { GarbageItem } from "../pipeline/executor/executor";
import { executorFor } from "../pipeline/executor/executors";
import { parseJson } from "../pipeline/identity";
import { findRun } from "../pipeline/store/runs";
import { Store } from "../pipeline/store/store";
import { pendingUploads } from "../pipeline/store/uploads";
import { UserError } from "../pipeline/user-error";
import { parseOrExplain, UsageError } from "./arguments";
import { home } from "./locations.cjs";
import { removeStaleLocks } from "./locks";
import { readKeys, readRoots, readStacks } from "./stacks";

const DAY = 86_400;

/** `npm run gc`: removes runs and artifacts that no stack uses, that nobody has pinned and that are past the grace. */
export async function gc(args: readonly string[]): Promise<number> {
    const command = new Command("npm run gc --")
        .description("removes runs and artifacts that no stack of this machine uses any more")
        .option("--dry-run", "say what would be removed and what would stay, and why; remove nothing", false)
        .option("--grace-days <days>", "what was used within this time stays in any case", "14")
        .option("--pin <run>", "from now on this run stays, whatever happens")
        .option("--unpin <run>", "takes a pin off")
        .option("--json", "one object on stdout", false);
    const options = parseOrExplain(command, args) as
        { dryRun: boolean; graceDays: string; pin?: string; unpin?: string; json: boolean } | undefined;
    if (options === undefined) return 0;
    if (options.pin !== undefined || options.unpin !== undefined) return setPin(options.pin, options.unpin);
    const days = Number(options.graceDays);
    if (!(days >= 0)) throw new UsageError(`--grace-days wants a number of days from 0, got ${options.graceDays}`);
    refuseDuringUpdates();

    const request = { roots: roots(), graceSeconds: days * DAY, dryRun: options.dryRun };
    const store = new Store(home());
    const items: (GarbageItem & { readonly at?: string })[] = [];
    let freed = 0;
    const collect = async (target: Target): Promise<void> => {
        const found = await (await executorFor(target, store)).collectGarbage(request);
        items.push(...found.items.map((item) => (target.type === "ssh" ? { ...item, at: target.host } : item)));
        freed += found.freed;
    };
    await collect({ type: "local" });
    for (const host of hosts()) {
        await collect(host).catch((error: unknown) => {
            if (!(error instanceof UserError)) throw error;
            process.stderr.write(`nothing is collected on ${host.host}: ${error.message}\n`);
        });
    }
    if (options.json) {
        process.stdout.write(`${JSON.stringify({ dryRun: options.dryRun, freed, items })}\n`);
        return 0;
    }
    for (const at of new Set(items.map((item) => item.at))) {
        for (const kept of [true, false]) {
            const some = items.filter((item) => item.at === at && item.kept === kept).sort((a, b) => b.size - a.size);
            const where = at === undefined ? "" : ` on ${at}`;
            if (some.length > 0)
                process.stdout.write(`${heading(kept, options.dryRun)}${where}\n${some.map(line).join("")}`);
        }
    }
    process.stdout.write(`${options.dryRun ? "Would free" : "Freed"} ${megabytes(freed)}.\n`);
    return 0;
}

/** The machines that stacks of this one run on, each once. What is removed there and wanted again goes there again. */
function hosts(): SshTarget[] {
    const stages = readStacks().flatMap((stack) => stack.stages);
    const targets = stages.flatMap(({ type, outputs }) => {
        const target = type === "finetune:infra:Host" ? targetSchema.safeParse(outputs["target"]).data : undefined;
        return target?.type === "ssh" ? [target] : [];
    });
    const places = targets.map((target) => [`${target.host}:${target.port} ${target.home}`, target] as const);
    return [...new Map(places).values()];
}

function heading(kept: boolean, dryRun: boolean): string {
    if (kept) return "stays";
    return dryRun ? "would be removed" : "removed";
}

function line({ what, name, kind, size, why }: GarbageItem): string {
    return `  ${name.slice(0, 12)} ${(kind ?? what).padEnd(11)} ${megabytes(size).padStart(10)}  ${why}\n`;
}

function megabytes(bytes: number): string {
    return `${(bytes / 1e6).toFixed(1)} MB`;
}

/** An update that goes on has results in hand that are in no state yet. A run that goes on by itself is no danger. */
function refuseDuringUpdates(): void {
    for (const { stack } of readStacks()) {
        const { held } = removeStaleLocks(path.join(home(), "state"), "retune", stack);
        if (held.length > 0) throw new UserError(`stack ${stack} is being updated: collect when that has ended`);
    }
}

function roots(): Record<string, string> {
    const used: Record<string, string> = {};
    for (const { stack, keys } of readRoots()) for (const key of keys) used[key] = `used by stack ${stack}`;
    for (const { stack, stages, problem } of readStacks()) {
        if (problem !== undefined)
            throw new UserError(`nothing is removed, because what stack ${stack} uses is not known: ${problem}`);
        for (const { outputs } of stages) {
            if (typeof outputs["key"] === "string") used[outputs["key"]] = `used by stack ${stack}`;
        }
    }
    // The answers of a model are no stage of any stack, but an evaluation is made of them.
    for (const [key, why] of Object.entries(used)) for (const one of before(key)) used[one] ??= why;
    for (const { key } of pendingUploads(home())) used[key] = "not sent to its mirror yet";
    for (const key of readPins()) used[key] = "pinned";
    return used;
}

/** The runs that a client's work was made of, as its job file says. */
function before(key: string): string[] {
    const file = path.join(home(), "runs", key, "job.json");
    const keys = fs.existsSync(file) ? parseJson(fs.readFileSync(file, "utf8"))?.["before"] : undefined;
    return Array.isArray(keys) ? keys.filter((one) => typeof one === "string") : [];
}

const pinsFile = (): string => path.join(home(), "pins.json");

function readPins(): string[] {
    return readKeys(pinsFile());
}

function setPin(pin: string | undefined, unpin: string | undefined): number {
    const pins = new Set(readPins());
    if (pin !== undefined) pins.add(findRun(home(), pin).key);
    if (unpin !== undefined) pins.delete(findRun(home(), unpin).key);
    const temporary = `${pinsFile()}.${process.pid}`;
    fs.writeFileSync(temporary, JSON.stringify([...pins], undefined, 1));
    fs.renameSync(temporary, pinsFile());
    return 0;
}
