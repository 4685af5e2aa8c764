import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as http from "node:http";
import type { AddressInfo } from "node:net";
import * as path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { HostSettings } from "../../infra/host/prepare";
import { STEPS } from "../../infra/host/scripts";
import { sha256, type JsonObject } from "../../pipeline/identity";
import { eventually, Rig } from "../engine/rig";
import { describeOverSsh } from "./over-ssh";
import { makeKey, Sshd } from "./sshd";

/** Every resource of a preparation, in its order. */
const ALL = [...STEPS.slice(0, -1), "lock", "environment"].map((step) => `host-${step}`);

/** Installs, in Miniforge's way, a conda, a Python and a uv that make an environment of empty files. */
const INSTALLER = `#!/bin/bash
set -e
bin=$4/bin
mkdir -p "$bin"
cat >"$bin/conda" <<'END'
#!/bin/bash
while [[ $1 != --prefix ]]; do shift; done
mkdir -p "$2/bin"
cat >"$2/bin/python" <<'PYTHON'
#!/bin/bash
echo '{"version": "2.8.0", "cuda": null, "available": false, "bf16": false}'
PYTHON
chmod +x "$2/bin/python"
END
cat >"$bin/python" <<'END'
#!/bin/bash
case $2 in
    venv) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    pip) printf '#!/bin/bash\\nwhile [[ $1 != --python ]]; do shift; done\\nprintf "#!/bin/bash\\\\necho version 0.9.5\\\\n" >"\${2%%/*}/llamafactory-cli"; chmod +x "\${2%%/*}/llamafactory-cli"\\n' >"\${0%/*}/uv" && chmod +x "\${0%/*}/uv" ;;
esac
END
chmod +x "$bin"/*
`;

const PROGRAM = `import { readFileSync } from "node:fs";
import { Host, HostRepairs } from "./infra/host/host";
import { prepareHost } from "./infra/host/prepare";
const { connection, settings, repairs, target } = JSON.parse(readFileSync("host.json", "utf8"));
const { counts } = new HostRepairs("host-repairs", { target, precision: "fp32" });
export const prepared = prepareHost({ connection }, settings, counts.apply((found) => ({ ...found, ...repairs })));
new Host("host", { target, precision: "fp32", prepared });
`;

