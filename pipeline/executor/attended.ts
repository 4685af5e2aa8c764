import type { ChildProcess } from "node:child_process";
import * as readline from "node:readline";
import { isObject, type JsonObject } from "../identity";
import type { UserError } from "../user-error";

/**
 * A program on a target that works for its client alone: lines of JSON go in and come out over the connection, and it
 * ends with it. Nothing listens on the target.
 */
export class Attended {
    private readonly lines: AsyncIterator<string>;
    private stderr = "";
    private readonly closed: Promise<number | null>;

    /** `explain` says why the process ended, from its exit code and last words. */
    constructor(
        private readonly child: ChildProcess,
        private readonly explain: (code: number | null, stderr: string) => UserError,
    ) {
        if (child.stdout === null) throw new Error("an attended program is listened to");
        this.lines = readline.createInterface({ input: child.stdout })[Symbol.asyncIterator]();
        child.stderr
            ?.setEncoding("utf8")
            .on("data", (text: string) => (this.stderr = (this.stderr + text).slice(-8000)));
        child.stdin?.on("error", () => undefined); // it ended early; its exit code says why
        this.closed = new Promise((resolve) => {
            child.on("error", (error) => {
                this.stderr += error.message;
                resolve(null);
            });
            child.on("close", resolve);
        });
    }

    say(line: JsonObject): void {
        this.child.stdin?.write(`${JSON.stringify(line)}\n`);
    }

    /** The next thing that it says. Throws UserError where it has ended instead. */
    async hear(): Promise<JsonObject> {
        for (;;) {
            const next = await this.lines.next();
            if (next.done === true) throw this.explain(await this.closed, this.stderr);
            const said: unknown = JSON.parse(next.value);
            if (isObject(said)) return said;
        }
    }

    /** Hangs up, whereupon it ends. */
    async end(): Promise<void> {
        this.child.stdin?.end();
        await this.closed;
    }
}
