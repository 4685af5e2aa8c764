import { DuckDBInstance } from "@duckdb/node-api";
import fc from "fast-check";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { convert, type Conversion } from "../../../datasets/convert";
import { huatuoLite } from "../../../datasets/huatuo-lite";
import { recipeSchema, type Recipe } from "../../../datasets/recipe";
import type { Split } from "../../../datasets/split";
import { UserError } from "../../../pipeline/user-error";
import { temporaryFolder } from "./folder";

const whole: Split = { validation: 0, test: 0, seed: 42 };
const plain = recipeSchema.parse({ instruction: { constant: "do" }, columns: { input: "q", output: "a" } });

interface Options {
    recipe?: Recipe;
    limit?: number;
    split?: Split;
}

let runs = 0;

async function run(files: string[], options: Options = {}): Promise<{ conversion: Conversion; into: string }> {
    const into = path.join(path.dirname(files[0] ?? ""), `out${runs++}`);
    mkdirSync(into);
    const { recipe = plain, limit, split = whole } = options;
    return { conversion: await convert({ files, recipe, limit, split, into }), into };
}

/** The message of the UserError that a conversion ends with, which must leave nothing behind. */
async function failure(files: string[], options: Options = {}): Promise<string> {
    const folder = path.dirname(files[0] ?? "");
    const error = await run(files, options).then(
        () => undefined,
        (reason: unknown) => reason,
    );
    if (!(error instanceof UserError)) throw error instanceof Error ? error : new Error("the conversion succeeded");
    expect(readdirSync(path.join(folder, `out${runs - 1}`))).toEqual([]);
    return error.message.replaceAll(`${folder}/`, "");
}

function write(name: string, content: string | Buffer, folder = temporaryFolder()): string {
    const file = path.join(folder, name);
    writeFileSync(file, content);
    return file;
}

function jsonLines(rows: unknown[]): string {
    return rows.map((row) => `${JSON.stringify(row)}\n`).join("");
}

function rowsOf(into: string, part = "train"): { instruction: string; input: string; output: string }[] {
    const lines = readFileSync(path.join(into, `${part}.jsonl`), "utf8").split("\n");
    expect(lines.pop()).toBe("");
    return lines.map((line) => JSON.parse(line) as { instruction: string; input: string; output: string });
}

function csv(rows: Record<string, string | number | null>[]): string {
    const cell = (value: string | number | null | undefined): string =>
        `"${String(value ?? "").replaceAll('"', '""')}"`;
    const names = Object.keys(rows[0] ?? {});
    return [names, ...rows.map((row) => names.map((name) => row[name]))]
        .map((row) => `${row.map(cell).join(",")}\n`)
        .join("");
}

function digestOf(into: string): string {
    const digest = createHash("sha256");
    for (const name of readdirSync(into).sort()) digest.update(name).update(readFileSync(path.join(into, name)));
    return digest.digest("hex");
}

const sample = Array.from({ length: 3000 }, (_, id) => ({
    id,
    question: `${id % 7 === 0 ? "头痛\r\n" : ""}问题“${id % 900}”？${id % 11 === 0 ? '"\\n, 引用"' : ""}`,
    answer: id % 50 === 0 ? null : `回答 ${id}，\n多喝水 😀\t${"详".repeat(id % 40)}`,
    label: id % 10 === 0 ? " \u3000\u00a0" : "内科",
    score: id % 6,
}));

