/** The options of LLaMA-Factory that users pass through, checked before anything starts. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { nearest } from "../nearest";
import { refusal } from "./options-refused";
import { type OptionValue, type Problem, rules, type TrainingSettings } from "./options-rules";

export type { Method, OptionValue, Problem, TrainingSettings } from "./options-rules";

type TypeName = "boolean" | "integer" | "number" | "string" | "array" | "object" | "null";

interface Option {
    readonly type: readonly TypeName[];
    readonly default: OptionValue;
    readonly choices?: readonly (string | number | boolean)[];
    readonly items?: string;
    /** Between the parts of a list that is written as one string. */
    readonly separator?: string;
}

const file = join(__dirname, "options-llamafactory-0.9.5-transformers-4.57.6.json");

let loaded: ReadonlyMap<string, Option> | undefined;

/** Read at the first use: most commands check no option. */
function schema(): ReadonlyMap<string, Option> {
    loaded ??= new Map(
        Object.entries((JSON.parse(readFileSync(file, "utf8")) as { options: Record<string, Option> }).options),
    );
    return loaded;
}

/** The names of the chat templates that LLaMA-Factory knows. */
export function templates(): readonly string[] {
    return (schema().get("template")?.choices ?? []).map(String);
}

/** What is wrong with the name of a template; undefined where nothing is. */
export function checkTemplate(name: string): string | undefined {
    const known = templates();
    if (known.includes(name)) return undefined;
    return `unknown template ${shown(name)}${suggestion(name, known) || `; there is ${known.join(", ")}`}`;
}

/**
 * All problems of the options, in the order of the options, and the options as they are to be written. Text that is
 * plainly a number or true or false is taken as such where the option wants one, because `pulumi config set --path`
 * stores 1e-4 as text. Where there are problems the options are not complete.
 */
export function checkOptions(
    given: Readonly<Record<string, unknown>>,
    settings: TrainingSettings,
): { options: Record<string, OptionValue>; problems: Problem[] } {
    const options: Record<string, OptionValue> = {};
    const problems: Problem[] = [];
    const names = Object.keys(given);
    // The program is often without any: then there is no need for the schema.
    if (names.length === 0) return { options, problems };

    for (const name of names) {
        const checked = checkOption(name, given[name]);
        if ("message" in checked) problems.push({ path: name, message: checked.message });
        else options[name] = checked.value;
    }

    const wrong = new Set(problems.map(({ path }) => path));
    const value = (name: string): unknown =>
        Object.hasOwn(options, name) ? options[name] : (settings.written?.[name] ?? schema().get(name)?.default);
    for (const rule of rules) {
        const own = rule.options.filter((name) => Object.hasOwn(options, name));
        if (own[0] === undefined || rule.options.some((name) => wrong.has(name))) continue;
        const found = rule.problem(value, settings);
        if (found === undefined) continue;
        const problem = typeof found === "string" ? { path: own[0], message: found } : found;
        problems.push(own.includes(problem.path) ? problem : { ...problem, path: own[0] });
    }

    const position = new Map(names.map((name, index) => [name, index]));
    const at = ({ path }: Problem) => position.get(path) ?? 0;
    return { options, problems: problems.sort((a, b) => at(a) - at(b)) };
}

type Checked = { value: OptionValue } | { message: string };

function checkOption(name: string, value: unknown): Checked {
    const option = schema().get(name);
    if (option === undefined) {
        const meant = nearest(name, schema().keys());
        const refused = meant === undefined ? undefined : refusal(meant);
        const hint = meant === undefined ? "" : `; did you mean ${meant}?`;
        return { message: `unknown LLaMA-Factory option${hint}${refused === undefined ? "" : ` (${refused})`}` };
    }
    const refused = refusal(name);
    if (refused !== undefined) return { message: refused };
    if (value === null && option.type.includes("null")) return { value };
    return option.separator === undefined ? checkValue(option, value) : checkList(option, option.separator, value);
}

function checkValue(option: Option, value: unknown): Checked {
    for (const type of typesOf(option)) {
        const read = readers[type](value);
        if (read !== undefined && parts(read).every((part) => isChoice(option, part))) return { value: read };
    }
    return { message: expectation(option, parts(value).find((part) => !isChoice(option, part)) ?? value) };
}

