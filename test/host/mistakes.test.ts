import * as fs from "node:fs";
import * as net from "node:net";
import * as os from "node:os";
import * as path from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { targetSchema, type SshTarget } from "../../infra/target";
import { SshExecutor } from "../../pipeline/executor/ssh";
import type { JsonObject } from "../../pipeline/identity";
import { HostLifecycle } from "../../pipeline/provider/host";
import { Store } from "../../pipeline/store/store";
import * as recorded from "./recorded";
import { describeOverSsh } from "./over-ssh";
import { makeKey, Sshd } from "./sshd";

const user = os.userInfo().username;

describeOverSsh("a way to the host that is none", () => {
    let sshd: Sshd;
    let folder: string;
    let store: Store;

    beforeAll(async () => {
        sshd = await Sshd.start();
        folder = fs.mkdtempSync(path.join(os.tmpdir(), "retune-mistakes-"));
        store = new Store(path.join(folder, "home"));
    });
    afterAll(async () => {
        await sshd.dispose();
        fs.rmSync(folder, { recursive: true, force: true });
    });

    /** What is said when the host is asked for the first time, and after how many seconds. */
    async function problem(changes: Partial<SshTarget>): Promise<{ said: string; seconds: number }> {
        const target = targetSchema.parse({ ...sshd.target, ...changes }) as SshTarget;
        const since = Date.now();
        const said = await new SshExecutor(target, store, () => undefined).missing([]).then(() => "nothing", String);
        return { said, seconds: (Date.now() - since) / 1000 };
    }

    test("nobody listens at the address", async () => {
        const server = net.createServer();
        await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
        const { port } = server.address() as net.AddressInfo;
        await new Promise((resolve) => server.close(resolve));
        expect((await problem({ port })).said).toBe(
            `UserError: ${user}@127.0.0.1 cannot be reached: connect to host 127.0.0.1 port ${port}: Connection refused`,
        );
    });

    test("an address that never answers is given up within a minute", async () => {
        const silent = net.createServer();
        await new Promise<void>((resolve) => silent.listen(0, "127.0.0.1", resolve));
        const { port } = silent.address() as net.AddressInfo;
        const { said, seconds } = await problem({ port });
        silent.close();
        expect(said).toMatch(
            /^UserError: \w+@127\.0\.0\.1 cannot be reached: (Connection timed out during banner exchange|Connection to 127\.0\.0\.1 port \d+ timed out)$/,
        );
        expect(seconds).toBeLessThan(60);
    });

    test("a name that is none", async () => {
        const { said } = await problem({ host: "retune.invalid" });
        expect(said).toMatch(
            /^UserError: \w+@retune\.invalid cannot be reached: Could not resolve hostname retune\.invalid: /,
        );
    });

    test("a key that the host does not know", async () => {
        const identity = path.join(folder, "stranger");
        makeKey(identity);
        expect((await problem({ identity })).said).toBe(
            `UserError: 127.0.0.1 does not let ${user} in with a key: put your public key into its ~/.ssh/authorized_keys, or name its private key in target.identity`,
        );
    });

    test("a host that asks for a password is not waited for", async () => {
        const settings = ["PubkeyAuthentication no", "PasswordAuthentication yes", "PermitRootLogin yes"];
        const asking = await Sshd.start({ settings });
        try {
            const { port, hostKey } = asking;
            const { said, seconds } = await problem({ port, hostKey });
            expect(said).toBe(
                `UserError: 127.0.0.1 does not let ${user} in with a key: it wants password, and Retune never types one: allow keys there`,
            );
            expect(seconds).toBeLessThan(10);
        } finally {
            await asking.dispose();
        }
    });

    test.each(["ed25519", "rsa"] as const)("another host key than the pinned one, of kind %s", async (kind) => {
        const hostKey = makeKey(path.join(folder, `other-${kind}`), kind);
        const { said } = await problem({ hostKey });
        expect(said).toMatch(
            kind === "rsa"
                ? /^UserError: 127\.0\.0\.1 has no ssh-rsa key as target\.hostKey says; it has ssh-ed25519$/
                : /^UserError: 127\.0\.0\.1 is not the machine that target\.hostKey names: it has SHA256:\S{43}, expected SHA256:\S{43}; nothing was sent to it\. Where the machine was set up anew, put its new key into target\.hostKey$/,
        );
    });

    test("nothing of it was left at the host", () => {
        expect(fs.existsSync(sshd.at())).toBe(false);
    });
});

