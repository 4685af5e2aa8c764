import * as fs from "node:fs";
import * as path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Hub } from "./hub";
import { all, Rig } from "./rig";

const COMMIT = "1".repeat(40);
const LATER = "2".repeat(40);

describe("model and data set from a hub", () => {
    let rig: Rig;
    let hub: Hub;
    const source = { huggingface: "someone/tiny", revision: "main" };
    const rows = { huggingface: "someone/rows", files: ["rows.jsonl"] };

    beforeAll(async () => {
        rig = new Rig();
        const made = await rig.json("up");
        expect(made.code).toBe(0);
        const folder = fileURLToPath(made.stage("model").uri ?? "");
        const model = fs.readdirSync(folder).map((name) => [name, fs.readFileSync(path.join(folder, name))] as const);
        const pickled = ["pytorch_model.bin", Buffer.from("pickled weights, which nobody wants")] as const;
        hub = new Hub();
        hub.add("someone/tiny", [...model, pickled]);
        hub.add("someone/pickled", [...model.filter(([name]) => !name.endsWith(".safetensors")), pickled]);
        hub.add("someone/rows", [["rows.jsonl", fs.readFileSync(path.join(rig.project, "rows.jsonl"))]]);
        rig.environment["HF_ENDPOINT"] = await hub.listen();
    });
    afterAll(async () => {
        hub.close();
        await rig.dispose();
    });

    test("the same bytes from a hub are the same model and the same data: nothing is trained again", async () => {
        rig.configure({ model: { source }, dataset: { source: rows } });
        const { code, actions, stage } = await rig.json("up");
        expect({ code, actions }).toEqual({
            code: 0,
            // The data set's key is the digest of its file, wherever that came from.
            // Only the export is made again: its manifest names where the base came from.
            actions: all("unchanged", { model: "ran", export: "ran", report: "ran" }),
        });
        const manifest = path.join(fileURLToPath(stage("export").uri ?? ""), "retune.json");
        expect(JSON.parse(fs.readFileSync(manifest, "utf8"))).toMatchObject({
            base: { huggingface: "someone/tiny", commit: COMMIT },
        });
        const files = fs.readdirSync(fileURLToPath(stage("model").uri ?? ""));
        expect(files).toContain("model.safetensors");
        expect(files).not.toContain("pytorch_model.bin");
    });

    test("a branch that has moved on changes nothing until the configuration says so, and asks nobody", async () => {
        hub.main = LATER;
        hub.requests.length = 0;
        const { code, actions } = await rig.json("up");
        expect({ code, actions, requests: hub.requests }).toEqual({ code: 0, actions: all("unchanged"), requests: [] });
    });

    test("a model with nothing but pickled weights is refused", async () => {
        rig.configure({ model: { source: { huggingface: "someone/pickled" } }, dataset: { source: rows } });
        const { code, stage } = await rig.json("up");
        expect(code).toBe(1);
        expect(stage("model").error).toContain(
            "the model has no safetensors weights; pickled ones (.bin) are refused, because loading them runs code",
        );
    });

    test("without a network the commit that is pinned is not there, and the error says what to do", async () => {
        const endpoint = rig.environment["HF_ENDPOINT"];
        rig.environment["HF_ENDPOINT"] = "http://127.0.0.1:9";
        rig.configure({ model: { source: { huggingface: "someone/else", revision: "3".repeat(40) } } });
        const { code, stage } = await rig.json("up");
        rig.environment["HF_ENDPOINT"] = endpoint;
        expect(code).toBe(1);
        expect(stage("model").error).toMatch(
            /someone\/else at 333333333333 could not be downloaded: .+; where the hub cannot be reached, name a mirror in model\.source\.endpoint or HF_ENDPOINT, or use model\.source\.folder/,
        );
    });
});
