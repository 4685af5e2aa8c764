import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Language } from "./data";
import { Html, html } from "./html";
import { wordsOf } from "./words";

/** Nothing is loaded and nothing runs, whatever the data has in it. `data:,` keeps browsers from asking for an icon. */
const POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";

/** A page of one file that needs nothing else, to be read, printed and sent to people. */
export function page(
    language: Language,
    { title, header, main }: { readonly title: string; readonly header: Html; readonly main: Html },
): string {
    const style = readFileSync(join(__dirname, "style.css"), "utf8");
    const words = wordsOf(language);
    const whole = html`<!doctype html>
        <html lang="${language}">
            <head>
                <meta charset="utf-8" />
                <meta http-equiv="Content-Security-Policy" content="${POLICY}" />
                <meta name="viewport" content="width=device-width, initial-scale=1" />
                <meta name="color-scheme" content="light dark" />
                <link rel="icon" href="data:," />
                <title>${title}</title>
                <style>
                    ${new Html(style)}
                </style>
            </head>
            <body>
                ${header}
                <main>${main}</main>
                <footer>
                    <p class="muted">${words.footer}</p>
                </footer>
            </body>
        </html> `;
    return whole.text;
}
