import * as readline from "node:readline";
import { Command, Option } from "commander";
import type { Attended } from "../pipeline/executor/attended";
import type { JsonObject } from "../pipeline/identity";
import { parseOrExplain, UsageError } from "./arguments";
import { SideBySide, visible } from "./side-by-side";
import { findStack } from "./stacks";
import { attend, MODELS, tunedStack, type AskedModel, type ModelName } from "./tuned-stack";
import { TypedLines } from "./typed-lines";

/** Columns from which two answers stand side by side. */
const WIDE = 60;
/** Milliseconds within which the same Ctrl-C may arrive again: npm passes on what the terminal has already sent. */
const ECHO = 1000;

interface Message {
    readonly role: "user" | "assistant";
    readonly content: string;
}

/** `npm run chat`: talk to a stack's model, where the stack runs. */
export async function chat(args: readonly string[]): Promise<number> {
    const model = (flag: string, what: string) => new Option(flag, what).choices(MODELS);
    const command = new Command("npm run chat --")
        .description("talk to the model of a stack, on its target")
        .option("--stack <name>", "the stack", "dev")
        .addOption(
            model(
                "--model <model>",
                "base, the last one that was accepted and exported (incumbent), or the newest one (tuned)",
            ).default("tuned"),
        )
        .addOption(model("--compare [model]", "a second model, side by side").preset("base"))
        .option("--max-tokens <number>", "of an answer", "512")
        .option("--temperature <number>", "0 gives the same answer every time", "0")
        .option("--plain", "put questions as they are, and not as the rows of the data set are", false);
    const options = parseOrExplain(command, args) as
        | {
              stack: string;
              model: ModelName;
              compare?: ModelName;
              maxTokens: string;
              temperature: string;
              plain: boolean;
          }
        | undefined;
    if (options === undefined) return 0;
    const maxTokens = Number(options.maxTokens);
    if (!Number.isInteger(maxTokens) || maxTokens < 1)
        throw new UsageError(`--max-tokens wants a whole number from 1, got ${options.maxTokens}`);
    const temperature = Number(options.temperature);
    if (!(temperature >= 0)) throw new UsageError(`--temperature wants a number from 0, got ${options.temperature}`);
    const names = [...new Set([options.compare, options.model].filter((one) => one !== undefined))];

    const stack = tunedStack(findStack(options.stack), names);
    const models = stack.models.map((one) => (options.plain ? { ...one, instruction: "" } : one));
    const note = (text: string): void => {
        process.stderr.write(`${text}\n`);
    };
    const program = await attend(stack, "chat.py", { models }, note);
    await ready(program, note);
    note(`${names.join(" beside ")} of stack ${stack.name}, on ${stack.place}.`);
    for (const line of howPut(models)) note(line);
    note("/clear begins anew, /exit or Ctrl-D ends, Ctrl-C ends an answer.");
    const conversation = new Conversation(program, models, { maxTokens, temperature });
    const typed = process.stdin.isTTY && process.stdout.isTTY ? new TypedLines() : undefined;
    for await (const line of typed ?? readline.createInterface({ input: process.stdin })) {
        const question = line.trim();
        if (question === "") continue;
        if (question === "/exit") break;
        if (question === "/clear") {
            conversation.clear();
            continue;
        }
        const { stopped } = await conversation.ask(question);
        const unasked = stopped ? (typed?.forget() ?? 0) : 0;
        if (unasked > 0) note(`(typed meanwhile and not asked: ${unasked}, at the up key)`);
    }
    await program.end();
    return 0;
}

/** Passes its notes on until it can be asked. */
async function ready(program: Attended, note: (text: string) => void): Promise<void> {
    for (;;) {
        const said = await program.hear();
        if (said["ready"] === true) return;
        if (typeof said["note"] === "string") note(`${said["note"]} …`);
    }
}

/** What is put before a question, where anything is. */
function howPut(models: readonly AskedModel[]): string[] {
    const instructions = new Set(models.map(({ instruction }) => instruction));
    const [same] = instructions;
    if (instructions.size === 1) return same ? [`Each question is put as the rows of the data set are: ${same}`] : [];
    return models.map(({ name, instruction }) =>
        instruction === ""
            ? `Each question is put to the ${name} model as it is.`
            : `Each question is put to the ${name} model as the rows of its data set are: ${instruction}`,
    );
}

class Conversation {
    private readonly messages = new Map<ModelName, Message[]>();

    constructor(
        private readonly program: Attended,
        private readonly models: readonly AskedModel[],
        private readonly options: { readonly maxTokens: number; readonly temperature: number },
    ) {}

    clear(): void {
        this.messages.clear();
    }

    /**
     * Shows the answers as they come. Ctrl-C ends the one that is being given, which counts, and the others are not asked;
     * then it was `stopped`.
     */
    async ask(question: string): Promise<{ readonly stopped: boolean }> {
        let interrupted = 0;
        const interrupt = (): void => {
            if (Date.now() - interrupted < ECHO) return;
            interrupted = Date.now();
            this.program.say({ stop: true });
        };
        process.on("SIGINT", interrupt);
        const columns = process.stdout.isTTY && this.models.length === 2 ? process.stdout.columns || 80 : 0;
        const page =
            columns >= WIDE
                ? new SideBySide(
                      this.models.map(({ name }) => name),
                      columns,
                  )
                : undefined;
        try {
            if (page !== undefined) process.stdout.write(page.head());
            for (const [index, model] of this.models.entries()) {
                if (interrupted > 0) {
                    process.stdout.write(page?.end(index, "") ?? "");
                    continue;
                }
                if (page === undefined && this.models.length > 1) process.stdout.write(`[${model.name}] `);
                const show = (text: string): void => {
                    process.stdout.write(page === undefined ? visible(text) : page.add(index, visible(text)));
                };
                const end = await this.answer(model, question, show);
                process.stdout.write(page === undefined ? `${end}\n` : page.end(index, end));
            }
        } finally {
            process.off("SIGINT", interrupt);
        }
        return { stopped: interrupted > 0 };
    }

    /** Answers how it ended, where there is something to say about that. */
    private async answer(
        { name, instruction }: AskedModel,
        question: string,
        show: (text: string) => void,
    ): Promise<string> {
        const before = this.messages.get(name) ?? [];
        const put = instruction === "" ? question : `${instruction}\n${question}`;
        const messages: Message[] = [...before, { role: "user", content: put }];
        this.program.say({ ask: name, messages: messages as unknown as JsonObject[], ...this.options });
        let content = "";
        for (;;) {
            const said = await this.program.hear();
            if (typeof said["text"] === "string") {
                // A model's answer begins with an empty line more often than not.
                const text = content === "" ? said["text"].trimStart() : said["text"];
                content += text;
                show(text);
            } else if (typeof said["error"] === "string") {
                return `(${said["error"]}; /clear begins anew)`;
            } else if (typeof said["end"] === "string") {
                this.messages.set(name, [...messages, { role: "assistant", content }]);
                return { stop: "", length: " … (--max-tokens)", stopped: " … (stopped)" }[said["end"]] ?? "";
            }
        }
    }
}
