import { describe, expect, test } from "vitest";
import { check, minimumDriver, type Facts, type Finding, type Wanted } from "../../infra/host/contract";

/** An EC2 machine with AWS's own GPU image, prepared. */
const good: Facts = {
    time: 1_000_000,
    release: { id: "ubuntu", version: "22.04" },
    architecture: "x86_64",
    kernel: "6.8.0-1044-aws",
    boot: "0b5ccf06-2ca5-4a4a-9a8c-b0e2f0fe8d3e",
    home: "/home/ubuntu/.retune",
    pciGpus: 1,
    driver: { programs: "580.126.09", loaded: "580.126.09", installed: "580.126.09", signed: true, error: null },
    gpus: [{ name: "NVIDIA L4", memoryMiB: 23_034, capability: "8.9" }],
    nouveau: false,
    secureBoot: false,
    environment: {
        folder: "/home/ubuntu/.retune/miniforge/envs/llama-factory",
        python: "3.11.14",
        llamafactory: "0.9.5",
        torch: { version: "2.8.0+cu128", cuda: "12.8", available: true, bf16: true },
        vllm: null,
    },
    diskFreeMiB: 150_000,
    memory: { totalMiB: 15_800, swapMiB: 0 },
    timers: {
        "apt-daily.timer": "masked",
        "apt-daily-upgrade.timer": "masked",
        "unattended-upgrades.service": "disabled",
    },
    systemd: { running: true, userManager: true, linger: false, endsAtLogout: false },
    root: true,
};

const wanted: Wanted = {
    gpu: "required",
    precision: "bf16",
    llamafactory: "0.9.5",
    time: 1_000_000,
};

const driver = (changes: Partial<Facts["driver"]>): Partial<Facts> => ({ driver: { ...good.driver, ...changes } });
const nothing = { programs: null, loaded: null, installed: null, signed: null, error: null };
const brief = ({ field, severity, repairedBy }: Finding) => [field, severity, ...(repairedBy ? [repairedBy] : [])];

function only(facts: Partial<Facts>, asked: Partial<Wanted> = {}): Finding {
    const findings = check({ ...good, ...facts }, { ...wanted, ...asked });
    expect(findings.map(brief)).toHaveLength(1);
    const [finding] = findings;
    if (finding === undefined) throw new Error("there is no finding");
    return finding;
}

test("a prepared host has no findings", () => {
    expect(check(good, wanted)).toEqual([]);
});

test("each CUDA names its oldest driver", () => {
    expect([minimumDriver("13.0"), minimumDriver("12.8"), minimumDriver("11.8")]).toEqual([
        "580",
        "525.60.13",
        "450.80.02",
    ]);
});

describe("driver", () => {
    test.each<[string, Partial<Facts>, string, string | undefined]>([
        ["absent", driver(nothing), "no NVIDIA driver is installed", "driver"],
        [
            "installed, not loaded",
            driver({ ...nothing, installed: "580.126.09" }),
            "driver 580.126.09 is installed and not loaded",
            "driver",
        ],
        [
            "kept out by nouveau",
            { ...driver({ ...nothing, error: "No devices were found" }), nouveau: true },
            "nouveau has the GPU, and NVIDIA's driver cannot load beside it",
            "driver",
        ],
        [
            "upgraded under the loaded module",
            driver({
                programs: null,
                installed: "580.142",
                error: "Failed to initialize NVML: Driver/library version mismatch",
            }),
            "the driver was upgraded under the loaded kernel module 580.126.09: only a restart helps",
            "driver",
        ],
        [
            "programs gone",
            driver({ programs: null }),
            "the kernel module 580.126.09 is loaded, and nvidia-smi does not work",
            "driver",
        ],
        [
            "loaded, without devices",
            driver({ programs: null, error: "No devices were found" }),
            "the kernel module 580.126.09 is loaded, and nvidia-smi does not work: No devices were found",
            "driver",
        ],
        [
            "another module on the disk",
            driver({ installed: "580.142" }),
            "the loaded kernel module is 580.126.09, and not of the version of the installed module 580.142: restart the machine",
            "driver",
        ],
        [
            "too old for the wheel",
            driver({ programs: "470.256.02", loaded: "470.256.02", installed: "470.256.02" }),
            "driver 470.256.02 is too old for this torch (CUDA 12.8), which needs 525.60.13",
            "driver",
        ],
    ])("%s", (_, facts, message, repairedBy) => {
        const finding = only(facts);
        expect(finding).toMatchObject({ field: "driver", severity: "error", wanted: "525.60.13 or newer", message });
        expect(finding.repairedBy).toBe(repairedBy);
    });

    test("an unsigned module under Secure Boot is for a person to mend", () => {
        const finding = only({
            ...driver({ ...nothing, installed: "580.126.09", signed: false }),
            secureBoot: true,
        });
        expect(finding.message).toMatch(/^Secure Boot is on and the installed kernel module is not signed/);
        expect(finding.repairedBy).toBeUndefined();
    });

    test.each(["525.60.13", "535.104.05", "580.65.06"])("%s runs the wheel", (version) => {
        expect(
            check({ ...good, ...driver({ programs: version, loaded: version, installed: version }) }, wanted),
        ).toEqual([]);
    });
});

