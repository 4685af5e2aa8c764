// Copies of checkpoints in a bucket, for a machine that is lost with its disk. rclone is the real one, with a folder in
// place of S3; test/aws has them in an S3.
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { beforeEach, describe, expect, test, vi } from "vitest";
import type { RunEvent } from "../../pipeline/executor/executor";
import { sha256 } from "../../pipeline/identity";
import { endAll, read, until } from "./processes";
import { call, ended, folder, home, key, letGo, payload, reached, runFolder, type Status } from "./runner-rig";

const rclone = spawnSync("sh", ["-c", "command -v rclone"], { encoding: "utf8" }).stdout.trim();
const missing = rclone === "" ? " (skipped: rclone is not installed)" : "";

const PLACE = "bucket/retune/checkpoints";
const STEPS = 6;

/** Saves at every second step, and waits for the test after the third. */
const TRAINING = `
def save(step):
    folder = Path(f"trainer/checkpoint-{step}")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("optimizer", "weights"): (folder / name).write_text(f"{name} after {step}")
    Path("saved.json").write_text(json.dumps({"folder": str(folder), "step": step}))
begin = max((int(one.name.split("-")[1]) for one in Path("trainer").glob("checkpoint-*")), default=0)
with Path("../begins").open("a") as file: file.write(f"{begin} ")
if begin: assert Path(f"trainer/checkpoint-{begin}/weights").read_text() == f"weights after {begin}"
for step in range(begin + 1, ${STEPS} + 1):
    with Path("../events.jsonl").open("a") as file:
        file.write(json.dumps({"time": time.time(), "type": "progress", "phase": "learning", "step": step, "steps": ${STEPS}}) + "\\n")
    if step % 2 == 0: save(step)
    while step == 3 and not Path("../go").exists() and not Path("../stop").exists(): time.sleep(0.01)
    if Path("../stop").exists():
        save(step)
        sys.exit(75)
succeed()
`;

