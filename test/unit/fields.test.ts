import { describe, expect, test } from "vitest";
import { type z } from "zod";
import {
    address,
    digest,
    flag,
    group,
    integer,
    jsonObject,
    list,
    number,
    oneOf,
    problemsOf,
    text,
    unknownKey,
} from "../../pipeline/fields";

const rate = number("a number between 0 and 1", { above: 0, to: 1 });
const count = integer("a whole number from 1 to 9", { from: 1, to: 9 });

/** The value, or each problem as `path: message`. */
function read(schema: z.ZodType, value: unknown): unknown {
    const parsed = schema.safeParse(value);
    if (parsed.success) return parsed.data;
    return problemsOf(parsed.error, ["x"]).map(({ path, message }) => `${path}: ${message}`);
}

describe("a number", () => {
    test.each([
        [0.5, 0.5],
        ["1e-4", 0.0001],
        ["5.0E-4", 0.0005],
        [" .5 ", 0.5],
        ["1.", 1],
        [1, 1],
    ])("%j is %j", (given, value) => {
        expect(read(rate, given)).toBe(value);
    });

    test.each([
        ["fast", 'x: expected a number between 0 and 1, got "fast"'],
        ["", 'x: expected a number between 0 and 1, got ""'],
        ["0x1", 'x: expected a number between 0 and 1, got "0x1"'],
        ["1e-4.5", 'x: expected a number between 0 and 1, got "1e-4.5"'],
        [0, "x: expected a number between 0 and 1, got 0"],
        [1.5, "x: expected a number between 0 and 1, got 1.5"],
        [Number.NaN, "x: expected a number between 0 and 1, got null"],
        [true, "x: expected a number between 0 and 1, got true"],
        [null, "x: expected a number between 0 and 1, got null"],
        [{ a: 1 }, 'x: expected a number between 0 and 1, got {"a":1}'],
        [undefined, "x: missing: expected a number between 0 and 1"],
        ["9".repeat(100) + "x", `x: expected a number between 0 and 1, got "${"9".repeat(76)}…`],
    ])("%j is refused in these words", (given, problem) => {
        expect(read(rate, given)).toEqual([problem]);
    });
});

describe("a whole number", () => {
    test.each([
        [3, 3],
        ["3", 3],
        ["3.0", 3],
    ])("%j is %j", (given, value) => {
        expect(read(count, given)).toBe(value);
    });

    test.each([[2.5], [0], [10], ["2.5"]])("%j is refused, once", (given) => {
        expect(read(count, given)).toEqual([
            `x: expected a whole number from 1 to 9, got ${JSON.stringify(
                typeof given === "string" ? Number(given) : given,
            )}`,
        ]);
    });
});

test("a switch is true, false, or either in words", () => {
    expect([true, "true", false, "false"].map((given) => read(flag(), given))).toEqual([true, true, false, false]);
    expect(read(flag(), "yes")).toEqual(['x: expected true or false, got "yes"']);
    expect(read(flag(), 1)).toEqual(["x: expected true or false, got 1"]);
});

test("a text is not made of a number, whose digits may be lost by then", () => {
    expect(read(text(), "main")).toBe("main");
    expect(read(text("a revision"), 12e34)).toEqual([
        "x: expected a revision, got the number 1.2e+35: put it in quotes",
    ]);
    expect(read(text("a revision"), "")).toEqual(['x: expected a revision, got ""']);
    expect(read(text("a revision"), undefined)).toEqual(["x: missing: expected a revision"]);
});

