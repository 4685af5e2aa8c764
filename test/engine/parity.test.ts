import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { all, python, Rig } from "./rig";

/*
 * A good run's export is checked once more after something was done to its weights, by the program that checks every
 * export and with the real LLaMA-Factory: in one process, as to import it takes longer than the checks.
 */

const PROGRAM = `
import json, shutil, sys, torch
from pathlib import Path
from safetensors.torch import load_file, save_file
sys.path.insert(0, "../programs")
import parity

half = sys.argv[2] == "bf16"
if half:  # LLaMA-Factory asks for a processor that has it: stand-ins for its answers
    parity.parameters["precision"] = "bf16"
    parity.predict = lambda rows, name, **_: [{"prompt": row["input"], "answer": "多休息。"} for row in rows]
shutil.copytree("out", "whole")
for name, factor in json.loads(sys.argv[1]):
    shutil.copytree("whole", "out", dirs_exist_ok=True)
    file = Path("out/model.safetensors")
    tensors = load_file(file)
    if factor is None:
        del tensors[name]
    elif name:
        tensors[name] = (tensors[name].float() * factor).to(tensors[name].dtype)
    if half:
        tensors = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    save_file(tensors, file, metadata={"format": "pt"})
    try:
        print("TOLD", json.dumps(parity.check_parity()))
    except SystemExit:
        print("TOLD", json.dumps(json.loads(Path("outcome.json").read_text())["error"]))
`;

const LAYER = "model.layers.1";

describe("an export is refused when it is not what was trained", () => {
    let rig: Rig;
    beforeAll(() => {
        rig = new Rig();
    });
    afterAll(() => rig.dispose());

    /** What the check says of the last export with its tensors scaled, one after the other. */
    function checked(
        tampered: readonly (readonly [tensor: string, factor: number | null])[],
        precision: "fp32" | "bf16" = "fp32",
    ): unknown[] {
        const run = rig.runs("Export").at(-1)?.folder ?? "";
        const folder = fs.mkdtempSync(path.join(rig.folder, "parity-"));
        const work = path.join(folder, "work");
        fs.mkdirSync(work);
        fs.cpSync(path.join(run, "job.json"), path.join(folder, "job.json"));
        fs.cpSync(path.join(run, "programs"), path.join(folder, "programs"), { recursive: true });
        fs.cpSync(fs.realpathSync(path.join(run, "out")), path.join(work, "out"), { recursive: true });
        const job = JSON.parse(fs.readFileSync(path.join(run, "job.json"), "utf8")) as {
            inputs: Record<string, string>;
            environment: Record<string, string>;
        };
        for (const [name, digest] of Object.entries(job.inputs)) {
            fs.symlinkSync(path.join(rig.home, "store", digest), path.join(work, name));
        }
        const told = execFileSync(python, ["-c", PROGRAM, JSON.stringify(tampered), precision], {
            cwd: work,
            env: { ...process.env, ...job.environment },
            encoding: "utf8",
            stdio: ["ignore", "pipe", "ignore"],
        });
        return [...told.matchAll(/^TOLD (.*)$/gm)].map(([, one = ""]) => JSON.parse(one) as unknown);
    }

    test("in fp32 a tensor that is scaled by 1.01 is named, with the prompt and the token at which logits part", async () => {
        expect((await rig.json("up")).actions).toEqual(all("ran"));
        const [untouched, down, embedding, key, lost] = checked([
            ["", 1],
            [`${LAYER}.mlp.down_proj.weight`, 1.01],
            ["model.embed_tokens.weight", 1.01],
            // Its norm takes the factor away again: no answer and no logit tells.
            [`${LAYER}.self_attn.k_proj.weight`, 1.01],
            [`${LAYER}.mlp.up_proj.weight`, null],
        ]);
        expect(untouched).toEqual({ checked: 2, equal: 2, tensors: 24, logits: expect.any(Number) as unknown });
        expect((untouched as { logits: number }).logits).toBeLessThan(1e-5);
        const parts =
            /^the exported model is not what was trained: ([\w.]+) differs by 1\.00% of its norm, where 0\.001% is rounding; logits part by [\d.]+%, where 0\.005% is rounding, from token \d+ of \d+ on \('.+'\) at prompt '感冒了应该怎么办？'/;
        expect(parts.exec(String(down))?.[1], String(down)).toBe(`${LAYER}.mlp.down_proj.weight`);
        expect(parts.exec(String(embedding))?.[1], String(embedding)).toBe("model.embed_tokens.weight");
        expect(key).toBe(
            `the exported model is not what was trained: ${LAYER}.self_attn.k_proj.weight differs by 1.00% of its norm, where 0.001% is rounding`,
        );
        expect(String(lost)).toMatch(
            /^the exported model lacks 1 tensors? of what was trained, such as model\.layers\.1\.mlp\.up_proj\.weight$/,
        );
    });

    test("in half precision rounding passes, and more does not", () => {
        const [untouched, down, key] = checked(
            [
                ["", 1],
                [`${LAYER}.mlp.down_proj.weight`, 1.01],
                [`${LAYER}.self_attn.k_proj.weight`, 1.01],
            ],
            "bf16",
        );
        expect(untouched).toMatchObject({ checked: 2, equal: 2, tensors: 24 });
        for (const [told, name] of [
            [down, "mlp.down_proj"],
            [key, "self_attn.k_proj"],
        ] as const) {
            expect(String(told)).toMatch(/^the exported model is not what was trained: /);
            expect(String(told)).toMatch(
                new RegExp(
                    String.raw`: model\.layers\.1\.${name}\.weight differs by [01]\.\d+% of its norm, where 0\.500% is rounding`,
                ),
            );
        }
    });

    test("of a whole model the weights must be those of the training", async () => {
        rig.configure({ training: { method: "full" } });
        const { code, stage, stderr } = await rig.json("up");
        expect(code, stderr).toBe(0);
        expect(stage("export").facts).toMatchObject({ parity: { checked: 0, tensors: 24 } });
        const [untouched, down] = checked([
            ["", 1],
            [`${LAYER}.mlp.down_proj.weight`, 1.01],
        ]);
        expect(untouched).toEqual({ checked: 0, tensors: 24 });
        expect(down).toBe(
            `the exported model is not what was trained: ${LAYER}.mlp.down_proj.weight differs by 1.00% of its norm, where 0.001% is rounding`,
        );
    });
});