describeOverSsh("preparing a host", () => {
    let rig: Rig;
    let sshd: Sshd;
    let mirror: http.Server;
    let log: string;
    let home: string;
    let stand: string;

    beforeAll(async () => {
        rig = new Rig();
        // Stand-ins for what would restart the machine: they note how they were called.
        stand = path.join(rig.folder, "stand-ins");
        fs.mkdirSync(stand);
        for (const command of ["systemctl", "systemd-run"]) {
            const script = `#!/bin/sh\necho "${command} $*" >>${stand}/calls\n[ ${command} = systemd-run ] || : >${stand}/stopped\n`;
            fs.writeFileSync(path.join(stand, command), script, { mode: 0o755 });
        }
        sshd = await Sshd.start({ environment: { PATH: `${stand}:${process.env["PATH"] ?? ""}` } });
        mirror = http.createServer((_, response) => response.end(INSTALLER));
        await new Promise<void>((resolve) => mirror.listen(0, "127.0.0.1", resolve));
        log = path.join(rig.folder, "commands");
        home = path.join(sshd.folder, "host");
        const provider = path.join(rig.project, "test", "host", "command-provider");
        rig.environment["PATH"] = `${provider}${path.delimiter}${rig.environment["PATH"] ?? ""}`;
        rig.environment["RETUNE_COMMANDS"] = log;
        rig.write("index.ts", PROGRAM);
        configure();
    });
    afterAll(async () => {
        await rig.dispose();
        await sshd.dispose();
        await new Promise((resolve) => mirror.close(resolve));
    });

    function configure(changes: Partial<HostSettings> = {}, reached: JsonObject = {}, repairs: JsonObject = {}): void {
        const { port, hostKey, identity, target } = sshd;
        const privateKey = fs.readFileSync(identity, "utf8");
        const connection = { host: "127.0.0.1", port, user: target.user, hostKey, privateKey, ...reached };
        const settings: HostSettings = {
            home,
            gpu: "none",
            miniforge: { version: "1", sha256: sha256(INSTALLER) },
            mirrors: { miniforge: `http://127.0.0.1:${(mirror.address() as AddressInfo).port}` },
            ...changes,
        };
        rig.write("host.json", JSON.stringify({ connection, settings, repairs, target: { ...target, home } }));
    }

    /** Updates the stack; answers what ran on the host, in order. */
    async function up() {
        fs.writeFileSync(log, "");
        const { code, answer, actions, stderr } = await rig.json("up");
        const ran = fs.readFileSync(log, "utf8").split("\n").slice(0, -1);
        return { code, ran, outputs: answer.outputs, host: actions["host"], stderr };
    }

    const created = (...names: readonly string[]): string[] => names.map((name) => `create ${name}`);
    const edit = (script: string): void => {
        const file = path.join(rig.project, "infra", "host", `${script}.sh`);
        fs.appendFileSync(file, "# edited\n");
    };

    test("from bare to an environment that runs, each step once and in order", async () => {
        const { code, ran, outputs, stderr } = await up();
        expect([code, stderr]).toEqual([0, expect.any(String)]);
        expect(ran).toEqual(created(...ALL));
        expect(outputs).toEqual({
            prepared: `environment: LLaMA-Factory 0.9.5 is ready in ${home}/miniforge/envs/llama-factory (cu128)`,
        });
        const version = [
            path.join(home, "miniforge", "envs", "llama-factory", "bin", "llamafactory-cli"),
            "version",
        ] as const;
        expect(execFileSync(version[0], [version[1]], { encoding: "utf8" })).toBe("version 0.9.5\n");
        expect(fs.readdirSync(path.join(home, "logs", "prepare")).sort()).toEqual(
            [...STEPS].map((step) => `${step}.log`).sort(),
        );
    });

    test("a second update opens no connection", async () => {
        const before = sshd.commands;
        expect(await up()).toMatchObject({ code: 0, ran: [] });
        expect(sshd.commands).toBe(before);
    });

    test("the private key is in no file of the state, nor of the host", () => {
        const secret = fs.readFileSync(sshd.identity, "utf8").split("\n")[2] ?? "";
        expect(secret.length).toBeGreaterThan(40);
        const found = (folder: string): string =>
            execFileSync("sh", ["-c", 'grep -rlF "$1" "$2" || true', "sh", secret, folder], { encoding: "utf8" });
        expect([found(path.join(rig.home, "state")), found(home)]).toEqual(["", ""]);
    });

    test.each([
        ["miniforge", ["host-miniforge"]],
        ["environment", ["host-lock", "host-environment"]],
        // Whether to restart is what `driver` says: the same, so nothing after it runs.
        ["driver", ["host-driver"]],
    ])("an edit of %s.sh runs that script and what depends on its effect", async (script, names) => {
        edit(script);
        const { code, ran } = await up();
        expect([code, ran]).toEqual([0, created(...names)]);
    });

    test("an edit of what all scripts begin with runs them all", async () => {
        edit("lib");
        expect(await up()).toMatchObject({ code: 0, ran: created(...ALL) });
    });

    test("a setting runs the scripts that read it", async () => {
        configure({ mirrors: { miniforge: "http://127.0.0.1:9", conda: "https://mirror.example/anaconda/cloud" } });
        expect(await up()).toMatchObject({ code: 0, ran: created("host-miniforge") });
        expect(fs.readFileSync(path.join(home, "miniforge", ".condarc"), "utf8")).toContain("mirror.example");
        configure();
        expect(await up()).toMatchObject({ code: 0, ran: created("host-miniforge") });
    });

    test("a script that fails shows its last lines, and leaves the state as it was", async () => {
        configure({ cudaToolkit: "12.8" });
        const file = path.join(home, "miniforge", "bin", "conda");
        fs.renameSync(file, `${file}.away`);
        const failed = await up();
        expect([failed.code, failed.ran]).toEqual([1, created("host-cuda-toolkit")]);
        expect(failed.stderr).toContain("\nhost-cuda-toolkit: ");
        expect(failed.stderr).toContain("\ncuda-toolkit: failed with exit code 127. The last lines of");
        fs.renameSync(`${file}.away`, file);
        configure();
        expect(await up()).toMatchObject({ code: 0, ran: [] });
    });

    describe("drift", () => {
        const environment = () => path.join(home, "miniforge", "envs", "llama-factory", "bin", "llamafactory-cli");
        const mending = created("host-miniforge", "host-cuda-toolkit", "host-lock", "host-environment");
        const drift = () => rig.state().resources?.find(({ urn }) => urn.endsWith("::host"))?.outputs?.["drift"];

        test("that a refresh finds is mended by the script for it, and the host is verified again", async () => {
            fs.rmSync(environment());
            expect((await rig.json("refresh")).code).toBe(0);
            expect(drift()).toBe("environment is does not start, wanted LLaMA-Factory 0.9.5");
            expect(fs.existsSync(environment())).toBe(false);

            expect(await up()).toMatchObject({ code: 0, ran: mending, host: "ran" });
            expect(execFileSync(environment(), { encoding: "utf8" })).toBe("version 0.9.5\n");
            expect(drift()).toBeUndefined();
            expect(await up()).toMatchObject({ code: 0, ran: [], host: "unchanged" });
        });

        test("that comes back is mended again", async () => {
            fs.rmSync(path.join(home, "miniforge", "envs"), { recursive: true });
            expect((await rig.json("refresh")).code).toBe(0);
            expect(drift()).toBe("environment is none, wanted LLaMA-Factory 0.9.5");
            expect(await up()).toMatchObject({ code: 0, ran: mending, host: "ran" });
        });

        test("of a host that is silent is not known, and nothing runs", async () => {
            fs.rmSync(environment());
            await sshd.down();
            expect((await rig.json("refresh")).code).toBe(0);
            await sshd.up();
            expect(await up()).toMatchObject({ code: 0, ran: [], host: "unchanged" });
            expect((await rig.json("refresh")).code).toBe(0);
            expect(await up()).toMatchObject({ code: 0, ran: mending, host: "ran" });
        });

        test("of the driver is followed by a restart where it asks for one", async () => {
            configure({}, {}, { driver: 1 });
            const ran = created("host-driver", "host-reboot", "host-rebooted");
            expect(await up()).toMatchObject({ code: 0, ran });
            configure();
            expect(await up()).toMatchObject({ code: 0, ran });
        });
    });

    test("a restart from which the machine does not come back is given up; the next update asks for it by hand", async () => {
        const marker = path.join(home, "prepare", "reboot-required");
        fs.writeFileSync(marker, fs.readFileSync("/proc/sys/kernel/random/boot_id"));
        edit("reboot");
        const since = Date.now();
        const stopped = path.join(stand, "stopped");
        // Of the looks at the host so far.
        for (const file of [stopped, path.join(stand, "calls")]) fs.rmSync(file, { force: true });
        const [failed] = await Promise.all([
            up(),
            eventually("sshd is stopped", () => fs.existsSync(stopped)).then(() => sshd.shut()),
        ]);
        expect([failed.code, failed.ran]).toEqual([1, created("host-reboot", "host-rebooted")]);
        expect(failed.stderr).toContain(
            `host-rebooted: ssh: connect to host 127.0.0.1 port ${sshd.port}: Connection refused`,
        );
        expect(Date.now() - since).toBeLessThan(60_000);
        expect(fs.readFileSync(path.join(stand, "calls"), "utf8")).toBe(
            "systemd-run --on-active=180 systemctl start ssh.service\n" +
                "systemd-run --on-active=2 systemctl reboot\n" +
                "systemctl stop ssh.socket ssh.service\n",
        );

        await sshd.up();
        const again = await up();
        expect([again.code, again.ran]).toEqual([1, created("host-rebooted")]);
        const boot = fs.readFileSync(marker, "utf8").trim();
        expect(again.stderr).toContain(
            `rebooted: the machine has not restarted: it is still in boot ${boot}. Restart it by hand (\`sudo systemctl reboot\`), then start again`,
        );
        fs.rmSync(marker);
        expect(await up()).toMatchObject({ code: 0 });
    });

    test("another host key is refused before anything is sent", async () => {
        const other = makeKey(path.join(rig.folder, "other-key"));
        configure({}, { hostKey: other });
        const { code, ran, stderr } = await up();
        expect([code, ran]).toEqual([1, created("host-wait")]);
        expect(stderr).toContain("Host key verification failed");
        configure();
        expect((await up()).code).toBe(0);
    });
});
