import { spawn, spawnSync } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
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
        for (const name of ["bin", "units"]) mkdirSync(path.join(folder, name));
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
    async function run({ user, lingers = false }: Machine, verb: readonly string[], input = ""): Promise<string> {
        const machine = [
            ...["--dev-bind", "/", "/", "--tmpfs", "/run", "--dir", "/run/systemd/system", "--tmpfs", "/var/lib"],
            ...["--dir", `/var/lib/systemd/linger/${lingers ? "bob" : "somebody-else"}`],
            ...["--ro-bind", path.join(folder, "passwd"), "/etc/passwd"],
            ...["--bind", path.join(folder, "units"), "/etc/systemd/system"],
            ...["--unshare-user", "--uid", String(user), "--gid", String(user)],
        ];
        const child = spawn("bwrap", [...machine, python, runner, ...verb, "--home", home], {
            env: { PATH: `${folder}/bin:${process.env["PATH"] ?? ""}`, XDG_RUNTIME_DIR: runtime, HOME: folder },
            stdio: ["pipe", "pipe", "inherit"],
        });
        let answer = "";
        child.stdout.on("data", (data: Buffer) => (answer += data.toString()));
        child.stdin.end(input);
        expect(await new Promise((resolve) => child.on("close", resolve))).toBe(0);
        return answer;
    }

    async function submit(machine: Machine) {
        await run(machine, ["submit"], payload(SUCCEED));
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

    /** What systemctl does: notes how it was called, and starts what the unit says in a session of its own, or not. */
    function starts(code: number, units: string): void {
        const file = path.join(folder, "bin", "systemctl");
        const start = `eval "set -- $(sed -n s/^ExecStart=//p "${units}/$3")"; setsid "$@" </dev/null >/dev/null 2>&1 &`;
        const restart = code === 0 ? `if [ "$2" = restart ]; then ${start} fi\n` : "";
        writeFileSync(file, `#!/bin/sh\necho "$*" >>'${folder}/calls'\n${restart}exit ${code}\n`);
        chmodSync(file, 0o755);
    }
    const calls = (): string[] => read(path.join(folder, "calls")).split("\n").slice(0, -1);

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
        const answer = JSON.parse(await run(machine, ["serve"], request)) as { state: string };
        expect(answer.state).toBe("up");
        expect(processesOf(folder, "front.py")).toHaveLength(1);
        const place = `${home}/services/${port}`;
        return { port, unit: `retune-service-${port}-${sha256(place).slice(0, 8)}.service`, place };
    }

    test.each<[string, Machine, string, string, string]>([
        ["root's is a unit of the machine", { user: 0 }, "units", "system", "multi-user.target"],
        [
            "a user who lingers is a unit of his manager",
            { user: 1000, lingers: true },
            ".config/systemd/user",
            "user",
            "default.target",
        ],
    ])(
        "a service of %s, which is started with it after every boot, until it is ended",
        async (_, machine, below, manager, target) => {
            const units = path.join(folder, below);
            starts(0, units);
            const { port, unit, place } = await serve(machine);
            expect(calls()).toEqual([`--${manager} enable ${unit}`, `--${manager} restart ${unit}`]);
            expect(read(path.join(units, unit))).toBe(
                [
                    "[Unit]",
                    `Description=Service of Retune at port ${port}`,
                    "[Service]",
                    `ExecStart="${python}" "-B" "${place}/front.py" "${place}"`,
                    `Environment="PATH=${folder}/bin:${process.env["PATH"] ?? ""}"`,
                    `Environment="HOME=${folder}"`,
                    "OOMPolicy=continue",
                    "[Install]",
                    `WantedBy=${target}`,
                    "",
                ].join("\n"),
            );
            await run(machine, ["end-service", String(port), "--owner", "stack a"]);
            expect(calls().slice(2)).toEqual([`--${manager} disable ${unit}`, `--${manager} daemon-reload`]);
            expect(existsSync(path.join(units, unit))).toBe(false);
            expect(processesOf(folder, "front.py")).toEqual([]);
        },
    );

    test("a service has a session of its own where systemd refuses its unit, which goes", async () => {
        starts(1, path.join(folder, "units"));
        const { unit } = await serve({ user: 0 });
        expect(calls()).toEqual(
            ["enable", "disable", "daemon-reload"].map((verb) =>
                `--system ${verb} ${verb === "daemon-reload" ? "" : unit}`.trimEnd(),
            ),
        );
        expect(existsSync(path.join(folder, "units", unit))).toBe(false);
    });

    test("a service of a user who does not linger has a session of its own", async () => {
        starts(0, path.join(folder, ".config/systemd/user"));
        await serve({ user: 1000 });
        expect(calls()).toEqual([]);
    });
});