describe("huatuo-lite", () => {
    test("keeps the rows with label, question and answer, and nothing but line ends changes", async () => {
        const file = write(
            "rows.jsonl",
            jsonLines([
                { question: "a\r\nb\n\rc\rd\n\ne", answer: " x ", label: "内科" },
                { question: "b", answer: "x" },
                { question: "b", answer: "x", label: "" },
                { question: "\u3000", answer: "x", label: "内科" },
                { question: "c", answer: null, label: "内科" },
                { question: "", answer: "", label: "\u00a0" },
                { question: "C", answer: "\\n", label: "外科" },
            ]),
        );
        const { conversion, into } = await run([file], { recipe: huatuoLite });
        expect(conversion).toEqual({
            scanned: 7,
            kept: 2,
            dropped: { "empty label": 3, "empty question": 1, "empty answer": 1 },
            rows: { train: 2, validation: 0, test: 0 },
            characters: { p50: 3, p95: 13, max: 13 },
        });
        expect(readdirSync(into)).toEqual(["train.jsonl"]);
        expect(readFileSync(path.join(into, "train.jsonl"), "utf8")).toBe(
            '{"instruction":"请根据患者的问题给出建议","input":"a\\nb\\nc\\nd\\n\\ne","output":" x "}\n' +
                '{"instruction":"请根据患者的问题给出建议","input":"C","output":"\\\\n"}\n',
        );
    });
});

