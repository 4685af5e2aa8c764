import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { meaningOf } from "../../infra/aws/refusals";
import { UserError } from "../user-error";
import { Absent } from "./executor";

const execute = promisify(execFile);

/** What AWS says of a machine. Only a running one has an address. */
export interface InstanceState {
    readonly state: "pending" | "running" | "stopping" | "stopped" | "shutting-down" | "terminated";
    readonly address: string | undefined;
}

/**
 * An EC2 instance, asked through AWS's own command line, which knows every kind of credentials. It is loaded and called
 * where a machine may sleep and something has to run on it, never in an update with nothing to do.
 */
export class Instance {
    constructor(
        private readonly id: string,
        private readonly region: string,
    ) {}

    async look(): Promise<InstanceState> {
        const answer = await this.aws("describe-instances", ["--instance-ids", this.id]);
        interface Described {
            readonly Reservations?: readonly {
                readonly Instances?: readonly {
                    readonly State: { readonly Name: InstanceState["state"] };
                    readonly PublicIpAddress?: string;
                }[];
            }[];
        }
        const instance = (JSON.parse(answer) as Described).Reservations?.[0]?.Instances?.[0];
        if (instance === undefined) throw this.gone();
        const { State, PublicIpAddress } = instance;
        if (State.Name === "terminated" || State.Name === "shutting-down") throw this.gone();
        return { state: State.Name, address: PublicIpAddress };
    }

    /** Whether something may be running on it. */
    async isAwake(): Promise<boolean> {
        try {
            return (await this.look()).state === "running";
        } catch (error) {
            if (error instanceof Absent) return false;
            throw error;
        }
    }

    async start(): Promise<void> {
        await this.aws("start-instances", ["--instance-ids", this.id]);
    }

    /** The arguments of ssh's ProxyCommand that goes through Session Manager. */
    static proxyCommand(id: string, region: string): string {
        return `aws ssm start-session --target ${id} --document-name AWS-StartSSHSession --parameters portNumber=%p --region ${region}`;
    }

    private async aws(verb: string, args: readonly string[]): Promise<string> {
        try {
            const words = ["ec2", verb, ...args, "--region", this.region, "--output", "json"];
            const env = { ...process.env, AWS_PAGER: "" };
            return (await execute("aws", words, { env, maxBuffer: 1 << 24 })).stdout;
        } catch (error) {
            const { code, stderr } = error as { code?: number | string; stderr?: string };
            if (code === "ENOENT") {
                throw new UserError(
                    `whether ${this.id} is awake is asked with the AWS command line, which is not on PATH: https://docs.aws.amazon.com/cli`,
                );
            }
            throw this.explained((stderr ?? "").trim().split("\n").at(-1) ?? "");
        }
    }

    private explained(said: string): UserError {
        if (said.includes("InvalidInstanceID")) return this.gone();
        const meaning = meaningOf(said);
        return new UserError(meaning === undefined ? `AWS refuses: ${said}` : `${meaning} (${said})`);
    }

    private gone(): Absent {
        return new Absent(
            `${this.id} does not exist any more: \`npm run refresh\`, then \`npm run up\` make another, and no stage that is done runs again`,
        );
    }
}
