import { isObject, type Json, type JsonObject } from "../identity";

// How Pulumi marks a secret on the wire: an object with this field holds the value beside it.
const SIGNATURE = "4dabf18193072939515e22adb298388d";
const SECRET = "1b47061264138c4ac30d75fd1eb44270";

/** A value without its secret marks, at any depth: for computing with it, never for returning it. */
export function unwrapSecrets(value: Json): Json {
    if (Array.isArray(value)) return (value as readonly Json[]).map(unwrapSecrets);
    if (!isObject(value)) return value;
    if (value[SIGNATURE] === SECRET) return unwrapSecrets(value["value"] ?? null);
    return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, unwrapSecrets(one ?? null)]));
}

/** Where secrets are in an object, as dotted paths. */
export function secretPaths(value: Json, at = ""): string[] {
    if (Array.isArray(value)) return (value as readonly Json[]).flatMap((one, i) => secretPaths(one, `${at}[${i}]`));
    if (!isObject(value)) return [];
    if (value[SIGNATURE] === SECRET) return [at];
    return Object.entries(value).flatMap(([name, one]) => secretPaths(one ?? null, at === "" ? name : `${at}.${name}`));
}

/** What Pulumi holds, for computing with it. */
export function plain(value: JsonObject): JsonObject {
    return withoutNulls(unwrapSecrets(value) as JsonObject);
}

/** Absent and null are the same to Pulumi; nulls are dropped so that zod sees an absent field. */
export function withoutNulls(value: JsonObject): JsonObject {
    return Object.fromEntries(Object.entries(value).filter(([, one]) => one !== null));
}

/** A value as a secret, for returning it: Pulumi encrypts it in the state. */
export function secret(value: string): JsonObject {
    return { [SIGNATURE]: SECRET, value };
}
