import { z } from "zod";
import { isObject, type JsonObject } from "./identity";
import { nearest } from "./nearest";

/*
 * The kinds of fields that configuration and stages are made of. Each says in one phrase what it expects, and a wrong
 * value is answered with that phrase and the value: `expected a number between 0 and 1, got "fast"`.
 */

/** One thing that is wrong with what somebody configured; `path` is dotted, as for `pulumi config set --path`. */
export interface Problem {
    readonly path: string;
    readonly message: string;
}

export const expecting = (what: string) => ({
    error: (issue: { readonly input?: unknown }): string =>
        issue.input === undefined ? `missing: expected ${what}` : `expected ${what}, got ${shown(issue.input)}`,
});

function shown(value: unknown): string {
    const text = JSON.stringify(value) as string | undefined;
    if (text === undefined) return String(value);
    return text.length > 80 ? `${text.slice(0, 77)}…` : text;
}

// `pulumi config set --path retune:training.learningRate 1e-4` stores the text "1e-4".
const asNumber = (value: unknown): unknown =>
    typeof value === "string" && /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(value.trim()) ? Number(value) : value;

const asBoolean = (value: unknown): unknown => (value === "true" ? true : value === "false" ? false : value);

export function number(what: string, range: { above?: number; from?: number; to?: number }) {
    const says = expecting(what);
    let schema = z.number(says);
    if (range.above !== undefined) schema = schema.gt(range.above, says);
    if (range.from !== undefined) schema = schema.gte(range.from, says);
    if (range.to !== undefined) schema = schema.lte(range.to, says);
    return z.preprocess(asNumber, schema);
}

export function integer(what: string, range: { from: number; to?: number }) {
    const says = expecting(what);
    return z.preprocess(
        asNumber,
        z
            .number(says)
            .int(says)
            .gte(range.from, says)
            .lte(range.to ?? Number.MAX_SAFE_INTEGER, says),
    );
}

export function flag() {
    return z.preprocess(asBoolean, z.boolean(expecting("true or false")));
}

/**
 * A text that is not empty. Numbers are refused rather than turned into text: a revision such as 12e34 has lost its
 * digits by the time that it arrives here.
 */
export function text(what = "a text") {
    const says = {
        error: (issue: { readonly input?: unknown }): string =>
            typeof issue.input === "number"
                ? `expected ${what}, got the number ${issue.input}: put it in quotes`
                : expecting(what).error(issue),
    };
    return z.string(says).min(1, says);
}

/** An address to which a secret may go. */
export function address(example: string) {
    return text(`an address such as ${example}`)
        .refine((given) => !holdsUser(given), { error: NO_USER, abort: true })
        .refine(isSafe, {
            error: ({ input }) =>
                `expected an address with https, or one of this machine, got ${JSON.stringify(input)}`,
        });
}

/** What is said of an address that holds a password: not the address. */
export const NO_USER =
    "expected an address without a user's name and password in it: it goes in clear into state, manifest and messages";

/** Whether an address has a part such as `user:password@`, also one that is no address otherwise. */
export function holdsUser(given: string): boolean {
    if (!URL.canParse(given)) return /\/\/[^/]*@/.test(given);
    const { username, password } = new URL(given);
    return username !== "" || password !== "";
}

/** Whether nobody on the way can read along: https, or this machine. */
export function isSafe(given: string): boolean {
    const url = URL.canParse(given) ? new URL(given) : undefined;
    const local = url !== undefined && ["localhost", "127.0.0.1", "[::1]"].includes(url.hostname);
    return url?.protocol === "https:" || (url?.protocol === "http:" && local);
}

export function oneOf<const Choices extends readonly [string, ...string[]]>(choices: Choices) {
    return z.enum(choices, { error: ({ input }) => notOneOf(input, choices) });
}

/** What to say to a value that is none of these. */
export function notOneOf(input: unknown, choices: readonly string[]): string {
    const near = typeof input === "string" ? nearest(input, choices) : undefined;
    const hint = near === undefined ? "" : `; did you mean ${near}?`;
    return expecting(`one of ${choices.join(", ")}`).error({ input }) + hint;
}

/** A list that is not empty. */
export function list<Element extends z.ZodType>(element: Element, what: string) {
    return z.array(element, expecting(what)).min(1, expecting(what));
}

/** A SHA-256 in hex: the digest of an artifact. */
export function digest(what: string) {
    const says = expecting(what);
    return z.string(says).regex(/^[0-9a-f]{64}$/, says);
}

/** An object that is passed on as it is. */
export function jsonObject() {
    return z.custom<JsonObject>(isObject, expecting("an object"));
}

const KNOWN = "known settings: ";

/** An object with these fields and no others; an unknown one is refused with the nearest known one. */
export function group<Shape extends z.ZodRawShape>(shape: Shape, what = "a group of settings") {
    return z.strictObject(shape, {
        error: (issue) =>
            issue.code === "unrecognized_keys"
                ? KNOWN + Object.keys(shape).join(" ")
                : expecting(what).error({ input: issue.input }),
    });
}

/** zod's issues as problems with their paths, one for each unknown key. */
export function problemsOf(error: z.ZodError, prefix: readonly PropertyKey[] = []): Problem[] {
    return error.issues.flatMap((issue) => {
        const at = [...prefix, ...issue.path];
        if (issue.code !== "unrecognized_keys") return [{ path: dotted(at), message: plainly(issue.message) }];
        const known = issue.message.startsWith(KNOWN)
            ? issue.message.slice(KNOWN.length).split(" ").filter(Boolean)
            : [];
        return issue.keys.map((key) => ({ path: dotted([...at, key]), message: unknownKey(key, known) }));
    });
}

/** zod's own words, where a schema has none, in ours. */
function plainly(message: string): string {
    const [, expected, received] = /^Invalid input: expected (\w+), received (\w+)$/.exec(message) ?? [];
    if (expected === undefined || received === undefined) return message;
    return received === "undefined" ? `missing: expected a ${expected}` : `expected a ${expected}, got a ${received}`;
}

export function unknownKey(key: string, known: readonly string[]): string {
    if (known.length === 0) return "unknown";
    const near = nearest(key, known);
    return near === undefined ? `unknown; there is ${known.join(", ")}` : `unknown; did you mean ${near}?`;
}

function dotted(path: readonly PropertyKey[]): string {
    return path.reduce<string>(
        (text, part) =>
            typeof part === "number" ? `${text}[${part}]` : text === "" ? String(part) : `${text}.${String(part)}`,
        "",
    );
}
