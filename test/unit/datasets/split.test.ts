import { DuckDBInstance, LIST, listValue, VARCHAR } from "@duckdb/node-api";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { orderOf } from "../../../datasets/query";
import { recipeSchema } from "../../../datasets/recipe";
import { divide } from "../../../datasets/split";

/** One prompt for each size: the order is its position. */
function orders(...sizes: number[]): Float64Array {
    return Float64Array.from(sizes.flatMap((size, order) => Array<number>(size).fill(order)));
}

const recipe = recipeSchema.parse({ instruction: { constant: "" }, columns: { input: "q", output: "a" } });

async function hashes(prompts: string[], seed: number): Promise<Float64Array> {
    const database = await DuckDBInstance.create(":memory:");
    const connection = await database.connect();
    try {
        const result = await connection.runAndReadAll(
            `SELECT ${orderOf(recipe, seed)} FROM (SELECT unnest($1) AS input)`,
            [listValue(prompts)],
            [LIST(VARCHAR)],
        );
        return Float64Array.from(result.getColumns()[0] as number[]);
    } finally {
        connection.closeSync();
        database.closeSync();
    }
}

describe("the order", () => {
    test("is one for prompts that differ in case, width, white space or composition, and no others", async () => {
        const same = [
            ["头痛，怎么办？", "头痛,怎么办?", " 头痛，\u3000怎么\r\n办？"],
            ["ct 38.5", "ＣＴ３８．５", "Ct\t38.5\u00a0"],
            ["café", "CAFE\u0301", "caf é"],
            ["a~[1]{2}'\"\\|", "ａ～［１］｛２｝＇＂＼｜"],
            ["頭痛"],
            ["头痛怎么办？"],
            ["ct 385"],
            ["cafe"],
            [""],
        ];
        const orders = await hashes(same.flat(), 1);
        const sets = same.map((spellings) => new Set(spellings.map((prompt) => orders[same.flat().indexOf(prompt)])));
        expect(sets.map(({ size }) => size)).toEqual(same.map(() => 1));
        expect(new Set(orders).size).toBe(same.length);
    });

    test("is the same in every version", async () => {
        expect([...(await hashes(["头痛怎么办？", "What Now?"], 42))]).toEqual([3135365121479727, 5877107641231522]);
    });

    test("is not changed by the short cut for texts that fold to themselves", async () => {
        const characters = ["a", "z", "0", "9", "、", "。", "一", "鿿", "！", "／", "：", "＠", "，", "【"];
        const text = fc.string({ unit: fc.constantFrom(...characters), maxLength: 8 });
        const prompts = fc.sample(text, 300);
        // A space takes the long way, and is nothing in the end.
        expect(await hashes(prompts, 7)).toEqual(
            await hashes(
                prompts.map((prompt) => `${prompt} `),
                7,
            ),
        );
    });
});

describe("the split", () => {
    test("has exactly the shares when no two prompts are the same", async () => {
        const prompts = await hashes(
            Array.from({ length: 5000 }, (_, index) => `question ${index}`),
            42,
        );
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

    test("follows the seed", async () => {
        const prompts = Array.from({ length: 50 }, (_, index) => `question ${index}`);
        const held = async (seed: number): Promise<string[]> => {
            const orders = await hashes(prompts, seed);
            const { heldOut } = divide(orders.slice(), { validation: 0.1, test: 0.1, seed });
            return prompts.filter((_, index) => heldOut.has(orders[index] ?? 0));
        };
        expect(await held(1)).toHaveLength(10);
        expect(await held(1)).toEqual(await held(1));
        expect(await held(1)).not.toEqual(await held(2));
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
