import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { project } from "../../scripts/locations.cjs";
import { temporaryFolder } from "./datasets/folder";

const PROGRAM = `
import sys, types
from pathlib import Path
sys.modules["transformers"] = types.SimpleNamespace(TrainerCallback=object)
sys.path.insert(0, sys.argv[1])
from retune_job import licence_of
print(licence_of(Path("model")))
`;

/** What the manifest of an export says of a model with these files. */
function licenceOf(files: Readonly<Record<string, string>>): string {
    const folder = temporaryFolder();
    const model = path.join(folder, "work", "model");
    mkdirSync(model, { recursive: true });
    writeFileSync(path.join(folder, "job.json"), JSON.stringify({ parameters: {} }));
    for (const [name, content] of Object.entries(files)) writeFileSync(path.join(model, name), content);
    const programs = path.join(project, "pipeline", "llamafactory", "programs");
    const options = {
        cwd: path.dirname(model),
        encoding: "utf8",
        env: { ...process.env, PYTHONDONTWRITEBYTECODE: "1" },
    };
    return execFileSync("python3", ["-c", PROGRAM, programs], options as { encoding: "utf8" }).trim();
}

test.each([
    ["nothing", {}, "None"],
    [
        "its card",
        { "README.md": "---\nlanguage: zh\nlicense: apache-2.0\n---\n# A model", "LICENSE": "MIT" },
        "apache-2.0",
    ],
    ["its card in quotes, with a comment", { "README.md": "---\r\nlicense: 'mit' # or so\r\n---\r\n" }, "mit"],
    ["a name of its own", { "README.md": "---\nlicense: other\nlicense_name: qwen-research\n---\n" }, "qwen-research"],
    [
        "a card without metadata",
        { "README.md": "license: mit\n", "LICENSE.txt": "\n  Apache License\n" },
        "Apache License",
    ],
    ["an empty file", { LICENSE: "" }, "None"],
])("the licence of a model, from %s", (_, files, licence) => {
    expect(licenceOf(files)).toBe(licence);
});
