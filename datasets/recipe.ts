import { closest } from "fastest-levenshtein";
import { z } from "zod";
import { group, oneOf } from "../pipeline/fields";
import { huatuoLite, huatuoLiteEnglish } from "./huatuo-lite";
import type { Script } from "./words";

/** The languages that a recipe may say its rows have (ISO 639-1), and the scripts that they are written in. */
export const LANGUAGES = {
    zh: ["Han"],
    ja: ["Han", "Kana"],
    ko: ["Hangul", "Han"],
    ru: ["Cyrillic"],
    uk: ["Cyrillic"],
    ar: ["Arabic"],
    fa: ["Arabic"],
    el: ["Greek"],
    hi: ["Devanagari"],
    th: ["Thai"],
    en: ["Latin"],
    de: ["Latin"],
    es: ["Latin"],
    fr: ["Latin"],
    it: ["Latin"],
    nl: ["Latin"],
    pl: ["Latin"],
    pt: ["Latin"],
    tr: ["Latin"],
    vi: ["Latin"],
    id: ["Latin"],
} as const satisfies Record<string, readonly Script[]>;

const column = z
    .string()
    .min(1, "expected the name of a column")
    .refine((name) => !name.includes("\0"), "a column's name cannot hold a NUL character");

const text = z.string().refine((value) => !value.includes("\0"), "a text cannot hold a NUL character");

const filter = group(
    {
        column,
        /** Smallest number that is kept. */
        atLeast: z.number().optional(),
        /** Largest number that is kept. */
        atMost: z.number().optional(),
        /** The values that are kept, compared as text. */
        oneOf: z
            .array(z.union([text, z.number().transform(String)]))
            .min(1)
            .optional(),
    },
    "a condition such as { column: score, atLeast: 4 }",
).refine(
    ({ atLeast, atMost, oneOf }) => atLeast !== undefined || atMost !== undefined || oneOf !== undefined,
    "expected at least one of atLeast, atMost and oneOf",
);

/**
 * How rows of a source become Alpaca rows. Declarative, so that it can be part of a key and be compared field by field.
 * Steps per row, in this order: `require`, `where`, line endings, Unicode, trim, `deduplicate`.
 */
export const recipeSchema = group({
    name: z.string().min(1).default("inline"),
    /** What people must be told who meet a model made of these rows; shown in the report and the model card. */
    notice: z.string().default(""),
    /** What questions and answers are written in: rows in another script are counted, and the model card says it. */
    language: oneOf(Object.keys(LANGUAGES) as [keyof typeof LANGUAGES, ...(keyof typeof LANGUAGES)[]]).optional(),
    /** One text for all rows (may be empty), or the column that holds each row's own. */
    instruction: z.union([z.strictObject({ constant: text }), z.strictObject({ column })], {
        error: "expected { constant: a text } or { column: the name of a column }",
    }),
    columns: group({ input: column.optional(), output: column }, "columns such as { input: question, output: answer }"),
    /** A row is dropped when one of these is missing, null, or nothing but white space of any script. */
    require: z.array(column).default([]),
    where: z.array(filter).default([]),
    /** `lf`: `\r\n`, `\n\r` and a lone `\r` become `\n`. */
    lineEndings: z.enum(["lf", "keep"]).default("lf"),
    unicode: z.enum(["NFC", "none"]).default("none"),
    /** Takes white space off both ends of instruction, input and output. */
    trim: z.boolean().default(false),
    /** Keeps the first of rows whose prompt is the same in NFC, in one width, and with runs of white space as one space. */
    deduplicate: z.boolean().default(false),
}).refine(({ instruction, columns }) => columns.input !== undefined || "column" in instruction, {
    path: ["columns", "input"],
    message: "expected a column for the input, or one for the instruction: every row would have the same prompt",
});

export type Recipe = z.output<typeof recipeSchema>;

/** The recipes that can be named in a configuration. */
export const recipes: ReadonlyMap<string, Recipe> = new Map(
    [huatuoLite, huatuoLiteEnglish].map((recipe) => [recipe.name, recipe]),
);

/** Accepts the name of one of {@link recipes}, or a recipe written out in place. */
export const recipeReferenceSchema = z.unknown().transform((value, context): Recipe => {
    if (typeof value === "string") {
        const known = recipes.get(value);
        if (known !== undefined) return known;
        const names = [...recipes.keys()];
        context.addIssue({
            code: "custom",
            message: `unknown recipe "${value}"; did you mean "${closest(value, names)}"? Known: ${names.join(", ")}`,
        });
        return z.NEVER;
    }
    if (typeof value !== "object" || value === null) {
        context.addIssue({ code: "custom", message: "expected the name of a recipe or a recipe written out in place" });
        return z.NEVER;
    }
    const parsed = recipeSchema.safeParse(value);
    if (parsed.success) return parsed.data;
    // Copied as they are, paths included, so that unknown keys and nested problems read as if there were no reference.
    for (const issue of parsed.error.issues) context.issues.push({ ...issue, input: value } as z.core.$ZodRawIssue);
    return z.NEVER;
});

/** The columns of the source that a recipe reads, each once, in the order of first mention. */
export function columnsOf(recipe: Recipe): string[] {
    const named = [
        ...recipe.require,
        ...recipe.where.map((condition) => condition.column),
        ...("column" in recipe.instruction ? [recipe.instruction.column] : []),
        ...(recipe.columns.input === undefined ? [] : [recipe.columns.input]),
        recipe.columns.output,
    ];
    return [...new Set(named)];
}
