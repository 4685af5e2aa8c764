import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { actionsOf, all, filesBelow, listing, python, Rig, stageOf, type Answer } from "./rig";

/*
 * An export is tampered with between its merge and its check, in an update. Then a good run's export is checked once
 * more after something else was done to its weights, by the program that checks every export and with the real
 * LLaMA-Factory: in one process, as to import it takes longer than the checks.
 */

const PROGRAM = `
import json, shutil, sys, torch
from pathlib import Path
from safetensors.torch import load_file, save_file
sys.path.insert(0, "../programs")
import parity

half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(sys.argv[2])
if half:  # LLaMA-Factory asks for a processor that has it: stand-ins for its answers
    parity.parameters["precision"] = sys.argv[2]
    parity.predict = lambda rows, name, **_: [{"prompt": row["input"], "answer": "多休息。"} for row in rows]
shutil.copytree("out", "whole")
for name, factor, *place in json.loads(sys.argv[1]):
    shutil.copytree("whole", "out", dirs_exist_ok=True)
    file = Path("out/model.safetensors")
    tensors = load_file(file)
    if factor is None:
        del tensors[name]
    elif name:
        part = tuple(slice(None) if at is None else at for at in place) or slice(None)
        tensors[name][part] *= factor
    if half:
        tensors = {name: tensor.to(half) for name, tensor in tensors.items()}
    save_file(tensors, file, metadata={"format": "pt"})
    try:
        print("TOLD", json.dumps(parity.check_parity()))
    except SystemExit:
        print("TOLD", json.dumps(json.loads(Path("outcome.json").read_text())["error"]))
`;

const LAYER = "model.layers.1";

/** Scales a tensor of fp32 in a safetensors file: that begins with the length of a header, which says where each lies. */
function scale(file: string, name: string, factor: number): void {
    const content = fs.readFileSync(file);
    const length = Number(content.readBigUInt64LE());
    const tensors = JSON.parse(content.toString("utf8", 8, 8 + length)) as Record<
        string,
        { data_offsets: [number, number] }
    >;
    const [from = 0, to = 0] = tensors[name]?.data_offsets ?? [];
    for (let at = 8 + length + from; at < 8 + length + to; at += 4) {
        content.writeFloatLE(content.readFloatLE(at) * factor, at);
    }
    fs.writeFileSync(file, content);
}

describe("an export is refused when it is not what was trained", () => {
    let rig: Rig;
    beforeAll(() => {
        rig = new Rig();
    });
    afterAll(() => rig.dispose());

    /** What the check says of the last export with its tensors, or a part of each, scaled one after the other. */
    function checked(
        tampered: readonly (readonly [tensor: string, factor: number | null, ...place: (number | null)[]])[],
        precision: "fp32" | "bf16" | "fp16" = "fp32",
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

    test("a merge that is tampered with fails the update: the old export stays, and nothing of the new one is kept", async () => {
        const first = await rig.json("up");
        expect(first.actions, first.stderr).toEqual(all("ran"));
        const folder = fs.realpathSync(fileURLToPath(first.stage("export").uri ?? ""));
        const before = { files: listing(folder), state: rig.stored("export") };
        const exportsIn = (store: string) =>
            filesBelow(store).filter((file) => path.basename(file) === "SHA256SUMS" || file.includes(".new"));
        const kept = exportsIn(path.join(rig.home, "store"));

        const running = rig.spawn("up", ["--json", "--set", "training.seed=2"]);
        const run = await running.until("its export is merged", () => {
            const active = rig.active("Export");
            const events = active === undefined ? "" : path.join(active.folder, "events.jsonl");
            if (!fs.existsSync(events) || !fs.readFileSync(events, "utf8").includes("comparing the exported")) return;
            rig.pause();
            return active;
        });
        // Its norm takes the factor away again: no answer and no logit tells.
        const name = `${LAYER}.self_attn.k_proj.weight`;
        scale(path.join(run.folder, "work", "out", "model.safetensors"), name, 1.01);
        rig.resume();
        const { code, stdout } = await running.ended;
        const answer = JSON.parse(stdout.trimEnd().split("\n").at(-1) ?? "") as Answer;
        expect({ code, actions: actionsOf(answer) }).toEqual({
            code: 1,
            actions: all("ran", { dataset: "unchanged", model: "unchanged", export: "failed", report: "skipped" }),
        });
        const error = stageOf(answer, "export").error ?? "";
        const short = run.key.slice(0, 12);
        expect(error.split("\n")[0]).toBe(
            `run ${short} failed: the exported model is not what was trained: ${name} differs by 1.00% of its norm, ` +
                "where 0.001% is rounding",
        );
        expect(error.endsWith(`\n  the whole log: npm run logs -- ${short}`), error).toBe(true);
        expect({ files: listing(folder), state: rig.stored("export") }).toEqual(before);
        execFileSync("sha256sum", ["--check", "--strict", "--quiet", "SHA256SUMS"], { cwd: folder });
        expect(exportsIn(path.join(rig.home, "store"))).toEqual(kept);
        expect(rig.runs("Export").map(({ state }) => state)).toEqual(["succeeded", "failed"]);

        const honest = await rig.json("up", "--set", "training.seed=2");
        expect({ code: honest.code, actions: honest.actions }).toEqual({
            code: 0,
            actions: all("unchanged", { export: "ran", report: "ran" }),
        });
        expect(honest.stage("export").digest).not.toBe(first.stage("export").digest);
    });

    test("in fp32 a tensor that is scaled by 1.01 is named, with the prompt and the token at which logits part", () => {
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

    test.each([
        ["bf16", "0.500", "0.750", 1.05, "1.600"],
        ["fp16", "0.100", "0.100", 1.01, "0.200"],
    ] as const)(
        "in %s rounding passes, and a tensor, a row, a column or a number that is scaled does not",
        (precision, ofTensor, ofLine, factor, ofNumber) => {
            const name = `${LAYER}.mlp.down_proj.weight`;
            const [untouched, tensor, key, row, column, number] = checked(
                [
                    ["", 1],
                    [name, 1.01],
                    [`${LAYER}.self_attn.k_proj.weight`, 1.01],
                    [name, 1.01, 5],
                    [name, 1.01, null, 7],
                    [name, factor, 5, 7],
                ],
                precision,
            );
            expect(untouched).toMatchObject({ checked: 2, equal: 2, tensors: 24 });
            const reason = (place: string, allowed: string) =>
                new RegExp(
                    String.raw`^the exported model is not what was trained: ${place} differs by [01456]\.\d\d% of its norm, where ${allowed}% is rounding`,
                );
            expect(String(tensor)).toMatch(reason(name, ofTensor));
            expect(String(key)).toMatch(reason(`${LAYER}.self_attn.k_proj.weight`, ofTensor));
            expect(String(row)).toMatch(reason(`row 6 of ${name}`, ofLine));
            expect(String(column)).toMatch(reason(`column 8 of ${name}`, ofLine));
            expect(String(number)).toMatch(reason(`the number in row 6, column 8 of ${name}`, ofNumber));
        },
    );

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
