import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { convert } from "../../../datasets/convert";
import { NearDuplicates } from "../../../datasets/near-duplicates";
import { personalData } from "../../../datasets/personal-data";
import { foundIn, qualitySchema, type Limits } from "../../../datasets/quality";
import { recipes, recipeSchema, type Recipe } from "../../../datasets/recipe";
import { noWords, readWords, SCRIPTS } from "../../../datasets/words";
import { problemsOf } from "../../../pipeline/fields";
import { UserError } from "../../../pipeline/user-error";
import { randomNumbers } from "../../../scripts/bench/random";
import { project } from "../../../scripts/locations.cjs";
import { temporaryFolder } from "./folder";

const recipe = recipeSchema.parse({ instruction: { constant: "" }, columns: { input: "q", output: "a" } });

interface Options {
    readonly recipe?: Recipe;
    readonly limits?: Partial<Limits>;
    readonly cutoffLength?: number;
    readonly together?: "same" | "similar";
    readonly seed?: number;
}

async function converted(rows: readonly { q: string; a: string }[], options: Options = {}) {
    const folder = temporaryFolder();
    const file = path.join(folder, "rows.jsonl");
    writeFileSync(file, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
    const into = path.join(folder, "out");
    mkdirSync(into);
    const { limits, cutoffLength, together = "same", seed = 1 } = options;
    const conversion = await convert({
        files: [file],
        recipe: options.recipe ?? recipe,
        limit: undefined,
        split: { validation: 0.1, test: 0.1, seed, together },
        quality: { limits: { leaks: "100%", ...limits }, cutoffLength },
        into,
    });
    if (conversion.quality === undefined) throw new Error("nobody looked");
    return { ...conversion, quality: conversion.quality, into };
}

async function refusal(rows: readonly { q: string; a: string }[], options: Options): Promise<string> {
    const error = await converted(rows, options).catch((reason: unknown) => reason);
    if (error instanceof UserError) return error.message;
    throw error instanceof Error ? error : new Error("it was not refused");
}

/** Questions that have nothing in common but their words. */
const others = (count: number) =>
    Array.from({ length: count }, (_, i) => ({
        q: Array.from({ length: 12 }, (_, k) => `w${(i * 7919 + k * 104729) % 1009}`).join(" "),
        a: `One answer of several words, number ${i}.`,
    }));

describe("words", () => {
    const hashes = (text: string): number[] => {
        const words = noWords();
        readWords(text, words);
        return [...words.hashes.subarray(0, words.count)];
    };

    test.each([
        ["What NOW?", "what now", 2],
        ["ＣＴ ３８", "ct 38", 2],
        ["café", "CAFE\u0301", 1],
        ["头痛，怎么办？", "头痛怎么办", 5],
        ["做CT检查", "做 ct 检查", 4],
        [" — … ！", "", 0],
    ])("%j are those of %j", (text, same, count) => {
        expect(hashes(text)).toEqual(hashes(same));
        expect(hashes(text)).toHaveLength(count);
    });

    test("are counted by script", () => {
        const words = noWords();
        readWords("头痛 and жар в 한국 か", words);
        expect(Object.fromEntries(SCRIPTS.map((script, at) => [script, words.scripts[at]]))).toMatchObject({
            ...{ Han: 2, Kana: 1, Hangul: 2, Latin: 1, Cyrillic: 2, Arabic: 0 },
        });
    });
});

describe("near duplicates", () => {
    /** The share of neighbouring words that two texts have in common, by the definition. */
    const sets = new Map<string, Set<string>>();
    const setOf = (text: string): Set<string> => {
        const words = text.split(" ");
        const pairs = words.length === 1 ? words : words.slice(1).map((word, i) => `${words[i] ?? ""} ${word}`);
        const set = sets.get(text) ?? new Set(pairs);
        sets.set(text, set);
        return set;
    };
    const alike = (a: string, b: string): number => {
        const [one, other] = [setOf(a), setOf(b)];
        const both = [...one].filter((pair) => other.has(pair)).length;
        return both / (one.size + other.size - both);
    };
    const searched = (texts: readonly string[]) => {
        const similar = new NearDuplicates(texts.length, temporaryFolder());
        const words = noWords();
        for (const one of texts.filter((_, at) => at % 3 === 0)) {
            readWords(one, words);
            similar.sample(words);
        }
        for (const one of texts) {
            readWords(one, words);
            similar.add(words);
        }
        try {
            return similar.links();
        } finally {
            similar.close();
        }
    };
    const random = randomNumbers(7);
    const below = (count: number) => Math.floor(random() * count);
    const text = (length: number, vocabulary: number) => Array.from({ length }, () => `w${below(vocabulary)}`);
    const changed = (words: readonly string[], changes: number) => {
        const places = new Set(Array.from({ length: changes }, () => below(words.length)));
        return words.map((one, at) => (places.has(at) ? `x${below(1e6)}` : one));
    };

    test("none of thousands of pairs about the limit is missed, and none below it is named, short or long", () => {
        const pairs = Array.from({ length: 4000 }, (_, number) => {
            // Of 64 words all is in memory, of 320 not even all that is looked for.
            const length = number % 8 === 0 ? 60 + below(500) : 1 + below(70);
            const words = text(length, 100_000);
            return [words.join(" "), changed(words, below(Math.ceil(length / 8) + 1)).join(" ")] as const;
        });
        const { links } = searched(pairs.flat());
        const expected = pairs.flatMap(([one, other], at) => {
            const share = alike(one, other);
            return share >= 0.8 ? [{ first: 2 * at, second: 2 * at + 1, alike: share }] : [];
        });
        const close = pairs.filter(([one, other]) => Math.abs(alike(one, other) - 0.8) < 0.05).length;
        expect({ some: expected.length > 1500, others: expected.length < 3500, close: close > 500 }).toEqual({
            ...{ some: true, others: true, close: true },
        });
        expect(links).toEqual(expected);
    });

    test("all that are connected by pairs belong together, however many are alike", () => {
        for (const [count, vocabulary] of [
            [150, 4],
            [150, 40],
            [60, 2],
        ] as const) {
            const bases = Array.from({ length: 12 }, () => text(2 + below(90), vocabulary));
            const texts = Array.from({ length: count }, () =>
                changed(bases[below(bases.length)] ?? [], below(3)).join(" "),
            );
            const { links, clusters } = searched(texts);
            const firsts = texts.map((_, at) => at);
            const firstOf = (at: number): number => (firsts[at] === at ? at : firstOf(firsts[at] ?? at));
            for (const [at, one] of texts.entries()) {
                for (const [before, other] of texts.slice(0, at).entries()) {
                    if (alike(one, other) < 0.8) continue;
                    const [a, b] = [firstOf(before), firstOf(at)];
                    firsts[Math.max(a, b)] = Math.min(a, b);
                }
            }
            expect(texts.map((_, at) => clusters.of(at))).toEqual(firsts.map((_, at) => firstOf(at)));
            expect(links).toHaveLength(count - new Set(firsts.map((_, at) => firstOf(at))).size);
            for (const { first, second, alike: share } of links) {
                expect(share).toBe(alike(texts[first] ?? "", texts[second] ?? ""));
            }
        }
    });
});

describe("a leak", () => {
    const question = (i: number) =>
        `患者编号${i}，最近三天一直咳嗽并且伴有低烧，晚上睡觉的时候特别严重，请问应该吃什么药，需要去医院做检查吗？`;
    // The same but for a word at its end: other prompts, so the split may take them apart.
    const pairs = [1, 2, 3, 4, 5].flatMap((i) => [
        { q: `${question(i * 1111)}${others(9)[i]?.q ?? ""}`, a: `多休息。${i}` },
        { q: `${question(i * 1111)}${others(9)[i]?.q ?? ""}谢谢`, a: `多喝水。${i}` },
    ]);
    const rows = [...pairs, ...others(30)];

    test("is refused by default, with the pairs named and what to do, and nothing is left", async () => {
        const message = await refusal(rows, { limits: { leaks: 0 }, seed: 4 });
        const [first, second, ...rest] = message.split("\n");
        expect(first).toBe("the data set is refused by its quality limits:");
        const [, number = "0"] =
            /^ {2}leaks: (\d+) of 40 rows, allowed: 0\. They are held out for validation or test, but ask nearly what a row of another part asks$/.exec(
                second ?? "",
            ) ?? [];
        expect(Number(number)).toBeGreaterThan(0);
        expect(rest).toHaveLength(Number(number) + 1);
        for (const line of rest.slice(0, -1)) {
            const [, a, partA, b, partB] =
                /^ {4}row (\d+) \((\w+)\) and row (\d+) \((\w+)\), 9\d % alike: "患者编号.*…" and "患者编号.*…"$/.exec(
                    line,
                ) ?? [];
            expect([Number(b), Number(a) % 2, partA === partB]).toEqual([Number(a) + 1, 1, false]);
        }
        expect(rest.at(-1)).toBe(
            "    Correct or remove them; `retune:dataset.split.together: similar` keeps such rows in one part; `retune:dataset.quality.leaks` allows more.",
        );
    });

    test("cannot be where similar rows stay together, whatever the seed", async () => {
        for (const seed of [1, 2, 3, 4]) {
            const {
                quality,
                into,
                rows: divided,
            } = await converted(rows, { limits: { leaks: 0 }, together: "similar", seed });
            expect([quality.leaks?.rows, quality.nearDuplicates?.rows]).toEqual([0, 5]);
            expect(divided.train + divided.validation + divided.test).toBe(40);
            const partOf = new Map<string, string>();
            for (const part of ["train", "validation", "test"]) {
                const lines = readFileSync(path.join(into, `${part}.jsonl`), "utf8")
                    .trimEnd()
                    .split("\n");
                for (const line of lines) partOf.set((JSON.parse(line) as { input: string }).input, part);
            }
            for (let i = 0; i < pairs.length; i += 2) {
                expect(partOf.get(pairs[i]?.q ?? "")).toBe(partOf.get(pairs[i + 1]?.q ?? ""));
            }
        }
    });
});

describe("each finding", () => {
    const zh = recipeSchema.parse({ ...recipe, language: "zh" });

    test("is counted, and its first rows are named", async () => {
        const rows = [
            { q: "感冒了怎么办？", a: "多喝水，多休息。" },
            { q: "感冒了怎么办？", a: "多喝水，多休息。" },
            { q: "头痛怎么办？", a: "…" },
            { q: "要做CT吗？", a: "要。" },
            { q: "What should I do when I have a cold?", a: "多喝水，多休息。" },
            { q: "发烧了怎么办呢？", a: "Drink water and rest." },
            { q: "怎么联系？", a: "请打 138-1234-5678 或写信给 zhang.san@example.com。" },
            { q: "我的号码是１３８１２３４５６７８，", a: "身份证号11010519491231002X已记录。" },
            { q: "编号110105194912310021和12345678901234是什么？", a: "是编号，不是号码。" },
        ];
        const { quality } = await converted(rows, { recipe: zh, cutoffLength: 17 });
        expect(foundIn(quality)).toEqual({
            ...{ duplicates: 1, nearDuplicates: 1, emptyAnswers: 1, oneWordAnswers: 1, otherScript: 2 },
            ...{ mobileNumbers: 2, identityNumbers: 1, emailAddresses: 1, overCutoff: 3 },
        });
        expect(quality.duplicates?.examples).toEqual(["row 2 is row 1 again"]);
        expect(quality.emptyAnswers?.examples).toEqual(['row 3: "…"']);
        expect(quality.oneWordAnswers?.examples).toEqual(['row 4: "要。"']);
        expect(quality.mobileNumbers?.examples).toEqual(['row 7: "138********78"', 'row 8: "138******78"']);
        expect(quality.identityNumbers?.examples).toEqual(['row 8: "110***************"']);
        expect(quality.emailAddresses?.examples).toEqual(['row 7: "z***@***.com"']);
        expect(quality.otherScript?.examples).toEqual([
            'row 5: "What should I do when I have a cold?"',
            'row 6: "Drink water and rest."',
        ]);
        expect(quality.overCutoff?.examples.map((one) => one.slice(0, 5))).toEqual(["row 7", "row 8", "row 9"]);
    });

    test("has a limit in rows or as a share, and all that are exceeded are said", async () => {
        const rows = [...others(18), { q: "Is it?", a: "Yes." }, { q: "Really?", a: "No." }];
        expect(await refusal(rows, { limits: { oneWordAnswers: "5%", otherScript: 0, overCutoff: 1 } })).toBe(
            [
                "the data set is refused by its quality limits:",
                "  oneWordAnswers: 2 of 20 rows, allowed: 5%. They have an answer of one word, or of one or two Chinese characters",
                '    row 19: "Yes."',
                '    row 20: "No."',
                "    Correct or remove them; `retune:dataset.quality.oneWordAnswers` allows more.",
                "  otherScript: cannot be told without the recipe's language, such as `language: zh`",
                "  overCutoff: cannot be told without cutoffLength",
            ].join("\n"),
        );
        expect(await converted(rows, { limits: { oneWordAnswers: "10%" } })).toMatchObject({ kept: 20 });
        expect(await converted(rows, { limits: { oneWordAnswers: 2 } })).toMatchObject({ kept: 20 });
    });

    test("has no limit that makes no sense", () => {
        const parsed = qualitySchema.safeParse({ leaks: -1, duplicates: "101%", leak: 1, oneWordAnswers: "3" });
        expect(parsed.success ? [] : problemsOf(parsed.error).map((one) => `${one.path}: ${one.message}`)).toEqual([
            'leaks: expected a number of rows, or a share of them such as "1%", got -1',
            'duplicates: expected a number of rows, or a share of them such as "1%", got "101%"',
            "leak: unknown; did you mean leaks?",
        ]);
    });
});

test("personal data is told from other numbers, and what is shown of it names nobody", () => {
    const found = (text: string) => personalData(text).map(({ kind, masked }) => `${kind} ${masked}`);
    expect(found("+86 13812345678, 19912345678, a.b+c@mail.example.com")).toEqual([
        "mobileNumbers +86**********78",
        "mobileNumbers 199******78",
        "emailAddresses a***@***.com",
    ]);
    // Another first digit, a digit too many, a wrong check digit, a date that is none, no domain.
    for (const text of ["12812345678", "138123456789", "110105194912310021", "110105194913310023", "a@b"]) {
        expect(found(text)).toEqual([]);
    }
    expect(found("11010519491231002X")).toEqual(["identityNumbers 110***************"]);
});

test("the samples pass with the defaults", async () => {
    for (const name of ["huatuo-lite", "huatuo-lite-english"]) {
        const into = temporaryFolder();
        const { quality } = await convert({
            files: [path.join(project, "datasets", "samples", `${name}.jsonl`)],
            recipe: recipes.get(name) ?? recipe,
            limit: undefined,
            split: { validation: 0.1, test: 0.05, seed: 42 },
            quality: { limits: qualitySchema.parse({}) },
            into,
        });
        expect(quality && foundIn(quality)).toEqual({ nearDuplicates: 6 });
    }
});
