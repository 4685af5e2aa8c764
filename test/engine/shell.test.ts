import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { eventually } from "./processes";
import { all, Rig } from "./rig";

// See Rig.shell for what is real.
describe("pulumi from a shell", () => {
    let rig: Rig;
    beforeAll(() => {
        rig = new Rig();
    });
    afterAll(() => rig.dispose());

    test("a preview and an up on an empty home", async () => {
        const init = await rig.shell("stack", "init").ended;
        expect(init.code, init.stderr).toBe(0);
        const preview = await rig.shell("preview").ended;
        expect(preview.code, preview.stderr).toBe(0);
        expect(preview.stdout).toContain("would run: new");
        expect(preview.stdout).toContain("+ 7 to create");
        expect(rig.runs()).toEqual([]);
        const up = await rig.shell("up", "--yes", "--skip-preview").ended;
        expect(up.code, up.stderr).toBe(0);
        expect(up.stdout).toContain("+ 7 created");
        expect(rig.runs()).toHaveLength(8); // the six stages, and the answers of base and tuned model
    });

    test("npm run up and the shell share the state", async () => {
        const { code, actions } = await rig.json("up");
        expect({ code, actions }).toEqual({ code: 0, actions: all("unchanged") });
        expect((await rig.json("up", "--set", "evaluation.answeredRows=1")).actions).toEqual(
            all("unchanged", { evaluation: "ran", report: "ran" }),
        );
        const preview = await rig.shell("preview", "--diff").ended;
        expect(preview.stdout).toContain("answeredRows: 1 => 2");
        const up = await rig.shell("up", "--yes", "--skip-preview").ended;
        expect(up.code).toBe(0);
        expect(up.stdout).toContain("~ 2 updated");
        expect((await rig.json("up")).actions).toEqual(all("unchanged"));
        expect(rig.gitStatus()).toBe("");
    });

    test("the shell's variable for one run works there, too", async () => {
        rig.environment["RETUNE_SET"] = JSON.stringify({ "training.learningRate": 0.5 });
        const preview = await rig.shell("preview", "--diff").ended;
        delete rig.environment["RETUNE_SET"];
        expect(preview.stdout).toContain("learningRate: 0.01 => 0.5");
    });

    test("a mistake in the configuration shows without a stack trace", async () => {
        rig.configure({ training: { learningRate: "fast" } });
        const { code, stdout, stderr } = await rig.shell("preview").ended;
        rig.configure();
        expect(code).not.toBe(0);
        const shown = stdout + stderr;
        expect(shown).toContain(
            'the configuration has a problem:\n      retune:training.learningRate: expected a number between 0 and 1, got "fast"',
        );
        expect(shown).not.toMatch(/^\s+at /m);
        expect(shown).not.toContain("UserError");
    });

    test("Ctrl-C detaches, and npm run up attaches", async () => {
        rig.configure({ training: { maxSteps: 30 } });
        const up = rig.shell("up", "--yes", "--skip-preview");
        const run = await up.until("a step", () => {
            const active = rig.active("Training");
            return active !== undefined && active.steps.length > 0 ? active : undefined;
        });
        rig.pause();
        up.child.kill("SIGINT");
        expect((await up.ended).code).not.toBe(0);
        expect(rig.locks()).toEqual([]);
        expect(rig.state().pending_operations ?? []).toEqual([]);
        rig.resume();
        const { code, stage } = await rig.json("up");
        expect({ code, action: stage("training").action }).toEqual({ code: 0, action: "attached" });
        await eventually("it is the same run", () => rig.runs("Training").at(-1)?.key === run.key);
        expect(rig.runs("Training").at(-1)).toMatchObject({ state: "succeeded", attempt: 1 });
    });
});
