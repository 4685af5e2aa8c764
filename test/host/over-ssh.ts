import { describe } from "vitest";
import { withoutSshd } from "./sshd";

/** Tests that want a real sshd: skipped, and it is said why, where there is none. */
export function describeOverSsh(what: string, tests: () => void): void {
    const missing = withoutSshd === undefined ? "" : ` (skipped: ${withoutSshd})`;
    describe.skipIf(missing !== "")(`${what}${missing}`, tests);
}
