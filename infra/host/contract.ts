import { vllmProblem } from "../../pipeline/llamafactory/vllm";

/** What infra/host/probe.py finds out; what it cannot is null. */
export interface Facts {
    /** The host's clock, in seconds since 1970. */
    readonly time: number;
    readonly release: { readonly id: string | null; readonly version: string | null };
    readonly architecture: string;
    readonly kernel: string;
    readonly boot: string | null;
    readonly home: string;
    readonly pciGpus: number;
    readonly driver: {
        readonly programs: string | null;
        readonly loaded: string | null;
        readonly installed: string | null;
        readonly signed: boolean | null;
        readonly error: string | null;
    };
    readonly gpus: readonly { readonly name: string; readonly memoryMiB: number; readonly capability: string }[];
    readonly nouveau: boolean;
    readonly secureBoot: boolean | null;
    readonly environment: {
        readonly folder: string;
        readonly python: string | null;
        readonly llamafactory: string | null;
        readonly torch: {
            readonly version: string;
            readonly cuda: string | null;
            readonly available: boolean;
            readonly bf16: boolean;
        } | null;
        readonly vllm: string | null;
    } | null;
    readonly diskFreeMiB: number;
    readonly memory: { readonly totalMiB: number; readonly swapMiB: number };
    readonly timers: Readonly<Record<string, string>>;
    readonly systemd: {
        readonly running: boolean;
        readonly userManager: boolean;
        readonly linger: boolean;
        /** Whether logind ends what the user has started when he logs out. */
        readonly endsAtLogout: boolean;
    };
    readonly root: boolean;
}

/** What a run needs of its host. */
export interface Wanted {
    readonly gpu: "none" | "required";
    readonly precision: "fp32" | "bf16" | "fp16";
    readonly llamafactory: string;
    /** Whether a service is to answer with vLLM. */
    readonly vllm?: boolean | undefined;
    /** The client's clock when the host was asked, in seconds since 1970. */
    readonly time: number;
}

/** The scripts of infra/host/ that mend something. */
export const REPAIRS = ["timers", "driver", "environment"] as const;
export type Repair = (typeof REPAIRS)[number];

export interface Finding {
    readonly field: string;
    readonly found: string;
    readonly wanted: string;
    /** With an error the run would fail, or be worth nothing; with a warning it will do. */
    readonly severity: "error" | "warning";
    /** What it means and what to do about it. */
    readonly message: string;
    readonly repairedBy?: Repair;
}

/** The oldest driver that runs what was built with a CUDA of this major version. */
const MINIMUM_DRIVERS: Readonly<Record<string, string>> = { 13: "580", 12: "525.60.13", 11: "450.80.02" };

/** The torch of pipeline/llamafactory/requirements.lock. */
export const WHEEL = { flavour: "cu128", cuda: "12.8", architecture: "x86_64", capability: 7.0 } as const;

const BF16_CAPABILITY = 8.0;
const RELEASES = ["22.04", "24.04"];
/** Beyond it certificates are refused and times in manifests are wrong. */
const CLOCK_SECONDS = 300;
/** Below it nothing can be run; what a training takes is known once its model is there: see programs/preflight.py. */
const MINIMUM_DISK_MIB = 2048;

export function minimumDriver(cuda: string): string {
    const version = MINIMUM_DRIVERS[cuda.split(".")[0] ?? ""];
    if (version === undefined) throw new Error(`no driver is known for CUDA ${cuda}`);
    return version;
}

/** What is wrong with a host, all at once, what everything else depends on first. */
export function check(facts: Facts, wanted: Wanted): Finding[] {
    const machine = machineFindings(facts, wanted);
    const gpu = wanted.gpu === "required" ? [...driverFindings(facts), ...gpuFindings(facts, wanted)] : [];
    return [...machine, ...gpu, ...environmentFindings(facts, wanted)];
}

