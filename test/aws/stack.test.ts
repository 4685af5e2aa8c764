import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { JsonObject } from "../../pipeline/identity";
import { all, digestsOf, eventually, python, Rig, runsIn } from "../engine/rig";
import { Account, withoutAccount } from "./account";

const missing = withoutAccount === undefined ? "" : ` (skipped: ${withoutAccount})`;

/** What every update asks, for nothing: it costs no machine and wakes none. */
const ASKED = ["invoke getInstanceTypeOfferings", "invoke getParameter", "invoke getServiceQuota"];

describe.skipIf(missing !== "")(`a stack on AWS${missing}`, () => {
    let rig: Rig;
    let account: Account;

    const configure = (target: JsonObject = {}, changes: JsonObject = {}): void => {
        const { identity, sshd } = account;
        const aws = { type: "aws", region: "us-east-1", gpu: "none", python, identity, user: os.userInfo().username };
        rig.configure({ target: { ...aws, home: sshd.at(), ...target }, ...changes });
    };
    const infrastructure = (action: string, others: Readonly<Record<string, string>> = {}) => ({
        "offer": action,
        "host-key": action,
        "host-meter": action,
        "host": action,
        ...others,
    });
    const unchanged = { ...infrastructure("unchanged"), ...all("unchanged") };
    /** What was asked of AWS that changes something there, sorted. */
    const changed = (): string[] =>
        account
            .asked()
            .filter((call) => /^(create|update|delete) |start-instances/.test(call))
            .sort();
    const machine = () => {
        const machines = account.machines();
        expect(machines).toHaveLength(1);
        const [only] = machines;
        if (only === undefined) throw new Error("there is no machine");
        return only;
    };
    const buckets = () => account.aws("s3api", "list-buckets", "--query", "Buckets[].Name") as string[];
    const mirrored = (): string[] => {
        const [bucket = ""] = buckets();
        const query = "Contents[].Key";
        return (account.aws("s3api", "list-objects-v2", "--bucket", bucket, "--query", query) ?? []) as string[];
    };
    /** As its own meter would. */
    const fallAsleep = (): void => {
        account.aws("ec2", "stop-instances", "--instance-ids", machine().InstanceId);
    };

    beforeAll(async () => {
        account = await Account.open();
        rig = new Rig();
        account.enter(rig);
        configure();
    });
    afterAll(async () => {
        await rig.dispose();
        await account.close();
    });

    describe("is refused before anything is made", () => {
        test.each<[string, () => void | Promise<void>, JsonObject, string]>([
            [
                "with a quota of 0",
                () => {
                    account.has({ quota: 0 });
                },
                {},
                'this account may have 0 of "Running On-Demand G and VT instances" in us-east-1',
            ],
            [
                "in a zone without the type",
                () => undefined,
                { zone: "us-east-1e" },
                "target.zone: us-east-1e has no g5.xlarge; there is us-east-1",
            ],
            [
                "with a budget smaller than one step",
                () => undefined,
                { budget: 0.01 },
                "target.budget: $0.010 buys 36 s of g5.xlarge",
            ],
            ["without the image's parameter", () => account.publish("gpu-ubuntu-22.04", null), {}, "gpu-ubuntu-22.04"],
        ])("%s", async (_what, given, target, message) => {
            await given();
            configure(target);
            const { code, stderr } = await rig.json("up");
            expect(code).not.toBe(0);
            expect(stderr).toContain(message);
            expect(changed()).toEqual([]);
            expect(account.machines()).toEqual([]);
            account.has({ quota: 8 });
            await account.publish("gpu-ubuntu-22.04", "ami-0000000000000001");
            configure();
        });

        test("without credentials", async () => {
            const without = { AWS_ACCESS_KEY_ID: undefined, AWS_SECRET_ACCESS_KEY: undefined };
            const running = rig.spawn("up", ["--json"], { env: { ...rig.environment, ...without } });
            const { code, stderr } = await running.ended;
            expect(code).not.toBe(0);
            expect(stderr).toContain("AWS was asked which image is the newest of gpu-ubuntu-22.04: ");
            expect(stderr).toContain("No valid credential sources found");
            expect(account.machines()).toEqual([]);
        });

        test("a preview says what it costs, and makes nothing", async () => {
            const { code, stderr } = await rig.json("preview");
            expect(code).toBe(0);
            expect(stderr).toContain("awake $1.01 an hour (AWS Pricing API, us-east-1, 2026-08-17)");
            expect(changed()).toEqual([]);
        });
    });

    test.each([
        [
            "credentials that expire in the middle",
            { expired: true },
            "creating EC2 Instance: operation error EC2: RunInstances, api error RequestExpired: Request has expired.",
        ],
        [
            "no machine free",
            { capacity: false },
            "creating EC2 Instance: InsufficientInstanceCapacity: We currently do not have sufficient g5.xlarge capacity",
        ],
    ])("%s: said, nothing is made twice, and the next up goes on", async (_what, control, message) => {
        account.has({ quota: 8, ...control });
        const { code, stderr } = await rig.json("up");
        expect(code).toBe(1);
        expect(stderr).toContain(message);
        account.has({ quota: 8 });
        expect(account.machines()).toEqual([]);
        expect(buckets()).toHaveLength(1);
        account.asked();
    });

    test("from an account without a machine to the model", async () => {
        const { code, actions, stderr } = await rig.json("up");
        expect({ code, stderr: code === 0 ? "" : stderr }).toEqual({ code: 0, stderr: "" });
        expect(actions).toEqual({
            ...infrastructure("ran", { "offer": "unchanged", "host-key": "unchanged" }),
            ...all("ran", { dataset: "unchanged" }),
        });
        expect(stderr).not.toContain("mirror");
        expect(changed()).toEqual(["create deadline", "create deadline-stop", "create machine"]);
        expect(machine()).toMatchObject({ ImageId: "ami-0000000000000001", InstanceType: "g5.xlarge" });
        const { stdout } = await rig.run("status");
        expect(stdout).toMatch(/^stack test, spent \$0\.00$/m);
        expect(stdout).toMatch(/^machines\n {2}i-[0-9a-f]+ +\$0\.00 for 0 s awake, as of /m);
    });

    test("what was made is in the mirror as well", () => {
        const keys = mirrored();
        // Training, baseline, answers and export; the base model, which is had again from its source, stays there.
        expect(keys.filter((key) => key.endsWith("/result.json"))).toHaveLength(4);
        expect(keys.every((key) => key.startsWith("retune/"))).toBe(true);
    });

    test("no secret is in clear in the state, in the store, or in what was printed", () => {
        const hostKey = fs.readFileSync(path.join(account.sshd.folder, "host-key"), "utf8").split("\n")[1] ?? "";
        const clientKey = fs.readFileSync(account.identity, "utf8").split("\n")[1] ?? "";
        for (const secret of [hostKey, clientKey]) {
            expect(secret.length).toBeGreaterThan(40);
            const holding = execFileSync("sh", [
                "-c",
                'grep -rlF "$1" "$2" || true',
                "sh",
                secret.slice(-30),
                rig.home,
            ]);
            expect(holding.toString()).toBe("");
        }
    });

    test("it sleeps when nothing runs: an up with nothing to do does not wake it", async () => {
        fallAsleep();
        expect((await rig.json("up")).actions).toEqual(unchanged);
        expect((await rig.json("preview")).actions).toEqual(unchanged);
        expect(account.asked().sort()).toEqual([...ASKED, ...ASKED].sort());
        expect(machine().State.Name).toBe("stopped");
    });

    test("nor does a refresh, which takes a machine that sleeps as it was", async () => {
        const { code, actions, stderr } = await rig.json("refresh");
        expect({ code, actions }).toEqual({ code: 0, actions: unchanged });
        expect(stderr).toContain(`${machine().InstanceId} sleeps (stopped): taken as it was`);
        expect(machine().State.Name).toBe("stopped");
        expect(changed()).toEqual([]);
    });

    test("a newer image under AWS's name changes nothing until it is asked for", async () => {
        await account.publish("gpu-ubuntu-22.04", "ami-0000000000000002");
        expect((await rig.json("up")).actions).toEqual(unchanged);
        expect(changed()).toEqual([]);
        const latest = await rig.run("preview", "--set", "target.image=latest");
        expect(latest.code).toBe(0);
        expect(machine().ImageId).toBe("ami-0000000000000001");
    });

    test("another learning rate touches no infrastructure: it wakes the machine, once, and runs there", async () => {
        configure({}, { training: { learningRate: 0.02 } });
        const { code, actions } = await rig.json("up");
        expect({ code, actions }).toEqual({
            code: 0,
            actions: { ...infrastructure("unchanged"), ...all("ran", { dataset: "unchanged", model: "unchanged" }) },
        });
        expect(changed()).toEqual(["aws ec2 start-instances"]);
        expect(machine().State.Name).toBe("running");
    });

    test("another instance type replaces the machine, and reruns no stage", async () => {
        const before = machine().InstanceId;
        configure({ instanceType: "g6.xlarge" }, { training: { learningRate: 0.02 } });
        const { code, actions } = await rig.json("up");
        expect({ code, actions }).toEqual({
            code: 0,
            actions: { ...infrastructure("ran", { "host-key": "unchanged" }), ...all("unchanged") },
        });
        expect(changed()).toEqual([...["create machine", "delete machine", "update deadline", "update deadline-stop"]]);
        expect(machine()).toMatchObject({ InstanceType: "g6.xlarge" });
        expect(machine().InstanceId).not.toBe(before);
    });

    test("a machine that somebody has terminated is made again, and no stage runs again", async () => {
        account.aws("ec2", "terminate-instances", "--instance-ids", machine().InstanceId);
        expect((await rig.json("refresh")).code).toBe(0);
        const { code, answer, actions } = await rig.json("up");
        expect({ code, actions }).toMatchObject({ code: 0, actions: all("unchanged") });
        expect(digestsOf(answer)["export"]).toBeDefined();
        expect(machine().State.Name).toBe("running");
    });

    test("a bucket that somebody has deleted is made again, and no stage runs again", async () => {
        const [bucket = ""] = buckets();
        const query = "{Objects: Versions[].{Key: Key, VersionId: VersionId}}";
        const versions = account.aws("s3api", "list-object-versions", "--bucket", bucket, "--query", query);
        account.aws("s3api", "delete-objects", "--bucket", bucket, "--delete", JSON.stringify(versions));
        account.aws("s3api", "delete-bucket", "--bucket", bucket);
        expect((await rig.json("refresh")).code).toBe(0);
        const { code, actions } = await rig.json("up");
        expect({ code, actions }).toMatchObject({ code: 0, actions: all("unchanged") });
        expect(buckets()).toEqual([expect.not.stringMatching(bucket)]);
    });

    test("a spot machine that AWS takes back leaves a checkpoint, from which the next one goes on", async () => {
        const steps = { training: { learningRate: 0.03, maxSteps: 20 } }; // a checkpoint every five
        const checkpoints = () => mirrored().filter((key) => key.startsWith("retune/checkpoints/"));
        const training = () =>
            runsIn(account.sshd.at()).find(({ kind, state }) => kind === "Training" && state === "running");
        configure({ spot: true }, steps);
        const up = rig.spawn("up", []);
        const { key } = await up.until("a step beyond the first checkpoint", () => {
            const run = training();
            return run !== undefined && run.steps.length >= 7 ? run : undefined;
        });
        account.sshd.pause();
        await up.until("the first checkpoint in the mirror", () => checkpoints().some((one) => one.endsWith(".json")));
        const poweredOff = account.takeBack();
        await eventually("it is asked to stop", () => fs.existsSync(account.sshd.at("runs", key, "stop")));
        account.sshd.resume();
        await poweredOff;
        const { code, stdout } = await up.ended;
        expect(code).toBe(1);
        expect(stdout).toContain(
            `run ${key.slice(0, 12)} stopped: AWS takes the machine back; a checkpoint was saved; the mirror has a copy of it`,
        );
        expect(stdout).toContain("`npm run up` resumes it");
        const [run] = runsIn(account.sshd.at()).filter((one) => one.key === key);
        const done = run?.steps.at(-1) ?? 0;
        expect(checkpoints().filter((one) => one.endsWith("/trainer_state.json"))).toHaveLength(2);

        // There is no machine of this type any more: another one has nothing of what was on its disk.
        fallAsleep();
        fs.rmSync(account.sshd.at(), { recursive: true });
        configure({ instanceType: "g6.xlarge", spot: true }, steps);
        const again = await rig.json("up");
        expect({ code: again.code, actions: again.actions }).toMatchObject({
            code: 0,
            actions: all("ran", { dataset: "unchanged", model: "unchanged" }),
        });
        expect(again.stage("training").facts).toMatchObject({ steps: 20, resumedFrom: done, lostSteps: 0 });
        const [resumed] = runsIn(rig.home).filter((one) => one.key === key);
        expect(resumed?.steps).toEqual(Array.from({ length: 20 }, (_, step) => step + 1));
        const events = fs.readFileSync(path.join(rig.home, "runs", key, "events.jsonl"), "utf8");
        expect(events).toContain(`"brings the checkpoint at step ${done} from the mirror"`);
        expect(events).toContain(`"resumed from the checkpoint at step ${done}; nothing is lost"`);
        const page = fs.readFileSync(new URL(`${again.stage("report").uri ?? ""}/report.html`), "utf8");
        expect(page).toContain("The training was interrupted; no step was lost.");
        expect(page).toContain(`It went on from the checkpoint at step ${done}.`);
        expect(checkpoints()).toEqual([]);
    });

    test("destroy leaves nothing in the account, and the model here", async () => {
        const { code } = await rig.json("destroy");
        expect(code).toBe(0);
        expect(account.machines()).toEqual([]);
        expect(buckets()).toEqual([]);
        expect(account.aws("iam", "list-roles", "--query", "Roles[].RoleName")).toEqual([]);
        expect(account.aws("iam", "list-instance-profiles", "--query", "InstanceProfiles[]")).toEqual([]);
        expect(account.aws("ec2", "describe-key-pairs", "--query", "KeyPairs[]")).toEqual([]);
        expect(account.aws("scheduler", "list-schedules", "--query", "Schedules[]")).toEqual([]);
        const groups = "SecurityGroups[?GroupName != 'default'].GroupName";
        expect(account.aws("ec2", "describe-security-groups", "--query", groups)).toEqual([]);
        expect(fs.readdirSync(path.join(rig.home, "store")).length).toBeGreaterThan(0);
    });
});
