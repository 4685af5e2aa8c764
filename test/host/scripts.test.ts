import * as http from "node:http";
import type { AddressInfo, Socket } from "node:net";
import * as path from "node:path";
import { afterEach, describe, expect, onTestFinished, test } from "vitest";
import { programOf, type Step, type Variables } from "../../infra/host/scripts";
import { sha256 } from "../../pipeline/identity";
import { eventually } from "../engine/processes";
import { Machine, withoutMachines } from "./machine";
import * as recorded from "./recorded";

describe.skipIf(withoutMachines !== undefined)(
    `host scripts${withoutMachines ? ` (skipped: ${withoutMachines})` : ""}`,
    () => {
        const machines: Machine[] = [];

        function machine(options: ConstructorParameters<typeof Machine>[0] = {}): Machine {
            const made = new Machine(options);
            machines.push(made);
            return made;
        }

        afterEach(() => {
            for (const one of machines.splice(0)) one.dispose();
        });

        async function succeeds(host: Machine, step: Step, variables: Variables, line: string): Promise<void> {
            expect(await host.run(step, variables)).toEqual({ code: 0, stdout: `${step}: ${line}\n`, stderr: "" });
        }

        async function refuses(host: Machine, step: Step, variables: Variables, line: RegExp | string): Promise<void> {
            const { code, stdout, stderr } = await host.run(step, variables);
            expect(stderr).toMatch(line);
            expect([code, stdout]).toEqual([64, ""]);
            expect(stderr.split("\n")).toHaveLength(2);
        }

        describe("every script", () => {
            test("writes a log with times on the host and says one line", async () => {
                const host = machine();
                await succeeds(host, "wait", {}, "nothing to wait for");
                expect(host.log("wait")).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ nothing to wait for\n$/);
            });

            test("an unforeseen failure shows the last lines of its log, and where that is", async () => {
                const host = machine().has("conda", "echo resolving; echo 'no space left' >&2; exit 3");
                await host.bash("mkdir -p .retune/miniforge/bin; ln -s /commands/conda .retune/miniforge/bin/conda", [
                    "-s",
                ]);
                const { code, stdout, stderr } = await host.run("cuda-toolkit", { CUDA_TOOLKIT: "12.8" });
                expect([code, stdout]).toEqual([3, ""]);
                const [first, second, third, fourth] = stderr.split("\n");
                expect(first).toBe(
                    "cuda-toolkit: failed with exit code 3. The last lines of /home/a user/.retune/logs/prepare/cuda-toolkit.log on the host:",
                );
                expect(second).toMatch(/^ {4}\S+Z resolving$/);
                expect(third).toMatch(/^ {4}\S+Z no space left$/);
                expect(fourth).toContain("conda");
            });

            test("a text that was cut off on its way does nothing", async () => {
                const host = machine().has("systemctl");
                host.write("run/systemd/system/.keep", "");
                const program = programOf("timers", { HOME: ".retune", GPU: "required" });
                expect(await host.bash(program.slice(0, -"perform\n".length), ["-s"])).toEqual({
                    code: 0,
                    stdout: "",
                    stderr: "",
                });
                expect(host.calls()).toEqual([]);
            });

            test("waits for another one that is going on", async () => {
                const host = machine();
                host.write("home/a user/.retune/prepare/lock", "");
                const holder = host.bash(
                    'flock "$HOME/.retune/prepare/lock" bash -c "touch held; sleep 1; touch let-go"',
                    ["-s"],
                );
                await eventually("the lock is held", () => host.exists("home/a user/held"));
                await succeeds(host, "wait", {}, "nothing to wait for");
                expect(host.exists("home/a user/let-go")).toBe(true);
                await holder;
            });

            test("gives up on another one that does not end", async () => {
                const host = machine();
                host.write("home/a user/.retune/prepare/lock", "");
                const holder = host.bash('flock "$HOME/.retune/prepare/lock" bash -c "touch held; sleep 4"', ["-s"]);
                await eventually("the lock is held", () => host.exists("home/a user/held"));
                const ended = await host.run("wait", { WAIT_SECONDS: "1" });
                expect(ended).toEqual({
                    code: 1,
                    stdout: "",
                    stderr: "wait: another preparation of this host does not end; see /home/a user/.retune/logs/prepare\n",
                });
                await holder;
            });
        });

        describe("wait", () => {
            test("cloud-init that is done", async () => {
                const host = machine().has("cloud-init");
                await succeeds(host, "wait", {}, "nothing to wait for");
                expect(host.calls()).toEqual(["cloud-init status --wait"]);
            });

            test("recoverable errors are passed on", async () => {
                const host = machine().has("cloud-init", "exit 2");
                await succeeds(
                    host,
                    "wait",
                    {},
                    "cloud-init ended with errors that it calls recoverable: `cloud-init status --long` on the host shows them",
                );
            });

            test("cloud-init that failed", async () => {
                const host = machine().has("cloud-init", "exit 1");
                await refuses(host, "wait", {}, /^wait: cloud-init failed \(exit code 1\): .*sudo cloud-init clean/);
            });

            test("cloud-init that does not end", async () => {
                const host = machine().has("cloud-init", "exec sleep 60");
                await refuses(host, "wait", { WAIT_SECONDS: "1" }, /^wait: cloud-init is not done after 1 s/);
            });

            test("somebody who has dpkg's lock, until he lets go", async () => {
                const host = machine();
                host.write("var/lib/dpkg/lock-frontend", "");
                const inode = (await host.bash("stat --format %i /var/lib/dpkg/lock-frontend", ["-s"])).stdout.trim();
                host.write("proc/locks", `1: POSIX  ADVISORY  WRITE 412 fd:01:${inode} 0 EOF\n`);
                const ended = host.run("wait");
                await eventually("it waits", () => host.log("wait").includes("/var/lib/dpkg/lock-frontend"));
                host.write("proc/locks", "");
                expect(await ended).toMatchObject({
                    code: 0,
                    stdout: "wait: waited for /var/lib/dpkg/lock-frontend\n",
                });
            });

            test("somebody who has apt's lock for ever", async () => {
                const host = machine();
                host.write("var/lib/apt/lists/lock", "");
                const inode = (await host.bash("stat --format %i /var/lib/apt/lists/lock", ["-s"])).stdout.trim();
                host.write("proc/locks", `1: POSIX  ADVISORY  WRITE 412 fd:01:${inode} 0 EOF\n`);
                await refuses(
                    host,
                    "wait",
                    { WAIT_SECONDS: "1" },
                    /^wait: \/var\/lib\/apt\/lists\/lock is still locked after 1 s/,
                );
            });
        });

        describe("timers", () => {
            const off =
                'case "$1 $2" in "is-enabled apt-"*) echo masked ;; is-enabled*) echo disabled ;; is-active*) echo inactive ;; esac';
            const on = 'case "$1" in is-enabled) echo enabled ;; is-active) echo active ;; mask) : ;; esac';

            test("on a machine with systemd are masked, and the second time nothing is changed", async () => {
                const host = machine().has("systemctl", on);
                host.write("run/systemd/system/.keep", "");
                const units = "apt-daily.timer apt-daily-upgrade.timer unattended-upgrades.service";
                await succeeds(
                    host,
                    "timers",
                    {},
                    `turned automatic upgrades off: ${units} /etc/apt/apt.conf.d/99retune`,
                );
                expect(host.changes()).toEqual([
                    "systemctl mask --now apt-daily.timer",
                    "systemctl mask --now apt-daily-upgrade.timer",
                    "systemctl disable --now unattended-upgrades.service",
                ]);
                expect(host.read("etc/apt/apt.conf.d/99retune")).toBe('APT::Periodic::Enable "0";\n');
                host.has("systemctl", off);
                await succeeds(host, "timers", {}, "automatic upgrades are off: nothing to do");
                expect(host.changes()).toEqual([]);
            });

            test("that run without being enabled are stopped", async () => {
                const host = machine();
                host.write("run/systemd/system/.keep", "");
                host.write("etc/apt/apt.conf.d/99retune", 'APT::Periodic::Enable "0";\n');
                host.has(
                    "systemctl",
                    'case "$1 $2" in "is-enabled apt-"*) echo masked ;; is-active*) echo active ;; esac',
                );
                await succeeds(host, "timers", {}, "turned automatic upgrades off: unattended-upgrades.service");
                expect(host.changes()).toEqual(["systemctl disable --now unattended-upgrades.service"]);
            });

            test("without a GPU are nobody's business", async () => {
                const host = machine().has("systemctl", on);
                host.write("run/systemd/system/.keep", "");
                await succeeds(
                    host,
                    "timers",
                    { GPU: "none" },
                    "no driver here that an upgrade could break: nothing to do",
                );
                expect(host.calls()).toEqual([]);
            });

            test("for a user without sudo: says which right is missing and what to do", async () => {
                const host = machine()
                    .has("systemctl", on)
                    .has("sudo", `printf '${recorded.SUDO_REFUSES.trim()}\\n' >&2; exit 1`);
                host.write("run/systemd/system/.keep", "");
                await refuses(
                    host,
                    "timers",
                    {},
                    /^timers: turning automatic upgrades off \(.*\) needs root, and `sudo -n` refuses it to bob \(sudo: a password is required\)\. Allow it with "bob ALL=\(root\) NOPASSWD: ALL" in \/etc\/sudoers\.d\/retune, or let an administrator run: sudo systemctl mask --now apt-daily\.timer/,
                );
                expect(host.changes()).toEqual([]);
            });
        });

        describe("driver", () => {
            const settings = { DRIVER: "580-server-open" };
            const loaded = (host: Machine, version = "580.126.09", text = recorded.OPEN_MODULE): Machine =>
                host.hasGpu().write("proc/driver/nvidia/version", text).has("nvidia-smi", `echo ${version}`);
            /** After this, the module is loaded and nvidia-smi works. */
            const load = `mkdir -p /proc/driver/nvidia; cat /tmp/module >/proc/driver/nvidia/version; echo 'echo 580.126.09' >/answers/nvidia-smi`;
            const archive = (host: Machine): Machine =>
                host
                    .write("tmp/module", recorded.OPEN_MODULE)
                    .has(
                        "apt-get",
                        'case "$*" in *nvidia-utils*) cp /commands/sudo /commands/nvidia-smi; echo "exit 9" >/answers/nvidia-smi ;; esac',
                    )
                    .has("ubuntu-drivers")
                    .has("dpkg-query")
                    .has("modinfo", "exit 1")
                    .has("modprobe", load);
            const apt = "apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -y --no-install-recommends";

            test("none is wanted", async () => {
                const host = machine();
                await succeeds(host, "driver", { ...settings, GPU: "none" }, "no GPU is wanted: nothing to do");
                expect(host.calls()).toEqual([]);
            });

            test("of a GPU image is left as it is, without root", async () => {
                const host = loaded(machine()).has("sudo", "exit 1");
                await succeeds(host, "driver", settings, "driver 580.126.09 is loaded: nothing to do");
                expect(host.changes()).toEqual([]);
            });

            test("too old and not from the archive is for a person", async () => {
                const host = loaded(machine(), "470.256.02", recorded.PROPRIETARY_MODULE).has("dpkg-query");
                await refuses(
                    host,
                    "driver",
                    settings,
                    /^driver: driver 470\.256\.02 is older than 525\.60\.13, .* not from Ubuntu's archive/,
                );
                expect(host.changes()).toEqual([]);
            });

            test("too old and from the archive is replaced, and wants a restart", async () => {
                const host = loaded(archive(machine()), "470.256.02", recorded.PROPRIETARY_MODULE);
                host.has("dpkg-query", `printf '${recorded.ARCHIVE_PACKAGES.replaceAll("\n", "\\n")}'`).has("modprobe");
                await succeeds(
                    host,
                    "driver",
                    settings,
                    "installed the driver 580-server-open from Ubuntu's archive; its kernel module does not load in this boot; a restart is needed (this boot is 1b4e28ba-2fa1-11d2-883f-0016d3cca427)",
                );
            });

            test("absent is installed from Ubuntu's archive with the modules of the kernel, and loaded; then nothing is left to do", async () => {
                const host = archive(machine().hasGpu());
                await succeeds(
                    host,
                    "driver",
                    settings,
                    "installed the driver 580-server-open from Ubuntu's archive; loaded (580.126.09)",
                );
                expect(host.changes()).toEqual([
                    `${apt} update`,
                    `${apt} install linux-modules-nvidia-580-server-open-aws`,
                    "ubuntu-drivers install --gpgpu nvidia:580-server-open",
                    `${apt} install nvidia-utils-580-server`,
                    "modprobe nvidia",
                ]);
                expect(host.exists("home/a user/.retune/prepare/reboot-required")).toBe(false);
                await succeeds(host, "driver", settings, "driver 580.126.09 is loaded: nothing to do");
                expect(host.changes()).toEqual([]);
            });

            test("brings ubuntu-drivers where it is not there", async () => {
                const host = archive(machine().hasGpu()).lacks("ubuntu-drivers");
                host.has(
                    "apt-get",
                    'case "$*" in *ubuntu-drivers-common) cp /commands/sudo /commands/ubuntu-drivers ;; *nvidia-utils*) cp /commands/sudo /commands/nvidia-smi ;; esac',
                );
                expect((await host.run("driver", settings)).stdout).toContain("; loaded (580.126.09)");
                expect(host.changes().slice(0, 2)).toEqual([`${apt} update`, `${apt} install ubuntu-drivers-common`]);
            });

            test("no GPU in the machine", async () => {
                const host = archive(machine());
                await refuses(host, "driver", settings, /^driver: there is no NVIDIA GPU in this machine/);
                expect(host.changes()).toEqual([]);
            });

            test.each([
                ["Ubuntu 20.04", "ID=ubuntu\nVERSION_ID=20.04\n", "ubuntu 20.04"],
                ["Debian", "ID=debian\nVERSION_ID=12\n", "debian 12"],
            ])("is not installed on %s", async (_, release, name) => {
                const host = archive(machine().hasGpu()).write("etc/os-release", release);
                await refuses(
                    host,
                    "driver",
                    settings,
                    `this machine is ${name}: it is installed on Ubuntu 22.04 and 24.04 only`,
                );
                expect(host.changes()).toEqual([]);
            });

            test("is not installed beside NVIDIA's repository", async () => {
                const host = archive(machine().hasGpu());
                host.write(
                    "etc/apt/sources.list.d/cuda.list",
                    "deb https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2204/x86_64/ /\n",
                );
                await refuses(
                    host,
                    "driver",
                    settings,
                    /^driver: NVIDIA's repository is set up \(\/etc\/apt\/sources\.list\.d\/cuda\.list\)/,
                );
                expect(host.changes()).toEqual([]);
            });

            test("is not installed beside packages from somewhere else", async () => {
                const host = archive(machine().hasGpu());
                host.has("dpkg-query", `printf '${recorded.NVIDIA_PACKAGES.replaceAll("\n", "\\n")}'`);
                await refuses(
                    host,
                    "driver",
                    settings,
                    /not from Ubuntu's archive \(libnvidia-compute, nvidia-open\): remove them \(`sudo apt-get purge libnvidia-compute nvidia-open`\)/,
                );
                expect(host.changes()).toEqual([]);
            });

            test("for a user without sudo", async () => {
                const host = archive(machine().hasGpu()).has("sudo", "echo 'sudo: a password is required' >&2; exit 1");
                await refuses(
                    host,
                    "driver",
                    settings,
                    /^driver: installing the NVIDIA driver needs root, .*bob.*ubuntu-drivers install --gpgpu nvidia:580-server-open/,
                );
                expect(host.changes()).toEqual([]);
            });

            test("programs that were upgraded under the loaded module want a restart", async () => {
                const host = loaded(machine()).has(
                    "nvidia-smi",
                    `printf '${recorded.MISMATCH.replaceAll("\n", "\\n")}'; exit 18`,
                );
                await succeeds(
                    host,
                    "driver",
                    settings,
                    "the driver's programs are not of the version of the loaded kernel module, 580.126.09; a restart is needed (this boot is 1b4e28ba-2fa1-11d2-883f-0016d3cca427)",
                );
                expect(host.read("home/a user/.retune/prepare/reboot-required")).toBe(
                    "1b4e28ba-2fa1-11d2-883f-0016d3cca427\n",
                );
                expect(host.changes()).toEqual([]);
            });

            const installed = (host: Machine): Machine =>
                host
                    .hasGpu()
                    .write("tmp/module", recorded.OPEN_MODULE)
                    .has(
                        "nvidia-smi",
                        `printf '${recorded.NO_DRIVER.replaceAll("\n", "\\n").replaceAll("'", "'\\''")}'; exit 9`,
                    )
                    .has(
                        "modinfo",
                        'case "$2" in version) echo 580.126.09 ;; signer) cat /tmp/signer 2>/dev/null ;; esac; true',
                    )
                    .has("modprobe", load);

            test("installed and not loaded is loaded", async () => {
                const host = installed(machine());
                await succeeds(host, "driver", settings, "driver 580.126.09 was installed; loaded (580.126.09)");
                expect(host.changes()).toEqual(["modprobe nvidia"]);
            });

            test("installed for another kernel wants a restart", async () => {
                const host = installed(machine()).has("modprobe", "exit 1");
                expect((await host.run("driver", settings)).stdout).toContain(
                    "does not load in this boot; a restart is needed",
                );
                expect(host.exists("home/a user/.retune/prepare/reboot-required")).toBe(true);
            });

            test("kept out by nouveau: nouveau is blocked, and a restart is wanted", async () => {
                const host = installed(machine()).has("update-initramfs");
                host.write("proc/modules", "nouveau 2306048 0 - Live 0x0000000000000000\n");
                expect((await host.run("driver", settings)).stdout).toContain(
                    "nouveau has the GPU and will not load again; a restart is needed",
                );
                expect(host.changes()).toEqual(["update-initramfs -u"]);
                expect(host.read("etc/modprobe.d/retune-nouveau.conf")).toBe(
                    "blacklist nouveau\noptions nouveau modeset=0\n",
                );
            });

            test("unsigned under Secure Boot is for a person; signed it is loaded", async () => {
                const host = installed(machine()).has("mokutil", `printf '${recorded.SECURE_BOOT.trim()}\\n'`);
                await refuses(host, "driver", settings, /^driver: Secure Boot is on .*mokutil --import/);
                expect(host.changes()).toEqual([]);
                host.write("tmp/signer", "Canonical Ltd. Kernel Module Signing\n");
                expect((await host.run("driver", settings)).code).toBe(0);
                expect(host.changes()).toEqual(["modprobe nvidia"]);
            });
        });

        describe("restart", () => {
            const marker = "home/a user/.retune/prepare/reboot-required";
            const boot = "1b4e28ba-2fa1-11d2-883f-0016d3cca427";

            test("is not made where nobody wants one", async () => {
                const host = machine().has("systemctl").has("systemd-run");
                await succeeds(host, "reboot", {}, "no restart is needed: nothing to do");
                await succeeds(host, "rebooted", {}, "no restart was needed: nothing to do");
                expect(host.calls()).toEqual([]);
            });

            test("shuts the door, with a way back if it does not come, and is proven by another boot", async () => {
                const host = machine().has("systemctl").has("systemd-run").has("nvidia-smi", "echo 580.126.09");
                host.write(marker, `${boot}\n`);
                await succeeds(host, "reboot", {}, `restarting (this boot is ${boot})`);
                expect(host.changes()).toEqual([
                    "systemd-run --on-active=180 systemctl start ssh.service",
                    "systemd-run --on-active=2 systemctl reboot",
                    "systemctl stop ssh.socket ssh.service",
                ]);
                await refuses(host, "rebooted", {}, `the machine has not restarted: it is still in boot ${boot}`);
                host.boots("6fa459ea-ee8a-3ca4-894e-db77e160355e");
                await succeeds(host, "reboot", {}, "no restart is needed: nothing to do");
                await succeeds(
                    host,
                    "rebooted",
                    {},
                    `restarted (boot ${boot} → 6fa459ea-ee8a-3ca4-894e-db77e160355e), driver 580.126.09`,
                );
                expect(host.exists(marker)).toBe(false);
                await succeeds(host, "rebooted", {}, "no restart was needed: nothing to do");
                expect(host.changes()).toEqual([]);
            });

            test("that has not helped is said, and stays open", async () => {
                const host = machine().has("nvidia-smi", `printf '${recorded.NO_DEVICES.trim()}\\n'; exit 6`);
                host.write(marker, "another boot\n");
                await refuses(
                    host,
                    "rebooted",
                    {},
                    /^rebooted: the machine has restarted and its NVIDIA driver still does not work: No devices were found\./,
                );
                expect(host.exists(marker)).toBe(true);
            });

            test("needs root", async () => {
                const host = machine().has("systemctl").has("systemd-run").has("sudo", "exit 1");
                host.write(marker, `${boot}\n`);
                await refuses(
                    host,
                    "reboot",
                    {},
                    /^reboot: restarting the machine needs root, .* sudo systemctl reboot/,
                );
                expect(host.changes()).toEqual([]);
            });
        });

        describe("CUDA toolkit", () => {
            test("only where something compiles", async () => {
                const host = machine();
                await succeeds(host, "cuda-toolkit", { CUDA_TOOLKIT: "" }, "nothing compiles here: nothing to do");
                expect(host.calls()).toEqual([]);
            });

            test("comes from conda-forge, once, and an interrupted one is made again", async () => {
                const host = machine().has("nvcc");
                host.write("home/a user/.retune/miniforge/envs/cuda-12.8/half", "");
                host.has(
                    "conda",
                    'while [[ $1 != --prefix ]]; do shift; done; mkdir -p "$2/bin"; cp /commands/nvcc "$2/bin/"',
                );
                await host.bash("mkdir -p .retune/miniforge/bin; ln -s /commands/conda .retune/miniforge/bin/conda", [
                    "-s",
                ]);
                const prefix = "/home/a user/.retune/miniforge/envs/cuda-12.8";
                await succeeds(
                    host,
                    "cuda-toolkit",
                    { CUDA_TOOLKIT: "12.8" },
                    `installed CUDA toolkit 12.8 (CUDA_HOME=${prefix})`,
                );
                expect(host.changes()).toEqual([
                    `conda create --yes --quiet --prefix ${prefix} --override-channels --channel conda-forge cuda-toolkit=12.8 gxx`,
                ]);
                expect(host.exists(path.join(prefix, "half"))).toBe(false);
                await succeeds(
                    host,
                    "cuda-toolkit",
                    { CUDA_TOOLKIT: "12.8" },
                    "CUDA toolkit 12.8 is there: nothing to do",
                );
                expect(host.changes()).toEqual([]);
            });
        });

        describe("Miniforge", () => {
            /** An installer that does what Miniforge's does with these options, and refuses blanks as it does. */
            const installer = `#!/bin/sh
[ "$1 $2 $3" = "-b -u -p" ] || exit 2
case $4 in *" "*) echo "ERROR: Cannot install into directories with spaces" >&2; exit 1 ;; esac
echo "installer $4" >>/calls
mkdir -p "$4/bin" && cp /commands/conda "$4/bin/conda"
${"# padding\n".repeat(4000)}`;
            const name = "Miniforge3-26.3.2-3-Linux-x86_64.sh";
            type Serve = (request: http.IncomingMessage, response: http.ServerResponse, attempt: number) => void;

            /** A mirror on loopback; answers its address and what it was asked for. */
            async function mirror(serve: Serve): Promise<{ url: string; asked: string[] }> {
                const asked: string[] = [];
                const server = http.createServer((request, response) => {
                    asked.push(`${request.url ?? ""} ${request.headers.range ?? "whole"}`);
                    serve(request, response, asked.length);
                });
                const sockets = new Set<Socket>();
                server.on("connection", (socket) => sockets.add(socket));
                await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
                onTestFinished(async () => {
                    for (const socket of sockets) socket.destroy();
                    await new Promise((resolve) => server.close(resolve));
                });
                return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, asked };
            }

            /** From the byte that was asked for, to `until`, and there the connection is cut. */
            const part = (until = installer.length): Serve => {
                return (request, response) => {
                    const start = Number(/bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1] ?? 0);
                    const length = installer.length - start;
                    const range = `bytes ${start}-${installer.length - 1}/${installer.length}`;
                    response.writeHead(start > 0 ? 206 : 200, {
                        "content-length": length,
                        ...(start > 0 ? { "content-range": range } : {}),
                    });
                    response.write(installer.slice(start, until), () => {
                        if (until < installer.length) response.destroy();
                        else response.end();
                    });
                };
            };

            const settings = (url: string, changes: Variables = {}): Variables => ({
                HOME: "/opt/retune",
                MINIFORGE_VERSION: "26.3.2-3",
                MINIFORGE_SHA256: sha256(installer),
                MINIFORGE_URL: url,
                CONDA_MIRROR: "",
                PAUSE_SECONDS: "0",
                ...changes,
            });
            const networked = (): Machine => machine({ network: true }).has("conda");

            test("is downloaded, proven and installed with conda-forge alone; then nothing is left to do", async () => {
                const host = networked();
                const { url, asked } = await mirror(part());
                await succeeds(host, "miniforge", settings(url), "installed Miniforge 26.3.2-3");
                expect(asked).toEqual([`/26.3.2-3/${name} whole`]);
                expect(host.changes()).toEqual(["installer /opt/retune/miniforge"]);
                expect(host.read("opt/retune/miniforge/.condarc")).toBe("channels:\n  - conda-forge\n");
                expect(host.exists(`opt/retune/prepare/${name}`)).toBe(false);
                await succeeds(host, "miniforge", settings(url), "Miniforge 26.3.2-3 is there: nothing to do");
                expect([asked.length, host.changes()]).toEqual([1, []]);
            });

            test("a mirror of the channel is a line in its settings, and no new installation", async () => {
                const host = networked();
                const { url, asked } = await mirror(part());
                await host.run("miniforge", settings(url));
                const mirrored = settings(url, { CONDA_MIRROR: "https://mirror.example/anaconda/cloud" });
                await succeeds(host, "miniforge", mirrored, "changed the channel of Miniforge");
                expect(asked).toHaveLength(1);
                expect(host.read("opt/retune/miniforge/.condarc")).toBe(
                    "channels:\n  - conda-forge\ncustom_channels:\n  conda-forge: https://mirror.example/anaconda/cloud\n",
                );
            });

            test("another version goes over the old one, whose environments stay", async () => {
                const host = networked();
                const { url } = await mirror(part());
                await host.run("miniforge", settings(url));
                host.write("opt/retune/miniforge/envs/own/file", "");
                await succeeds(host, "miniforge", settings(url, { MINIFORGE_VERSION: "27" }), "installed Miniforge 27");
                expect(host.exists("opt/retune/miniforge/envs/own/file")).toBe(true);
            });

            test("an interrupted installation is made again from nothing", async () => {
                const host = networked().write("opt/retune/miniforge/bin/conda", "half");
                host.write("opt/retune/miniforge/half", "");
                const { url } = await mirror(part());
                await succeeds(host, "miniforge", settings(url), "installed Miniforge 26.3.2-3");
                expect(host.exists("opt/retune/miniforge/half")).toBe(false);
            });

            test("a download that is cut off goes on where it was", async () => {
                const host = networked();
                const { url, asked } = await mirror((request, response, attempt) => {
                    part(attempt < 3 ? attempt * 10_000 : undefined)(request, response, attempt);
                });
                await succeeds(host, "miniforge", settings(url), "installed Miniforge 26.3.2-3");
                expect(asked.map((one) => one.split(" ")[1])).toEqual(["whole", "bytes=10000-", "bytes=20000-"]);
            });

            test("a server that stops talking counts as cut off", async () => {
                const host = networked();
                const { url, asked } = await mirror((request, response, attempt) => {
                    if (attempt > 1) part()(request, response, attempt);
                    else
                        response.writeHead(200, { "content-length": installer.length }).write(installer.slice(0, 5000));
                });
                const impatient = settings(url, { SPEED_SECONDS: "1" });
                await succeeds(host, "miniforge", impatient, "installed Miniforge 26.3.2-3");
                expect(asked.map((one) => one.split(" ")[1])).toEqual(["whole", "bytes=5000-"]);
            });

            test("other bytes than were asked for are not run, and not kept", async () => {
                const host = networked();
                const { url } = await mirror(part());
                const wrong = settings(url, { MINIFORGE_SHA256: "0".repeat(64) });
                await refuses(
                    host,
                    "miniforge",
                    wrong,
                    `is not the installer that was asked for: SHA-256 ${sha256(installer)}, expected ${"0".repeat(64)}. It was not run`,
                );
                expect(host.changes()).toEqual([]);
                expect(host.exists(`opt/retune/prepare/${name}.partial`)).toBe(false);
            });

            test("a server that has no such file, after five attempts", async () => {
                const host = networked();
                const { url, asked } = await mirror((_, response) => response.writeHead(404).end());
                await refuses(
                    host,
                    "miniforge",
                    settings(url),
                    /cannot be downloaded \(curl: exit code 22\)\..*target\.mirrors\.miniforge/,
                );
                expect(asked).toHaveLength(5);
            });

            test("no curl, and no machine for the lock", async () => {
                const bare = machine().has("conda");
                await refuses(
                    bare,
                    "miniforge",
                    settings("http://127.0.0.1:1"),
                    /^miniforge: there is no curl .*sudo apt-get install curl/,
                );
                const arm = machine().has("uname", "echo aarch64");
                await refuses(
                    arm,
                    "miniforge",
                    settings("http://127.0.0.1:1"),
                    /^miniforge: this machine is aarch64, and the locked environment is for x86_64/,
                );
            });

            test("a home directory with blanks gets a link to a folder without", async () => {
                const host = networked();
                const { url } = await mirror(part());
                await succeeds(host, "miniforge", settings(url, { HOME: ".retune" }), "installed Miniforge 26.3.2-3");
                expect(host.changes()).toEqual(["installer /opt/retune-bob/miniforge"]);
                expect((await host.bash("readlink .retune/miniforge", ["-s"])).stdout).toBe(
                    "/opt/retune-bob/miniforge\n",
                );
                await succeeds(
                    host,
                    "miniforge",
                    settings(url, { HOME: ".retune" }),
                    "Miniforge 26.3.2-3 is there: nothing to do",
                );
                expect(host.changes()).toEqual([]);
            });

            test("a home directory with blanks, for a user without sudo", async () => {
                const host = networked().has("sudo", "exit 1");
                const { url } = await mirror(part());
                await refuses(
                    host,
                    "miniforge",
                    settings(url, { HOME: ".retune" }),
                    /^miniforge: conda refuses paths with blanks .* or set target\.home to a path without blanks/,
                );
                expect(host.changes()).toEqual([]);
            });
        });

        describe("environment", () => {
            const lock = "llamafactory==0.9.5 --hash=sha256:00\n";
            const settings = (changes: Variables = {}): Variables => ({
                GPU: "none",
                FLAVOUR: "cu128",
                PYTHON: "3.11",
                LOCK_SHA256: sha256(lock),
                UV_VERSION: "0.9.30",
                UV_LOCK: "uv==0.9.30 --hash=sha256:'it''s'",
                INDEX: "https://mirror.example/simple",
                ENVIRONMENT_MB: "20000",
                ...changes,
            });
            const of = (text: string): string => sha256(text).slice(0, 16);
            const envs = "/home/a user/.retune/miniforge/envs";

            /** A machine with Miniforge whose conda makes an environment, pip brings uv, and uv brings LLaMA-Factory. */
            function prepared(text = lock): Machine {
                const host = machine();
                host.write(`home/a user/.retune/prepare/requirements-${of(text)}.lock`, text);
                for (const command of ["conda", "python", "uv", "llamafactory-cli"]) host.has(command);
                host.write("home/a user/.retune/miniforge/bin/.keep", "");
                host.has(
                    "conda",
                    'while [[ $1 != --prefix ]]; do shift; done; mkdir -p "$2/bin"; cp /commands/python "$2/bin/"',
                );
                host.has(
                    "python",
                    'case "$2" in venv) mkdir -p "$3/bin"; cp /commands/python "$3/bin/" ;; pip) cat "${@: -1}" >>/tmp/uv-lock; echo "$PIP_INDEX_URL" >>/tmp/index; cp /commands/uv "${0%/*}/" ;; esac',
                );
                host.has(
                    "uv",
                    'echo "$UV_DEFAULT_INDEX" >>/tmp/index; while [[ $1 != --python ]]; do shift; done; cp /commands/llamafactory-cli "${2%/*}/"',
                );
                host.has("llamafactory-cli", "echo '| Welcome to LLaMA Factory, version 0.9.5                |'");
                for (const [from, to] of [
                    ["conda", "bin/conda"],
                    ["python", "bin/python"],
                ] as const) {
                    host.write(`home/a user/.retune/miniforge/${to}`, host.read(`commands/${from}`)).executable(
                        `home/a user/.retune/miniforge/${to}`,
                    );
                }
                return host;
            }

            test("is made from the lock with hashes and proven; then nothing is left to do", async () => {
                const host = prepared();
                await succeeds(
                    host,
                    "environment",
                    settings(),
                    `LLaMA-Factory 0.9.5 is ready in ${envs}/llama-factory (cu128)`,
                );
                const uv = "/home/a user/.retune/prepare/uv-0.9.30";
                const made = `${envs}/llama-factory-${of(lock)}`;
                expect(host.changes()).toEqual([
                    `python -m venv ${uv}`,
                    `python -m pip install --quiet --require-hashes --only-binary :all: --requirement ${uv}/uv.lock`,
                    `conda create --yes --quiet --prefix ${made} --override-channels --channel conda-forge python=3.11`,
                    `uv pip install --python ${made}/bin/python --require-hashes --compile-bytecode --requirement /home/a user/.retune/prepare/requirements-${of(lock)}.lock`,
                ]);
                expect(host.read("tmp/uv-lock")).toBe("uv==0.9.30 --hash=sha256:'it''s'\n");
                expect(host.read("tmp/index")).toBe("https://mirror.example/simple\n".repeat(2));
                expect((await host.bash(`readlink '${envs}/llama-factory'`, ["-s"])).stdout).toBe(
                    `llama-factory-${of(lock)}\n`,
                );
                await succeeds(host, "environment", settings(), "LLaMA-Factory 0.9.5 is there: nothing to do");
                expect(host.calls()).toEqual(["llamafactory-cli version"]);
            });

            test("another lock gets a folder of its own; the last one stays for runs that use it, older ones go", async () => {
                const host = prepared();
                await host.run("environment", settings());
                host.calls();
                for (const text of ["second\n", "third\n"]) {
                    host.write(`home/a user/.retune/prepare/requirements-${of(text)}.lock`, text);
                    expect((await host.run("environment", settings({ LOCK_SHA256: sha256(text) }))).code).toBe(0);
                    expect(host.changes().map((one) => one.split(" ")[0])).toEqual(["conda", "uv"]);
                }
                const there = (text: string): boolean => host.exists(path.join(envs, `llama-factory-${of(text)}`));
                expect([there(lock), there("second\n"), there("third\n")]).toEqual([false, true, true]);
                const back = await host.run("environment", settings({ LOCK_SHA256: sha256("second\n") }));
                expect(back.stdout).toContain("is ready in");
                expect(host.changes()).toEqual([]);
            });

            test("an interrupted one is made again from nothing, a plain folder of the name makes room", async () => {
                const host = prepared();
                host.write(path.join(envs, `llama-factory-${of(lock)}`, "half"), "");
                host.write(path.join(envs, "llama-factory", "own"), "");
                expect((await host.run("environment", settings())).code).toBe(0);
                expect(host.exists(path.join(envs, "llama-factory", "half"))).toBe(false);
                expect(host.exists(path.join(envs, "llama-factory", "bin", "llamafactory-cli"))).toBe(true);
            });

            test("one that does not start is not taken for ready", async () => {
                const host = prepared().has("llamafactory-cli", "echo 'ImportError: libcudart.so.12' >&2; exit 1");
                await refuses(
                    host,
                    "environment",
                    settings(),
                    /^environment: `llamafactory-cli version` does not run in/,
                );
                expect(host.exists(path.join(envs, `llama-factory-${of(lock)}`, ".retune"))).toBe(false);
                expect(host.log("environment")).toContain("ImportError: libcudart.so.12");
            });

            test("a driver that is new enough, too old, or not there", async () => {
                const gpu = settings({ GPU: "required" });
                const fine = prepared().write("proc/driver/nvidia/version", recorded.OPEN_MODULE);
                expect((await fine.run("environment", gpu)).code).toBe(0);
                const old = prepared().write("proc/driver/nvidia/version", recorded.PROPRIETARY_MODULE);
                await refuses(
                    old,
                    "environment",
                    gpu,
                    "driver 470.256.02 is older than 525.60.13, which the lock's torch (cu128) needs",
                );
                const none = prepared();
                await refuses(none, "environment", gpu, /^environment: the NVIDIA driver is not loaded/);
                expect([...old.changes(), ...none.changes()]).toEqual([]);
            });

            test("an ARM machine, a disk that is too small, a lock that did not arrive whole", async () => {
                const arm = prepared().has("uname", "echo aarch64");
                await refuses(arm, "environment", settings(), "this machine is aarch64, and the lock is for x86_64");
                const full = prepared().has("df", "printf 'Avail\\n  7123M\\n'");
                await refuses(
                    full,
                    "environment",
                    settings(),
                    "the environment needs 20000 MB of disk, and /home/a user/.retune has 7123 MB left",
                );
                const torn = prepared().write(`home/a user/.retune/prepare/requirements-${of(lock)}.lock`, "half");
                await refuses(
                    torn,
                    "environment",
                    settings(),
                    /the lock file has not arrived whole at .*: start again/,
                );
                expect([...arm.changes(), ...full.changes(), ...torn.changes()]).toEqual([]);
            });
        });
    },
);
