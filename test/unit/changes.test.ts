import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { changesBetween, describeChange } from "../../pipeline/changes";
import { UNKNOWN, type JsonObject } from "../../pipeline/identity";

describe("changes", () => {
    test("name every field that was added, removed or changed, removed ones last", () => {
        const old = { learningRate: 0.0005, epochs: 1, llamafactory: { lora_dropout: 0.05, packing: true } };
        const now = { learningRate: 0.0001, seed: 42, epochs: 1, llamafactory: { packing: true, neat_packing: true } };
        expect(changesBetween(old, now)).toEqual([
            { kind: "changed", field: "learningRate", old: 0.0005, new: 0.0001 },
            { kind: "added", field: "seed", new: 42 },
            { kind: "added", field: "llamafactory.neat_packing", new: true },
            { kind: "removed", field: "llamafactory.lora_dropout", old: 0.05 },
        ]);
    });

    test("take a list as one field", () => {
        expect(changesBetween({ prompts: ["a", "b"] }, { prompts: ["b", "a"] })).toEqual([
            { kind: "changed", field: "prompts", old: ["a", "b"], new: ["b", "a"] },
        ]);
    });

    test("name the fields of a group that was empty, or becomes so, and not the group", () => {
        const empty = { llamafactory: {} };
        const filled = { llamafactory: { lora_dropout: 0.05 } };
        expect(changesBetween(empty, filled)).toEqual([
            { kind: "added", field: "llamafactory.lora_dropout", new: 0.05 },
        ]);
        expect(changesBetween(filled, empty)).toEqual([
            { kind: "removed", field: "llamafactory.lora_dropout", old: 0.05 },
        ]);
    });

    test("are none where only the order of fields differs, also inside of a list", () => {
        const old = { recipe: { where: [{ column: "score", atLeast: 3 }] } };
        const now = { recipe: { where: [{ atLeast: 3, column: "score" }] } };
        expect(changesBetween(old, now)).toEqual([]);
    });

    test("tell a text from a number and null from absent", () => {
        expect(changesBetween({ a: "1", b: null }, { a: 1 })).toEqual([
            { kind: "changed", field: "a", old: "1", new: 1 },
            { kind: "removed", field: "b", old: null },
        ]);
    });

    test("see an unknown as a change from whatever was there", () => {
        expect(changesBetween({ model: "a" }, { model: UNKNOWN })).toEqual([
            { kind: "changed", field: "model", old: "a", new: UNKNOWN },
        ]);
    });

    test("of an object that is not known yet are one, and nothing of it is gone", () => {
        const base = { package: "a", version: "1" };
        expect(changesBetween({ base, seed: 1 }, { base: UNKNOWN, seed: 1 })).toEqual([
            { kind: "changed", field: "base", old: base, new: UNKNOWN },
        ]);
    });

    test("are none between a value and itself, and never empty between values that differ", () => {
        const value = fc
            .dictionary(fc.string(), fc.jsonValue())
            .map((one) => JSON.parse(JSON.stringify(one)) as JsonObject);
        fc.assert(
            fc.property(value, (one) => {
                expect(changesBetween(one, structuredClone(one))).toEqual([]);
            }),
        );
        fc.assert(
            fc.property(value, fc.string({ minLength: 1 }), (one, name) => {
                fc.pre(!Object.hasOwn(one, name) && !name.includes("."));
                expect(changesBetween(one, { ...one, [name]: 1 })).toContainEqual({
                    kind: "added",
                    field: name,
                    new: 1,
                });
            }),
        );
    });
});

describe("a change in words", () => {
    const digest = "0123456789abcdef".repeat(4);

    test.each([
        [{ kind: "changed", field: "learningRate", old: 0.0005, new: 0.0001 }, "learningRate 0.0005 → 0.0001"],
        [{ kind: "added", field: "maxSteps", new: 4 }, "maxSteps added: 4"],
        [{ kind: "removed", field: "maxSteps", old: 4 }, "maxSteps removed (was 4)"],
        [{ kind: "changed", field: "method", old: "lora", new: "full" }, "method lora → full"],
        [{ kind: "changed", field: "model", old: digest, new: "x" }, "model 0123456789ab → x"],
        [
            { kind: "changed", field: "dataset", old: digest, new: UNKNOWN },
            "dataset 0123456789ab → known after the stage before has run",
        ],
        [{ kind: "changed", field: "prompts", old: ["a"], new: ["a", "b"] }, "prompts added: b"],
        [{ kind: "changed", field: "prompts", old: ["a", "b"], new: ["b"] }, "prompts removed: a"],
        [{ kind: "changed", field: "prompts", old: ["a", "b", "c"], new: ["a", "x", "c"] }, "prompts b → x"],
        [{ kind: "changed", field: "prompts", old: ["a", "b"], new: ["b", "a"] }, "prompts in another order or number"],
        [{ kind: "changed", field: "prompts", old: ["a"], new: "a" }, 'prompts ["a"] → a'],
        [
            { kind: "changed", field: "files", old: [digest], new: ["f".repeat(64)] },
            "files 0123456789ab → ffffffffffff",
        ],
        [
            { kind: "changed", field: "notice", old: `${"x".repeat(70)} one`, new: `${"x".repeat(70)} two` },
            `notice …${"x".repeat(11)} one → …${"x".repeat(11)} two`,
        ],
        [{ kind: "changed", field: "system", old: "a\nb", new: "a" }, "system a b → a"],
        [{ kind: "added", field: "prompts", new: ["x".repeat(80)] }, `prompts added: ["${"x".repeat(55)}…`],
    ] as const)("%j", (change, words) => {
        expect(describeChange(change)).toBe(words);
    });
});
