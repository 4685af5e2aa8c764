import type { DuckDBConnection } from "@duckdb/node-api";
import { z } from "zod";
import { expecting, group } from "../pipeline/fields";
import { UserError } from "../pipeline/user-error";
import { NearDuplicates, type Clusters, type Link } from "./near-duplicates";
import { PERSONAL, personalData, withoutPersonalData, type Personal } from "./personal-data";
import { LANGUAGES, type Recipe } from "./recipe";
import { parts } from "./split";
import { noWords, readWords, SCRIPTS, type Script } from "./words";

/** What is looked for, and what the rows are that have it. */
export const MEANINGS = {
    leaks: "are held out for validation or test, but ask nearly what a row of another part asks",
    duplicates: "are the same as an earlier row",
    nearDuplicates: "ask nearly what an earlier row asks",
    emptyAnswers: "have an answer without a letter or digit",
    oneWordAnswers: "have an answer of one word, or of one or two Chinese characters",
    otherScript: "have a question or an answer that is mostly in a script other than the recipe's language has",
    overCutoff:
        "are longer than training.cutoffLength, by estimate: a token for a Chinese character, one for four others",
    mobileNumbers: "hold what looks like a Chinese mobile number",
    identityNumbers: "hold what looks like a Chinese identity number",
    emailAddresses: "hold an e-mail address",
} as const;

export type Finding = keyof typeof MEANINGS;
export const FINDINGS = Object.keys(MEANINGS) as Finding[];

const remedies: Partial<Record<Finding, string>> = {
    leaks: "`retune:dataset.split.together: similar` keeps such rows in one part",
    duplicates: "`deduplicate: true` in the recipe keeps the first of them",
    emptyAnswers: "`require` in the recipe drops rows without an answer",
    overCutoff: "a higher `retune:training.cutoffLength` takes them whole",
};

const limit = z
    .custom<number | string>(
        (value) =>
            typeof value === "number"
                ? Number.isSafeInteger(value) && value >= 0
                : typeof value === "string" && /^(\d+|(100|\d{1,2}(\.\d+)?) ?%)$/.test(value),
        expecting('a number of rows, or a share of them such as "1%"'),
    )
    // `pulumi config set` stores the text "5".
    .transform((value) => (typeof value === "string" && !value.endsWith("%") ? Number(value) : value));

/** `retune:dataset.quality`: the most rows of each finding; a data set with more is refused. Without one it is counted only. */
export const qualitySchema = group({
    leaks: limit.default(0),
    ...(Object.fromEntries(
        FINDINGS.filter((finding) => finding !== "leaks").map((finding) => [finding, limit.optional()]),
    ) as Record<Exclude<Finding, "leaks">, z.ZodOptional<typeof limit>>),
}).prefault({});

export type Limits = z.output<typeof qualitySchema>;

/** How many rows have a finding, and the first of them in words; null: it was not looked for. */
export type Quality = Record<Finding, { readonly rows: number; readonly examples: readonly string[] } | null>;

export interface Standards {
    readonly limits: Limits;
    /** Tokens of a row in training. Without it nobody looks which rows are longer. */
    readonly cutoffLength?: number | undefined;
}

const EXAMPLES = 3;
const PAIRS = 10;
/** Rows that show which pairs of words are rare. */
const SAMPLE = 8192;

interface Noted {
    rows: number;
    readonly examples: string[];
}

/** A look at all kept rows, in about 350 bytes for each, whatever their length. */
export class Examination {
    /** Pairs of rows that ask nearly the same, by their positions among the kept rows, and what they add up to. */
    readonly links: readonly Link[];
    readonly clusters: Clusters;

    private constructor(
        private readonly recipe: Recipe,
        private readonly noted: ReadonlyMap<Finding, Noted>,
        /** Of each kept row its number in the source, from 1, over all files. */
        private readonly numbers: Uint32Array,
        similar: ReturnType<NearDuplicates["links"]>,
    ) {
        ({ links: this.links, clusters: this.clusters } = similar);
    }

    /**
     * @param kept how many rows the table `rows` has that are kept.
     * @param scratch a folder for what is too much for memory.
     */
    static async of(
        connection: DuckDBConnection,
        recipe: Recipe,
        kept: number,
        cutoffLength: number | undefined,
        scratch: string,
    ) {
        const similar = new NearDuplicates(kept, scratch);
        try {
            return await Examination.with(similar, connection, recipe, kept, cutoffLength);
        } finally {
            similar.close();
        }
    }

