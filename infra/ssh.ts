import * as fs from "node:fs";
import type { Input, Output } from "@pulumi/pulumi";
import { output } from "@pulumi/pulumi/output.js";
import type { CustomResourceOptions } from "@pulumi/pulumi/resource.js";
import { UserError } from "../pipeline/user-error";
import { Host, HostRepairs, type Needs } from "./host/host";
import { prepareHost, type HostSettings } from "./host/prepare";
import type { Connection, Way } from "./host/remote";
import type { SshTarget } from "./target";

/**
 * A machine that somebody has, as a target: prepared, unless the stack names a Python that is there, and verified. The
 * stages take the answer, so that none of them starts on a host that is not what it must be. What a refresh finds amiss
 * is prepared again where a script mends it, and verified again.
 */
export function sshTarget(target: SshTarget, needs: Needs): Output<SshTarget> {
    const wanted = { target, ...needs };
    const way = (): Way => (isDirect(target) ? { connection: connectionOf(target) } : { target });
    const prepared = target.python === undefined ? preparation(target, way(), wanted) : output("");
    return new Host("host", { ...wanted, prepared }).target;
}

type Settings = Pick<SshTarget, "home" | "gpu" | "driver" | "cudaToolkit" | "mirrors">;

/** The scripts of infra/host/, on the way that leads there; answers what the last one says. */
export function preparation(
    { home, gpu, driver, cudaToolkit, mirrors }: Settings,
    way: Way,
    wanted: { readonly target: Input<SshTarget> } & Needs,
    options: CustomResourceOptions = {},
): Output<string> {
    const settings: HostSettings = {
        home,
        gpu,
        ...(driver === undefined ? {} : { driver }),
        ...(cudaToolkit === undefined ? {} : { cudaToolkit }),
        ...(mirrors === undefined ? {} : { mirrors }),
    };
    return prepareHost(way, settings, new HostRepairs("host-repairs", wanted).counts, options);
}

/** Whether Pulumi's command provider gets there: it knows no ProxyCommand, and wakes nobody. */
function isDirect({ instance, proxyJump, proxyCommand }: SshTarget): boolean {
    return instance === undefined && proxyJump === undefined && proxyCommand === undefined;
}

/** The same way to the host for Pulumi's command provider, which does not use OpenSSH. */
function connectionOf({ host, port, user, hostKey, identity }: SshTarget): Connection {
    const agentSocketPath = process.env["SSH_AUTH_SOCK"];
    if (identity === undefined) {
        if (agentSocketPath === undefined)
            throw new UserError("target.identity: name a private key file, or start an ssh-agent that has one");
        return { host, port, user, hostKey, agentSocketPath };
    }
    try {
        return { host, port, user, hostKey, privateKey: fs.readFileSync(identity, "utf8") };
    } catch (error) {
        throw new UserError(`target.identity: ${identity} cannot be read: ${(error as Error).message}`);
    }
}
