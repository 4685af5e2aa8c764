import { Command } from "commander";
import { executorFor } from "../pipeline/executor/executors";
import { findRun, isActive } from "../pipeline/store/runs";
import { Store } from "../pipeline/store/store";
import { UserError } from "../pipeline/user-error";
import { parseOrExplain } from "./arguments";
import { home } from "./locations.cjs";

/** `npm run stop -- RUN`: asks a run to end after its current step, and waits until it has. */
export async function stop(args: readonly string[]): Promise<number> {
    const command = new Command("npm run stop --")
        .description("stops a run after its current step; a training leaves a checkpoint, from which `up` resumes it")
        .argument("<run>", "the beginning of its key, as `npm run status` shows it");
    if (parseOrExplain(command, args) === undefined) return 0;
    const found = findRun(home(), command.args[0] ?? "");
    const { key, run, target } = found;
    if (!isActive(found)) throw new UserError(`run ${run} does not run: it is ${found.state}`);
    const executor = await executorFor(target ?? { type: "local" }, new Store(home()));
    let now = await executor.stop(key);
    process.stdout.write(`stopping run ${run} after its current step …\n`);
    while (isActive(now)) {
        now = await executor.status(key, { cursor: now.cursor, waitSeconds: 10 });
    }
    process.stdout.write(`run ${run} ${now.state}${now.reason ? `: ${now.reason}` : ""}\n`);
    return 0;
}
