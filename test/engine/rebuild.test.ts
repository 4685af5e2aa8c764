import * as fs from "node:fs";
import * as path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { JsonObject } from "../../pipeline/identity";
import type { Result } from "../../pipeline/store/store";
import { all, digestsOf, Rig } from "./rig";

describe("from the manifest of an exported model", () => {
    let rig: Rig;
    beforeAll(() => {
        rig = new Rig();
    });
    afterAll(() => rig.dispose());

    test("the same run is made again on an empty store: the same data, keys and weights", async () => {
        rig.configure({ dataset: { licence: "cc-by-4.0" } });
        const first = await rig.json("up");
        expect(first.actions).toEqual(all("ran"));
        const exported = fileURLToPath(first.stage("export").uri ?? "");
        const manifest = path.join(rig.folder, "kept.json");
        fs.copyFileSync(path.join(exported, "retune.json"), manifest);
        const card = fs.readFileSync(path.join(exported, "README.md"), "utf8");
        expect(card.split("\n").slice(0, 9)).toEqual([
            "---",
            'language: ["zh"]',
            'library_name: "transformers"',
            'metrics: ["bleu", "rouge"]',
            'pipeline_tag: "text-generation"',
            'tags: ["llama-factory", "lora", "retune"]',
            "---",
            "",
            "# A fine-tuned model",
        ]);
        const { gpus, cpu, machine } = (first.stage("training").host ?? {}) as NonNullable<Result["host"]>;
        expect(card).toContain(`- Trained on: ${gpus?.join(", ") ?? cpu ?? machine}\n`);
        expect(card).toContain("- Licence of the base model: not stated by it\n- Licence of the data: cc-by-4.0\n");

        rig.home = path.join(rig.folder, "empty");
        // Nothing of the stack's own description counts, and its data is somewhere else by now.
        rig.configure({
            training: { seed: 7, learningRate: 0.1 },
            dataset: { limit: 10, source: { file: "moved.jsonl" } },
        });
        fs.renameSync(path.join(rig.project, "rows.jsonl"), path.join(rig.project, "moved.jsonl"));
        const lost = await rig.run("up", "--from", manifest);
        expect({ code: lost.code, stdout: lost.stdout }).toEqual({ code: 2, stdout: "" });
        expect(lost.stderr).toContain(`there is no file ${path.join(rig.project, "rows.jsonl")}: put it there`);
        expect(fs.existsSync(path.join(rig.home, "store"))).toBe(false);

        const again = await rig.json("up", "--from", manifest, "--set", "dataset.source.file=moved.jsonl");
        expect({ code: again.code, actions: again.actions }, again.stderr).toEqual({ code: 0, actions: all("ran") });
        expect(again.stderr).toContain(`${manifest}: as in the manifest: dataset, model, training\n`);
        const without = ({ report: _report, ...rest }: Record<string, string | undefined>) => rest;
        const { export: _export, ...digests } = without(digestsOf(first.answer));
        expect(without(digestsOf(again.answer))).toMatchObject(digests);
        for (const name of ["dataset", "model", "training", "evaluation", "export"] as const) {
            expect([name, again.stage(name).key]).toEqual([name, first.stage(name).key]);
        }
        const weights = (folder: string) => fs.readFileSync(path.join(folder, "model.safetensors"));
        expect(weights(fileURLToPath(again.stage("export").uri ?? "")).equals(weights(exported))).toBe(true);

        const other = await rig.json(
            "preview",
            "--from",
            manifest,
            "--set",
            "training.seed=1",
            "--set",
            "dataset.source.file=moved.jsonl",
        );
        expect(other.stage("training").reasons).toEqual([{ field: "seed", old: 42, new: 1 }]);

        const text = fs.readFileSync(manifest, "utf8");
        const told = JSON.parse(text) as { configuration: { dataset: JsonObject } } & JsonObject;
        expect(told).toMatchObject({
            configuration: { dataset: { source: { file: "rows.jsonl" }, licence: "cc-by-4.0" } },
            dataLicence: "cc-by-4.0",
            code: { revision: expect.stringMatching(/^[0-9a-f]{40}$/) as unknown, modified: false },
            environment: { lock: expect.stringMatching(/^[0-9a-f]{64}$/) as unknown, llamafactory: "0.9.5" },
            parity: {
                checked: 2,
                tensors: 24,
                logitsWithin: 5e-5,
                weightsWithin: { tensor: 1e-5, line: 1e-5, number: 1e-5 },
            },
            licence: null,
        });
        expect(text).not.toContain(rig.folder);
    });
});
