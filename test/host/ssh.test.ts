import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { targetSchema, type SshTarget } from "../../infra/target";
import type { Job, RunStatus, Supplies } from "../../pipeline/executor/executor";
import { SshExecutor } from "../../pipeline/executor/ssh";
import { digestOfFiles, listFiles, sha256 } from "../../pipeline/identity";
import { Store, type Result } from "../../pipeline/store/store";
import { filesBelow } from "../engine/rig";
import { Link } from "./link";
import { describeOverSsh } from "./over-ssh";
import { Sshd } from "./sshd";

describeOverSsh("SSH executor", () => {
    let sshd: Sshd;
    let folder: string;
    let store: Store;
    let notices: string[];

    beforeAll(async () => {
        sshd = await Sshd.start();
    });
    afterAll(async () => {
        await sshd.dispose();
    });
    beforeEach(() => {
        folder = fs.mkdtempSync(path.join(os.tmpdir(), "retune-ssh-"));
        store = new Store(path.join(folder, "home"));
        notices = [];
    });
    afterEach(() => {
        fs.rmSync(folder, { recursive: true, force: true });
    });

    /** The host as a stack names it, with a home of its own in each test, and no connection shared with another. */
    function host(changes: Partial<SshTarget> = {}): SshTarget {
        const home = path.join(folder, "host home's");
        return targetSchema.parse({ ...sshd.target, home, python: "/usr/bin/python3", ...changes }) as SshTarget;
    }

    function executor(changes: Partial<SshTarget> = {}): SshExecutor {
        return new SshExecutor(host(changes), store, (text) => notices.push(text));
    }

    async function artifact(bytes: number): Promise<string> {
        const work = path.join(folder, "work");
        fs.mkdirSync(path.join(work, "sub"), { recursive: true });
        fs.writeFileSync(path.join(work, "one.bin"), pseudorandom(bytes));
        fs.writeFileSync(path.join(work, "sub", "two words.txt"), "text\n");
        fs.writeFileSync(path.join(work, "empty"), "");
        const files = await listFiles(work);
        const digest = digestOfFiles(files);
        await store.keep(work, digest, files);
        return digest;
    }

    const quiet = (): void => undefined;

    test("an artifact travels to the host once, whatever is in it", async () => {
        const digest = await artifact(3_000_000);
        const ssh = executor();
        expect(await ssh.missing([digest])).toEqual([digest]);
        await ssh.send(digest, quiet);
        expect(await ssh.missing([digest])).toEqual([]);
        await ssh.send(digest, quiet);

        const there = path.join(folder, "host home's", "store", digest);
        expect(filesBelow(there)).toEqual(["empty", "one.bin", "sub/two words.txt"]);
        expect(digestOfFiles(await listFiles(there))).toBe(digest);
        expect(filesBelow(path.join(folder, "host home's", "store", ".incoming"))).toEqual([]);
    });

    test("a job runs on the host, and result, log and events come here as they are there", async () => {
        const digest = await artifact(1000);
        const ssh = executor();
        await ssh.send(digest, quiet);
        const ended = await follow(ssh, await submit(ssh, "print('hello')", { data: digest }));
        expect(ended).toMatchObject({ state: "succeeded", attempt: 1 });
        expect(ended.events).toMatchObject([{ type: "note", text: "hello from the host" }]);
        await ssh.collect(resultOf(ended), false, quiet);

        expect(await store.find(ended.key)).toMatchObject({ digest: resultOf(ended).digest });
        const run = path.join(folder, "host home's", "runs", ended.key);
        for (const name of ["log", "events.jsonl"]) {
            expect(fs.readFileSync(path.join(store.runFolder(ended.key), name))).toEqual(
                fs.readFileSync(path.join(run, name)),
            );
        }
        expect(fs.readFileSync(path.join(run, "log"), "utf8")).toBe("hello\n");
    });

    test("a connection that is cut every 100 kB brings everything over in the end", async () => {
        const digest = await artifact(500_000);
        const link = await Link.to(sshd.port, { cutEvery: 100_000 });
        try {
            const ssh = executor({ port: link.port });
            await ssh.send(digest, quiet);
            const ended = await follow(ssh, await submit(ssh, "shutil.copytree('data', 'out/data')", { data: digest }));
            await ssh.collect(resultOf(ended), false, quiet);
            expect(await store.damage(resultOf(ended).digest)).toBeUndefined();
            expect(link.cuts).toBeGreaterThan(8);
        } finally {
            await link.dispose();
        }
    });

    test.skipIf(process.getuid?.() !== 0)(
        "a full disk of the host's loses nothing: after room was made everything goes on where it was",
        async () => {
            const small = await Sshd.start({
                mounts: (at) => `mkdir ${at}/disk && mount -t tmpfs -o size=16k none ${at}/disk`,
            });
            const resize = (size: string) => small.inside(`mount -o remount,size=${size} ${small.folder}/disk`);
            try {
                const { port, hostKey, identity } = small.target;
                const home = `${small.folder}/disk/home`;
                const ssh = executor({ port, hostKey, identity, home });
                const digest = await artifact(500_000);
                const full = "no space left on the disk: make room, or move target.home to a larger one";
                const problem = (what: Promise<unknown>) => what.then(() => "none", String);
                expect(await problem(ssh.send(digest, quiet))).toBe(
                    "UserError: the runner on 127.0.0.1 could not start: cat: write error: No space left on device",
                );

                resize("300k");
                expect(await problem(ssh.send(digest, quiet))).toBe(
                    `UserError: the runner on 127.0.0.1 could not receive: ${full}`,
                );
                const part = Number(small.inside(`stat -c %s ${home}/store/.incoming/${digest}/files/one.bin`));
                expect(part).toBeGreaterThan(100_000);

                resize("900k");
                await ssh.send(digest, quiet);
                expect(await ssh.missing([digest])).toEqual([]);

                const body = "pathlib.Path('out/large').write_bytes(b'x' * 1_000_000)";
                const first = await follow(ssh, await submit(ssh, body, { data: digest }));
                expect(first).toMatchObject({ state: "failed", reason: full, attempt: 1 });

                resize("8m");
                const second = await follow(ssh, await submit(ssh, body, { data: digest }));
                expect(second).toMatchObject({ state: "succeeded", attempt: 2 });
                await ssh.collect(resultOf(second), false, quiet);
                expect(await store.damage(resultOf(second).digest)).toBeUndefined();
                expect(small.inside(`ls ${home}/runner ${home}/store/.incoming`)).toMatch(
                    /^[^\n]+runner:\n[0-9a-f]{32}\.py\n\n[^\n]+incoming:\n$/,
                );
            } finally {
                await small.dispose();
            }
        },
    );

    test("a run that reaches its limit saves what it has; without a higher limit it goes no further", async () => {
        const ssh = executor();
        const body = "while not pathlib.Path('../stop').exists(): time.sleep(0.02)\nraise SystemExit(75)";
        const first = await follow(ssh, await submit(ssh, body, {}, 0.5));
        expect(first).toMatchObject({
            state: "stopped",
            reason: "stopped at its limit of 0.5 s; a checkpoint was saved",
        });
        const second = await follow(ssh, await submit(ssh, body, {}, 0.5));
        expect(second).toMatchObject({
            state: "failed",
            reason: "it has used up its limit of 0.5 s: raise target.limits to go on",
        });
        const third = await follow(ssh, await submit(ssh, body, {}, 4));
        expect(third).toMatchObject({ state: "stopped", attempt: 3 });
    });
});

