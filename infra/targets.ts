import type { Input } from "@pulumi/pulumi";
import type * as aws from "./aws";
import type { Needs } from "./host/host";
import type * as ssh from "./ssh";
import type { DeclaredTarget, Target } from "./target";

/** The machine that a stack names, made ready where that is Retune's business. Only what it needs is loaded. */
export function targetOf(target: DeclaredTarget, stack: string, needs: Needs): Input<Target> {
    switch (target.type) {
        case "local":
            return target;
        case "ssh": {
            // eslint-disable-next-line @typescript-eslint/no-require-imports -- import() would make the program asynchronous
            const { sshTarget } = require("./ssh") as typeof ssh;
            return sshTarget(target, needs);
        }
        case "aws": {
            // eslint-disable-next-line @typescript-eslint/no-require-imports -- as above
            const { awsTarget } = require("./aws") as typeof aws;
            return awsTarget(target, stack, needs);
        }
    }
}