describe("GPU", () => {
    test("none in the machine", () => {
        const finding = only({ ...driver(nothing), pciGpus: 0, gpus: [] });
        expect(finding).toMatchObject({ field: "gpu", found: "none", severity: "error" });
        expect(finding.message).toContain("set target.gpu to none");
    });

    test("too old for bf16, and fine for fp16", () => {
        const t4 = { gpus: [{ name: "Tesla T4", memoryMiB: 15_360, capability: "7.5" }] };
        expect(only(t4)).toMatchObject({ field: "capability", found: "7.5", wanted: "8.0 or more" });
        expect(check({ ...good, ...t4 }, { ...wanted, precision: "fp16" })).toEqual([]);
    });

    test("too old for this torch", () => {
        const finding = only({ gpus: [{ name: "Tesla P100", memoryMiB: 16_384, capability: "6.0" }] });
        expect(finding).toMatchObject({ field: "capability", found: "6.0", wanted: "7.0 or more" });
    });
});

describe("machine", () => {
    test("ARM", () => {
        expect(only({ architecture: "aarch64" }).message).toBe(
            "the machine is aarch64, and the locked environment is for x86_64: use an x86_64 machine",
        );
    });

    test.each([
        ["ubuntu", "20.04"],
        ["debian", "12"],
        [null, null],
    ])("%s %s is warned of where the driver is there, and refused where it must be installed", (id, version) => {
        const release = { id, version };
        expect(brief(only({ release }))).toEqual(["release", "warning"]);
        const both = check({ ...good, release, ...driver(nothing) }, wanted);
        expect(both.map(brief)).toEqual([
            ["release", "error"],
            ["driver", "error", "driver"],
        ]);
    });

    test("Ubuntu 24.04 is as good", () => {
        expect(check({ ...good, release: { id: "ubuntu", version: "24.04" } }, wanted)).toEqual([]);
    });

    test("disk too small", () => {
        const finding = only({ diskFreeMiB: 1024 });
        expect(finding).toMatchObject({ field: "disk", found: "1.0 GiB", wanted: "2.0 GiB", severity: "error" });
        expect(finding.message).toBe(
            `${good.home} has 1.0 GiB left, wanted 2.0 GiB or more: make room, or set target.home to a folder on a larger disk`,
        );
    });

    test.each([
        [7 * 3600, "7 hours ahead of"],
        [-600, "10 minutes behind"],
    ])("a clock that is off by %d seconds", (offset, words) => {
        expect(only({ time: wanted.time + offset }).message).toContain(`the host's clock is ${words} this machine's`);
    });

    test("a clock that is off by less than five minutes will do", () => {
        expect(check({ ...good, time: wanted.time - 299 }, wanted)).toEqual([]);
    });

    test("a run that would end with its connection", () => {
        const systemd = { ...good.systemd, endsAtLogout: true };
        const finding = only({ systemd });
        expect(brief(finding)).toEqual(["logout", "warning"]);
        expect(finding.message).toBe(
            "the machine ends a user's processes when he logs out, and a run with them when the connection goes: `sudo loginctl enable-linger` with the user's name lets them go on",
        );
        expect(check({ ...good, systemd: { ...systemd, linger: true } }, wanted)).toEqual([]);
    });

    test("timers that are on", () => {
        const finding = only({ timers: { ...good.timers, "apt-daily-upgrade.timer": "enabled" } });
        expect(brief(finding)).toEqual(["timers", "warning", "timers"]);
        expect(finding.found).toBe("apt-daily-upgrade.timer enabled");
    });
});