const root = process.getuid?.() === 0;

// What has hardware behind it is bound over in the sshd's namespace; some commands, the clock and the architecture are
// stand-ins. The way there, what looks and what judges are the real ones.
describe.skipIf(!root)(`a machine that will not do${root ? "" : " (skipped: wants root)"}`, () => {
    describeOverSsh("over SSH", () => {
        let folder: string;
        let sshd: Sshd;

        beforeAll(async () => {
            folder = fs.mkdtempSync(path.join(os.tmpdir(), "retune-mistakes-"));
            for (const name of ["bin", "site", "devices", "driver", "environment/bin"])
                fs.mkdirSync(path.join(folder, name), { recursive: true });
            good();
            const over = {
                devices: "/sys/bus/pci/devices",
                driver: "/proc/driver",
                release: "/etc/os-release",
            };
            const mounts = Object.entries(over).map(([name, place]) => `mount --bind ${folder}/${name} ${place}`);
            sshd = await Sshd.start({
                environment: {
                    PATH: `${folder}/bin:/usr/bin:/bin`,
                    PYTHONPATH: `${folder}/site`,
                    PYTHONDONTWRITEBYTECODE: "1",
                },
                mounts: () => mounts.join(" && "),
            });
        });
        afterAll(async () => {
            await sshd.dispose();
            fs.rmSync(folder, { recursive: true, force: true });
        });
        beforeEach(() => {
            good();
        });

        const write = (name: string, content: string): void => {
            fs.mkdirSync(path.dirname(path.join(folder, name)), { recursive: true });
            fs.writeFileSync(path.join(folder, name), content); // in place: it is what was bound
        };
        const has = (command: string, answer: string): void => {
            write(command, `#!/bin/bash\n${answer}\n`);
            fs.chmodSync(path.join(folder, command), 0o755);
        };
        const smi = (version: string, gpu: string): void => {
            has(
                "bin/nvidia-smi",
                `case "$1" in *driver_version*) echo ${version} ;; *memory.total*) echo '${gpu}' ;; esac`,
            );
        };
        const module = (version: string, signer = "Canonical Ltd. Kernel Module Signing"): void => {
            has("bin/modinfo", `case "$2" in version) echo ${version} ;; signer) echo '${signer}' ;; esac`);
        };
        const unloaded = (): void => {
            fs.rmSync(path.join(folder, "driver", "nvidia"), { recursive: true });
            has("bin/nvidia-smi", "exit 9");
        };
        const patched = (line: string): void => {
            write("site/sitecustomize.py", `import platform, time\n${line}\n`);
        };

        /** A machine that will do. */
        function good(): void {
            write("release", 'NAME="Ubuntu"\nVERSION_ID="22.04"\nID=ubuntu\n');
            write("devices/0000:00:1e.0/vendor", "0x10de\n");
            write("devices/0000:00:1e.0/class", "0x030200\n");
            write("driver/nvidia/version", recorded.OPEN_MODULE);
            smi("580.126.09", "NVIDIA L4, 23034, 8.9");
            module("580.126.09");
            has("bin/mokutil", "echo SecureBoot disabled");
            patched("");
            const torch = { version: "2.8.0+cu128", cuda: "12.8", available: true, bf16: true };
            has(
                "environment/bin/python",
                `case "$2" in *torch*) echo '${JSON.stringify(torch)}' ;; *) echo 3.11.14 ;; esac`,
            );
            has("environment/bin/llamafactory-cli", "echo 'version 0.9.5'");
        }

        const target = () =>
            targetSchema.parse({
                ...sshd.target,
                gpu: "required",
                python: `${folder}/environment/bin/python`,
            }) as SshTarget;
        const store = () => new Store(path.join(folder, "home"));

        async function verified(): Promise<string> {
            const host = new HostLifecycle(store(), () => undefined);
            const inputs = { target: target() as unknown as JsonObject, precision: "bf16", prepared: "" };
            return host.apply("urn", inputs).then(
                () => "verified",
                (error: unknown) => (error as Error).message,
            );
        }

        test("one that will do", async () => {
            expect(await verified()).toBe("verified");
        });

        test.each<[string, () => void, string]>([
            [
                "without a GPU",
                () => {
                    fs.rmSync(path.join(folder, "devices", "0000:00:1e.0"), { recursive: true });
                    unloaded();
                },
                "there is no NVIDIA GPU in the machine: choose one that has, or set target.gpu to none for a small model on the CPU",
            ],
            [
                "whose driver is too old",
                () => {
                    write("driver/nvidia/version", recorded.PROPRIETARY_MODULE);
                    module("470.256.02");
                    smi("470.256.02", "NVIDIA L4, 23034, 8.9");
                },
                "driver 470.256.02 is too old for this torch (CUDA 12.8), which needs 525.60.13",
            ],
            [
                "with nouveau on the GPU",
                () => {
                    unloaded();
                    // Not every kernel has this file.
                    patched(
                        'import pathlib; read = pathlib.Path.read_text; pathlib.Path.read_text = lambda self, **how: "nouveau 2306048 0 - Live 0x0" if str(self) == "/proc/modules" else read(self, **how)',
                    );
                },
                "nouveau has the GPU, and NVIDIA's driver cannot load beside it",
            ],
            [
                "with Secure Boot and a module that is not signed",
                () => {
                    unloaded();
                    module("580.126.09", "");
                    has("bin/mokutil", "echo SecureBoot enabled");
                },
                "Secure Boot is on and the installed kernel module is not signed, so the kernel refuses it: enrol its key with `sudo mokutil --import /var/lib/shim-signed/mok/MOK.der` and confirm at the console, take the signed modules of Ubuntu's archive, or turn Secure Boot off in the firmware",
            ],
            [
                "of ARM",
                () => {
                    patched('platform.machine = lambda: "aarch64"');
                },
                "the machine is aarch64, and the locked environment is for x86_64: use an x86_64 machine",
            ],
            [
                "whose clock is off by hours",
                () => {
                    patched("clock = time.time; time.time = lambda: clock() - 7 * 3600");
                },
                "the host's clock is 7 hours behind this machine's: `sudo timedatectl set-ntp true` on the one that is wrong",
            ],
        ])("one %s", async (_, change, message) => {
            change();
            expect(await verified()).toBe(`127.0.0.1 cannot be used:\n  ${message}`);
        });

        test("one of another release, on which a driver would have to be installed", async () => {
            write("release", 'ID=debian\nVERSION_ID="12"\n');
            unloaded();
            has("bin/modinfo", "exit 1");
            expect(await verified()).toBe(
                "127.0.0.1 cannot be used, for 2 reasons:\n" +
                    "  the machine is debian 12: a driver is installed on Ubuntu 22.04 and 24.04 only. Install it by hand, or use one of these\n" +
                    "  no NVIDIA driver is installed",
            );
        });

        test("one whose disk is full", async () => {
            patched("import shutil, types; shutil.disk_usage = lambda path: types.SimpleNamespace(free=2**30)");
            expect(await verified()).toBe(
                `127.0.0.1 cannot be used:\n  ${target().home} has 1.0 GiB left, wanted 2.0 GiB or more: make room, or set target.home to a folder on a larger disk`,
            );
        });
    });
});
