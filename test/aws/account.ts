import { execFileSync, spawn, spawnSync, type ChildProcess } from "node:child_process";
import * as crypto from "node:crypto";
import { once } from "node:events";
import * as fs from "node:fs";
import * as http from "node:http";
import type { AddressInfo } from "node:net";
import * as os from "node:os";
import * as path from "node:path";
import { imageParameter } from "../../infra/aws/offers";
import type { Json } from "../../pipeline/identity";
import { cache } from "../../scripts/locations.cjs";
import { eventually, type Rig } from "../engine/rig";
import { makeKey, Sshd, withoutSshd } from "../host/sshd";

const TOOLS = ["moto[server,s3]==5.2.5", "awscli==1.46.3"];

/** Why there can be no account here; undefined where there can. */
export const withoutAccount =
    withoutSshd ??
    (process.getuid?.() === 0
        ? undefined
        : "only root can keep what the machine's scripts install from this machine") ??
    (spawnSync("rclone", ["version"]).status === 0 ? undefined : "rclone is not installed");

/** moto and AWS's own command line, in an environment of their own in the cache. */
function tools(): string {
    const folder = path.join(cache(), "test-tools", TOOLS.join("-").replace(/\W+/g, "-"));
    const python = path.join(folder, "bin", "python");
    if (!fs.existsSync(path.join(folder, "bin", "aws"))) {
        execFileSync("python3", ["-m", "venv", "--clear", folder]);
        execFileSync(python, ["-m", "pip", "install", "--quiet", ...TOOLS]);
    }
    return python;
}

/** Below it only what is behind the sshd sees what is installed. */
const HIDDEN = ["/etc/systemd/system", "/usr/local/sbin"];

/** An empty AWS account, moto on loopback, in which the only machine that there ever is is a loopback sshd. */
export class Account {
    readonly folder = fs.mkdtempSync(path.join(os.tmpdir(), "retune-aws-"));
    readonly identity = path.join(this.folder, "client-key");
    /** Of its credentials; moto takes any. */
    readonly secret = crypto.randomBytes(20).toString("hex");
    private readonly calls = path.join(this.folder, "calls");
    private readonly control = path.join(this.folder, "control.json");
    private readonly python = tools();
    private readonly metadata = new Metadata();
    private server: ChildProcess | undefined;
    private port = "";

    /** `programs` are those of the machine that are stood in for. */
    private constructor(
        readonly sshd: Sshd,
        private readonly programs: string,
    ) {}

    static async open(): Promise<Account> {
        const programs = fs.mkdtempSync(path.join(os.tmpdir(), "retune-programs-"));
        const sshd = await Sshd.start({
            environment: { PATH: `${programs}:${process.env["PATH"] ?? ""}` },
            mounts: () => HIDDEN.map((folder) => `mount -t tmpfs none ${folder}`).join(" && "),
        });
        const account = new Account(sshd, programs);
        await account.start();
        return account;
    }

    private async start(): Promise<void> {
        makeKey(this.identity);
        fs.appendFileSync(
            path.join(this.sshd.folder, "authorized-keys"),
            fs.readFileSync(`${this.identity}.pub`, "utf8"),
        );
        fs.writeFileSync(this.calls, "");
        this.has({ quota: 8 });
        const portFile = path.join(this.folder, "port");
        this.server = spawn(this.python, [path.join(import.meta.dirname, "account.py"), portFile], {
            stdio: ["pipe", "pipe", "ignore"],
        });
        await eventually("moto listens", () => fs.existsSync(portFile));
        this.port = fs.readFileSync(portFile, "utf8");
        await this.install();
        await this.publish("gpu-ubuntu-22.04", "ami-0000000000000001");
    }

