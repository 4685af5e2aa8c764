import * as fs from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import * as path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { commandOf, environmentOf, isAlive, listsWith, processes } from "./processes";
import { all, filesBelow, pulumi, Rig } from "./rig";

// In two parts, so that this file, of which the project has a copy, does not hold it.
const CANARY = ["hf", "canaryQ7x3vN9sLp2"].join("_");
const COMMIT = "0123456789abcdef0123456789abcdef01234567";

describe("secrets", () => {
    let rig: Rig;
    let hub: Server;
    let endpoint: string;
    /** What the hub was asked, with the authorization that came along. */
    const asked: string[] = [];
    beforeAll(async () => {
        rig = new Rig();
        hub = createServer((request, response) => {
            asked.push(`${request.url ?? ""} ${request.headers.authorization ?? "without authorization"}`);
            response.writeHead(404, { "content-type": "application/json" }).end('{"error":"not here"}');
        });
        await new Promise<void>((resolve) => hub.listen(0, "127.0.0.1", resolve));
        endpoint = `http://127.0.0.1:${(hub.address() as AddressInfo).port}`;
        // Pulumi's own logs are looked through, too.
        rig.environment["PULUMI_HOME"] = path.join(rig.folder, "pulumi-home");
    });
    afterAll(async () => {
        hub.close();
        await rig.dispose();
    });

    const environment = () => ({ PULUMI_BACKEND_URL: `file://${rig.home}/state`, PULUMI_CONFIG_PASSPHRASE: "" });
    const cli = async (...args: string[]) => {
        const ended = await rig.start(pulumi, args, { env: environment() }).ended;
        expect(ended.code, ended.stderr).toBe(0);
        return ended.stdout;
    };

    /** Files below the home, Pulumi's home, the runtime folder and the project that hold the canary. */
    const foundIn = (): string[] => {
        const folders = [rig.home, path.join(rig.folder, "pulumi-home"), rig.runtime, rig.project];
        return folders
            .flatMap((folder) => filesBelow(folder).map((file) => path.join(folder, file)))
            .filter(
                (file) => fs.existsSync(file) && fs.statSync(file).isFile() && fs.readFileSync(file).includes(CANARY),
            );
    };

    test("a token reaches the hub, and is found in no file, list, log or lasting process", async () => {
        rig.configure({ model: { source: { huggingface: "someone/private", revision: COMMIT, endpoint } } });
        const running = rig.spawn("up", ["--json"], { env: { HF_TOKEN: CANARY } });
        const seen = await listsWith(CANARY, running);
        const { code, stdout, stderr } = await running.ended;
        expect(asked.length).toBeGreaterThan(0);
        expect(asked.filter((one) => !one.endsWith(`Bearer ${CANARY}`))).toEqual([]);
        expect(asked[0]).toContain("someone/private");
        expect(code).toBe(1);
        expect(stderr).toContain(`someone/private at ${COMMIT.slice(0, 12)} could not be downloaded: `);
        expect(stdout + stderr).not.toContain(CANARY);
        expect(seen).toEqual([]);
        expect(foundIn()).toEqual([]);
        const leftOver = processes().filter((pid) => isAlive(pid) && environmentOf(pid).includes(CANARY));
        expect(leftOver.map(commandOf)).toEqual([]);
    });

    test("a pipeline that needs no hub is not given it", async () => {
        rig.configure();
        // Of a stack's own secrets the engine gives every plugin all, in its environment, which whatever it starts would inherit.
        await cli("config", "set", "--stack", "test", "--secret", "finetune:judgeKey", CANARY);
        // Nor does it matter that no hub would take it.
        const running = rig.spawn("up", ["--json"], { env: { HF_TOKEN: `${CANARY}\nand more` } });
        const seen = await listsWith(CANARY, running);
        const { code, stdout, stderr } = await running.ended;
        rig.configure();
        expect(code, stderr).toBe(0);
        expect(stdout + stderr).not.toContain(CANARY);
        expect(seen).toEqual([]);
        expect(foundIn()).toEqual([]);
    });

    test("a secret in the configuration is refused, and goes nowhere", async () => {
        const before = fs.readFileSync(path.join(rig.project, "Pulumi.test.yaml"));
        await cli("config", "set", "--stack", "test", "--secret", "--path", "retune:training.llamafactory.x", CANARY);
        for (const command of ["preview", "up"] as const) {
            const { code, stdout, stderr } = await rig.run(command, "--json");
            expect(code).toBe(2);
            expect(stderr).toContain(
                "retune:training holds a secret, which would end up in files; there is a place for them: `pulumi config set --secret " +
                    "finetune:NAME`, where NAME is one of judgeKey, huggingfaceToken, s3AccessKeyId, s3SecretAccessKey\n",
            );
            expect(stdout + stderr).not.toContain(CANARY);
        }
        expect(foundIn()).toEqual([]);
        fs.writeFileSync(path.join(rig.project, "Pulumi.test.yaml"), before);
        expect((await rig.json("up")).actions).toEqual(all("unchanged"));
    });

    test.each([
        [
            "in clear",
            ["--plaintext", "finetune:judgeKey", CANARY],
            "finetune:judgeKey is in clear in the stack's file: remove it there, have it replaced, and `pulumi config set --secret finetune:judgeKey`",
        ],
        [
            "of an unknown name",
            ["--secret", "finetune:judgKey", CANARY],
            "finetune:judgKey: unknown; did you mean judgeKey?",
        ],
        [
            "that is empty",
            ["--secret", "finetune:judgeKey", ""],
            "finetune:judgeKey is empty: `pulumi config set --secret finetune:judgeKey`, or `pulumi config rm finetune:judgeKey`",
        ],
    ])("a secret %s is refused before anything starts", async (_, set, problem) => {
        const file = path.join(rig.project, "Pulumi.test.yaml");
        const before = fs.readFileSync(file);
        await cli("config", "set", "--stack", "test", ...set);
        const { code, stdout, stderr } = await rig.run("preview", "--json");
        fs.writeFileSync(file, before);
        expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining(`\n${problem}\n`) as string });
        expect(stdout + stderr).not.toContain(CANARY);
        expect(foundIn()).toEqual([]);
    });

    test("Pulumi's automatic logs do not hold it either, decrypted", async () => {
        const logs = filesBelow(path.join(rig.folder, "pulumi-home", "logs"));
        const texts: string[] = [];
        for (const log of logs) {
            texts.push(await cli("logs", "decrypt", path.join(rig.folder, "pulumi-home", "logs", log)));
        }
        // One of a command that was refused at once has a few lines; those of the updates name the stages.
        expect(texts.filter((text) => !text.includes('"msg":'))).toEqual([]);
        expect(texts.filter((text) => text.includes("finetune:pipeline:Training")).length).toBeGreaterThan(1);
        expect(texts.filter((text) => text.includes(CANARY))).toEqual([]);
    });

    test.each(["up", "preview"] as const)("another passphrase: %s says what to do", async (command) => {
        const words =
            "PULUMI_CONFIG_PASSPHRASE is not the one that this stack was made with; the stacks of this repository have " +
            "an empty one: unset the variable, or set it to nothing\n";
        const env = { PULUMI_CONFIG_PASSPHRASE: "another" };
        expect(await rig.spawn(command, [], { env }).ended).toMatchObject({ code: 1, stderr: words });
        const fresh = { ...env, RETUNE_HOME: path.join(rig.folder, "fresh") };
        expect(await rig.spawn(command, [], { env: fresh }).ended).toMatchObject({ code: 1, stderr: words });
        expect(rig.gitStatus()).toBe("");
    });

    test("a preview that Pulumi keeps from the provider says so", async () => {
        const env = { PULUMI_DISABLE_PROVIDER_PREVIEW: "true" };
        const preview = rig.spawn("preview", ["--json", "--set", "training.seed=1"], { env });
        const { code, stderr } = await preview.ended;
        expect(code).toBe(0);
        expect(stderr).toContain(
            "warning: PULUMI_DISABLE_PROVIDER_PREVIEW is set: this preview cannot tell what is in the store and what follows a change\n",
        );
        expect((await rig.run("preview", "--set", "training.seed=1")).stdout).not.toContain("warning");
    });
});
