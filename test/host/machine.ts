import { spawn, spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { programOf, type Step, type Variables } from "../../infra/host/scripts";

/** Why there can be no machine here; undefined where there can. */
export const withoutMachines = ((): string | undefined => {
    const tried = spawnSync("bwrap", ["--unshare-all", "--ro-bind", "/usr", "/usr", "--ro-bind", "/", "/", "true"]);
    if (tried.error !== undefined) return "bubblewrap is not installed";
    return tried.status === 0 ? undefined : `bubblewrap cannot make namespaces: ${tried.stderr.toString().trim()}`;
})();

/** What is taken from this machine as it is; everything else that a script calls is a stand-in, or is not there. */
const TOOLS =
    "awk bash cat chmod cp cut date env flock grep head id install ln mkdir mv readlink rm sed sh sha256sum sleep sort stat tail tee timeout touch tr";

const STAND_IN = `#!/usr/bin/bash
printf '%s\\n' "\${0##*/}\${*:+ $*}" >>/calls
[[ ! -e /answers/\${0##*/} ]] || . "/answers/\${0##*/}"
`;

/** What only looks. */
const LOOKS =
    /^(nvidia-smi|modinfo|mokutil|dpkg-query|uname|df|cloud-init status|systemctl is-|sudo -n true|ubuntu-drivers (list|devices)|nvcc --version|llamafactory-cli version)/;

export interface Ended {
    readonly code: number | null;
    readonly stdout: string;
    readonly stderr: string;
}

/**
 * An Ubuntu machine for one test: namespaces of its own, with a /proc, /sys, /etc, /var and home that are ordinary folders,
 * no network, and stand-ins for what needs hardware or an archive. They write down how they were called.
 */
export class Machine {
    readonly root = fs.mkdtempSync(path.join(os.tmpdir(), "retune-machine-"));
    /** With a blank, as some are. */
    readonly user = "/home/a user";

    constructor(private readonly options: { readonly network?: boolean; readonly root?: boolean } = {}) {
        for (const folder of [
            "answers",
            "commands",
            "etc/apt/apt.conf.d",
            "etc/modprobe.d",
            "home/a user",
            "opt",
            "run",
        ]) {
            fs.mkdirSync(path.join(this.root, folder), { recursive: true });
        }
        for (const folder of ["sbin", "var/lib/dpkg", "var/lib/apt/lists", "tmp", "sys/bus/pci/devices"]) {
            fs.mkdirSync(path.join(this.root, folder), { recursive: true });
        }
        this.write("calls", "");
        this.write("etc/os-release", 'NAME="Ubuntu"\nVERSION_ID="22.04"\nID=ubuntu\n');
        this.write("etc/passwd", "root:x:0:0::/root:/bin/bash\nbob:x:1000:1000::/home/a user:/bin/bash\n");
        this.write("proc/locks", "");
        this.write("proc/modules", "ext4 1 0 - Live 0x0\n");
        this.boots("1b4e28ba-2fa1-11d2-883f-0016d3cca427");
        const tools = options.network === true ? `${TOOLS} curl` : TOOLS;
        for (const tool of tools.split(" ")) {
            const place = ["/usr/bin", "/usr/sbin"].map((folder) => path.join(folder, tool)).find(fs.existsSync);
            if (place === undefined) throw new Error(`these tests need ${tool}`);
            fs.symlinkSync(fs.realpathSync(place), path.join(this.root, "commands", tool));
        }
        this.has("uname", "case $1 in -m) echo x86_64 ;; *) echo 6.8.0-1044-aws ;; esac");
        this.has("df", "printf '  Avail\\n100000M\\n'");
        this.has("sudo", '[[ $1 == -n ]] && shift; "$@"');
    }

    /** Puts a command there; `answer` is what it does, in bash. */
    has(command: string, answer = ""): this {
        this.write(`commands/${command}`, STAND_IN);
        this.executable(`commands/${command}`);
        this.write(`answers/${command}`, `${answer}\n`);
        return this;
    }

    lacks(command: string): this {
        fs.rmSync(path.join(this.root, "commands", command));
        return this;
    }

    boots(id: string): this {
        return this.write("proc/sys/kernel/random/boot_id", `${id}\n`);
    }

    /** NVIDIA's device on the PCI bus. */
    hasGpu(): this {
        this.write("sys/bus/pci/devices/0000:00:1e.0/vendor", "0x10de\n");
        return this.write("sys/bus/pci/devices/0000:00:1e.0/class", "0x030200\n");
    }

    write(file: string, content: string): this {
        const place = path.join(this.root, file);
        fs.mkdirSync(path.dirname(place), { recursive: true });
        fs.writeFileSync(place, content);
        return this;
    }

    executable(file: string): this {
        fs.chmodSync(path.join(this.root, file), 0o755);
        return this;
    }

    read(file: string): string {
        const place = path.join(this.root, file);
        return fs.existsSync(place) ? fs.readFileSync(place, "utf8") : "";
    }

    exists(file: string): boolean {
        return fs.existsSync(path.join(this.root, file));
    }

    /** Runs a script as it is sent to a host, to its end. */
    run(step: Step | "meter", variables: Variables = {}): Promise<Ended> {
        const settings = { HOME: ".retune", GPU: "required", MINIMUM_DRIVER: "525.60.13", ...variables };
        return this.bash(programOf(step, settings), ["-s"]);
    }

    bash(stdin: string, args: readonly string[]): Promise<Ended> {
        const bind = (name: string): string[] => ["--bind", path.join(this.root, name), `/${name}`];
        const child = spawn(
            "bwrap",
            [
                ...["--unshare-all", "--die-with-parent", "--clearenv", "--ro-bind", "/usr", "/usr"],
                ...(this.options.network === true ? ["--share-net"] : []),
                ...["bin", "sbin", "lib", "lib64"].flatMap((name) => ["--symlink", `usr/${name}`, `/${name}`]),
                ...["answers", "calls", "commands", "etc", "home", "opt", "proc", "run", "sys", "tmp", "var"].flatMap(
                    bind,
                ),
                ...["--bind", path.join(this.root, "sbin"), "/usr/local/sbin"],
                ...["--dev", "/dev", "--uid", this.options.root === true ? "0" : "1000", "--gid", "1000"],
                ...["--setenv", "PATH", "/commands", "--setenv", "HOME", this.user, "--chdir", this.user],
                ...["bash", ...args],
            ],
            { stdio: "pipe" },
        );
        let [stdout, stderr] = ["", ""];
        child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text));
        child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
        child.stdin.on("error", () => undefined);
        child.stdin.end(stdin);
        return new Promise((resolve, reject) => {
            child.on("error", reject);
            child.on("close", (code) => {
                resolve({ code, stdout, stderr });
            });
        });
    }

    /** Every call of a stand-in since the last time that this was asked. */
    calls(): string[] {
        const calls = this.read("calls").split("\n").slice(0, -1);
        this.write("calls", "");
        return calls;
    }

    /** The calls that change something. */
    changes(): string[] {
        return this.calls().filter((call) => !LOOKS.test(call) && !call.startsWith("sudo "));
    }

    log(step: Step | "meter"): string {
        return this.read(`home/a user/.retune/logs/prepare/${step}.log`);
    }

    dispose(): void {
        fs.rmSync(this.root, { recursive: true, force: true });
    }
}
