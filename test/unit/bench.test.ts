import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { describe, expect, test } from "vitest";
import { randomBytes } from "../../scripts/bench/random";
import {
    budgetOf,
    forJson,
    growth,
    median,
    ratioOf,
    round,
    table,
    verdict,
    type Limit,
    type Outcome,
} from "../../scripts/bench/result";
import { writeRows } from "../../scripts/bench/rows";

describe("median and ratio", () => {
    test.each([
        [[3], 3],
        [[9, 1, 5], 5],
        [[4, 1, 3, 2], 2.5],
        [[10, 9, 100], 10], // by value, not by spelling
    ])("the median of %j is %d", (samples, expected) => {
        const before = [...samples];
        expect(median(samples)).toBe(expected);
        expect(samples).toEqual(before);
    });

    test("there is none of nothing", () => {
        expect(() => median([])).toThrow("there is no median of nothing");
    });

    test("a ratio needs a peer", () => {
        expect(ratioOf(0.9, 1.8)).toBe(0.5);
        expect(ratioOf(0.9, undefined)).toBeUndefined();
        expect(ratioOf(0.9, 0)).toBeUndefined();
    });
});

const atMost = (value: number | undefined, bound: number, unit = "×"): Limit => ({ value, relation: "≤", bound, unit });
const atLeast = (value: number | undefined, bound: number): Limit => ({
    value,
    relation: "≥",
    bound,
    unit: "× as fast",
});

describe("budgets", () => {
    test.each([
        ["met", [atMost(0.6, 0.6)], true],
        ["missed by a little", [atMost(0.601, 0.6)], false],
        ["met from the other side", [atLeast(3.5, 3.5)], true],
        ["missed from the other side", [atLeast(3.4, 3.5)], false],
        ["one of two missed", [atLeast(4, 3.5), atMost(321, 320, "MiB")], false],
        ["nothing to compare with", [atMost(undefined, 0.6)], null],
        ["missed although a part could not be compared", [atMost(undefined, 0.6), atMost(2, 1)], false],
        ["open although a part is met", [atMost(undefined, 0.6), atMost(1, 2)], null],
    ])("%s", (_, limits, expected) => {
        expect(verdict(limits)).toBe(expected);
    });

    test("in words", () => {
        expect(budgetOf([atLeast(1, 3.5), atMost(1, 320, "MiB")])).toBe("≥ 3.5 × as fast, ≤ 320 MiB");
    });

    test.each([
        ["a line", [0.9, 1.17, 3.87], { slope: 3, steeper: 1 }],
        ["a curve", [0.9, 1.08, 9.9], { slope: 9.09, steeper: 4.9 }],
        ["small sizes that differ by noise alone", [1, 0.98, 2.78], { slope: 1.8, steeper: 2 }],
    ])("growth of %s", (_, seconds, expected) => {
        const points = [10, 100, 1000].map((size, index) => ({ size, seconds: seconds[index] ?? NaN }));
        const { slope, steeper } = growth(points);
        expect(slope * 1000).toBeCloseTo(expected.slope, 2);
        expect(steeper).toBeCloseTo(expected.steeper, 2);
    });

    test.each([
        [1234.5, "1235"],
        [45.67, "45.7"],
        [1.5, "1.5"],
        [0.88888, "0.889"],
        [-8.4886, "-8.49"],
    ])("%d is written %s", (value, expected) => {
        expect(round(value)).toBe(expected);
    });
});

