import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { commandOf, eventually, processes } from "./processes";
import { filesBelow, python, Rig, stageOf, type Answer, type Ended, type Running } from "./rig";

const QUESTION = "感冒了应该怎么办？";

describe("talking to a stack's models", () => {
    let rig: Rig;
    let answer: Answer;
    // Of an accepted model, and of one that was refused: it was trained to another instruction, and it thinks.
    beforeAll(async () => {
        rig = new Rig();
        rig.configure();
        const accepted = await rig.json("up");
        expect(accepted.code, accepted.stderr).toBe(0);
        const columns = { input: "question", output: "answer" };
        rig.configure({
            model: { enableThinking: true },
            dataset: { recipe: { instruction: { constant: "Answer in one sentence." }, columns } },
            evaluation: { gate: { conditions: [{ prompt: QUESTION, required: ["see a doctor"] }] } },
        });
        const refused = await rig.json("up");
        expect(refused.code, refused.stderr).toBe(3);
        answer = refused.answer;
    });
    afterAll(() => rig.dispose());

    /** Types into a terminal, or sends, what is said at the prompts. */
    const start = (program: string, script: string, ...args: string[]): Running =>
        rig.start(
            program,
            [
                ...(program === python ? [path.join("test", "engine", "typed.py"), process.execPath] : []),
                path.join("scripts", script),
                "--stack",
                "test",
                ...args,
            ],
            { stdin: true },
        );
    const attended = () => processes().filter((pid) => commandOf(pid).includes(`${rig.home}/attended/`));
    /** What the attended programs have left, once they have ended: until then their files come and go. */
    const left = () => ({ files: filesBelow(path.join(rig.home, "attended")), programs: attended() });
    const NOTHING = { files: [], programs: [] };

    test("two of them answer as they do in the evaluation, each asked as it was trained", async () => {
        const chat = start(process.execPath, "chat.cjs", "--compare", "incumbent", "--max-tokens", "8");
        const long = "头痛".repeat(5000);
        chat.child.stdin?.end(`${long}\n\n${QUESTION}\n/exit\nnever asked\n`);
        const { code, stdout, stderr }: Ended = await chat.ended;
        expect(code, stderr).toBe(0);
        const file = path.join(fileURLToPath(stageOf(answer, "evaluation").uri ?? ""), "evaluation.json");
        const { tuned, incumbent } = JSON.parse(fs.readFileSync(file, "utf8")) as Record<
            "tuned" | "incumbent",
            { prompts: { prompt: string; answer: string }[] }
        >;
        const answerOf = ({ prompts }: typeof tuned) => prompts.find(({ prompt }) => prompt === QUESTION)?.answer;
        // What each is sent has the length of its own instruction and template.
        const tooLong = (tokens: number): string =>
            `(the conversation is longer than the model's context: ${tokens} of 2048 tokens; /clear begins anew)`;
        const lines = stdout.trimEnd().split("\n");
        expect(lines.map((line) => line.replace(" … (--max-tokens)", "").trim())).toEqual([
            `[incumbent] ${tooLong(30_058)}`,
            `[tuned] ${tooLong(30_041)}`,
            `[incumbent] ${answerOf(incumbent) ?? "?"}`,
            `[tuned] ${answerOf(tuned) ?? "?"}`,
        ]);
        expect(stderr.split("\n").slice(0, -1)).toEqual([
            "starting LLaMA-Factory …",
            "loading the incumbent model …",
            "loading the tuned model …",
            "incumbent beside tuned of stack test, on this machine.",
            "Each question is put to the incumbent model as the rows of its data set are: 请根据患者的问题给出建议",
            "Each question is put to the tuned model as the rows of its data set are: Answer in one sentence.",
            "/clear begins anew, /exit or Ctrl-D ends, Ctrl-C ends an answer.",
        ]);
        expect(left()).toEqual(NOTHING);
    });

    test("on a terminal: side by side, Ctrl-C ends an answer and then the conversation, and the terminal is as it was", async () => {
        const chat = start(python, "chat.cjs", "--compare", "--max-tokens", "1500");
        const type = (text: string) => chat.child.stdin?.write(text);
        const prompts = () => chat.stdout.split("\u001b[0J> ").length - 1;
        await chat.until("the first prompt", () => prompts() > 0);
        type(`/clear\r${QUESTION}\r`);
        await chat.until("the heads of two columns", () => /\nbase {35}│ tuned\r\n─{38} │ ─{38}\r\n/.test(chat.stdout));
        type("And then?\r");
        await chat.until("what is typed ahead", () => chat.stdout.includes("And then?\r\n"));
        const before = prompts();
        type("\u0003");
        await chat.until("the next prompt", () => prompts() > before);
        expect(chat.stdout).toContain("(stopped)");
        expect(chat.stdout).toContain("(typed meanwhile and not asked: 1, at the up key)\r\n");
        type("\u0003");
        const { stdout } = await chat.ended;
        expect(stdout.endsWith("\nmodes as before\nexit 0\n"), stdout).toBe(true);
        expect(left()).toEqual(NOTHING);
    });

    test.each([
        ["chat.cjs", "loading the tuned model …", -2],
        ["webui.cjs", "starting LLaMA-Factory's web UI …", -2],
    ])("Ctrl-C while %s starts leaves the terminal and the target as they were", async (script, shown, code) => {
        const starting = start(python, script);
        await starting.until("it starts", () => starting.stdout.includes(shown));
        starting.child.stdin?.write("\u0003");
        const { stdout } = await starting.ended;
        expect(stdout.endsWith(`\nmodes as before\nexit ${code}\n`), stdout).toBe(true);
        await eventually("the target's program ends", () => attended().length === 0);
    });

    test("Ctrl-C ends `status --watch`, and the terminal is as it was", async () => {
        const watch = rig.start(
            python,
            [path.join("test", "engine", "typed.py"), process.execPath, path.join("scripts", "status.cjs"), "--watch"],
            { stdin: true },
        );
        await watch.until("the stack", () => watch.stdout.includes("stack test"));
        watch.child.stdin?.write("\u0003");
        const { stdout } = await watch.ended;
        expect(stdout.endsWith("\nmodes as before\nexit 0\n"), stdout).toBe(true);
    });

    test("that are not there is said", async () => {
        const chat = async (...args: string[]) => {
            const { code, stderr } = await rig.start(process.execPath, ["scripts/chat.cjs", ...args]).ended;
            return { code, said: stderr.split("\n")[0] };
        };
        expect(await chat("--stack", "other")).toEqual({
            code: 1,
            said: "there is no stack other in RETUNE_HOME (there is test): `npm run up -- --stack other`",
        });
        expect(await chat("--stack", "test", "--model", "best")).toEqual({
            code: 2,
            said: "option '--model <model>' argument 'best' is invalid. Allowed choices are base, incumbent, tuned.",
        });
        expect(await chat("--stack", "test", "--max-tokens", "0")).toEqual({
            code: 2,
            said: "--max-tokens wants a whole number from 1, got 0",
        });
    });

    test("in the web UI: on loopback, with a password, model and adapter chosen, and gone after Ctrl-C", async () => {
        const ui = start(python, "webui.cjs");
        const [, url = "", password = ""] = await ui.until("its address", () =>
            /^(http:\/\/127\.0\.0\.1:\d+) {2}user retune, password (\S+)\r$/m.exec(ui.stdout),
        );
        const look = spawnSync(python, ["-c", LOOK, url, password], { encoding: "utf8" });
        expect(look.stderr).toBe("");
        expect(JSON.parse(look.stdout)).toEqual({
            without: "AuthenticationError",
            model: ["retune-test"],
            template: "qwen3",
            adapters: ["tuned"],
        });
        expect(attended()).not.toEqual([]);
        ui.child.stdin?.write("\u0003");
        const { stdout } = await ui.ended;
        expect(stdout.endsWith("\nmodes as before\nexit 0\n"), stdout).toBe(true);
        expect(left()).toEqual(NOTHING);
    });
});

// What the page asks when it is opened, by gradio's own client.
const LOOK = `
import json, sys
from gradio_client import Client
url, password = sys.argv[1:]
try:
    Client(url, verbose=False)
    without = "open"
except Exception as error:
    without = type(error).__name__
page = Client(url, auth=("retune", password), verbose=False)
first = page.predict(api_name="/resume")
models = [one["value"] for one in first if str(one.get("value", "")).startswith("retune-")]
_, template = page.predict(models[0], api_name="/get_model_info")
adapters = page.predict(models[0], "lora", api_name="/list_checkpoints")["value"]
print(json.dumps({"without": without, "model": models, "template": template, "adapters": adapters}))
`;
