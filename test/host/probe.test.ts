import * as fs from "node:fs";
import * as path from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { check, type Facts, type Wanted } from "../../infra/host/contract";
import { project } from "../../scripts/locations.cjs";
import { Machine, withoutMachines } from "./machine";
import * as recorded from "./recorded";

const source = fs.readFileSync(path.join(project, "infra", "host", "probe.py"), "utf8");

describe.skipIf(withoutMachines !== undefined)(
    `probe${withoutMachines ? ` (skipped: ${withoutMachines})` : ""}`,
    () => {
        function machine(): Machine {
            const made = new Machine();
            onTestFinished(() => {
                made.dispose();
            });
            made.write("proc/meminfo", "MemTotal:       16179200 kB\nMemFree: 1 kB\nSwapTotal:       2097152 kB\n");
            return made;
        }

        /** As it is asked over SSH: the program on stdin, one JSON object as the answer. */
        async function probe(host: Machine, home = ".retune"): Promise<Facts> {
            host.write("tmp/probe.py", source);
            const { code, stdout, stderr } = await host.bash(`exec /usr/bin/python3 - ${home} </tmp/probe.py`, ["-s"]);
            expect([code, stderr]).toEqual([0, ""]);
            expect(stdout.split("\n")).toHaveLength(2);
            return JSON.parse(stdout) as Facts;
        }

        const wanted: Wanted = { gpu: "required", precision: "bf16", llamafactory: "0.9.5", time: 0 };
        const messages = (facts: Facts, asked: Partial<Wanted> = {}): string[] =>
            check(facts, { ...wanted, time: facts.time, ...asked }).map(({ message }) => message);

        const answer = (text: string): string => `printf '%s' '${text.replaceAll("'", "'\\''")}'`;

        /** What nvidia-smi says of one GPU to the questions that it is asked. */
        const smi = (version: string, gpu: string): string =>
            `case "$1" in *driver_version*) echo ${version} ;; *memory.total*) echo '${gpu}' ;; esac`;

        function prepared(): Machine {
            const host = machine().hasGpu().write("proc/driver/nvidia/version", recorded.OPEN_MODULE);
            host.write("run/systemd/system/.keep", "");
            host.has("nvidia-smi", smi("580.126.09", "NVIDIA L4, 23034, 8.9"));
            host.has(
                "modinfo",
                'case "$2" in version) echo 580.126.09 ;; signer) echo Canonical Ltd. Kernel Module Signing ;; esac',
            );
            host.has("mokutil", "echo SecureBoot disabled");
            host.has(
                "systemctl",
                'case "$1 $2" in "is-enabled apt"*) echo masked; exit 1 ;; "is-enabled "*) echo disabled; exit 1 ;; esac',
            );
            host.has("loginctl", 'case "$*" in *Linger*) echo yes ;; *) echo no ;; esac');
            const torch = { version: "2.8.0+cu128", cuda: "12.8", available: true, bf16: true };
            host.has(
                "python",
                `case "$2" in *vllm*) echo 0.11.0 ;; *torch*) echo '${JSON.stringify(torch)}' ;; *) echo 3.11.14 ;; esac`,
            );
            host.has("llamafactory-cli", "echo '| Welcome to LLaMA Factory, version 0.9.5                |'");
            for (const name of ["python", "llamafactory-cli"]) {
                const file = `home/a user/.retune/miniforge/envs/llama-factory/bin/${name}`;
                host.write(file, host.read(`commands/${name}`)).executable(file);
            }
            return host;
        }

        test("a prepared machine fulfils its contract", async () => {
            const facts = await probe(prepared());
            const { time, diskFreeMiB, kernel, ...others } = facts;
            expect([typeof time, diskFreeMiB > 0, kernel !== ""]).toEqual(["number", true, true]);
            expect(others).toEqual({
                release: { id: "ubuntu", version: "22.04" },
                architecture: "x86_64",
                boot: "1b4e28ba-2fa1-11d2-883f-0016d3cca427",
                home: "/home/a user/.retune",
                pciGpus: 1,
                driver: {
                    programs: "580.126.09",
                    loaded: "580.126.09",
                    installed: "580.126.09",
                    signed: true,
                    error: null,
                },
                gpus: [{ name: "NVIDIA L4", memoryMiB: 23_034, capability: "8.9" }],
                nouveau: false,
                secureBoot: false,
                environment: {
                    folder: "/home/a user/.retune/miniforge/envs/llama-factory",
                    python: "3.11.14",
                    llamafactory: "0.9.5",
                    torch: { version: "2.8.0+cu128", cuda: "12.8", available: true, bf16: true },
                    vllm: "0.11.0",
                },
                memory: { totalMiB: 15_800, swapMiB: 2048 },
                timers: {
                    "apt-daily.timer": "masked",
                    "apt-daily-upgrade.timer": "masked",
                    "unattended-upgrades.service": "disabled",
                },
                systemd: { running: true, userManager: true, linger: true, endsAtLogout: false },
                root: true,
            });
            expect(messages(facts)).toEqual([]);
        });

        test("a bare machine says null, not something else", async () => {
            const facts = await probe(machine().has("sudo", "exit 1"), "/opt/not/there");
            expect(facts).toMatchObject({
                home: "/opt/not/there",
                pciGpus: 0,
                driver: { programs: null, loaded: null, installed: null, signed: null, error: null },
                gpus: [],
                secureBoot: null,
                environment: null,
                timers: {},
                systemd: { running: false, userManager: false, linger: false, endsAtLogout: false },
                root: false,
            });
            expect(messages(facts, { gpu: "none" })).toEqual(["there is no environment with LLaMA-Factory"]);
        });

        test.each<[string, string, RegExp]>([
            [
                "upgraded under the loaded module",
                recorded.MISMATCH,
                /upgraded under the loaded kernel module 580\.126\.09: only a restart helps$/,
            ],
            ["without devices", recorded.NO_DEVICES, /nvidia-smi does not work: No devices were found$/],
            ["that does not answer", recorded.NO_DRIVER, /nvidia-smi does not work: NVIDIA-SMI has failed because/],
        ])("a driver %s", async (_, text, message) => {
            const facts = await probe(prepared().has("nvidia-smi", `${answer(text)}; exit 9`));
            expect(facts.driver.programs).toBeNull();
            expect(messages(facts)).toEqual([expect.stringMatching(message)]);
        });

        test("a driver of the proprietary kind that is too old", async () => {
            const host = prepared().write("proc/driver/nvidia/version", recorded.PROPRIETARY_MODULE);
            host.has("nvidia-smi", smi("470.256.02", "Tesla T4, 15360, 7.5")).has(
                "modinfo",
                "[[ $2 == signer ]] || echo 470.256.02",
            );
            expect(messages(await probe(host), { precision: "fp16" })).toEqual([
                "driver 470.256.02 is too old for this torch (CUDA 12.8), which needs 525.60.13",
            ]);
        });

        test("nouveau, and Secure Boot with a module that is not signed", async () => {
            const host = machine().hasGpu().has("modinfo", "[[ $2 == signer ]] || echo 580.126.09");
            host.has("mokutil", answer(recorded.SECURE_BOOT)).write("proc/modules", "nouveau 2306048 0 - Live 0x0\n");
            const facts = await probe(host);
            expect([facts.nouveau, facts.secureBoot, facts.driver.signed]).toEqual([true, true, false]);
            expect(messages(facts)[0]).toContain("nouveau has the GPU");
            host.write("proc/modules", "ext4 1 0 - Live 0x0\n");
            expect(messages(await probe(host))[0]).toContain("Secure Boot is on");
        });

        test("Secure Boot without mokutil is read from the firmware's variables", async () => {
            const host = machine();
            host.write(
                "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c",
                "\x06\x00\x00\x00\x01",
            );
            expect((await probe(host)).secureBoot).toBe(true);
        });
    },
);