describe("the output", () => {
    test("has the same bytes for JSON Lines, a JSON array, CSV, Parquet and gzip", async () => {
        const folder = temporaryFolder();
        const lines = write("rows.jsonl", jsonLines(sample), folder);
        const database = await DuckDBInstance.create(":memory:");
        const connection = await database.connect();
        await connection.run(
            `COPY (SELECT * FROM read_json('${lines}', format = 'newline_delimited')) TO '${folder}/rows.parquet' (FORMAT parquet)`,
        );
        connection.closeSync();
        database.closeSync();
        const files = [
            lines,
            write("rows.json", JSON.stringify(sample, undefined, 2), folder),
            write("rows.csv", csv(sample), folder),
            path.join(folder, "rows.parquet"),
            write("rows.jsonl.gz", gzipSync(jsonLines(sample)), folder),
            write("bom.jsonl", `\uFEFF${jsonLines(sample)}`, folder),
            write("bom.json", `\uFEFF${JSON.stringify(sample)}`, folder),
            write("bom.csv", `\uFEFF${csv(sample)}`, folder),
            write("[1]*?.jsonl", jsonLines(sample), folder),
        ];
        const split = { validation: 0.1, test: 0.05, seed: 7 };
        const results = [];
        for (const file of files) {
            const { conversion, into } = await run([file], { recipe: huatuoLite, split });
            results.push({ conversion, digest: digestOf(into) });
        }
        expect(results[0]?.conversion).toMatchObject({
            scanned: 3000,
            kept: 2700,
            dropped: { "empty label": 300 },
            rows: { train: 2295, validation: 270, test: 135 },
        });
        for (const result of results) expect(result).toEqual(results[0]);
    });

    test("is the same for one file and for its parts", async () => {
        const folder = temporaryFolder();
        const one = await run([write("rows.jsonl", jsonLines(sample), folder)], { recipe: huatuoLite });
        const halves = [
            write("1.json", JSON.stringify(sample.slice(0, 1500)), folder),
            write("2.jsonl", jsonLines(sample.slice(1500)), folder),
        ];
        const two = await run(halves, { recipe: huatuoLite });
        expect(two.conversion).toEqual(one.conversion);
        expect(digestOf(two.into)).toBe(digestOf(one.into));
    });

    test("is in the files' order where several threads read them", async () => {
        const folder = temporaryFolder();
        const rows = Array.from({ length: 40_000 }, (_, id) => ({ q: `q${id}`, a: `${id} ${"x".repeat(id % 2000)}` }));
        const files = [
            write("1.jsonl", jsonLines(rows.slice(0, 35_000)), folder),
            write("2.csv", csv(rows.slice(35_000)), folder),
        ];
        const split = { validation: 0.2, test: 0.1, seed: 3 };
        for (const limit of [undefined, 38_000]) {
            const { conversion, into } = await run(files, limit === undefined ? { split } : { split, limit });
            const kept = limit ?? rows.length;
            expect(conversion.rows).toEqual({ train: 0.7 * kept, validation: 0.2 * kept, test: 0.1 * kept });
            const seen = new Set<number>();
            for (const part of ["train", "validation", "test"]) {
                const ids = rowsOf(into, part).map(({ input, output }) => {
                    const id = Number(input.slice(1));
                    expect(output).toBe(rows[id]?.a);
                    seen.add(id);
                    return id;
                });
                expect(ids).toEqual([...ids].sort((a, b) => a - b));
            }
            expect(seen.size).toBe(kept);
            expect(Math.max(...seen)).toBe(kept - 1);
        }
    });

    test("is valid JSON with equal text, whatever the strings hold", async () => {
        const text = fc.string({ unit: "binary", maxLength: 20 });
        const awkward = fc.constantFrom(
            '"',
            "\\",
            "\r\n",
            "\n\r",
            "\r",
            "\0",
            "\u2028",
            "\uFEFF",
            "مرحبا",
            "👩‍⚕️",
            '","output":"',
            "e\u0301",
        );
        const value = fc.array(fc.oneof(text, awkward), { maxLength: 4 }).map((pieces) => pieces.join(""));
        const rows = fc.array(fc.record({ q: value, a: value }), { minLength: 1, maxLength: 30 });
        const folder = temporaryFolder();
        await fc.assert(
            fc.asyncProperty(rows, async (given) => {
                const { conversion, into } = await run([write("rows.jsonl", jsonLines(given), folder)]);
                expect(conversion.kept).toBe(given.length);
                const lf = (s: string): string => s.replace(/\r\n|\n\r|\r/g, "\n");
                expect(rowsOf(into)).toEqual(
                    given.map(({ q, a }) => ({ instruction: "do", input: lf(q), output: lf(a) })),
                );
            }),
            { numRuns: 40 },
        );
    });

    test("quotes whatever a recipe names", async () => {
        const name = 'we"ird; drop';
        const recipe = recipeSchema.parse({
            instruction: { constant: `it's "1'; DROP TABLE x; --` },
            columns: { input: name, output: "a'b" },
            require: [name],
            where: [{ column: "a'b", oneOf: ["it's", "x"] }],
        });
        const rows = [
            { [name]: "q", "a'b": "it's" },
            { [name]: "", "a'b": "x" },
            { [name]: "q", "a'b": "y" },
        ];
        const folder = temporaryFolder();
        for (const file of [write("r.jsonl", jsonLines(rows), folder), write("r.csv", csv(rows), folder)]) {
            const { conversion, into } = await run([file], { recipe });
            expect(conversion.dropped).toEqual({ [`empty ${name}`]: 1, "a'b not listed": 1 });
            expect(rowsOf(into)).toEqual([{ instruction: `it's "1'; DROP TABLE x; --`, input: "q", output: "it's" }]);
        }
    });

    test("is right when the source has Alpaca's own names, swapped", async () => {
        const recipe = recipeSchema.parse({
            instruction: { column: "reason" },
            columns: { input: "output", output: "instruction" },
            require: ["input"],
        });
        const file = write("r.jsonl", jsonLines([{ instruction: "a", input: "b", output: "c", reason: "d" }]));
        expect(rowsOf((await run([file], { recipe })).into)).toEqual([{ instruction: "d", input: "c", output: "a" }]);
    });

    test("takes values that are no text as their JSON", async () => {
        const file = write("r.jsonl", '{"q":12,"a":[1, "x"]}\n{"q":true,"a":{"k": null}}\n{"q":1.5}\n');
        expect(rowsOf((await run([file])).into).map(({ input, output }) => [input, output])).toEqual([
            ["12", '[1,"x"]'],
            ["true", '{"k":null}'],
            ["1.5", ""],
        ]);
    });

    test("can be trimmed, composed, and take its instruction from a column", async () => {
        const recipe = recipeSchema.parse({
            instruction: { column: "i" },
            columns: { output: "a" },
            trim: true,
            unicode: "NFC",
            lineEndings: "keep",
        });
        const file = write("r.jsonl", jsonLines([{ i: "\u3000 e\u0301\r\n", a: "\uFEFFx y\u00a0" }]));
        expect(rowsOf((await run([file], { recipe })).into)).toEqual([{ instruction: "é", input: "", output: "x y" }]);
    });
});

