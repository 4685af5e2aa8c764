import type { ChildProcessWithoutNullStreams } from "node:child_process";
import * as fs from "node:fs";

export interface Process {
    /** The name of its program, of which the kernel keeps 15 characters. */
    readonly name: string;
    /** Clock ticks from the boot to its start: with the pid it names a process for as long as the machine is up. */
    readonly started: number;
}

/** A process that lives; undefined where there is none, and for one that has died and was not yet waited for. */
export function processOf(pid: number): Process | undefined {
    try {
        const stat = fs.readFileSync(`/proc/${pid}/stat`, "utf8");
        const [open, close] = [stat.indexOf("("), stat.lastIndexOf(")")];
        const fields = stat.slice(close + 2).split(" ");
        const dead = "ZX".includes(fields[0] ?? "Z");
        return dead ? undefined : { name: stat.slice(open + 1, close), started: Number(fields[19]) };
    } catch {
        return undefined;
    }
}

/** What a process prints until it ends, given all of its input; rejects where it could not be started. */
export function outputOf(
    child: ChildProcessWithoutNullStreams,
    input: string,
): Promise<{ readonly code: number | null; readonly stdout: string; readonly stderr: string }> {
    return new Promise((resolve, reject) => {
        let stdout = "";
        let stderr = "";
        child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text));
        child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
        child.on("error", reject);
        child.on("close", (code) => {
            resolve({ code, stdout, stderr });
        });
        child.stdin.on("error", () => undefined); // it ended before it read everything; its exit code says why
        child.stdin.end(input);
    });
}

/** Names the time since the machine was started. */
export function bootId(): string {
    return fs.readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
}

/** Why a process is not the one that has written down its pid, start and boot; undefined where it is. As runner.py has it. */
export function whyLost({ boot, pid, pidStarted }: Partial<Record<"boot" | "pid" | "pidStarted", unknown>>) {
    if (typeof boot !== "string" || typeof pid !== "number" || typeof pidStarted !== "number")
        return "its state.json does not name its process";
    if (boot !== bootId()) return "the machine was restarted";
    return processOf(pid)?.started === pidStarted ? undefined : "its process is gone without a result";
}
