import { Command } from "commander";
import { executorFor } from "../pipeline/executor/executors";
import { findRun } from "../pipeline/store/runs";
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
    const { key, run, state, target } = findRun(home(), command.args[0] ?? "");
    if (state !== "queued" && state !== "running") throw new UserError(`run ${run} does not run: it is ${state}`);
    const executor = executorFor(target ?? { type: "local" }, new Store(home()));
    let now = await executor.stop(key);
    process.stdout.write(`stopping run ${run} after its current step …\n`);
    while (now.state === "queued" || now.state === "running") {
        now = await executor.status(key, { cursor: now.cursor, waitSeconds: 10 });
    }
    process.stdout.write(`run ${run} ${now.state}${now.reason ? `: ${now.reason}` : ""}\n`);
    return 0;
}
