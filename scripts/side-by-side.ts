import { columnsOf, widthOf } from "./live-lines";

/** A model's words without what would move the cursor or change the terminal. */
export function visible(text: string): string {
    return text.replace(/[^\P{Cc}\n\t]/gu, "").replaceAll("\t", "    ");
}

/**
 * Two texts that grow, in two columns of lines that are printed once: a line is there when both columns have come so far.
 * So nothing is painted again, whatever has scrolled away.
 */
export class SideBySide {
    private readonly width: number;
    private readonly columns: readonly Column[];

    constructor(
        private readonly names: readonly string[],
        columns: number,
    ) {
        this.width = Math.floor((columns - 4) / 2);
        this.columns = names.map(() => new Column(this.width));
    }

    head(): string {
        const rule = "─".repeat(this.width);
        return this.row(this.names.map((name) => name)) + this.row([rule, rule]);
    }

    /** What can be printed now that a column goes on. */
    add(index: number, text: string): string {
        this.columns[index]?.add(text);
        return this.printable();
    }

    /** The column is complete, with a last remark. */
    end(index: number, remark: string): string {
        this.columns[index]?.end(remark);
        return this.printable();
    }

    private printable(): string {
        let rows = "";
        while (this.columns.every((column) => column.hasNext()) && !this.columns.every((column) => column.isOver())) {
            rows += this.row(this.columns.map((column) => column.next()));
        }
        return rows;
    }

    private row([left = "", right = ""]: readonly string[]): string {
        const gap = " ".repeat(Math.max(0, this.width - columnsOf(left)));
        return `${left}${gap} │ ${right}`.trimEnd() + "\n";
    }
}

/** A text cut into lines of so many columns, between words where there are any. */
class Column {
    private readonly lines: string[] = [];
    private rest = "";
    private ended = false;

    constructor(private readonly width: number) {}

    add(text: string): void {
        this.rest += text;
        for (;;) {
            const end = this.rest.indexOf("\n");
            const cut = cutAt(end < 0 ? this.rest : this.rest.slice(0, end), this.width);
            if (cut !== undefined) {
                this.lines.push(this.rest.slice(0, cut).trimEnd());
                this.rest = this.rest.slice(cut).replace(/^ +/, "");
            } else if (end >= 0) {
                this.lines.push(this.rest.slice(0, end));
                this.rest = this.rest.slice(end + 1);
            } else return;
        }
    }

    end(remark: string): void {
        this.add(`${remark}\n`);
        this.ended = true;
    }

    hasNext(): boolean {
        return this.lines.length > 0 || this.ended;
    }

    isOver(): boolean {
        return this.ended && this.lines.length === 0;
    }

    next(): string {
        return this.lines.shift() ?? "";
    }
}

/** Where a line must be cut so that it fits; undefined where it fits as it is. */
function cutAt(line: string, width: number): number | undefined {
    let used = 0;
    let at = 0;
    for (const character of line) {
        used += widthOf(character);
        if (used > width) {
            const space = line.lastIndexOf(" ", at);
            return space > 0 ? space + 1 : at;
        }
        at += character.length;
    }
    return undefined;
}
