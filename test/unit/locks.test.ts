import { spawn } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, utimesSync, writeFileSync } from "node:fs";
import { hostname, userInfo } from "node:os";
import path from "node:path";
import { beforeEach, describe, expect, onTestFinished, test } from "vitest";
import { removeStaleLocks, type Lock } from "../../scripts/locks";
import { temporaryFolder } from "./datasets/folder";
import { read, until, zombie } from "./processes";

let state: string;
let folder: string;
/** Beyond the largest number that Linux gives out. */
const NO_PROCESS = 4_194_304;
const mine = { username: userInfo().username, hostname: hostname(), timestamp: new Date().toISOString() };

beforeEach(() => {
    state = temporaryFolder();
    folder = path.join(state, ".pulumi", "locks", "organization", "retune", "dev");
    mkdirSync(folder, { recursive: true });
});

// As the engine writes it (engine-trials.md, section 1d).
function lock(name: string, content: Partial<Lock> | string): string {
    const file = path.join(folder, `${name}.json`);
    writeFileSync(file, typeof content === "string" ? content : JSON.stringify(content));
    writeFileSync(`${file}.attrs`, "{}");
    return file;
}

const clear = () => removeStaleLocks(state, "retune", "dev");

describe("a stack's lock", () => {
    test("is removed, attributes and all, when its process is gone", () => {
        lock("a", { ...mine, pid: NO_PROCESS });
        expect(clear()).toEqual({ removed: 1, held: [] });
        expect(readdirSync(folder)).toEqual([]);
    });

    test("is removed when its process's number belongs to a later one, as after a reboot", () => {
        lock("a", { ...mine, pid: process.pid, timestamp: "2020-01-01T00:00:00Z" });
        expect(clear()).toEqual({ removed: 1, held: [] });
    });

    test("is removed when its process has died, although nobody has taken note of that", async () => {
        lock("a", { ...mine, pid: await zombie() });
        expect(clear()).toEqual({ removed: 1, held: [] });
    });

    test("stays while its process lives, however the clock was put forward meanwhile", async () => {
        const program = path.join(state, "pulumi");
        copyFileSync("/bin/sleep", program);
        const cli = spawn(program, ["600"], { stdio: "ignore" });
        onTestFinished(() => {
            cli.kill("SIGKILL");
        });
        const pid = cli.pid ?? 0;
        await until(() => read(`/proc/${pid}/stat`).includes("(pulumi)"));
        const held = { ...mine, pid, timestamp: "2020-01-01T00:00:00Z" };
        lock("a", held);
        expect(clear()).toEqual({ removed: 0, held: [held] });
        const ended = new Promise((resolve) => cli.once("close", resolve));
        cli.kill("SIGKILL");
        await ended;
        expect(clear()).toEqual({ removed: 1, held: [] });
    });

    test("stays while its process lives", () => {
        const held = { ...mine, pid: process.pid };
        const file = lock("a", held);
        expect(clear()).toEqual({ removed: 0, held: [held] });
        expect(existsSync(file)).toBe(true);
        expect(existsSync(`${file}.attrs`)).toBe(true);
    });

    test.each([
        ["another host", { hostname: "another-host" }],
        ["another user", { username: "somebody-else" }],
    ])("stays when it is of %s, about whose processes nothing is known", (_, other) => {
        const held = { ...mine, pid: NO_PROCESS, ...other };
        lock("a", held);
        expect(clear()).toEqual({ removed: 0, held: [held] });
        expect(readdirSync(folder)).toHaveLength(2);
    });

    test.each([
        ["nothing in it", ""],
        ["only its beginning", '{"pid":287'],
        ["something else in it", "null"],
        ["no pid", JSON.stringify(mine)],
        ["no time", JSON.stringify({ ...mine, pid: process.pid, timestamp: "" })],
    ])("stays with %s: the engine will judge", (_, content) => {
        lock("a", content);
        expect(clear().removed).toBe(0);
        expect(readFileSync(path.join(folder, "a.json"), "utf8")).toBe(content);
    });

    test("that was never written to its end goes when nobody can be writing it any more", () => {
        const writing = path.join(folder, "a.json.187c5a0e6e1f0a2b.tmp");
        writeFileSync(writing, "");
        expect(clear()).toEqual({ removed: 0, held: [] });
        expect(existsSync(writing)).toBe(true);
        const before = Date.now() / 1000 - 11;
        utimesSync(writing, before, before);
        expect(clear()).toEqual({ removed: 0, held: [] });
        expect(readdirSync(folder)).toEqual([]);
    });

    test("is judged one by one", () => {
        lock("gone", { ...mine, pid: NO_PROCESS });
        lock("live", { ...mine, pid: process.pid });
        lock("half", "{");
        expect(clear()).toMatchObject({ removed: 1, held: [{ pid: process.pid }] });
        expect(readdirSync(folder).filter((name) => name.endsWith(".json"))).toEqual(["half.json", "live.json"]);
    });

    test("of another stack is left alone", () => {
        lock("a", { ...mine, pid: NO_PROCESS });
        expect(removeStaleLocks(state, "retune", "prod")).toEqual({ removed: 0, held: [] });
        expect(removeStaleLocks(path.join(state, "nowhere"), "retune", "dev")).toEqual({ removed: 0, held: [] });
        expect(readdirSync(folder)).toHaveLength(2);
    });
});