    private static async with(
        similar: NearDuplicates,
        connection: DuckDBConnection,
        recipe: Recipe,
        kept: number,
        cutoffLength: number | undefined,
    ) {
        const scripts = recipe.language === undefined ? undefined : LANGUAGES[recipe.language];
        const noted = new Map(FINDINGS.map((finding) => [finding, { rows: 0, examples: [] as string[] }]));
        if (scripts === undefined) noted.delete("otherScript");
        if (cutoffLength === undefined) noted.delete("overCutoff");
        const note = (finding: Finding, row: number, text: string): void => {
            const one = noted.get(finding);
            if (one === undefined) return;
            one.rows += 1;
            if (one.examples.length < EXAMPLES) one.examples.push(`row ${row}: ${excerpt(text)}`);
        };
        const numbers = new Uint32Array(kept);
        const wholes = new Float64Array(kept);
        const [question, answer] = [noWords(), noWords()];
        // An instruction that all rows have is part of no question.
        const constant = "constant" in recipe.instruction ? recipe.instruction.constant : undefined;
        const prompt = constant === undefined ? "instruction || chr(10) || input" : "input";
        const step = Math.ceil(kept / SAMPLE);
        const some = await connection.runAndReadAll(
            `SELECT ${prompt} FROM rows WHERE reason = 0 AND rowid % ${step} = 0`,
        );
        for (const prompt of (some.getColumns()[0] ?? []) as string[]) {
            readWords(prompt, question);
            similar.sample(question);
        }
        // In the order of the table, as one thread reads it; to sort it would need all of it in memory.
        const result = await connection.stream(`SELECT rowid, ${prompt}, output FROM rows WHERE reason = 0`);
        let at = 0;
        for (let chunk = await result.fetchChunk(); chunk && chunk.rowCount > 0; chunk = await result.fetchChunk()) {
            const ids = chunk.getColumnValues(0);
            const prompts = chunk.getColumnValues(1) as string[];
            const outputs = chunk.getColumnValues(2) as string[];
            for (const [i, id] of ids.entries()) {
                const row = Number(id) + 1;
                const [prompt = "", output = ""] = [prompts[i], outputs[i]];
                numbers[at] = row;
                wholes[at] = hashed(prompt, output);
                at += 1;
                readWords(prompt, question);
                similar.add(question);
                readWords(output, answer);
                if (answer.count === 0) note("emptyAnswers", row, output);
                else if (answer.count === 1 || (answer.count === 2 && answer.single === 2)) {
                    note("oneWordAnswers", row, output);
                }
                if (scripts !== undefined) {
                    const foreign = [question, answer].findIndex((words) => mostlyOther(words.scripts, scripts));
                    if (foreign >= 0) note("otherScript", row, foreign === 0 ? prompt : output);
                }
                const single = question.single + answer.single;
                const length = (constant?.length ?? 0) + prompt.length + output.length;
                if (cutoffLength !== undefined && single + (length - single) / 4 > cutoffLength) {
                    note("overCutoff", row, prompt);
                }
                if (question.digits >= 11 || question.at || answer.digits >= 11 || answer.at) {
                    const found = new Map<Personal, string>();
                    for (const { kind, masked } of personalData(`${prompt}\n${output}`)) found.set(kind, masked);
                    for (const kind of PERSONAL) if (found.has(kind)) note(kind, row, found.get(kind) ?? "");
                }
            }
        }
        countDuplicates(wholes, numbers, noted.get("duplicates"));
        return new Examination(recipe, noted, numbers, similar.links());
    }

    /**
     * What was found.
     *
     * @param partOf of each kept row the index of its part.
     */
    async quality(connection: DuckDBConnection, partOf: Uint8Array): Promise<Quality> {
        // Of the rows that belong together, in the place of their first one: a bit for each part that has one of them.
        const present = new Uint8Array(partOf.length);
        let repeated = 0;
        partOf.forEach((part, at) => {
            const first = this.clusters.of(at);
            present[first] = (present[first] ?? 0) | (1 << part);
            if (first !== at) repeated += 1;
        });
        const near = this.noted.get("nearDuplicates");
        if (near !== undefined) near.rows = repeated;
        near?.examples.push(...(await this.pairs(connection, this.links.slice(0, EXAMPLES), partOf)));

        const leaks = this.noted.get("leaks");
        const isLeak = (part: number, at: number): boolean =>
            ((present[this.clusters.of(at)] ?? 0) & ((1 << part) - 1)) !== 0;
        if (leaks !== undefined) leaks.rows = partOf.filter(isLeak).length;
        const across = this.links.filter(({ first, second }) => partOf[first] !== partOf[second]);
        leaks?.examples.push(...(await this.pairs(connection, across.slice(0, PAIRS), partOf)));
        return Object.fromEntries(FINDINGS.map((finding) => [finding, this.noted.get(finding) ?? null])) as Quality;
    }

