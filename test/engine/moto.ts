import { execFileSync, spawn, spawnSync, type ChildProcess } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { cache } from "../../scripts/locations.cjs";
import { freePort } from "../free-port";
import { eventually } from "./processes";

const MOTO = "moto[server,s3]==5.2.5";

/** An S3 on loopback, as rclone's remote "mirror:" and with AWS's own variables. It has to be ended. */
export async function startS3(): Promise<{
    readonly endpoint: string;
    readonly server: ChildProcess;
    readonly environment: Readonly<Record<string, string | undefined>>;
}> {
    const port = await freePort();
    const endpoint = `http://127.0.0.1:${port}`;
    const server = spawn(moto(), ["-H", "127.0.0.1", "-p", String(port)], { stdio: "ignore" });
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
    return { endpoint, server, environment };
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
