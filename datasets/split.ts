/** Shares of the kept rows, each from 0 to 1; the rest is for training. */
export interface Split {
    validation: number;
    test: number;
    seed: number;
    /** Which rows are never in two parts: those that ask the same, or also those that ask nearly the same. Default: same. */
    together?: "same" | "similar";
}

export const parts = ["train", "validation", "test"] as const;
export type Part = (typeof parts)[number];

/** Which rows are held out of training. */
export interface Division {
    /** Order of a prompt → index into {@link parts}; prompts for training are absent. */
    heldOut: ReadonlyMap<number, number>;
    /** Rows of each of {@link parts}. */
    rows: [train: number, validation: number, test: number];
}

/**
 * Divides rows into parts. All rows of one prompt go to the same part: the first of test and validation that still has
 * room for all of them, in the order of the hashes. So the parts depend on nothing but the prompts, the seed and the shares.
 *
 * @param orders the order of each row's prompt; sorted by this function.
 */
export function divide(orders: Float64Array, split: Split): Division {
    // A typed array sorts as numbers, ten times as fast as a list with a comparison.
    orders.sort();
    const heldOut = new Map<number, number>();
    const rows: Division["rows"] = [orders.length, 0, 0];
    for (const part of [2, 1] as const) {
        const wanted = part === 2 ? split.test : split.validation;
        let room = wanted === 0 ? 0 : Math.max(1, Math.round(wanted * orders.length));
        let smallest: { order: number; size: number } | undefined;
        const take = (order: number, size: number): void => {
            heldOut.set(order, part);
            rows[part] += size;
            rows[0] -= size;
            room -= size;
        };
        for (let start = 0, end = 0; start < orders.length && room > 0; start = end) {
            const order = orders[start] ?? 0;
            while (end < orders.length && orders[end] === order) end++;
            if (heldOut.has(order)) continue;
            const size = end - start;
            if (size <= room) take(order, size);
            else if (smallest === undefined || size < smallest.size) smallest = { order, size };
        }
        // Every prompt has more rows than the whole share: the one with the fewest is the least wrong.
        if (rows[part] === 0 && smallest !== undefined) take(smallest.order, smallest.size);
    }
    return { heldOut, rows };
}
