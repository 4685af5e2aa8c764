import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import path from "node:path";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import { downloadSource, resolveHubCommit, resolveSource, sourceSchema } from "../../../datasets/sources/source";
import { problemsOf } from "../../../pipeline/fields";
import { UserError } from "../../../pipeline/user-error";
import { temporaryFolder } from "./folder";

const commit = "0123456789abcdef0123456789abcdef01234567";
const content = Buffer.from(Array.from({ length: 300_000 }, (_, index) => (index * 7919) % 251));
const sha256 = createHash("sha256").update(content).digest("hex");

interface Server {
    endpoint: string;
    /** Method, path and range of each request. */
    seen: string[];
    tokens: (string | undefined)[];
}

async function serve(
    answer: (request: IncomingMessage, response: ServerResponse, count: number) => void,
): Promise<Server> {
    const seen: string[] = [];
    const tokens: (string | undefined)[] = [];
    const server = createServer((request, response) => {
        const { range } = request.headers;
        seen.push(`${request.method ?? ""} ${request.url ?? ""}${range === undefined ? "" : ` ${range}`}`);
        tokens.push(request.headers.authorization);
        answer(request, response, seen.length);
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    onTestFinished(() => {
        server.closeAllConnections();
        server.close();
    });
    return { endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, seen, tokens };
}

/** Sends the content, from where the range begins if there is one. */
function sendContent(request: IncomingMessage, response: ServerResponse, bytes = content): void {
    const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
    response.writeHead(request.headers.range === undefined ? 200 : 206, {
        "content-length": bytes.length - from,
        "etag": '"1"',
    });
    response.end(bytes.subarray(from));
}

async function closedPort(): Promise<string> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as AddressInfo;
    await new Promise((resolve) => server.close(resolve));
    return `http://127.0.0.1:${port}`;
}

async function failure(action: Promise<unknown>, endpoint: string): Promise<string> {
    const error = await action.then(
        () => undefined,
        (reason: unknown) => reason,
    );
    if (!(error instanceof UserError)) throw error instanceof Error ? error : new Error("it succeeded");
    return error.message.replaceAll(new URL(endpoint).host, "HOST");
}

const mirror =
    "Set `endpoint` (or HF_ENDPOINT) to a mirror that can be reached, or fetch the file elsewhere and use `{ file: … }`.";

describe("a source in a configuration", () => {
    const problems = (value: unknown): string[] => {
        const parsed = sourceSchema.safeParse(value);
        return parsed.success ? [] : problemsOf(parsed.error).map(({ path, message }) => `${path}: ${message}`);
    };

    test("is one of four", () => {
        expect(sourceSchema.parse({ file: "a.jsonl" })).toEqual({ file: "a.jsonl" });
        expect(sourceSchema.parse({ huggingface: "o/n", files: ["a/b.jsonl"] })).toEqual({
            huggingface: "o/n",
            revision: "main",
            files: ["a/b.jsonl"],
        });
        expect(sourceSchema.parse({ modelscope: "o/n", files: ["a"] })).toMatchObject({ revision: "master" });
        const choice = "expected exactly one of file, url, huggingface, modelscope; found";
        expect(problems({ path: "x" })).toEqual([`: ${choice} none of them`]);
        expect(problems("x")).toEqual([`: ${choice} none of them`]);
        expect(problems({ file: "x", url: "https://example.com" })).toEqual([`: ${choice} file and url`]);
    });

    test("names each problem with its path", () => {
        expect(problems({ url: "ftp://example.com/a", sha256: "abc" })).toEqual([
            "url: expected a URL that begins with https:// or http://",
            "sha256: expected 64 hexadecimal digits, as sha256sum prints them",
        ]);
        expect(problems({ huggingface: "name", files: ["../x"], file: undefined })).toHaveLength(1);
        expect(problems({ huggingface: "name", files: ["../x", "a/..", "/a", "a..b/c"] })).toEqual([
            "huggingface: expected owner/name",
            "files[0]: expected the path of a file inside the repository",
            "files[1]: expected the path of a file inside the repository",
            "files[2]: expected the path of a file inside the repository",
        ]);
        expect(problems({ modelscope: "o/n", files: [] })).toEqual(["files: expected at least one file"]);
        expect(problems({ file: "x", sha: "y" })).toEqual(["sha: unknown; there is file"]);
        expect(problems({ huggingface: "o/n", files: ["x"], revison: "v1" })).toEqual([
            "revison: unknown; did you mean revision?",
        ]);
    });
});

describe("Hugging Face", () => {
    const hub = (answer = sendContent) =>
        serve((request, response) => {
            if (request.url?.endsWith("/revision/main") === true) response.end(JSON.stringify({ sha: commit }));
            else if (request.method === "POST") {
                const files = [{ path: "data/a b.jsonl", type: "file", size: content.length, lfs: { oid: sha256 } }];
                response.end(JSON.stringify(files));
            } else answer(request, response);
        });

    test("is resolved to a commit with sizes and digests, downloaded once, and shown the token only in the header", async () => {
        vi.stubEnv("HF_TOKEN", "hf_canary\n"); // as a file has it
        onTestFinished(() => {
            vi.unstubAllEnvs();
        });
        const { endpoint, seen, tokens } = await hub();
        const source = sourceSchema.parse({ huggingface: "o/n", files: ["data/a b.jsonl"], endpoint });
        const resolved = await resolveSource(source);
        expect(resolved).toEqual({ commit, files: [{ path: "data/a b.jsonl", size: 300_000, sha256 }] });
        const folder = path.join(temporaryFolder(), "new");
        const progress: number[] = [];
        const files = await downloadSource(source, resolved, folder, ({ received }) => progress.push(received));
        expect(files).toEqual([path.join(folder, "data/a b.jsonl")]);
        expect(readFileSync(files[0] ?? "").equals(content)).toBe(true);
        expect(progress.at(-1)).toBe(300_000);
        expect(await downloadSource(source, resolved, folder)).toEqual(files);
        expect(seen).toEqual([
            "GET /api/datasets/o/n/revision/main",
            `POST /api/datasets/o/n/paths-info/${commit}`,
            `GET /datasets/o/n/resolve/${commit}/data/a%20b.jsonl`,
        ]);
        expect(new Set(tokens)).toEqual(new Set(["Bearer hf_canary"]));
    });

    test("takes its endpoint from HF_ENDPOINT, and a commit for itself", async () => {
        const { endpoint, seen } = await hub();
        vi.stubEnv("HF_ENDPOINT", `${endpoint}/`);
        onTestFinished(() => {
            vi.unstubAllEnvs();
        });
        const model = { hub: "huggingface", kind: "model", repo: "Qwen/Qwen3-0.6B" } as const;
        expect(await resolveHubCommit({ ...model, revision: "main" })).toBe(commit);
        expect(await resolveHubCommit({ ...model, revision: "f".repeat(40) })).toBe("f".repeat(40));
        expect(seen).toEqual(["GET /api/models/Qwen/Qwen3-0.6B/revision/main"]);
        vi.stubEnv("HF_ENDPOINT", endpoint.replace("//", "//user:canary@"));
        await expect(resolveHubCommit({ ...model, revision: "main" })).rejects.toThrow(
            "HF_ENDPOINT: expected an address without a user's name and password in it: it goes in clear into state, manifest and messages",
        );
        expect(seen).toHaveLength(1);
    });

    test("without the file is told so", async () => {
        const { endpoint } = await hub();
        const source = sourceSchema.parse({ huggingface: "o/n", files: ["b.jsonl"], endpoint });
        expect(await failure(resolveSource(source), endpoint)).toBe(
            `Hugging Face dataset o/n has no file b.jsonl at commit ${commit}: check the name under \`files\`.`,
        );
    });

    test.each([
        [
            404,
            "Hugging Face dataset o/n: HOST does not have it (404). Check its name and revision. If it is private or gated, accept its terms on the hub and set HF_TOKEN to a token that may read it.",
        ],
        [
            401,
            "Hugging Face dataset o/n: HOST refuses access (401). If it is private or gated, accept its terms on the hub and set HF_TOKEN to a token that may read it.",
        ],
        [
            403,
            "Hugging Face dataset o/n: HOST refuses access (403). If it is private or gated, accept its terms on the hub and set HF_TOKEN to a token that may read it.",
        ],
        [400, `Hugging Face dataset o/n: HOST answered 400. ${mirror}`],
    ])("that answers %d is named with what to do, after one request", async (status, message) => {
        const { endpoint, seen } = await serve((_, response) => response.writeHead(status).end());
        const source = sourceSchema.parse({ huggingface: "o/n", files: ["a"], endpoint });
        expect(await failure(resolveSource(source), endpoint)).toBe(message);
        expect(seen).toHaveLength(1);
    });

    test("out of reach is named with the ways out", async () => {
        const endpoint = await closedPort();
        const source = sourceSchema.parse({ huggingface: "o/n", files: ["a"], endpoint });
        expect(await failure(resolveSource(source), endpoint)).toBe(
            `Hugging Face dataset o/n: cannot reach HOST (ECONNREFUSED). ${mirror}`,
        );
    });

    test("hidden behind a log-in page is named as such", async () => {
        const { endpoint } = await serve((_, response) => response.end("<html>"));
        const source = sourceSchema.parse({ huggingface: "o/n", files: ["a"], endpoint });
        expect(await failure(resolveSource(source), endpoint)).toBe(
            `Hugging Face dataset o/n: HOST answered with something other than JSON. ${mirror}`,
        );
    });

    test("that asks to slow down, or fails for a moment, is asked again", async () => {
        const { endpoint, seen } = await serve((_, response, count) => {
            if (count === 1) response.writeHead(429, { "retry-after": "0" }).end();
            else if (count === 2) response.writeHead(503).end();
            else if (count === 3) response.destroy();
            else response.end(JSON.stringify({ sha: commit }));
        });
        const wanted = { hub: "huggingface", kind: "dataset", repo: "o/n", revision: "v1", endpoint } as const;
        expect(await resolveHubCommit(wanted)).toBe(commit);
        expect(seen).toHaveLength(4);
    });

    test("that stays out of order is given up after five requests", async () => {
        const { endpoint, seen } = await serve((_, response) => response.writeHead(500, { "retry-after": "0" }).end());
        const wanted = { hub: "huggingface", kind: "dataset", repo: "o/n", revision: "v1", endpoint } as const;
        expect(await failure(resolveHubCommit(wanted), endpoint)).toBe(
            `Hugging Face dataset o/n: HOST answered 500. ${mirror}`,
        );
        expect(seen).toHaveLength(5);
    });
});

describe("ModelScope", () => {
    test("is resolved and downloaded, over several pages", async () => {
        const listed = Array.from({ length: 150 }, (_, index) => ({
            Path: `f${index}`,
            Type: "blob",
            Size: 1,
            Sha256: "00",
        }));
        listed[120] = { Path: "data/a.jsonl", Type: "blob", Size: content.length, Sha256: sha256 };
        const { endpoint, seen } = await serve((request, response) => {
            const url = new URL(request.url ?? "", "http://x");
            const page = Number(url.searchParams.get("PageNumber"));
            if (url.pathname.endsWith("/commits"))
                response.end(JSON.stringify({ Code: 200, Data: { Commit: [{ Id: commit }] } }));
            else if (url.pathname.endsWith("/tree"))
                response.end(
                    JSON.stringify({ Code: 200, Data: { Files: listed.slice(100 * (page - 1), 100 * page) } }),
                );
            else sendContent(request, response);
        });
        const source = sourceSchema.parse({ modelscope: "o/n", files: ["data/a.jsonl"], endpoint });
        const resolved = await resolveSource(source);
        expect(resolved).toEqual({ commit, files: [{ path: "data/a.jsonl", size: 300_000, sha256 }] });
        const [file = ""] = await downloadSource(source, resolved, temporaryFolder());
        expect(readFileSync(file).equals(content)).toBe(true);
        expect(seen).toEqual([
            "GET /api/v1/datasets/o/n/commits?Ref=master&PageNumber=1&PageSize=1",
            `GET /api/v1/datasets/o/n/repo/tree?Revision=${commit}&Root=%2F&Recursive=True&PageNumber=1&PageSize=100`,
            `GET /api/v1/datasets/o/n/repo/tree?Revision=${commit}&Root=%2F&Recursive=True&PageNumber=2&PageSize=100`,
            `GET /api/v1/datasets/o/n/repo?Revision=${commit}&FilePath=data%2Fa.jsonl`,
        ]);
    });

    test("with an error in a good answer is told what it said", async () => {
        const { endpoint } = await serve((_, response) =>
            response.end(JSON.stringify({ Code: 10010205001, Message: "not found" })),
        );
        const wanted = { hub: "modelscope", kind: "model", repo: "o/n", revision: "v1", endpoint } as const;
        expect(await failure(resolveHubCommit(wanted), endpoint)).toBe(
            'ModelScope model o/n: HOST answered "not found". Check its name and revision.',
        );
    });
});

describe("a download", () => {
    const sourceOf = (endpoint: string, digest = sha256) =>
        sourceSchema.parse({ url: `${endpoint}/files/rows.jsonl?signature=secret`, sha256: digest });

    test("that is cut off goes on where it stopped", async () => {
        const { endpoint, seen } = await serve((request, response, count) => {
            if (count > 2) {
                sendContent(request, response);
                return;
            }
            const from = (count - 1) * 100_000;
            response.writeHead(count === 1 ? 200 : 206, { "content-length": content.length - from, "etag": '"1"' });
            response.write(content.subarray(from, from + 100_000), () => setTimeout(() => response.destroy(), 20));
        });
        const source = sourceOf(endpoint);
        const [file = ""] = await downloadSource(source, await resolveSource(source), temporaryFolder());
        expect(readFileSync(file).equals(content)).toBe(true);
        expect(seen.map((line) => line.split(" ")[2])).toEqual([undefined, "bytes=100000-", "bytes=200000-"]);
    });

    test("goes on with what an earlier process left", async () => {
        const { endpoint, seen } = await serve((request, response) => {
            sendContent(request, response);
        });
        const folder = temporaryFolder();
        writeFileSync(path.join(folder, "rows.jsonl.partial"), content.subarray(0, 250_000));
        const source = sourceOf(endpoint);
        const [file = ""] = await downloadSource(source, await resolveSource(source), folder);
        expect(readFileSync(file).equals(content)).toBe(true);
        expect(seen).toEqual(["GET /files/rows.jsonl?signature=secret bytes=250000-"]);
        expect(existsSync(`${file}.partial`)).toBe(false);
    });

    test("begins again when what was left does not fit, or the server knows no ranges", async () => {
        const folder = temporaryFolder();
        for (const ranges of [true, false]) {
            const { endpoint, seen } = await serve((request, response) => {
                if (ranges) sendContent(request, response);
                else response.end(content);
            });
            const target = path.join(folder, String(ranges));
            mkdirSync(target);
            writeFileSync(path.join(target, "rows.jsonl.partial"), "something else");
            const source = sourceOf(endpoint);
            const [file = ""] = await downloadSource(source, await resolveSource(source), target);
            expect(readFileSync(file).equals(content)).toBe(true);
            expect(seen).toHaveLength(ranges ? 2 : 1);
        }
    });

    test("that is not what was expected is not kept", async () => {
        const { endpoint } = await serve((request, response) => {
            sendContent(request, response);
        });
        const folder = temporaryFolder();
        const source = sourceOf(endpoint, "a".repeat(64));
        expect(await failure(downloadSource(source, await resolveSource(source), folder), endpoint)).toBe(
            `HOST/files/rows.jsonl: rows.jsonl from HOST is not the expected file: expected SHA-256 ${"a".repeat(64)}, got ${sha256}. ` +
                "The server may have another version, or something on the way altered it.",
        );
        expect(existsSync(path.join(folder, "rows.jsonl"))).toBe(false);
        expect(existsSync(path.join(folder, "rows.jsonl.partial"))).toBe(false);
    });

    test("replaces a file that was altered", async () => {
        const { endpoint, seen } = await serve((request, response) => {
            sendContent(request, response);
        });
        const folder = temporaryFolder();
        writeFileSync(path.join(folder, "rows.jsonl"), "altered");
        const source = sourceOf(endpoint);
        await downloadSource(source, await resolveSource(source), folder);
        expect(statSync(path.join(folder, "rows.jsonl")).size).toBe(300_000);
        expect(seen).toHaveLength(1);
    });

    test("of a local file is the file itself", async () => {
        const source = sourceSchema.parse({ file: "some/rows.jsonl" });
        const resolved = await resolveSource(source);
        expect(resolved).toEqual({ files: [{ path: "some/rows.jsonl" }] });
        expect(await downloadSource(source, resolved, temporaryFolder())).toEqual(["some/rows.jsonl"]);
    });
});