    private async install(): Promise<void> {
        const write = (name: string, script: string) => {
            fs.writeFileSync(path.join(this.programs, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
        };
        write("systemctl", "");
        // As it is, but that S3 and what AWS tells a machine are on loopback; see bin/rclone.
        const rclone = execFileSync("sh", ["-c", "command -v rclone"], { encoding: "utf8" }).trim();
        const settings = {
            AWS_EC2_METADATA_SERVICE_ENDPOINT: await this.metadata.open(),
            RCLONE_S3_ENDPOINT: `http://127.0.0.1:${this.port}`,
            RCLONE_S3_PROVIDER: "Other",
        };
        const words = Object.entries(settings).map(([name, value]) => `${name}=${value}`);
        write("rclone", `unset AWS_CA_BUNDLE; export ${words.join(" ")}; exec ${rclone} "$@"`);
    }

    /** Tells the machine that it is taken back, and has its own meter see it: resolves when that powers it off. */
    async takeBack(): Promise<void> {
        this.metadata.notice = { action: "stop", time: new Date(Date.now() + 120_000).toISOString() };
        // What it counts is kept on the machine's disk.
        const script = "mount -t tmpfs none /var/lib && exec bash /usr/local/sbin/retune-meter";
        const meter = spawn(
            "nsenter",
            [`--mount=/proc/${this.sshd.pid}/ns/mnt`, "unshare", "--mount", "sh", "-c", script],
            {
                env: {
                    PATH: `${this.programs}:${process.env["PATH"] ?? ""}`,
                    AWS_EC2_METADATA_SERVICE_ENDPOINT: this.metadata.endpoint,
                },
                stdio: ["ignore", "pipe", "inherit"],
            },
        );
        let said = "";
        meter.stdout.on("data", (data: Buffer) => (said += data.toString()));
        const [code] = (await once(meter, "close")) as [number];
        this.metadata.notice = undefined;
        if (code !== 0 || said !== "AWS takes the machine back\n")
            throw new Error(`the meter ended with ${code}: ${said}`);
    }

    /** What AWS says is the newest image; null for a parameter that is missing. */
    async publish(system: Parameters<typeof imageParameter>[0], image: string | null): Promise<void> {
        const { stdin, stdout } = this.server ?? {};
        if (!stdin || !stdout) throw new Error("the account is closed");
        const answered = once(stdout, "data");
        stdin.write(`${JSON.stringify({ name: imageParameter(system), value: image })}\n`);
        await answered;
    }

    /**
     * What moto does not know of an account: `taken` is the name of each bucket, `expired` are the credentials once a
     * machine shall be made, and without `capacity` there is none.
     */
    has(control: {
        readonly quota: number;
        readonly capacity?: boolean;
        readonly expired?: boolean;
        readonly taken?: boolean;
    }): void {
        fs.writeFileSync(this.control, JSON.stringify(control));
    }

    /** Makes the commands of a rig use the account. */
    enter(rig: Rig): void {
        const here = path.join(rig.project, "test", "aws");
        const programs = [path.join(here, "aws-provider"), path.join(here, "bin")];
        Object.assign(rig.environment, {
            ...this.environment,
            PATH: [...programs, rig.environment["PATH"] ?? ""].join(path.delimiter),
            RCLONE_CONFIG: "/dev/null",
            RCLONE_S3_ENDPOINT: `http://127.0.0.1:${this.port}`,
            RETUNE_AWS_CALLS: this.calls,
            RETUNE_AWS_MACHINE: JSON.stringify({
                hostKey: path.join(this.sshd.folder, "host-key"),
                pid: this.sshd.pid,
            }),
            RETUNE_AWS_CONTROL: this.control,
            RETUNE_AWS_PYTHON: this.python,
            RETUNE_AWS_SSHD: String(this.sshd.port),
        });
    }

    private get environment() {
        return {
            // rclone 1.60, Debian's, does not start with one of its own.
            AWS_CA_BUNDLE: undefined,
            AWS_ACCESS_KEY_ID: "test",
            AWS_SECRET_ACCESS_KEY: this.secret,
            AWS_PROFILE: undefined,
            AWS_EC2_METADATA_DISABLED: "true",
            AWS_ENDPOINT_URL: `http://127.0.0.1:${this.port}`,
        };
    }

    /** What was asked of AWS since the last time: `create machine`, `aws ec2 start-instances`. */
    asked(): string[] {
        const lines = fs.readFileSync(this.calls, "utf8").split("\n").slice(0, -1);
        fs.writeFileSync(this.calls, "");
        return lines;
    }

    /** Asks AWS itself, as somebody beside the stack would. */
    aws(...args: readonly string[]): Json {
        const program = path.join(path.dirname(this.python), "aws");
        const env = { ...process.env, ...this.environment };
        const words = [...args, "--region", "us-east-1", "--output", "json"];
        const said = execFileSync(program, words, { encoding: "utf8", env, stdio: ["ignore", "pipe", "pipe"] });
        return said === "" ? null : (JSON.parse(said) as Json);
    }

    /** Every machine that is not terminated. */
    machines(): Machine[] {
        const query = "Reservations[].Instances[?State.Name != 'terminated'][]";
        return this.aws("ec2", "describe-instances", "--query", query) as unknown as Machine[];
    }

    async close(): Promise<void> {
        this.server?.kill();
        this.metadata.close();
        await this.sshd.dispose();
        fs.rmSync(this.programs, { recursive: true, force: true });
        fs.rmSync(this.folder, { recursive: true, force: true });
    }
}

/** What AWS tells a machine about itself, to whoever has asked for a token: its role's credentials, and a notice of its end. */
class Metadata {
    notice: { readonly action: "stop"; readonly time: string } | undefined;
    endpoint = "";
    private readonly server = http.createServer((request, response) => {
        const [status, body] = this.answer(request);
        response.writeHead(status, { "x-aws-ec2-metadata-token-ttl-seconds": "60" }).end(body);
    });

    async open(): Promise<string> {
        this.server.listen(0, "127.0.0.1");
        await once(this.server, "listening");
        this.endpoint = `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
        return this.endpoint;
    }

    close(): void {
        this.server.close();
    }

    private answer({ method, url, headers }: http.IncomingMessage): [status: number, body?: string] {
        if (method === "PUT" && url === "/latest/api/token") return [200, "a token"];
        if (headers["x-aws-ec2-metadata-token"] !== "a token") return [401];
        switch (url) {
            case "/latest/meta-data/iam/security-credentials/":
                return [200, "machine-role"];
            case "/latest/meta-data/iam/security-credentials/machine-role": {
                const Expiration = new Date(Date.now() + 3_600_000).toISOString();
                const key = { AccessKeyId: "machine", SecretAccessKey: "secret", Token: "session" };
                return [200, JSON.stringify({ Code: "Success", Type: "AWS-HMAC", ...key, Expiration })];
            }
            case "/latest/meta-data/spot/instance-action":
                return this.notice === undefined ? [404] : [200, JSON.stringify(this.notice)];
            default:
                return [404];
        }
    }
}

export interface Machine {
    readonly InstanceId: string;
    readonly InstanceType: string;
    readonly ImageId: string;
    readonly PublicIpAddress?: string;
    readonly State: { readonly Name: string };
    readonly Tags: readonly { readonly Key: string; readonly Value: string }[];
}
