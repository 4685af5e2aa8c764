import { execFileSync } from "node:child_process";
import {
    mkdirSync,
    readdirSync,
    readFileSync,
    rmSync,
    statSync,
    symlinkSync,
    utimesSync,
    writeFileSync,
} from "node:fs";
import path from "node:path";
import { isDeepStrictEqual } from "node:util";
import fc from "fast-check";
import { beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import {
    digestOfFiles,
    fileDigest,
    hasUnknown,
    keyOf,
    leaves,
    listFiles,
    sha256,
    UNKNOWN,
    type JsonObject,
} from "../../pipeline/identity";
import { temporaryFolder } from "./datasets/folder";

const runner = path.resolve(import.meta.dirname, "../../pipeline/runner/runner.py");

// `kind` is the stage's own; that no stage has a field of this name is in stage.test.ts.
const identity = fc
    .dictionary(
        fc.string({ unit: "grapheme" }).filter((name) => name !== "kind"),
        fc.jsonValue(),
    )
    .map((value) => JSON.parse(JSON.stringify(value)) as JsonObject);

/** The same value with the fields of every object in another order. */
function reordered<Value>(value: Value): Value {
    if (Array.isArray(value)) return value.map(reordered) as Value;
    if (typeof value !== "object" || value === null) return value;
    const fields = Object.entries(value).map(([name, one]) => [name, reordered(one)] as const);
    return Object.fromEntries(fields.reverse()) as Value;
}

describe("a key", () => {
    test("is the same whatever the order of the fields", () => {
        fc.assert(
            fc.property(identity, (one) => {
                expect(keyOf("Training", reordered(one))).toBe(keyOf("Training", one));
            }),
        );
    });

    test("differs for any two identities that differ", () => {
        fc.assert(
            fc.property(identity, identity, (a, b) => {
                fc.pre(!isDeepStrictEqual(reordered(a), reordered(b)) && !isDeepStrictEqual(a, b));
                expect(keyOf("Training", a)).not.toBe(keyOf("Training", b));
            }),
        );
    });

    test("differs when one leaf of an identity does, however small the change", () => {
        const numbers = fc.double({ noNaN: true, noDefaultInfinity: true });
        fc.assert(
            fc.property(numbers, numbers, (a, b) => {
                fc.pre(a !== b);
                expect(keyOf("Training", { deep: [{ rate: a }] })).not.toBe(keyOf("Training", { deep: [{ rate: b }] }));
            }),
        );
    });

    test("keeps the order of a list", () => {
        expect(keyOf("Evaluation", { prompts: ["a", "b"] })).not.toBe(keyOf("Evaluation", { prompts: ["b", "a"] }));
    });

    test("tells a text from a number, null from absent, and one Unicode form from another", () => {
        const keys = [{ x: 1 }, { x: "1" }, { x: null }, {}, { x: "é" }, { x: "e\u0301" }, { x: [] }, { x: {} }];
        expect(new Set(keys.map((one) => keyOf("Model", one))).size).toBe(keys.length);
    });

    test("takes an undefined field for an absent one, and 1.0 for 1", () => {
        expect(keyOf("Model", { x: undefined, rate: 5.0e-4 })).toBe(keyOf("Model", { rate: 0.0005 }));
    });

    test("is the SHA-256 of canonical JSON, so that it can be computed without this program", () => {
        expect(keyOf("Dataset", { split: { seed: 42, test: 0.05 }, prompt: "感冒" })).toBe(
            sha256('{"kind":"Dataset","prompt":"感冒","split":{"seed":42,"test":0.05}}'),
        );
    });
});

test("leaves have dotted paths; lists and empty objects are leaves", () => {
    const value = { a: { b: 1, c: { d: null } }, list: [{ x: 1 }], empty: {}, gone: undefined };
    expect([...leaves(value)]).toEqual([
        ["a.b", 1],
        ["a.c.d", null],
        ["list", [{ x: 1 }]],
        ["empty", {}],
    ]);
});

test("an unknown is found at any depth, and nowhere else", () => {
    for (const value of [UNKNOWN, [UNKNOWN], { a: { b: [{ c: UNKNOWN }] } }]) expect(hasUnknown(value)).toBe(true);
    for (const value of [null, undefined, "", {}, [], { a: `${UNKNOWN}!` }, 4]) expect(hasUnknown(value)).toBe(false);
});

describe("the digest of a folder", () => {
    const content = { "b.txt": "two", "a/z.txt": "deep", "a.txt": "", "ä.txt": "one", "a b.txt": "space" };

    function folderWith(files: Readonly<Record<string, string>>): string {
        vi.stubEnv("RETUNE_CACHE", temporaryFolder());
        onTestFinished(() => {
            vi.unstubAllEnvs();
        });
        const folder = temporaryFolder();
        for (const [name, text] of Object.entries(files)) {
            mkdirSync(path.dirname(path.join(folder, name)), { recursive: true });
            writeFileSync(path.join(folder, name), text);
        }
        return folder;
    }

    test("is the SHA-256 of what sha256sum prints, sorted by bytes", async () => {
        const folder = folderWith(content);
        const listing = execFileSync(
            "sh",
            ["-c", "find . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum"],
            {
                cwd: folder,
            },
        );
        expect(listing.toString().trimEnd().split("\n")).toHaveLength(5);
        expect(digestOfFiles(await listFiles(folder))).toBe(sha256(listing));
    });

    test("is what the runner computes for the same folder", async () => {
        const folder = folderWith(content);
        const mine = digestOfFiles(await listFiles(folder));
        const home = temporaryFolder();
        const program = `
import runpy, sys, json
from pathlib import Path
runner = runpy.run_path(sys.argv[1])
print(json.dumps(runner["store"](Path(sys.argv[2]), Path(sys.argv[3]))))`;
        const answer = execFileSync("python3", ["-c", program, runner, home, folder], { encoding: "utf8" });
        const [digest, files] = JSON.parse(answer) as [string, unknown];
        expect(digest).toBe(mine);
        const stored = path.join(home, "store", digest);
        expect(files).toEqual(await listFiles(stored));
        expect(JSON.parse(readFileSync(`${stored}.json`, "utf8"))).toEqual({ digest, files });
    });

    test("does not depend on the order in which files are listed, but on each name and content", async () => {
        const files = await listFiles(folderWith(content));
        expect(files).toHaveLength(5);
        const digest = digestOfFiles(files);
        expect(digestOfFiles([...files].reverse())).toBe(digest);
        for (const file of files) {
            const others = files.filter((one) => one !== file);
            expect(digestOfFiles([...others, { ...file, path: `${file.path}x` }])).not.toBe(digest);
            expect(digestOfFiles([...others, { ...file, sha256: sha256("other") }])).not.toBe(digest);
            expect(digestOfFiles(others)).not.toBe(digest);
        }
    });

    test("takes a link for the content behind it", async () => {
        const folder = folderWith({ "real.txt": "content" });
        const linked = folderWith({});
        symlinkSync(path.join(folder, "real.txt"), path.join(linked, "real.txt"));
        expect(digestOfFiles(await listFiles(linked))).toBe(digestOfFiles(await listFiles(folder)));
    });
});

describe("the memory of file digests", () => {
    let cache: string;
    let file: string;
    const memory = (): string[] => {
        const folder = path.join(cache, "digests");
        return statSync(folder, { throwIfNoEntry: false }) === undefined ? [] : readdirSync(folder);
    };
    /** What is remembered about the file is replaced, so that one can see whether it is believed. */
    const falsify = (): void => {
        const [name = ""] = memory();
        const [fingerprint = ""] = readFileSync(path.join(cache, "digests", name), "utf8").split(" ");
        writeFileSync(path.join(cache, "digests", name), `${fingerprint} remembered`);
    };

    beforeEach(() => {
        cache = temporaryFolder();
        vi.stubEnv("RETUNE_CACHE", cache);
        file = path.join(temporaryFolder(), "rows.jsonl");
        writeFileSync(file, "rows");
        // As if the file had been written some time ago; its ctime cannot be set.
        vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 60_000 });
        onTestFinished(() => {
            vi.useRealTimers();
            vi.unstubAllEnvs();
        });
    });

    test("spares reading a file that has not changed", async () => {
        expect(await fileDigest(file)).toBe(sha256("rows"));
        expect(memory()).toHaveLength(1);
        falsify();
        expect(await fileDigest(file)).toBe("remembered");
    });

    test("does not hide a change of the same size with the time set back", async () => {
        const { atime, mtime } = statSync(file);
        await fileDigest(file);
        falsify();
        writeFileSync(file, "ROWS");
        utimesSync(file, atime, mtime);
        expect(await fileDigest(file)).toBe(sha256("ROWS"));
    });

    test("does not hide another file that was moved into its place", async () => {
        await fileDigest(file);
        falsify();
        rmSync(file);
        writeFileSync(file, "rowz");
        expect(await fileDigest(file)).toBe(sha256("rowz"));
    });

    test("does not begin within two seconds of the last change", async () => {
        const changed = Math.floor(statSync(file).ctimeMs);
        vi.setSystemTime(changed + 1999);
        await fileDigest(file);
        expect(memory()).toEqual([]);
        vi.setSystemTime(changed + 2001);
        await fileDigest(file);
        expect(memory()).toHaveLength(1);
    });

    test("bears many that ask at once", async () => {
        const digests = await Promise.all(Array.from({ length: 20 }, () => fileDigest(file)));
        expect(new Set(digests)).toEqual(new Set([sha256("rows")]));
        expect(memory()).toHaveLength(1);
    });

    test("bears a torn entry", async () => {
        await fileDigest(file);
        const [name = ""] = memory();
        writeFileSync(path.join(cache, "digests", name), "12:3");
        expect(await fileDigest(file)).toBe(sha256("rows"));
    });
});