const met: Outcome = {
    name: "noop-up",
    what: "up with nothing to do",
    unit: "s",
    ours: 0.89,
    peerName: "dvc repro",
    peer: 1.83,
    ratio: 0.4863,
    limits: [atMost(0.4863, 0.6)],
    samples: { ours: [0.89], peer: [1.83] },
};
const missed: Outcome = {
    name: "convert",
    what: "rows",
    unit: "s",
    ours: 1.25,
    peer: 2.5,
    ratio: 2,
    limits: [atLeast(2, 3.5), atMost(150, 320, "MiB")],
    samples: { ours: [1.25], peer: [2.5] },
    notes: ["143 MB"],
};
const alone: Outcome = {
    name: "status",
    what: "without the engine",
    unit: "s",
    ours: 0.1,
    limits: [atMost(undefined, 0.2)],
    samples: { ours: [0.1], peer: [] },
    notes: ["no DVC to compare with: no network"],
};
const failed: Outcome = { name: "attach", what: "up after a killed one", problem: "no Python" };

describe("what is shown", () => {
    test("a table for people: aligned, with what was missed, and with what must be said below it", () => {
        expect(table([met, missed, alone, failed])).toBe(
            [
                "benchmark    ours    peer  ratio  budget",
                "noop-up    0.89 s  1.83 s   0.49  ≤ 0.6 ×                     met",
                "convert    1.25 s   2.5 s   2.00  ≥ 3.5 × as fast, ≤ 320 MiB  missed: 2 × as fast",
                "status      0.1 s                 ≤ 0.2 ×                     not compared",
                "attach                                                        could not run",
                "",
                "convert: 143 MB",
                "status: no DVC to compare with: no network",
                "attach: no Python",
            ].join("\n"),
        );
    });

    test("an object for programs: every field is there, null where there is nothing", () => {
        expect(forJson(met)).toEqual({
            name: "noop-up",
            what: "up with nothing to do",
            unit: "s",
            ours: 0.89,
            peerName: "dvc repro",
            peer: 1.83,
            ratio: 0.4863,
            budget: "≤ 0.6 ×",
            met: true,
            limits: [{ value: 0.4863, relation: "≤", bound: 0.6, unit: "×", met: true }],
            samples: { ours: [0.89], peer: [1.83] },
            notes: [],
        });
        expect(forJson(alone)).toMatchObject({
            peer: null,
            ratio: null,
            met: null,
            limits: [{ value: null, met: null }],
        });
        expect(forJson(failed)).toEqual({ name: "attach", what: "up after a killed one", problem: "no Python" });
    });
});

describe("made-up data", () => {
    test("the rows are the same every time, and have what a converter must look at", () => {
        const folder = fs.mkdtempSync(path.join(os.tmpdir(), "retune-bench-test-"));
        try {
            const [first, second] = ["a", "b"].map((name) => {
                writeRows(path.join(folder, name), 6000, 7);
                return fs.readFileSync(path.join(folder, name), "utf8");
            });
            expect(first).toBe(second);
            const rows = (first ?? "").trimEnd().split("\n");
            expect(rows).toHaveLength(6000);
            expect(new Set(rows).size).toBe(6000);
            const parsed = rows.map((row) => JSON.parse(row) as Record<string, string>);
            expect(Object.keys(parsed[0] ?? {})).toEqual([
                ...["id", "question", "answer", "label", "related_diseases", "score"],
            ]);
            const share = (holds: (row: Record<string, string>) => boolean | undefined) =>
                parsed.filter((row) => holds(row) === true).length / parsed.length;
            expect(share(({ label }) => label === "")).toBeCloseTo(0.05, 1);
            expect(share(({ question }) => question?.includes("\n\r"))).toBeCloseTo(0.05, 1);
            expect(share(({ question, answer }) => question === "" || answer === "")).toBe(0);
            const bytes = Buffer.byteLength(first ?? "") / rows.length;
            expect(bytes).toBeGreaterThan(700);
            expect(bytes).toBeLessThan(850);
        } finally {
            fs.rmSync(folder, { recursive: true });
        }
    });

    test("random bytes are the same every time", () => {
        expect(randomBytes(1001, 1)).toEqual(randomBytes(1001, 1));
        expect(randomBytes(1001, 1)).toHaveLength(1001);
        expect(randomBytes(1001, 1)).not.toEqual(randomBytes(1001, 2));
    });
});
