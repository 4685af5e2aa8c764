import { spawn } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { hubAddress } from "../../datasets/sources/huggingface";
import { pythonEnvironment } from "../../scripts/locations.cjs";
import { isSafe } from "../fields";
import { isObject, parseJson, type JsonObject } from "../identity";
import type { Difference, HuggingFaceSettings, Listing, Place, Seen } from "../push";
import { outputOf } from "../processes";
import { concealed, secretOf, withoutSecrets } from "../secrets";
import { UserError } from "../user-error";

/** Made by the hub with every repository; it says which files are large. */
const OWN_FILE = ".gitattributes";

/** A repository of a model on Hugging Face. It is changed by commits, so that a reader sees all of a copy or nothing of it. */
export class HuggingFacePlace implements Place {
    readonly uri: string;
    private readonly endpoint: string;

    constructor(
        private readonly settings: HuggingFaceSettings,
        private readonly cancelled: AbortSignal,
    ) {
        this.endpoint = hubAddress(settings.endpoint);
        this.uri = `${this.endpoint}/${settings.repository}`;
    }

    async look(): Promise<Seen | undefined> {
        const { absent, files, private: isPrivate, version } = await this.ask({ do: "look" });
        if (absent === true) return undefined;
        const { [OWN_FILE]: _own, ...listing } = files as Listing;
        const amiss =
            isPrivate === this.settings.private ? undefined : `is ${isPrivate === true ? "private" : "public"}`;
        return { files: listing, amiss, version: version as string };
    }

    async change(folder: string, { send, remove }: Difference, seen: Seen | undefined): Promise<void> {
        await this.ask({
            ...{ do: "change", folder, send, remove, private: this.settings.private },
            seen: seen === undefined ? null : { amiss: seen.amiss ?? null, version: seen.version ?? null },
            message: "The exported model, pushed by Retune",
        });
    }

    private async ask(request: JsonObject): Promise<JsonObject> {
        const token = secretOf("huggingfaceToken");
        if (token === undefined) {
            throw new UserError(
                `${this.uri}: a push wants a token that may write: set HF_TOKEN, or \`pulumi config set --secret finetune:huggingfaceToken\``,
            );
        }
        if (!isSafe(this.endpoint)) {
            throw new UserError(`${this.uri}: a token is sent by https only, or to this machine`);
        }
        const { repository } = this.settings;
        const said = await this.python({ ...request, endpoint: this.endpoint, repository, token });
        const answer = parseJson(said.stdout.trim().split("\n").at(-1) ?? "");
        const hidden = (words: string): string => concealed(words, token).replace(/\s+/g, " ").trim();
        if (answer === undefined) {
            const last = said.stderr.trim().split("\n").at(-1) ?? "";
            throw new UserError(`${this.uri}: huggingface_hub failed: ${hidden(last)}`);
        }
        if (isObject(answer["error"])) throw this.refusal(answer["error"], hidden);
        return answer;
    }

    private refusal({ status, said }: JsonObject, hidden: (words: string) => string): UserError {
        const words = hidden(typeof said === "string" ? said : "").replace(/\.$/, "");
        const answered = `${this.uri} refuses: HTTP ${JSON.stringify(status)}${words === "" ? "" : `, ${words}`}`;
        switch (status) {
            case 0:
                return new UserError(`${this.uri} cannot be reached (${words}); the next \`npm run up\` tries again`);
            case null:
            case undefined:
                return new UserError(`${this.uri}: ${words}`);
            case 401:
            case 403:
                return new UserError(
                    `${answered}; the token must be one that may write there (finetune:huggingfaceToken or HF_TOKEN)`,
                );
            case 402:
            case 413:
            case 507:
                return new UserError(`${answered}; make room there, or name another push.huggingface.repository`);
            case 404:
                return new UserError(`${answered}; is there such an owner, and does the token belong to it?`);
            case 412:
                return new UserError(`${answered}; somebody else has committed meanwhile: run \`npm run up\` again`);
            default:
                return new UserError(answered);
        }
    }

    /** The request goes over stdin: in arguments or environment, others could read the token. */
    private python(request: JsonObject): Promise<{ readonly stdout: string; readonly stderr: string }> {
        const python = path.join(pythonEnvironment(), "bin", "python");
        if (!fs.existsSync(python)) {
            throw new UserError(`there is no Python environment at ${pythonEnvironment()}: run \`npm run setup\``);
        }
        const child = spawn(python, [path.join(__dirname, "huggingface.py")], {
            // huggingface_hub reads the addresses that a hub answers with against this one, whatever it is called with.
            env: { ...withoutSecrets(process.env), HF_ENDPOINT: this.endpoint },
            stdio: ["pipe", "pipe", "pipe"],
            detached: true, // the terminal's Ctrl-C is the client's business
            signal: this.cancelled,
        });
        return outputOf(child, JSON.stringify(request));
    }
}
