import * as fs from "node:fs";
import * as path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { all, filesBelow, Rig, type Answer, type StageName } from "./rig";

interface Item {
    readonly what: "run" | "artifact";
    readonly name: string;
    readonly kind?: string;
    readonly size: number;
    readonly kept: boolean;
    readonly why: string;
}

describe("garbage collection", () => {
    let rig: Rig;
    let first: Answer;
    const collect = async (...args: string[]) => {
        const ended = await rig.start(process.execPath, ["scripts/gc.cjs", "--json", ...args]).ended;
        expect(ended.code).toBe(0);
        return JSON.parse(ended.stdout) as { freed: number; items: Item[] };
    };
    const kindsOf = (items: readonly Item[], kept: boolean) =>
        items.flatMap((item) => (item.what === "run" && item.kept === kept ? (item.kind ?? "") : [])).sort();
    const keyOf = (answer: Answer, name: StageName) => answer.stages.find((stage) => stage.name === name)?.key ?? "";

    beforeAll(async () => {
        rig = new Rig();
        first = (await rig.json("up")).answer;
        expect((await rig.json("up", "--set", "training.learningRate=0.02")).actions).toEqual(
            all("unchanged", { training: "ran", evaluation: "ran", export: "ran", report: "ran" }),
        );
    });
    afterAll(() => rig.dispose());

    test("takes nothing that was used lately", async () => {
        const { freed, items } = await collect();
        expect({ freed, removed: items.filter((item) => !item.kept) }).toEqual({ freed: 0, removed: [] });
        expect(kindsOf(items, true)).toHaveLength(6 + 4 + 3); // two generations, the baseline of both and the answers of each
    });

    test("a dry run names what would go and why, and touches nothing", async () => {
        const before = filesBelow(rig.home);
        const { freed, items } = await collect("--dry-run", "--grace-days", "0");
        expect(kindsOf(items, false)).toEqual(["Answers", "Evaluation", "Export", "Report", "Training"]);
        expect(kindsOf(items, true)).toEqual([
            "Answers",
            "Baseline",
            "Dataset",
            "Evaluation",
            "Export",
            "Model",
            "Report",
            "Training",
        ]);
        expect(items.find((item) => item.kind === "Baseline")?.why).toBe("used by stack test");
        expect(items.find((item) => item.name === keyOf(first, "training"))?.why).toBe(
            "no stack uses it, last used 0.0 days ago",
        );
        expect(items.find((item) => item.name === keyOf(first, "model"))?.why).toBe("used by stack test");
        expect(freed).toBeGreaterThan(0);
        expect(filesBelow(rig.home)).toEqual(before);
    });

    test("a pin holds a run and what it took in", async () => {
        const key = keyOf(first, "export");
        expect((await rig.start(process.execPath, ["scripts/gc.cjs", "--pin", key.slice(0, 12)]).ended).code).toBe(0);
        const { items } = await collect("--dry-run", "--grace-days", "0");
        expect(items.find((item) => item.name === key)).toMatchObject({ kept: true, why: "pinned" });
        expect(kindsOf(items, false)).toEqual(["Answers", "Evaluation", "Report"]);
    });

    test("what the stack uses stays whole; what was removed is made again when it is wanted", async () => {
        const key = keyOf(first, "export");
        await rig.start(process.execPath, ["scripts/gc.cjs", "--unpin", key]).ended;
        const { freed, items } = await collect("--grace-days", "0");
        expect(kindsOf(items, false)).toEqual(["Answers", "Evaluation", "Export", "Report", "Training"]);
        expect(freed).toBeGreaterThan(0);
        for (const { name } of items.filter((item) => item.what === "artifact" && !item.kept)) {
            expect(fs.existsSync(path.join(rig.home, "store", name))).toBe(false);
        }
        const refreshed = await rig.json("refresh");
        expect({ code: refreshed.code, actions: refreshed.actions }).toEqual({ code: 0, actions: all("unchanged") });
        const back = await rig.json("up");
        expect(back.actions).toEqual(
            all("unchanged", { training: "ran", evaluation: "ran", export: "ran", report: "ran" }),
        );
    });

    test("beside a run that goes on, which keeps all that it needs", async () => {
        const up = rig.spawn("up", ["--detach", "--set", "training.maxSteps=60", "--set", "training.seed=1"]);
        expect((await up.ended).code).toBe(4);
        const { items } = await collect("--grace-days", "0");
        const active = rig.active("Training");
        expect(items.find((item) => item.name === active?.key)).toMatchObject({ kept: true, why: "it is going on" });
        const { code, actions } = await rig.json("up", "--set", "training.maxSteps=60", "--set", "training.seed=1");
        expect(code).toBe(0);
        expect(actions["training"]).toMatch(/^(attached|cached)$/);
    });
});
