import { DuckDBInstance, type DuckDBConnection } from "@duckdb/node-api";
import { mkdir, rename, rm } from "node:fs/promises";
import path from "node:path";
import { closest } from "fastest-levenshtein";
import { UserError } from "../pipeline/user-error";
import { diagnose } from "./diagnosis";
import { Examination, refuse, type Quality, type Standards } from "./quality";
import { conversionQuery, literal, readerOf } from "./query";
import { columnsOf, type Recipe } from "./recipe";
import { RowTable, writePart } from "./row-table";
import { csvHeader, openSource, type SourceFile } from "./source-file";
import { parts, type Part, type Split } from "./split";

export interface ConversionRequest {
    /** Read one after the other; each may be JSON Lines, one JSON array, CSV with a header, or Parquet. */
    files: readonly string[];
    recipe: Recipe;
    /** Most rows that are kept; undefined: all of them. */
    limit: number | undefined;
    split: Split;
    /** What the rows must come up to; without it nobody looks. */
    quality?: Standards;
    /** An existing empty folder. */
    into: string;
}

export interface Conversion {
    /** Rows that were looked at: up to the last kept one when the limit was reached, else all. */
    scanned: number;
    kept: number;
    /** Reason → rows dropped for it; a row counts once, under the first reason that applies. Reasons without rows are absent. */
    dropped: Record<string, number>;
    rows: Record<Part, number>;
    /** Code points of input and output together, over the kept rows. */
    characters: { p50: number; p95: number; max: number };
    /** Undefined where nobody looked. */
    quality?: Quality;
}

/**
 * Converts source files into `train.jsonl`, `validation.jsonl` and `test.jsonl` (those with rows) in `into`. The bytes
 * depend on the rows, the recipe, the limit and the split alone: not on the files' format, nor on threads. Nothing is
 * left in `into` when it fails.
 *
 * @throws UserError for a file that is missing, empty, broken or without a column of the recipe; when no row is left;
 * when the split leaves no row for training; when the rows do not come up to `quality`; when the disk is full.
 */
export async function convert(request: ConversionRequest): Promise<Conversion> {
    const scratch = path.join(request.into, ".partial");
    try {
        await mkdir(scratch);
        const conversion = await convertIn(scratch, request);
        for (const part of parts) {
            const name = `${part}.jsonl`;
            if (conversion.rows[part] > 0) await rename(path.join(scratch, name), path.join(request.into, name));
        }
        return conversion;
    } catch (error) {
        throw isDiskFull(error)
            ? new UserError(`No space is left on the disk of ${request.into}: free some, then run it again.`)
            : error;
    } finally {
        await rm(scratch, { recursive: true, force: true });
    }
}

function isDiskFull(error: unknown): boolean {
    if (!(error instanceof Error)) return false;
    const code = (error as NodeJS.ErrnoException).code ?? "";
    return code === "ENOSPC" || code === "EDQUOT" || /no space left on device|disk quota exceeded/i.test(error.message);
}

async function convertIn(scratch: string, request: ConversionRequest): Promise<Conversion> {
    const { recipe, split, limit } = request;
    const database = await DuckDBInstance.create(":memory:", {
        memory_limit: "512MB",
        temp_directory: path.join(scratch, "duckdb"),
        // While files are read, a second one needs 120 MB more: for its buffers, and for rows that wait for their turn.
        threads: "1",
        // What reading a file took is given back before the rows are looked at: 30 MB less at most.
        allocator_bulk_deallocation_flush_threshold: "8MB",
        // Nothing is to be fetched, and nothing of the user's settings is to be read.
        autoinstall_known_extensions: "false",
        autoload_known_extensions: "false",
    });
    const connection = await database.connect();
    try {
        const rows = await RowTable.create(connection, recipe, split, limit);
        for (const [index, name] of request.files.entries()) {
            if (rows.room === 0) break;
            await readFile(connection, name, path.join(scratch, `source-${index}`), recipe, rows);
        }
        const counts = await rows.count();
        if (counts.kept === 0) throw new UserError(noRowLeft(request, counts));
        const characters = await rows.characters();
        const standards = request.quality;
        const seen =
            standards === undefined && split.together !== "similar"
                ? undefined
                : await Examination.of(connection, recipe, counts.kept, standards?.cutoffLength, scratch);
        const together = split.together === "similar" ? (seen?.links ?? []) : [];
        const { rows: divided, partOf } = await rows.divide(together);
        if (divided.train === 0) {
            throw new UserError(
                `The split leaves no row for training: ${counts.kept} kept, ${divided.validation} for validation, ${divided.test} for test. ` +
                    "Lower the shares, or keep more rows.",
            );
        }
        const quality = await seen?.quality(connection, partOf);
        if (quality !== undefined && standards !== undefined) refuse(quality, standards, counts.kept);
        const writing = parts
            .filter((part) => divided[part] > 0)
            .map(async (part) => {
                const writer = await database.connect();
                try {
                    await writePart(writer, part, path.join(scratch, `${part}.jsonl`));
                } finally {
                    writer.closeSync();
                }
            });
        // None may be at work when the database is closed.
        await Promise.allSettled(writing);
        await Promise.all(writing);
        return { ...counts, rows: divided, characters, ...(quality === undefined ? {} : { quality }) };
    } finally {
        connection.closeSync();
        database.closeSync();
    }
}

