import { spawn, spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import { ended, folder, home, key, payload, python, runner, runtime, stateOf, SUCCEED } from "./runner-rig";
import { sha256 } from "../../pipeline/identity";
import { servingSources } from "../../pipeline/service";
import { freePort } from "../free-port";
import { processesOf, read } from "./processes";

const without = spawnSync("bwrap", ["--unshare-user", "--dev-bind", "/", "/", "true"]).status !== 0;

interface Machine {
    readonly user: 0 | 1000;
    readonly lingers?: boolean;
}

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

    /** Runs the runner on such a machine. */
    async function run({ user, lingers = false }: Machine, verb: string, input: string): Promise<string> {
        const machine = [
            ...["--dev-bind", "/", "/", "--tmpfs", "/run", "--dir", "/run/systemd/system", "--tmpfs", "/var/lib"],
            ...["--dir", `/var/lib/systemd/linger/${lingers ? "bob" : "somebody-else"}`],
            ...["--ro-bind", path.join(folder, "passwd"), "/etc/passwd"],
            ...["--unshare-user", "--uid", String(user), "--gid", String(user)],
        ];
        const child = spawn("bwrap", [...machine, python, runner, verb, "--home", home], {
            env: { PATH: `${folder}/bin:${process.env["PATH"] ?? ""}`, XDG_RUNTIME_DIR: runtime },
            stdio: ["pipe", "pipe", "inherit"],
        });
        let answer = "";
        child.stdout.on("data", (data: Buffer) => (answer += data.toString()));
        child.stdin.end(input);
        expect(await new Promise((resolve) => child.on("close", resolve))).toBe(0);
        return answer;
    }

    async function submit(machine: Machine) {
        await run(machine, "submit", payload(SUCCEED));
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

    /** What systemd-run does: notes how it was called, and starts what it is given in a session of its own, or not. */
    function starts(code: number): void {
        const file = path.join(folder, "bin", "systemd-run");
        const start = `while [ "$1" != -- ]; do shift; done; shift; setsid "$@" </dev/null >/dev/null 2>&1 &`;
        writeFileSync(file, `#!/bin/sh\necho "$*" >>'${folder}/calls'\n${code === 0 ? start : ""}\nexit ${code}\n`);
        chmodSync(file, 0o755);
    }

    async function serve(machine: Machine) {
        const empty = sha256("");
        mkdirSync(path.join(home, "store", empty), { recursive: true });
        writeFileSync(path.join(home, "store", `${empty}.json`), JSON.stringify({ digest: empty, files: [] }));
        const port = await freePort();
        const job = {
            key: "a",
            program: "serve.py",
            parameters: { says: "a" },
            inputs: { model: empty },
            environment: {},
        };
        const programs = {
            ...servingSources(),
            "serve.py": readFileSync(path.join(import.meta.dirname, "..", "stand-in-model.py"), "utf8"),
        };
        const request = JSON.stringify({ port, owner: "stack a", job: { ...job, python }, programs });
        const answer = JSON.parse(await run(machine, "serve", request)) as { state: string };
        expect(answer.state).toBe("up");
        expect(processesOf(folder, "front.py")).toHaveLength(1);
        const [call = ""] = read(path.join(folder, "calls")).split("\n");
        return { call: call.replace(/-\d+-\d+ /, "-PORT-PID "), port };
    }
    const unit = (manager: string, port: number): string =>
        `--${manager} --unit=retune-service-PORT-PID --collect --quiet --setenv=XDG_RUNTIME_DIR --setenv=PATH -- ` +
        `${python} -B ${home}/services/${port}/front.py ${home}/services/${port}`;

    test.each([0, 1] as const)(
        "a service of root's is a unit of the machine, or where it is refused (%i) a session",
        async (code) => {
            starts(code);
            const { call, port } = await serve({ user: 0 });
            expect(call).toBe(unit("system", port));
        },
    );

    test("a service of a user who lingers is a unit of his manager", async () => {
        starts(0);
        const { call, port } = await serve({ user: 1000, lingers: true });
        expect(call).toBe(unit("user", port));
    });
});