describe("rows are counted", () => {
    test("up to the last kept one when there is a limit, over files and few kept rows too", async () => {
        const rows = Array.from({ length: 10_000 }, (_, id) => ({
            question: `q${id}`,
            answer: "a",
            label: id % 2 === 0 ? "" : "x",
        }));
        const file = write("r.jsonl", jsonLines(rows));
        const { conversion } = await run([file], { recipe: huatuoLite, limit: 3000 });
        expect(conversion).toMatchObject({ scanned: 6000, kept: 3000, dropped: { "empty label": 3000 } });
        const rare = recipeSchema.parse({ ...plain, where: [{ column: "n", oneOf: [7] }], deduplicate: true });
        const many = jsonLines(Array.from({ length: 9000 }, (_, id) => ({ q: `${id % 600}`, a: "a", n: id % 100 })));
        const folder = temporaryFolder();
        const files = [write("1.jsonl", many, folder), write("2.jsonl", many.replaceAll('"q":"', '"q":"x'), folder)];
        // Each file has 90 rows with 7; those of 600 on are duplicates of the 6 before.
        expect((await run(files, { recipe: rare, limit: 9 })).conversion).toMatchObject({
            scanned: 9208,
            kept: 9,
            dropped: { "n not listed": 9115, "duplicate": 84 },
        });
        const all = await run([file], { recipe: huatuoLite, limit: 9999 });
        expect(all.conversion).toMatchObject({ scanned: 10_000, kept: 5000, dropped: { "empty label": 5000 } });
    });

    test("under the first reason in the recipe's order", async () => {
        const recipe = recipeSchema.parse({
            instruction: { constant: "" },
            columns: { input: "q", output: "a" },
            require: ["q"],
            where: [{ column: "score", atLeast: 3, atMost: 9 }],
            deduplicate: true,
        });
        const row = (q: string, score: unknown): unknown => ({ q, a: "a", score });
        const file = write(
            "r.jsonl",
            jsonLines([
                row("", 1),
                row("A b", 2),
                row("A b", 3),
                row("Ａ\u3000\n b ", 4),
                row("a b", 5),
                row("c", "x"),
                row("c", 10),
                row("c", "9.5"),
                row("c", null),
                row("c", 9),
            ]),
        );
        const { conversion, into } = await run([file], { recipe });
        expect(conversion.dropped).toEqual({
            "empty q": 1,
            "score below 3": 1,
            "duplicate": 1,
            "score not a number": 2,
            "score above 9": 2,
        });
        expect(rowsOf(into).map(({ input }) => input)).toEqual(["A b", "a b", "c"]);
    });
});

describe("the split", () => {
    test("never has one prompt in two parts", async () => {
        const spellings = (id: number): string[] => [`Q ${id} ok`, `q${id}\tOK`, `Ｑ${id}ｏｋ\n`, `"q ${id} ok`];
        const rows = Array.from({ length: 400 }, (_, id) =>
            spellings(id)
                .slice(0, 1 + (id % 4))
                .map((q) => ({ q, a: "a" })),
        ).flat();
        const { conversion, into } = await run([write("r.jsonl", jsonLines(rows))], {
            split: { validation: 0.2, test: 0.1, seed: 1 },
        });
        expect(conversion.rows).toEqual({ train: 700, validation: 200, test: 100 });
        const fold = (s: string): string => s.normalize("NFKC").toLowerCase().replace(/\s+/g, "");
        const parts = ["train", "validation", "test"].map(
            (part) => new Set(rowsOf(into, part).map(({ input }) => fold(input))),
        );
        expect(parts.map(({ size }) => size).reduce((a, b) => a + b)).toBe(
            new Set(parts.flatMap((part) => [...part])).size,
        );
    });

    test("keeps the file's order in each part, and follows the seed", async () => {
        const file = write(
            "r.jsonl",
            jsonLines(Array.from({ length: 200 }, (_, id) => ({ q: `q${id}`, a: String(id) }))),
        );
        const tests = [];
        for (const seed of [1, 1, 2]) {
            const { into } = await run([file], { split: { validation: 0.1, test: 0.1, seed } });
            const ids = rowsOf(into, "test").map(({ output }) => Number(output));
            expect(ids).toEqual([...ids].sort((a, b) => a - b));
            tests.push(ids);
        }
        expect(tests[0]).toEqual(tests[1]);
        expect(tests[0]).not.toEqual(tests[2]);
    });

    test("that leaves nothing for training is refused", async () => {
        const file = write(
            "r.jsonl",
            jsonLines([
                { q: "x", a: "1" },
                { q: " X", a: "2" },
            ]),
        );
        expect(await failure([file], { split: { validation: 0, test: 0.1, seed: 1 } })).toBe(
            "The split leaves no row for training: 2 kept, 0 for validation, 2 for test. Lower the shares, or keep more rows.",
        );
    });
});

