/**
 * Lines at the end of a stream that stay there and are painted again in place, while others are printed above them. On
 * what is no terminal there are none. Each painting is one write, and no mode of the terminal is changed: whenever the
 * process ends, and however, there is nothing to put back.
 */
export class LiveLines {
    readonly live: boolean;
    private lines: readonly string[] = [];
    /** The columns of each line as it stands there. */
    private painted: readonly number[] = [];

    constructor(private readonly stream: NodeJS.WriteStream) {
        this.live = stream.isTTY && process.env["TERM"] !== "dumb";
    }

    /** Columns that a line may have: one that fills the last one would wrap. */
    get columns(): number {
        return (this.stream.columns || 80) - 1; // 0 where a terminal does not say
    }

    /** Prints a text for good, above the lines that stay. */
    print(text: string): void {
        this.stream.write(`${this.eraser()}${text}\n${this.painting()}`);
    }

    /** Puts these lines in the place of the ones before. */
    show(lines: readonly string[]): void {
        if (!this.live) return;
        this.lines = lines;
        if (lines.length === 0 && this.painted.length === 0) return;
        this.stream.write(this.eraser() + this.painting());
    }

    private eraser(): string {
        // A window that was made narrower since has wrapped them.
        const rows = this.painted.reduce((sum, width) => sum + Math.ceil(Math.max(width, 1) / (this.columns + 1)), 0);
        this.painted = [];
        return rows === 0 ? "" : `\r\u001b[${rows}A\u001b[J`;
    }

    private painting(): string {
        // What has scrolled out at the top could not be erased.
        const room = Math.max((this.stream.rows || 24) - 2, 1);
        const over = this.lines.length - room;
        const shown = over <= 0 ? this.lines : [...this.lines.slice(0, room - 1), `  … and ${over + 1} more`];
        const fitting = shown.map((line) => clipped(line, this.columns));
        this.painted = fitting.map(columnsOf);
        return fitting.map((line) => `${line}\n`).join("");
    }
}

export function columnsOf(text: string): number {
    return Array.from(text).reduce((sum, character) => sum + widthOf(character), 0);
}

/** Wide characters take two columns. */
export function widthOf(character: string): number {
    return /[\u1100-\u115f\u2e80-\uffdc]/.test(character) ? 2 : 1;
}

function clipped(text: string, columns: number): string {
    let used = 0;
    let kept = "";
    // What moves the cursor, in a file's name or a program's words, would tear the picture.
    for (const character of text.replace(/[\s\p{Cc}]/gu, " ")) {
        used += widthOf(character);
        if (used > columns) return kept;
        kept += character;
    }
    return kept;
}
