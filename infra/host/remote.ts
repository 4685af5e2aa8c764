import type { Input, Output } from "@pulumi/pulumi";
import { CustomResource, type CustomResourceOptions } from "@pulumi/pulumi/resource.js";
import { secret } from "@pulumi/pulumi/output.js";
import type { asset } from "@pulumi/pulumi";

/*
 * The two resources of Pulumi's command provider that a host is prepared with. Its package, @pulumi/command, is not used:
 * it loads the SDK's index, a second at each start, and has nothing else in it. The provider is the same.
 */

/** npm's `latest` of the package is a stray 4.5.0; this is the provider's newest that works. */
const version = "1.2.1";

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

interface CommandArgs {
    readonly connection: Input<Connection>;
    /** A shell command; it and its `stdin` are kept in the state. */
    readonly create: string;
    readonly stdin: string;
    /** A change of one runs the command again; a change of anything else must not: see `ignoreChanges`. */
    readonly triggers: Input<string>[];
}

/** A command that is run on a host once for each set of triggers. */
export class RemoteCommand extends CustomResource {
    declare readonly stdout: Output<string>;

    constructor(name: string, args: CommandArgs, options: CustomResourceOptions) {
        const connection = secret(args.connection);
        // Off: the last output would come back as an environment variable, which sshd refuses.
        const inputs = { ...args, connection, addPreviousOutputInEnv: false, stdout: undefined, stderr: undefined };
        super("command:remote:Command", name, inputs, {
            version,
            additionalSecretOutputs: ["connection"],
            replaceOnChanges: ["triggers[*]"],
            ...options,
        });
    }
}

interface CopyArgs {
    readonly connection: Input<Connection>;
    readonly source: asset.FileAsset;
    /** Relative to the user's home directory, where it is not absolute. */
    readonly remotePath: string;
    readonly triggers: Input<string>[];
}

/** A file that is copied to a host. */
export class RemoteCopy extends CustomResource {
    constructor(name: string, args: CopyArgs, options: CustomResourceOptions) {
        super(
            "command:remote:CopyToRemote",
            name,
            { ...args, connection: secret(args.connection) },
            { version, additionalSecretOutputs: ["connection"], replaceOnChanges: ["triggers[*]"], ...options },
        );
    }
}
