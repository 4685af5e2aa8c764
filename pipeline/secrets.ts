import type { JsonObject } from "./identity";
import { UserError } from "./user-error";

/**
 * Secrets that a stack's configuration may hold, `pulumi config set --secret finetune:judgeKey`. Pulumi hands what is under
 * a plugin's own name to the plugin alone, and keeps it encrypted: none is among the inputs of a stage. Each with the
 * variable of the environment that is taken where the configuration has none.
 */
export const SECRETS = {
    /** For the judge, unless that names a variable of its own. */
    judgeKey: undefined,
    huggingfaceToken: "HF_TOKEN",
    /** Without these, rclone looks where AWS's own tools do. */
    s3AccessKeyId: undefined,
    s3SecretAccessKey: undefined,
} as const;

type SecretName = keyof typeof SECRETS;

/** In the memory of the plugin's process only. */
const configured = new Map<SecretName, string>();

/** Takes what Pulumi has handed over, and sees to it that no process that is started from here gets it as well. */
export function keepSecrets(configuration: JsonObject): void {
    // The engine puts the configuration, decrypted, into the environment of every plugin.
    delete process.env["PULUMI_CONFIG"];
    for (const name of Object.keys(SECRETS) as SecretName[]) {
        const value = configuration[name];
        if (typeof value === "string") configured.set(name, value);
    }
}

/** A secret of the configuration, else of the environment; undefined where neither has it. Throws UserError as `secretIn`. */
export function secretOf(name: SecretName): string | undefined {
    const variable = SECRETS[name];
    const own = configured.get(name);
    if (own !== undefined || variable === undefined) return usable(own, `finetune:${name}`);
    return secretIn(variable);
}

/**
 * The secret in a variable of the environment; undefined where there is none.
 *
 * @throws UserError where no header could carry it: whoever tried would quote it in an error.
 */
export function secretIn(variable: string): string | undefined {
    return usable(process.env[variable], variable);
}

/** Without the line break that a secret has which came from a file. */
function usable(given: string | undefined, place: string): string | undefined {
    const secret = given?.trim() ?? "";
    if (/[^ -~]/.test(secret)) {
        throw new UserError(`${place} is no key: it holds a line break or another character that no key has`);
    }
    return secret === "" ? undefined : secret;
}

/** What somebody else says, without a secret that he repeats, be it as a text of JSON or Python. */
export function concealed(words: string, secret: string): string {
    return words.replaceAll(secret, "…").replaceAll(JSON.stringify(secret).slice(1, -1), "…");
}

/** A run lives on, its environment is there for everybody of this user to read: what it needs comes over stdin. */
export function withoutSecrets(environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
    const harmless = Object.entries(environment).filter(
        ([name]) => !/TOKEN|SECRET|PASS(WORD|PHRASE)|CREDENTIAL|KEY/i.test(name),
    );
    return Object.fromEntries(harmless);
}
