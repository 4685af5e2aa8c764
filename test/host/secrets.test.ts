import * as fs from "node:fs";
import * as http from "node:http";
import type { AddressInfo } from "node:net";
import * as path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { commandOf, environmentOf, processes } from "../engine/processes";
import { filesBelow, python, Rig } from "../engine/rig";
import { describeOverSsh } from "./over-ssh";
import { Sshd } from "./sshd";

// In two parts, so that this file, of which the project has a copy, does not hold it.
const CANARY = ["hf", "canaryQ7x3vN9sLp2"].join("_");
const COMMIT = "0123456789abcdef0123456789abcdef01234567";

describeOverSsh("a token on an SSH host", () => {
    let rig: Rig;
    let sshd: Sshd;
    let hub: http.Server;
    const asked: string[] = [];
    const waiting: http.ServerResponse[] = [];

    beforeAll(async () => {
        rig = new Rig();
        sshd = await Sshd.start({ settings: ["AcceptEnv HF_TOKEN"] });
        hub = http.createServer((request, response) => {
            asked.push(request.headers.authorization ?? "without authorization");
            waiting.push(response);
        });
        await new Promise<void>((resolve) => hub.listen(0, "127.0.0.1", resolve));
        const endpoint = `http://127.0.0.1:${(hub.address() as AddressInfo).port}`;
        rig.configure({
            target: { ...sshd.target, python },
            model: { source: { huggingface: "someone/private", revision: COMMIT, endpoint } },
        });
    });
    afterAll(async () => {
        hub.closeAllConnections();
        hub.close();
        await rig.dispose();
        await sshd.dispose();
    });

    const holds = (file: string): boolean => fs.statSync(file).isFile() && fs.readFileSync(file).includes(CANARY);
    /** What the host has of it: home, runtime folder, logs, sshd's own included. */
    const files = (): string[] =>
        filesBelow(sshd.folder)
            .map((file) => path.join(sshd.folder, file))
            .filter((file) => fs.existsSync(file) && holds(file));

    /** Processes of the host, and the client's ssh with its shared connection: in a list of them the token is nowhere. */
    const lists = () => {
        const shown = processes().map((pid) => ({ command: commandOf(pid), environment: environmentOf(pid) }));
        const ours = shown.filter(
            ({ command, environment }) =>
                environment.includes(sshd.runtime) || command.includes(sshd.folder) || /^ssh[: ]/.test(command),
        );
        const having = ours.filter(
            ({ command, environment }) => command.includes(CANARY) || environment.includes(CANARY),
        );
        return { ours: ours.map(({ command }) => command), having: having.map(({ command }) => command) };
    };

    test("reaches the program that needs it, and no list, file or log there while it goes on or after it", async () => {
        const running = rig.spawn("up", ["--json"], { env: { HF_TOKEN: CANARY } });
        const seen = new Set<string>();
        await running.until("the hub is asked", () => {
            for (const command of lists().having) seen.add(command);
            return waiting.length > 0;
        });
        // The program waits for its answer.
        const { ours, having } = lists();
        expect(ours.filter((command) => command.includes(`.py worker ${sshd.runtime}/`)).length).toBeGreaterThan(1);
        expect(ours.some((command) => command.includes("sshd"))).toBe(true);
        expect(ours.some((command) => command.startsWith("ssh"))).toBe(true);
        expect(having).toEqual([]);
        expect(files()).toEqual([]);

        hub.on("request", (_, response: http.ServerResponse) => response.writeHead(404).end());
        for (const response of waiting) response.writeHead(404).end();
        await running.until("its end", () => {
            for (const command of lists().having) seen.add(command);
            return running.isOver;
        });
        const { code, stdout, stderr } = await running.ended;
        expect(code).toBe(1);
        expect(stderr).toContain(`someone/private at ${COMMIT.slice(0, 12)} could not be downloaded: `);
        expect([...new Set(asked)]).toEqual([`Bearer ${CANARY}`]);
        expect(stdout + stderr).not.toContain(CANARY);
        expect([...seen]).toEqual([]);
        expect(files()).toEqual([]);
        expect(lists().having).toEqual([]);
    });
});