function noRowLeft(
    { files, recipe }: ConversionRequest,
    { scanned, dropped }: Pick<Conversion, "scanned" | "dropped">,
): string {
    const where = files.join(", ");
    if (scanned === 0) return `${where}: there is no row to convert.`;
    const reasons = Object.entries(dropped).map(([reason, count]) => `${reason}: ${count}`);
    return `${where}: recipe ${recipe.name} keeps none of ${scanned} rows (${reasons.join(", ")}). Check its columns and filters.`;
}

/** Adds the rows of a file, as many as are let in. */
async function readFile(
    connection: DuckDBConnection,
    name: string,
    unpacked: string,
    recipe: Recipe,
    rows: RowTable,
): Promise<void> {
    const source = await openSource(name, unpacked);
    try {
        const available = await columnsIn(connection, source, recipe);
        const { from, columns } = readerOf(source, recipe, available);
        let read = 0;
        let wanted: number;
        let found: number;
        do {
            // Only reading shows how many rows hold as many as are let in: a quarter more, then twice what was read.
            wanted = Math.max(Math.ceil(1.25 * rows.room), read);
            const slice = wanted === Infinity ? "" : `LIMIT ${wanted} OFFSET ${read}`;
            found = await rows.add(conversionQuery(`(SELECT * FROM ${from} ${slice})`, columns, recipe));
            read += found;
        } while (found === wanted && rows.room > 0);
    } catch (error) {
        // DuckDB's errors have no class or code of their own; what the system or Retune throws has one.
        const foreign =
            error instanceof Error && !("code" in error) && !(error instanceof UserError) && !isDiskFull(error);
        throw foreign && /^[A-Z][A-Za-z ]*Error: /.test(error.message) ? await diagnose(source, error) : error;
    }
}

/** @throws UserError when a column that the recipe names is not there. */
async function columnsIn(
    connection: DuckDBConnection,
    source: SourceFile,
    recipe: Recipe,
): Promise<{ name: string; type: string }[]> {
    const missingFrom = (columns: readonly { name: string }[]): string | undefined =>
        columnsOf(recipe).find((wanted) => !columns.some(({ name }) => name === wanted));
    let available = await describe(connection, source, 1000);
    // JSON rows need not have all keys: only the whole file says that a key is nowhere.
    if (missingFrom(available) !== undefined && (source.format === "lines" || source.format === "array")) {
        available = await describe(connection, source, -1);
    }
    const missing = missingFrom(available);
    if (missing === undefined) return available;
    const names = available.map(({ name }) => name);
    const nearest = names.length === 0 ? "" : ` Did you mean "${closest(missing, names)}"?`;
    throw new UserError(
        `${source.name} has no column "${missing}", which recipe ${recipe.name} names. It has: ${names.join(", ")}.${nearest}`,
    );
}

async function describe(
    connection: DuckDBConnection,
    source: SourceFile,
    sample: number,
): Promise<{ name: string; type: string }[]> {
    if (source.format === "csv") return (await csvHeader(source)).map((name) => ({ name, type: "VARCHAR" }));
    const file = literal(source.path);
    const format = source.format === "array" ? "array" : "newline_delimited";
    const from =
        source.format === "parquet"
            ? `read_parquet(${file})`
            : `read_json(${file}, format = '${format}', compression = 'uncompressed', records = true, maximum_depth = 1, sample_size = ${sample})`;
    const described = await connection.runAndReadAll(`DESCRIBE SELECT * FROM ${from}`);
    return described
        .getRowObjects()
        .map((row) => ({ name: String(row["column_name"]), type: String(row["column_type"]) }));
}
