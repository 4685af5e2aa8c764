import { execFileSync, spawn, spawnSync, type ChildProcess } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { cache } from "../../scripts/locations.cjs";
import { freePort } from "../free-port";
import { eventually } from "./processes";

const MOTO = "moto[server,s3]==5.2.5";

/** Of moto, which looks at the service alone. */
const IAM = "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=x";

/** An S3 on loopback, as rclone's remote "mirror:" and with AWS's own variables. It has to be ended. */
export async function startS3(): Promise<{
    readonly endpoint: string;
    readonly server: ChildProcess;
    readonly environment: Readonly<Record<string, string | undefined>>;
    /** The requests of a method so far. */
    readonly requests: (method: string) => number;
}> {
    const port = await freePort();
    const endpoint = `http://127.0.0.1:${port}`;
    const server = spawn(moto(), ["-H", "127.0.0.1", "-p", String(port)], { stdio: ["ignore", "ignore", "pipe"] });
    let log = "";
    server.stderr.setEncoding("utf8").on("data", (text: string) => (log += text));
    const requests = (method: string) => log.match(new RegExp(`"(\\x1b\\[\\d+m)?${method} /`, "g"))?.length ?? 0;
    await eventually("moto listens", () => spawnSync("curl", ["-sf", endpoint]).status === 0);
    const environment = {
        // rclone 1.60, Debian's, does not start with one of its own.
        AWS_CA_BUNDLE: undefined,
        AWS_ACCESS_KEY_ID: "test",
        AWS_SECRET_ACCESS_KEY: "test",
        RCLONE_CONFIG: "/dev/null",
        RCLONE_CONFIG_MIRROR_TYPE: "s3",
        RCLONE_CONFIG_MIRROR_PROVIDER: "Other",
        RCLONE_CONFIG_MIRROR_ENDPOINT: endpoint,
        RCLONE_CONFIG_MIRROR_ENV_AUTH: "true",
    };
    return { endpoint, server, environment, requests };
}

/** Has moto look at keys from now on, as AWS does, or at none again. */
export async function checkKeys(endpoint: string, on: boolean): Promise<void> {
    const headers = { "Content-Type": "text/plain" };
    const response = await fetch(`${endpoint}/moto-api/reset-auth`, {
        method: "POST",
        headers,
        body: on ? "0" : "inf",
    });
    if (!response.ok) throw new Error(`moto answers ${response.status}`);
}

/** The keys of a new user of moto's, who may do this and nothing else. */
export async function makeUser(endpoint: string, UserName: string, actions: readonly string[]) {
    const ask = async (Action: string, more: Record<string, string> = {}): Promise<string> => {
        const body = new URLSearchParams({ Action, UserName, Version: "2010-05-08", ...more });
        const response = await fetch(endpoint, { method: "POST", headers: { Authorization: IAM }, body });
        const text = await response.text();
        if (!response.ok) throw new Error(`${Action}: ${text}`);
        return text;
    };
    await ask("CreateUser");
    if (actions.length > 0) {
        const statement = { Effect: "Allow", Action: actions, Resource: "*" };
        const PolicyDocument = JSON.stringify({ Version: "2012-10-17", Statement: [statement] });
        await ask("PutUserPolicy", { PolicyName: "some", PolicyDocument });
    }
    const made = await ask("CreateAccessKey");
    const part = (name: string): string => new RegExp(`<${name}>(.*)</${name}>`).exec(made)?.[1] ?? "";
    return { AWS_ACCESS_KEY_ID: part("AccessKeyId"), AWS_SECRET_ACCESS_KEY: part("SecretAccessKey") };
}

/** moto's server, in an environment of its own in the cache. */
function moto(): string {
    const folder = path.join(cache(), "test-tools", MOTO.replace(/\W+/g, "-"));
    const program = path.join(folder, "bin", "moto_server");
    if (!fs.existsSync(program)) {
        execFileSync("python3", ["-m", "venv", "--clear", folder]);
        execFileSync(path.join(folder, "bin", "pip"), ["install", "--quiet", MOTO]);
    }
    return program;
}
