// `npm run status -- --watch`, as a process of its own: on a terminal and elsewhere.
import { spawn, spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { expect, onTestFinished, test } from "vitest";
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
