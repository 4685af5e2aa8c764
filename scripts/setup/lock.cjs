// One set-up at a time per RETUNE_CACHE.
//
// The lock is a folder that holds one file, named after its owner. It is taken by renaming a folder that already holds
// that file onto it, which the system refuses while the lock's folder is not empty. A dead owner's lock is opened by
// removing exactly his file, so however many take it over at once, none can remove the file of a live owner.
"use strict";
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const { setTimeout: sleep } = require("node:timers/promises");
const { startTime, endGroup } = require("./processes.cjs");

// On another machine that shares the folder, a process cannot be looked up: there the owner's sign of life counts.
const signOfLifeEvery = 10_000;
const deadAfter = 90_000;

const host = os.hostname().replace(/[^\w.]/g, "_");
const entryOf = (kind, pid) => `${kind}-${pid}-${startTime(pid) ?? 0}-${host}`;

function parse(entry) {
    const [, kind, pid, started, where] = /^(owner|child)-(\d+)-(\d+)-(.+)$/.exec(entry) ?? [];
    return { entry, kind, pid: Number(pid), started, here: where === host };
}

function isAlive(folder, { entry, pid, started, here }) {
    if (here) return startTime(pid) === started;
    try {
        return Date.now() - fs.statSync(path.join(folder, entry)).mtimeMs < deadAfter;
    } catch {
        return false;
    }
}

/** What a killed set-up left behind: its children go on without it and would write where the next set-up writes. */
async function evict(folder, entries) {
    for (const { kind, pid, started, here } of entries) {
        if (kind === "child" && here && startTime(pid) === started) await endGroup(pid);
    }
    for (const { entry } of entries) fs.rmSync(path.join(folder, entry), { force: true });
}

function list(folder) {
    try {
        return fs.readdirSync(folder).map(parse);
    } catch (error) {
        if (error.code === "ENOENT") return [];
        throw error;
    }
}

function tryToTake(folder, own) {
    const offer = `${folder}.${process.pid}`;
    fs.rmSync(offer, { recursive: true, force: true });
    fs.mkdirSync(offer);
    fs.writeFileSync(path.join(offer, own), "");
    try {
        fs.renameSync(offer, folder);
        return true;
    } catch (error) {
        fs.rmSync(offer, { recursive: true, force: true });
        if (error.code === "ENOTEMPTY" || error.code === "EEXIST") return false;
        throw error;
    }
}

/** Waits for the lock. `waitsFor` is called once, with the owner's process number, when there is a wait. */
async function acquire(cache, waitsFor) {
    const folder = path.join(cache, "setup.lock");
    const own = entryOf("owner", process.pid);
    let said = false;
    while (!tryToTake(folder, own)) {
        const entries = list(folder);
        const owner = entries.find((entry) => entry.kind === "owner" && isAlive(folder, entry));
        if (!owner) {
            await evict(folder, entries);
            continue;
        }
        if (!said) waitsFor(owner.pid);
        said = true;
        await sleep(200);
    }
    const remove = (entry) => fs.rmSync(path.join(folder, entry), { force: true });
    const signsOfLife = setInterval(() => {
        const now = new Date();
        fs.utimes(path.join(folder, own), now, now, () => undefined);
    }, signOfLifeEvery).unref();
    return {
        /** Notes a child, so that whoever takes over from a killed owner can end it; returns the way to forget it. */
        note(pid) {
            const entry = entryOf("child", pid);
            fs.writeFileSync(path.join(folder, entry), "");
            return () => remove(entry);
        },
        release() {
            clearInterval(signsOfLife);
            remove(own);
            try {
                fs.rmdirSync(folder);
            } catch {
                // The next one has it already.
            }
        },
    };
}

module.exports = { acquire };
