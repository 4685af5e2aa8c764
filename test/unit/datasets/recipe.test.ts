import { describe, expect, test } from "vitest";
import { columnsOf, recipeReferenceSchema, recipes, type Recipe } from "../../../datasets/recipe";
import { problemsOf } from "../../../pipeline/fields";

function problems(value: unknown): string[] {
    const parsed = recipeReferenceSchema.safeParse(value);
    return parsed.success ? [] : problemsOf(parsed.error).map(({ path, message }) => `${path}: ${message}`);
}

describe("a recipe in a configuration", () => {
    test("is found by its name", () => {
        expect(recipeReferenceSchema.parse("huatuo-lite")).toBe(recipes.get("huatuo-lite"));
        expect([...recipes.keys()]).toEqual(["huatuo-lite", "huatuo-lite-english"]);
    });

    test("with an unknown name is told the nearest one", () => {
        expect(problems("huatuolite")).toEqual([
            ': unknown recipe "huatuolite"; did you mean "huatuo-lite"? Known: huatuo-lite, huatuo-lite-english',
        ]);
    });

    test("may be written out, and takes the defaults", () => {
        const recipe = recipeReferenceSchema.parse({
            instruction: { constant: "" },
            columns: { input: "q", output: "a" },
            where: [{ column: "score", atLeast: 3, oneOf: ["3", 4] }],
        });
        expect(recipe).toEqual<Recipe>({
            name: "inline",
            notice: "",
            instruction: { constant: "" },
            columns: { input: "q", output: "a" },
            require: [],
            where: [{ column: "score", atLeast: 3, oneOf: ["3", "4"] }],
            lineEndings: "lf",
            unicode: "none",
            trim: false,
            deduplicate: false,
        });
        expect(columnsOf(recipe)).toEqual(["score", "q", "a"]);
    });

    test("names each problem with its path", () => {
        expect(problems(7)).toEqual([": expected the name of a recipe or a recipe written out in place"]);
        expect(
            problems({ instruction: "x", columns: { output: "a" }, where: [{ column: "s" }], lineEndings: "crlf" }),
        ).toEqual([
            "instruction: expected { constant: a text } or { column: the name of a column }",
            "where[0]: expected at least one of atLeast, atMost and oneOf",
            'lineEndings: Invalid option: expected one of "lf"|"keep"',
        ]);
        expect(problems({ instruction: { constant: "x" }, columns: { output: "a" } })).toEqual([
            "columns.input: expected a column for the input, or one for the instruction: every row would have the same prompt",
        ]);
        const recipe = { instruction: { constant: "x" }, columns: { input: "q", output: "a" } };
        expect(problems({ ...recipe, deduplicated: true })).toEqual([
            "deduplicated: unknown; did you mean deduplicate?",
        ]);
        expect(problems({ ...recipe, where: [{ column: "score", atMost: 5, atleast: 4 }] })).toEqual([
            "where[0].atleast: unknown; did you mean atLeast?",
        ]);
    });
});
