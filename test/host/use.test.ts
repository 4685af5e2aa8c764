import * as fs from "node:fs";
import OpenAI from "openai";
import { afterAll, beforeAll, expect, test } from "vitest";
import { commandOf, eventually, processes } from "../engine/processes";
import { python, Rig } from "../engine/rig";
import { freePort } from "../free-port";
import { describeOverSsh } from "./over-ssh";
import { Sshd } from "./sshd";

// Service, chat and web UI of a whole stack on an SSH host, with the real LLaMA-Factory: all through the connection.
describeOverSsh("the models of a stack on an SSH host", () => {
    let rig: Rig;
    let sshd: Sshd;
    let port: number;

    beforeAll(async () => {
        sshd = await Sshd.start();
        rig = new Rig();
        port = await freePort();
        rig.configure({ target: { ...sshd.target, python }, service: { enabled: true, port } });
    });
    afterAll(async () => {
        await rig.run("destroy", "--json");
        await rig.dispose();
        await sshd.dispose();
    });

    const start = (script: string, ...args: string[]) =>
        rig.start(process.execPath, [`scripts/${script}.cjs`, "--stack", "test", ...args], { stdin: true });
    /** What the host has running of this kind. */
    const running = (kind: "services" | "attended") =>
        processes().filter((pid) => commandOf(pid).includes(`${sshd.target.home}/${kind}/`));
    const question = {
        model: "retune",
        messages: [{ role: "user" as const, content: "感冒了应该怎么办？" }],
        max_tokens: 8,
    };

    test("the service answers the official client through a tunnel, which ends with its command", async () => {
        const { code, answer, stderr } = await rig.json("up");
        expect(code, stderr).toBe(0);
        const service = answer.stages.find(({ name }) => name === "service");
        expect(service).toMatchObject({ action: "ran", facts: { backend: "huggingface", port, at: "127.0.0.1" } });

        const api = start("api");
        const [, baseURL = "", file = ""] = await api.until("its address", () =>
            /^(http:\/\/127\.0\.0\.1:\d+\/v1) {2}key in (\S+)\n/.exec(api.stdout),
        );
        expect(baseURL).not.toContain(`:${port}/`);
        expect(fs.statSync(file).mode & 0o777).toBe(0o600);
        const client = new OpenAI({ baseURL, apiKey: fs.readFileSync(file, "utf8").trim(), maxRetries: 0 });
        const { data, response } = await client.chat.completions.create(question).withResponse();
        expect(data.choices).toHaveLength(1);
        expect(response.headers.get("x-retune-model")).toBe(service?.digest?.slice(0, 12));
        let finished: string | null | undefined;
        for await (const { choices } of await client.chat.completions.create({ ...question, stream: true })) {
            finished = choices[0]?.finish_reason ?? finished;
        }
        expect(finished).toBe("stop");
        expect((await fetch(`${baseURL}/models`)).status).toBe(401);

        api.child.kill("SIGINT");
        expect((await api.ended).code).toBe(0);
        expect(fs.existsSync(file)).toBe(false);
        await expect(fetch(`${baseURL}/models`)).rejects.toThrow("fetch failed");
    });

    test("chat answers, and leaves nothing on the host", async () => {
        const chat = start("chat", "--max-tokens", "8");
        chat.child.stdin?.end("感冒了应该怎么办？\n");
        const { code, stdout, stderr } = await chat.ended;
        expect(code, stderr).toBe(0);
        expect(stdout.trim()).not.toBe("");
        expect(stderr).toContain("tuned of stack test, on 127.0.0.1.\n");
        expect(running("attended")).toEqual([]);
    });

    test("the web UI opens through a tunnel, with its password only, and is gone after Ctrl-C", async () => {
        const ui = start("webui");
        const [, url = "", password = ""] = await ui.until("its address", () =>
            /^(http:\/\/127\.0\.0\.1:\d+) {2}user retune, password (\S+)\n/m.exec(ui.stdout),
        );
        expect((await fetch(`${url}/config`)).status).toBe(401);
        const login = (word: string) =>
            fetch(`${url}/login`, {
                method: "POST",
                body: new URLSearchParams({ username: "retune", password: word }),
            });
        expect([(await login("another")).status, (await login(password)).status]).toEqual([400, 200]);
        ui.child.kill("SIGINT");
        expect((await ui.ended).code).toBe(0);
        await eventually("it ends on the host", () => running("attended").length === 0);
    });

    test("a service that was killed on the host is seen by a refresh, brought back by an up, and ended by a destroy", async () => {
        for (const pid of running("services")) {
            if (commandOf(pid).includes("serve.py")) process.kill(pid, "SIGKILL");
        }
        await eventually("its front ends", () => running("services").length === 0);
        const { answer: refreshed } = await rig.json("refresh");
        expect(refreshed.stages.filter(({ action }) => action === "drifted").map(({ name }) => name)).toEqual([
            "service",
        ]);
        const { code, answer, stderr } = await rig.json("up");
        expect(code, stderr).toBe(0);
        expect(answer.stages.filter(({ action }) => action !== "unchanged").map(({ name }) => name)).toEqual([
            "service",
        ]);
        const apiKey = fs.readFileSync(sshd.at("services", String(port), "key"), "utf8").trim();
        const client = new OpenAI({ baseURL: `http://127.0.0.1:${port}/v1`, apiKey, maxRetries: 0 });
        expect((await client.chat.completions.create(question)).choices).toHaveLength(1);

        expect((await rig.run("destroy")).code).toBe(0);
        expect(running("services")).toEqual([]);
        expect(fs.existsSync(sshd.at("services", String(port)))).toBe(false);
    });
});
