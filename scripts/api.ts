import * as fs from "node:fs";
import * as path from "node:path";
import { Command } from "commander";
import { z } from "zod";
import { targetSchema } from "../infra/target";
import { machineFor } from "../pipeline/executor/executors";
import { Store } from "../pipeline/store/store";
import { UserError } from "../pipeline/user-error";
import { parseOrExplain } from "./arguments";
import { home } from "./locations.cjs";
import { findStack } from "./stacks";

/** `npm run api`: how to reach a stack's service from this machine; that of another machine through a tunnel. */
export async function api(args: readonly string[]): Promise<number> {
    const command = new Command("npm run api --")
        .description("address and key of a stack's service; on a remote target through a tunnel, until Ctrl-C")
        .option("--stack <name>", "the stack", "dev");
    const options = parseOrExplain(command, args) as { stack: string } | undefined;
    if (options === undefined) return 0;
    const { stack, stages } = findStack(options.stack);
    const service = stages.find(({ type }) => type === "finetune:pipeline:Service");
    if (service === undefined)
        throw new UserError(
            `stack ${stack} has no service: set retune:service: { enabled: true }, then \`npm run up -- --stack ${stack}\``,
        );
    const { target, port } = z.object({ target: targetSchema, port: z.number() }).parse(service.inputs);
    const machine = await machineFor(target, new Store(home()), (text) => process.stderr.write(`${text}\n`));
    const status = await machine.service(port, true);
    if (status.state !== "up" || status.active === null) {
        const why = "reason" in status && status.reason !== null ? `: ${status.reason}` : "";
        const again = `\`npm run refresh -- --stack ${stack}\`, then \`npm run up -- --stack ${stack}\` bring it back`;
        throw new UserError(`the service of stack ${stack} does not serve${why}; ${again}`);
    }
    const tunnel = await machine.tunnel(port);
    const own = path.join(home(), "services", String(port), "key");
    const file = target.type === "ssh" ? path.join(home(), "services", `${target.host}-${port}.key`) : own;
    if (target.type === "ssh") {
        fs.mkdirSync(path.dirname(file), { recursive: true, mode: 0o700 });
        fs.rmSync(file, { force: true });
        fs.writeFileSync(file, await machine.serviceKey(port), { mode: 0o600 });
    }
    process.stdout.write(`http://127.0.0.1:${tunnel.port}/v1  key in ${file}\n`);
    if (target.type === "local") return 0;
    process.stderr.write("Ctrl-C ends the tunnel.\n");
    const interrupted = new Promise<void>((resolve) => {
        for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const)
            process.once(signal, () => {
                resolve();
            });
    });
    try {
        await Promise.race([interrupted, tunnel.broken]);
    } finally {
        tunnel.close();
        fs.rmSync(file, { force: true });
    }
    return 0;
}
