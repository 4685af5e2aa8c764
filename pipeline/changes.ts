import { hasUnknown, isObject, leaves, same, type Json, type JsonObject } from "./identity";

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
        const previous = before.get(field);
        if (previous === undefined) changes.push({ kind: "added", field, new: value });
        else if (!same(previous, value)) changes.push({ kind: "changed", field, old: previous, new: value });
    }
    for (const [field, value] of before) {
        if (!after.has(field)) changes.push({ kind: "removed", field, old: value });
    }
    return changes;
}

/** A change in one line: `learningRate 0.0005 → 0.0001`. */
export function describeChange(change: Change): string {
    switch (change.kind) {
        case "added":
            return `${change.field} added: ${shown(change.new)}`;
        case "removed":
            return `${change.field} removed (was ${shown(change.old)})`;
        case "changed":
            return `${change.field} ${shown(change.old)} → ${shown(change.new)}`;
    }
}

function shown(value: Json): string {
    if (hasUnknown(value)) return "known after the stage before has run";
    if (typeof value === "string") return /^[0-9a-f]{64}$/.test(value) ? value.slice(0, 12) : value;
    const text = JSON.stringify(value);
    return text.length > 60 ? `${text.slice(0, 57)}…` : text;
}
