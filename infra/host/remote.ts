import * as path from "node:path";
import type { Input, Output } from "@pulumi/pulumi";
import { CustomResource, type CustomResourceOptions } from "@pulumi/pulumi/resource.js";
import { secret } from "@pulumi/pulumi/output.js";
import { FileAsset } from "@pulumi/pulumi/asset/asset.js";
import { declared } from "../../pipeline/resources";
import { quote } from "../../pipeline/shell";
import { project } from "../../scripts/locations.cjs";
import type { SshTarget } from "../target";

/*
 * What a host is prepared with. Where Pulumi's command provider gets there, two resources of it. Its package,
 * @pulumi/command, is not used: it loads the SDK's index, a second at each start, and has nothing else in it. The provider
 * is the same. It knows no ProxyCommand and wakes nobody: on such a way Retune's own provider runs the same commands.
 */

/** npm's `latest` of the package is a stray 4.5.0; this is the provider's newest that works. */
const version = "1.2.1";

const byCommandProvider = {
    version,
    additionalSecretOutputs: ["connection"],
    replaceOnChanges: ["triggers[*]"],
} satisfies CustomResourceOptions;

const HOST_COMMAND = "finetune:infra:HostCommand";
const SHELL = "exec bash -s";

/** How the provider reaches a host. It knows no ProxyCommand, and one jump host. */
export interface Connection {
    readonly host: string;
    readonly port?: number;
    readonly user: string;
    /** Without it the provider would believe any host. */
    readonly hostKey: string;
    /** Content of a private key file; without it the agent's keys count. */
    readonly privateKey?: string;
    readonly agentSocketPath?: string;
    /** Failed attempts to connect before it gives up. */
    readonly dialErrorLimit?: number;
    readonly proxy?: Omit<Connection, "proxy">;
}

/** To a host directly, or as a stage gets there. */
export type Way = { readonly connection: Input<Connection> } | { readonly target: Input<SshTarget> };

interface CommandArgs {
    readonly way: Way;
    /** What `bash -s` gets; it is kept in the state. */
    readonly program: string;
    /** A change of one runs the command again. */
    readonly triggers: Input<string>[];
}

/** A command that is run on a host once for each set of triggers. */
export class RemoteCommand extends CustomResource {
    declare readonly stdout: Output<string>;

    constructor(name: string, { way, program, triggers }: CommandArgs, options: CustomResourceOptions) {
        const what = { stdin: program, triggers, stdout: undefined };
        if ("target" in way) {
            super(HOST_COMMAND, name, { ...what, target: way.target, command: SHELL }, options);
            declared.push({ name, type: HOST_COMMAND });
            return;
        }
        // Off: the last output would come back as an environment variable, which sshd refuses.
        const reached = { connection: secret(way.connection), addPreviousOutputInEnv: false, stderr: undefined };
        super(
            "command:remote:Command",
            name,
            { ...what, ...reached, create: SHELL },
            { ...byCommandProvider, ...options },
        );
    }
}

interface CopyArgs {
    readonly way: Way;
    /** Relative to the project. */
    readonly file: string;
    /** Relative to the user's home directory, where it is not absolute. */
    readonly remotePath: string;
    readonly triggers: Input<string>[];
}

/** A file that is copied to a host. */
export class RemoteCopy extends CustomResource {
    constructor(name: string, { way, file, remotePath, triggers }: CopyArgs, options: CustomResourceOptions) {
        if ("target" in way) {
            const inputs = { target: way.target, command: `cat >${quote(remotePath)}`, file, triggers };
            super(HOST_COMMAND, name, inputs, options);
            declared.push({ name, type: HOST_COMMAND });
            return;
        }
        const source = new FileAsset(path.join(project, file));
        const inputs = { connection: secret(way.connection), source, remotePath, triggers };
        super("command:remote:CopyToRemote", name, inputs, { ...byCommandProvider, ...options });
    }
}
