import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { describeProgress, readProgress, sparkline } from "../../pipeline/progress";

const maybe = <Value>(value: fc.Arbitrary<Value>) => fc.option(value, { nil: undefined });

describe("progress as text", () => {
    test("says what is known", () => {
        expect(describeProgress({ phase: "learning", step: 1, steps: 3 })).toBe("learning, step 1/3 (33 %)");
        const all = { phase: "held-out loss", step: 33, steps: 60, loss: 2.4737, evalLoss: 2.512, secondsLeft: 50 };
        expect(describeProgress({ ...all, cost: 0.1234 })).toBe(
            "held-out loss, step 33/60 (55 %), loss 2.4737, validation loss 2.5120, 50 s left, cost 0.12",
        );
    });

    test("is read as it was written, whichever parts it has", () => {
        const numbers = fc.double({ min: -1e6, max: 1e6, noNaN: true });
        const progress = fc.record({
            phase: fc.constantFrom("learning", "held-out loss", "two real steps"),
            step: fc.nat(),
            steps: fc.nat(),
            loss: maybe(fc.double()), // a NaN too
            evalLoss: maybe(numbers),
            secondsLeft: maybe(fc.nat()),
            cost: maybe(fc.double({ min: 0, max: 1e6, noNaN: true })),
        });
        fc.assert(
            fc.property(progress, (one) => {
                const { phase, step, steps, loss, evalLoss, secondsLeft, cost } = one;
                const read = readProgress(describeProgress(one));
                expect(read).toMatchObject({ phase, step, steps, loss: loss?.toFixed(4), cost: cost?.toFixed(2) });
                expect(read?.evalLoss).toBe(evalLoss?.toFixed(4));
                expect(read?.left === undefined).toBe(secondsLeft === undefined);
            }),
        );
    });

    test.each([
        "",
        "starting",
        "step 3: validation loss 1.0",
        "learning, step 3",
        "downloading a, step 1/2 (50 %) of b",
    ])("%j is not one", (text) => {
        expect(readProgress(text)).toBeUndefined();
    });
});

test.each([
    [[], 5, ""],
    [[1], 5, "▅"],
    [[1, 1, 1], 5, "▅▅▅"],
    [[8, 4, 1], 5, "█▄▁"],
    [[4, 4, 2, 2, 0, 0], 3, "█▅▁"],
    [[1, NaN, 0, Infinity], 5, "█▁"],
])("the course of %j in %i characters is %j", (values, width, expected) => {
    expect(sparkline(values, width)).toBe(expected);
});
