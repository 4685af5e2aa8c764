import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { cache } from "../../scripts/locations.cjs";

const MOTO = "moto[server,s3]==5.2.5";

/** moto, an S3 server for tests, in an environment of its own in the cache. */
export function moto(): string {
    const folder = path.join(cache(), "test-tools", MOTO.replace(/\W+/g, "-"));
    const program = path.join(folder, "bin", "moto_server");
    if (!fs.existsSync(program)) {
        execFileSync("python3", ["-m", "venv", "--clear", folder]);
        execFileSync(path.join(folder, "bin", "pip"), ["install", "--quiet", MOTO]);
    }
    return program;
}
