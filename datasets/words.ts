/*
 * Words without a dictionary: a run of letters and digits is one; a character of Chinese, Japanese or Korean is one by
 * itself. Case, width and accents make no difference, and nothing else counts. Texts are read by UTF-16 code unit with
 * tables, because a data set has tens of millions of them.
 */

export const SCRIPTS = ["Han", "Kana", "Hangul", "Latin", "Cyrillic", "Arabic", "Greek", "Devanagari", "Thai"] as const;
export type Script = (typeof SCRIPTS)[number];

const NOTHING = 0;
const MARK = 1;
const DIGIT = 2;
const LETTER = 3;
/** Of the first of SCRIPTS; the others follow. */
const SCRIPT = 4;

/** What a text consists of; the same object is filled again and again. */
export interface Words {
    count: number;
    /** A hash of each word, in order; valid up to `count`. */
    hashes: Uint32Array;
    /** Words by the script of their first letter, in the order of SCRIPTS. */
    scripts: Uint32Array;
    /** Characters that are a word each. */
    single: number;
    digits: number;
    /** Whether there is an at sign. */
    at: boolean;
}

export function noWords(): Words {
    return {
        ...{ count: 0, hashes: new Uint32Array(1024), scripts: new Uint32Array(SCRIPTS.length) },
        ...{ single: 0, digits: 0, at: false },
    };
}

let tables: { readonly kinds: Uint8Array; readonly folded: Uint16Array } | undefined;

/** Fills `words` with those of a text. */
export function readWords(text: string, words: Words): void {
    const { kinds, folded } = (tables ??= makeTables());
    words.count = words.single = words.digits = 0;
    words.at = false;
    words.scripts.fill(0);
    let hash = 0;
    for (let i = 0; i < text.length; i += 1) {
        const unit = text.charCodeAt(i);
        const kind = kinds[unit] ?? NOTHING;
        if (kind === MARK) continue;
        const standsAlone = kind >= SCRIPT && kind < SCRIPT + 3;
        if (kind === NOTHING || standsAlone) {
            if (hash !== 0) push(words, hash);
            hash = 0;
            if (unit === 0x40 || unit === 0xff20) words.at = true;
            if (!standsAlone) continue;
            words.single += 1;
            words.scripts[kind - SCRIPT] = (words.scripts[kind - SCRIPT] ?? 0) + 1;
            push(words, mixed(unit));
            continue;
        }
        if (kind === DIGIT) words.digits += 1;
        if (hash === 0 && kind >= SCRIPT) words.scripts[kind - SCRIPT] = (words.scripts[kind - SCRIPT] ?? 0) + 1;
        // Never 0, which stands for no word.
        hash = mixed(hash ^ (folded[unit] ?? 0)) || 1;
    }
    if (hash !== 0) push(words, hash);
}

function push(words: Words, hash: number): void {
    if (words.count === words.hashes.length) {
        const longer = new Uint32Array(2 * words.count);
        longer.set(words.hashes);
        words.hashes = longer;
    }
    words.hashes[words.count] = hash;
    words.count += 1;
}

/** A hash of 32 bits of a number: every bit of it makes a difference to all of them. */
export function mixed(value: number): number {
    let one = Math.imul(value ^ (value >>> 16), 0x85ebca6b);
    one = Math.imul(one ^ (one >>> 13), 0xc2b2ae35);
    return (one ^ (one >>> 16)) >>> 0;
}

function makeTables() {
    const kinds = new Uint8Array(0x10000);
    const folded = new Uint16Array(0x10000);
    const classes = SCRIPTS.map((script) =>
        script === "Kana"
            ? /[\p{Script=Hiragana}\p{Script=Katakana}]/u
            : new RegExp(String.raw`\p{Letter}(?<=\p{Script=${script}})`, "u"),
    );
    for (let unit = 0; unit < 0x10000; unit += 1) {
        folded[unit] = unit;
        if (unit >= 0x4e00 && unit <= 0x9fff) kinds[unit] = SCRIPT;
        else if (unit >= 0xac00 && unit <= 0xd7a3) kinds[unit] = SCRIPT + 2;
        // The second half of a character beyond the first 65,536: rare Chinese ones and pictures.
        else if (unit >= 0xdc00 && unit <= 0xdfff) kinds[unit] = LETTER;
        else if (unit < 0xd800 || unit >= 0xf900) {
            const plain = String.fromCharCode(unit).normalize("NFKD").toLowerCase();
            const script = classes.findIndex((one) => one.test(plain));
            folded[unit] = plain.charCodeAt(0);
            if (script >= 0) kinds[unit] = SCRIPT + script;
            else if (/^\p{Number}/u.test(plain)) kinds[unit] = DIGIT;
            else if (/^\p{Letter}/u.test(plain)) kinds[unit] = LETTER;
            else if (/^\p{Mark}/u.test(plain)) kinds[unit] = MARK;
        }
    }
    return { kinds, folded };
}
