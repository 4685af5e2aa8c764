import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { followedRuns } from "../../pipeline/store/followed";
import { isAlive, eventually, killNow } from "./processes";
import { all, python, Rig, STAGES, tinyConfiguration, type RunFolder, type Running } from "./rig";

const STEPS = 60;
const LONG = ["--set", `training.maxSteps=${STEPS}`];
const DETACHED = "detached: the run goes on; the next `npm run up` attaches to it";
const upTo = (last: number) => Array.from({ length: last }, (_, index) => index + 1);

// One home: each test goes on where the one before it ended.
describe("a training outlives whoever started it", () => {
    let rig: Rig;
    beforeAll(() => {
        rig = new Rig();
    });
    afterAll(() => rig.dispose());

    const training = () => rig.runs("Training").at(-1);
    const atStep = (step: number) => (): RunFolder | undefined => {
        const run = rig.active("Training");
        return run !== undefined && run.steps.length >= step ? run : undefined;
    };
    /** Waits until a client follows the run: it shows a first line at once. */
    const following = (client: Running) =>
        client.until("it follows the training", () => / training +… /.test(client.stdout + client.stderr));
    const expectClean = () => {
        expect({ locks: rig.locks(), pending: rig.state().pending_operations ?? [] }).toEqual({
            locks: [],
            pending: [],
        });
    };

    test("kill -9 of the Pulumi CLI leaves a lock and a pending operation, and the run goes on", async () => {
        const client = rig.spawn("up", ["--json", ...LONG]);
        await client.until("a step", atStep(2));
        await following(client);
        rig.pause(); // or it might be over before the tests are that follow
        killNow(await client.cli());
        const { code } = await client.ended;
        expect(code).toBe(1);
        expect(rig.locks()).toHaveLength(1);
        expect(rig.state().pending_operations?.map(({ type }) => type)).toEqual(["creating"]);
        expect(rig.stored("training")).toBeUndefined();
        expect(training()).toMatchObject({ state: "running", attempt: 1 });
    });

    test("the next up says so once, removes what was left, and attaches; --detach ends by itself", async () => {
        const { code, answer, actions, stderr } = await rig.json("up", "--detach", ...LONG);
        const notice = "the lock of an update that was killed is removed; its run goes on and is attached to\n";
        expect(stderr.split(notice)).toHaveLength(2);
        expect(stderr).not.toContain("warning");
        expect({ code, actions, result: answer.result }).toEqual({
            code: 4,
            actions: all("skipped", { dataset: "unchanged", model: "unchanged", training: "detached" }),
            result: "detached",
        });
        expect(answer.stages[2]).toMatchObject({ key: training()?.key, run: training()?.key.slice(0, 12) });
        expect(stderr).toMatch(/^Detached after \d+\.\d s: what runs goes on; `npm run up` attaches to it\.$/m);
        expectClean();
        expect(rig.stored("training")).toMatchObject({ initErrors: [DETACHED] });
        expect(rig.stored("training")?.outputs ?? {}).toEqual({}); // nothing of the half-made run
        expect(training()).toMatchObject({ state: "running", attempt: 1 });
    });

    test("while an update goes on, another one is refused with who and since when; a preview works", async () => {
        const client = rig.spawn("up", LONG);
        await following(client);
        const cli = await client.cli();
        for (const command of ["up", "refresh", "destroy"] as const) {
            const { code, stdout, stderr } = await rig.run(command, "--json");
            expect(code).toBe(1);
            const who = `stack test is being updated by ${os.userInfo().username}@${os.hostname()} (pid ${cli}) since `;
            expect(stderr).toContain(who);
            // Whoever reads the output finds an object there, however it ended.
            expect(JSON.parse(stdout)).toEqual({
                ...{ stack: "test", result: "failed", stages: [], outputs: {} },
                error: expect.stringContaining(who) as string,
            });
            expect(stderr).toMatch(/`npm run status` shows how far it is, `npm run logs -- RUN` follows a run\n$/);
        }
        expect((await rig.json("preview", ...LONG)).actions).toMatchObject({
            dataset: "unchanged",
            model: "unchanged",
        });
        expect(client.isOver).toBe(false);
        client.child.kill("SIGINT");
        expect(await client.ended).toMatchObject({ code: 4 });
        expectClean();
    });

    test("kill -9 of the client detaches cleanly, and the run goes on", async () => {
        const client = rig.spawn("up", LONG);
        await following(client);
        const cli = await client.cli();
        client.child.kill("SIGKILL");
        await client.ended;
        await eventually("the CLI ends", () => !isAlive(cli));
        expectClean();
        const before = training()?.steps.length ?? 0;
        rig.resume();
        await eventually("the run goes on", atStep(before + 3));
        rig.pause();
    });

    test.each([
        ["SIGINT", (client: Running) => client.child.kill("SIGINT")],
        ["SIGTERM", (client: Running) => client.child.kill("SIGTERM")],
        ["SIGHUP", (client: Running) => client.child.kill("SIGHUP")],
        ["SIGINT three times at once", (client: Running) => [1, 2, 3].map(() => client.child.kill("SIGINT"))],
    ])("%s detaches cleanly", async (_, act) => {
        const client = rig.spawn("up", LONG);
        await following(client);
        act(client);
        const { code, stdout, stderr } = await client.ended;
        expect(code).toBe(4);
        expect(stderr).toBe("");
        expect(stdout).toMatch(/^ {2}training {4}detached {8}npm run logs -- [0-9a-f]{12}$/m);
        expect(stdout).toMatch(/^Detached after \d+\.\d s: what runs goes on; `npm run up` attaches to it\.\n$/m);
        expectClean();
        expect(training()).toMatchObject({ state: "running", attempt: 1 });
    });

    test.each([
        ["ctrl-c", 4],
        ["ctrl-c-twice", 4],
        ["close", -os.constants.signals.SIGHUP], // nobody is there who could see a code
    ])("on a terminal: %s detaches cleanly", async (action, code) => {
        const script = path.join("test", "engine", "terminal.py");
        const command = [process.execPath, path.join("scripts", "up.cjs"), "--stack", "test", ...LONG];
        const terminal = rig.start(python, [script, action, ...command]);
        await following(terminal);
        terminal.child.kill("SIGUSR1");
        const { stdout } = await terminal.ended;
        expect(stdout.endsWith(`\nexit ${code}\n`), stdout).toBe(true);
        if (action !== "close") {
            expect(stdout).toContain("Detached after");
            expect(stdout).toContain("\nmodes as before\n");
        }
        // Lines are gone up and erased, and nothing that lasts is asked of the terminal: no hidden cursor, no other screen.
        const escapes = stdout.match(/\u001b[^A-Za-z]*[A-Za-z]/g) ?? [];
        expect(escapes.filter((one) => !/^\u001b\[(\d+A|J)$/.test(one))).toEqual([]);
        expectClean();
        expect(training()).toMatchObject({ state: "running", attempt: 1 });
    });

    test("the last up attaches and runs the rest; every step was done once", async () => {
        const before = rig.runs().length;
        rig.resume();
        const { code, actions } = await rig.json("up", ...LONG);
        expect({ code, actions }).toEqual({
            code: 0,
            actions: all("ran", { dataset: "unchanged", model: "unchanged", training: "attached" }),
        });
        expect(rig.runs()).toHaveLength(before + 5); // two models' answers, the verdict, the export, the report
        expect(training()).toMatchObject({ state: "succeeded", attempt: 1, steps: upTo(STEPS) });
        const key = training()?.key ?? "";
        const { code: ended, stdout } = await rig.run("logs", key.slice(0, 12));
        expect(ended).toBe(0);
        expect(stdout).toBe(fs.readFileSync(path.join(rig.home, "runs", key, "log"), "utf8"));
        expect(stdout).toContain("***** Running training *****");
        expect((await rig.json("up", ...LONG)).actions).toEqual(all("unchanged"));
    });

    describe("a rerun that is left alone and stopped", () => {
        const AGAIN = [...LONG, "--set", "training.seed=7"];
        let run = "";

        test("an interrupted rerun leaves the old outputs in the state", async () => {
            const outputs = () => Object.fromEntries(STAGES.map((name) => [name, rig.stored(name)?.outputs]));
            const before = outputs();
            const client = rig.spawn("up", ["--json", ...AGAIN]);
            run = (await client.until("a step", atStep(2))).key;
            rig.pause();
            client.child.kill("SIGINT");
            expect(await client.ended).toMatchObject({ code: 4 });
            expectClean();
            expect(outputs()).toEqual(before);
            expect(rig.stored("training")).toMatchObject({ inputs: { seed: 42 }, initErrors: [DETACHED] });
        });

        test("status shows how far it is; logs follows it; stop leaves a checkpoint", async () => {
            const { stdout } = await rig.run("status", "--json");
            const status = JSON.parse(stdout) as { stacks: { stack: string }[]; runs: Record<string, unknown>[] };
            expect(status.stacks.map(({ stack }) => stack)).toEqual(["test"]);
            expect(status.runs[0]).toMatchObject({
                key: run,
                run: run.slice(0, 12),
                kind: "Training",
                stage: "training",
                state: "running",
                step: training()?.steps.at(-1),
                steps: STEPS,
                loss: expect.any(Number) as number,
            });
            const forPeople = (await rig.run("status")).stdout;
            expect(forPeople).toMatch(/^stack test$/m);
            expect(forPeople).toMatch(
                new RegExp(`^ {2}${run.slice(0, 12)} Training +running +step \\d+/${STEPS}, loss`, "m"),
            );

            const logs = rig.spawn("logs", [run.slice(0, 8)]);
            await logs.until("the log's beginning", () => logs.stdout.includes("***** Running training *****"));
            rig.resume();
            await eventually("a checkpoint", atStep(STEPS / 4 + 2));
            const stopped = await rig.run("stop", run.slice(0, 12));
            expect(stopped).toMatchObject({
                code: 0,
                stdout:
                    `stopping run ${run.slice(0, 12)} after its current step …\n` +
                    `run ${run.slice(0, 12)} stopped: stopped on request; a checkpoint was saved\n`,
            });
            expect(await logs.ended).toMatchObject({ code: 0 });
            expect(logs.stdout).toBe(fs.readFileSync(path.join(rig.home, "runs", run, "log"), "utf8"));
            expect(rig.runs("Training").at(-1)).toMatchObject({ key: run, state: "stopped", attempt: 1 });
            expect(training()?.steps.length).toBeLessThan(STEPS);
            expect((await rig.run("stop", run.slice(0, 12))).stderr).toBe(
                `run ${run.slice(0, 12)} does not run: it is stopped\n`,
            );
        });

        test("the next up resumes from it, and the adapter is the one of an uninterrupted run", async () => {
            const { code, actions, stage } = await rig.json("up", ...AGAIN);
            expect({ code, actions }).toEqual({
                code: 0,
                actions: all("ran", { dataset: "unchanged", model: "unchanged" }),
            });
            const events = fs.readFileSync(path.join(rig.home, "runs", run, "events.jsonl"), "utf8");
            expect(events).toMatch(
                /"resumed from the checkpoint at step \d+; nothing is lost", "resumedFrom": \d+, "lostSteps": 0/,
            );
            expect(training()).toMatchObject({ key: run, state: "succeeded", attempt: 2 });
            expect(stage("training").facts).toMatchObject({ steps: STEPS });

            rig.home = path.join(rig.folder, "another-home");
            const whole = await rig.json("up", ...AGAIN);
            expect(whole.actions).toEqual(all("ran"));
            expect(training()).toMatchObject({ key: run, attempt: 1, steps: upTo(STEPS) });
            expect(whole.stage("training").digest).toBe(stage("training").digest);
        });
    });

    test("--detach with nothing to train ends as soon as the first run after the training is under way", async () => {
        const settings = ["training.seed=7", "evaluation.batchSize=1", "evaluation.answeredRows=4"];
        const set = [...LONG, ...settings.flatMap((one) => ["--set", one])];
        const { code, answer, actions, stage } = await rig.json("up", "--detach", ...set);
        expect({ code, actions, result: answer.result }).toEqual({
            code: 4,
            actions: all("unchanged", { evaluation: "detached", export: "skipped", report: "skipped" }),
            result: "detached",
        });
        const run = stage("evaluation").run ?? "";
        const { code: after, actions: then } = await rig.json("up", ...set);
        expect(rig.runs().filter(({ key }) => key.startsWith(run))).toMatchObject([{ state: "succeeded", attempt: 1 }]);
        expect({ after, evaluation: then["evaluation"] }).toEqual({ after: 0, evaluation: "ran" });
    });

    test("two ups at the same instant: at least one is done, and nobody waits for a lock afterwards", async () => {
        const AT_ONCE = ["--json", ...LONG, "--set", "evaluation.answeredRows=1"];
        const both = await Promise.all([rig.run("up", ...AT_ONCE), rig.run("up", ...AT_ONCE)]);
        expect(both.map(({ code }) => code)).toContain(0);
        for (const { code, stderr } of both) {
            if (code !== 0) {
                expect(code).toBe(1);
                expect(stderr).toContain(
                    `stack test is being updated by ${os.userInfo().username}@${os.hostname()} (pid `,
                );
            }
        }
        expectClean();
        expect(rig.runs("Answers").map(({ attempt }) => attempt)).toEqual(rig.runs("Answers").map(() => 1));
    });

    test("an up that meets a lock while it is written tries again, and one that was never finished stops nobody", async () => {
        const folder = path.join(rig.home, "state", ".pulumi", "locks", "organization", "retune", "test");
        fs.mkdirSync(folder, { recursive: true });
        const lock = path.join(folder, "of-another-update.json.187c5a0e6e1f0a2b.tmp");
        fs.writeFileSync(lock, "");
        const at = (seconds: number) => {
            fs.utimesSync(lock, Date.now() / 1000 + seconds, Date.now() / 1000 + seconds);
        };
        at(3600); // however long it takes, it stays a young one
        const { code, stderr } = await rig.run("up");
        expect({ code, stderr }).toEqual({
            code: 1,
            stderr: "another update of this stack started at the same moment; try again\n",
        });
        at(-3600);
        expect((await rig.run("up", ...LONG, "--set", "evaluation.answeredRows=1")).code).toBe(0);
        expectClean();
    });

    describe("two stacks have a training each, and the client of the other one is killed", () => {
        const long = (seed: number) => ["--set", "training.maxSteps=5000", "--set", `training.seed=${seed}`];
        const byKey = (key: string) => rig.runs("Training").find((run) => run.key === key);
        let [own, others] = ["", ""];

        test("status shows each stack its own", async () => {
            expect((await rig.json("up", "--detach", ...long(9))).code).toBe(4);
            own = rig.active("Training")?.key ?? "";
            rig.writeStack("other", tinyConfiguration);
            const client = rig.spawn("up", ["--stack", "other", ...long(10)]);
            const waits = () => rig.runs("Training").find(({ state }) => state === "queued");
            others = (await client.until("its run waits for the first one", waits)).key;
            killNow(await client.cli());
            await client.ended;
            const { stdout } = await rig.run("status");
            const [, training] =
                /^stack test\n(?: {2}.*\n)*? {2}training +(?:[0-9a-f]{12})? +(.*)$/m.exec(stdout) ?? [];
            expect(training, stdout).toMatch(/^step \d+\/5000, /);
        });

        test("destroy stops the run of the client that was killed, and not the other stack's", async () => {
            const { code, stderr } = await rig.json("destroy", "--stack", "other");
            expect({ code, stderr: code === 0 ? "" : stderr }).toEqual({ code: 0, stderr: "" });
            expect(stderr).toContain("the lock of an update that was killed is removed; its run is stopped\n");
            expect(byKey(others)).toMatchObject({ state: "stopped", reason: "stopped while it was queued" });
            expect(rig.state("other").pending_operations ?? []).toEqual([]);
            expect(rig.state("other").resources ?? []).toEqual([]);
            expect(byKey(own)).toMatchObject({ state: "running", attempt: 1 });
        });

        test("destroy in the middle of a rerun stops it, and leaves a checkpoint", async () => {
            expect((await rig.json("destroy")).code).toBe(0);
            expectClean();
            expect(byKey(own)).toMatchObject({
                ...{ state: "stopped", attempt: 1 },
                reason: "stopped on request; a checkpoint was saved",
            });
            expect(followedRuns(rig.home)).toEqual([]);
        });
    });
});
