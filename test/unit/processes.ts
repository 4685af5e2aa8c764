import { readdirSync, readFileSync } from "node:fs";
import { vi } from "vitest";

/**
 * Every process that has a test's own temporary folder in its arguments, and `having` besides: what the test has
 * started, directly or not. Runs and workers outlive those who started them.
 */
export function processesOf(folder: string, having = ""): number[] {
    const pids = readdirSync("/proc").map(Number);
    return pids.filter((pid) => {
        if (!(pid > 0)) return false;
        const command = read(`/proc/${pid}/cmdline`);
        return command.includes(folder) && command.includes(having);
    });
}

/** Ends what {@link processesOf} finds. */
export async function endAll(folder: string): Promise<void> {
    await until(() => {
        const left = processesOf(folder);
        for (const pid of left) {
            try {
                process.kill(pid, "SIGKILL");
            } catch {
                // It has ended by itself.
            }
        }
        return left.length === 0;
    });
}

export function alive(pid: number): boolean {
    const stat = read(`/proc/${pid}/stat`);
    return stat !== "" && !"ZX".includes(stat.charAt(stat.lastIndexOf(")") + 2));
}

/** The content of a file; empty where there is none. */
export function read(file: string): string {
    try {
        return readFileSync(file, "utf8");
    } catch {
        return "";
    }
}

export async function until(condition: () => boolean): Promise<void> {
    await vi.waitUntil(condition, { timeout: 15_000, interval: 10 });
}
