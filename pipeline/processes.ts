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

/** Names the time since the machine was started. */
export function bootId(): string {
    return fs.readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
}
