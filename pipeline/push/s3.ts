import { spawn } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { parseJson } from "../identity";
import { outputOf } from "../processes";
import type { Difference, Place, S3Settings, Seen } from "../push";
import { failureOf } from "../rclone";
import { secretOf } from "../secrets";
import { UserError } from "../user-error";

/** rclone's exit code for a directory that is not there: of S3, a bucket. */
const NO_BUCKET = 3;
/** What is sent last: who has it, and finds what it lists, has the whole copy. */
const LAST = "SHA256SUMS";
/** As variables, so that those of the user's own environment count. */
const LIMITS = {
    RCLONE_RETRIES: "2",
    RCLONE_LOW_LEVEL_RETRIES: "3",
    RCLONE_CONTIMEOUT: "15s",
    RCLONE_TIMEOUT: "60s",
};

/** A folder of a bucket, or of another store that speaks S3's protocol, through rclone. */
export class S3Place implements Place {
    readonly uri: string;
    private readonly remote: string;

    constructor(
        private readonly settings: S3Settings,
        private readonly cancelled: AbortSignal,
    ) {
        const { bucket, prefix, endpoint } = settings;
        const place = [bucket, ...(prefix === undefined ? [] : [prefix])].join("/");
        this.remote = `push:${place}`;
        this.uri = endpoint === undefined ? `s3://${place}` : `${endpoint.replace(/\/+$/, "")}/${place}`;
    }

    async look(): Promise<Seen | undefined> {
        const listed = await this.rclone(["lsjson", "--recursive", "--hash", "--files-only", this.remote]);
        if (listed === undefined) return undefined;
        const { entries } = parseJson(`{"entries":${listed}}`) as unknown as {
            readonly entries: readonly { Path: string; Size: number; Hashes?: { md5?: string } }[];
        };
        const files = entries.map(({ Path, Size, Hashes }) => {
            // Of what another program has sent in parts, S3 knows no digest.
            return [Path, Hashes?.md5 ? `md5 ${Hashes.md5}` : `size ${Size}`] as const;
        });
        return { files: Object.fromEntries(files) };
    }

    async change(folder: string, { send, remove }: Difference, seen: Seen | undefined): Promise<void> {
        if (seen === undefined) {
            throw new UserError(
                `${this.uri}: there is no bucket ${this.settings.bucket}: make it, or correct push.s3.bucket`,
            );
        }
        for (const files of [send.filter((one) => one !== LAST), send.filter((one) => one === LAST)]) {
            if (files.length === 0) continue;
            const chosen = ["--files-from-raw", "-", "--ignore-times", "--no-traverse"];
            await this.rclone(["copy", folder, this.remote, ...chosen], files.join("\n"));
        }
        if (remove.length > 0) await this.rclone(["delete", this.remote, "--files-from-raw", "-"], remove.join("\n"));
    }

    /** What rclone printed; undefined where there is no such bucket. */
    private async rclone(args: readonly string[], input = ""): Promise<string | undefined> {
        const keys = keysFile();
        try {
            const child = spawn("rclone", args, {
                env: this.environment(keys),
                stdio: ["pipe", "pipe", "pipe"],
                detached: true, // the terminal's Ctrl-C is the client's business
                signal: this.cancelled,
            });
            const { code, stdout, stderr } = await outputOf(child, input).catch((error: unknown) => {
                if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
                throw new UserError("push.s3 wants rclone, which is not on PATH: https://rclone.org/install");
            });
            if (code === 0) return stdout;
            if (code === NO_BUCKET) return undefined;
            throw this.refusal(stderr);
        } finally {
            if (keys !== undefined) fs.rmSync(path.dirname(keys), { recursive: true, force: true });
        }
    }

    /** A remote in variables, which rclone reads as well, but for the keys: others could read them there. */
    private environment(keys: string | undefined): NodeJS.ProcessEnv {
        const { region, endpoint } = this.settings;
        const { AWS_REGION, AWS_DEFAULT_REGION } = process.env;
        return {
            ...LIMITS,
            ...process.env,
            HF_TOKEN: undefined,
            RCLONE_CONFIG: keys ?? "/dev/null",
            RCLONE_CONFIG_PUSH_TYPE: "s3",
            RCLONE_CONFIG_PUSH_PROVIDER: endpoint === undefined ? "AWS" : "Other",
            RCLONE_CONFIG_PUSH_ENDPOINT: endpoint,
            RCLONE_CONFIG_PUSH_REGION: region ?? AWS_REGION ?? AWS_DEFAULT_REGION,
            // A bucket with a misspelt name is a mistake, not to be made.
            RCLONE_CONFIG_PUSH_NO_CHECK_BUCKET: "true",
            RCLONE_CONFIG_PUSH_ENV_AUTH: keys === undefined ? "true" : undefined,
        };
    }

    private refusal(stderr: string): UserError {
        const said = failureOf(stderr);
        if (/connection refused|no such host|timeout|timed out/i.test(said)) {
            return new UserError(`${this.uri} cannot be reached (${said}); the next \`npm run up\` tries again`);
        }
        const advice = /AccessDenied|Forbidden|InvalidAccessKeyId|SignatureDoesNotMatch|NoCredential/i.test(said)
            ? "; the keys must be ones that may list, read, write and delete there (finetune:s3AccessKeyId and finetune:s3SecretAccessKey, or what AWS's own tools take)"
            : "";
        return new UserError(`${this.uri} refuses: ${said}${advice}`);
    }
}

/** A file for rclone with the stack's own keys, in a folder of its own that is to be removed; undefined where there are none. */
function keysFile(): string | undefined {
    const [id, key] = [secretOf("s3AccessKeyId"), secretOf("s3SecretAccessKey")];
    if (id === undefined || key === undefined) return undefined;
    for (const [name, value] of Object.entries({ s3AccessKeyId: id, s3SecretAccessKey: key })) {
        // Anything else would mean something to the file's format.
        if (/^[!#-_a-~][!-_a-~]*$/.test(value)) continue;
        throw new UserError(`finetune:${name} is no key: it holds white space, a quote or a letter that no key has`);
    }
    const memory = process.env["XDG_RUNTIME_DIR"];
    const base = memory !== undefined && fs.existsSync(memory) ? memory : os.tmpdir();
    const file = path.join(fs.mkdtempSync(path.join(base, "retune-push-")), "rclone.conf");
    fs.writeFileSync(file, `[push]\naccess_key_id = ${id}\nsecret_access_key = ${key}\n`, { mode: 0o600 });
    return file;
}
