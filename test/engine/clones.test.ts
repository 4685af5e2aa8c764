import * as fs from "node:fs";
import * as path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { all, digestsOf, Rig, stageOf, type Answer } from "./rig";

// Each clone keeps its own state, as with a backend of its own; the runs are in the home that they share.
describe("two clones of the project", () => {
    let rig: Rig;
    let here: string;
    let there: string;
    let done: Answer;
    const hold = () => path.join(rig.control, "hold-Training");
    const starts = () => fs.readFileSync(path.join(rig.control, "starts"), "utf8").trimEnd().split("\n").sort();
    const stateIn = (clone: string) => {
        const state = path.join(clone, ".git", "state");
        fs.mkdirSync(state, { recursive: true });
        return { PULUMI_BACKEND_URL: `file://${state}` };
    };
    const up = (clone: string, ...args: string[]) => {
        rig.project = clone;
        return rig.spawn("up", ["--json", ...args], { env: stateIn(clone) });
    };
    const answerOf = (stdout: string) => JSON.parse(stdout.trimEnd().split("\n").at(-1) ?? "") as Answer;
    const actions = ({ stages }: Answer) => Object.fromEntries(stages.map(({ name, action }) => [name, action]));

    beforeAll(() => {
        rig = new Rig({ standIns: true });
        here = rig.project;
        there = path.join(rig.folder, "clone");
        fs.cpSync(here, there, { recursive: true, verbatimSymlinks: true });
    });
    afterAll(() => rig.dispose());

    test("an up of one follows the training that the other has started, and both end with the same results", async () => {
        fs.writeFileSync(hold(), "");
        const first = up(here);
        const run = await first.until("the training runs", () => rig.active("Training"));
        const second = up(there);
        await second.until("it follows the training", () => / training +… /.test(second.stderr));
        expect(first.isOver).toBe(false);
        fs.rmSync(hold());
        const ended = [await first.ended, await second.ended];
        expect(ended.map(({ code }) => code)).toEqual([0, 0]);
        const [one, other] = ended.map(({ stdout }) => answerOf(stdout));
        if (one === undefined || other === undefined) throw new Error("an answer is missing");
        done = one;
        expect(actions(one)).toMatchObject({ dataset: "ran", model: "ran", training: "ran" });
        expect(actions(other)).toMatchObject({ dataset: "cached", model: "cached", training: "attached" });
        expect({ ...digestsOf(other), report: "" }).toEqual({ ...digestsOf(one), report: "" });
        // What comes after the training is started by whoever is first, and by nobody else.
        expect(starts()).toEqual(["Answers", "Baseline", "Export", "Model", "Training"]);
        expect(rig.runs("Training")).toEqual([expect.objectContaining({ key: run.key, attempt: 1 })]);
    });

    test("neither has anything left to do", async () => {
        for (const clone of [here, there]) {
            const { code, stdout } = await up(clone).ended;
            expect({ code, actions: actions(answerOf(stdout)) }).toEqual({ code: 0, actions: all("unchanged") });
        }
    });

    test("a second stack with the same description takes every result, and starts nothing", async () => {
        const before = starts();
        fs.copyFileSync(path.join(there, "Pulumi.test.yaml"), path.join(there, "Pulumi.second.yaml"));
        const { code, stdout } = await up(there, "--stack", "second").ended;
        // The page names the stack.
        expect({ code, actions: actions(answerOf(stdout)) }).toEqual({
            code: 0,
            actions: all("cached", { report: "ran" }),
        });
        expect(starts()).toEqual(before);
        expect({ ...digestsOf(answerOf(stdout)), report: "" }).toEqual({ ...digestsOf(done), report: "" });
    });

    test("a detached run of one is followed to its end by the other, whose state is lost", async () => {
        const AGAIN = ["--set", "training.seed=7"];
        fs.writeFileSync(hold(), "");
        expect((await up(here, "--detach", ...AGAIN).ended).code).toBe(4);
        const { PULUMI_BACKEND_URL } = stateIn(there);
        fs.rmSync(fileURLToPath(PULUMI_BACKEND_URL), { recursive: true });
        const second = up(there, ...AGAIN);
        await second.until("it follows the training", () => / training +… /.test(second.stderr));
        fs.rmSync(hold());
        const { code, stdout } = await second.ended;
        expect({ code, actions: actions(answerOf(stdout)) }).toEqual({
            code: 0,
            actions: all("ran", { dataset: "cached", model: "cached", training: "attached" }),
        });
        const back = await up(here, ...AGAIN).ended;
        expect({ code: back.code, actions: actions(answerOf(back.stdout)) }).toEqual({
            code: 0,
            actions: all("cached", { dataset: "unchanged", model: "unchanged" }),
        });
        expect(digestsOf(answerOf(back.stdout))).toEqual(digestsOf(answerOf(stdout)));
        expect(starts().filter((kind) => kind === "Training")).toHaveLength(2);
        expect(stageOf(answerOf(stdout), "training").key).toBe(rig.runs("Training").at(-1)?.key);
    });
});