function machineFindings(facts: Facts, { gpu, time }: Wanted): Finding[] {
    const findings: Finding[] = [];
    if (facts.architecture !== WHEEL.architecture) {
        findings.push({
            ...error("architecture", facts.architecture, WHEEL.architecture),
            message: `the machine is ${facts.architecture}, and the locked environment is for ${WHEEL.architecture}: use an ${WHEEL.architecture} machine`,
        });
    }
    const { id, version } = facts.release;
    const release = `${id ?? "unknown"} ${version ?? ""}`.trim();
    if (id !== "ubuntu" || !RELEASES.includes(version ?? "")) {
        // Where nothing has to be installed with apt, any Linux will do.
        const severity = gpu === "required" && facts.driver.loaded === null ? "error" : "warning";
        findings.push({
            field: "release",
            found: release,
            wanted: `ubuntu ${RELEASES.join(" or ")}`,
            severity,
            message:
                severity === "error"
                    ? `the machine is ${release}: a driver is installed on Ubuntu ${RELEASES.join(" and ")} only. Install it by hand, or use one of these`
                    : `the machine is ${release}, which is not tried: Ubuntu ${RELEASES.join(" and ")} are`,
        });
    }
    const off = Math.round(facts.time - time);
    if (Math.abs(off) > CLOCK_SECONDS) {
        findings.push({
            ...error("clock", `${spell(off)} ${off > 0 ? "ahead" : "behind"}`, `within ${CLOCK_SECONDS / 60} minutes`),
            message: `the host's clock is ${spell(off)} ${off > 0 ? "ahead of" : "behind"} this machine's: \`sudo timedatectl set-ntp true\` on the one that is wrong`,
        });
    }
    if (facts.diskFreeMiB < MINIMUM_DISK_MIB) {
        findings.push({
            ...error("disk", gib(facts.diskFreeMiB), gib(MINIMUM_DISK_MIB)),
            message: `${facts.home} has ${gib(facts.diskFreeMiB)} left, wanted ${gib(MINIMUM_DISK_MIB)} or more: make room, or set target.home to a folder on a larger disk`,
        });
    }
    const on = Object.entries(facts.timers).filter(([, state]) => !/^(masked|disabled|not-found)/.test(state));
    if (gpu === "required" && on.length > 0) {
        findings.push({
            field: "timers",
            found: on.map(([unit, state]) => `${unit} ${state}`).join(", "),
            wanted: "off",
            severity: "warning",
            message: `${on.map(([unit]) => unit).join(", ")} may upgrade the driver's programs under the loaded kernel module, and then the GPU is gone until a restart`,
            repairedBy: "timers",
        });
    }
    if (facts.systemd.endsAtLogout && !facts.systemd.linger) {
        findings.push({
            field: "logout",
            found: "KillUserProcesses=yes, Linger=no",
            wanted: "runs that go on",
            severity: "warning",
            message:
                "the machine ends a user's processes when he logs out, and a run with them when the connection goes: `sudo loginctl enable-linger` with the user's name lets them go on",
        });
    }
    return findings;
}

/** The driver's parts in the order in which they depend on each other: only the first that is wrong is named. */
function driverFindings({ driver, nouveau, secureBoot, pciGpus, gpus }: Facts): Finding[] {
    const { programs, loaded, installed } = driver;
    const minimum = minimumDriver(WHEEL.cuda);
    const wrong = (found: string, message: string, repairedBy?: Repair): Finding[] => [
        { ...error("driver", found, `${minimum} or newer`), message, ...(repairedBy ? { repairedBy } : {}) },
    ];
    if (pciGpus === 0 && gpus.length === 0) {
        return [
            {
                ...error("gpu", "none", "an NVIDIA GPU"),
                message:
                    "there is no NVIDIA GPU in the machine: choose one that has, or set target.gpu to none for a small model on the CPU",
            },
        ];
    }
    if (loaded === null && nouveau) {
        return wrong("nouveau", "nouveau has the GPU, and NVIDIA's driver cannot load beside it", "driver");
    }
    if (loaded === null && installed !== null && secureBoot === true && driver.signed === false) {
        return wrong(
            `${installed}, not signed`,
            "Secure Boot is on and the installed kernel module is not signed, so the kernel refuses it: enrol its key with `sudo mokutil --import /var/lib/shim-signed/mok/MOK.der` and confirm at the console, take the signed modules of Ubuntu's archive, or turn Secure Boot off in the firmware",
        );
    }
    if (loaded === null) {
        return installed === null
            ? wrong("none", "no NVIDIA driver is installed", "driver")
            : wrong(`${installed}, not loaded`, `driver ${installed} is installed and not loaded`, "driver");
    }
    if (driver.error?.includes("Driver/library version mismatch") === true) {
        const now = installed === null || installed === loaded ? "other programs" : `programs of ${installed}`;
        return wrong(
            `kernel module ${loaded}, ${now}`,
            `the driver was upgraded under the loaded kernel module ${loaded}: only a restart helps`,
            "driver",
        );
    }
    if (programs === null) {
        const said = driver.error === null ? "" : `: ${driver.error}`;
        return wrong(
            `kernel module ${loaded}, no answer`,
            `the kernel module ${loaded} is loaded, and nvidia-smi does not work${said}`,
            "driver",
        );
    }
    if (programs !== loaded || (installed !== null && installed !== loaded)) {
        const other = programs === loaded ? `installed module ${String(installed)}` : `programs ${programs}`;
        return wrong(
            `kernel module ${loaded}, ${other}`,
            `the loaded kernel module is ${loaded}, and not of the version of the ${other}: restart the machine`,
            "driver",
        );
    }
    if (compare(loaded, minimum) < 0) {
        return wrong(
            loaded,
            `driver ${loaded} is too old for this torch (CUDA ${WHEEL.cuda}), which needs ${minimum}`,
            "driver",
        );
    }
    return [];
}

