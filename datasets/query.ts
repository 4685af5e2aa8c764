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
 * The query that yields, for each row of the source in file order:
 * reason (1-based index into `reasons`, 0 = keep), line (the Alpaca row as JSON in UTF-8, null when dropped),
 * characters (code points of input and output together).
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
    const line = "encode(to_json({instruction: instruction, input: input, output: output})::VARCHAR)";
    const sql = `
        SELECT reason, CASE WHEN reason = 0 THEN ${line} END, (length(input) + length(output))::UINTEGER
        FROM (
            SELECT (${reason})::UTINYINT AS reason, ${own} AS instruction, ${input} AS input, ${output} AS output
            FROM ${source}
        )`;
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

export function identifier(name: string): string {
    return `"${name.replaceAll('"', '""')}"`;
}

export function literal(text: string): string {
    return `'${text.replaceAll("'", "''")}'`;
}