    /** Pairs of rows with their numbers, parts and questions. */
    private async pairs(connection: DuckDBConnection, links: readonly Link[], partOf: Uint8Array): Promise<string[]> {
        const rows = links.flatMap(({ first, second }) => [this.numbers[first] ?? 0, this.numbers[second] ?? 0]);
        if (rows.length === 0) return [];
        const prompt = "column" in this.recipe.instruction ? "instruction || ' ' || input" : "input";
        const ids = rows.map((row) => row - 1).join(", ");
        const found = await connection.runAndReadAll(`SELECT rowid, ${prompt} FROM rows WHERE rowid IN (${ids})`);
        const texts = new Map(found.getRows().map(([id, text]) => [Number(id) + 1, text as string]));
        const named = (at: number): string => `row ${this.numbers[at] ?? 0} (${parts[partOf[at] ?? 0] ?? ""})`;
        const quoted = (at: number): string => excerpt(texts.get(this.numbers[at] ?? 0) ?? "");
        return links.map(({ first, second, alike }) => {
            const share = `${Math.floor(100 * alike)} % alike`;
            return `${named(first)} and ${named(second)}, ${share}: ${quoted(first)} and ${quoted(second)}`;
        });
    }
}

/** @throws UserError when there are more rows of a finding than a limit allows. */
export function refuse(quality: Quality, { limits, cutoffLength }: Standards, kept: number): void {
    const lines: string[] = [];
    for (const finding of FINDINGS) {
        const [allowed, found] = [limits[finding], quality[finding]];
        if (allowed === undefined) continue;
        if (found === null) {
            const missing =
                finding === "otherScript" ? "the recipe's language, such as `language: zh`" : "cutoffLength";
            lines.push(`${finding}: cannot be told without ${missing}`);
            continue;
        }
        const most = typeof allowed === "number" ? allowed : (Number.parseFloat(allowed) / 100) * kept;
        if (found.rows <= most) continue;
        const cutoff = finding === "overCutoff" ? ` (${String(cutoffLength)})` : "";
        lines.push(
            `${finding}: ${found.rows} of ${kept} rows, allowed: ${allowed}. They ${MEANINGS[finding]}${cutoff}`,
        );
        lines.push(...found.examples.map((example) => `  ${example}`));
        const more = found.rows - found.examples.length;
        if (more > 0) lines.push(`  and ${more} more`);
        const remedy = remedies[finding];
        const raise = `\`retune:dataset.quality.${finding}\` allows more`;
        lines.push(`  Correct or remove them; ${remedy === undefined ? "" : `${remedy}; `}${raise}.`);
    }
    if (lines.length === 0) return;
    throw new UserError(`the data set is refused by its quality limits:\n${lines.map((l) => `  ${l}`).join("\n")}`);
}

/** The findings that there are, for people: name → rows. */
export function foundIn(quality: Quality): Record<string, number> {
    return Object.fromEntries(
        FINDINGS.map((name) => [name, quality[name]?.rows ?? 0] as const).filter(([, n]) => n > 0),
    );
}

function countDuplicates(wholes: Float64Array, numbers: Uint32Array, noted: Noted | undefined): void {
    const sorted = wholes.slice().sort();
    const repeated = new Map<number, number>();
    let rows = 0;
    for (let i = 1; i < sorted.length; i += 1) {
        const hash = sorted[i] ?? 0;
        if (hash !== sorted[i - 1]) continue;
        rows += 1;
        if (repeated.size < EXAMPLES) repeated.set(hash, 0);
    }
    if (noted === undefined || rows === 0) return;
    noted.rows = rows;
    for (let at = 0; at < wholes.length && noted.examples.length < EXAMPLES; at += 1) {
        const first = repeated.get(wholes[at] ?? 0);
        if (first === undefined) continue;
        const row = numbers[at] ?? 0;
        if (first === 0) repeated.set(wholes[at] ?? 0, row);
        else noted.examples.push(`row ${row} is row ${first} again`);
    }
}

function mostlyOther(words: Uint32Array, expected: readonly Script[]): boolean {
    let [all, other] = [0, 0];
    for (const [at, script] of SCRIPTS.entries()) {
        const number = words[at] ?? 0;
        all += number;
        if (!expected.includes(script)) other += number;
    }
    return 2 * other > all;
}

/** 53 bits of a hash: as good as the texts themselves for counting. */
function hashed(prompt: string, output: string): number {
    let [high, low] = [0x811c9dc5, 0x1234567];
    for (const text of [prompt, output]) {
        for (let i = 0; i < text.length; i += 1) {
            const unit = text.charCodeAt(i);
            high = Math.imul(high ^ unit, 0x01000193);
            low = Math.imul(low ^ unit, 0x85ebca6b) + 1;
        }
        high = Math.imul(high ^ 0x1ffff, 0x01000193);
        low = Math.imul(low ^ 0x1ffff, 0x85ebca6b);
    }
    return (high >>> 0) * 2 ** 21 + (low >>> 11);
}

/** The beginning of a text in quotes, on one line, without personal data. */
function excerpt(text: string): string {
    const line = withoutPersonalData(text.slice(0, 200)).replace(/\s+/g, " ").trim();
    const characters = Array.from(line);
    return JSON.stringify(characters.length > 40 ? `${characters.slice(0, 39).join("")}…` : line);
}