function gpuFindings({ gpus }: Facts, { precision }: Wanted): Finding[] {
    const [gpu] = gpus;
    if (gpu === undefined) return [];
    const findings: Finding[] = [];
    const capability = Number(gpu.capability);
    if (capability < WHEEL.capability) {
        findings.push({
            ...error("capability", gpu.capability, `${WHEEL.capability.toFixed(1)} or more`),
            message: `the ${gpu.name} has compute capability ${gpu.capability}, and this torch was built for ${WHEEL.capability.toFixed(1)} and more: use a newer GPU`,
        });
    } else if (precision === "bf16" && capability < BF16_CAPABILITY) {
        findings.push({
            ...error("capability", gpu.capability, `${BF16_CAPABILITY.toFixed(1)} or more`),
            message: `the ${gpu.name} has compute capability ${gpu.capability} and no bf16, which starts at ${BF16_CAPABILITY.toFixed(1)}: set training.precision to fp16, or use a newer GPU`,
        });
    }
    return findings;
}

function environmentFindings({ environment, driver }: Facts, { gpu, llamafactory, vllm }: Wanted): Finding[] {
    const wrong = (found: string, expected: string, message: string): Finding[] => [
        { ...error("environment", found, expected), message, repairedBy: "environment" },
    ];
    if (environment === null) {
        return wrong("none", `LLaMA-Factory ${llamafactory}`, "there is no environment with LLaMA-Factory");
    }
    if (environment.llamafactory !== llamafactory) {
        const found = environment.llamafactory;
        return wrong(
            found ?? "does not start",
            `LLaMA-Factory ${llamafactory}`,
            found === null
                ? `LLaMA-Factory in ${environment.folder} does not start`
                : `${environment.folder} has LLaMA-Factory ${found}, expected ${llamafactory}`,
        );
    }
    if (environment.torch === null) {
        return wrong("torch does not start", "torch", `torch in ${environment.folder} cannot be imported`);
    }
    const serving = vllm === true ? vllmFindings(environment) : [];
    if (gpu === "none") return serving;
    const { version, cuda, available } = environment.torch;
    if (cuda === null) {
        const message = `torch ${version} in ${environment.folder} was built without CUDA`;
        return [...wrong(version, `CUDA ${WHEEL.cuda}`, message), ...serving];
    }
    // Without a working driver it cannot be otherwise, and that is said already.
    if (!available && driver.programs !== null) {
        return [
            {
                ...error("cuda", "not available", "available"),
                message: `the driver works, and torch ${version} sees no GPU: \`python -c "import torch; torch.cuda.init()"\` in ${environment.folder} says why. On a machine with NVSwitch, nvidia-fabricmanager of the driver's version must be running`,
            },
            ...serving,
        ];
    }
    return serving;
}

/** No script brings it: a preparation is of what every run needs. */
function vllmFindings({ vllm, folder }: NonNullable<Facts["environment"]>): Finding[] {
    const message = vllmProblem(vllm, folder, `${folder}/bin/python -m pip install`);
    return message === undefined ? [] : [{ ...error("vllm", vllm ?? "none", "one that LLaMA-Factory takes"), message }];
}

function error(field: string, found: string, wanted: string) {
    return { field, found, wanted, severity: "error" } as const;
}

function compare(a: string, b: string): number {
    const [left, right] = [a.split(".").map(Number), b.split(".").map(Number)];
    for (let index = 0; index < Math.max(left.length, right.length); index++) {
        const difference = (left[index] ?? 0) - (right[index] ?? 0);
        if (difference !== 0) return difference;
    }
    return 0;
}

function gib(mebibytes: number): string {
    return `${(mebibytes / 1024).toFixed(1)} GiB`;
}

function spell(seconds: number): string {
    const size = Math.abs(seconds);
    return size >= 2 * 3600 ? `${Math.round(size / 3600)} hours` : `${Math.round(size / 60)} minutes`;
}
