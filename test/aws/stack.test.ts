import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { parse } from "yaml";
import type { Json } from "../../pipeline/identity";
import { cache } from "../../scripts/locations.cjs";
import { isAlive } from "../engine/processes";
import type { Hub } from "../engine/hub";
import { all, digestsOf, eventually, python, Rig, runsIn, type Running } from "../engine/rig";
import { Account, withoutAccount } from "./account";
import { tutorialHub } from "./tutorial-hub";

const missing = withoutAccount === undefined ? "" : ` (skipped: ${withoutAccount})`;

/** What every update asks, for nothing: it costs no machine and wakes none. */
const ASKED = ["invoke getInstanceTypeOfferings", "invoke getParameter", "invoke getServiceQuota"];

type Settings = Readonly<Record<string, Json>>;

const BY_ADDRESS: Settings = { "target.access": "key", "target.from": ["203.0.113.7/32"] };

/*
 * The stack is Pulumi.huatuo.yaml as it is committed, with QLoRA, model and data at their pinned commits. `--set` says what
 * cannot be here: a GPU, and the time for more than a few steps and tokens.
 */
describe.skipIf(missing !== "")(`the stack huatuo on AWS${missing}`, () => {
    let rig: Rig;
    let account: Account;
    let hub: Hub;
    let printed = "";
    let settings: Settings = {};

    /** What differs from the stack's file from now on. */
    const configure = (changes: Settings = {}): void => {
        const { identity, sshd } = account;
        settings = {
            "target.identity": identity,
            // The machine is a loopback sshd: it has no user ubuntu, and an environment with LLaMA-Factory already.
            "target.user": os.userInfo().username,
            "target.home": sshd.at(),
            "target.python": python,
            "target.gpu": "none",
            "training.precision": "fp32", // bf16 wants a GPU, or one of few CPUs
            "training.gradientAccumulation": 1,
            "training.maxSteps": 4,
            "evaluation.maxNewTokens": 8,
            // A random model of two layers learns next to nothing in four steps: whether it is better is chance.
            "evaluation.gate": { conditions: [] },
            ...changes,
        };
    };
    /** The tester's cache, but for its downloads: what the stand-in has under a real name must neither be there nor come from there. */
    const withoutDownloads = (): string => {
        const own = path.join(rig.folder, "cache");
        fs.mkdirSync(own);
        for (const name of fs.readdirSync(cache()).filter((one) => one !== "downloads"))
            fs.symlinkSync(path.join(cache(), name), path.join(own, name));
        return own;
    };
    const words = (command: Parameters<Rig["json"]>[0], ...more: readonly string[]): string[] => {
        const set = Object.entries(settings).flatMap(([name, value]) => [
            "--set",
            `${name}=${typeof value === "string" ? value : JSON.stringify(value)}`,
        ]);
        return ["--stack", "huatuo", ...(command === "up" || command === "preview" ? set : []), ...more];
    };
    const json = (command: Parameters<Rig["json"]>[0], ...more: readonly string[]) =>
        rig.json(command, ...words(command, ...more));
    const spawn = (command: "up", ...more: readonly string[]): Running => rig.spawn(command, words(command, ...more));
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
    /** What is in the one bucket, each with the digest of its content. */
    const objects = () => {
        const [bucket = ""] = buckets();
        const query = "Contents[].{Key: Key, ETag: ETag}";
        const found = account.aws("s3api", "list-objects-v2", "--bucket", bucket, "--query", query) ?? [];
        return found as unknown as readonly { readonly Key: string; readonly ETag: string }[];
    };
    const mirrored = (): string[] => objects().map(({ Key }) => Key);
    const removeBucket = (): string => {
        const [bucket = ""] = buckets();
        const query = "{Objects: Versions[].{Key: Key, VersionId: VersionId}}";
        const versions = account.aws("s3api", "list-object-versions", "--bucket", bucket, "--query", query);
        account.aws("s3api", "delete-objects", "--bucket", bucket, "--delete", JSON.stringify(versions));
        account.aws("s3api", "delete-bucket", "--bucket", bucket);
        return bucket;
    };
    /** What AWS's own clock stops, and how often from the deadline on. */
    const clock = () => {
        const [name = ""] = account.aws("scheduler", "list-schedules", "--query", "Schedules[].Name") as string[];
        const query = "[ScheduleExpression, Target.Arn, Target.Input]";
        return account.aws("scheduler", "get-schedule", "--name", name, "--query", query);
    };
    const stopping = (id: string) => [
        "rate(1 hours)",
        "arn:aws:scheduler:::aws-sdk:ec2:stopInstances",
        JSON.stringify({ InstanceIds: [id] }),
    ];
    /** As its own meter would. */
    const fallAsleep = (): void => {
        account.aws("ec2", "stop-instances", "--instance-ids", machine().InstanceId);
    };

    beforeAll(async () => {
        [account, hub] = await Promise.all([Account.open(), tutorialHub()]);
        rig = new Rig();
        account.enter(rig);
        rig.environment["HF_ENDPOINT"] = hub.address;
        rig.environment["RETUNE_CACHE"] = withoutDownloads();
        configure();
    });
    afterAll(async () => {
        await rig.dispose();
        await account.close();
        hub.close();
    });

    describe("is refused before anything is made", () => {
        test.each<[string, () => void | Promise<void>, Settings, string]>([
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
                { "target.zone": "us-east-1e" },
                "target.zone: us-east-1e has no g5.xlarge; there is us-east-1",
            ],
            [
                "with a budget smaller than one step",
                () => undefined,
                { "target.budget": 0.01 },
                "target.budget: $0.010 buys 36 s of g5.xlarge",
            ],
            [
                "without the image's parameter",
                () => account.publish("gpu-ubuntu-22.04", null),
                {},
                "target.system: AWS names no image of it there: choose another one, or set target.image to an id (AWS was asked which image is the newest of gpu-ubuntu-22.04: ",
            ],
            [
                "in a region that AWS does not have",
                () => undefined,
                { "target.region": "us-east-9" },
                "target.region: AWS does not answer there: `aws ec2 describe-regions --all-regions --query Regions[].RegionName --region us-east-1` lists its regions (AWS was asked which zones have the instance type: ",
            ],
        ])("%s", async (_what, given, changes, message) => {
            await given();
            configure(changes);
            const { code, stderr } = await json("up");
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
            const env = { ...rig.environment, ...without };
            const running = rig.spawn("up", words("up", "--json"), { env });
            const { code, stderr } = await running.ended;
            expect(code).not.toBe(0);
            // Once, although nothing that was asked is answered.
            expect(stderr.split("AWS was asked")).toHaveLength(2);
            expect(stderr).toContain(
                "there are no AWS credentials: `aws configure` or AWS_PROFILE, and `aws sts get-caller-identity` shows whose they are (AWS was asked which zones have the instance type: ",
            );
            expect(account.machines()).toEqual([]);
        });

        test("by the rules of policy/ with runs that may cost any amount", async () => {
            const { code, answer } = await json("up", "--policy-pack", "policy", "--set", "target.limits={}");
            expect(code).toBe(1);
            const errors = answer.stages.flatMap(({ name, error }) =>
                error === undefined ? [] : [`${name}: ${error}`],
            );
            expect(errors).toEqual([
                "offer: rule money: a run may cost any amount, and the most is $20: set target.limits.cost",
            ]);
            expect(changed()).toEqual([]);
            expect([account.machines(), buckets()]).toEqual([[], []]);
        });

        test("a preview says what it costs, and makes nothing", async () => {
            const { code, stderr } = await json("preview");
            expect(code).toBe(0);
            expect(stderr).toContain("awake $1.01 an hour (AWS Pricing API, us-east-1, 2026-08-17)");
            expect(changed()).toEqual([]);
        });

        test("a GPU without bf16 is told before it is paid for: the training is fp16", async () => {
            configure({ "target.instanceType": "g4dn.xlarge", "target.gpu": "required", "training.precision": "bf16" });
            const { code, stderr } = await json("preview");
            configure();
            expect(code).toBe(0);
            expect(stderr).toContain("g4dn.xlarge, T4 of 16 GiB, which has no bf16: training.precision is fp16");
        });
    });

    test.each([
        [
            "a bucket's name that is taken",
            { taken: true },
            0,
            /models: creating S3 Bucket \(retune-huatuo-\w+\): .*BucketAlreadyExists: *\n +a bucket of this name is somebody's already, and all of AWS shares the names: repeat the command, which takes another name each time$/m,
        ],
        [
            "credentials that expire in the middle",
            { expired: true },
            1,
            /machine: creating EC2 Instance: operation error EC2: RunInstances, api error RequestExpired: Request has expired\.\n +the AWS credentials have expired: log in again, until `aws sts get-caller-identity` answers, and repeat the command, which goes on where it was; what runs on a machine goes on meanwhile$/m,
        ],
        [
            "no machine free",
            { capacity: false },
            1,
            /machine: creating EC2 Instance: InsufficientInstanceCapacity: .* \(us-east-1a\)\.\n +AWS has no such machine free now: try again later, or set target\.zone or target\.instanceType to another$/m,
        ],
    ])("%s: said, nothing is made twice, and the next up goes on", async (_what, control, count, message) => {
        account.has({ quota: 8, ...control });
        const { code, stderr } = await json("up");
        expect(code).toBe(1);
        expect(stderr).toMatch(message);
        account.has({ quota: 8 });
        expect(account.machines()).toEqual([]);
        expect(buckets()).toHaveLength(count);
        account.asked();
    });

    test("from an account without a machine to the model", async () => {
        const { code, actions, stdout: answered, stderr } = await json("up");
        printed = answered + stderr;
        expect({ code, stderr: code === 0 ? "" : stderr }).toEqual({ code: 0, stderr: "" });
        expect(actions).toEqual({
            ...infrastructure("ran", { "offer": "unchanged", "host-key": "unchanged" }),
            ...all("ran", { dataset: "unchanged" }),
        });
        expect(stderr).not.toContain("mirror");
        expect(changed()).toEqual(["create deadline", "create deadline-stop", "create machine"]);
        expect(machine()).toMatchObject({ ImageId: "ami-0000000000000001", InstanceType: "g5.xlarge" });
        expect(clock()).toEqual(stopping(machine().InstanceId));
        const { stdout } = await rig.run("status");
        expect(stdout).toMatch(/^stack huatuo, spent \$0\.00 of \$10\.00$/m);
        expect(stdout).toMatch(/^machines\n {2}i-[0-9a-f]+ +\$0\.00 for 0 s awake, as of /m);
    });

    test("model and data came from the hub at the commits that the stack's file names, the model to the machine itself", () => {
        const file = path.join(rig.project, "Pulumi.huatuo.yaml");
        const { config } = parse(fs.readFileSync(file, "utf8")) as {
            config: Record<"retune:model" | "retune:dataset", { source: { huggingface: string; revision: string } }>;
        };
        for (const { source } of [config["retune:model"], config["retune:dataset"]]) {
            const asked = hub.requests.filter((one) => one.includes(`/${source.huggingface}/resolve/`));
            expect(asked.length).toBeGreaterThan(0);
            expect(asked.filter((one) => !one.includes(`/resolve/${source.revision}/`))).toEqual([]);
        }
        const [model] = runsIn(account.sshd.at()).filter(({ kind }) => kind === "Model");
        const weights = path.join(model?.folder ?? "", "out", "model.safetensors");
        expect(fs.readFileSync(weights)).toEqual(
            hub.repositories.get("Qwen/Qwen3-0.6B")?.files.get("model.safetensors"),
        );
        const [training] = rig.runs("Training");
        const log = fs.readFileSync(path.join(training?.folder ?? "", "log"), "utf8");
        expect(log).toContain("Quantizing model to 4 bit with bitsandbytes");
    });

    test("it keeps the rules of policy/, because a run has a limit", async () => {
        const watched = ["--policy-pack", "policy"];
        const kept = await json("preview", ...watched);
        expect({ code: kept.code, stderr: kept.code === 0 ? "" : kept.stderr }).toEqual({ code: 0, stderr: "" });
        const broken = await json("preview", ...watched, "--set", "target.limits={}");
        expect(broken.code).toBe(1);
        const errors = broken.answer.stages.flatMap(({ error }) => error ?? []);
        expect([...new Set(errors)]).toEqual([
            "rule money: a run may cost any amount, and the most is $20: set target.limits.cost",
        ]);
        expect(account.asked().sort()).toEqual([...ASKED, ...ASKED].sort());
    });

    test("what was made is in the mirror as well", () => {
        const keys = mirrored();
        // Training, baseline, answers and export; the base model, which is had again from its source, stays there.
        expect(keys.filter((key) => key.endsWith("/result.json"))).toHaveLength(4);
        expect(keys.every((key) => key.startsWith("retune/"))).toBe(true);
    });

    test("no secret is in clear in the project, the state and the store, on the machine, or in what was printed", () => {
        const keyIn = (file: string): string => fs.readFileSync(file, "utf8").split("\n")[1]?.slice(-30) ?? "";
        const secrets = [keyIn(path.join(account.sshd.folder, "host-key")), keyIn(account.identity), account.secret];
        expect(printed.length).toBeGreaterThan(1000);
        for (const secret of secrets) {
            expect(secret.length).toBeGreaterThanOrEqual(30);
            const search = 'grep -rlF -e "$@" || true';
            const places = [rig.project, rig.home, account.sshd.at()];
            expect(execFileSync("sh", ["-c", search, "sh", secret, ...places]).toString()).toBe("");
            expect(printed).not.toContain(secret);
        }
    });

    test("it sleeps when nothing runs: an up with nothing to do does not wake it", async () => {
        fallAsleep();
        expect((await json("up")).actions).toEqual(unchanged);
        expect((await json("preview")).actions).toEqual(unchanged);
        expect(account.asked().sort()).toEqual([...ASKED, ...ASKED].sort());
        expect(machine().State.Name).toBe("stopped");
    });

    test("nor does a refresh, which takes a machine that sleeps as it was", async () => {
        const { code, actions, stderr } = await json("refresh");
        expect({ code, actions }).toEqual({ code: 0, actions: unchanged });
        expect(stderr).toContain(`${machine().InstanceId} sleeps (stopped): taken as it was`);
        expect(machine().State.Name).toBe("stopped");
        expect(changed()).toEqual([]);
    });

    test("a newer image under AWS's name changes nothing until it is asked for", async () => {
        await account.publish("gpu-ubuntu-22.04", "ami-0000000000000002");
        expect((await json("up")).actions).toEqual(unchanged);
        expect(changed()).toEqual([]);
        const latest = await json("preview", "--set", "target.image=latest");
        expect(latest).toMatchObject({ code: 0, actions: { offer: "would-run", ...all("unchanged") } });
        expect(machine().ImageId).toBe("ami-0000000000000001");
    });

    test("another learning rate touches no infrastructure: it wakes the machine, once, and runs there", async () => {
        configure({ "training.learningRate": 0.0002 });
        const { code, actions } = await json("up");
        expect({ code, actions }).toEqual({
            code: 0,
            actions: { ...infrastructure("unchanged"), ...all("ran", { dataset: "unchanged", model: "unchanged" }) },
        });
        expect(changed()).toEqual(["aws ec2 start-instances"]);
        expect(machine().State.Name).toBe("running");
    });

    test("another instance type replaces the machine, and reruns no stage", async () => {
        const before = machine().InstanceId;
        configure({ "target.instanceType": "g6.xlarge", "training.learningRate": 0.0002 });
        const { code, actions } = await json("up");
        expect({ code, actions }).toEqual({
            code: 0,
            actions: { ...infrastructure("ran", { "host-key": "unchanged" }), ...all("unchanged") },
        });
        expect(changed()).toEqual([...["create machine", "delete machine", "update deadline", "update deadline-stop"]]);
        expect(machine()).toMatchObject({ InstanceType: "g6.xlarge" });
        expect(machine().InstanceId).not.toBe(before);
        expect(clock()).toEqual(stopping(machine().InstanceId));
    });

    test("a machine that somebody has terminated is made again, but not after its deadline, and no stage runs again", async () => {
        account.aws("ec2", "terminate-instances", "--instance-ids", machine().InstanceId);
        expect((await json("refresh")).code).toBe(0);
        for (const command of ["preview", "up"] as const) {
            const late = await json(command, "--set", "target.deadline=0.000001");
            expect(late.code).toBe(1);
            expect(late.stderr).toMatch(
                /^ *machine: .*no machine is made: the deadline was \d{4}-\S+Z\. Another target\.deadline, such as `--set target\.deadline=8`, counts from now$/m,
            );
        }
        expect(account.machines()).toEqual([]);
        const { code, answer, actions } = await json("up");
        expect({ code, actions }).toMatchObject({ code: 0, actions: all("unchanged") });
        expect(digestsOf(answer)["export"]).toBeDefined();
        expect(machine().State.Name).toBe("running");
    });

    describe("destroy in the middle of a run whose client was killed", () => {
        test("ends the run and the machine, and kept models stay", async () => {
            configure({ "target.instanceType": "g6.xlarge", "target.keepModels": true });
            const client = spawn("up", "--json", "--set", "training.maxSteps=100000");
            const { key } = await client.until("a step", () => {
                const run = rig.active("Training");
                const events = account.sshd.at("runs", run?.key ?? "", "events.jsonl");
                return fs.existsSync(events) && fs.readFileSync(events, "utf8").includes('"learning"')
                    ? run
                    : undefined;
            });
            const file = account.sshd.at("runs", key, "state.json");
            const { pid } = JSON.parse(fs.readFileSync(file, "utf8")) as { pid: number };
            const cli = await client.cli();
            client.child.kill("SIGKILL");
            await eventually("the CLI ends", () => !isAlive(cli));
            expect(isAlive(pid)).toBe(true);
            const kept = objects();
            account.asked();

            const { code, stderr } = await json("destroy");
            expect({ code, stderr: code === 0 ? "" : stderr }).toEqual({ code: 0, stderr: "" });
            expect(isAlive(pid)).toBe(false);
            // It was asked to, and had time for its checkpoint, before its machine went.
            expect(rig.runs().find((run) => run.key === key)).toMatchObject({
                state: "stopped",
                reason: "stopped on request; a checkpoint was saved",
            });
            expect(account.machines()).toEqual([]);
            expect(account.aws("scheduler", "list-schedules", "--query", "Schedules[]")).toEqual([]);
            expect(rig.locks()).toEqual([]);
            expect(rig.state("huatuo").pending_operations ?? []).toEqual([]);
            expect(kept.length).toBeGreaterThan(4);
            expect(objects()).toEqual(kept);
        });

        test("and the next up has them without a run", async () => {
            removeBucket();
            configure(BY_ADDRESS);
            const { code, actions } = await json("up");
            expect({ code, actions }).toEqual({ code: 0, actions: { ...infrastructure("ran"), ...all("cached") } });
        });
    });

    test("access: key: the machine is reached at its address, through a port for the networks that are named", async () => {
        const groups = "SecurityGroups[?GroupName != 'default'].IpPermissions[]";
        expect(account.aws("ec2", "describe-security-groups", "--query", groups)).toMatchObject([
            { IpProtocol: "tcp", FromPort: 22, ToPort: 22, IpRanges: [{ CidrIp: "203.0.113.7/32" }] },
        ]);
        account.asked();
        fallAsleep();
        configure({ ...BY_ADDRESS, "evaluation.maxNewTokens": 4 });
        const { code, actions } = await json("up");
        expect({ code, actions }).toMatchObject({ code: 0, actions: { evaluation: "ran", training: "unchanged" } });
        // It was made, prepared and verified that way, and two runs are on it now.
        const asked = new Set(account.asked());
        expect(asked).toContain("aws ec2 start-instances");
        expect(asked).toContain(`ssh ${machine().PublicIpAddress ?? ""}`);
        expect(asked).not.toContain("aws ssm start-session");
    });

    test("a bucket that somebody has deleted is made again with what was in it, and no stage runs again", async () => {
        const bucket = removeBucket();
        expect((await json("refresh")).code).toBe(0);
        const { code, actions, stderr } = await json("up");
        expect({ code, actions }).toMatchObject({ code: 0, actions: all("unchanged") });
        expect(buckets()).toEqual([expect.not.stringMatching(bucket)]);
        expect(stderr).toContain("\nsent 4 results of earlier updates to the mirror\n");
        expect(mirrored().filter((key) => key.endsWith("/result.json"))).toHaveLength(4);
        expect(mirrored().filter((key) => key.endsWith("/model.safetensors"))).toHaveLength(1);
    });

    test("a spot machine that AWS takes back leaves a checkpoint, from which the next one goes on", async () => {
        const steps = { "target.spot": true, "training.learningRate": 0.0003, "training.maxSteps": 20 }; // a checkpoint every five
        const checkpoints = () => mirrored().filter((key) => key.startsWith("retune/checkpoints/"));
        const training = () =>
            runsIn(account.sshd.at()).find(({ kind, state }) => kind === "Training" && state === "running");
        configure(steps);
        const up = spawn("up");
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
        configure({ ...steps, "target.instanceType": "g6.xlarge" });
        const again = await json("up");
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
        const { code } = await json("destroy");
        expect(code).toBe(0);
        expect(account.machines()).toEqual([]);
        expect(buckets()).toEqual([]);
        expect(account.aws("iam", "list-roles", "--query", "Roles[].RoleName")).toEqual([]);
        expect(account.aws("iam", "list-instance-profiles", "--query", "InstanceProfiles[]")).toEqual([]);
        expect(account.aws("ec2", "describe-key-pairs", "--query", "KeyPairs[]")).toEqual([]);
        expect(account.aws("scheduler", "list-schedules", "--query", "Schedules[]")).toEqual([]);
        const groups = "SecurityGroups[?GroupName != 'default'].GroupName";
        expect(account.aws("ec2", "describe-security-groups", "--query", groups)).toEqual([]);
        expect(account.aws("ec2", "describe-volumes", "--query", "Volumes[]")).toEqual([]);
        const tagged = account.aws(
            ...["resourcegroupstaggingapi", "get-resources", "--tag-filters", "Key=program,Values=retune"],
            ...["--query", "ResourceTagMappingList[].ResourceARN"],
        ) as string[];
        // AWS, too, goes on listing a terminated machine for a while.
        expect(tagged.filter((arn) => !arn.includes(":instance/i-"))).toEqual([]);
        expect(fs.readdirSync(path.join(rig.home, "store")).length).toBeGreaterThan(0);
    });
});
