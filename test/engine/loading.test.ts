import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import * as fs from "node:fs";
import * as http from "node:http";
import * as os from "node:os";
import * as path from "node:path";
import { afterEach, beforeEach, describe, expect, onTestFinished, test } from "vitest";
import { project } from "../../scripts/locations.cjs";
import { eventually } from "./processes";
import { python } from "./rig";

// The program behind a service's front, with the real LLaMA-Factory: a model of an embedding and a norm, which is whole
// or is not, too large, or served by a stand-in for vLLM.
const program = path.join(project, "pipeline", "llamafactory", "programs", "serve.py");
const GIGA = 1e9;

let folder: string;
let work: string;
beforeEach(() => {
    folder = fs.mkdtempSync(path.join(os.tmpdir(), "retune-loading-"));
    work = path.join(folder, "work");
    fs.mkdirSync(path.join(work, "model"), { recursive: true });
});
afterEach(() => {
    fs.rmSync(folder, { recursive: true, force: true });
});

/** What the program is to do, and the line that its front gives it. */
function asked(backend: "huggingface" | "vllm" = "huggingface"): string {
    const parameters = { template: "qwen3", enableThinking: null, precision: "fp32", backend };
    fs.writeFileSync(path.join(folder, "job.json"), JSON.stringify({ inputs: { model: "f".repeat(64) }, parameters }));
    return `${JSON.stringify({ key: "key", socket: path.join(folder, "socket") })}\n`;
}

/** Why it does not serve. */
function reason(limit?: { readonly gigabytes: number }): string {
    const limits = limit === undefined ? [] : [`--as=${limit.gigabytes * GIGA}`];
    const options = { cwd: work, input: asked(), env: { ...process.env, OMP_NUM_THREADS: "1" } };
    const { status, stdout } = spawnSync("prlimit", [...limits, python, program], { ...options, timeout: 120_000 });
    expect(status, stdout.toString()).toBe(1);
    return (JSON.parse(fs.readFileSync(path.join(work, "outcome.json"), "utf8")) as { error: string }).error;
}

// The weights are of 62 GiB and take no place on the disk; the limit is one on the process, as `ulimit -v` sets it.
describe("a model that memory does not do for", () => {
    test.each([
        ["safetensors", 16, "Cannot allocate memory (os error 12)"],
        [
            "torch",
            100,
            /^unable to mmap \d+ bytes from file <base\/model\.safetensors>: Cannot allocate memory \(12\)$/,
        ],
    ])("is named as such where %s cannot have it, with %d GB", (_, gigabytes, said) => {
        writeModel({ rows: 256_000_000 });
        const [, why] = /^out of memory while the model was loaded: (.*)$/.exec(reason({ gigabytes })) ?? [];
        expect(why).toEqual(typeof said === "string" ? said : expect.stringMatching(said));
    });
});

describe("a model that is not whole", () => {
    test.each<[string, WeightsOf, string]>([
        [
            "whose weights are those of another vocabulary",
            { rows: 8, stored: { rows: 9 } },
            "RuntimeError: Error(s) in loading state_dict for Embedding: size mismatch for weight: copying a param with shape " +
                "torch.Size([9, 64]) from checkpoint, the shape in current model is torch.Size([8, 64]).",
        ],
        [
            "of which weights are missing, which transformers would make up",
            { rows: 8, stored: { norm: false } },
            "weights are not in its files: model.norm.weight",
        ],
    ])("is not served: one %s", (_, weights, why) => {
        writeModel(weights);
        expect(reason()).toBe(`the model cannot be loaded: ${why}`);
    });
});

describe("vLLM", () => {
    test("is asked for the model, its context and its precision, and answers behind the same key and the same refusals", async () => {
        writeModel({ rows: 8 });
        await listening("vllm");
        const answer = await ask("a", { max_tokens: 5, temperature: 0.5 });
        expect(answer.status).toBe(200);
        expect(JSON.parse(answer.text)).toMatchObject({ choices: [{ message: { content: "a stand-in" } }] });
        const streamed = await ask("a", { stream: true });
        const pieces = [...streamed.text.matchAll(/"content": ?"([^"]*)"/g)].map(([, piece]) => piece);
        expect(pieces.join("")).toBe("a stand-in");
        const long = await ask("a".repeat(3000));
        expect([long.status, long.text]).toEqual([
            400,
            expect.stringMatching(/"the request is longer than the model's context: \d+ tokens of 2048"/),
        ]);
        expect((await request({}, "another")).status).toBe(401);

        const noted = () => {
            const lines = fs.readFileSync(path.join(work, "vllm.jsonl"), "utf8").trim().split("\n");
            return lines.map((line) => JSON.parse(line) as Record<string, object>);
        };
        expect(noted()).toEqual([
            {
                engine: expect.objectContaining({
                    ...{ model: "base", dtype: "float32", max_model_len: 2048, tensor_parallel_size: 1 },
                    ...{ trust_remote_code: false, enable_lora: false, enable_log_requests: false },
                }) as object,
            },
            // One of torch's own stores would listen at every address of the machine.
            { process: { knowsTheKey: false, listensAt: ["0100007F"] } },
            { request: expect.objectContaining({ max_tokens: 5, temperature: 0.5, stop_token_ids: [1] }) as object },
            { request: expect.objectContaining({ max_tokens: 1024 }) as object },
        ]);

        await leave({ stop: "never" }, () => noted().length === 5);
        await eventually("it is told to end the answer", () => noted().length === 6);
        expect(noted().at(-1)).toEqual({ request: "ended" });
    });
});

