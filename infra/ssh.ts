import * as fs from "node:fs";
import type { Output } from "@pulumi/pulumi";
import { output } from "@pulumi/pulumi/output.js";
import { UserError } from "../pipeline/user-error";
import { Host, HostRepairs } from "./host/host";
import { prepareHost } from "./host/prepare";
import type { Connection } from "./host/remote";
import type { SshTarget } from "./target";

/**
 * A machine that somebody has, as a target: prepared, unless the stack names a Python that is there, and verified. The
 * stages take the answer, so that none of them starts on a host that is not what it must be. What a refresh finds amiss
 * is prepared again where a script mends it, and verified again.
 */
export function sshTarget(target: SshTarget, precision: string): Output<SshTarget> {
    const { home, gpu, driver, cudaToolkit, mirrors } = target;
    const settings = {
        home,
        gpu,
        ...(driver === undefined ? {} : { driver }),
        ...(cudaToolkit === undefined ? {} : { cudaToolkit }),
        ...(mirrors === undefined ? {} : { mirrors }),
    };
    const wanted = { target, precision };
    const prepared =
        target.python === undefined
            ? prepareHost(connectionOf(target), settings, new HostRepairs("host-repairs", wanted).counts)
            : output("");
    return new Host("host", { ...wanted, prepared }).target;
}

/** The same way to the host for Pulumi's command provider, which does not use OpenSSH. */
function connectionOf({ host, port, user, hostKey, identity, proxyJump, proxyCommand }: SshTarget): Connection {
    if (proxyCommand !== undefined || proxyJump !== undefined) {
        const way = proxyCommand === undefined ? "proxyJump" : "proxyCommand";
        throw new UserError(
            `target.${way}: the host is prepared by Pulumi's command provider, which cannot go that way: prepare it once from a machine that reaches it directly, and name its Python in target.python`,
        );
    }
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
