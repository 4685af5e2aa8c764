import type { Input } from "@pulumi/pulumi";
import type * as ssh from "./ssh";
import type { Target } from "./target";

/** The machine that a stack names, made ready where that is Retune's business. Only what it needs is loaded. */
export function targetOf(target: Target, precision: string): Input<Target> {
    switch (target.type) {
        case "local":
            return target;
        case "ssh": {
            // eslint-disable-next-line @typescript-eslint/no-require-imports -- import() would make the program asynchronous
            const { sshTarget } = require("./ssh") as typeof ssh;
            return sshTarget(target, precision);
        }
    }
}
