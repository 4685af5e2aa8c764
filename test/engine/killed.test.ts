import * as fs from "node:fs";
import * as path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { childrenOf, commandOf, isAlive, killNow } from "./processes";
import { all, eventually, Rig, type RunFolder } from "./rig";

const STEPS = 40;
const UNCHANGED = { dataset: "unchanged", model: "unchanged" };

// One home: all of them train on the same data set and the same model.
describe("kill -9 in the middle of a training", () => {
    let rig: Rig;
    beforeAll(() => {
        rig = new Rig();
    });
    afterAll(() => rig.dispose());

    const of = (seed: number) => ["--set", `training.maxSteps=${STEPS}`, "--set", `training.seed=${seed}`];
    const training = () => rig.runs("Training").at(-1);
    /** Follows a new training to the step after its first checkpoint, and stops its clock there. */
    const follow = async (seed: number) => {
        const client = rig.spawn("up", of(seed));
        const atCheckpoint = (): RunFolder | undefined => {
            const active = rig.active("Training");
            return active !== undefined && active.steps.length > STEPS / 4 ? active : undefined;
        };
        const run = await eventually("a checkpoint", atCheckpoint, 300);
        rig.pause();
        return { client, run };
    };
    const shown = async (key: string) => {
        const { stdout } = await rig.run("status", "--json");
        const { runs } = JSON.parse(stdout) as { runs: { key: string; state: string; reason?: string }[] };
        const { state, reason } = runs.find((run) => run.key === key) ?? {};
        return { state, reason };
    };
    /** The next update goes on where the newest complete checkpoint was, and comes to its end. */
    const expectResumed = async (seed: number, { key, folder }: RunFolder) => {
        const { code, actions, stage } = await rig.json("up", ...of(seed));
        expect({ code, actions }).toEqual({ code: 0, actions: all("ran", UNCHANGED) });
        expect(stage("training").facts).toMatchObject({ steps: STEPS });
        const now = training();
        expect(now).toMatchObject({ key, state: "succeeded", attempt: 2 });
        const events = fs.readFileSync(path.join(folder, "events.jsonl"), "utf8");
        const resumed = Number(/"resumed from the checkpoint at step (\d+);/.exec(events)?.[1]);
        expect(resumed).toBeGreaterThan(0);
        // Nothing before the checkpoint was done again, nothing after it left out.
        const steps = now?.steps ?? [];
        const again = steps.slice(steps.lastIndexOf(resumed + 1));
        expect(again).toEqual(Array.from({ length: STEPS - resumed }, (_, index) => resumed + 1 + index));
        expect(steps.filter((step) => step <= resumed)).toHaveLength(resumed);
        expect((await rig.json("up", ...of(seed))).actions).toEqual(all("unchanged"));
    };

    test("of the provider: the update fails, the run goes on, and the next one attaches", async () => {
        const { client, run } = await follow(1);
        const cli = await client.cli();
        const provider = childrenOf(cli).find((pid) => commandOf(pid).includes("pulumi-resource-finetune"));
        killNow(provider);
        expect((await client.ended).code).toBe(1);
        expect({ locks: rig.locks(), pending: rig.state().pending_operations ?? [] }).toEqual({
            locks: [],
            pending: [],
        });
        expect(training()).toMatchObject({ key: run.key, state: "running", attempt: 1 });
        rig.resume();
        const { code, actions } = await rig.json("up", ...of(1));
        expect({ code, actions }).toEqual({ code: 0, actions: all("ran", { ...UNCHANGED, training: "attached" }) });
        expect(training()).toMatchObject({ key: run.key, state: "succeeded", attempt: 1 });
        expect(training()?.steps).toHaveLength(STEPS);
    });

    test("of its supervisor: the run is lost, its program ends too, and the next update resumes it", async () => {
        const { client, run } = await follow(2);
        const [program = 0] = rig.jobs();
        killNow(run.pid);
        const { code, stdout, stderr } = await client.ended;
        expect(code).toBe(1);
        const lost = "its process is gone without a result";
        expect(stdout + stderr).toContain(`run ${run.key.slice(0, 12)} lost: ${lost}`);
        await eventually("its program ends", () => !isAlive(program));
        expect(await shown(run.key)).toEqual({ state: "lost", reason: lost });
        await expectResumed(2, run);
    });

    test("of its program: the run failed, with the signal as the reason, and the next update resumes it", async () => {
        const { client, run } = await follow(3);
        killNow(rig.jobs()[0]);
        const { code, stdout, stderr } = await client.ended;
        expect(code).toBe(1);
        const killed = "the process was killed (signal 9); where nobody did it, the machine ran out of memory";
        expect(stdout + stderr).toContain(`run ${run.key.slice(0, 12)} failed: ${killed}`);
        expect(await shown(run.key)).toEqual({ state: "failed", reason: killed });
        await expectResumed(3, run);
    });
});
