import { execFileSync, spawnSync, type ChildProcess } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { JsonObject } from "../../pipeline/identity";
import { Hub } from "./hub";
import { startS3 } from "./moto";
import { filesBelow, pulumi, Rig, type Answer } from "./rig";

// In two parts, so that this file, of which the project has a copy, does not hold it.
const TOKEN = ["hf", "canaryQ7x3vN9sLp2"].join("_");

const pushOf = (answer: Answer, name: string) => answer.stages.find((stage) => stage.name === name);
/** The files of the exported model, by name. */
const exportedBy = (answer: Answer): Map<string, Buffer> => {
    const folder = fileURLToPath(answer.stages.find(({ name }) => name === "export")?.uri ?? "");
    return new Map(filesBelow(folder).map((name) => [name, fs.readFileSync(path.join(folder, name))]));
};

// The real huggingface_hub against a stand-in of the hub; what the stack pushes is made by the stand-ins of the programs.
describe("a push to Hugging Face", () => {
    let rig: Rig;
    let hub: Hub;
    let pushed: Map<string, Buffer>;
    const repository = () => hub.repositories.get("someone/cold");
    const there = () => new Map([...(repository()?.files ?? [])].filter(([name]) => name !== ".gitattributes").sort());
    const configure = (push: JsonObject = {}, more: JsonObject = {}): void => {
        const huggingface = { repository: "someone/cold", endpoint: hub.address, ...push };
        rig.configure({ push: { huggingface }, ...more });
    };

    beforeAll(async () => {
        rig = new Rig({ standIns: true });
        hub = new Hub();
        await hub.listen();
        configure();
    });
    afterAll(async () => {
        hub.close();
        await rig.dispose();
    });

    test("without a token fails before anything is sent, and says how to give one", async () => {
        const { code, answer } = await rig.json("up");
        expect({ code, requests: hub.requests }).toEqual({ code: 1, requests: [] });
        expect(pushOf(answer, "huggingface")?.error).toBe(
            `${hub.address}/someone/cold: a push wants a token that may write: set HF_TOKEN, or ` +
                "`pulumi config set --secret finetune:huggingfaceToken`",
        );
    });

    test("makes a private repository with the files of the export in one commit, by a token that is in no file", async () => {
        const env = { PULUMI_BACKEND_URL: `file://${rig.home}/state`, PULUMI_CONFIG_PASSPHRASE: "" };
        const set = ["config", "set", "--stack", "test", "--secret", "finetune:huggingfaceToken", TOKEN];
        const ended = await rig.start(pulumi, set, { env }).ended;
        expect(ended.code, ended.stderr).toBe(0);
        const { code, answer, stderr, stdout } = await rig.json("up");
        expect(code, stderr).toBe(0);
        pushed = exportedBy(answer);
        expect(there()).toEqual(pushed);
        expect(repository()).toMatchObject({ private: true, commits: [{ files: [...pushed.keys()], removed: [] }] });
        expect(pushOf(answer, "huggingface")).toMatchObject({
            action: "ran",
            uri: `${hub.address}/someone/cold`,
            facts: { files: pushed.size, sent: pushed.size, removed: 0 },
        });
        expect([...hub.authorizations]).toEqual([`Bearer ${TOKEN}`]);
        expect(stdout + stderr).not.toContain(TOKEN);
        const holding = [rig.home, rig.project, rig.runtime].flatMap((folder) =>
            filesBelow(folder)
                .map((file) => path.join(folder, file))
                .filter((file) => fs.existsSync(file) && fs.statSync(file).isFile())
                .filter((file) => fs.readFileSync(file).includes(TOKEN)),
        );
        expect(holding).toEqual([]);
    });

    test("is asked for nothing by an up with nothing to do", async () => {
        hub.requests.length = 0;
        const { answer } = await rig.json("up");
        expect(answer.stages.map(({ action }) => action)).toEqual(Array(7).fill("unchanged"));
        expect(hub.requests).toEqual([]);
    });

    test("what lacks, is altered, is there besides or public is drift, and only that is repaired", async () => {
        const copy = repository();
        copy?.files.delete("config.json");
        copy?.files.set("tokenizer.json", Buffer.from("{}"));
        copy?.files.set("notes.txt", Buffer.from("somebody's"));
        Object.assign(copy ?? {}, { private: false });
        hub.uploads.length = 0;
        expect(pushOf((await rig.json("refresh")).answer, "huggingface")?.action).toBe("drifted");
        const state = rig.state().resources?.find(({ urn }) => urn.endsWith("::huggingface"));
        expect(state?.outputs?.["drift"]).toBe(
            `${hub.address}/someone/cold lacks config.json; has tokenizer.json with another content; has besides notes.txt; is public`,
        );
        const { code, answer } = await rig.json("up");
        expect(code).toBe(0);
        expect(pushOf(answer, "huggingface")?.facts).toMatchObject({ sent: 2, removed: 1 });
        expect(copy?.commits.at(-1)).toEqual({ files: ["config.json", "tokenizer.json"], removed: ["notes.txt"] });
        expect({ there: there(), private: copy?.private, uploads: hub.uploads }).toEqual({
            ...{ there: pushed, private: true, uploads: [] },
        });
        expect(pushOf((await rig.json("refresh")).answer, "huggingface")?.action).toBe("unchanged");
    });

    test("a repository that is gone is made again", async () => {
        hub.repositories.delete("someone/cold");
        expect(pushOf((await rig.json("refresh")).answer, "huggingface")?.action).toBe("drifted");
        expect((await rig.json("up")).code).toBe(0);
        expect(there()).toEqual(pushed);
    });

    test.each([
        [
            "403",
            { to: /commit/, status: 403, says: "No write access" },
            "refuses: HTTP 403, No write access; the token must be one that may write there (finetune:huggingfaceToken or HF_TOKEN)",
        ],
        [
            "a full quota",
            { to: /info\/lfs/, status: 413, says: "Private storage is full" },
            "refuses: HTTP 413, Private storage is full; make room there, or name another push.huggingface.repository",
        ],
    ])("%s is said, and nothing is lost", async (_, refusal, words) => {
        const before = rig.stored("export");
        hub.refusal = refusal;
        const { code, answer } = await rig.json("up", "--set", `training.seed=${refusal.status}`);
        hub.refusal = undefined;
        expect(code).toBe(1);
        expect(pushOf(answer, "huggingface")?.error).toBe(`${hub.address}/someone/cold ${words}`);
        expect(there()).toEqual(pushed);
        expect(rig.stored("export")?.outputs?.["digest"]).not.toBe(before?.outputs?.["digest"]);
        expect((await rig.json("up")).code).toBe(0);
    });

    test("a repository with somebody's files is not touched", async () => {
        hub.add("someone/else", [["config.json", Buffer.from("theirs")]]);
        configure({ repository: "someone/else" });
        const { code, stderr } = await withToken("up");
        expect(code).toBe(1);
        expect(stderr).toContain(
            `${hub.address}/someone/else has files that this stack has not put there (config.json): name an empty place, or remove them\n`,
        );
        expect(hub.repositories.get("someone/else")?.commits).toEqual([]);
    });

    test("a model that the gate refuses is not pushed", async () => {
        configure({}, { evaluation: { gate: { conditions: [{ metric: "evalLoss", against: 0.001 }], minRows: 0 } } });
        hub.requests.length = 0;
        const { code, stdout } = await withToken("up", "--set", "training.seed=77");
        const answer = JSON.parse(stdout) as Answer;
        expect({ code, push: pushOf(answer, "huggingface")?.action }).toEqual({ code: 3, push: "skipped" });
        expect(hub.requests).toEqual([]);
    });

    test("a destroy leaves the copy, and says where it is", async () => {
        const { code, stderr } = await withToken("destroy");
        expect(code).toBe(0);
        expect(stderr).toContain(
            `warning: the copy at ${hub.address}/someone/cold stays as it is: remove it there if nobody needs it\n`,
        );
        expect(there()).toEqual(pushed);
    });

    // `configure` has written the stack's file without the secret.
    const withToken = (command: "up" | "destroy", ...args: readonly string[]) =>
        rig.spawn(command, ["--json", ...args], { env: { HF_TOKEN: TOKEN } }).ended;
});

