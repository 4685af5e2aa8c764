import { mkdirSync, statSync, utimesSync } from "node:fs";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { userData } from "../../infra/aws/user-data";
import { Machine, withoutMachines } from "../host/machine";

const missing = withoutMachines === undefined ? "" : ` (skipped: ${withoutMachines})`;

const RUN = "home/a user/.retune/runs/0123";
/** As /proc/net/tcp shows somebody who is logged in. */
const LOGGED_IN = "  0: 0100007F:0016 0100007F:D2A4 01 00000000:00000000\n";
const LISTENING = "  0: 00000000:0016 00000000:0000 0A 00000000:00000000\n";

// The clock of these machines is /proc/uptime, and `sleep` is what puts it forward, twelve times as far as it is asked to:
// hours pass in seconds.
describe.skipIf(missing !== "")(`what powers a machine off${missing}`, () => {
    let machine: Machine;

    beforeEach(() => {
        machine = new Machine({ root: true });
        mkdirSync(path.join(machine.root, "etc/systemd/system"), { recursive: true });
        machine.has("systemctl").lacks("sleep").write("proc/uptime", "0.00 0.00\n").write("proc/net/tcp", LISTENING);
        machine.has("curl", "exit 22");
        clock();
    });
    afterEach(() => {
        machine.dispose();
    });

    /** `then` is shell that runs after each step of the clock, with `now` as its seconds. */
    function clock(then = ""): void {
        machine.has(
            "sleep",
            `IFS=. read -r now _ </proc/uptime; now=$((now + 12 * $1)); echo "$now.00 0" >/proc/uptime; ${then}`,
        );
    }

    /** A run whose supervisor is alive. */
    function runs(): void {
        machine.write(`${RUN}/lock`, "");
        machine.write(
            "proc/locks",
            `1: FLOCK  ADVISORY  WRITE 4711 00:2a:${statSync(path.join(machine.root, RUN, "lock")).ino} 0 EOF\n`,
        );
    }

    async function install(variables: Readonly<Record<string, string>> = {}): Promise<void> {
        const { code, stderr, stdout } = await machine.run("meter", {
            IDLE_MINUTES: "15",
            BUDGET_SECONDS: "",
            ...variables,
        });
        expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
        expect(stdout).toMatch(/^meter: the meter runs: off after \d+ idle minutes/);
    }

    /** Lets the meter tick until it powers the machine off: why, and after how many seconds. */
    async function off(): Promise<{ reason: string; seconds: number }> {
        machine.calls();
        const { code, stdout, stderr } = await machine.bash("", ["/usr/local/sbin/retune-meter"]);
        expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
        expect(machine.changes().filter((call) => call.startsWith("systemctl"))).toEqual(["systemctl poweroff"]);
        return { reason: stdout.trim(), seconds: Number(machine.read("proc/uptime").split(".")[0]) };
    }

    test("the meter is a service that is started at once and with each boot", async () => {
        await install();
        expect(machine.changes()).toEqual([
            "systemctl daemon-reload",
            "systemctl enable retune-meter.service",
            "systemctl restart retune-meter.service",
        ]);
        expect(machine.read("etc/systemd/system/retune-meter.service")).toContain(
            "ExecStart=/bin/bash /usr/local/sbin/retune-meter\nRestart=always\n",
        );
    });

    test("idle: nobody and nothing for fifteen minutes", async () => {
        await install();
        expect(await off()).toEqual({ reason: "nothing to do", seconds: 900 });
        expect(machine.read("var/lib/retune-meter/seconds")).toBe("900\n");
    });

    test("idle counts from the end of the last login", async () => {
        await install();
        machine.write("proc/net/tcp", LOGGED_IN);
        clock(`((now < 3600)) || printf '%s' '${LISTENING.trimEnd()}' >/proc/net/tcp`);
        expect(await off()).toEqual({ reason: "nothing to do", seconds: 3540 + 900 });
    });

    test("client gone: a run goes on to its end, and only then the machine is idle", async () => {
        await install();
        runs();
        clock("((now < 7200)) || : >/proc/locks");
        expect(await off()).toEqual({ reason: "nothing to do", seconds: 7140 + 900 });
        expect(machine.exists(`${RUN}/stop`)).toBe(false);
    });

    test("budget: what runs is asked to save a checkpoint, and is waited for", async () => {
        await install({ BUDGET_SECONDS: "3600" });
        runs();
        // Its checkpoint takes forty seconds.
        clock('for run in "$HOME"/.retune/runs/*; do [[ ! -e $run/stop ]] || ((now < 3640)) || : >/proc/locks; done');
        expect(await off()).toEqual({ reason: "the budget is spent", seconds: 3648 });
        expect(machine.exists(`${RUN}/stop`)).toBe(true);
    });

    test("budget: what does not save one within ten minutes is ended with the machine", async () => {
        await install({ BUDGET_SECONDS: "3600" });
        runs();
        expect(await off()).toEqual({ reason: "the budget is spent", seconds: 4200 });
    });

    test("the hours of earlier starts count, and those of the meter's own restarts only once", async () => {
        await install({ BUDGET_SECONDS: "3600" });
        machine.write("var/lib/retune-meter/seconds", "3000\n").write("proc/net/tcp", LOGGED_IN);
        expect(await off()).toEqual({ reason: "the budget is spent", seconds: 600 });
        expect(machine.read("var/lib/retune-meter/seconds")).toBe("3600\n");
        expect(await off()).toEqual({ reason: "the budget is spent", seconds: 600 });
        expect(machine.read("var/lib/retune-meter/seconds")).toBe("3600\n");
    });

    test("what the stack's earlier machines have cost counts as well", async () => {
        await install({ BUDGET_SECONDS: "3600" });
        machine.write("home/a user/.retune/spent-elsewhere", "1800\n").write("proc/net/tcp", LOGGED_IN);
        expect(await off()).toEqual({ reason: "the budget is spent", seconds: 1800 });
    });

    test("a machine that is started over its budget stays for ten minutes, in which that can be changed", async () => {
        await install({ BUDGET_SECONDS: "3600" });
        machine.write("var/lib/retune-meter/seconds", "4000\n");
        machine.write("proc/net/tcp", LOGGED_IN);
        expect(await off()).toEqual({ reason: "the budget is spent", seconds: 600 });
    });

    test("spot: on AWS's notice what runs saves a checkpoint within the two minutes", async () => {
        await install();
        runs();
        machine.has(
            "curl",
            'IFS=. read -r now _ </proc/uptime; case "$*" in */token) echo t ;; *) ((now >= 300)) || exit 22 ;; esac',
        );
        clock('for run in "$HOME"/.retune/runs/*; do [[ ! -e $run/stop ]] || ((now < 330)) || : >/proc/locks; done');
        expect(await off()).toEqual({ reason: "AWS takes the machine back", seconds: 336 });
        expect(machine.read(`${RUN}/stop`)).toBe("AWS takes the machine back\n");
    });

    describe("the dead-man switch", () => {
        const script = (): string => {
            const [, config = ""] = userData({ privateKey: "private", publicKey: "public" }).split("#cloud-config\n");
            return (JSON.parse(config) as { bootcmd: string[] }).bootcmd[0] ?? "";
        };
        test("is set before anything else, at every start, without the network", async () => {
            const config = userData({ privateKey: "private", publicKey: "public" });
            expect(config.startsWith('#cloud-config\n{\n "bootcmd": [')).toBe(true);
            expect(await machine.bash(script(), ["-s"])).toEqual({ code: 0, stdout: "", stderr: "" });
            expect(machine.calls()).toEqual([
                "systemctl daemon-reload",
                "systemctl start --no-block retune-dead-man.timer",
            ]);
            expect(machine.read("run/systemd/system/retune-dead-man.timer")).toContain("OnActiveSec=3600\n");
        });

        beforeEach(() => {
            machine.has("find", 'exec /usr/bin/find "$@"');
        });

        /** Seconds after the start at which it powers off; the clock is that of its timer, and of the meter's last tick. */
        async function deadMan(lastTick: number | undefined): Promise<number> {
            await machine.bash(script(), ["-s"]);
            const timer = machine.read("run/systemd/system/retune-dead-man.timer");
            const [first, again] = ["OnActiveSec", "OnUnitActiveSec"].map((name) =>
                Number(new RegExp(`^${name}=(\\d+)$`, "m").exec(timer)?.[1]),
            );
            if (first === undefined || again === undefined) throw new Error("the timer has no times");
            for (let seconds = first; seconds < 10_000; seconds += again) {
                machine.calls();
                if (lastTick !== undefined) {
                    machine.write("run/retune-meter", "");
                    const at = Date.now() / 1000 - Math.max(0, seconds - lastTick);
                    utimesSync(path.join(machine.root, "run/retune-meter"), at, at);
                }
                await machine.bash("", ["/run/retune-dead-man"]);
                if (machine.changes().includes("systemctl poweroff")) return seconds;
            }
            throw new Error("it never does");
        }

        test("powers off a machine whose preparation never got as far as the meter after an hour", async () => {
            expect(await deadMan(undefined)).toBe(3600);
        });

        test("powers off a machine whose meter has died, within 25 minutes, and none on which it ticks", async () => {
            // At two hours; what is fifteen minutes old is too old, and it looks every ten.
            expect(await deadMan(7200)).toBe(8400);
            await expect(deadMan(100_000)).rejects.toThrow("it never does");
        });
    });
});
