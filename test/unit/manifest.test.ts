import { readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { portable } from "../../pipeline/configuration";
import { sha256 } from "../../pipeline/identity";
import { codeRevision, comparedWith, readManifest } from "../../pipeline/manifest";
import { project } from "../../scripts/locations.cjs";
import { temporaryFolder } from "./datasets/folder";

const COMMIT = "c".repeat(40);
const digests = { dataset: sha256("rows"), model: sha256("base"), trained: sha256("adapter") };
const whole = {
    retune: 1,
    configuration: {
        model: { source: { huggingface: "someone/tiny", revision: "main" }, template: "qwen3" },
        dataset: { recipe: { name: "r" }, source: { file: "rows.jsonl" } },
        training: { seed: 42 },
        evaluation: {},
    },
    data: { files: [sha256("the rows\n")] },
    base: { huggingface: "someone/tiny", commit: COMMIT },
    ...digests,
};

/** A folder with a manifest in it, as export.py writes it, and the data. */
function exported(changes: object = {}) {
    const folder = temporaryFolder();
    const text = JSON.stringify({ checksum: "", ...whole, ...changes }, undefined, 1);
    const file = path.join(folder, "retune.json");
    writeFileSync(file, text.replace('"checksum": ""', `"checksum": "${sha256(text)}"`));
    const rows = path.join(folder, "rows.jsonl");
    writeFileSync(rows, "the rows\n");
    return { folder, file, rows };
}

async function failure(place: string, rows?: string): Promise<string> {
    const error: unknown = await readManifest(place, rows).catch((reason: unknown) => reason);
    if (error instanceof Error) return error.message;
    throw new Error("it was read");
}

test("a manifest has the settings of its run, with commits in place of branches", async () => {
    const { folder, file, rows } = exported();
    const manifest = await readManifest(folder, rows);
    expect(manifest).toEqual({
        file,
        configuration: {
            ...whole.configuration,
            model: { source: { huggingface: "someone/tiny", revision: COMMIT }, template: "qwen3" },
        },
        digests: { dataset: digests.dataset, model: digests.model, training: digests.trained },
    });
    expect(await readManifest(file, rows)).toEqual(manifest);
    const found = new Map([
        ["dataset", digests.dataset],
        ["model", digests.model],
        ["training", sha256("another")],
    ]);
    expect(comparedWith(manifest, found)).toBe(`${file}: as in the manifest: dataset, model; different: training`);
});

test("of a model that an override accepted, the one that comes out again is accepted too", async () => {
    const override = { reason: "once", model: digests.trained };
    const configuration = { ...whole.configuration, evaluation: { prompts: ["A cold?"], gate: { minRows: 8 } } };
    const { file, rows } = exported({ configuration, override });
    expect((await readManifest(file, rows)).configuration).toMatchObject({
        evaluation: { prompts: ["A cold?"], gate: { minRows: 8, override } },
    });
});

test("no address and no variable of a manifest is taken: whoever wrote it would be sent the user's token and key", async () => {
    const endpoint = "https://thief.example";
    const hub = { huggingface: "someone/cold", files: ["rows.jsonl"], revision: "main" };
    const { model, dataset } = whole.configuration;
    const { file } = exported({
        configuration: {
            ...whole.configuration,
            model: { ...model, source: { ...model.source, endpoint } },
            dataset: { ...dataset, source: { ...hub, endpoint } },
            evaluation: { judge: { endpoint, model: "grader", keyVariable: "AWS_SECRET_ACCESS_KEY" } },
        },
        data: { commit: COMMIT },
    });
    const { configuration } = await readManifest(file, undefined);
    expect(configuration).toMatchObject({
        model: { source: { huggingface: "someone/tiny", revision: COMMIT } },
        dataset: { source: { ...hub, revision: COMMIT } },
        evaluation: { judge: { model: "grader" } },
    });
    expect(JSON.stringify(configuration)).not.toMatch(/thief|endpoint|AWS_/);
});

test("one that cannot be started from is refused with what is wrong", async () => {
    const { folder, file, rows } = exported();
    rmSync(file);
    expect(await failure(folder, rows)).toBe(
        `--from: ${file} cannot be read: ENOENT: no such file or directory, open '${file}'`,
    );
    writeFileSync(file, "[]");
    expect(await failure(folder, rows)).toBe(`--from: ${file} is not a JSON object`);
    writeFileSync(file, "{");
    expect(await failure(folder, rows)).toMatch(`--from: ${file} is not JSON: `);
    writeFileSync(file, '{ "base": {} }');
    expect(await failure(folder, rows)).toBe(
        `--from: ${file} is not the manifest of a model that Retune exported: it has no version`,
    );
    const newer = exported({ retune: 2 });
    expect(await failure(newer.file, newer.rows)).toBe(
        `--from: ${newer.file} is of version 2, but this Retune knows versions up to 1: take a newer one`,
    );
    const torn = exported({
        configuration: { model: {}, dataset: {}, training: {}, evaluation: {}, more: {} },
        model: 1,
    });
    expect(await failure(torn.file, torn.rows)).toBe(
        `--from: ${torn.file} is not whole:\n` +
            "  configuration.more: unknown; there is model, dataset, training, evaluation\n" +
            "  model: expected the digest of a model, got 1",
    );
});

test("one that was edited is refused, whatever was edited", async () => {
    const { file, rows } = exported();
    const text = readFileSync(file, "utf8");
    for (const edited of [
        text.replace('"seed": 42', '"seed": 43'),
        `${text}\n`,
        text.replace(/"checksum": "./, '"checksum": "x'),
    ]) {
        expect(edited).not.toBe(text);
        writeFileSync(file, edited);
        expect(await failure(file, rows)).toBe(
            `--from: ${file} was edited after it was written: take the one of the exported model; ` +
                "settings are changed with --set, such as --set training.learningRate=1e-4",
        );
    }
});

test("data that was a file must be the same file", async () => {
    const { file, rows } = exported();
    const wanted = `--from: the model of ${file} was made from a file with SHA-256 ${sha256("the rows\n")}, but`;
    const remedy = "put it there, or name it with --set dataset.source.file=FILE";
    const missing = path.join(project, "rows.jsonl");
    expect(await failure(file)).toBe(`${wanted} there is no file ${missing}: ${remedy}`);
    writeFileSync(rows, "other rows\n");
    expect(await failure(file, rows)).toBe(
        `${wanted} ${rows} is another file (SHA-256 ${sha256("other rows\n")}): ${remedy}`,
    );
});

test("what a manifest says of a configuration is true on every machine", () => {
    const settings = { training: { seed: 1 }, evaluation: { prompts: ["A cold?"], gate: { minRows: 8 } } };
    const { training, evaluation } = settings;
    // An override is of one model: there it is said, and not in the settings.
    const gate = { ...evaluation.gate, override: { reason: "once", model: "3f2a91c07b1e" } };
    const given = { training, evaluation: { ...evaluation, gate } };
    const of = (model: object, dataset: object) =>
        portable({ model: { source: model }, dataset: { source: dataset }, ...given } as unknown as Parameters<
            typeof portable
        >[0]);
    expect(of({ folder: "/home/someone/models/tiny" }, { file: path.join(project, "data", "rows.csv") })).toEqual({
        ...{ model: { source: { folder: "tiny" } }, dataset: { source: { file: "data/rows.csv" } } },
        ...settings,
    });
    // A gate that is not there because nothing is held out is made again by the same data set.
    const ungated = { prompts: [], gate: { conditions: [], minRows: 30, nothingHeldOut: true } };
    const none = { model: { source: {} }, dataset: { source: {} }, training, evaluation: ungated };
    expect(portable(none as unknown as Parameters<typeof portable>[0])["evaluation"]).toEqual({ prompts: [] });
    // Who was asked, and neither where nor with whose key.
    const judge = { endpoint: "http://127.0.0.1:9/v1", model: "grader", keyVariable: "JUDGE_KEY", timeoutSeconds: 60 };
    const judged = { ...none, evaluation: { prompts: [], gate: { minRows: 30 }, judge } };
    expect(portable(judged as unknown as Parameters<typeof portable>[0])["evaluation"]).toEqual({
        ...{ prompts: [], gate: { minRows: 30 }, judge: { model: "grader" } },
    });
    const hub = { huggingface: "someone/tiny", revision: "main" };
    const url = { sha256: sha256("rows") };
    expect(
        of(
            { ...hub, endpoint: "https://mirror.example" },
            { ...url, url: "https://me:secret@data.example/rows@1.csv" },
        ),
    ).toEqual({
        ...{ model: { source: hub }, dataset: { source: { ...url, url: "https://data.example/rows@1.csv" } } },
        ...settings,
    });
});

test("the code is named by its commit, where there is one", () => {
    const revision = codeRevision();
    if (revision !== null) {
        expect(revision).toEqual({
            revision: expect.stringMatching(/^[0-9a-f]{40}$/) as unknown,
            modified: expect.any(Boolean) as unknown,
        });
    }
});