const rclone = spawnSync("rclone", ["version"]).status === 0;
if (!rclone) console.warn("SKIPPED: the push to S3. It wants rclone on PATH (apt-get install rclone).");

describe.skipIf(!rclone)("a push to S3", () => {
    let rig: Rig;
    let server: ChildProcess;
    let endpoint: string;
    const ask = (...args: string[]) =>
        execFileSync("rclone", args, { encoding: "utf8", env: { ...process.env, ...rig.environment } });
    const listed = () => ask("lsf", "-R", "--files-only", "mirror:models").trim().split("\n").sort();

    beforeAll(async () => {
        rig = new Rig({ standIns: true });
        const s3 = await startS3();
        ({ endpoint, server } = s3);
        Object.assign(rig.environment, s3.environment);
        rig.configure({ push: { s3: { bucket: "models", prefix: "here/cold", endpoint } } });
    });
    afterAll(async () => {
        server.kill();
        await rig.dispose();
    });

    test("a bucket that is not there is not made", async () => {
        const { code, answer } = await rig.json("up");
        expect(code).toBe(1);
        expect(pushOf(answer, "s3")?.error).toBe(
            `${endpoint}/models/here/cold: there is no bucket models: make it, or correct push.s3.bucket`,
        );
    });

    test("puts the files of the export into the folder, and nothing else again", async () => {
        ask("mkdir", "mirror:models");
        const { code, answer, stderr } = await rig.json("up");
        expect(code, stderr).toBe(0);
        const files = [...exportedBy(answer).keys()];
        expect(listed()).toEqual(files.map((name) => `here/cold/${name}`));
        expect(pushOf(answer, "s3")).toMatchObject({ action: "ran", facts: { sent: files.length, removed: 0 } });
        expect((await rig.json("up")).answer.stages.map(({ action }) => action)).toEqual(Array(7).fill("unchanged"));
    });

    test("what lacks, is altered or is there besides is drift, and only that is repaired", async () => {
        const before = listed();
        ask("deletefile", "mirror:models/here/cold/config.json");
        ask("copyto", rig.write("other", "{}"), "mirror:models/here/cold/tokenizer.json");
        ask("copyto", rig.write("other", "{}"), "mirror:models/here/cold/notes.txt");
        ask("copyto", rig.write("other", "{}"), "mirror:models/elsewhere.txt");
        expect(pushOf((await rig.json("refresh")).answer, "s3")?.action).toBe("drifted");
        const { code, answer } = await rig.json("up");
        expect({ code, facts: pushOf(answer, "s3")?.facts }).toMatchObject({ code: 0, facts: { sent: 2, removed: 1 } });
        expect(listed()).toEqual(["elsewhere.txt", ...before].sort());
        expect(pushOf((await rig.json("refresh")).answer, "s3")?.action).toBe("unchanged");
    });
});
