import { spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { onTestFinished, vi } from "vitest";

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

export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
    await vi.waitUntil(condition, { timeout: 15_000, interval: 10 });
}

/** The pid of a process that has died and was not waited for, for as long as the test goes on. */
export async function zombie(): Promise<number> {
    const program = "import os, time; pid = os.fork(); pid or os._exit(0); print(pid, flush=True); time.sleep(600)";
    const parent = spawn("python3", ["-c", program], { stdio: ["ignore", "pipe", "inherit"] });
    onTestFinished(() => {
        parent.kill("SIGKILL");
    });
    let said = "";
    parent.stdout.on("data", (data: Buffer) => (said += data.toString()));
    await until(() => said.endsWith("\n") && read(`/proc/${Number(said)}/stat`).includes(") Z "));
    return Number(said);
}
