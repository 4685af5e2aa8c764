import * as fs from "node:fs";
import * as path from "node:path";
import { sha256, type JsonObject } from "../identity";
import type { TargetRun } from "../stage";

const folder = __dirname;

/** Versions of the packages of the locked environment, such as { torch: "2.8.0" }. */
export function versions<Name extends string>(...names: readonly Name[]): Record<Name, string> {
    const lock = fs.readFileSync(path.join(folder, "requirements.lock"), "utf8");
    const found = names.map((name) => {
        const version = new RegExp(`^${name}==([^ ;\\\\]+)`, "m").exec(lock)?.[1];
        if (version === undefined) throw new Error(`requirements.lock does not pin ${name}`);
        return [name, version];
    });
    return Object.fromEntries(found) as Record<Name, string>;
}

/** SHA-256 of the lock file: all packages of the environment with their digests. */
export function environmentLock(): string {
    return sha256(fs.readFileSync(path.join(folder, "requirements.lock")));
}

/** The packages besides LLaMA-Factory itself that decide what a training or an evaluation computes. */
export function trainingVersions() {
    return versions("llamafactory", "torch", "transformers", "peft", "trl", "accelerate", "tokenizers", "bitsandbytes");
}

/** The packages that ship a model, by name, with version and digest: what `model.source.package` may name. */
export function modelPackages(): ReadonlyMap<string, { readonly version: string; readonly sha256: string }> {
    const lock = fs.readFileSync(path.join(folder, "model-packages.lock"), "utf8");
    const pins = lock.matchAll(/^([\w.-]+)==(\S+) \\\n\s+--hash=sha256:([0-9a-f]{64})/gm);
    return new Map([...pins].map(([, name = "", version = "", sha256 = ""]) => [name, { version, sha256 }]));
}

/** A run of one of the programs beside this file. `threads` are OpenMP's: another number gives another rounding. */
export function llamafactoryRun(run: {
    key: string;
    kind: string;
    program: "model.py" | "train.py" | "evaluate.py" | "export.py";
    parameters: JsonObject;
    inputs: Readonly<Record<string, string>>;
    produces: readonly string[];
    threads: number;
    stoppable?: boolean;
    /** Whether it downloads from a hub. Everything else is offline, so that nothing unpinned can slip in. */
    hub?: boolean;
    stays?: boolean;
}): TargetRun {
    const { threads, hub = false, stays = false, stoppable = false, ...rest } = run;
    return {
        ...rest,
        hub,
        stays,
        stoppable,
        preload: hub ? [] : ["llamafactory.train.tuner"],
        environment: environmentOf(threads, hub),
    };
}

/** Variables of a program of LLaMA-Factory's. Only one that is to download from a hub can. */
export function environmentOf(threads: number, hub = false): Record<string, string> {
    return {
        ...(hub ? {} : { HF_HUB_OFFLINE: "1" }),
        OMP_NUM_THREADS: String(threads),
        // The order of peft's sets is in the files that it writes.
        PYTHONHASHSEED: "0",
        // Otherwise torch starts a process that imports torch again, for a compiler that is not used.
        TORCHINDUCTOR_COMPILE_THREADS: "1",
        TOKENIZERS_PARALLELISM: "false",
    };
}

/** The sources of the programs, to travel with a job. */
export function programs(program: string): Record<string, string> {
    const read = (name: string): string => fs.readFileSync(path.join(folder, "programs", name), "utf8");
    const own: Partial<Record<string, readonly string[]>> = {
        "train.py": ["preflight.py", "estimate.py"],
        "export.py": ["parity.py"],
        "serve.py": ["guard.py", "answering.py"],
        "chat.py": ["answering.py"],
    };
    const modules = ["retune_job.py", ...(own[program] ?? [])];
    return Object.fromEntries([program, ...modules].map((name) => [name, read(name)]));
}
