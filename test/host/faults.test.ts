import * as fs from "node:fs";
import * as path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { eventually, isAlive } from "../engine/processes";
import { all, python, Rig, type Running } from "../engine/rig";
import { Link } from "./link";
import { describeOverSsh } from "./over-ssh";
import { makeKey, Sshd } from "./sshd";

const STEPS = 40;

interface Survived {
    readonly scenario: string;
    readonly outcome: string;
    readonly seconds: number;
}

describeOverSsh("faults on the way", () => {
    let rig: Rig;
    let sshd: Sshd;
    let link: Link;
    const survived: Survived[] = [];

    beforeAll(async () => {
        sshd = await Sshd.start();
        link = await Link.to(sshd.port);
        rig = new Rig();
        configure(0.01);
        expect((await rig.json("up")).code).toBe(0);
    });
    afterAll(async () => {
        await rig.dispose();
        await link.dispose();
        await sshd.dispose();
        const rows = survived.map(
            ({ scenario, outcome, seconds }) =>
                `  ${scenario.padEnd(44)} ${outcome.padEnd(40)} ${seconds.toFixed(1).padStart(6)} s`,
        );
        process.stdout.write(`faults between client and host:\n${rows.join("\n")}\n`);
    });

    function configure(learningRate: number, target: object = {}): void {
        rig.configure({
            target: { ...sshd.target, port: link.port, python, ...target },
            training: { learningRate, maxSteps: STEPS },
        });
    }

    /** The newest training on the host. */
    function training(host = sshd) {
        const runs = (fs.existsSync(host.at("runs")) ? fs.readdirSync(host.at("runs")) : []).flatMap((key) => {
            const read = (name: string) => {
                const file = host.at("runs", key, name);
                return fs.existsSync(file)
                    ? (JSON.parse(fs.readFileSync(file, "utf8")) as Record<string, unknown>)
                    : {};
            };
            const state = read("state.json");
            return read("job.json")["kind"] === "Training"
                ? [{ key, ...state } as { key: string; state: string; attempt: number; queuedAt: number }]
                : [];
        });
        return runs.sort((a, b) => b.queuedAt - a.queuedAt)[0];
    }

    /** Starts an update whose training is held in the middle. */
    async function held(learningRate: number, host = sshd): Promise<Running> {
        const before = training(host)?.key;
        configure(learningRate, host === sshd ? {} : host.target);
        const client = rig.spawn("up", ["--json"]);
        await client.until("the training is learning", () => {
            const run = training(host);
            if (run === undefined || run.key === before || run.state !== "running") return false;
            const events = host.at("runs", run.key, "events.jsonl");
            return fs.existsSync(events) && fs.readFileSync(events, "utf8").includes('"learning"');
        });
        host.pause();
        await client.until("it is followed", () => / training +… /.test(client.stderr));
        return client;
    }

    /** All of the update's stages came to their end, the training was started once, and its log is the host's. */
    async function converged(scenario: string, client: Running, since: number): Promise<void> {
        const ended = await client.ended;
        expect({ code: ended.code, stderr: ended.code === 0 ? "" : ended.stderr }).toEqual({ code: 0, stderr: "" });
        const run = training();
        expect(run).toMatchObject({ state: "succeeded", attempt: 1 });
        for (const name of ["log", "events.jsonl"]) {
            const here = fs.readFileSync(path.join(rig.home, "runs", run?.key ?? "", name));
            expect(here.equals(fs.readFileSync(sshd.at("runs", run?.key ?? "", name)))).toBe(true);
        }
        expect((await rig.json("up")).actions).toEqual({ host: "unchanged", ...all("unchanged") });
        survived.push({
            scenario,
            outcome: "followed to its end, started once",
            seconds: (Date.now() - since) / 1000,
        });
    }

    test("a connection that is cut in the middle of a training", async () => {
        const client = await held(0.011);
        const since = Date.now();
        link.cut();
        sshd.resume();
        await converged("connection cut once", client, since);
    });

    test("a connection that is cut every 64 kB", async () => {
        const cuts = link.cuts;
        link.cutAfter(64_000);
        const client = await held(0.012);
        const since = Date.now();
        sshd.resume();
        await converged("connection cut every 64 kB", client, since);
        link.cutAfter(0);
        expect(link.cuts - cuts).toBeGreaterThan(10);
    });

    test("sshd that is killed with its connections and comes back", async () => {
        const client = await held(0.013);
        const since = Date.now();
        await sshd.down();
        sshd.resume();
        await client.until("the client says so", () => client.stderr.includes("the connection to 127.0.0.1 broke"));
        await sshd.up();
        await converged("sshd killed, back after it was missed", client, since);
    });

    test("a link that is frozen for a minute", async () => {
        const client = await held(0.014);
        const since = Date.now();
        link.freeze();
        sshd.resume();
        await new Promise((resolve) => setTimeout(resolve, 60_000)); // the minute is what is tested
        link.thaw();
        await converged("link frozen for 60 s", client, since);
    });

    test("a client that is killed; status, logs and the next up find the run", async () => {
        const client = await held(0.015);
        const cli = await client.cli();
        client.child.kill("SIGKILL");
        await client.ended;
        await eventually("the CLI ends", () => !isAlive(cli));
        const run = training();
        expect(run).toMatchObject({ state: "running", attempt: 1 });

        const status = await rig.run("status");
        expect(status.stdout).toMatch(
            new RegExp(`${run?.key.slice(0, 12) ?? ""} +Training +running +step \\d+/${STEPS}`),
        );
        // Elsewhere it would be the same work twice.
        const steps = { learningRate: 0.015, maxSteps: STEPS };
        rig.configure({ target: { type: "local" }, training: steps });
        expect((await rig.json("up")).stage("training").error).toContain(
            `run ${run?.key.slice(0, 12) ?? ""} goes on at 127.0.0.1: set the target back to follow it, or `,
        );
        configure(0.015);

        const since = Date.now();
        sshd.resume();
        const logs = rig.run("logs", run?.key.slice(0, 12) ?? "");
        const again = rig.spawn("up", ["--json"]);
        await converged("client killed, then up again", again, since);
        expect((await logs).stdout).toBe(fs.readFileSync(sshd.at("runs", run?.key ?? "", "log"), "utf8"));
        expect((await again.ended).stdout).toContain(
            '"name":"training","type":"finetune:pipeline:Training","action":"attached"',
        );
    });

    test("stop leaves a checkpoint on the host, and the next up resumes there", async () => {
        const client = await held(0.016);
        const run = training();
        const stop = rig.run("stop", run?.key.slice(0, 12) ?? "");
        await eventually("it is asked to stop", () => fs.existsSync(sshd.at("runs", run?.key ?? "", "stop")));
        sshd.resume();
        expect((await stop).stdout).toMatch(/run [0-9a-f]{12} stopped: stopped on request; a checkpoint was saved\n$/);
        expect((await client.ended).code).toBe(1);
        const { answer, stage } = await rig.json("up");
        expect(answer.result).toBe("succeeded");
        expect(stage("training").facts).toMatchObject({ steps: STEPS });
        expect(training()).toMatchObject({ state: "succeeded", attempt: 2 });
    });

    test.skipIf(process.getuid?.() !== 0)("a host whose disk is full, until there is room", async () => {
        const disk = "4g"; // what the preflight wants free
        const small = await Sshd.start({
            mounts: (folder) => `mkdir ${folder}/home && mount -t tmpfs -o size=${disk} none ${folder}/home`,
        });
        try {
            const home = small.target.home;
            const resize = (size: string) => small.inside(`mount -o remount,size=${size} ${home}`);
            const client = await held(0.02, small);
            const used = Number(small.inside(`du -sk ${home}`).split("\t")[0]);
            resize(`${used + 64}k`);
            small.resume();
            const full = await client.ended;
            expect([full.code, full.stderr]).toEqual([
                1,
                expect.stringContaining("no space left on the disk: make room, or move target.home to a larger one"),
            ]);
            expect(training(small)).toMatchObject({ state: "failed", attempt: 1 });

            const since = Date.now();
            resize(disk);
            const { code, actions } = await rig.json("up");
            const done = { training: "ran", evaluation: "ran", export: "ran", report: "ran" };
            expect({ code, actions }).toEqual({ code: 0, actions: { host: "unchanged", ...all("unchanged", done) } });
            expect(training(small)).toMatchObject({ state: "succeeded", attempt: 2 });
            survived.push({
                scenario: "host's disk full, then room made",
                outcome: "the next up goes on",
                seconds: (Date.now() - since) / 1000,
            });
        } finally {
            await small.dispose();
        }
    });

    test("another host key is refused, and both fingerprints are shown", async () => {
        const since = Date.now();
        const hostKey = makeKey(path.join(rig.folder, "other-key"));
        configure(0.017, { hostKey });
        const { code, stderr } = await rig.json("up");
        expect(code).toBe(1);
        expect(stderr).toMatch(
            /127\.0\.0\.1 is not the machine that target\.hostKey names: it has SHA256:\S+, expected SHA256:\S+; nothing was sent to it/,
        );
        survived.push({
            scenario: "another host key",
            outcome: "refused, both fingerprints shown",
            seconds: (Date.now() - since) / 1000,
        });
    });

    test("a host that does not let the user in, and one that does not answer, are named", async () => {
        const identity = path.join(rig.folder, "stranger");
        makeKey(identity);
        configure(0.017, { identity });
        expect((await rig.json("up")).stderr).toContain(
            "127.0.0.1 does not let root in with a key: put your public key into its ~/.ssh/authorized_keys, or name its private key in target.identity",
        );
        await sshd.down();
        configure(0.017, { port: sshd.port });
        expect((await rig.json("up")).stderr).toMatch(
            /\w+@127\.0\.0\.1 cannot be reached: connect to host 127\.0\.0\.1 port \d+: Connection refused/,
        );
        await sshd.up();
    });
});
