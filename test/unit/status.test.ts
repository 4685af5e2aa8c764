// `npm run status -- --watch`, as a process of its own: on a terminal and elsewhere.
import { spawn, spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { bootId, processOf } from "../../pipeline/processes";
import { project } from "../../scripts/locations.cjs";

const command = [path.join(project, "scripts", "status.cjs"), "--watch"];

function emptyHome(): NodeJS.ProcessEnv {
    const home = fs.mkdtempSync(path.join(os.tmpdir(), "retune-status-"));
    onTestFinished(() => {
        fs.rmSync(home, { recursive: true });
    });
    return { ...process.env, RETUNE_HOME: home };
}

const NOTHING = "No stack and no run yet: `npm run up`.";

test("elsewhere than on a terminal it ends when nothing runs", () => {
    const { status, stdout, stderr } = spawnSync(process.execPath, command, { env: emptyHome(), encoding: "utf8" });
    expect({ status, stdout, stderr }).toEqual({ status: 0, stdout: `${NOTHING}\n`, stderr: "" });
});

test("it is for people", () => {
    const { status, stderr } = spawnSync(process.execPath, [...command, "--json"], {
        env: emptyHome(),
        encoding: "utf8",
    });
    expect({ status, stderr }).toEqual({
        status: 2,
        stderr: "--watch is for people: with --json, ask again and again\n",
    });
});

test("it loads neither the schemas of the configuration nor Pulumi, which would take longer than its answer", () => {
    const env = emptyHome();
    const told = path.join(env["RETUNE_HOME"] ?? "", "tell.cjs");
    fs.writeFileSync(told, 'process.on("exit", () => console.log(JSON.stringify(Object.keys(require.cache))));');
    const { stdout } = spawnSync(process.execPath, ["--require", told, command[0] ?? ""], { env, encoding: "utf8" });
    const loaded = JSON.parse(stdout.trimEnd().split("\n").at(-1) ?? "") as string[];
    expect(loaded.some((file) => file.includes("/node_modules/commander/"))).toBe(true);
    expect(loaded.filter((file) => /\/node_modules\/(zod|@pulumi)\//.test(file))).toEqual([]);
});

test("a service that is down, and a result that is not as it was made, are said", () => {
    const env = emptyHome();
    const write = (file: string, content: object): void => {
        const place = path.join(env["RETUNE_HOME"] ?? "", file);
        fs.mkdirSync(path.dirname(place), { recursive: true });
        fs.writeFileSync(place, JSON.stringify(content));
    };
    const uri = (port: number): string => `http://127.0.0.1:${port}/v1`;
    const service = (name: string, port: number, type: string, outputs: object = {}) => ({
        ...{ type: "finetune:pipeline:Service", urn: `urn:pulumi:dev::retune::finetune:pipeline:Service::${name}` },
        ...{ inputs: { target: { type }, port }, outputs: { uri: uri(port), ...outputs } },
    });
    const made = (name: string, kind: string, outputs: object) => ({
        ...{ type: `finetune:pipeline:${kind}`, urn: `urn:pulumi:dev::retune::finetune:pipeline:${kind}::${name}` },
        ...{ inputs: {}, outputs },
    });
    const done = { run: "0123456789ab", uri: "file:///out", finishedAt: "2026-07-30T12:00:00.000Z" };
    const resources = [
        made("model", "Model", done),
        made("export", "Export", { ...done, drift: "model.safetensors was altered" }),
        made("training", "Training", {}),
        made("s3", "Push", { uri: "s3://bucket/model", finishedAt: done.finishedAt }),
        service("up", 8001, "local"),
        service("restarted", 8002, "local"),
        service("ended", 8003, "local"),
        service("elsewhere", 8004, "ssh"),
        service("drifted", 8005, "local", { drift: "it serves another model" }),
        service("absent", 8006, "local"),
        service("beginning", 8007, "local"),
    ];
    write("state/.pulumi/stacks/retune/dev.json", { version: 3, checkpoint: { latest: { resources } } });
    const front = { boot: bootId(), pid: process.pid, pidStarted: processOf(process.pid)?.started };
    write("services/8001/state.json", { ...front, active: { key: "k" }, reason: null });
    write("services/8002/state.json", { ...front, active: { key: "k" }, boot: "another" });
    write("services/8003/state.json", { ...front, reason: "its process was ended by SIGTERM" });
    write("services/8005/state.json", { ...front, active: { key: "k" } });
    write("services/8007/state.json", { ...front, reason: null });
    const { stdout } = spawnSync(process.execPath, command.slice(0, 1), {
        env: { ...env, TZ: "UTC" },
        encoding: "utf8",
    });
    const down = (why: string): string =>
        `does not serve: ${why}; \`npm run refresh\`, then \`npm run up\` bring it back`;
    expect(stdout.split("\n").map((line) => line.trim().replace(/ {2,}/g, "  "))).toEqual([
        "stack dev",
        "model  0123456789ab  made 2026-07-30 12:00",
        "export  0123456789ab  made 2026-07-30 12:00, but model.safetensors was altered; `npm run up` repairs it",
        "training  interrupted",
        "s3  made 2026-07-30 12:00",
        `up  serves at ${uri(8001)}`,
        `restarted  ${down("the machine was restarted")}`,
        `ended  ${down("its process was ended by SIGTERM")}`,
        `elsewhere  serves at ${uri(8004)}`,
        "drifted  it serves another model; `npm run up` repairs it",
        `absent  ${down("its state.json does not name its process")}`,
        "beginning  does not serve yet: it is coming up",
        "",
    ]);
});

test("on a terminal it goes on until Ctrl-C, and leaves the terminal as it was", async () => {
    const terminal = path.join(project, "test", "engine", "terminal.py");
    const child = spawn("python3", [terminal, "ctrl-c", process.execPath, ...command], { env: emptyHome() });
    let stdout = "";
    let asked = false;
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
        stdout += text;
        // Painted, and painted again in place.
        if (asked || stdout.split(NOTHING).length < 3) return;
        asked = true;
        child.kill("SIGUSR1");
    });
    await new Promise((resolve) => child.on("close", resolve));
    expect(stdout).toContain(`${NOTHING}\r\n\r\u001b[1A\u001b[J${NOTHING}\r\n`);
    expect(stdout.endsWith("\nmodes as before\nexit 0\n"), stdout).toBe(true);
});
