import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { JsonObject } from "../../pipeline/identity";
import { project } from "../../scripts/locations.cjs";
import { all, digestsOf, python, Rig } from "./rig";

const programs = path.join(project, "pipeline", "llamafactory", "programs");

let rig: Rig;
beforeAll(() => {
    rig = new Rig();
});
afterAll(() => rig.dispose());

const training = () => {
    const run = rig.runs("Training").at(-1);
    if (run === undefined) throw new Error("there is no training");
    return run;
};
const events = (): JsonObject[] =>
    fs
        .readFileSync(path.join(training().folder, "events.jsonl"), "utf8")
        .split("\n")
        .slice(0, -1)
        .map((line) => JSON.parse(line) as JsonObject);
const notes = () => events().flatMap(({ type, text }) => (type === "note" ? [text] : []));

test("two real steps on the longest rows come before the first step of the training, and leave nothing in it", async () => {
    const { code, stage } = await rig.json("up");
    expect(code).toBe(0);
    expect(notes()).toEqual([
        "preflight: template, row lengths, memory and disk, two real steps",
        "30 of 30 rows (100%) are longer than cutoffLength and will be cut off; the longest has 569 tokens",
        expect.stringMatching(/^preflight: two steps on the longest rows took \d\.\d GiB of memory$/),
        expect.stringMatching(/^training on \d+ rows$/),
    ]);
    const { steps } = stage("training").facts as { steps: number };
    expect(training().steps).toEqual([...Array(steps).keys()].map((step) => step + 1));
    const result = JSON.parse(fs.readFileSync(path.join(training().folder, "result.json"), "utf8")) as JsonObject;
    expect(result["metrics"]).toMatchObject({
        rowsCutOff: 1,
        rowsWithoutAnswer: 0,
        peakMiB: expect.any(Number) as number,
    });
});

test("what is in the store has none", async () => {
    const before = events().length;
    fs.rmSync(path.join(rig.home, "state"), { recursive: true });
    expect((await rig.json("up")).actions).toEqual(all("cached"));
    expect(events()).toHaveLength(before);
});

test("a changed preflight reruns nothing, and without one the training makes the same", async () => {
    const { answer } = await rig.json("up");
    const file = path.join(rig.project, "pipeline", "llamafactory", "programs", "preflight.py");
    const whole = fs.readFileSync(file, "utf8");
    fs.appendFileSync(file, "\n\ndef preflight(given, resumed):\n    return {}\n");
    expect((await rig.json("up")).actions).toEqual(all("unchanged"));

    const home = rig.home;
    rig.home = path.join(rig.folder, "without");
    const without = await rig.json("up");
    expect(notes()).toEqual([expect.stringMatching(/^training on \d+ rows$/)]);
    expect(digestsOf(without.answer)["training"]).toBe(digestsOf(answer)["training"]);
    rig.home = home;
    fs.writeFileSync(file, whole);
});

test("every reason is said at once, in seconds and before a step", async () => {
    const rows = rig.sample(40).map((row, index) => ({
        ...row,
        question: `${"咳嗽".repeat(2000)}${index}`,
        // Short answers are kept, and questions cut instead.
        answer: `${"多喝水。".repeat(6)}${index}`,
    }));
    rig.writeRows(rows);
    rig.configure({ training: { cutoffLength: 64, batchSize: 1_000_000 } });
    const { code, actions, stage } = await rig.json("up");
    expect({ code, actions }).toEqual({
        code: 1,
        actions: all("skipped", { dataset: "ran", model: "unchanged", training: "failed" }),
    });
    const [first, ...lines] = (stage("training").error ?? "").split("\n");
    expect(first).toBe(`run ${training().key.slice(0, 12)} failed: the training cannot be run, for 2 reasons:`);
    expect(lines[0]).toMatch(
        /^ {2}training\.cutoffLength: (\d+) of \1 rows have no answer left within 64 tokens, wanted fewer than half; the longest row has \d{4,}: raise it, or take shorter rows$/,
    );
    expect(lines[1]).toMatch(
        /^ {2}memory: the machine has [\d.]+ GiB, and the training needs about [\d.]+ GiB: smaller training\.batchSize \(1000000\), smaller training\.cutoffLength \(the longest row has 64 tokens\), .*training\.method qlora instead of lora, or a machine with more$/,
    );
    expect(training()).toMatchObject({ state: "failed", steps: [] });
});

// What cannot be brought about without taking the machine's memory or disk away: run_exp is replaced, the rest is real.
test("what goes wrong in the two steps is told as what it is", () => {
    const folder = path.join(rig.folder, "preflight", "a", "work");
    for (const name of ["dataset", "base"]) fs.mkdirSync(path.join(folder, name), { recursive: true });
    const [model] = rig.runs("Model");
    fs.cpSync(fs.realpathSync(path.join(model?.folder ?? "", "out")), path.join(folder, "base"), { recursive: true });
    const row = JSON.stringify({ instruction: "Answer.", input: "A cold?", output: "Rest." });
    fs.writeFileSync(path.join(folder, "dataset", "train.jsonl"), `${row}\n`.repeat(9));
    const { parameters } = JSON.parse(fs.readFileSync(path.join(training().folder, "job.json"), "utf8")) as {
        parameters: JsonObject;
    };
    const job = { parameters: { ...parameters, batchSize: 4, cutoffLength: 128 } };
    fs.writeFileSync(path.join(folder, "..", "job.json"), JSON.stringify(job));
    const program = `
import json, os, pathlib, preflight

class State:
    global_step = 2

def ran_out():
    raise preflight.torch.OutOfMemoryError("CUDA out of memory.")

def killed():
    os.kill(os.getpid(), 9)

def not_finite():
    steps.on_log(None, State(), None, {"grad_norm": float("nan")})

def disk_full():
    raise OSError(28, "No space left on device")

def run_exp(options, callbacks):
    global steps
    [steps] = callbacks
    assert (options["dataset"], options["max_steps"], options["gradient_accumulation_steps"]) == ("preflight", 2, 1)
    assert len(open("preflight.jsonl").readlines()) == 8
    happening()

preflight.run_exp = run_exp
told = []
for happening in (ran_out, killed, not_finite, disk_full):
    try:
        preflight.preflight({"per_device_train_batch_size": 4}, resumed=False)
    except SystemExit:
        told.append(json.loads(pathlib.Path("outcome.json").read_text())["error"])
    except RuntimeError as error:
        told.append(str(error))
print(json.dumps(told))
`;
    const ended = spawnSync(python, ["-c", program], {
        cwd: folder,
        env: { ...process.env, PYTHONPATH: programs, PYTHONDONTWRITEBYTECODE: "1", HF_HUB_OFFLINE: "1" },
        encoding: "utf8",
    });
    expect(ended.status, ended.stderr).toBe(0);
    const advice =
        "with training.batchSize 4 and rows of up to 128 tokens: make one of them smaller, keep gradient checkpointing on, take training.method qlora, or a machine with more memory";
    expect(JSON.parse(ended.stdout.trimEnd().split("\n").at(-1) ?? "")).toEqual([
        `memory ran out in the first two steps, ${advice}`,
        `the machine ran out of memory, and the kernel killed the process, ${advice}`,
        "grad_norm became nan at step 2: lower training.learningRate, or check the data",
        "preflight: OSError: [Errno 28] No space left on device",
    ]);
});