describe("an answer that nobody waits for any more", () => {
    test("is not generated on, streamed or not", async () => {
        // It generates the first token of its vocabulary, for hours.
        writeModel({ rows: 8, context: 10_000_000 });
        const { pid = 0 } = await listening("huggingface");
        for (const stream of [false, true]) {
            const before = secondsOf(pid);
            await leave({ stream, max_tokens: 9_000_000 }, () => secondsOf(pid) > before + 0.5);
            await eventually("it rests", async () => {
                const then = secondsOf(pid);
                await new Promise((resolve) => setTimeout(resolve, 300));
                return secondsOf(pid) - then < 0.1;
            });
        }
        expect((await ask("a", { max_tokens: 3 })).text).toContain('"completion_tokens":3');
    });
});

/** Starts the program; resolves when it listens. */
async function listening(backend: "huggingface" | "vllm"): Promise<ChildProcess> {
    const server = start(backend);
    const listens = () => {
        expect(server.exitCode).toBeNull();
        return fs.existsSync(path.join(folder, "socket"));
    };
    await eventually("it listens", listens, 240);
    return server;
}

function ask(content: string, more: object = {}): Promise<{ status: number; text: string }> {
    return request({ model: "retune", messages: [{ role: "user", content }], ...more });
}

/** Asks, and goes away when something has come to pass. */
async function leave(more: object, when: () => boolean): Promise<void> {
    const going = new AbortController();
    const answer = request(
        { model: "retune", messages: [{ role: "user", content: "a" }], ...more },
        "key",
        going.signal,
    );
    const broken = expect(answer).rejects.toThrow(/aborted|socket hang up/);
    await eventually("the answer is being made", when);
    going.abort();
    await broken;
}

/** Of processor time, so far. */
function secondsOf(pid: number): number {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, "utf8");
    const [user = 0, system = 0] = stat
        .slice(stat.lastIndexOf(")") + 2)
        .split(" ")
        .slice(11, 13)
        .map(Number);
    return (user + system) / 100;
}

/** Starts the program, vLLM's with the stand-in for it; the test's end is its end. */
function start(backend: "huggingface" | "vllm"): ChildProcess {
    const standIn = backend === "vllm" ? { PYTHONPATH: path.join(project, "test", "stand-in-vllm") } : {};
    const env = { ...process.env, OMP_NUM_THREADS: "1", ...standIn };
    const server = spawn(python, [program], { cwd: work, env, stdio: ["pipe", "ignore", "ignore"] });
    onTestFinished(async () => {
        const gone = new Promise((resolve) => server.once("close", resolve));
        server.kill("SIGKILL");
        await gone;
    });
    server.stdin.end(asked(backend));
    return server;
}

function request(body: object, key = "key", signal?: AbortSignal): Promise<{ status: number; text: string }> {
    const socketPath = path.join(folder, "socket");
    const headers = { "Content-Type": "application/json", "Authorization": `Bearer ${key}` };
    return new Promise((resolve, reject) => {
        const sent = http.request(
            { socketPath, path: "/v1/chat/completions", method: "POST", headers, signal },
            (answer) => {
                let text = "";
                answer.setEncoding("utf8").on("data", (piece: string) => (text += piece));
                answer.on("error", reject).on("end", () => {
                    resolve({ status: answer.statusCode ?? 0, text });
                });
            },
        );
        sent.on("error", reject);
        sent.end(JSON.stringify(body));
    });
}

interface WeightsOf {
    /** The size of the vocabulary. */
    readonly rows: number;
    /** In tokens. */
    readonly context?: number;
    /** What is in the file, where that is something else. */
    readonly stored?: { readonly rows?: number; readonly norm?: boolean };
}

/** A Qwen3 of an embedding and a norm, all zero: a file with holes. */
function writeModel({ rows, context = 2048, stored = {} }: WeightsOf): void {
    const place = path.join(work, "model");
    const columns = 64;
    const shape = { num_attention_heads: 4, num_key_value_heads: 2, head_dim: 16, num_hidden_layers: 0 };
    const config = { architectures: ["Qwen3ForCausalLM"], model_type: "qwen3", vocab_size: rows, hidden_size: columns };
    const sizes = { intermediate_size: 128, max_position_embeddings: context, tie_word_embeddings: true };
    const special = ["<|im_end|>", "<|endoftext|>"];
    const tokens = special.map((content, index) => ({
        ...{ id: index + 1, content, special: true },
        ...{ single_word: false, lstrip: false, rstrip: false, normalized: false },
    }));
    const vocabulary = { "a": 0, "<|im_end|>": 1, "<|endoftext|>": 2 };
    const files = {
        "config.json": { ...config, ...shape, ...sizes },
        "tokenizer.json": {
            ...{ version: "1.0", added_tokens: tokens, model: { type: "BPE", vocab: vocabulary, merges: [] } },
        },
        "tokenizer_config.json": {
            ...{ tokenizer_class: "PreTrainedTokenizerFast", eos_token: special[0], pad_token: special[1] },
        },
    };
    for (const [name, content] of Object.entries(files)) {
        fs.writeFileSync(path.join(place, name), JSON.stringify(content));
    }
    const lines = stored.rows ?? rows;
    const embedding = lines * columns * 4;
    const end = stored.norm === false ? embedding : embedding + columns * 4;
    const norm = { dtype: "F32", shape: [columns], data_offsets: [embedding, end] };
    const header = JSON.stringify({
        "model.embed_tokens.weight": { dtype: "F32", shape: [lines, columns], data_offsets: [0, embedding] },
        ...(stored.norm === false ? {} : { "model.norm.weight": norm }),
        "__metadata__": { format: "pt" },
    });
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(header.length));
    const file = path.join(place, "model.safetensors");
    fs.writeFileSync(file, Buffer.concat([length, Buffer.from(header)]));
    fs.truncateSync(file, 8 + header.length + end);
}