describe("a file that cannot be converted", () => {
    test.each<[string, string, string | Buffer, string]>([
        ["empty", "r.jsonl", "", "r.jsonl is empty: there is no row to convert."],
        ["blank", "r.jsonl", " \n", "r.jsonl holds nothing but white space: there is no row to convert."],
        ["an empty array", "r.json", "[]", "r.json: there is no row to convert."],
        ["only a header", "r.csv", "q,a\n", "r.csv: there is no row to convert."],
        [
            "broken JSON",
            "r.jsonl",
            '{"q":"x","a":"y"}\n{"q":"x","a":"y"\n{"q":"x","a":"z"}\n',
            "r.jsonl: line 2 is not valid JSON: ",
        ],
        [
            "a row that is no object",
            "r.jsonl",
            '{"q":"x","a":"y"}\n\n[1]\n',
            "r.jsonl: line 3 is not a JSON object, but an array.",
        ],
        [
            "half a surrogate pair",
            "r.jsonl",
            '{"q":"\\ud800","a":"y"}\n',
            "r.jsonl: line 1 holds half of a surrogate pair (a \\ud800 to \\udfff escape by itself).",
        ],
        ["a key twice", "r.jsonl", '{"q":"x","a":"y","q":"z"}\n', 'r.jsonl: line 1 has the key "q" twice.'],
        [
            "a broken element",
            "r.json",
            '[\n{"q":"x","a":"],"},\n{"q":"x" "a":1}\n]',
            "r.json: row 2 (line 3) is not valid JSON: ",
        ],
        ["a missing element", "r.json", '[{"q":"x","a":"y"},\n]', "r.json: row 2 (line 2) is missing."],
        [
            "an element that is no object",
            "r.json",
            '[{"q":"x","a":"y"},3]',
            "r.json: row 2 (line 1) is not a JSON object, but 3.",
        ],
        [
            "an array that was cut off",
            "r.json",
            '[{"q":"x","a":"y"},',
            'r.json is a JSON array that does not end with "]": it was cut off, so fetch or write it again.',
        ],
        [
            "other than UTF-8",
            "r.jsonl",
            Buffer.from('{"q":"x","a":"y"}\n{"q":"\xff","a":"y"}\n', "latin1"),
            "r.jsonl: line 2 is not UTF-8. Save the file as UTF-8, for example with `iconv -f GB18030 -t UTF-8`.",
        ],
        [
            "CSV other than UTF-8",
            "r.csv",
            Buffer.from("q,a\nx,y\nx,\xff\n", "latin1"),
            "r.csv: line 3 is not UTF-8. Save the file as UTF-8, for example with `iconv -f GB18030 -t UTF-8`.",
        ],
        [
            "CSV with a column too many",
            "r.csv",
            'q,a\n"x\ny",y\nx,y,z\n',
            "r.csv: line 4 has 3 columns, but the header has 2.",
        ],
        [
            "CSV with an open quote",
            "r.csv",
            'q,a\nx,y\nx,"y\n',
            "r.csv: line 3 has a quoted value that is not closed, or that is followed by more than a comma or the line's end.",
        ],
        ["CSV with a name twice", "r.csv", "q,a,q\nx,y,z\n", 'r.csv: the header names the column "q" twice.'],
        [
            "truncated Parquet",
            "r.parquet",
            "PAR1 and so on",
            "r.parquet is a Parquet file that ends too early: fetch it again.",
        ],
        ["broken Parquet", "r.parquet", "PAR1nonsense....PAR1", "r.parquet cannot be read as Parquet ("],
        ["no Parquet", "r.parquet", "q,a", "r.parquet is not a Parquet file, whatever its name says."],
        [
            "damaged gzip",
            "r.jsonl.gz",
            gzipSync(jsonLines(sample)).subarray(0, 500),
            "r.jsonl.gz is a gzip file that is damaged (unexpected end of file): fetch it again.",
        ],
        [
            "a Git LFS pointer",
            "r.jsonl",
            "version https://git-lfs.github.com/spec/v1\n",
            "r.jsonl is a Git LFS pointer, not the data: run `git lfs pull`, or download the file.",
        ],
        [
            "without a column",
            "r.csv",
            "qq,a\nx,y\n",
            'r.csv has no column "q", which recipe inline names. It has: qq, a. Did you mean "qq"?',
        ],
        [
            "without a key",
            "r.jsonl",
            '{"Q":"x","a":"y"}\n',
            'r.jsonl has no column "q", which recipe inline names. It has: Q, a. Did you mean "Q"?',
        ],
    ])("(%s) is named with what is wrong", async (_, name, content, message) => {
        const said = await failure([write(name, content)]);
        expect(message.endsWith(" ") || message.endsWith("(") ? said.slice(0, message.length) : said).toBe(message);
    });

    test("because it is missing or a folder", async () => {
        const folder = temporaryFolder();
        expect(await failure([path.join(folder, "no.jsonl")])).toBe(
            "no.jsonl does not exist: correct the path of the data set's source.",
        );
        mkdirSync(path.join(folder, "sub"));
        expect(await failure([path.join(folder, "sub")])).toBe("sub is a folder: name the files in it instead.");
    });

    test("because no row is left, with the reasons", async () => {
        const file = write(
            "r.jsonl",
            jsonLines([
                { label: "", question: "x", answer: "y" },
                { label: "x", question: "", answer: "y" },
                { question: "x", answer: "y" },
            ]),
        );
        expect(await failure([file], { recipe: huatuoLite })).toBe(
            "r.jsonl: recipe huatuo-lite keeps none of 3 rows (empty label: 2, empty question: 1). Check its columns and filters.",
        );
    });

    test("because of a row that no reader holds", async () => {
        const file = write("r.jsonl", jsonLines([{ q: "x", a: "y".repeat(40 << 20) }]));
        expect(await failure([file])).toMatch(
            /^r\.jsonl: a row is too large to be read within 512 MB \(.*\)\. Shorten or leave out such rows\.$/,
        );
    });

    test("late in a large file leaves nothing either", async () => {
        const file = write("r.jsonl", `${jsonLines(sample.map(({ id }) => ({ q: `q${id}`, a: "a" })))}{"q":\n`);
        expect(await failure([file])).toMatch(/^r\.jsonl: line 3001 is not valid JSON: /);
    });

    test("but a key that only late rows have is found", async () => {
        const rows: unknown[] = Array.from({ length: 2500 }, (_, id) => ({ q: `q${id}` }));
        const { conversion, into } = await run([write("r.jsonl", jsonLines([...rows, { q: "last", a: "answer" }]))]);
        expect(conversion.kept).toBe(2501);
        expect(rowsOf(into).at(-1)?.output).toBe("answer");
        expect(existsSync(path.join(into, ".partial"))).toBe(false);
    });
});
