// What every step of set-up needs: say what begins and what it came to, run programs with their output in a log, end
// them on Ctrl-C, and turn a failure into something a person can act on.
"use strict";
const { execFile, spawn } = require("node:child_process");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const { cache } = require("../locations.cjs");
const { acquire } = require("./lock.cjs");
const { endGroup } = require("./processes.cjs");
const { UserError } = require("./user-error.cjs");

const quietFor = 10_000;
const signEvery = 30_000;

function duration(milliseconds) {
    const seconds = Math.round(milliseconds / 1000);
    if (seconds < 1) return "under 1 s";
    return seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}

function size(bytes) {
    return bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : `${Math.round(bytes / 1e6)} MB`;
}

/**
 * The last lines of the last program in a log as a terminal would show them, without the names and passwords that
 * addresses can hold.
 */
function lastLines(file, count) {
    const handle = fs.openSync(file, "r");
    try {
        const { size: length } = fs.fstatSync(handle);
        const tail = Buffer.alloc(Math.min(length, 16_384));
        fs.readSync(handle, tail, 0, tail.length, length - tail.length);
        const lines = tail
            .toString("utf8")
            .replace(/\x1b\[[\d;?]*[A-Za-z]/g, "")
            .replace(/:\/\/[^\s/@]+@/g, "://")
            .split(/[\r\n]+/)
            // Blank lines, and the stack traces that npm prints of itself, say nothing to a person.
            .filter((line) => !/^\s*$|^(npm error)?\s+at \S.*:\d+:\d+/.test(line));
        return lines.slice(lines.findLastIndex((line) => line.startsWith("$ ")) + 1).slice(-count);
    } finally {
        fs.closeSync(handle);
    }
}

const noSpace = /ENOSPC|EDQUOT|no space left on device|disk quota exceeded/i;
const noNetwork =
    /ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|dns error|no such host|temporary failure in name resolution|error sending request|dial tcp|failed to fetch|NewConnectionError|tcp connect error/i;
const wrongHash = /hash mismatch|do not match the hashes|EINTEGRITY|SECURITY ERROR/i;

function adviceFor(output) {
    if (noSpace.test(output)) {
        return `The disk is full: make room, or set RETUNE_CACHE to a folder on a larger disk (now ${cache()}). Then start again.`;
    }
    if (wrongHash.test(output)) {
        return "What was downloaded is not what the lock file names: look at the package index or mirror in use, then start again.";
    }
    if (noNetwork.test(output)) {
        return "The network gave way: check it, the proxy (HTTPS_PROXY) and the package index in use, then start again; finished downloads are kept.";
    }
    return "See what the log says, then start again: set-up goes on from where it failed.";
}

const logFile = (name) => path.join(cache(), "logs", `set-up-${name}.log`);

function cacheError(error) {
    const reasons = {
        EACCES: "permission denied",
        EPERM: "permission denied",
        EROFS: "the file system is read-only",
        ENOTDIR: "part of its path is a file",
        EEXIST: "it is a file",
        ENOSPC: "the disk is full",
        EDQUOT: "the disk quota is used up",
    };
    const reason = reasons[error.code];
    // A write to an open file fails without naming it; set-up writes nowhere else than into the cache.
    const isOurs = error.path === undefined ? error.syscall === "write" : error.path.startsWith(cache());
    if (!reason || !isOurs) return error;
    return new UserError(
        `set-up: RETUNE_CACHE (${cache()}) cannot be written: ${reason}. Set RETUNE_CACHE to a folder that can, with 10 GB free.`,
    );
}

/** Asks a program a short question; its standard output, or undefined when there is no answer. */
function ask(command, args, env = process.env) {
    return new Promise((resolve) => {
        execFile(command, args, { env, timeout: 30_000 }, (error, stdout) => resolve(error ? undefined : stdout));
    });
}

function isExecutable(file) {
    try {
        fs.accessSync(file, fs.constants.X_OK);
        return fs.statSync(file).isFile();
    } catch {
        return false;
    }
}

/** All programs of a name on PATH, in its order: a shim may come before the program that works. */
function allOnPath(name) {
    return (process.env.PATH ?? "")
        .split(path.delimiter)
        .filter((folder) => path.isAbsolute(folder))
        .map((folder) => path.join(folder, name))
        .filter(isExecutable);
}

const onPath = (name) => allOnPath(name)[0];

async function diskUse(folder) {
    const kibibytes = Number.parseInt((await ask("du", ["-sk", folder])) ?? "", 10);
    return Number.isNaN(kibibytes) ? undefined : kibibytes * 1024;
}

/** A file that is there whole or not at all, also after a power cut. */
function writeWhole(file, content) {
    const temporary = `${file}.${process.pid}`;
    const handle = fs.openSync(temporary, "w");
    try {
        fs.writeSync(handle, content);
        fs.fsyncSync(handle);
    } finally {
        fs.closeSync(handle);
    }
    fs.renameSync(temporary, file);
}

/** Says that a step goes on: after a quiet start a line every half minute, on a terminal one line that counts. */
function showProgress(what, log, file, terminal) {
    const begun = Date.now();
    const text = () => {
        const last = (lastLines(file, 1)[0] ?? "").trim();
        const doing = last ? ` (${last.slice(0, 60)})` : "";
        return `set-up: ${what}: ${duration(Date.now() - begun)}${doing}`;
    };
    const timer = setInterval(
        () => {
            if (!terminal) log(text());
            else if (Date.now() - begun > quietFor) {
                terminal.write(`\r\x1b[2K${text().slice(0, (terminal.columns || 80) - 1)}`);
            }
        },
        terminal ? 1000 : signEvery,
    );
    return () => {
        clearInterval(timer);
        if (terminal && Date.now() - begun > quietFor) terminal.write("\r\x1b[2K");
    };
}

/** Does `body` under the lock, with the means that steps work with. */
async function underLock(givenLog, body) {
    const log = givenLog ?? ((line) => process.stderr.write(`${line}\n`));
    const terminal = !givenLog && process.stderr.isTTY ? process.stderr : undefined;
    const running = new Map();
    let lock;
    let endProgress = () => undefined;
    let interrupted = false;

    const interrupt = async (signal) => {
        if (interrupted) return;
        interrupted = true;
        endProgress();
        log("set-up: interrupted; the next start goes on from here.");
        await Promise.all([...running.keys()].map(endGroup));
        for (const forget of running.values()) forget();
        lock?.release();
        process.exit(128 + os.constants.signals[signal]);
    };
    const signals = ["SIGINT", "SIGTERM", "SIGHUP"];
    for (const signal of signals) process.on(signal, interrupt);

    const work = {
        log,

        /** One step that a person sees: a line when it begins, a line when it is done. */
        async step({ name, what, announcement }, act) {
            const begun = Date.now();
            log(`set-up: ${announcement} …`);
            fs.mkdirSync(path.dirname(logFile(name)), { recursive: true });
            fs.writeFileSync(logFile(name), "", { mode: 0o600 });
            endProgress = showProgress(what, log, logFile(name), terminal);
            let bytes;
            try {
                bytes = await act();
            } finally {
                endProgress();
                endProgress = () => undefined;
            }
            log(`set-up: ${what} ready in ${duration(Date.now() - begun)}${bytes ? `, ${size(bytes)}` : ""}`);
        },

        /** Runs a program of a step to its end, output into the step's log; a failure shows the log's last lines. */
        async run(name, command, args, options = {}) {
            const file = logFile(name);
            const handle = fs.openSync(file, "a");
            let child;
            try {
                fs.writeSync(handle, `$ ${[command, ...args].join(" ")}\n`);
                // A group of its own: its children end with it, and Ctrl-C reaches it only through `interrupt`.
                child = spawn(command, args, {
                    cwd: options.cwd,
                    env: options.env ?? process.env,
                    detached: true,
                    stdio: ["ignore", handle, handle],
                });
            } finally {
                fs.closeSync(handle);
            }
            if (child.pid !== undefined) running.set(child.pid, lock.note(child.pid));
            const outcome = await new Promise((resolve) => {
                child.on("error", (error) => resolve(`could not be started: ${error.message}`));
                child.on("close", (code, signal) => {
                    if (code !== 0) resolve(signal ? `was ended by ${signal}` : `failed with exit code ${code}`);
                    else resolve(undefined);
                });
            });
            if (interrupted) await new Promise(() => undefined);
            running.get(child.pid)?.();
            running.delete(child.pid);
            if (outcome === undefined) return;
            const lines = lastLines(file, 15);
            throw new UserError(
                [
                    `set-up: ${options.what ?? path.basename(command)} ${outcome}. The last lines of ${file}:`,
                    ...lines.map((line) => `    ${line}`),
                    (options.advice ?? adviceFor)(lines.join("\n")),
                ].join("\n"),
            );
        },
    };

    try {
        fs.mkdirSync(cache(), { recursive: true });
        lock = await acquire(cache(), (pid) =>
            log(`set-up: another set-up (process ${pid}) is at work here; waiting for it …`),
        );
        return await body(work);
    } catch (error) {
        throw cacheError(error);
    } finally {
        if (!interrupted) {
            lock?.release();
            for (const signal of signals) process.off(signal, interrupt);
        }
    }
}

module.exports = { underLock, adviceFor, ask, diskUse, allOnPath, onPath, isExecutable, size, writeWhole };
