import * as readline from "node:readline";
import { Writable } from "node:stream";

/**
 * What somebody types at this process's terminal, line by line: with what was typed before at the up key, until Ctrl-D,
 * or Ctrl-C at the prompt. What comes between two prompts, typed or pasted, is kept for the next ones. Only at a prompt
 * is the terminal another one than it was, so that it is so whatever happens in between.
 */
export class TypedLines implements AsyncIterable<string> {
    private readonly reader: readline.Interface;
    private readonly ahead: string[] = [];
    private give: ((line: string | undefined) => void) | undefined;
    private over = false;

    constructor() {
        this.reader = readline.createInterface({
            input: process.stdin,
            output: new Echo(() => this.give !== undefined),
            terminal: true,
            prompt: "> ",
            removeHistoryDuplicates: true,
        });
        process.stdin.setRawMode(false);
        this.reader.on("line", (line) => {
            if (this.give === undefined) this.ahead.push(line);
            else this.answer(line);
        });
        this.reader.on("SIGINT", () => {
            this.reader.close();
        });
        this.reader.on("close", () => {
            this.over = true;
            if (this.give === undefined) return;
            process.stdout.write("\n");
            this.answer(undefined);
        });
    }

    async *[Symbol.asyncIterator](): AsyncGenerator<string, void, undefined> {
        try {
            for (let line = await this.next(); line !== undefined; line = await this.next()) yield line;
        } finally {
            this.reader.close();
        }
    }

    /** What was typed ahead is no line any more, but at the up key. Answers how many lines it was. */
    forget(): number {
        return this.ahead.splice(0).length;
    }

    private next(): Promise<string | undefined> {
        const line = this.ahead.shift();
        if (line !== undefined) {
            process.stdout.write(`\r\u001b[J> ${line}\n`);
            return Promise.resolve(line);
        }
        if (this.over) return Promise.resolve(undefined);
        return new Promise((resolve) => {
            // Half a line that came with the last one: written at the prompt, where it is seen.
            const half = this.reader.line;
            if (half !== "") this.reader.write(null, { ctrl: true, name: "u" });
            this.give = resolve;
            process.stdin.setRawMode(true);
            this.reader.prompt();
            if (half !== "") this.reader.write(half);
        });
    }

    private answer(line: string | undefined): void {
        process.stdin.setRawMode(false);
        this.give?.(line);
        this.give = undefined;
    }
}

/** The terminal, for what is typed at a prompt: between two of them it shows by itself what is typed. */
class Echo extends Writable {
    constructor(atPrompt: () => boolean) {
        super({
            decodeStrings: false,
            write: (text, _encoding, done) => {
                if (atPrompt()) process.stdout.write(text as string);
                done();
            },
        });
        process.stdout.on("resize", () => this.emit("resize"));
    }

    get columns(): number {
        return process.stdout.columns;
    }
}