/** A program of the tests: some lines of Python around which there is what a program must do. */
function program(body: string): string {
    return `import json, pathlib, shutil, time
def event(**fields):
    with open("../events.jsonl", "a") as file:
        file.write(json.dumps({"time": time.time(), **fields}) + "\\n")
event(type="note", text="hello from the host")
pathlib.Path("out/result.txt").write_text("done")
${body}
`;
}

function submit(ssh: SshExecutor, body: string, inputs: Record<string, string> = {}, limitSeconds?: number) {
    const supplies: Supplies = { programs: { "stub.py": program(body) }, secrets: {} };
    const job: Job = {
        key: sha256(body + JSON.stringify(inputs)),
        kind: "Training",
        stage: "training",
        program: "stub.py",
        parameters: { body },
        inputs,
        produces: ["result.txt"],
        stoppable: true,
        preload: [],
        environment: {},
        hub: false,
        limitSeconds,
    };
    return ssh.submit(job, supplies, false);
}

function resultOf({ result, reason }: RunStatus): Result {
    if (result === undefined) throw new Error(`there is no result: ${reason ?? ""}`);
    return result;
}

async function follow(ssh: SshExecutor, first: RunStatus): Promise<RunStatus> {
    const events = [...first.events];
    let status = first;
    while (status.state === "queued" || status.state === "running") {
        status = await ssh.status(status.key, { cursor: status.cursor, waitSeconds: 5 });
        events.push(...status.events);
    }
    return { ...status, events };
}

function pseudorandom(bytes: number): Buffer {
    const blocks: Buffer[] = [];
    for (let size = 0; size < bytes; size += 32) blocks.push(Buffer.from(sha256(String(size)), "hex"));
    return Buffer.concat(blocks).subarray(0, bytes);
}
