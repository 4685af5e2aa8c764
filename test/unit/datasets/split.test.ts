import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { divide, orderOf } from "../../../datasets/split";

/** One prompt for each size: the order is its position. */
function orders(...sizes: number[]): Float64Array {
    return Float64Array.from(sizes.flatMap((size, order) => Array<number>(size).fill(order)));
}

describe("the split", () => {
    test("has exactly the shares when no two prompts are the same", () => {
        const prompts = Float64Array.from({ length: 5000 }, (_, index) => orderOf(`question ${index}`, 42));
        expect(new Set(prompts).size).toBe(5000);
        expect(divide(prompts, { validation: 0.1, test: 0.05, seed: 42 }).rows).toEqual([4250, 500, 250]);
    });

    test("gives a share above zero a row, however small the set", () => {
        expect(divide(orders(1, 1, 1), { validation: 0.01, test: 0.01, seed: 0 }).rows).toEqual([1, 1, 1]);
    });

    test("takes the smallest group when all are bigger than the share", () => {
        const { heldOut, rows } = divide(orders(9, 3, 5, 83), { validation: 0.01, test: 0, seed: 0 });
        expect(rows).toEqual([97, 3, 0]);
        expect([...heldOut]).toEqual([[1, 1]]);
    });

    test("passes over a group that is bigger than what is left of the share", () => {
        const { heldOut } = divide(orders(4, 4, 2, 90), { validation: 0, test: 0.06, seed: 0 });
        expect([...heldOut]).toEqual([
            [0, 2],
            [2, 2],
        ]);
    });

    test("follows the seed", () => {
        const prompts = Array.from({ length: 50 }, (_, index) => `question ${index}`);
        const held = (seed: number): string[] => {
            const { heldOut } = divide(
                Float64Array.from(prompts, (prompt) => orderOf(prompt, seed)),
                { validation: 0.1, test: 0.1, seed },
            );
            return prompts.filter((prompt) => heldOut.has(orderOf(prompt, seed)));
        };
        expect(held(1)).toHaveLength(10);
        expect(held(1)).toEqual(held(1));
        expect(held(1)).not.toEqual(held(2));
    });

    test("counts every row once, and is at most one group off the shares", () => {
        const share = fc.double({ min: 0, max: 0.4, noNaN: true });
        fc.assert(
            fc.property(
                fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 3 }),
                share,
                share,
                (sizes, validation, testShare) => {
                    const prompts = orders(...sizes);
                    const { heldOut, rows } = divide(prompts, { validation, test: testShare, seed: 0 });
                    const counted = [0, 0, 0];
                    for (const order of prompts) {
                        const part = heldOut.get(order) ?? 0;
                        counted[part] = (counted[part] ?? 0) + 1;
                    }
                    expect(rows).toEqual(counted);
                    expect(Math.abs(rows[2] - testShare * prompts.length)).toBeLessThanOrEqual(9);
                    expect(rows[2] === 0).toBe(testShare === 0);
                },
            ),
        );
    });
});
