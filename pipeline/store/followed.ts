import * as fs from "node:fs";
import * as path from "node:path";
import type { Target } from "../../infra/target";
import { objectIn } from "../identity";
import { isActive, readRun, type RunSummary } from "./runs";

/**
 * That a stage of a stack has started a run, or attached to it. Of a client that was killed it is all that says whose the
 * run is, and on which target; two stacks that want the same follow the same run.
 */
export interface Followed {
    readonly stack: string;
    readonly stage: string;
    readonly key: string;
    readonly target: Target;
}

/** What is followed, one file each, below RETUNE_HOME. */
export function followedRuns(home: string): Followed[] {
    return names(home).flatMap((followed) => {
        const target = objectIn(fileOf(home, followed));
        // One whose client was killed while it wrote this has not been started. Its schema would cost status 50 ms.
        return target === undefined ? [] : [{ ...followed, target: target as unknown as Target }];
    });
}

/** Of these runs the one that a stage of a stack has going on, the newest where there are more. */
export function activeRun(
    runs: readonly RunSummary[],
    followed: readonly Followed[],
    stack: string,
    stage: string,
): RunSummary | undefined {
    const own = followed.filter((one) => one.stack === stack && one.stage === stage).map(({ key }) => key);
    return runs.find((run) => isActive(run) && own.includes(run.key));
}

/** Before the run is started. */
export async function noteFollowed(home: string, followed: Followed): Promise<void> {
    await fs.promises.mkdir(folderOf(home), { recursive: true });
    await fs.promises.writeFile(fileOf(home, followed), JSON.stringify(followed.target));
}

export async function dropFollowed(home: string, followed: Name): Promise<void> {
    await fs.promises.rm(fileOf(home, followed), { force: true });
}

/** Drops those runs of a stage that are known to be over. */
export async function dropEnded(home: string, stack: string, stage: string): Promise<void> {
    for (const followed of names(home).filter((one) => one.stack === stack && one.stage === stage)) {
        const run = readRun(home, followed.key);
        if (run !== undefined && !isActive(run)) await dropFollowed(home, followed);
    }
}

type Name = Omit<Followed, "target">;

function names(home: string): Name[] {
    const files = fs.existsSync(folderOf(home)) ? fs.readdirSync(folderOf(home)) : [];
    return files.flatMap((file) => {
        const [, stack, stage, key] = /^(\S+) (\S+) ([0-9a-f]{64})\.json$/.exec(file) ?? [];
        return stack === undefined || stage === undefined || key === undefined ? [] : [{ stack, stage, key }];
    });
}

function fileOf(home: string, { stack, stage, key }: Name): string {
    return path.join(folderOf(home), `${stack} ${stage} ${key}.json`);
}

function folderOf(home: string): string {
    return path.join(home, "followed");
}
