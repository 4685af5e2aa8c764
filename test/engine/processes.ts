import * as fs from "node:fs";
import type { Running } from "./rig";

/** Waits until `look` answers something, for a minute or as long as is said: never blindly, never for ever. */
export async function eventually<Value>(
    what: string,
    look: () => Looked<Value> | Promise<Looked<Value>>,
    seconds = 60,
): Promise<Value> {
    const end = Date.now() + seconds * 1000;
    for (;;) {
        const found = await look();
        if (found !== undefined && found !== false && found !== null) return found;
        if (Date.now() > end) throw new Error(`waited ${seconds} s in vain: ${what}`);
        await new Promise((resolve) => setTimeout(resolve, 25));
    }
}

type Looked<Value> = Value | undefined | false | null;

export function processes(): number[] {
    return fs
        .readdirSync("/proc")
        .filter((name) => /^\d+$/.test(name))
        .map(Number);
}

/** The command line of a process; empty when it is gone. */
export function commandOf(pid: number): string {
    return read(pid, "cmdline").replaceAll("\0", " ");
}

/** The environment that a process was started with; empty when it is gone. */
export function environmentOf(pid: number): string {
    return read(pid, "environ");
}

export function childrenOf(parent: number): number[] {
    return processes().filter((pid) => Number(statOf(pid)[1]) === parent);
}

/**
 * What of the lists of processes holds a secret while a command runs: arguments of anything, and the environment of Python
 * processes, which go on without the command. What was started with it to talk to the user (node, Pulumi) has it until it ends.
 */
export async function listsWith(secret: string, running: Running): Promise<readonly string[]> {
    const seen = new Set<string>();
    await running.until("its end", () => {
        for (const pid of processes()) {
            const command = commandOf(pid);
            if (command.includes(secret)) seen.add(`arguments: ${command}`);
            if (/^\S*python/.test(command) && environmentOf(pid).includes(secret)) seen.add(`environment: ${command}`);
        }
        return running.isOver;
    });
    return [...seen];
}

/** The workers whose sockets are in a folder, and the programs that they have forked. */
export function workersIn(runtime: string): number[] {
    return processes().filter((pid) => commandOf(pid).includes(`runner.py worker ${runtime}/`));
}

export async function endWorkers(runtime: string): Promise<void> {
    for (const pid of workersIn(runtime)) process.kill(pid);
    await eventually("the workers end", () => workersIn(runtime).length === 0);
}

/** @throws an error when there is none: to the system, 0 is this test and all that it has started. */
export function killNow(pid: number | undefined): void {
    if (pid === undefined || pid === 0) throw new Error("there is no process to kill");
    process.kill(pid, "SIGKILL");
}

export function isAlive(pid: number): boolean {
    const [state] = statOf(pid);
    return state !== undefined && !"ZX".includes(state);
}

/** The fields of /proc/PID/stat from the third on: state, parent, … */
function statOf(pid: number): string[] {
    const stat = read(pid, "stat");
    return stat === "" ? [] : stat.slice(stat.lastIndexOf(")") + 2).split(" ");
}

function read(pid: number, name: string): string {
    try {
        return fs.readFileSync(`/proc/${pid}/${name}`, "utf8");
    } catch {
        return "";
    }
}
