import { CommanderError, type Command, type OptionValues } from "commander";
import { UserError } from "../pipeline/user-error";

/** The command line itself is wrong: exit code 2. */
export class UsageError extends UserError {
    readonly usage = true;
}

/** The options, or undefined after `--help`, which has then been answered. Throws UsageError with the usage. */
export function parseOrExplain(command: Command, args: readonly string[]): OptionValues | undefined {
    command.exitOverride().configureOutput({ outputError: () => undefined });
    try {
        return command.parse([...args], { from: "user" }).opts();
    } catch (error) {
        if (!(error instanceof CommanderError)) throw error;
        if (error.exitCode === 0) return undefined;
        throw new UsageError(`${error.message.replace(/^error: /, "")}\n\n${command.helpInformation()}`);
    }
}
