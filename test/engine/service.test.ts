import * as fs from "node:fs";
import * as path from "node:path";
import OpenAI, { type APIError } from "openai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { digestOfFiles, listFiles, type JsonObject } from "../../pipeline/identity";
import { reportSchema } from "../../pipeline/report/data";
import { Store } from "../../pipeline/store/store";
import { freePort } from "../free-port";
import { childrenOf, commandOf, environmentOf, eventually, isAlive, processes } from "./processes";
import { all, filesBelow, python, Rig, type Answer } from "./rig";

// The exported tiny Qwen3 behind LLaMA-Factory's own API, asked by OpenAI's own client.
describe("the service", () => {
    let rig: Rig;
    let port: number;
    let key: string;

    beforeAll(async () => {
        rig = new Rig();
        port = await freePort();
    });
    afterAll(async () => {
        await rig.run("destroy", "--json");
        await rig.dispose();
    });

    const folder = (): string => path.join(rig.home, "services", String(port));
    const configure = (service: JsonObject = {}, more: JsonObject = {}): void => {
        rig.configure({ service: { enabled: true, port, ...service }, ...more });
    };
    const client = (options: { readonly apiKey?: string } = {}): OpenAI =>
        new OpenAI({ baseURL: `http://127.0.0.1:${port}/v1`, apiKey: key, maxRetries: 0, ...options });
    const question = {
        model: "retune",
        messages: [{ role: "user" as const, content: "感冒了应该怎么办？" }],
        max_tokens: 8,
    };
    /** The front and the processes of its models. */
    const serving = (): number[] => {
        const front = processes().find((pid) => commandOf(pid).endsWith(`front.py ${folder()} `));
        return front === undefined ? [] : [front, ...childrenOf(front)];
    };
    const service = (answer: Answer) => answer.stages.find(({ name }) => name === "service");
    /** What the newest page of the stack says of it. */
    const reported = () => {
        const history = path.join(rig.home, "history", "test");
        const newest = Math.max(...fs.readdirSync(history).flatMap((name) => (/^\d+$/.test(name) ? Number(name) : [])));
        const file = path.join(history, String(newest), "report.json");
        const { stages, service: served } = reportSchema.parse(JSON.parse(fs.readFileSync(file, "utf8")));
        const { action, reasons } = stages.find(({ kind }) => kind === "Service") ?? {};
        return { newest, action, reasons, ...served };
    };

    /** An export whose digest is right and whose weights have lost their end; answers the digest. */
    async function brokenExport(): Promise<string> {
        const whole = rig.runs("Export")[0]?.folder ?? "";
        const copy = path.join(rig.home, "broken");
        fs.cpSync(path.join(whole, "out"), copy, { recursive: true, dereference: true });
        const weights = path.join(copy, "model.safetensors");
        fs.truncateSync(weights, fs.statSync(weights).size - 100);
        const files = await listFiles(copy);
        await new Store(rig.home).keep(copy, digestOfFiles(files), files);
        return digestOfFiles(files);
    }

    /** One answer, streamed or not, and which model it is of; a stream has to be whole, and of one answer. */
    async function ask(stream: boolean): Promise<{ readonly model: string; readonly text: string }> {
        const greedy = { ...question, max_tokens: 16, temperature: 0 };
        const modelOf = (response: Response) => response.headers.get("x-retune-model") ?? "";
        if (!stream) {
            const { data, response } = await client().chat.completions.create(greedy).withResponse();
            return { model: modelOf(response), text: data.choices[0]?.message.content?.trim() ?? "" };
        }
        const { data, response } = await client()
            .chat.completions.create({ ...greedy, stream })
            .withResponse();
        let text = "";
        const ids = new Set<string>();
        const ends: string[] = [];
        for await (const { id, choices } of data) {
            ids.add(id);
            text += choices[0]?.delta.content ?? "";
            if (choices[0]?.finish_reason) ends.push(choices[0].finish_reason);
        }
        if (ids.size !== 1 || ends.join() !== "stop")
            throw new Error(`a stream of ${ids.size} answers ended: ${ends.join()}`);
        return { model: modelOf(response), text: text.trim() };
    }

    /**
     * Four clients, two of them streaming, ask again and again until `work` is done, and once more. Answers what failed,
     * which models each client saw, without repetitions in a row, and what each model said, without repetitions.
     */
    async function asking<Value>(work: Promise<Value>) {
        const failures: string[] = [];
        const said: Record<string, string[]> = {};
        let answers = 0;
        let isDone = false;
        const clients = [false, true, false, true].map(async (stream) => {
            const models: string[] = [];
            for (let isLast = false; !isLast;) {
                isLast = isDone;
                try {
                    const { model, text } = await ask(stream);
                    if (models.at(-1) !== model) models.push(model);
                    said[model] = [...new Set([...(said[model] ?? []), text])];
                    answers += 1;
                } catch (error) {
                    failures.push(`${stream ? "streaming" : "whole"}: ${String(error)}`);
                }
                await new Promise((resolve) => setTimeout(resolve, 100));
            }
            return models;
        });
        const value = await work.finally(() => (isDone = true));
        return { failures, models: await Promise.all(clients), said: Object.values(said), answers, value };
    }

    test("comes up with the stack and answers the official client, streaming and not", async () => {
        configure();
        const { code, answer, stderr } = await rig.json("up");
        expect(code, stderr).toBe(0);
        expect(service(answer)).toMatchObject({
            action: "ran",
            uri: `http://127.0.0.1:${port}/v1`,
            facts: { backend: "huggingface", port },
        });
        expect(answer.outputs["api"]).toBe(`http://127.0.0.1:${port}/v1`);
        const address = `http://127.0.0.1:${port}/v1`;
        const file = path.join(folder(), "key");
        expect(reported()).toEqual({ newest: 1, action: "ran", reasons: [], address, keyFile: file });
        const { stdout } = await rig.start(process.execPath, ["scripts/api.cjs", "--stack", "test"]).ended;
        expect(stdout).toBe(`http://127.0.0.1:${port}/v1  key in ${file}\n`);
        key = fs.readFileSync(file, "utf8").trim();

        const whole = await client().chat.completions.create({ ...question, temperature: 0 });
        expect(typeof whole.choices[0]?.message.content).toBe("string");
        expect(whole.usage?.completion_tokens).toBeGreaterThan(0);
        const stream = await client().chat.completions.create({ ...question, temperature: 0, stream: true });
        let streamed = "";
        let finished: string | null | undefined;
        for await (const { choices } of stream) {
            streamed += choices[0]?.delta.content ?? "";
            finished = choices[0]?.finish_reason ?? finished;
        }
        expect(streamed.trim()).toBe(whole.choices[0]?.message.content?.trim());
        expect(finished).toBe("stop");
        const models = await client().models.list();
        expect(models.data.map(({ id }) => id)).toEqual([`retune-${service(answer)?.digest?.slice(0, 12) ?? ""}`]);
    });

    test("wants its key, which is in its own file and nowhere else", async () => {
        const said = await client({ apiKey: "another" })
            .chat.completions.create(question)
            .catch((error: unknown) => error);
        expect(said).toBeInstanceOf(OpenAI.AuthenticationError);
        expect((said as Error).message).toBe("401 this service wants its key: Authorization: Bearer …");
        expect((await fetch(`http://127.0.0.1:${port}/docs`)).status).toBe(401);

        const file = path.join(folder(), "key");
        expect(fs.statSync(file).mode & 0o777).toBe(0o600);
        const files = filesBelow(rig.home).filter((one) => fs.statSync(path.join(rig.home, one)).isFile());
        const holding = files.filter((one) => fs.readFileSync(path.join(rig.home, one)).includes(key));
        expect(holding).toEqual([path.relative(rig.home, file)]);
        for (const pid of serving()) expect(`${commandOf(pid)} ${environmentOf(pid)}`).not.toContain(key);
    });

    test("listens on loopback only", () => {
        const pids = serving();
        expect(pids).toHaveLength(2);
        expect(pids.flatMap(listening)).toEqual([`127.0.0.1:${port}`]);
    });

    test("is not touched by an up with nothing to do", async () => {
        const before = serving();
        const began = Date.now();
        const { answer } = await rig.json("up");
        expect(answer.stages.map(({ action }) => action)).toEqual(Array(7).fill("unchanged"));
        expect(Date.now() - began).toBeLessThan(10_000);
        expect(serving()).toEqual(before);
    });

    test("refuses what its model cannot take, and goes on", async () => {
        const long = { ...question, messages: [{ role: "user" as const, content: "头痛".repeat(5000) }] };
        for (const stream of [false, true]) {
            const said = await client()
                .chat.completions.create({ ...long, stream })
                .catch((error: unknown) => error);
            expect(said).toBeInstanceOf(OpenAI.BadRequestError);
            expect((said as APIError).code).toBe("context_length_exceeded");
            expect((said as Error).message).toMatch(
                /^400 the request is longer than the model's context: \d+ tokens of \d+$/,
            );
        }
        expect((await client().chat.completions.create(question)).choices).toHaveLength(1);
    });

    test("goes on with the old model while a new one cannot be loaded: no request fails", async () => {
        const program = path.join(rig.project, "index.ts");
        const source = fs.readFileSync(program, "utf8");
        const broken = await brokenExport();
        const asked = source.replace(
            "{ target, model: merged.digest, ...chat",
            `{ target, model: "${broken}", ...chat`,
        );
        expect(asked).not.toBe(source);
        fs.writeFileSync(program, asked);
        const before = serving();
        const { failures, models, said, answers, value } = await asking(rig.json("up"));
        fs.writeFileSync(program, source);
        expect(value.code).toBe(1);
        expect(value.actions).toEqual({ ...all("unchanged"), report: "skipped", service: "failed" });
        expect(service(value.answer)?.error).toMatch(
            /^the model did not come up: the model cannot be loaded: SafetensorError: Error while deserializing header: incomplete metadata, file not fully covered; the one before goes on serving\n {2}last lines of its log:\n/,
        );
        expect(failures).toEqual([]);
        const [[model] = []] = models;
        expect(models).toEqual(Array(4).fill([model]));
        expect(said).toEqual([[expect.any(String)]]);
        expect(answers).toBeGreaterThan(10);
        expect(serving()).toEqual(before);
        // The stack is what it was: there is nothing to bring back.
        expect((await rig.json("up")).actions).toEqual({ ...all("unchanged"), service: "unchanged" });
        expect(serving()).toEqual(before);
    });

    test("is not asked to use vLLM where there is none: said before anything runs", async () => {
        configure({ backend: "vllm" }, { training: { learningRate: 0.02 } });
        const { code, stderr } = await rig.json("up");
        const environment = path.dirname(path.dirname(python));
        expect(code).toBe(2);
        expect(stderr).toContain(
            `the configuration has a problem:\n  retune:service.backend: vLLM is not installed in ${environment}: \``,
        );
        expect(rig.runs("Training")).toHaveLength(1);
    });

    test("is left as it is by an update that the gate refuses: no request fails", async () => {
        const gate = { conditions: [{ against: 0.001, metric: "evalLoss" }], minRows: 1 };
        configure({}, { training: { learningRate: 0.03 }, evaluation: { gate } });
        const before = serving();
        const { failures, models, said, value } = await asking(rig.json("up"));
        expect(value.code, value.stderr).toBe(3);
        expect(value.actions).toMatchObject({
            training: "ran",
            evaluation: "refused",
            export: "skipped",
            service: "skipped",
        });
        expect(failures).toEqual([]);
        const [[model] = []] = models;
        expect(models).toEqual(Array(4).fill([model]));
        expect(said).toEqual([[expect.any(String)]]);
        expect(serving()).toEqual(before);
        expect(reported()).toEqual({ newest: 2, action: "skipped", reasons: [] });
    });

    test("changes to a new model without a request that fails or a stream that breaks off, and once", async () => {
        configure({}, { training: { learningRate: 0.02 } });
        const { model: before } = await ask(false);
        const { failures, models, said, answers, value } = await asking(rig.json("up"));
        expect(value.code, value.stderr).toBe(0);
        expect(service(value.answer)?.action).toBe("ran");
        expect(reported()).toMatchObject({
            ...{ newest: 3, action: "ran" },
            reasons: [expect.stringMatching(/^model [0-9a-f]{12} → [0-9a-f]{12}$/)],
        });
        expect(failures).toEqual([]);
        expect(models).toEqual(Array(4).fill([before, service(value.answer)?.digest?.slice(0, 12)]));
        // Streamed or not, each says one thing only.
        expect(said).toEqual([[expect.any(String)], [expect.any(String)]]);
        expect(answers).toBeGreaterThan(20);
        await eventually("the old model's process ends", () => serving().length === 2);
    });

    test("that was killed is seen by a refresh, brought back by an up, and ended by a destroy", async () => {
        const [front = 0, model = 0] = serving();
        process.kill(model, "SIGKILL");
        await eventually("its front ends", () => !isAlive(front));
        const refreshed = await rig.json("refresh");
        expect(service(refreshed.answer)?.action).toBe("drifted");
        expect(rig.state().resources?.find(({ urn }) => urn.endsWith("::service"))?.outputs?.["drift"]).toBe(
            "it does not serve: its process was killed (signal 9); where nobody did it, the machine ran out of memory",
        );
        const { answer, code } = await rig.json("up");
        expect(code).toBe(0);
        expect(answer.stages.filter(({ action }) => action !== "unchanged").map(({ name }) => name)).toEqual([
            "service",
        ]);
        // Its clients' key is the same.
        expect((await client().chat.completions.create(question)).choices).toHaveLength(1);

        const pids = serving();
        expect((await rig.run("destroy")).code).toBe(0);
        expect(pids.filter(isAlive)).toEqual([]);
        expect(fs.existsSync(folder())).toBe(false);
    });
});

/** The addresses at which a process listens, with their ports. */
function listening(pid: number): string[] {
    const links = fs.readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
        try {
            return [fs.readlinkSync(`/proc/${pid}/fd/${fd}`)];
        } catch {
            return [];
        }
    });
    const inodes = new Set(links.map((link) => /^socket:\[(\d+)\]$/.exec(link)?.[1]));
    return ["tcp", "tcp6"].flatMap((kind) => {
        const lines = fs.readFileSync(`/proc/net/${kind}`, "utf8").trim().split("\n").slice(1);
        return lines
            .map((line) => line.trim().split(/\s+/))
            .filter(([, , , state, , , , , , inode]) => state === "0A" && inodes.has(inode))
            .map(([, local = ""]) => {
                const [address = "", hex = ""] = local.split(":");
                const bytes = Buffer.from(address, "hex").reverse();
                return `${kind === "tcp" ? [...bytes].join(".") : address}:${parseInt(hex, 16)}`;
            });
    });
}
