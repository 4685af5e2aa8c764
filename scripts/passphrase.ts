import * as fs from "node:fs";
import * as path from "node:path";

/**
 * What there is to say about a stack whose file holds secrets that everybody can read who has it: Pulumi encrypts them with
 * the passphrase, and the one of this repository's stacks is empty. Undefined where there is none, or where it is encrypted otherwise.
 */
export function passphraseWarning(stackFile: string, environment: NodeJS.ProcessEnv): string | undefined {
    const { PULUMI_CONFIG_PASSPHRASE: passphrase, PULUMI_CONFIG_PASSPHRASE_FILE: file } = environment;
    const isEmpty = passphrase === undefined ? file === undefined : passphrase === "";
    const text = fs.readFileSync(stackFile, "utf8");
    // With another provider of secrets than the passphrase there is no salt.
    if (!isEmpty || !/^\s+(- )?secure:/m.test(text) || !/^encryptionsalt:/m.test(text)) return undefined;
    return (
        `warning: the secrets in ${path.basename(stackFile)} are encrypted with an empty passphrase, which protects nothing: ` +
        "`pulumi stack change-secrets-provider passphrase` gives the stack another, for PULUMI_CONFIG_PASSPHRASE"
    );
}
