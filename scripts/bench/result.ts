/** A value that a budget bounds. Undefined where there is nothing to compare with. */
export interface Limit {
    readonly value: number | undefined;
    readonly relation: "≤" | "≥";
    readonly bound: number;
    readonly unit: string;
}

/** What a benchmark has measured. */
export interface Measured {
    readonly unit: string;
    /** Median of ours. */
    readonly ours: number;
    /** What ours is compared with, and its median. */
    readonly peerName?: string;
    readonly peer?: number;
    /** Ours to the peer's, or how many times as fast, as the budget has it. */
    readonly ratio?: number;
    readonly limits: readonly Limit[];
    readonly samples: Readonly<Record<string, readonly number[]>>;
    /** What a reader must know to judge the numbers. */
    readonly notes?: readonly string[];
}

export type Outcome = { readonly name: string; readonly what: string } & (Measured | { readonly problem: string });

export function median(samples: readonly number[]): number {
    if (samples.length === 0) throw new Error("there is no median of nothing");
    const sorted = [...samples].sort((a, b) => a - b);
    const middle = Math.floor(sorted.length / 2);
    const upper = sorted[middle] ?? NaN;
    return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? NaN) + upper) / 2;
}

/** Seconds of ours for each second of the peer's; undefined without a peer. */
export function ratioOf(ours: number, peer: number | undefined): number | undefined {
    return peer === undefined || peer === 0 ? undefined : ours / peer;
}

function holds({ value, relation, bound }: Limit): boolean | undefined {
    if (value === undefined) return undefined;
    return relation === "≤" ? value <= bound : value >= bound;
}

/** Whether all limits hold. One that is missed decides; without one, what could not be compared leaves it open: null. */
export function verdict(limits: readonly Limit[]): boolean | null {
    if (limits.length === 0) return null;
    const held = limits.map(holds);
    if (held.includes(false)) return false;
    return held.includes(undefined) ? null : true;
}

export function budgetOf(limits: readonly Limit[]): string {
    return limits.map(({ relation, bound, unit }) => `${relation} ${round(bound)} ${unit}`).join(", ");
}

/** How the time grows with the number of stages: the slope over all, and how much steeper its upper part is. */
export function growth(points: readonly { readonly size: number; readonly seconds: number }[]) {
    const [small, middle, large] = points;
    if (small === undefined || middle === undefined || large === undefined) throw new Error("three sizes are needed");
    const slope = (from: typeof small, to: typeof small) => (to.seconds - from.seconds) / (to.size - from.size);
    // Between the small sizes the difference is no more than noise now and then: below 1 ms a stage it is taken for that.
    const lower = Math.max(slope(small, middle), 0.001);
    return { slope: slope(small, large), steeper: slope(middle, large) / lower };
}

/** One outcome as `--json` prints it. */
export function forJson(outcome: Outcome) {
    const { name, what } = outcome;
    if ("problem" in outcome) return { name, what, problem: outcome.problem };
    const { unit, ours, peerName, peer, ratio, limits, samples, notes } = outcome;
    return {
        ...{ name, what, unit, ours },
        ...{ peerName: peerName ?? null, peer: peer ?? null, ratio: ratio ?? null },
        budget: budgetOf(limits),
        met: verdict(limits),
        limits: limits.map((limit) => ({ ...limit, value: limit.value ?? null, met: holds(limit) ?? null })),
        ...{ samples, notes: notes ?? [] },
    };
}

/** The outcomes for people: a line each, then what has to be said about them. */
export function table(outcomes: readonly Outcome[]): string {
    const rows = [["benchmark", "ours", "peer", "ratio", "budget", ""], ...outcomes.map(cells)];
    const widths = [0, 1, 2, 3, 4].map((column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
    const lines = rows.map((row) =>
        row
            .map((cell, column) =>
                column === 0 || column > 3 ? cell.padEnd(widths[column] ?? 0) : right(cell, column),
            )
            .join("  ")
            .trimEnd(),
    );
    function right(cell: string, column: number): string {
        return cell.padStart(widths[column] ?? 0);
    }
    const said = outcomes.flatMap((outcome) =>
        ("problem" in outcome ? [outcome.problem] : (outcome.notes ?? [])).map((note) => `${outcome.name}: ${note}`),
    );
    return [...lines, ...(said.length > 0 ? ["", ...said] : [])].join("\n");
}

function cells(outcome: Outcome): string[] {
    if ("problem" in outcome) return [outcome.name, "", "", "", "", "could not run"];
    const { name, unit, ours, peer, ratio, limits } = outcome;
    const met = verdict(limits);
    const compared = met === null ? "not compared" : met ? "met" : "missed";
    const words = limits.length === 0 ? "" : compared;
    const measured = (value: number | undefined) => (value === undefined ? "" : `${round(value)} ${unit}`);
    const missed = limits.filter((limit) => holds(limit) === false);
    const by = missed.map(({ value, unit: of }) => `${round(value ?? NaN)} ${of}`).join(", ");
    return [
        name,
        measured(ours),
        measured(peer),
        ratio === undefined ? "" : ratio.toFixed(2),
        budgetOf(limits),
        by === "" ? words : `${words}: ${by}`,
    ];
}

/** Three digits that count. */
export function round(value: number): string {
    const magnitude = Math.abs(value);
    return String(Number(value.toFixed(magnitude >= 100 ? 0 : magnitude >= 10 ? 1 : magnitude >= 1 ? 2 : 3)));
}
