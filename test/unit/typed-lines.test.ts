import { spawn } from "node:child_process";
import * as path from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { eventually } from "../engine/processes";

const project = path.join(import.meta.dirname, "..", "..");

/**
 * Asks for lines at a terminal of its own, and is busy after `busy` until it is told or interrupted, or nothing more can
 * come. At first it reads nothing, as on a machine that has much else to do; then it says how many lines it holds.
 */
const LOOP = `
require("./scripts/ts.cjs");
const { TypedLines } = require("./scripts/typed-lines.ts");
(async () => {
    process.stdout.write("process " + process.pid + "\\n");
    const typed = new TypedLines();
    for await (const line of typed) {
        if (line === "end") break;
        process.stdout.write("got <" + line + "> raw " + process.stdin.isRaw + "\\n");
        if (line !== "busy") continue;
        const stopped = await new Promise((resolve) => {
            let held = 0;
            const timer = setInterval(() => {
                if (typed.ahead.length > held) process.stdout.write("holds " + (held = typed.ahead.length) + "\\n");
            }, 20);
            const free = (stopped) => (clearInterval(timer), resolve(stopped));
            process.once("SIGINT", () => free(true)).once("SIGUSR1", () => free(false));
            process.stdin.once("end", () => free(false));
            Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300);
        });
        process.stdout.write("\\nfree" + (stopped ? ", forgotten " + typed.forget() : "") + "\\n");
    }
    process.stdout.write("over\\n");
})();
`;

function terminal() {
    const typed = path.join("test", "engine", "typed.py");
    const child = spawn("python3", [typed, process.execPath, "-e", LOOP], { cwd: project });
    let shown = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => (shown += text));
    const ended = new Promise((resolve) => child.on("close", resolve));
    onTestFinished(async () => {
        child.kill();
        await ended;
    });
    return {
        type: (text: string) => child.stdin.write(text),
        free: () => process.kill(Number(/^process (\d+)/.exec(shown)?.[1]), "SIGUSR1"),
        until: (text: string, times = 1) =>
            eventually(`${text} ${times} times`, () => shown.split(text).length > times, 15),
        /** What the loop said, without what was typed. */
        said: async (): Promise<string[]> => {
            await ended;
            return shown.split(/\r?\n/).filter((line) => /^(got|free|over|modes|exit)/.test(line));
        },
        shown: () => shown,
    };
}

const PROMPT = "\u001b[0J> \u001b[3G";
const AS_IT_WAS = ["over", "modes as before", "exit 0"];

describe("lines that are typed at a terminal", () => {
    test("all at once are the next lines, and half a line is at the prompt", async () => {
        const { type, until, said } = terminal();
        await until(PROMPT);
        type("one\rtwo\rthree\rha");
        await until(`${PROMPT}ha`);
        type("lf\rend\r");
        expect(await said()).toEqual([
            ...["one", "two", "three", "half"].map((line) => `got <${line}> raw false`),
            ...AS_IT_WAS,
        ]);
    });

    test("between two prompts are the next lines, seen at theirs, and then at the up key", async () => {
        const { type, free, until, said, shown } = terminal();
        await until(PROMPT);
        type("busy\r");
        await until("got <busy>");
        type("感冒了\rtwo\rha");
        await until("holds 2");
        free();
        await until(`${PROMPT}ha`);
        expect(shown()).toContain("free\r\n\r\u001b[J> 感冒了\r\ngot <感冒了> raw false\r\n\r\u001b[J> two\r\n");
        type("lf\r\u001b[A\u001b[A\r");
        await until("got <two>", 2);
        type("end\r");
        expect(await said()).toEqual([
            ...["got <busy> raw false", "free"],
            ...["感冒了", "two", "half", "two"].map((line) => `got <${line}> raw false`),
            ...AS_IT_WAS,
        ]);
    });

    test("are forgotten with what is interrupted, but for the up key", async () => {
        const { type, until, said } = terminal();
        await until(PROMPT);
        type("busy\r");
        await until("got <busy>");
        type("one\rtwo\r");
        await until("two\r\n");
        type("\u0003");
        await until("free, forgotten 2");
        await until(PROMPT, 2);
        type("\u001b[A\r");
        await until("got <two>");
        type("end\r");
        expect(await said()).toEqual([
            ...["got <busy> raw false", "free, forgotten 2", "got <two> raw false"],
            ...AS_IT_WAS,
        ]);
    });

    test("end with Ctrl-D at the prompt, or in between after those before it, and with Ctrl-C at the prompt", async () => {
        for (const [typed, meanwhile] of [
            ["\u0004", undefined],
            ["half\u0003", undefined],
            ["busy\r", "one\r\u0004"],
        ] as const) {
            const { type, until, said } = terminal();
            await until(PROMPT);
            type(typed);
            if (meanwhile !== undefined) {
                await until("got <busy>");
                type(meanwhile);
            }
            const got = meanwhile === undefined ? [] : ["got <busy> raw false", "free", "got <one> raw false"];
            expect(await said()).toEqual([...got, ...AS_IT_WAS]);
        }
    });
});
