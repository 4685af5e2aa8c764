import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import * as fs from "node:fs";
import * as net from "node:net";
import * as os from "node:os";
import * as path from "node:path";
import { childrenOf, commandOf, eventually, processes } from "../engine/processes";
import { freePort } from "../free-port";

const SSHD = "/usr/sbin/sshd";

/** Why there can be no sshd here; undefined where there can. */
export const withoutSshd = fs.existsSync(SSHD) ? undefined : "openssh-server is not installed";

/** A key pair; answers the public part as `target.hostKey` wants it. */
export function makeKey(file: string, type: "ed25519" | "rsa" = "ed25519"): string {
    execFileSync("ssh-keygen", ["-q", "-t", type, "-N", "", "-C", "", "-f", file]);
    return fs.readFileSync(`${file}.pub`, "utf8").trim();
}

/**
 * A real sshd on loopback, with keys and a configuration of its own, for the user who runs the tests. What it starts
 * sees another XDG_RUNTIME_DIR, as on another machine: runs there share no lock and no worker with this one.
 */
export class Sshd {
    readonly folder = fs.mkdtempSync(path.join(os.tmpdir(), "retune-sshd-"));
    readonly hostKey = makeKey(path.join(this.folder, "host-key"));
    readonly identity = path.join(this.folder, "client-key");
    readonly runtime = path.join(this.folder, "runtime");
    private server: ChildProcess | undefined;

    private constructor(
        readonly port: number,
        private readonly mounts: (folder: string) => string,
    ) {}

    /**
     * `settings` win over those that it has otherwise; `environment` is that of what it starts. `mounts` is a shell command for root, such as one that mounts a small
     * disk below the folder that it is given: only what is behind this sshd sees it.
     */
    static async start(
        options: {
            readonly settings?: readonly string[];
            readonly environment?: Readonly<Record<string, string>>;
            readonly mounts?: (folder: string) => string;
        } = {},
    ): Promise<Sshd> {
        const sshd = new Sshd(await freePort(), options.mounts ?? (() => "true"));
        fs.writeFileSync(path.join(sshd.folder, "authorized-keys"), `${makeKey(sshd.identity)}\n`);
        const environment = { XDG_RUNTIME_DIR: sshd.runtime, ...options.environment };
        const settings = [
            ...(options.settings ?? []),
            `Port ${sshd.port}`,
            "ListenAddress 127.0.0.1",
            `HostKey ${path.join(sshd.folder, "host-key")}`,
            `AuthorizedKeysFile ${path.join(sshd.folder, "authorized-keys")}`,
            "PidFile none",
            "UsePAM no",
            "StrictModes no", // the keys are below /tmp
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "MaxStartups 100",
            "LogLevel VERBOSE",
            `SetEnv ${Object.entries(environment)
                .map(([name, value]) => `${name}=${value}`)
                .join(" ")}`,
        ];
        fs.writeFileSync(path.join(sshd.folder, "config"), `${settings.join("\n")}\n`);
        fs.mkdirSync(sshd.runtime, { mode: 0o700 });
        await sshd.up();
        return sshd;
    }

    /** What the stack of a test says of its target. */
    get target() {
        const { hostKey, identity, port } = this;
        const user = os.userInfo().username;
        return {
            type: "ssh",
            host: "127.0.0.1",
            port,
            user,
            hostKey,
            identity,
            gpu: "none",
            home: path.join(this.folder, "home"),
        };
    }

    get pid(): number {
        const pid = this.server?.pid;
        if (pid === undefined) throw new Error("sshd is down");
        return pid;
    }

    /** How many commands it has started so far, over however many connections. */
    get commands(): number {
        return this.log().match(/^Starting session: /gm)?.length ?? 0;
    }

    log(): string {
        return fs.readFileSync(path.join(this.folder, "log"), "utf8");
    }

    /** Serves again after `down`. */
    async up(): Promise<void> {
        const serve = [SSHD, "-D", "-e", "-f", path.join(this.folder, "config")];
        // As root, sshd insists on a folder below /run: it gets a /run that nobody else sees.
        const root = process.getuid?.() === 0;
        const script = `mount -t tmpfs none /run && mkdir /run/sshd && ${this.mounts(this.folder)} && exec ${serve.join(" ")}`;
        const [program = "", ...args] = root ? ["unshare", "--mount", "sh", "-c", script] : serve;
        const log = fs.openSync(path.join(this.folder, "log"), "a");
        this.server = spawn(program, args, { stdio: ["ignore", log, log] });
        fs.closeSync(log);
        await eventually("sshd listens", () => isListening(this.port));
    }

    /** Runs a shell command where the mounts are. */
    inside(command: string): string {
        const namespace = `--mount=/proc/${this.server?.pid ?? 0}/ns/mnt`;
        return execFileSync("nsenter", [namespace, "sh", "-c", command], { encoding: "utf8" });
    }

    /** Lets nobody in any more; the connections that are there go on. */
    async shut(): Promise<void> {
        this.server?.kill("SIGKILL");
        this.server = undefined;
        await eventually("sshd is gone", async () => !(await isListening(this.port)));
    }

    /** Kills sshd with its connections; what runs behind them is not its business. */
    async down(): Promise<void> {
        const pid = this.server?.pid;
        if (pid === undefined) return;
        const sessions = (parent: number): number[] =>
            childrenOf(parent)
                .filter((child) => commandOf(child).startsWith("sshd:"))
                .flatMap((child) => [child, ...sessions(child)]);
        for (const one of [pid, ...sessions(pid)]) {
            try {
                process.kill(one, "SIGKILL");
            } catch {
                // A session that has just ended by itself.
            }
        }
        this.server = undefined;
        await eventually("sshd is gone", async () => !(await isListening(this.port)));
    }

    /** The programs that the host's workers have forked. */
    private programs(): number[] {
        const workers = processes().filter((pid) => commandOf(pid).includes(`.py worker ${this.runtime}/`));
        return workers.flatMap((worker) => childrenOf(worker)).filter((pid) => workers.includes(pid));
    }

    /** Stops the clock of what runs on the host: it is still running, but gets no further. */
    pause(): void {
        for (const pid of this.programs()) process.kill(pid, "SIGSTOP");
    }

    resume(): void {
        for (const pid of this.programs()) process.kill(pid, "SIGCONT");
    }

    /** A file below the host's RETUNE_HOME, seen from where the mounts are. */
    at(...parts: readonly string[]): string {
        const hidden = process.getuid?.() === 0 && this.server !== undefined;
        const root = hidden ? `/proc/${this.server?.pid ?? 0}/root` : "/";
        return path.join(root, this.target.home, ...parts);
    }

    async dispose(): Promise<void> {
        await this.down();
        const workers = () => processes().filter((pid) => commandOf(pid).includes(`.py worker ${this.runtime}/`));
        for (const pid of workers()) process.kill(pid);
        await eventually("the host's workers end", () => workers().length === 0);
        fs.rmSync(this.folder, { recursive: true, force: true, maxRetries: 5 });
    }
}

function isListening(port: number): Promise<boolean> {
    return new Promise((resolve) => {
        const socket = net.connect(port, "127.0.0.1");
        socket.once("connect", () => {
            socket.destroy();
            resolve(true);
        });
        socket.once("error", () => {
            resolve(false);
        });
    });
}
