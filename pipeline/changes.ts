import { hasUnknown, isObject, leaves, same, UNKNOWN, type Json, type JsonObject } from "./identity";

/** One field that differs between two descriptions of a stage. */
export type Change =
    | { readonly kind: "added"; readonly field: string; readonly new: Json }
    | { readonly kind: "removed"; readonly field: string; readonly old: Json }
    | { readonly kind: "changed"; readonly field: string; readonly old: Json; readonly new: Json };

/** Every field that was added, removed or changed, in the order of the new description, removed ones last. */
export function changesBetween(old: JsonObject, now: JsonObject): Change[] {
    const before = leaves(old);
    const after = leaves(now);
    // A group that was empty, or becomes so, has not changed itself: the fields in it have come or gone.
    const filled = (fields: ReadonlyMap<string, Json>, group: string) =>
        [...fields.keys()].some((field) => field.startsWith(`${group}.`));
    for (const [name, value] of before) if (isObject(value) && filled(after, name)) before.delete(name);
    for (const [name, value] of after) if (isObject(value) && filled(before, name)) after.delete(name);
    const changes: Change[] = [];
    for (const [field, value] of after) {
        // Of what is not known yet, nothing can be said to be gone.
        if (value === UNKNOWN) fold(before, field);
        const previous = before.get(field);
        if (previous === undefined) changes.push({ kind: "added", field, new: value });
        else if (!same(previous, value)) changes.push({ kind: "changed", field, old: previous, new: value });
    }
    for (const [field, value] of before) {
        if (!after.has(field)) changes.push({ kind: "removed", field, old: value });
    }
    return changes;
}

/** Makes the leaves below a field one value again. */
function fold(all: Map<string, Json>, field: string): void {
    const below = [...all].filter(([name]) => name.startsWith(`${field}.`));
    for (const [name] of below) all.delete(name);
    const values = below.map(([name, value]) => [name.slice(field.length + 1), value] as const);
    if (below.length > 0) all.set(field, Object.fromEntries(values));
}

/** A change in one line: `learningRate 0.0005 → 0.0001`. */
export function describeChange(change: Change): string {
    switch (change.kind) {
        case "added":
            return `${change.field} added: ${shown(change.new)}`;
        case "removed":
            return `${change.field} removed (was ${shown(change.old)})`;
        case "changed":
            return `${change.field} ${difference(change.old, change.new)}`;
    }
}

function difference(old: Json, now: Json): string {
    if (Array.isArray(old) && Array.isArray(now)) return listDifference(old as readonly Json[], now as readonly Json[]);
    const [before, after] = [whole(old), whole(now)];
    let alike = 0;
    while (alike < before.length && before[alike] === after[alike]) alike++;
    // Of two long texts, the part where they begin to differ.
    const from = Math.max(before.length, after.length) > LONGEST && alike > CONTEXT ? alike - CONTEXT : 0;
    return `${clipped(before, from)} → ${clipped(after, from)}`;
}

/** What is in one of two lists only: of four questions, the one that is another. */
function listDifference(old: readonly Json[], now: readonly Json[]): string {
    const without = (these: readonly Json[], those: readonly Json[]) =>
        these.filter((one) => !those.some((other) => same(one, other)));
    const [removed, added] = [without(old, now), without(now, old)];
    const [before, after] = [removed, added].map((ones) => ones.map(shown).join(", "));
    if (removed.length > 0 && added.length > 0) return `${before ?? ""} → ${after ?? ""}`;
    if (added.length > 0) return `added: ${after ?? ""}`;
    return removed.length > 0 ? `removed: ${before ?? ""}` : "in another order or number";
}

const LONGEST = 60;
const CONTEXT = 12;

function shown(value: Json): string {
    return clipped(whole(value), 0);
}

function whole(value: Json): string {
    if (hasUnknown(value)) return "known after the stage before has run";
    if (typeof value !== "string") return JSON.stringify(value);
    return /^[0-9a-f]{64}$/.test(value) ? value.slice(0, 12) : value.replace(/\s+/g, " ");
}

function clipped(text: string, from: number): string {
    const rest = text.slice(from);
    return (from > 0 ? "…" : "") + (rest.length > LONGEST ? `${rest.slice(0, LONGEST - 3)}…` : rest);
}
