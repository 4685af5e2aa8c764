import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { processOf } from "../pipeline/processes";

/** A lock of Pulumi's file backend, as the engine writes it. */
export interface Lock {
    readonly pid: number;
    readonly username: string;
    readonly hostname: string;
    readonly timestamp: string;
}

/** Milliseconds after which a lock that is not written to its end never will be: writing one takes less than one. */
const ABANDONED = 10_000;

/**
 * Removes the locks of a stack whose owners are provably gone: made on this host by this user, and the pid is free or
 * belongs to another program that started after the lock was taken. Answers those that are left; a live lock is never
 * broken, and one that is just being written is left to the engine to judge. What a killed process has begun to write is
 * removed too: the engine cannot read it, and would refuse every update.
 */
export function removeStaleLocks(state: string, project: string, stack: string): { removed: number; held: Lock[] } {
    const folder = path.join(state, ".pulumi", "locks", "organization", project, stack);
    const held: Lock[] = [];
    let removed = 0;
    for (const name of fs.existsSync(folder) ? fs.readdirSync(folder) : []) {
        const file = path.join(folder, name);
        if (name.endsWith(".tmp") && age(file) > ABANDONED) fs.rmSync(file, { force: true });
        if (!name.endsWith(".json")) continue;
        const lock = parseLock(file);
        if (lock === undefined) continue;
        if (ownerIsGone(lock)) {
            fs.rmSync(file, { force: true });
            fs.rmSync(`${file}.attrs`, { force: true });
            removed += 1;
        } else {
            held.push(lock);
        }
    }
    return { removed, held };
}

/** Milliseconds since a file was written; 0 where it has gone. */
function age(file: string): number {
    const written = fs.statSync(file, { throwIfNoEntry: false })?.mtimeMs;
    return written === undefined ? 0 : Date.now() - written;
}

function parseLock(file: string): Lock | undefined {
    try {
        const lock = JSON.parse(fs.readFileSync(file, "utf8")) as Partial<Lock> | null;
        return typeof lock?.pid === "number" ? (lock as Lock) : undefined;
    } catch {
        return undefined;
    }
}

/**
 * A process of the lock's number that started after it is another one. By the wall clock, which may have been put
 * forward since: then a living owner seems to have started late, so it must also be no Pulumi.
 */
function ownerIsGone(lock: Lock): boolean {
    if (lock.hostname !== os.hostname() || lock.username !== os.userInfo().username) return false;
    const owner = processOf(lock.pid);
    if (owner === undefined) return true;
    // The kernel's clock of starts and the wall clock of the lock agree to within a second or so.
    return !owner.name.startsWith("pulumi") && wallClock(owner.started) > Date.parse(lock.timestamp) + 2000;
}

/** Milliseconds since 1970 of a time in clock ticks since the boot. */
function wallClock(ticks: number): number {
    const boot = Number(/^btime (\d+)/m.exec(fs.readFileSync("/proc/stat", "utf8"))?.[1]);
    return (boot + ticks / 100) * 1000;
}
