import type { DuckDBConnection } from "@duckdb/node-api";
import { orderOf, sameAs, type Query } from "./query";
import type { Recipe } from "./recipe";
import { divide, parts, type Part, type Split } from "./split";

/**
 * What has to be known of each row before the first can be written, without its text: which part a row belongs to is not
 * known before the last row is, and texts that wait for it take more memory than all else together.
 */
export class RowTable {
    kept = 0;
    private reasons: readonly string[] = [];

    private constructor(
        private readonly connection: DuckDBConnection,
        private readonly recipe: Recipe,
        private readonly split: Split,
        private readonly limit: number,
    ) {}

    static async create(
        connection: DuckDBConnection,
        recipe: Recipe,
        split: Split,
        limit: number | undefined,
    ): Promise<RowTable> {
        await connection.run("CREATE TABLE facts (reason UTINYINT, characters UINTEGER, prompt DOUBLE, same UHUGEINT)");
        return new RowTable(connection, recipe, split, limit ?? Infinity);
    }

    /** How many more rows are let in. */
    get room(): number {
        return Math.max(0, this.limit - this.kept);
    }

    /** The number of rows that the query has, whether they are kept or not. */
    async add({ sql, reasons }: Query): Promise<number> {
        this.reasons = reasons;
        const { recipe, split } = this;
        const order = split.validation > 0 || split.test > 0 ? orderOf(recipe, split.seed) : "0";
        const same = recipe.deduplicate ? sameAs(recipe) : "NULL";
        const [added] = await this.first(`
            INSERT INTO facts
            SELECT reason, CASE WHEN reason = 0 THEN length(input) + length(output) END,
                CASE WHEN reason = 0 THEN ${order} END, CASE WHEN reason = 0 THEN ${same} END
            FROM (${sql})`);
        if (recipe.deduplicate) {
            await this.connection.run(`
                UPDATE facts SET reason = ${reasons.length + 1}
                WHERE reason = 0 AND rowid NOT IN (SELECT min(rowid) FROM facts WHERE reason = 0 GROUP BY same)`);
        }
        [this.kept = 0] = await this.first("SELECT count(*) FROM facts WHERE reason = 0");
        return added ?? 0;
    }

    /** Forgets the rows after the last that is let in, and counts the others. */
    async count(): Promise<{ scanned: number; kept: number; dropped: Record<string, number> }> {
        if (this.kept >= this.limit) {
            await this.connection.run(`
                DELETE FROM facts WHERE rowid > (
                    SELECT rowid FROM facts WHERE reason = 0 ORDER BY rowid LIMIT 1 OFFSET ${this.limit - 1})`);
        }
        const counted = await this.connection.runAndReadAll(
            "SELECT reason, count(*) FROM facts GROUP BY reason ORDER BY reason",
        );
        const counts = { scanned: 0, kept: 0, dropped: {} as Record<string, number> };
        for (const [reason, count] of counted.getRows().map((row) => row.map(Number))) {
            counts.scanned += count ?? 0;
            if (reason === 0) counts.kept = count ?? 0;
            else counts.dropped[this.reasons[(reason ?? 0) - 1] ?? "duplicate"] = count ?? 0;
        }
        return counts;
    }

    /** Code points of input and output together: nearest-rank percentiles over the kept rows. */
    async characters(): Promise<{ p50: number; p95: number; max: number }> {
        const quantile = (share: number): string => `quantile_disc(characters, ${share})`;
        const [p50 = 0, p95 = 0, max = 0] = await this.first(
            `SELECT ${quantile(0.5)}, ${quantile(0.95)}, max(characters) FROM facts WHERE reason = 0`,
        );
        return { p50, p95, max };
    }

    /** Makes the table `parts`, which holds for each row the number of its part, NULL when it is dropped; counts them. */
    async divide(): Promise<Record<Part, number>> {
        const orders = await this.connection.runAndReadAll("SELECT prompt FROM facts WHERE reason = 0");
        const { heldOut, rows } = divide(Float64Array.from(orders.getColumns()[0] as number[]), this.split);
        await this.connection.run("CREATE TABLE held (prompt DOUBLE, part UTINYINT)");
        const appender = await this.connection.createAppender("held");
        for (const [prompt, part] of heldOut) {
            appender.appendDouble(prompt);
            appender.appendUTinyInt(part);
            appender.endRow();
        }
        appender.closeSync();
        await this.connection.run(`
            CREATE TABLE parts AS
            SELECT CASE WHEN reason = 0 THEN coalesce(part, 0) END AS part
            FROM facts LEFT JOIN held USING (prompt) ORDER BY facts.rowid`);
        return { train: rows[0], validation: rows[1], test: rows[2] };
    }

    private async first(sql: string): Promise<number[]> {
        return (await this.connection.runAndReadAll(sql)).getRows()[0]?.map(Number) ?? [];
    }
}

/**
 * The statement that writes the rows of one part into a file, in their order.
 *
 * @param texts queries whose rows are, one after the other, those of the table `parts`.
 */
export function copyStatement(texts: readonly string[], part: Part, file: string): string {
    const all = texts.map((sql) => `SELECT instruction, input, output FROM (${sql})`).join(" UNION ALL ");
    return `
        COPY (SELECT instruction, input, output FROM (${all}) POSITIONAL JOIN parts WHERE part = ${parts.indexOf(part)})
        TO ${file} (FORMAT json)`;
}
