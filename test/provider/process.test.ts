import { spawn, type ChildProcess } from "node:child_process";
import path from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { project } from "../../scripts/locations.cjs";
import { alive, processesOf, read, until, zombie } from "../unit/processes";
import { model } from "./inputs";
import { InitFailed, rigForTest } from "./rig";

const DETACHED = "detached: the run goes on; the next `npm run up` attaches to it";

/** A process that does nothing, in the place of the command that the user started. */
function bystander(): ChildProcess {
    const child = spawn(process.execPath, ["-e", "setInterval(() => {}, 1000)"], { stdio: "ignore" });
    onTestFinished(() => {
        child.kill("SIGKILL");
    });
    return child;
}

test("the client's death is a cancel: the operation is answered, the run goes on", async () => {
    const rig = rigForTest();
    const client = bystander();
    const provider = await rig.start({ RETUNE_CLIENT_PID: String(client.pid) });
    rig.hold();
    const { inputs } = await provider.check("Model", model);
    const creating = provider.create("Model", inputs).catch((error: unknown) => error);
    await provider.said("learning, step");
    client.kill("SIGKILL");
    const failure = await creating;
    expect(failure).toBeInstanceOf(InitFailed);
    expect((failure as InitFailed).reasons).toEqual([DETACHED]);
    expect(provider.child.exitCode).toBeNull();
    rig.release();
    const next = await rig.start();
    const { outputs } = await next.create("Model", inputs);
    expect(["attached", "cached"]).toContain(outputs["action"]);
    expect(read(path.join(rig.control, "starts"))).toBe("Model\n");
});

test.each([
    ["has died, but was not waited for", () => zombie()],
    ["had died before the provider came up", () => Promise.resolve(4_194_304)],
])("a client that %s is gone", async (_, client) => {
    const rig = rigForTest();
    const provider = await rig.start({ RETUNE_CLIENT_PID: String(await client()) });
    rig.hold();
    const { inputs } = await provider.check("Model", model);
    const failure = await provider.create("Model", inputs).catch((error: unknown) => error);
    expect((failure as InitFailed).reasons).toEqual([DETACHED]);
});

test("a client that lives cancels nothing", async () => {
    const rig = rigForTest();
    const provider = await rig.start({ RETUNE_CLIENT_PID: String(bystander().pid) });
    const { inputs } = await provider.check("Model", model);
    expect((await provider.create("Model", inputs)).outputs["action"]).toBe("ran");
});

test("the engine's death ends the provider, and not what runs", async () => {
    const rig = rigForTest();
    const program = path.join(project, "pipeline", "provider", "pulumi-resource-finetune");
    // A process that starts the provider, as the engine does, and tells us what it says.
    const script = `
        const child = require("node:child_process").spawn(process.argv[1], ["127.0.0.1:1"], { stdio: ["ignore", "pipe", "ignore"] });
        child.stdout.on("data", (data) => process.stdout.write(child.pid + " " + data));
    `;
    const engine = spawn(process.execPath, ["-e", script, program], {
        env: rig.environment(),
        stdio: ["ignore", "pipe", "inherit"],
    });
    onTestFinished(() => {
        engine.kill("SIGKILL");
    });
    let said = "";
    engine.stdout.on("data", (data: Buffer) => (said += data.toString()));
    await until(() => said.includes("\n"));
    expect(said).toMatch(/^\d+ \d+\n$/);
    const pid = Number(said.split(" ")[0]);
    onTestFinished(() => {
        if (alive(pid)) process.kill(pid, "SIGKILL");
    });
    expect(alive(pid)).toBe(true);
    engine.kill("SIGKILL");
    await until(() => !alive(pid));
});

test("a run goes on when engine, provider and client are killed together", async () => {
    const rig = rigForTest();
    const provider = await rig.start();
    rig.hold();
    const { inputs } = await provider.check("Model", model);
    const creating = provider.create("Model", inputs).catch(() => undefined);
    await provider.said("learning, step");
    const supervisors = processesOf(rig.folder, "\0submit\0");
    expect(supervisors).toHaveLength(1);
    await provider.end();
    await creating;
    expect(supervisors.every(alive)).toBe(true);
    rig.release();
    const next = await rig.start();
    expect(["attached", "cached"]).toContain((await next.create("Model", inputs)).outputs["action"]);
    expect(read(path.join(rig.control, "starts"))).toBe("Model\n");
});

test("its words on standard output are the port alone", async () => {
    const rig = rigForTest();
    const provider = await rig.start();
    let more = "";
    provider.child.stdout?.on("data", (data: Buffer) => (more += data.toString()));
    const { inputs } = await provider.check("Model", model);
    await provider.create("Model", inputs);
    expect(more).toBe("");
});
