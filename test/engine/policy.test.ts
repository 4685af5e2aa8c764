import * as path from "node:path";
import { afterAll, beforeAll, expect, describe, test } from "vitest";
import { all, Rig } from "./rig";

// The pack of policy/ with the real engine and Pulumi's own host for packs; the programs of the target are stand-ins.
describe("with the rules of policy/", () => {
    let rig: Rig;
    beforeAll(() => {
        rig = new Rig({ standIns: true });
        rig.configure({ target: { type: "local", pricePerHour: 3 } });
    });
    afterAll(() => rig.dispose());

    const watched = ["--policy-pack", "policy"];
    const limited = [...watched, "--set", "target.limits.cost=5"];
    const error = "rule money: a run may cost any amount, and the most is $20: set target.limits.cost";
    const broken = { model: "failed", training: "failed", evaluation: "failed", export: "failed" } as const;

    test("a preview names every stage that breaks one", async () => {
        const { code, actions, stage, stderr } = await rig.json("preview", ...watched);
        expect({ code, actions }).toEqual({ code: 1, actions: all("would-run", broken) });
        expect(stage("training").error).toBe(error);
        expect(stderr.split("\n").filter((line) => line.trim() === error)).toHaveLength(4);
        expect(stderr).not.toContain("policy-nodejs");
    });

    test("an update that breaks one makes nothing, not even what is allowed", async () => {
        const { code, answer, actions, stage } = await rig.json("up", ...watched);
        const planned = { code: 1, result: "failed", actions: all("would-run", broken) };
        expect({ code, result: answer.result, actions }).toEqual(planned);
        expect(stage("training").error).toBe(error);
        expect(rig.runs()).toEqual([]);
        expect(rig.state().resources ?? []).toEqual([]);
    });

    test("an update that keeps them all is as without", async () => {
        const first = await rig.json("up", ...limited);
        expect({ code: first.code, actions: first.actions }).toEqual({ code: 0, actions: all("ran") });
        const second = await rig.json("up", ...limited);
        expect({ code: second.code, actions: second.actions }).toEqual({ code: 0, actions: all("unchanged") });
    });

    test("a rule that only advises warns", async () => {
        rig.write("advice/PulumiPolicy.yaml", "runtime: nodejs\nmain: index.js\n");
        rig.write("advice/package.json", '{ "name": "advice", "version": "1.0.0" }');
        rig.write(
            "advice/index.js",
            `new (require("@pulumi/policy").PolicyPack)("advice", { policies: [{
                name: "taste",
                description: "Exports have taste.",
                enforcementLevel: "advisory",
                validateResource: ({ type }, report) => { if (type.endsWith(":Export")) report("this one has none"); },
            }] });`,
        );
        const { code, stderr } = await rig.json("preview", "--policy-pack", "advice", "--set", "target.limits.cost=5");
        expect(code).toBe(0);
        expect(stderr).toContain("warning: rule taste: this one has none\n");
    });

    test("a folder without a pack is a mistake in the command line", async () => {
        const { code, stderr } = await rig.run("up", "--policy-pack", "docs");
        expect(code).toBe(2);
        const folder = path.join(rig.project, "docs");
        expect(stderr).toContain(
            `--policy-pack: ${folder} is no policy pack: it has no PulumiPolicy.yaml; this project's is policy/\n`,
        );
    });
});
