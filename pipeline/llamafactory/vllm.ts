import { spawnSync } from "node:child_process";

/** The releases that LLaMA-Factory takes, as pip is asked for them. */
const WANTED = "vllm>=0.4.3,<=0.11.0";
const [OLDEST, NEWEST] = [
    [0, 4, 3],
    [0, 11, 0],
] as const;

const ASK = `
import importlib.metadata
try:
    print(importlib.metadata.version("vllm"))
except importlib.metadata.PackageNotFoundError:
    pass
`;

/** The release of vLLM that a Python of this machine has; null where it has none. */
export function vllmIn(python: string): string | null {
    const { stdout } = spawnSync(python, ["-c", ASK], { encoding: "utf8" });
    return stdout.trim() || null;
}

/** Why the vLLM that was found in an environment will not do, and what to do; undefined where it will. */
export function vllmProblem(found: string | null, environment: string, install: string): string | undefined {
    const advice = `\`${install} "${WANTED}"\` installs it, and \`service.backend: huggingface\` does without`;
    if (found === null) return `vLLM is not installed in ${environment}: ${advice}`;
    const release = found.split(".").map((part) => parseInt(part, 10));
    if (compare(release, OLDEST) >= 0 && compare(release, NEWEST) <= 0) return undefined;
    return `vLLM ${found} is in ${environment}, and LLaMA-Factory takes ${OLDEST.join(".")} to ${NEWEST.join(".")}: ${advice}`;
}

function compare(release: readonly number[], other: readonly [number, number, number]): number {
    const differing = other.findIndex((part, index) => (release[index] ?? 0) !== part);
    return differing === -1 ? 0 : (release[differing] ?? 0) - (other[differing] ?? 0);
}
