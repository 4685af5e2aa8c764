// Processes beyond their number: a number is given out again, a number with its start time is not.
"use strict";
const { execFileSync } = require("node:child_process");
const fs = require("node:fs");
const { setTimeout: sleep } = require("node:timers/promises");

/** When a process started, as digits; undefined when there is no such process or only its zombie is left. */
function startTime(pid) {
    if (process.platform === "linux") {
        let stat;
        try {
            stat = fs.readFileSync(`/proc/${pid}/stat`, "utf8");
        } catch {
            return undefined;
        }
        // The command's name comes second, in parentheses, and may hold blanks and parentheses itself.
        const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
        return fields[0] === "Z" || fields[0] === "X" ? undefined : fields[19];
    }
    try {
        const started = execFileSync("ps", ["-o", "lstart=", "-p", String(pid)], {
            encoding: "utf8",
            env: { ...process.env, LC_ALL: "C" },
            stdio: ["ignore", "pipe", "ignore"],
        });
        return String(Date.parse(started.trim()));
    } catch {
        return undefined;
    }
}

function signalGroup(pid, signal) {
    try {
        process.kill(-pid, signal);
    } catch (error) {
        if (error.code !== "ESRCH" && error.code !== "EPERM") throw error;
    }
}

/** Ends a process that leads a group of its own, with all of the group; returns when the leader is gone. */
async function endGroup(pid) {
    const started = startTime(pid);
    if (started === undefined) return;
    signalGroup(pid, "SIGTERM");
    const patience = Date.now() + 5000;
    while (startTime(pid) === started) {
        if (Date.now() > patience) signalGroup(pid, "SIGKILL");
        await sleep(50);
    }
}

module.exports = { startTime, endGroup };