describe("an address", () => {
    test.each([["https://judge.example/v1?of=a@b"], ["http://127.0.0.1:8000"], ["http://localhost/@me"]])(
        "may be %s",
        (given) => {
            expect(read(address("https://api.example.com"), given)).toBe(given);
        },
    );

    test("is safe from others on the way", () => {
        expect(read(address("https://api.example.com"), "http://judge.example")).toEqual([
            'x: expected an address with https, or one of this machine, got "http://judge.example"',
        ]);
    });

    test.each([
        ["https://user:canary@judge.example/v1"],
        ["https://canary@judge.example/v1"],
        ["https://:canary@judge.example/v1"],
        ["https:user:canary@judge.example"],
        ["http://user:canary@judge.example/v1"],
        ["https://user:canary@"],
    ])("with a user in it is refused and not repeated: %s", (given) => {
        expect(read(address("https://api.example.com"), given)).toEqual([
            "x: expected an address without a user's name and password in it: it goes in clear into state, manifest and messages",
        ]);
    });
});

test("one of several words; the nearest is named", () => {
    const method = oneOf(["lora", "qlora", "full", "freeze"]);
    expect(read(method, "qlora")).toBe("qlora");
    expect(read(method, "qlor")).toEqual([
        'x: expected one of lora, qlora, full, freeze, got "qlor"; did you mean qlora?',
    ]);
    expect(read(method, "adapter")).toEqual(['x: expected one of lora, qlora, full, freeze, got "adapter"']);
    expect(read(method, undefined)).toEqual(["x: missing: expected one of lora, qlora, full, freeze"]);
});

test("a digest is 64 hexadecimal digits; a missing one is named as what it is", () => {
    const schema = digest("the digest of a model");
    expect(read(schema, "0a".repeat(32))).toBe("0a".repeat(32));
    expect(read(schema, undefined)).toEqual(["x: missing: expected the digest of a model"]);
    expect(read(schema, "0A".repeat(32))).toEqual([`x: expected the digest of a model, got "${"0A".repeat(32)}"`]);
});

test("a list names the element that is wrong", () => {
    const schema = list(text("a question"), "a list of questions");
    expect(read(schema, ["a", "b"])).toEqual(["a", "b"]);
    expect(read(schema, "a")).toEqual(['x: expected a list of questions, got "a"']);
    expect(read(schema, ["a", "", 3])).toEqual([
        'x[1]: expected a question, got ""',
        "x[2]: expected a question, got the number 3: put it in quotes",
    ]);
});

test("a free object is passed on as it is", () => {
    expect(read(jsonObject(), { a: [1, { b: null }] })).toEqual({ a: [1, { b: null }] });
    expect(read(jsonObject(), [1])).toEqual(["x: expected an object, got [1]"]);
});

describe("a group", () => {
    const split = group({ validation: rate, test: rate, seed: count.optional() }, "shares");

    test("names all that is wrong in it at once, unknown settings with the nearest known one", () => {
        expect(read(split, { validaton: 0.1, test: "x", seed: 3, q: 1 })).toEqual([
            "x.validation: missing: expected a number between 0 and 1",
            'x.test: expected a number between 0 and 1, got "x"',
            "x.validaton: unknown; did you mean validation?",
            "x.q: unknown; there is validation, test, seed",
        ]);
    });

    test("says what it is when it is something else", () => {
        expect(read(split, 3)).toEqual(["x: expected shares, got 3"]);
        expect(read(split, undefined)).toEqual(["x: missing: expected shares"]);
    });

    test("names the group that is meant where groups are nested", () => {
        const outer = group({ split, name: text() });
        expect(read(outer, { name: "n", split: { validation: 0.1, test: 0.1, sed: 1 } })).toEqual([
            "x.split.sed: unknown; did you mean seed?",
        ]);
    });

    test("without any setting says only that the setting is unknown", () => {
        expect(read(group({}), { a: 1 })).toEqual(["x.a: unknown"]);
    });
});

test("a far-fetched suggestion is not made", () => {
    expect(unknownKey("learning_rate", ["learningRate", "epochs"])).toBe("unknown; did you mean learningRate?");
    expect(unknownKey("LearningRate", ["learningRate"])).toBe("unknown; did you mean learningRate?");
    expect(unknownKey("zzz", ["learningRate", "epochs"])).toBe("unknown; there is learningRate, epochs");
});
