import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { project } from "../../scripts/locations.cjs";
import { temporaryFolder } from "./datasets/folder";

const PROGRAM = `
import json, sys, types
from pathlib import Path
sys.modules["transformers"] = types.SimpleNamespace(TrainerCallback=object)
sys.path.insert(0, sys.argv[1])
from retune_job import base_model
seen = []
for model in sys.argv[2:]:
    view = Path(base_model(model, "fp32"))
    seen.append({file.name: file.read_text() for file in view.iterdir()})
print(json.dumps(seen))
`;

test("a model is loaded from its own files alone, whatever was loaded before it", () => {
    const folder = temporaryFolder();
    const models: Record<string, Record<string, string>> = {
        incumbent: { "config.json": "{}", "model.safetensors": "incumbent", "chat_template.jinja": "of the incumbent" },
        model: { "config.json": "{}", "model-00001-of-00002.safetensors": "base" },
    };
    for (const [model, files] of Object.entries(models)) {
        mkdirSync(path.join(folder, "work", model), { recursive: true });
        for (const [name, content] of Object.entries(files))
            writeFileSync(path.join(folder, "work", model, name), content);
    }
    writeFileSync(path.join(folder, "job.json"), JSON.stringify({ parameters: {} }));
    const programs = path.join(project, "pipeline", "llamafactory", "programs");
    const env = { ...process.env, PYTHONDONTWRITEBYTECODE: "1" };
    const names = ["incumbent", "model", "incumbent"];
    const answer = execFileSync("python3", ["-c", PROGRAM, programs, ...names], {
        cwd: path.join(folder, "work"),
        encoding: "utf8",
        env,
    });
    const config = JSON.stringify({ dtype: "float32" }, undefined, 2);
    expect(JSON.parse(answer)).toEqual(names.map((name) => ({ ...models[name], "config.json": config })));
});
