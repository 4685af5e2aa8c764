import { escape, html, type Html } from "./html";
import type { Words } from "./words";

/** More of one text helps nobody, and the page must stay small enough to send around. */
const LONGEST = 12_000;

/** Text of the data or of a model: any language and direction, any length, empty too. */
export function quoted(text: string, words: Words): Html {
    if (text.trim() === "") return html`<p class="muted">${words.emptyText}</p>`;
    const shown = clipped(text, LONGEST);
    const rest = text.length - shown.length;
    const left = rest > 0 ? html`<p class="muted">${words.moreCharacters(rest)}</p>` : undefined;
    return html`<p class="quoted" dir="auto" lang="${languageOf(shown)}">${shown}</p>
        ${left}`;
}

/** The same within a line, such as in a heading. */
export function inline(text: string): Html {
    const shown = clipped(text, 300);
    return html`<bdi lang="${languageOf(shown)}">${shown}${shown.length < text.length ? "…" : ""}</bdi>`;
}

/** Never half of a character of two units. */
export function clipped(text: string, length: number): string {
    return text.slice(0, length).replace(/[\uD800-\uDBFF]$/, "");
}

/** As much as fits into a number of bytes of HTML. */
export function clippedToBytes(text: string, budget: number): string {
    let size = 0;
    let units = 0;
    for (const character of text) {
        size += Buffer.byteLength(escape(character));
        if (size > budget) return text.slice(0, units);
        units += character.length;
    }
    return text;
}

/** Decides glyphs and voice, whatever the language of the page is. */
function languageOf(text: string): string {
    if (/[\p{Script=Hiragana}\p{Script=Katakana}]/u.test(text)) return "ja";
    if (/\p{Script=Hangul}/u.test(text)) return "ko";
    if (/\p{Script=Han}/u.test(text)) return "zh";
    if (/\p{Script=Arabic}/u.test(text)) return "ar";
    return "en";
}

/** As many as fit into a number of bytes: an evaluation may have answered thousands of questions. */
export function fitting<T>(items: readonly T[], budget: number, render: (item: T, index: number) => Html): Html[] {
    const shown: Html[] = [];
    let size = 0;
    for (const [index, item] of items.entries()) {
        const one = render(item, index);
        size += Buffer.byteLength(one.text);
        if (size > budget) break;
        shown.push(one);
    }
    return shown;
}
