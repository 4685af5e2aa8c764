import { spawn, spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import { ended, folder, home, key, payload, python, runner, runtime, stateOf, SUCCEED } from "./runner-rig";
import { read } from "./processes";

const without = spawnSync("bwrap", ["--unshare-user", "--dev-bind", "/", "/", "true"]).status !== 0;

// Where systemd is the machine's, as far as the runner sees it: a namespace with its folders, and a stand-in for busctl.
describe.skipIf(without)(`a run on a machine with systemd${without ? " (skipped: no bubblewrap)" : ""}`, () => {
    beforeEach(() => {
        mkdirSync(path.join(folder, "bin"));
        writeFileSync(path.join(folder, "passwd"), "bob:x:1000:1000::/home/bob:/bin/sh\nroot:x:0:0::/root:/bin/sh\n");
        answers(0);
    });

    /** What busctl does: notes how it was called, and says that it worked, or not. */
    function answers(code: number): void {
        const file = path.join(folder, "bin", "busctl");
        writeFileSync(file, `#!/bin/sh\necho "$*" >>'${folder}/calls'\necho said >&2\nexit ${code}\n`);
        chmodSync(file, 0o755);
    }

    async function submit({ user, lingers = false }: { readonly user: 0 | 1000; readonly lingers?: boolean }) {
        const machine = [
            ...["--dev-bind", "/", "/", "--tmpfs", "/run", "--dir", "/run/systemd/system", "--tmpfs", "/var/lib"],
            ...["--dir", `/var/lib/systemd/linger/${lingers ? "bob" : "somebody-else"}`],
            ...["--ro-bind", path.join(folder, "passwd"), "/etc/passwd"],
            ...["--unshare-user", "--uid", String(user), "--gid", String(user)],
        ];
        const child = spawn("bwrap", [...machine, python, runner, "submit", "--home", home], {
            env: { PATH: `${folder}/bin:${process.env["PATH"] ?? ""}`, XDG_RUNTIME_DIR: runtime },
            stdio: ["pipe", "ignore", "inherit"],
        });
        child.stdin.end(payload(SUCCEED));
        expect(await new Promise((resolve) => child.on("close", resolve))).toBe(0);
        expect(await ended()).toMatchObject({ state: "succeeded", attempt: 1 });
        expect(read(path.join(home, "runs", key, "log"))).toBe("");
        return read(path.join(folder, "calls")).split("\n").slice(0, -1);
    }

    /** The supervisor is moved as it is: what holds the run's lock does not change. */
    const moved = (manager: string): string => {
        const { pid } = stateOf();
        const name = `retune-${key.slice(0, 12)}-${pid}.scope`;
        return (
            `--${manager} call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager ` +
            `StartTransientUnit ssa(sv)a(sa(sv)) ${name} fail 3 PIDs au 1 ${pid} CollectMode s inactive-or-failed Delegate b true 0`
        );
    };

    test("of root's becomes a scope of the machine", async () => {
        expect(await submit({ user: 0 })).toEqual([moved("system")]);
    });

    test("of a user who lingers becomes a scope of his manager", async () => {
        expect(await submit({ user: 1000, lingers: true })).toEqual([moved("user")]);
    });

    test("of a user who does not linger stays where it is: his manager ends before it", async () => {
        expect(await submit({ user: 1000 })).toEqual([]);
    });

    test("goes on in a session of its own where systemd refuses", async () => {
        answers(1);
        expect(await submit({ user: 0 })).toEqual([moved("system")]);
    });
});
