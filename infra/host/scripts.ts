import * as fs from "node:fs";
import * as path from "node:path";
import { quote } from "../../pipeline/shell";
import { project } from "../../scripts/locations.cjs";

/** The scripts of infra/host/ in their order: each does one thing, and nothing where it is done. */
export const STEPS = [
    "wait",
    "timers",
    "driver",
    "reboot",
    "rebooted",
    "miniforge",
    "cuda-toolkit",
    "environment",
] as const;
export type Step = (typeof STEPS)[number];

/** Variables of a script, RETUNE_ and these names. */
export type Variables = Readonly<Record<string, string>>;

const read = (name: string): string => fs.readFileSync(path.join(project, "infra", "host", `${name}.sh`), "utf8");

/** What is sent to `bash -s` on the host. */
export function programOf(step: Step | "meter", variables: Variables): string {
    const settings = Object.entries(variables).map(([name, value]) => `export RETUNE_${name}=${quote(value)}\n`);
    return [`STEP="${step}"\n`, ...settings, read("lib"), read(step), "perform\n"].join("");
}
