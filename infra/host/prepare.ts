import * as fs from "node:fs";
import * as path from "node:path";
import type { Input, Output } from "@pulumi/pulumi";
import { all, output, unsecret } from "@pulumi/pulumi/output.js";
import type { CustomResourceOptions, Resource } from "@pulumi/pulumi/resource.js";
import { sha256 } from "../../pipeline/identity";
import { project } from "../../scripts/locations.cjs";
import { minimumDriver, WHEEL, type Repair } from "./contract";
import { RemoteCommand, RemoteCopy, type Way } from "./remote";
import { programOf, STEPS, type Step, type Variables } from "./scripts";

export interface HostSettings {
    /** RETUNE_HOME of the host; relative to the user's home directory. */
    readonly home: string;
    readonly gpu: "none" | "required";
    /** Branch of the driver in Ubuntu's archive, such as 580-server-open. */
    readonly driver?: string;
    /** Version of the CUDA toolkit, such as 12.8, where something compiles on the host. */
    readonly cudaToolkit?: string;
    /** Another release of Miniforge than the one that was tried, with its digest. */
    readonly miniforge?: { readonly version: string; readonly sha256: string };
    /** Other places for the same bytes. Not for passwords: they are kept in the state as they are. */
    readonly mirrors?: {
        /** Folder of Miniforge's releases. */
        readonly miniforge?: string | undefined;
        /** Folder that holds the channel conda-forge. */
        readonly conda?: string | undefined;
        /** Index of Python packages. */
        readonly pypi?: string | undefined;
    };
}

const MINIFORGE = {
    version: "26.3.2-3",
    sha256: "848194851a98903134187fbb4ab50efe87b003e0c0f808f97644b7524a62bf2c",
    url: "https://github.com/conda-forge/miniforge/releases/download",
};
const LOCK = "pipeline/llamafactory/requirements.lock";
const PYTHON = "3.11";
/** What the environment takes, with what is downloaded for it. */
const ENVIRONMENT_MB = 20_000;
const SECONDS = 1800;
/** Which repair runs a step again: what it mends, or what that goes on to need. */
const REPAIRED_BY: Partial<Record<Step, Repair>> = {
    "timers": "timers",
    "driver": "driver",
    "reboot": "driver",
    "rebooted": "driver",
    "miniforge": "environment",
    "cuda-toolkit": "environment",
    "environment": "environment",
};
/** A restart takes minutes, and each failed attempt to connect has a longer pause after it. */
const DIAL_ERRORS = 60;

/**
 * From a bare Ubuntu machine to one that LLaMA-Factory runs on: a chain of commands, each run again exactly when its text
 * or one of its settings changes, what it depends on had an effect, or `repairs` counts one more of what it mends. Answers
 * the last one's line, once all is done.
 */
export function prepareHost(
    way: Way,
    settings: HostSettings,
    repairs: Input<Readonly<Record<Repair, number>>>,
    options: CustomResourceOptions = {},
): Output<string> {
    const reached = patient(way);
    const machine = machineOf(way);
    const files = lockFiles();
    const commands = new Map<Step, RemoteCommand>();
    let before = options.dependsOn as Resource[] | undefined;
    for (const step of STEPS) {
        const program = programOf(step, variables(step, settings, files));
        const triggers: Input<string>[] = [sha256(program), machine];
        const repair = REPAIRED_BY[step];
        if (repair !== undefined) triggers.push(output(repairs).apply((counts) => `repair ${counts[repair]}`));
        if (step === "environment") {
            const copied = { file: LOCK, remotePath: remoteLock(settings, files), triggers: [...triggers] };
            before = [
                new RemoteCopy("host-lock", { way: reached, ...copied }, { ...options, dependsOn: before ?? [] }),
            ];
        }
        // Whether to restart is what `driver` says, each time that it says something.
        const cause =
            step === "reboot" ? commands.get("driver") : step === "rebooted" ? commands.get("reboot") : undefined;
        if (cause !== undefined) triggers.push(cause.stdout);
        const args = { way: reached, program, triggers };
        const command = new RemoteCommand(`host-${step}`, args, { ...options, dependsOn: before ?? [] });
        commands.set(step, command);
        before = [command];
    }
    return all([...commands.values()].map(({ stdout }) => stdout)).apply((lines) => lines.at(-1) ?? "");
}

