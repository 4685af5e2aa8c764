import { columnsOf, type Recipe } from "./recipe";
import type { SourceFile } from "./source-file";

export interface Query {
    sql: string;
    /** The reasons for dropping a row, in the order in which they are looked for. */
    reasons: string[];
}

/** The white space of all scripts, as JavaScript's `trim` sees it, for a character class of RE2. */
const blankClass =
    "\\t\\n\\v\\f\\r \\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}\\x{FEFF}";

/**
 * The query that yields, for each row of the source in file order: reason (1-based index into `reasons`, 0 = keep),
 * and the Alpaca row's instruction, input and output.
 *
 * @param columns name of each column that the recipe reads → SQL expression that is its text.
 */
export function conversionQuery(source: string, columns: ReadonlyMap<string, string>, recipe: Recipe): Query {
    const expression = (column: string): string => columns.get(column) ?? "NULL";
    const reasons: string[] = [];
    const cases: string[] = [];
    const dropWhen = (condition: string, reason: string): void => {
        // Two conditions may have one reason, such as a column that is required twice.
        if (!reasons.includes(reason)) reasons.push(reason);
        cases.push(`WHEN ${condition} THEN ${reasons.indexOf(reason) + 1}`);
    };
    for (const column of recipe.require) dropWhen(isBlank(expression(column)), `empty ${column}`);
    for (const { column, atLeast, atMost, oneOf } of recipe.where) {
        const number = `TRY_CAST(${expression(column)} AS DOUBLE)`;
        if (atLeast !== undefined || atMost !== undefined) {
            dropWhen(`(${number} IS NULL OR isnan(${number}))`, `${column} not a number`);
        }
        if (atLeast !== undefined) dropWhen(`${number} < ${atLeast}::DOUBLE`, `${column} below ${atLeast}`);
        if (atMost !== undefined) dropWhen(`${number} > ${atMost}::DOUBLE`, `${column} above ${atMost}`);
        if (oneOf !== undefined) {
            const values = oneOf.map(literal).join(", ");
            dropWhen(
                `(${expression(column)} IS NULL OR ${expression(column)} NOT IN (${values}))`,
                `${column} not listed`,
            );
        }
    }
    const reason = cases.length === 0 ? "0" : `CASE ${cases.join(" ")} ELSE 0 END`;
    const { instruction, columns: names } = recipe;
    const own =
        "constant" in instruction ? literal(instruction.constant) : clean(expression(instruction.column), recipe);
    const input = names.input === undefined ? "''" : clean(expression(names.input), recipe);
    const output = clean(expression(names.output), recipe);
    const sql = `
        SELECT (${reason})::UTINYINT AS reason, ${own} AS instruction, ${input} AS input, ${output} AS output
        FROM ${source}`;
    return { sql, reasons };
}

/** How a file is read, and the text of each of its columns that the recipe needs. */
export function readerOf(
    source: SourceFile,
    recipe: Recipe,
    available: readonly { name: string; type: string }[],
): { from: string; columns: Map<string, string> } {
    const file = literal(source.path);
    const needed = columnsOf(recipe);
    switch (source.format) {
        case "lines":
        case "array": {
            const types = needed.map((column) => `${literal(column)}: 'VARCHAR'`).join(", ");
            const format = source.format === "lines" ? "newline_delimited" : "array";
            return {
                from: `read_json(${file}, format = '${format}', compression = 'uncompressed', records = true, columns = {${types}})`,
                columns: new Map(needed.map((column) => [column, identifier(column)])),
            };
        }
        case "csv": {
            // By position: a header may hold names that differ in nothing but case.
            const types = available.map((_, index) => `'column${index}': 'VARCHAR'`).join(", ");
            return {
                from:
                    `read_csv(${file}, auto_detect = false, compression = 'uncompressed', header = true, delim = ',', quote = '"', ` +
                    `escape = '"', max_line_size = 8388608, buffer_size = 16777216, columns = {${types}})`,
                columns: new Map(available.map(({ name }, index) => [name, `column${index}`])),
            };
        }
        case "parquet":
            return {
                from: `read_parquet(${file})`,
                columns: new Map(available.map(({ name, type }) => [name, textOf(identifier(name), type)])),
            };
    }
}

/** Lists and structs as JSON, like the same values in a JSON file; everything else as it prints. */
function textOf(column: string, type: string): string {
    if (type === "VARCHAR") return column;
    return /^(STRUCT|MAP|UNION)\b|\]$/.test(type) ? `to_json(${column})::VARCHAR` : `${column}::VARCHAR`;
}

function isBlank(text: string): string {
    return `(${text} IS NULL OR NOT regexp_matches(${text}, '[^${blankClass}]'))`;
}

function clean(column: string, recipe: Recipe): string {
    let text = `coalesce(${column}, '')`;
    if (recipe.lineEndings === "lf") {
        const replaced = `regexp_replace(${text}, '\\r\\n|\\n\\r|\\r', chr(10), 'g')`;
        // Most texts hold none, and looking for one byte is a tenth of the work.
        text = `CASE WHEN contains(${text}, chr(13)) THEN ${replaced} ELSE ${text} END`;
    }
    if (recipe.unicode === "NFC") text = `nfc_normalize(${text})`;
    if (recipe.trim) text = `regexp_replace(${text}, '^[${blankClass}]+|[${blankClass}]+$', '', 'g')`;
    return text;
}

/** What makes rows the same prompt: the input, or instruction and input where each row has its own instruction. */
function promptOf(recipe: Recipe): string {
    return "column" in recipe.instruction ? "instruction || chr(31) || input" : "input";
}

const punctuation = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";
const alphanumeric = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const fullWidth = (text: string): string => text.replace(/./g, (c) => String.fromCharCode(c.charCodeAt(0) + 0xfee0));

/**
 * NFC and one width: what NFKC does to all that is common in a prompt; DuckDB has no NFKC. Which width is the one matters
 * to nobody, as the result is only compared. For punctuation it is the one that Chinese texts have anyway.
 */
function inOneWidth(text: string): string {
    const from = literal(punctuation + fullWidth(alphanumeric));
    return `translate(nfc_normalize(${text}), ${from}, ${literal(fullWidth(punctuation) + alphanumeric)})`;
}

/** An expression that is equal for two rows when their prompts are the same for `deduplicate`. */
export function sameAs(recipe: Recipe): string {
    return `md5_number(trim(regexp_replace(${inOneWidth(promptOf(recipe))}, '[${blankClass}]+', ' ', 'g')))`;
}

/**
 * An expression that orders rows at random, the same everywhere, and is equal for prompts that differ in nothing but
 * case, width and white space. 53 bits of a hash, which are a number for JavaScript too; two prompts that collide merely
 * share a part.
 */
export function orderOf(recipe: Recipe, seed: number): string {
    const prompt = promptOf(recipe);
    const folded = `lower(regexp_replace(${inOneWidth(prompt)}, '[${blankClass}]+', '', 'g'))`;
    // Most Chinese prompts hold nothing that folding changes, and finding that out is a tenth of the work.
    const changing = "[^0-9a-z\\x{3001}-\\x{3011}\\x{4E00}-\\x{9FFF}\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF20}]";
    const key = `CASE WHEN regexp_matches(${prompt}, '${changing}') THEN ${folded} ELSE ${prompt} END`;
    return `(md5_number_lower('${seed} ' || ${key}) >> 11)::DOUBLE`;
}

export function identifier(name: string): string {
    return `"${name.replaceAll('"', '""')}"`;
}

export function literal(text: string): string {
    return `'${text.replaceAll("'", "''")}'`;
}
