import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { project } from "../../scripts/locations.cjs";
import { all, filesBelow, python, Rig } from "./rig";

describe("every method of training really runs, to the merged model", () => {
    let rig: Rig;
    beforeAll(() => {
        rig = new Rig();
    });
    afterAll(() => rig.dispose());

    const trained = { lora: "adapter_model.safetensors", full: "model.safetensors" };
    test.each([
        ["qlora", trained.lora, { checked: 2, equal: 2 }],
        ["full", trained.full, { checked: 0 }],
        ["freeze", trained.full, { checked: 0 }],
    ] as const)("%s", async (method, file, parity) => {
        rig.configure({ training: { method }, dataset: { split: { validation: 0 } } });
        const { code, actions, stage, stderr } = await rig.json("up");
        const first = method === "qlora" ? {} : { dataset: "unchanged", model: "unchanged" };
        expect({ code, actions }, stderr).toEqual({ code: 0, actions: all("ran", first) });
        expect(stage("training").facts).toMatchObject({ steps: 4, evalLoss: null });
        expect(stage("export").facts).toMatchObject({ parity });
        const files = (name: "training" | "export") =>
            filesBelow(fs.realpathSync(fileURLToPath(stage(name).uri ?? "")));
        expect(files("training")).toContain(file);
        expect(files("export")).toContain("model.safetensors");
        const log = fs.readFileSync(path.join(rig.runs("Training").at(-1)?.folder ?? "", "log"), "utf8");
        expect(log.includes("Quantizing model to 4 bit with bitsandbytes")).toBe(method === "qlora");
    });

    test("an option of LLaMA-Factory that is passed on reaches it", async () => {
        rig.configure({
            training: { llamafactory: { lora_dropout: 0.25, warmup_steps: 2 } },
            dataset: { split: { validation: 0 } },
        });
        const { code, stage, stderr } = await rig.json("up");
        expect(code, stderr).toBe(0);
        const folder = fileURLToPath(stage("training").uri ?? "");
        const adapter = JSON.parse(fs.readFileSync(path.join(folder, "adapter_config.json"), "utf8")) as unknown;
        expect(adapter).toMatchObject({ lora_dropout: 0.25, r: 4 });
    });
});

test("the committed schema of LLaMA-Factory's options is what its dataclasses say", () => {
    const folder = path.join(project, "pipeline", "llamafactory");
    const [committed = "", ...more] = fs.readdirSync(folder).filter((name) => /^options-.*\.json$/.test(name));
    expect(more).toEqual([]);
    const generated = execFileSync(python, [path.join(folder, "options_schema.py")], {
        encoding: "utf8",
        stdio: ["ignore", "pipe", "ignore"],
        maxBuffer: 1 << 26,
    });
    expect(generated).toBe(fs.readFileSync(path.join(folder, committed), "utf8"));
});
