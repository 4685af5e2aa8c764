import { beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { describeProgress, type Progress } from "../../pipeline/progress";
import { Display } from "../../scripts/display";
import type { StageOutcome } from "../../scripts/outcome";

/** A stand-in for a terminal, or for a pipe where it has no columns: it keeps what is written. */
function streamOf(columns?: number, rows?: number) {
    const written: string[] = [];
    const write = (text: string): boolean => written.push(text) > 0;
    const stream = { write, isTTY: columns !== undefined, columns, rows };
    const display = new Display(stream as unknown as NodeJS.WriteStream);
    onTestFinished(() => {
        display.end(); // or its clock would go on
    });
    return { display, written, stream };
}

/** What a person sees after it: lines that were erased are gone. */
function seen(written: readonly string[]): string[] {
    let lines: string[] = [];
    for (const part of written.join("").split(/(\r\u001b\[\d+A\u001b\[J)/)) {
        const up = /^\r\u001b\[(\d+)A/.exec(part)?.[1];
        if (up !== undefined) lines = lines.slice(0, lines.length - Number(up));
        else lines.push(...part.split("\n").slice(0, -1));
    }
    return lines;
}

const outcome = (rest: Partial<StageOutcome>): StageOutcome => ({
    name: "training",
    type: "finetune:pipeline:Training",
    action: "ran",
    reasons: [],
    ...rest,
});

function linesOf(rest: Partial<StageOutcome>): string[] {
    const { display, written } = streamOf();
    display.stage(outcome(rest));
    return written.map((text) => text.replace(/\n$/, ""));
}

const at = "2026-07-30 14:05";

describe("a finished stage", () => {
    beforeEach(() => {
        vi.stubEnv("TZ", "UTC");
        onTestFinished(() => {
            vi.unstubAllEnvs();
        });
    });

    test("has its action, its time and its facts in one line", () => {
        // In the order of their names, as the engine hands them on.
        const facts = { dropped: {}, evalLoss: null, loss: 0.81, rows: { test: 1, train: 5 }, steps: 24 };
        expect(linesOf({ seconds: 93.1, facts })).toEqual([
            "  training    ran             2 min  dropped (), rows (train 5, test 1), steps 24, loss 0.81",
        ]);
    });

    test("is at an address, where it is a service", () => {
        const service = { name: "service", type: "finetune:pipeline:Service", uri: "http://127.0.0.1:8000/v1" };
        const facts = { backend: "huggingface", port: 8000 };
        expect(linesOf({ ...service, seconds: 9, facts })).toEqual([
            "  service     ran             9 s    http://127.0.0.1:8000/v1, backend huggingface, port 8000",
        ]);
        expect(linesOf({ ...service, action: "deleted", facts })).toEqual([
            "  service     deleted                backend huggingface, port 8000",
        ]);
    });

    test("goes on below where its facts began, where the window is narrow", () => {
        const facts = { dropped: { "empty answer": 4, "empty label": 12 }, kept: 281, rows: { train: 239, test: 14 } };
        const { display, written } = streamOf(80, 24);
        display.stage(outcome({ name: "dataset", seconds: 1, facts }));
        expect(seen(written)).toEqual([
            "  dataset     ran             1 s    kept 281, dropped (empty answer 4, empty",
            "                              label 12), rows (train 239, test 14)",
        ]);
    });

    test.each([
        [{ action: "cached", seconds: 93, facts: { steps: 1 } }, "  training    cached                 steps 1"],
        [
            { action: "cached", run: "0123456789ab", madeAt: "2026-07-30T14:05:11Z", facts: { steps: 1 } },
            `  training    cached          run 0123456789ab of ${at}  steps 1`,
        ],
        [
            { action: "would-reuse", isNew: true, run: "0123456789ab", madeAt: "2026-07-30T14:05:11Z" },
            `  training    would be reused new, run 0123456789ab of ${at}`,
        ],
        [{ action: "would-run", isNew: true }, "  training    would run       new"],
        [{ action: "would-run", expectedSeconds: 200 }, "  training    would run       about 3 min"],
        [{ action: "would-run", lastSeconds: 20 }, "  training    would run       took 20 s last time"],
        [{ action: "unchanged", facts: { steps: 1 } }, "  training    unchanged"],
        [{ action: "would-run" }, "  training    would run"],
        [{ action: "would-reuse" }, "  training    would be reused"],
        [{ action: "detached" }, "  training    detached"],
        [{ action: "detached", run: "0123456789ab" }, "  training    detached        npm run logs -- 0123456789ab"],
        [{ action: "skipped", name: "evaluation" }, "  evaluation  skipped"],
    ] as const)("%j is one line without blanks at its end", (rest, line) => {
        expect(linesOf(rest)).toEqual([line]);
    });

    test("is followed by its reasons", () => {
        const reasons = [
            { field: "learningRate", old: 0.0005, new: 0.0001 },
            { field: "seed", old: null, new: 7 },
            { field: "maxSteps", old: 4, new: null },
            { field: "model", old: "a".repeat(64), new: "unknown" },
            { field: "prompts", old: ["a", "b"], new: ["a", "c"] },
            { field: "drift", old: "the artifact is gone", new: null },
            { field: "interrupted", old: "detached: …", new: null },
        ];
        expect(linesOf({ reasons }).slice(1)).toEqual([
            "              learningRate 0.0005 → 0.0001",
            "              seed added: 7",
            "              maxSteps removed (was 4)",
            "              model aaaaaaaaaaaa → known after the stage before has run",
            "              prompts b → c",
            "              repairs: the artifact is gone",
            "              the last update did not come to its end",
        ]);
    });

    test("is followed by what stays as it is", () => {
        const reasons = [{ field: "seed", old: 1, new: 2 }];
        expect(linesOf({ action: "would-run", reasons, keeps: ["model", "dataset"] }).slice(1)).toEqual([
            "              seed 1 → 2",
            "              keeps model, dataset",
        ]);
    });

    test("is followed by what went wrong, every line of it", () => {
        expect(linesOf({ action: "failed", error: "run 0123 failed: no\n  the whole log: …" })).toEqual([
            "  training    failed",
            "              run 0123 failed: no\n                the whole log: …",
        ]);
    });

    test("has the end of each line of a log, and nothing that changes the terminal", () => {
        const error =
            "no\n  Loading: 0%\rLoading: 50%\rLoading: 100%\u001b[2J\u001b[?25l\r\n\u001b[31mred\u001b[0m\u001b]0;title\u0007\b";
        expect(linesOf({ action: "failed", error })).toEqual([
            "  training    failed",
            "              no\n              Loading: 100%\n              red",
        ]);
        const { display, written } = streamOf();
        display.line("warning: \u001b[?25lhidden\u0007");
        expect(written).toEqual(["warning: hidden\n"]);
    });
});

describe("without a terminal", () => {
    beforeEach(() => {
        vi.useFakeTimers({ toFake: ["Date"], now: 1_000_000 });
        onTestFinished(() => {
            vi.useRealTimers();
        });
    });

    test("a stage has a line of progress at most every ten seconds, each on its own clock", () => {
        const { display, written } = streamOf();
        const at = (milliseconds: number, stage: string, text: string): void => {
            vi.setSystemTime(1_000_000 + milliseconds);
            display.progress(stage, text);
        };
        at(0, "training", "step 1");
        at(9_999, "training", "step 2");
        at(9_999, "model", "unpacking");
        at(10_000, "training", "step 3");
        at(12_000, "training", "step 4");
        expect(written).toEqual([
            "  training    … step 1\n",
            "  model       … unpacking\n",
            "  training    … step 3\n",
        ]);
    });

    test("nothing is ever erased", () => {
        const { display, written } = streamOf();
        display.progress("training", "step 1");
        display.line("hello");
        display.stage(outcome({}));
        display.end();
        expect(written.join("")).not.toContain("\u001b");
    });
});

describe("on a terminal", () => {
    const learning = (step: number, rest: Partial<Progress> = {}): string =>
        describeProgress({ phase: "learning", step, steps: 60, loss: 4 - step / 20, ...rest });

    const steadily = (columns: number): string[] => {
        const { display, written } = streamOf(columns);
        for (const step of [1, 20, 33]) {
            display.progress("training", learning(step, { secondsLeft: 200 - step, evalLoss: 2.5, cost: step / 100 }));
        }
        return [seen(written.slice(0, 2)), seen(written)].flat();
    };

    test("a stage at work has one steady line: bar, step, loss with its course, time left, cost", () => {
        expect(steadily(120)).toEqual([
            "  training    ███░░░░░░░  33 %  learning 20/60  loss 3.0000       █▁   3 min left  cost 0.20  validation 2.5000",
            "  training    ██████░░░░  55 %  learning 33/60  loss 2.3500      █▄▁   3 min left  cost 0.33  validation 2.5000",
        ]);
    });

    test.each([
        [100, "██████░░░░  55 %  learning 33/60  loss 2.3500      █▄▁   3 min left  cost 0.33"],
        [88, "██████░░░░  55 %  33/60  loss 2.3500      █▄▁   3 min left  cost 0.33"],
        [80, " 55 %  33/60  loss 2.3500      █▄▁   3 min left  cost 0.33"],
        [40, " 55 %  33/60  loss 2.3500"],
    ])("in %i columns it leaves out what matters least", (columns, line) => {
        expect(steadily(columns).at(-1)?.trimEnd()).toBe(`  training    ${line}`);
    });

    test("stages at work stand below what is finished, and leave nothing behind", () => {
        const { display, written } = streamOf(80);
        display.progress("model", "unpacking");
        display.progress("training", "step 1");
        display.progress("training", "step 2");
        expect(seen(written)).toEqual(["  model       … unpacking", "  training    … step 2"]);
        display.line("a notice");
        expect(seen(written)).toEqual(["a notice", "  model       … unpacking", "  training    … step 2"]);
        display.stage(outcome({ name: "model", reasons: [{ field: "seed", old: 1, new: 2 }] }));
        expect(seen(written)).toEqual([
            "a notice",
            "  model       ran",
            "              seed 1 → 2",
            "  training    … step 2",
        ]);
        display.end();
        expect(seen(written)).toEqual(["a notice", "  model       ran", "              seed 1 → 2"]);
        display.end();
        expect(seen(written)).toHaveLength(3);
    });

    test("what there is no news of shows its time", () => {
        vi.useFakeTimers();
        onTestFinished(() => {
            vi.useRealTimers();
        });
        const { display, written } = streamOf(80);
        display.progress("model", "unpacking");
        vi.advanceTimersByTime(3000);
        expect(seen(written)).toEqual(["  model       … unpacking, 3 s"]);
        display.end();
        const before = written.length;
        vi.advanceTimersByTime(3000);
        expect(written).toHaveLength(before);
    });

    test("every painting is one write, and no mode of the terminal is touched", () => {
        const { display, written } = streamOf(80);
        display.progress("model", "unpacking");
        display.progress("training", learning(1));
        display.line("a notice");
        display.progress("training", learning(2));
        expect(written).toHaveLength(4);
        display.end();
        const escapes = written.join("").match(/\u001b[^A-Za-z]*[A-Za-z]/g) ?? [];
        expect(new Set(escapes.map((one) => one.replace(/\d+/, "N")))).toEqual(new Set(["\u001b[NA", "\u001b[J"]));
    });

    test.each([
        [40, "感冒了应该怎么办？".repeat(10)],
        [20, "learning, step 3/10 (30 %), loss 0.5"],
        [20, "😀".repeat(20)],
        [14, "x"],
    ])("a line of progress never wraps in %i columns", (columns, text) => {
        const { display, written } = streamOf(columns);
        display.progress("training", text);
        const [line = ""] = seen(written);
        const width = Array.from(line).reduce(
            (sum, one) => sum + (/[\u1100-\u115f\u2e80-\uffdc]|\p{Extended_Pictographic}/u.test(one) ? 2 : 1),
            0,
        );
        expect(width).toBeLessThan(columns);
    });

    test("what a narrower window has wrapped is erased all the same", () => {
        const { display, written, stream } = streamOf(80);
        display.progress("training", "x".repeat(60)); // 2 + 11 + 3 + 60 columns
        stream.columns = 40;
        display.end();
        expect(written.at(-1)).toBe("\r\u001b[2A\u001b[J");
    });

    test("of more stages than there are rows the rest is counted", () => {
        const { display, written } = streamOf(80, 5);
        for (const name of ["a", "b", "c", "d", "e"]) display.progress(name, "at work");
        expect(seen(written)).toEqual(["  a           … at work", "  b           … at work", "  … and 3 more"]);
    });

    test("what would move the cursor is shown as blanks", () => {
        const { display, written } = streamOf(80);
        display.progress("training", "first\nsecond\u001b[2Jthird");
        expect(seen(written)).toEqual(["  training    … first second [2Jthird"]);
        display.end();
        expect(seen(written)).toEqual([]);
    });

    test("one that can do nothing gets plain lines", () => {
        vi.stubEnv("TERM", "dumb");
        onTestFinished(() => {
            vi.unstubAllEnvs();
        });
        const { display, written } = streamOf(80);
        display.progress("training", learning(1));
        expect(written).toEqual(["  training    … learning, step 1/60 (2 %), loss 3.9500\n"]);
    });
});
