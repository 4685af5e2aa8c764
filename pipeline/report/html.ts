/** Text that is HTML already. Everything else that gets into a page is escaped. */
export class Html {
    constructor(readonly text: string) {}
}

export type Part = string | number | Html | undefined | readonly Part[];

const entities: Readonly<Record<string, string>> = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    '"': "&quot;",
    "'": "&#39;",
};

export function escape(text: string): string {
    return text.replace(/[&<>"']/g, (character) => entities[character] ?? "");
}

/** html`<p title="${text}">${text}</p>`: what is put in is escaped, unless it is Html; undefined is nothing. */
export function html(fixed: TemplateStringsArray, ...parts: readonly Part[]): Html {
    return new Html(fixed.map((text, index) => text + render(parts[index])).join(""));
}

function render(part: Part): string {
    if (part === undefined) return "";
    if (part instanceof Html) return part.text;
    if (typeof part === "object") return part.map(render).join("");
    return escape(String(part));
}