/** A list that LLaMA-Factory wants as one string. */
function checkList(option: Option, separator: string, value: unknown): Checked {
    const list: unknown = typeof value === "string" ? value.split(separator) : value;
    if (!isListOfTexts(list)) return { message: expectation(option, value) };
    const kept = list.map((part) => String(part).trim()).filter((part) => part !== "");
    // Nothing is a meaning of its own only where there is a closed set of names to leave out.
    if (kept.length === 0 && option.choices === undefined) return { message: expectation(option, value) };
    const wrong = kept.find((part) => !isChoice(option, part));
    return wrong === undefined ? { value: kept.join(separator) } : { message: expectation(option, wrong) };
}

/** Of texts or numbers: both are written the same way. */
const isListOfTexts = (value: unknown): value is (string | number)[] =>
    Array.isArray(value) && value.every((part) => typeof part === "string" || typeof part === "number");

const parts = (value: unknown): readonly unknown[] => (Array.isArray(value) ? (value as unknown[]) : [value]);

const isChoice = (option: Option, value: unknown) =>
    option.choices === undefined || option.choices.some((choice) => choice === value);

/** Text where an object may stand is the path of a file, which would not travel to the target. */
const typesOf = ({ type }: Option) => type.filter((name) => name !== "string" || !type.includes("object"));

const plainNumber = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

function asNumber(value: unknown): number | undefined {
    const number = typeof value === "string" && plainNumber.test(value) ? Number(value) : value;
    return typeof number === "number" && Number.isFinite(number) ? number : undefined;
}

/** The value as the type has it; undefined where it is of another. */
const readers: Readonly<Record<TypeName, (value: unknown) => OptionValue | undefined>> = {
    boolean: (value) => {
        if (typeof value === "boolean") return value;
        return value === "true" ? true : value === "false" ? false : undefined;
    },
    integer: (value) => {
        const number = asNumber(value);
        return Number.isSafeInteger(number) ? number : undefined;
    },
    number: asNumber,
    string: (value) => (typeof value === "string" ? value : undefined),
    array: (value) => (Array.isArray(value) && value.every((part) => typeof part === "string") ? value : undefined),
    object: (value) => {
        const object = typeof value === "string" ? parsed(value) : value;
        return isObject(object) ? numbersRead(object) : undefined;
    },
    null: () => undefined,
};

const isObject = (value: unknown): value is Record<string, OptionValue> =>
    typeof value === "object" && value !== null && !Array.isArray(value);

function parsed(text: string): unknown {
    try {
        return JSON.parse(text);
    } catch {
        return undefined;
    }
}

/** The objects hold arguments of functions: text that is plainly a number is one. */
function numbersRead(object: Record<string, OptionValue>): OptionValue {
    return Object.fromEntries(
        Object.entries(object).map(([key, value]) => [
            key,
            isObject(value) ? numbersRead(value) : (asNumber(value) ?? value),
        ]),
    );
}

const nouns: Readonly<Record<TypeName, string>> = {
    boolean: "true or false",
    integer: "a whole number",
    number: "a number",
    string: "text",
    array: "a list of texts",
    object: "an object",
    null: "null",
};

const mostListed = 12;

function expectation(option: Option, value: unknown): string {
    const { choices } = option;
    if (choices === undefined) {
        const types = typesOf(option).filter((type) => type !== "null");
        return `expected ${types.map((type) => nouns[type]).join(" or ")}, got ${shown(value)}`;
    }
    const few = choices.length <= mostListed ? choices : [...choices.slice(0, mostListed), "…"];
    const hint = typeof value === "string" ? suggestion(value, choices.map(String)) : "";
    return `expected one of ${few.join(", ")}, got ${shown(value)}${hint}`;
}

function suggestion(word: string, known: readonly string[]): string {
    const meant = nearest(word, known);
    return meant === undefined ? "" : `; did you mean ${meant}?`;
}

const longestShown = 60;

function shown(value: unknown): string {
    if (Array.isArray(value)) return "a list";
    if (typeof value === "object" && value !== null) return "an object";
    if (typeof value !== "string") return String(value);
    return JSON.stringify(value.length > longestShown ? `${value.slice(0, longestShown)}…` : value);
}
