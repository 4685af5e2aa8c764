import type { DuckDBConnection } from "@duckdb/node-api";
import { Clusters, type Link } from "./near-duplicates";
import { literal, orderOf, sameAs, type Query } from "./query";
import type { Recipe } from "./recipe";
import { divide, parts, type Part, type Split } from "./split";

/** The rows in their order; those that are dropped have a reason in place of texts. */
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
        await connection.run(
            "CREATE TABLE rows (reason UTINYINT, instruction VARCHAR, input VARCHAR, output VARCHAR, characters UINTEGER, same UHUGEINT)",
        );
        return new RowTable(connection, recipe, split, limit ?? Infinity);
    }

    /** How many more rows are let in. */
    get room(): number {
        return Math.max(0, this.limit - this.kept);
    }

    /** The number of rows that the query has, whether they are kept or not. */
    async add({ sql, reasons }: Query): Promise<number> {
        this.reasons = reasons;
        const { recipe } = this;
        const kept = (expression: string): string => `CASE WHEN reason = 0 THEN ${expression} END`;
        const [added] = await this.first(`
            INSERT INTO rows
            SELECT reason, ${kept("instruction")}, ${kept("input")}, ${kept("output")},
                ${kept("length(input) + length(output)")}, ${recipe.deduplicate ? kept(sameAs(recipe)) : "NULL"}
            FROM (${sql})`);
        if (recipe.deduplicate) {
            await this.connection.run(`
                UPDATE rows SET reason = ${reasons.length + 1}
                WHERE reason = 0 AND rowid NOT IN (SELECT min(rowid) FROM rows WHERE reason = 0 GROUP BY same)`);
        }
        [this.kept = 0] = await this.first("SELECT count(*) FROM rows WHERE reason = 0");
        return added ?? 0;
    }

    /** Forgets the rows after the last that is let in, and counts the others. */
    async count(): Promise<{ scanned: number; kept: number; dropped: Record<string, number> }> {
        if (this.kept >= this.limit) {
            await this.connection.run(`
                DELETE FROM rows WHERE rowid > (
                    SELECT rowid FROM rows WHERE reason = 0 ORDER BY rowid LIMIT 1 OFFSET ${this.limit - 1})`);
        }
        const counted = await this.connection.runAndReadAll(
            "SELECT reason, count(*) FROM rows GROUP BY reason ORDER BY reason",
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
            `SELECT ${quantile(0.5)}, ${quantile(0.95)}, max(characters) FROM rows WHERE reason = 0`,
        );
        return { p50, p95, max };
    }

    /**
     * Makes the table `parts`, which holds for each row the number of its part, NULL when it is dropped; counts them, and
     * answers the part of each kept row.
     *
     * @param together pairs of kept rows, by their positions, that must be in one part.
     */
    async divide(together: readonly Link[]): Promise<{ rows: Record<Part, number>; partOf: Uint8Array }> {
        const { recipe, split } = this;
        const order = split.validation > 0 || split.test > 0 ? orderOf(recipe, split.seed) : "0";
        // Folding is a third of all work, and on texts in memory a second thread costs no more of it.
        await this.connection.run("SET threads = 2");
        await this.connection.run(
            `CREATE TABLE orders AS SELECT CASE WHEN reason = 0 THEN ${order}::DOUBLE END AS prompt FROM rows`,
        );
        const orders = await this.connection.runAndReadAll("SELECT prompt FROM orders WHERE prompt IS NOT NULL");
        const prompts = Float64Array.from((orders.getColumns()[0] ?? []) as number[]);
        await this.join(prompts, together);
        const { heldOut, rows } = divide(prompts.slice(), split);
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
            SELECT CASE WHEN prompt IS NOT NULL THEN coalesce(part, 0) END AS part
            FROM orders LEFT JOIN held USING (prompt) ORDER BY orders.rowid`);
        // Several threads would reach a positional join in any order.
        await this.connection.run("SET threads = 1");
        const counts = { train: rows[0], validation: rows[1], test: rows[2] };
        return { rows: counts, partOf: Uint8Array.from(prompts, (prompt) => heldOut.get(prompt) ?? 0) };
    }

    /** Gives prompts that belong together one order, as if they were the same. */
    private async join(prompts: Float64Array, together: readonly Link[]): Promise<void> {
        if (together.length === 0) return;
        const linked = together.flatMap(({ first, second }) => [prompts[first] ?? 0, prompts[second] ?? 0]);
        const distinct = [...new Set(linked)].sort((a, b) => a - b);
        const positions = new Map(distinct.map((prompt, at) => [prompt, at]));
        const clusters = new Clusters(distinct.length);
        for (let i = 0; i < linked.length; i += 2) {
            clusters.join(positions.get(linked[i] ?? 0) ?? 0, positions.get(linked[i + 1] ?? 0) ?? 0);
        }
        const leader = (prompt: number): number => {
            const at = positions.get(prompt);
            return at === undefined ? prompt : (distinct[clusters.of(at)] ?? prompt);
        };
        await this.connection.run("CREATE TABLE leaders (prompt DOUBLE, leader DOUBLE)");
        const appender = await this.connection.createAppender("leaders");
        for (const prompt of distinct) {
            appender.appendDouble(prompt);
            appender.appendDouble(leader(prompt));
            appender.endRow();
        }
        appender.closeSync();
        await this.connection.run(
            "UPDATE orders SET prompt = leader FROM leaders WHERE orders.prompt = leaders.prompt",
        );
        for (const [at, prompt] of prompts.entries()) prompts[at] = leader(prompt);
    }

    private async first(sql: string): Promise<number[]> {
        return (await this.connection.runAndReadAll(sql)).getRows()[0]?.map(Number) ?? [];
    }
}

/** Writes the rows of one part, after `divide`. Parts can be written at the same time, with a connection for each. */
export async function writePart(connection: DuckDBConnection, part: Part, file: string): Promise<void> {
    await connection.run(`
        COPY (SELECT instruction, input, output FROM rows POSITIONAL JOIN parts WHERE part = ${parts.indexOf(part)})
        TO ${literal(file)} (FORMAT json)`);
}
