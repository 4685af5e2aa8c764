import { chmodSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import type { SshTarget } from "../../infra/target";
import { Instance } from "../../pipeline/executor/instance";
import { noteReading, spentBy } from "../../pipeline/executor/meter";
import type { Program } from "../../pipeline/executor/machine";
import { SshExecutor } from "../../pipeline/executor/ssh";
import { HostLifecycle } from "../../pipeline/provider/host";
import { OfferLifecycle } from "../../pipeline/provider/offer";
import { Store } from "../../pipeline/store/store";
import { temporaryFolder } from "./datasets/folder";

const ID = "i-0123456789abcdef0";

let folder: string;

/** The AWS command line of these tests: each call is noted, and answered by a shell script. */
function answers(script: string): void {
    writeFileSync(path.join(folder, "aws"), `#!/bin/sh\necho "$*" >>"${folder}/calls"\n${script}\n`);
    chmodSync(path.join(folder, "aws"), 0o755);
}

const calls = (): string[] => readFileSync(path.join(folder, "calls"), "utf8").trimEnd().split("\n");

const described = (state: string, address?: string): string => {
    const instance = { State: { Name: state }, ...(address === undefined ? {} : { PublicIpAddress: address }) };
    return `echo '${JSON.stringify({ Reservations: [{ Instances: [instance] }] })}'`;
};

beforeEach(() => {
    folder = temporaryFolder();
    vi.stubEnv("PATH", `${folder}${path.delimiter}${process.env["PATH"] ?? ""}`);
    onTestFinished(() => {
        vi.unstubAllEnvs();
    });
});

describe("an instance", () => {
    const instance = new Instance(ID, "us-east-1");

    test("is asked for its state and its address", async () => {
        answers(described("running", "203.0.113.9"));
        expect(await instance.look()).toEqual({ state: "running", address: "203.0.113.9" });
        expect(calls()).toEqual([`ec2 describe-instances --instance-ids ${ID} --region us-east-1 --output json`]);
    });

    test.each([
        [
            'Unable to locate credentials. You can configure credentials by running "aws configure".',
            'there are no AWS credentials: `aws configure` or AWS_PROFILE, and `aws sts get-caller-identity` shows whose they are (Unable to locate credentials. You can configure credentials by running "aws configure".)',
        ],
        [
            "An error occurred (InvalidInstanceID.NotFound) when calling the DescribeInstances operation",
            `${ID} does not exist any more: \`npm run refresh\`, then \`npm run up\` make another, and no stage that is done runs again`,
        ],
        ["An error occurred (Throttling)", "AWS refuses: An error occurred (Throttling)"],
    ])("%s", async (said, message) => {
        answers(`echo '${said}' >&2; exit 254`);
        await expect(instance.look()).rejects.toThrow(message);
    });

    test("that was terminated is gone", async () => {
        answers(described("terminated"));
        expect(await instance.isAwake()).toBe(false);
        await expect(instance.look()).rejects.toThrow(`${ID} does not exist any more`);
    });
});

const target = (instance: Partial<SshTarget["instance"]> = {}): SshTarget => ({
    type: "ssh",
    host: ID,
    port: 22,
    user: "ubuntu",
    hostKey: `ssh-ed25519 ${"A".repeat(68)}`,
    home: ".retune",
    gpu: "required",
    pricePerHour: 1,
    instance: { region: "us-east-1", access: "ssm", ...instance },
});
const executor = (instance: Partial<SshTarget["instance"]> = {}) =>
    new SshExecutor(target(instance), new Store(folder), () => undefined);
const progress = (): void => undefined;

describe("what a machine has cost", () => {
    const KEY = "a".repeat(64);
    const stack = "huatuo";
    const spent = (): number | undefined => spentBy(folder, stack)?.amount;

    /** A machine that was awake for so many seconds; its runner answers a status with what it is given. */
    const awake = (seconds: number, status: object = {}): void => {
        answers(described("running"));
        const hello = JSON.stringify({ home: "/home/.retune", boot: "another", inode: [0, 0] });
        const run = JSON.stringify({ key: KEY, state: "running", cursor: 0, events: [], ...status });
        const script = `case "$last" in *hello*) echo '${hello}' ;; *status*|*stop*) echo '${run}' ;; *) echo ${seconds} ;; esac`;
        writeFileSync(path.join(folder, "ssh"), `#!/bin/sh\nfor last; do :; done\n${script}\n`, { mode: 0o755 });
    };

    test("is noted with each answer about a run, so that a machine that is taken back has not cost the first minutes only", async () => {
        awake(120, { awakeSeconds: 28_800 });
        const following = executor({ stack });
        await following.wake(progress);
        expect(spent()).toBeCloseTo(120 / 3600);
        await following.status(KEY, { cursor: 0, waitSeconds: 0 });
        expect(spent()).toBe(8);
        awake(120, { awakeSeconds: 36_000, state: "stopped" });
        await following.stop(KEY);
        expect(spent()).toBe(10);
        // Nor does the machine after it get more than the rest.
        await noteReading(folder, { machine: "i-1", stack: "another", seconds: 3600, pricePerHour: 9, at: 0 });
        const next = new SshExecutor(
            { ...target({ stack, budget: 10 }), host: "i-2" },
            new Store(folder),
            () => undefined,
        );
        await expect(next.wake(progress)).rejects.toThrow(
            "nothing more is run on i-2, or fetched from it: the machines of stack huatuo have cost $10.00, and target.budget is $10.00. A larger target.budget lets it go on",
        );
    });

    test("is noted once more before the stack's file says another machine, or none", async () => {
        const offer = new OfferLifecycle(new Store(folder), () => undefined);
        const host = new HostLifecycle(new Store(folder), () => undefined);
        const terms = {
            ...{ instanceType: "g5.xlarge", region: "us-east-1", spot: false, precision: "bf16", gpu: "required" },
            ...{
                pricePerHour: 1,
                deadline: 24,
                disk: 200,
                idleMinutes: 15,
                image: "kept",
                system: "ubuntu-22.04",
                publicKey: "ssh-ed25519 PUBLIC",
            },
            found: { zones: ["us-east-1a"], quota: 8, newest: "ami-0001", problems: [] },
        };
        const urn = `urn:pulumi:${stack}::retune::finetune:infra:Offer::offer`;
        awake(120, { awakeSeconds: 120 });
        await executor({ stack }).status(KEY, { cursor: 0, waitSeconds: 0 });
        awake(7200);
        await offer.apply(urn, { ...terms, instanceType: "g6.xlarge" }, await offer.apply(urn, terms), terms);
        expect(spent()).toBe(2);
        awake(10_800);
        await host.delete("", { target: target({ stack }) });
        expect(spent()).toBe(3);
        answers(described("stopped"));
        await host.delete("", { target: target({ stack }) });
        expect(spent()).toBe(3);
        expect(calls().filter((call) => call.includes("start-instances"))).toEqual([]);
    });
});

describe("a machine that sleeps", () => {
    test("is not woken by a question", async () => {
        answers(described("stopped"));
        await expect(executor().missing([])).rejects.toThrow(`${ID} sleeps (stopped)`);
        expect(calls().filter((call) => call.includes("start-instances"))).toEqual([]);
    });

    test("is not woken to be talked to either, but whoever wants that hears how", async () => {
        answers(described("stopped"));
        await expect(executor().attend({} as Program, {})).rejects.toThrow(
            `${ID} sleeps (stopped): \`aws ec2 start-instances --instance-ids ${ID} --region us-east-1\` wakes it; it costs until it has been idle again`,
        );
        expect(calls().filter((call) => call.includes("start-instances"))).toEqual([]);
    });

    test("is not started after its deadline", async () => {
        answers(described("stopped"));
        await expect(executor({ until: "2026-01-01T00:00:00Z" }).wake(progress)).rejects.toThrow(
            `${ID} is not started: its deadline was 2026-01-01T00:00:00Z. Another target.deadline, such as \`--set target.deadline=8\`, counts from now`,
        );
        expect(calls()).toHaveLength(1);
    });

    test("nor is anything run on one that was made after it", async () => {
        answers(described("running"));
        await expect(executor({ until: "2026-01-01T00:00:00Z" }).wake(progress)).rejects.toThrow(
            `nothing more is run on ${ID}, or fetched from it: its deadline was 2026-01-01T00:00:00Z. Another target.deadline, such as \`--set target.deadline=8\`, counts from now`,
        );
    });

    test("is not started when its budget is spent", async () => {
        answers(described("stopped"));
        await noteReading(folder, { machine: ID, seconds: 7200, pricePerHour: 1, at: 0 });
        await expect(executor({ budget: 2 }).wake(progress)).rejects.toThrow(
            `${ID} is not started: it has cost $2.00, and target.budget is $2.00. A larger target.budget lets it go on`,
        );
        expect(calls()).toHaveLength(1);
    });

    test("is not started when the stack's machines before it have spent the budget", async () => {
        answers(described("stopped"));
        const before = { seconds: 3600, at: 0 };
        await noteReading(folder, { ...before, machine: "i-1", stack: "huatuo", pricePerHour: 2 });
        await noteReading(folder, { ...before, machine: "i-2", stack: "another", pricePerHour: 50 });
        await noteReading(folder, { ...before, machine: ID, stack: "huatuo", pricePerHour: 1, budget: 3, at: 1 });
        expect(spentBy(folder, "huatuo")).toEqual({ amount: 3, budget: 3 });
        expect(spentBy(folder, "none")).toBeUndefined();
        await expect(executor({ budget: 3, stack: "huatuo" }).wake(progress)).rejects.toThrow(
            `${ID} is not started: the machines of stack huatuo have cost $3.00, and target.budget is $3.00. A larger target.budget lets it go on`,
        );
    });

    test("is told what the stack's machines before it have cost, in its own seconds, and its budget is the rest", async () => {
        answers(described("running"));
        await noteReading(folder, { machine: "i-1", stack: "huatuo", seconds: 1800, pricePerHour: 3, at: 0 });
        // The machine is this one: ssh's last argument is for a shell.
        const there = path.join(folder, "there");
        mkdirSync(there);
        writeFileSync(
            path.join(folder, "ssh"),
            `#!/bin/sh\ncd ${there} && for last; do :; done && exec sh -c "$last"\n`,
            { mode: 0o755 },
        );
        await executor({ budget: 3, stack: "huatuo" }).wake(progress);
        expect(readFileSync(path.join(there, ".retune/spent-elsewhere"), "utf8")).toBe("5400\n");
        expect(spentBy(folder, "huatuo")).toEqual({ amount: 1.5, budget: 3 });
        // Another client may know of fewer.
        rmSync(path.join(folder, "meters"), { recursive: true });
        await executor({ budget: 3, stack: "huatuo" }).wake(progress);
        expect(readFileSync(path.join(there, ".retune/spent-elsewhere"), "utf8")).toBe("5400\n");
    });

    test("is started once, and waited for", async () => {
        const started = path.join(folder, "started");
        answers(
            `case "$*" in *start-instances*) touch ${started}; exit ;; esac\n` +
                `if [ -e ${started} ]; then ${described("running")}; else ${described("stopped")}; fi`,
        );
        // Session Manager would lead to it; here it leads nowhere, and what comes after is ssh's.
        writeFileSync(path.join(folder, "ssh"), "#!/bin/sh\necho 120\n", { mode: 0o755 });
        const said: string[] = [];
        await executor().wake((text) => said.push(text));
        expect(said).toEqual([`starting ${ID}`]);
        expect(calls().filter((call) => call.includes("start-instances"))).toHaveLength(1);
        const reading = JSON.parse(readFileSync(path.join(folder, "meters", `${ID}.json`), "utf8")) as object;
        expect(reading).toMatchObject({ machine: ID, seconds: 120, pricePerHour: 1 });
    });
});