describe("environment", () => {
    const environment = good.environment;
    if (environment === null) throw new Error("the good host has one");
    const torch = { version: "2.8.0+cu128", cuda: "12.8", available: true, bf16: true };

    test.each<[string, Facts["environment"], string]>([
        ["none", null, "there is no environment with LLaMA-Factory"],
        ["another version", { ...environment, llamafactory: "0.9.4" }, "has LLaMA-Factory 0.9.4, expected 0.9.5"],
        [
            "one that does not start",
            { ...environment, llamafactory: null },
            "LLaMA-Factory in /home/ubuntu/.retune/miniforge/envs/llama-factory does not start",
        ],
        ["torch that does not start", { ...environment, torch: null }, "cannot be imported"],
        [
            "torch without CUDA",
            { ...environment, torch: { ...torch, version: "2.8.0+cpu", cuda: null, available: false } },
            "torch 2.8.0+cpu in /home/ubuntu/.retune/miniforge/envs/llama-factory was built without CUDA",
        ],
    ])("%s is made again", (_, found, message) => {
        const finding = only({ environment: found });
        expect(brief(finding)).toEqual(["environment", "error", "environment"]);
        expect(finding.message).toContain(message);
    });

    test("torch that sees no GPU beside a driver that works is for a person", () => {
        const finding = only({ environment: { ...environment, torch: { ...torch, available: false } } });
        expect(brief(finding)).toEqual(["cuda", "error"]);
        expect(finding.message).toContain("nvidia-fabricmanager");
    });
});

describe("vLLM, where a service is to answer with it,", () => {
    const folder = "/home/ubuntu/.retune/miniforge/envs/llama-factory";
    const advice = `\`${folder}/bin/python -m pip install "vllm>=0.4.3,<=0.11.0"\` installs it, and \`service.backend: huggingface\` does without`;

    test.each([
        [null, `vLLM is not installed in ${folder}: ${advice}`],
        ["0.4.2", `vLLM 0.4.2 is in ${folder}, and LLaMA-Factory takes 0.4.3 to 0.11.0: ${advice}`],
        ["0.11.1", `vLLM 0.11.1 is in ${folder}, and LLaMA-Factory takes 0.4.3 to 0.11.0: ${advice}`],
    ])("is missing when it is %s", (vllm, message) => {
        const environment = good.environment && { ...good.environment, vllm };
        const finding = only({ environment }, { vllm: true });
        expect(brief(finding)).toEqual(["vllm", "error"]);
        expect(finding.message).toBe(message);
        expect(check({ ...good, environment }, wanted)).toEqual([]);
    });

    test.each(["0.4.3", "0.10.2", "0.11.0", "0.11.0+cu128"])("is there when it is %s", (vllm) => {
        const environment = good.environment && { ...good.environment, vllm };
        expect(check({ ...good, environment }, { ...wanted, vllm: true })).toEqual([]);
    });
});

test("a host for the CPU needs no driver, no GPU and no timers off", () => {
    const facts: Facts = {
        ...good,
        ...driver(nothing),
        pciGpus: 0,
        gpus: [],
        timers: { "apt-daily.timer": "enabled" },
        environment: good.environment && {
            ...good.environment,
            torch: { version: "2.8.0+cpu", cuda: null, available: false, bf16: false },
        },
    };
    expect(check(facts, { ...wanted, gpu: "none" })).toEqual([]);
});

test("everything that is wrong is said at once, what the rest depends on first", () => {
    const facts: Facts = {
        ...good,
        ...driver(nothing),
        architecture: "aarch64",
        release: { id: "debian", version: "12" },
        time: wanted.time + 86_400,
        diskFreeMiB: 1,
        timers: { "apt-daily.timer": "enabled" },
        gpus: [],
        environment: null,
    };
    expect(check(facts, wanted).map(({ field }) => field)).toEqual([
        "architecture",
        "release",
        "clock",
        "disk",
        "timers",
        "driver",
        "environment",
    ]);
});
