import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { passphraseWarning } from "../../scripts/passphrase";

const salt = "encryptionsalt: v1:BNyhjbO4gE0=:v1:DrlQPepF6iUlNvHb:5vD17d==\n";
const plain = "config:\n  retune:training:\n    seed: 1\n";
const secret = "config:\n  finetune:judgeKey:\n    secure: v1:j6+FAYrEAbb3G1WA:/C5s7u3JuOTrBIcZ==\n";
const warning =
    "warning: the secrets in Pulumi.cold.yaml are encrypted with an empty passphrase, which protects nothing: `pulumi stack " +
    "change-secrets-provider passphrase` gives the stack another, for PULUMI_CONFIG_PASSPHRASE";

test.each([
    ["secrets under the passphrase that is empty by default", salt + secret, {}, warning],
    ["secrets under one that is said to be empty", secret + salt, { PULUMI_CONFIG_PASSPHRASE: "" }, warning],
    ["secrets under another", secret + salt, { PULUMI_CONFIG_PASSPHRASE: "x" }, undefined],
    ["secrets under one in a file", secret + salt, { PULUMI_CONFIG_PASSPHRASE_FILE: "/x" }, undefined],
    ["secrets under a key of a cloud", `secretsprovider: awskms://alias/x\n${secret}`, {}, undefined],
    ["no secret", salt + plain, {}, undefined],
])("a stack with %s", (_, content, environment, said) => {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), "retune-passphrase-"));
    onTestFinished(() => {
        fs.rmSync(folder, { recursive: true });
    });
    const file = path.join(folder, "Pulumi.cold.yaml");
    fs.writeFileSync(file, content);
    expect(passphraseWarning(file, environment)).toBe(said);
});
