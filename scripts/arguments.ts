import { CommanderError, type Command, type OptionValues } from "commander";
import { UserError } from "../pipeline/user-error";

/** The command line itself is wrong: exit code 2. */
export class UsageError extends UserError {
    readonly usage = true;
}

/** The options, or undefined after `--help`, which has then been answered. Throws UsageError with the usage. */
export function parseOrExplain(command: Command, args: readonly string[]): OptionValues | undefined {
    refuseTaken(command, args);
    command.exitOverride().configureOutput({ outputError: () => undefined });
    try {
        return command.parse([...args], { from: "user" }).opts();
    } catch (error) {
        if (!(error instanceof CommanderError)) throw error;
        if (error.exitCode === 0) return undefined;
        throw new UsageError(`${error.message.replace(/^error: /, "")}\n\n${command.helpInformation()}`);
    }
}

/**
 * Options that npm has taken because there was no `--` before them: `npm run gc --dry-run` would remove, `npm run up
 * --stack=mine` would bring up another stack. Throws UsageError with what to type.
 */
function refuseTaken(command: Command, args: readonly string[]): void {
    if (process.env["npm_lifecycle_event"] === undefined) return;
    const taken = command.options.flatMap(({ long, flags, required }) => {
        const value = process.env[`npm_config_${(long ?? "").slice(2).replaceAll("-", "_")}`];
        if (long === undefined || value === undefined || value === "" || args.includes(long)) return [];
        return [{ long, again: !required ? long : /^(true\s*)+$/.test(value) ? flags : `${long} ${value}` }];
    });
    if (taken.length === 0) return;
    throw new UsageError(
        `npm has taken ${taken.map(({ long }) => long).join(" and ")} for itself; options of a command come after \`--\`: ` +
            `\`${[command.name(), ...taken.map(({ again }) => again)].join(" ")}\``,
    );
}
