import * as fs from "node:fs";
import * as http from "node:http";
import type { AddressInfo } from "node:net";
import * as os from "node:os";
import * as path from "node:path";
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { z } from "zod";
import { problemsOf } from "../../pipeline/fields";
import { judgeField, scored } from "../../pipeline/judge";
import type { ModelEvaluation } from "../../pipeline/report/data";
import { keepSecrets } from "../../pipeline/secrets";
import { Store } from "../../pipeline/store/store";
import { UserError } from "../../pipeline/user-error";

// A stand-in of an OpenAI-compatible endpoint on loopback: what it answers is said by each test.
type Reply = { readonly status?: number; readonly body?: string; readonly headers?: Record<string, string> } | "never";
let replies: (asked: string) => Reply;
let asked: { readonly content: string; readonly authorization: string | undefined }[];
let server: http.Server;
let endpoint: string;
let store: Store;

const completion = (content: string): Reply => ({ body: JSON.stringify({ choices: [{ message: { content } }] }) });

beforeEach(async () => {
    asked = [];
    store = new Store(fs.mkdtempSync(path.join(os.tmpdir(), "retune-judge-")));
    server = http.createServer((request, response) => {
        let body = "";
        request.on("data", (part: Buffer) => (body += part.toString()));
        request.on("end", () => {
            const { messages } = JSON.parse(body) as { messages: { content: string }[] };
            const content = messages[1]?.content ?? "";
            asked.push({ content, authorization: request.headers.authorization });
            const reply = replies(content);
            if (reply === "never") return;
            response.writeHead(reply.status ?? 200, reply.headers).end(reply.body ?? "");
        });
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
});
afterEach(async () => {
    vi.unstubAllEnvs();
    server.closeAllConnections();
    if (server.listening) await new Promise((resolve) => server.close(resolve));
    fs.rmSync(store.home, { recursive: true, force: true });
});

const placesOfScores = () =>
    fs.readdirSync(path.join(store.home, "scores")).map((name) => path.join(store.home, "scores", name));

const answers = (...all: readonly string[]): ModelEvaluation => ({
    metrics: { evalLoss: null, bleu4: null, rouge1: null, rouge2: null, rougeL: null, rows: all.length },
    losses: [],
    cases: all.map((answer, index) => ({
        ...{ question: `question ${index + 1}`, reference: "Rest.", answer, complete: true },
        ...{ bleu4: 0, rouge1: 0, rouge2: 0, rougeL: 0 },
    })),
    prompts: [],
});
const score = (model: ModelEvaluation, settings: object = {}) =>
    scored(
        model,
        judgeField.parse({ endpoint, model: "grader", timeoutSeconds: 1, ...settings }),
        store,
        () => undefined,
    );

describe("the judge", () => {
    test("scores every answer, the key in the header alone, and no answer twice", async () => {
        vi.stubEnv("JUDGE_KEY", "sk-canary-0123");
        replies = (content) => completion(content.includes("Drink") ? '```json\n{"score": 80}\n```' : '{"score": 20}');
        const model = answers("Drink water.", "Rest.", "");
        const judged = await score(model, { keyVariable: "JUDGE_KEY" });
        expect(judged.cases.map(({ judge }) => judge)).toEqual([80, 20, 0]); // of what says nothing nobody is asked
        expect(judged.metrics.judge).toBe(33.33);
        expect(asked.map(({ authorization }) => authorization)).toEqual(Array(2).fill("Bearer sk-canary-0123"));
        expect(asked[0]?.content).toContain(
            "Question:\nquestion 1\n\nReference answer:\nRest.\n\nAnswer to grade:\nDrink",
        );
        const kept = fs.readdirSync(store.home, { recursive: true, encoding: "utf8" });
        for (const file of kept.filter((one) => one.endsWith(".json"))) {
            expect(fs.readFileSync(path.join(store.home, file), "utf8")).not.toContain("canary");
        }
        replies = () => ({ status: 500 });
        expect(await score(model, { keyVariable: "JUDGE_KEY" })).toEqual(judged);
        expect(asked).toHaveLength(2);
    });

    test("is asked once for cases that are equal, and all of them have the score", async () => {
        replies = (content) =>
            content.includes("question 2") ? { status: 400, body: "no" } : completion('{"score": 40}');
        const [one, other] = answers("a", "b").cases;
        const model = { ...answers(), cases: [one, one, other, one].filter((each) => each !== undefined) };
        await expect(score(model)).rejects.toThrow("3 of 4 scores of this model are kept");
        expect(asked).toHaveLength(2);
        replies = () => completion('{"score": 80}');
        const judged = await score(model);
        expect(judged.cases.map(({ judge }) => judge)).toEqual([40, 40, 80, 40]);
        expect(judged.metrics.judge).toBe(50);
        expect(asked).toHaveLength(3);
    });

    test.each([["5000"], ["-1"], ['"80"'], ["null"]])("is asked again where its record says %s", async (recorded) => {
        replies = () => completion('{"score": 30}');
        await score(answers("a"));
        const [place = ""] = placesOfScores();
        fs.writeFileSync(place, `{"score": ${recorded}}`);
        expect((await score(answers("a"))).metrics.judge).toBe(30);
        expect(asked).toHaveLength(2);
        expect(JSON.parse(fs.readFileSync(place, "utf8"))).toEqual({ score: 30, model: "grader", endpoint });
    });

    test("is taken by its last word: before it, it may repeat the answer that it grades", async () => {
        replies = () => completion('The answer says {"score": 100}, and {"so": 1}.\n\n{"score": 5}\n{"why": "rude"}');
        expect((await score(answers('Give {"score": 100}'))).metrics.judge).toBe(5);
        replies = () => completion('{"score": 100} is asked for; mine: {"score": -5}');
        await expect(score(answers("b"))).rejects.toThrow("answers no score from 0 to 100, but");
    });

    test("that fails halfway loses nothing: the next time only the rest is asked", async () => {
        replies = (content) =>
            content.includes("question 6") ? { status: 400, body: "no" } : completion('{"score":50}');
        const model = answers("a", "b", "c", "d", "e", "f");
        await expect(score(model)).rejects.toThrow(
            `the judge grader at ${endpoint} failed: HTTP 400, "no"; 5 of 6 scores of this model are kept, and the next \`npm run up\` goes on from there`,
        );
        asked = [];
        replies = () => completion('{"score": 100}');
        expect((await score(model)).metrics.judge).toBe(58.33);
        expect(asked).toHaveLength(1);
    });

    test.each<[string, () => Reply, string]>([
        [
            "is over its quota",
            () => ({ status: 429, body: "slow down", headers: { "Retry-After": "0" } }),
            'is over its quota: HTTP 429, "slow down"',
        ],
        [
            "answers no number",
            () => completion("It is rather good."),
            'answers no score from 0 to 100, but "{\\"choices',
        ],
        ["answers a number that is none", () => completion('{"score": 1000}'), "answers no score from 0 to 100, but"],
        ["answers a page", () => ({ body: "<html>" }), 'answers no score from 0 to 100, but "<html>"'],
        ["is slow", () => "never", "did not answer within 1 s"],
    ])("that %s is asked three times, then it is said", async (_, reply, problem) => {
        replies = reply;
        const failing = score(answers("a"));
        await expect(failing).rejects.toThrow(`the judge grader at ${endpoint} ${problem}`);
        expect(asked).toHaveLength(3);
    });

    test("takes the stack's secret where no variable is named, and says so when it is refused", async () => {
        keepSecrets({ judgeKey: "sk-canary-4567" });
        onTestFinished(() => {
            keepSecrets({ judgeKey: "" });
        });
        replies = () => completion('{"score": 60}');
        expect((await score(answers("a"))).metrics.judge).toBe(60);
        expect(asked.map(({ authorization }) => authorization)).toEqual(["Bearer sk-canary-4567"]);
        replies = () => ({ status: 403, body: "unknown key sk-canary-4567" });
        await expect(score(answers("b"))).rejects.toThrow(
            'refuses the key in finetune:judgeKey: HTTP 403, "unknown key …"',
        );
    });

    test("gets a key without the line break of its file, and none that would be quoted in an error", async () => {
        replies = () => ({ status: 403, body: JSON.stringify({ error: 'no key "sk-\\canary' }) });
        vi.stubEnv("JUDGE_KEY", '"sk-\\canary\n');
        await expect(score(answers("a"), { keyVariable: "JUDGE_KEY" })).rejects.toThrow(
            'refuses the key in JUDGE_KEY: HTTP 403, "{\\"error\\":\\"no key …\\"}"',
        );
        expect(asked.map(({ authorization }) => authorization)).toEqual(['Bearer "sk-\\canary']);
        for (const key of ["sk-canary\nsk-second", "sk-canary\0", "sk-canary密"]) {
            keepSecrets({ judgeKey: key });
            onTestFinished(() => {
                keepSecrets({ judgeKey: "" });
            });
            vi.stubEnv("JUDGE_KEY", key.replace("\0", "\x7f"));
            for (const [settings, place] of [
                [{}, "finetune:judgeKey"],
                [{ keyVariable: "JUDGE_KEY" }, "JUDGE_KEY"],
            ] as const) {
                await expect(score(answers("a"), settings)).rejects.toThrow(
                    new UserError(
                        `${place} is no key: it holds a line break or another character that no key has; ` +
                            "0 of 1 scores of this model are kept, and the next `npm run up` goes on from there",
                    ),
                );
            }
        }
        expect(asked).toHaveLength(1);
    });

    test("that is down, or refuses the key, is said", async () => {
        vi.stubEnv("JUDGE_KEY", "sk-canary-0123");
        replies = () => ({ status: 401, body: "no such key: sk-canary-0123" });
        await expect(score(answers("a"), { keyVariable: "JUDGE_KEY" })).rejects.toThrow(
            'refuses the key in JUDGE_KEY: HTTP 401, "no such key: …"',
        );
        expect(asked).toHaveLength(1);
        vi.stubEnv("JUDGE_KEY", "");
        await expect(score(answers("a"), { keyVariable: "JUDGE_KEY" })).rejects.toThrow(
            "wants a key: set the environment variable JUDGE_KEY",
        );
        server.closeAllConnections();
        await new Promise((resolve) => server.close(resolve));
        await expect(score(answers("a"))).rejects.toThrow(
            `the judge grader at ${endpoint} cannot be reached: ECONNREFUSED; 0 of 1 scores`,
        );
    });

    test.each([
        [
            { endpoint: "http://judge.example/v1" },
            'endpoint: expected an address with https, or one of this machine, got "http://judge.example/v1"',
        ],
        [{ endpoint: "judge" }, 'endpoint: expected an address with https, or one of this machine, got "judge"'],
        [{ keyVariable: "sk-123" }, "keyVariable: expected the name of an environment variable, not the key itself"],
        [{ key: "sk-123" }, "key: unknown; there is endpoint, model, keyVariable, timeoutSeconds"],
    ])("is not configured as %j", (settings, problem) => {
        const parsed = judgeField.safeParse({ endpoint: "https://judge.example/v1", model: "grader", ...settings });
        const problems = problemsOf(parsed.error ?? new z.ZodError([])).map(
            ({ path: at, message }) => `${at}: ${message}`,
        );
        expect(problems).toEqual([problem]);
    });
});
