import * as fs from "node:fs";
import * as path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Browser, chromium } from "../unit/chromium";
import { all, Rig, stageOf, type Answer } from "./rig";

interface Evaluated {
    readonly prompts: readonly { readonly prompt: string; readonly answer: string }[];
}

// What somebody sees who types `npm run up` in a fresh clone: a real model, real training, minutes.
describe("the dev stack as it is delivered", () => {
    let rig: Rig;
    let answer: Answer;
    beforeAll(() => {
        rig = new Rig();
    });
    afterAll(() => rig.dispose());

    // Three to six minutes on two cores of its own; a machine with other work may take its time.
    test("it comes up, and the loss falls", { timeout: 1_800_000 }, async () => {
        const { code, actions, stderr, ...rest } = await rig.json("up", "--stack", "dev");
        answer = rest.answer;
        expect({ code, actions }, stderr).toEqual({ code: 0, actions: all("ran") });
        const result = path.join(rig.home, "runs", stageOf(answer, "training").key ?? "", "result.json");
        const { metrics } = JSON.parse(fs.readFileSync(result, "utf8")) as { metrics: Record<string, number> };
        expect(metrics["loss"]).toBeLessThan(metrics["firstLoss"] ?? 0);
        const { base, tuned } = stageOf(answer, "evaluation").facts as unknown as Record<string, { evalLoss: number }>;
        expect(tuned?.evalLoss).toBeLessThan(base?.evalLoss ?? 0);
        expect(stageOf(answer, "export").facts).toMatchObject({ parity: { checked: 4, equal: 4 } });
        expect(rig.gitStatus()).toBe("");
    });

    test("the tuned model answers the questions differently, and the report shows both", () => {
        const folder = fileURLToPath(stageOf(answer, "evaluation").uri ?? "");
        const file = path.join(folder, "evaluation.json");
        const { base, tuned } = JSON.parse(fs.readFileSync(file, "utf8")) as { base: Evaluated; tuned: Evaluated };
        const page = fs.readFileSync(fileURLToPath(answer.outputs["report"] as string), "utf8");
        for (const index of [0, 1]) {
            const before = base.prompts[index];
            const after = tuned.prompts[index];
            expect(after?.prompt).toBe(before?.prompt);
            expect(after?.answer).not.toBe(before?.answer);
            for (const one of [before, after]) {
                expect(one?.answer.length).toBeGreaterThan(20);
                const words = (one?.answer ?? "").split(/[^A-Za-z ]/)[0] ?? "";
                expect(page).toContain(words);
            }
        }
        expect(page).toContain("not medical advice");
    });

    const skip = chromium === undefined;
    if (skip) console.warn("SKIPPED: the page of the dev stack is opened in no browser: there is no chromium here");

    test.skipIf(skip)("the page and the index of generations open in a browser without a finding", async () => {
        const browser = new Browser(chromium ?? "");
        try {
            const index = path.join(rig.home, "history", "dev", "index.html");
            const page = path.join(rig.home, "history", "dev", "1", "report.html");
            for (const file of [fileURLToPath(answer.outputs["report"] as string), page, index]) {
                for (const scheme of ["light", "dark"] as const) {
                    for (const width of [1280, 390]) {
                        expect(await browser.open(file, { width, scheme })).toEqual({
                            ...{ complaints: [], requests: [], findings: [], overflow: 0 },
                        });
                    }
                }
            }
            expect(fs.statSync(page).size).toBeLessThan(1_000_000);
        } finally {
            await browser.close();
        }
    });

    test("a second up has nothing to do", async () => {
        const begin = Date.now();
        const { code, actions } = await rig.json("up", "--stack", "dev");
        expect({ code, actions }).toEqual({ code: 0, actions: all("unchanged") });
        expect(Date.now() - begin).toBeLessThan(10_000);
    });
});