describe.skipIf(missing !== "")(`copies of checkpoints${missing}`, () => {
    let bucket: string;

    beforeEach(() => {
        const programs = path.join(folder, "programs");
        bucket = path.join(folder, "s3", PLACE);
        mkdirSync(programs);
        mkdirSync(path.join(folder, "s3"));
        // Without \`down\` nobody is there; with \`torn\` the files of a checkpoint do not all get there.
        const script = `#!/bin/bash
            if [[ -e ${folder}/down ]]; then echo "2026/01/01 12:00:00 ERROR : dial tcp: connection refused" >&2; exit 1; fi
            if [[ -e ${folder}/torn && $2 == */files ]]; then set -- "$@" --include /optimizer; torn=1; fi
            ${rclone} "\${@/#:s3:/${folder}/s3/}"; code=$?
            exit $((torn ? 1 : code))`;
        writeFileSync(path.join(programs, "rclone"), script, { mode: 0o755 });
        vi.stubEnv("PATH", `${programs}:${process.env["PATH"] ?? ""}`);
    });

    const train = (of = key): Promise<Status> => {
        const checkpoints = { place: PLACE, region: "us-east-1" };
        return call(["submit"], payload(TRAINING, { stoppable: true, checkpoints, key: of }));
    };
    const at = (step: number, of = key): Promise<void> =>
        until(() => read(path.join(runFolder(of), "events.jsonl")).includes(`"step": ${step},`));
    const copied = (): number | undefined => {
        const text = read(path.join(bucket, key, "checkpoint.json"));
        return text === "" ? undefined : (JSON.parse(text) as { step: number }).step;
    };
    const stop = (why = ""): void => {
        writeFileSync(path.join(runFolder(), "stop"), why);
    };
    /** Nothing of the machine is left, and the next one is empty. */
    const loseMachine = async (): Promise<void> => {
        await endAll(folder);
        rmSync(home, { recursive: true });
    };
    const begins = (of = key): string => read(path.join(runFolder(of), "begins"));
    const notes = (of = key) =>
        read(path.join(runFolder(of), "events.jsonl"))
            .split("\n")
            .slice(0, -1)
            .map((line) => JSON.parse(line) as RunEvent)
            .filter((event) => event.type === "note")
            .map(({ text, warning }) => ({ text, warning }));
    /** Lets a training that waits, or one that is to come, end. */
    const goOn = (of = key): Promise<Status> => {
        letGo(of);
        return ended(of);
    };

    test("a machine that is lost without notice loses the steps since its last checkpoint", async () => {
        await train();
        await until(() => copied() === 2);
        await at(3);
        await loseMachine();
        expect(await train()).toMatchObject({ started: true });
        await at(3);
        const { state, attempt, events } = await goOn();
        expect({ state, attempt, begins: begins() }).toEqual({ state: "succeeded", attempt: 2, begins: "2 " });
        expect(events.flatMap((event) => (event.type === "progress" ? event.step : event.type))).toEqual(
            // As far as the first one had told of itself.
            expect.arrayContaining([1, 2, "note", 3, 4, 5, 6]),
        );
        expect(notes()).toEqual([{ text: "brings the checkpoint at step 2 from the mirror", warning: undefined }]);
    });

    test("what is asked to stop, and why, is copied before it counts as stopped; nothing is lost", async () => {
        await train();
        await at(3);
        stop("AWS takes the machine back\n");
        expect(await ended()).toMatchObject({
            state: "stopped",
            reason: "AWS takes the machine back; a checkpoint was saved; the mirror has a copy of it",
        });
        expect(copied()).toBe(3);
        await loseMachine();
        await train();
        const { state, attempt, result } = await goOn();
        expect({ state, attempt, begins: begins() }).toEqual({ state: "succeeded", attempt: 2, begins: "3 " });
        // Of both machines.
        expect(result?.seconds).toBeGreaterThan((result?.finishedAt ?? 0) - (result?.startedAt ?? 0));
    });

    test("the same machine goes on from its own disk", async () => {
        await train();
        await at(3);
        stop();
        const { reason } = await ended();
        expect(reason).toBe("stopped on request; a checkpoint was saved; the mirror has a copy of it");
        await train();
        expect(await goOn()).toMatchObject({ state: "succeeded", attempt: 2 });
        expect({ begins: begins(), notes: notes() }).toEqual({ begins: "0 3 ", notes: [] });
    });

    test("one of which a part is missing is not there: the one before it is", async () => {
        await train();
        await until(() => copied() === 2);
        writeFileSync(path.join(folder, "torn"), "");
        await at(3);
        stop();
        expect((await ended()).reason).toMatch(
            /^stopped on request; a checkpoint was saved; it is on this machine alone: /,
        );
        expect(readdirSync(path.join(bucket, key)).sort()).toEqual([
            "0",
            "1",
            "checkpoint.json",
            "events.jsonl",
            "state.json",
        ]);
        rmSync(path.join(folder, "torn"));
        await loseMachine();
        await train();
        await at(3);
        await goOn();
        expect(begins()).toBe("2 ");
    });

    test("one that was altered is not used, and that is said", async () => {
        await train();
        await until(() => copied() === 2);
        await loseMachine();
        writeFileSync(path.join(bucket, key, "0", "weights"), "weights after ?");
        await train();
        await at(3);
        expect(await goOn()).toMatchObject({ state: "succeeded" });
        expect(begins()).toBe("0 ");
        expect(notes().filter(({ warning }) => warning)).toEqual([
            { text: "no checkpoint was brought from the mirror: the one at step 2 is damaged there", warning: true },
        ]);
    });

    test("one of another run is not used, and that is said", async () => {
        await train();
        await until(() => copied() === 2);
        await loseMachine();
        const other = sha256("another run");
        cpSync(path.join(bucket, key), path.join(bucket, other), { recursive: true });
        await train(other);
        await at(3, other);
        expect(await goOn(other)).toMatchObject({ state: "succeeded" });
        expect(begins(other)).toBe("0 ");
        expect(notes(other).filter(({ warning }) => warning)).toEqual([
            {
                text: "no checkpoint was brought from the mirror: the one that is there is of another run",
                warning: true,
            },
        ]);
    });

    test("one that is further is not replaced by a training that had to begin again", async () => {
        await train();
        await at(3);
        stop();
        await ended();
        await loseMachine();
        writeFileSync(path.join(folder, "down"), "");
        await train();
        await at(3);
        rmSync(path.join(folder, "down"));
        stop();
        expect((await ended()).reason).toContain("; the mirror has a copy of it");
        expect({ begins: begins(), copied: copied() }).toEqual({ begins: "0 ", copied: 3 });
    });

    test.each([
        ["without the mirror", "down", "dial tcp: connection refused"],
        ["without rclone", "programs", "rclone is not installed on this machine"],
    ])("%s a training goes on, and says so once", async (_what, change, problem) => {
        if (change === "down") writeFileSync(path.join(folder, "down"), "");
        else vi.stubEnv("PATH", onlyPython());
        await train();
        await reached(["running"]);
        expect(await goOn()).toMatchObject({ state: "succeeded", attempt: 1 });
        expect(notes()).toEqual([{ text: `no checkpoint was brought from the mirror: ${problem}`, warning: true }]);
        expect(existsSync(bucket)).toBe(false);
    });

    /** A PATH with what the runner is started by, and no more. */
    function onlyPython(): string {
        const empty = path.join(folder, "empty");
        mkdirSync(empty);
        return empty;
    }
});
