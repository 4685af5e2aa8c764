import * as crypto from "node:crypto";
import { Command } from "commander";
import { machineFor } from "../pipeline/executor/executors";
import { languageOfLocale } from "../pipeline/report";
import { Store } from "../pipeline/store/store";
import { parseOrExplain } from "./arguments";
import { home } from "./locations.cjs";
import { findStack } from "./stacks";
import { attend, tunedStack } from "./tuned-stack";

/** `npm run webui`: LLaMA-Factory's own web UI on a stack's target, with its model and adapter chosen. */
export async function webui(args: readonly string[]): Promise<number> {
    const command = new Command("npm run webui --")
        .description("LLaMA-Factory's web UI on the stack's target, with the stack's model and adapter chosen")
        .option("--stack <name>", "the stack", "dev");
    const options = parseOrExplain(command, args) as { stack: string } | undefined;
    if (options === undefined) return 0;
    const stack = tunedStack(findStack(options.stack), ["tuned"]);
    const note = (text: string): void => {
        process.stderr.write(`${text}\n`);
    };
    const parameters = { ...stack.models[0], name: `retune-${stack.name}`, language: languageOfLocale() };
    const program = await attend(stack, "webui.py", parameters, note);
    // Whoever opens the page can have the target run anything.
    const user = "retune";
    const password = crypto.randomBytes(12).toString("base64url");
    program.say({ user, password });
    const port = await opened(program, note);
    const machine = await machineFor(stack.target, new Store(home()), note);
    const tunnel = await machine.tunnel(port);
    process.stdout.write(`http://127.0.0.1:${tunnel.port}  user ${user}, password ${password}\n`);
    note("Its files are gone when it ends, with Ctrl-C.");
    const interrupted = new Promise<"interrupted">((resolve) => {
        for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
            process.once(signal, () => {
                resolve("interrupted");
            });
        }
    });
    try {
        // It says nothing more; where it ends by itself, that throws.
        await Promise.race([interrupted, program.hear(), tunnel.broken]);
    } finally {
        tunnel.close();
    }
    await program.end();
    return 0;
}

async function opened(program: Awaited<ReturnType<typeof attend>>, note: (text: string) => void): Promise<number> {
    for (;;) {
        const said = await program.hear();
        if (typeof said["port"] === "number") return said["port"];
        if (typeof said["note"] === "string") note(`${said["note"]} …`);
    }
}