/** The meter of a machine that costs money while it is awake: it powers it off. See meter.sh. */
export function meter(way: Way, settings: MeterSettings): RemoteCommand {
    const { home, idleMinutes, pricePerHour, budget } = settings;
    const program = programOf("meter", {
        HOME: home,
        IDLE_MINUTES: String(idleMinutes),
        // Money is counted in seconds there: a shell knows whole numbers only.
        BUDGET_SECONDS: budget === undefined ? "" : String(Math.floor((budget / pricePerHour) * 3600)),
    });
    return new RemoteCommand("host-meter", { way, program, triggers: [sha256(program), machineOf(way)] }, {});
}

export interface MeterSettings {
    /** RETUNE_HOME of the host. */
    readonly home: string;
    /** Without a run and without a login, until it is powered off. */
    readonly idleMinutes: number;
    readonly pricePerHour: number;
    /** In the same money, for all hours that it and the stack's earlier machines were awake. */
    readonly budget: number | undefined;
}

function patient(way: Way): Way {
    if ("target" in way) return way;
    return {
        connection: output(way.connection).apply((one) => ({
            port: 22,
            perDialTimeout: 15,
            dialErrorLimit: DIAL_ERRORS,
            ...one,
        })),
    };
}

/** Another machine at the same address has to be prepared as well; the same one at another address has been. */
function machineOf(way: Way): Output<string> {
    if ("connection" in way) return unsecret(output(way.connection).apply(({ hostKey }) => sha256(hostKey)));
    return output(way.target).apply(({ hostKey, host, instance }) =>
        // A machine that was made anew has the same key.
        sha256(instance === undefined ? hostKey : `${hostKey} ${host}`),
    );
}

interface Files {
    readonly digest: string;
    readonly uvLock: string;
}

function lockFiles(): Files {
    const uvLock = fs.readFileSync(path.join(project, "scripts", "setup", "uv.lock"), "utf8");
    return { digest: sha256(fs.readFileSync(path.join(project, LOCK))), uvLock };
}

/** Where `environment` looks for it; an earlier step has made the folder. */
function remoteLock({ home }: HostSettings, { digest }: Files): string {
    return `${home}/prepare/requirements-${digest.slice(0, 16)}.lock`;
}

/** What a script reads, and no more: a setting that it does not read must not run it again. */
export function variables(step: Step, settings: HostSettings, files: Files = lockFiles()): Variables {
    const { home, gpu, mirrors = {}, miniforge = MINIFORGE } = settings;
    const common = { HOME: home };
    const wheel = { GPU: gpu, MINIMUM_DRIVER: minimumDriver(WHEEL.cuda) };
    switch (step) {
        case "wait":
            return { ...common, WAIT_SECONDS: String(SECONDS) };
        case "timers":
            return { ...common, GPU: gpu };
        case "driver":
            return { ...common, ...wheel, DRIVER: settings.driver ?? "580-server-open" };
        case "reboot":
        case "rebooted":
            return common;
        case "miniforge":
            return {
                ...common,
                MINIFORGE_VERSION: miniforge.version,
                MINIFORGE_SHA256: miniforge.sha256,
                MINIFORGE_URL: mirrors.miniforge ?? MINIFORGE.url,
                CONDA_MIRROR: mirrors.conda ?? "",
            };
        case "cuda-toolkit":
            return { ...common, CUDA_TOOLKIT: settings.cudaToolkit ?? "" };
        case "environment":
            return {
                ...common,
                ...wheel,
                FLAVOUR: WHEEL.flavour,
                PYTHON,
                LOCK_SHA256: files.digest,
                UV_VERSION: /^uv==(\S+)/.exec(files.uvLock)?.[1] ?? "",
                UV_LOCK: files.uvLock,
                INDEX: mirrors.pypi ?? "",
                ENVIRONMENT_MB: String(ENVIRONMENT_MB),
            };
    }
}
