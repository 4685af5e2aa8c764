import { describe, expect, test } from "vitest";
import { secretPaths, unwrapSecrets, withoutNulls } from "../../pipeline/provider/values";
import type { Json } from "../../pipeline/identity";

// As the engine sends it (engine-trials.md, section 4).
const secret = (value: Json): Json => ({
    "4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270",
    value,
});

describe("secrets on the wire", () => {
    test("are found by their paths, in lists and at any depth", () => {
        const value = { a: secret("x"), b: { c: [1, { d: secret({ e: 1 }) }] }, f: [secret(1)], plain: { value: "v" } };
        expect(secretPaths(value)).toEqual(["a", "b.c[1].d", "f[0]"]);
    });

    test("are taken out of their wrapping, also one inside of another", () => {
        expect(unwrapSecrets({ a: secret({ b: [secret("x")] }), c: 1, d: null })).toEqual({
            a: { b: ["x"] },
            c: 1,
            d: null,
        });
    });

    test("are not seen in an object that only has the field, or holds assets and the like", () => {
        const asset = { "4dabf18193072939515e22adb298388d": "c44067f5952c0a294b673a41bacd8c17", "text": "t" };
        expect(secretPaths({ asset })).toEqual([]);
        expect(unwrapSecrets({ asset })).toEqual({ asset });
    });
});

test("nulls count as absent at the top, where Pulumi puts them for undefined inputs", () => {
    expect(withoutNulls({ a: null, b: { c: null }, d: 0 })).toEqual({ b: { c: null }, d: 0 });
});
