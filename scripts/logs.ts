import * as fs from "node:fs";
import * as path from "node:path";
import { Command } from "commander";
import { executorFor } from "../pipeline/executor/executors";
import { findRun, isActive } from "../pipeline/store/runs";
import { Store } from "../pipeline/store/store";
import { parseOrExplain } from "./arguments";
import { home } from "./locations.cjs";

const POLL = 300;
const NOW = { cursor: 0, waitSeconds: 0 };

/** `npm run logs -- RUN`: prints the log of a run and, while it goes on, what is added to it. */
export async function logs(args: readonly string[]): Promise<number> {
    const command = new Command("npm run logs --")
        .description("prints the log of a run and follows it to its end")
        .argument("<run>", "the beginning of its key, as `npm run status` shows it");
    if (parseOrExplain(command, args) === undefined) return 0;
    const name = command.args[0] ?? "";
    const { key, target } = findRun(home(), name);
    const file = path.join(home(), "runs", key, "log");
    process.stdout.on("error", () => process.exit(0)); // `npm run logs -- RUN | head`
    const executor =
        target && (await executorFor(target, new Store(home()), (text) => process.stderr.write(`${text}\n`)));
    let position = 0;
    for (;;) {
        // The state before the text: a run that has ended by then has written everything.
        const run = executor ? await executor.status(key, NOW) : findRun(home(), key);
        await executor?.copyLog(key);
        position = await copyFrom(file, position);
        if (!isActive(run)) return 0;
        await new Promise((resolve) => setTimeout(resolve, POLL));
    }
}

async function copyFrom(file: string, position: number): Promise<number> {
    if (!fs.existsSync(file) || fs.statSync(file).size <= position) return position;
    let read = position;
    for await (const block of fs.createReadStream(file, { start: position })) {
        process.stdout.write(block as Buffer);
        read += (block as Buffer).length;
    }
    return read;
}
