import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { targetSchema, type SshTarget } from "../../infra/target";
import type { ServiceStatus } from "../../pipeline/executor/machine";
import { SshExecutor } from "../../pipeline/executor/ssh";
import { digestOfFiles, listFiles } from "../../pipeline/identity";
import { servingSources } from "../../pipeline/service";
import { Store } from "../../pipeline/store/store";
import { commandOf, eventually, processes } from "../engine/processes";
import { freePort } from "../free-port";
import { describeOverSsh } from "./over-ssh";
import { Sshd } from "./sshd";

const STAND_IN = fs.readFileSync(path.join(import.meta.dirname, "..", "stand-in-model.py"), "utf8");
const OWNER = "stack a (service)";

// Real sshd, runner, front and tunnel; of the models only the processes are stand-ins.
describeOverSsh("services and conversations over SSH", () => {
    let sshd: Sshd;
    let folder: string;
    let home: string;
    let ssh: SshExecutor;
    let digest: string;

    beforeAll(async () => {
        sshd = await Sshd.start();
    });
    afterAll(async () => {
        await sshd.dispose();
    });
    beforeEach(async () => {
        folder = fs.mkdtempSync(path.join(os.tmpdir(), "retune-served-"));
        home = path.join(folder, "host's home");
        const store = new Store(path.join(folder, "home"));
        ssh = connect(store);
        const work = path.join(folder, "work");
        fs.mkdirSync(work);
        fs.writeFileSync(path.join(work, "weights"), "of a model");
        const files = await listFiles(work);
        digest = digestOfFiles(files);
        await store.keep(work, digest, files);
        await ssh.send(digest, () => undefined);
    });
    afterEach(() => {
        fs.rmSync(folder, { recursive: true, force: true });
    });

    function connect(store: Store): SshExecutor {
        const target = targetSchema.parse({ ...sshd.target, home, python: "/usr/bin/python3" }) as SshTarget;
        return new SshExecutor(target, store, () => undefined);
    }
    const job = (key: string, program: string, parameters = {}) => ({
        key,
        program,
        parameters,
        inputs: { model: digest },
        environment: {},
    });
    /** What runs on the host for this test. */
    const running = () => processes().filter((pid) => commandOf(pid).includes(`${home}/`));

    test("a service outlives the connection, changes its model, and is reached through a tunnel", async () => {
        const port = await freePort();
        const serve = async (says: string): Promise<void> => {
            const programs = { ...servingSources(), "serve.py": STAND_IN };
            await ssh.serve({ port, owner: OWNER, job: job(says, "serve.py", { says }), programs });
            await eventually(`${says} is served`, async () => {
                const status: ServiceStatus = await ssh.service(port, true);
                return status.state === "up" && status.active === says;
            });
        };
        await serve("one");
        ssh = connect(new Store(path.join(folder, "another client")));
        const key = (await ssh.serviceKey(port)).trim();
        expect(key).toMatch(/^[\w-]{43}$/);
        const tunnel = await ssh.tunnel(port);
        const ask = async () => {
            const address = `http://127.0.0.1:${tunnel.port}/v1/chat/completions`;
            const answer = await fetch(address, {
                method: "POST",
                headers: { Authorization: `Bearer ${key}` },
                body: "{}",
            });
            return await answer.json();
        };
        expect(await ask()).toEqual({ choices: [{ message: { content: "one" } }] });
        await serve("two");
        expect(await ask()).toEqual({ choices: [{ message: { content: "two" } }] });
        tunnel.close();
        await expect(tunnel.broken).rejects.toThrow("the tunnel to 127.0.0.1 broke");
        await ssh.endService(port, OWNER);
        expect(running()).toEqual([]);
        expect((await ssh.service(port, false)).state).toBe("absent");
    });

    test("an attended program answers over the connection, and is gone with it", async () => {
        const program = [
            "import json, sys",
            "for line in sys.stdin:",
            "    print(json.dumps({'heard': json.loads(line), 'model': open('model/weights').read()}), flush=True)",
        ].join("\n");
        const attended = await ssh.attend(job("", "echo.py"), { "echo.py": program });
        attended.say({ question: "感冒了？'\"" });
        expect(await attended.hear()).toEqual({ heard: { question: "感冒了？'\"" }, model: "of a model" });
        expect(running()).not.toEqual([]);
        await attended.end();
        await eventually("the program has ended", () => running().length === 0);
        expect(fs.readdirSync(path.join(home, "attended"))).toEqual([]);
    });

    test("an attended program that fails says why", async () => {
        const attended = await ssh.attend(job("", "fails.py"), {
            "fails.py": "raise MemoryError('too little for it')",
        });
        await expect(attended.hear()).rejects.toThrow("MemoryError: too little for it");
    });
});
