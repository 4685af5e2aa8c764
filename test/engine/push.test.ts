import { execFileSync, spawnSync, type ChildProcess } from "node:child_process";
import * as fs from "node:fs";
import * as net from "node:net";
import * as path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { sha256, type JsonObject } from "../../pipeline/identity";
import { Hub } from "./hub";
import { freePort } from "../free-port";
import { checkKeys, makeUser, startS3 } from "./moto";
import { listsWith } from "./processes";
import { filesBelow, pulumi, Rig, type Answer } from "./rig";

// In two parts, so that this file, of which the project has a copy, does not hold it.
const TOKEN = ["hf", "canaryQ7x3vN9sLp2"].join("_");

const pushOf = (answer: Answer, name: string) => answer.stages.find((stage) => stage.name === name);
/** The files of the exported model, by name. */
const exportedBy = (answer: Answer): Map<string, Buffer> => {
    const folder = fileURLToPath(answer.stages.find(({ name }) => name === "export")?.uri ?? "");
    return new Map(filesBelow(folder).map((name) => [name, fs.readFileSync(path.join(folder, name))]));
};

/** Names of files that one has and the other has not, or not as it is there. */
const differing = (before: ReadonlyMap<string, Buffer>, after: ReadonlyMap<string, Buffer>): string[] =>
    [...after].filter(([name, content]) => before.get(name)?.equals(content) !== true).map(([name]) => name);

/** What is said of a place that is not this stack's. */
const foreign = (uri: string, files: string, kind: "huggingface" | "s3"): string =>
    `${uri} has files that this stack has not put there, or no longer knows of (${files}): name an empty place, or remove them, ` +
    `or set push.${kind}.overwrite to true, which replaces those that have the same names as the model's`;

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

    /** Files below the home, the project, the runtime folder and Pulumi's own that hold the token. */
    const holding = () =>
        [rig.home, rig.project, rig.runtime, path.join(rig.folder, "pulumi-home")].flatMap((folder) =>
            filesBelow(folder)
                .map((file) => path.join(folder, file))
                .filter((file) => fs.existsSync(file) && fs.statSync(file).isFile())
                .filter((file) => fs.readFileSync(file).includes(TOKEN)),
        );

    beforeAll(async () => {
        rig = new Rig({ standIns: true });
        rig.environment["PULUMI_HOME"] = path.join(rig.folder, "pulumi-home");
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
        const running = rig.spawn("up", ["--json"]);
        const seen = await listsWith(TOKEN, running);
        const { code, stderr, stdout } = await running.ended;
        expect({ code, seen }, stderr).toEqual({ code: 0, seen: [] });
        expect(stderr.split("\n").filter((line) => line.includes("passphrase"))).toEqual([
            "warning: the secrets in Pulumi.test.yaml are encrypted with an empty passphrase, which protects nothing: " +
                "`pulumi stack change-secrets-provider passphrase` gives the stack another, for PULUMI_CONFIG_PASSPHRASE",
        ]);
        const answer = JSON.parse(stdout) as Answer;
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
        // State and its backups, journals, logs of the runs, history and report among them.
        expect(holding()).toEqual([]);
    });

    test("is asked for nothing by an up with nothing to do", async () => {
        hub.requests.length = 0;
        const { answer } = await rig.json("up");
        expect(answer.stages.map(({ action }) => action)).toEqual(Array(7).fill("unchanged"));
        expect(hub.requests).toEqual([]);
    });

    test("what lacks, is altered or public is drift, and only that is repaired; what is there besides stays", async () => {
        const copy = repository();
        copy?.files.delete("config.json");
        copy?.files.set("tokenizer.json", Buffer.from("{}"));
        copy?.files.set("notes.txt", Buffer.from("somebody's"));
        Object.assign(copy ?? {}, { private: false });
        hub.uploads.length = 0;
        const besides = `warning: ${hub.address}/someone/cold has besides notes.txt, which this stack has not put there: left alone\n`;
        const refreshed = await rig.json("refresh");
        expect(pushOf(refreshed.answer, "huggingface")?.action).toBe("drifted");
        expect(refreshed.stderr).toContain(besides);
        const state = rig.state().resources?.find(({ urn }) => urn.endsWith("::huggingface"));
        expect(state?.outputs?.["drift"]).toBe(
            `${hub.address}/someone/cold lacks config.json; has tokenizer.json with another content; is public`,
        );
        const { code, answer, stderr } = await rig.json("up");
        expect(code).toBe(0);
        expect(stderr).toContain(besides);
        expect(pushOf(answer, "huggingface")?.facts).toMatchObject({ sent: 2, removed: 0 });
        expect(copy?.commits.at(-1)).toEqual({ files: ["config.json", "tokenizer.json"], removed: [] });
        expect({ notes: there().get("notes.txt")?.toString(), private: copy?.private, uploads: hub.uploads }).toEqual({
            ...{ notes: "somebody's", private: true, uploads: [] },
        });
        copy?.files.delete("notes.txt");
        expect(there()).toEqual(pushed);
        expect(pushOf((await rig.json("refresh")).answer, "huggingface")?.action).toBe("unchanged");
    });

    test("a repository that is gone is made again, from a shell too, and the token is in no log of events", async () => {
        hub.repositories.delete("someone/cold");
        expect(pushOf((await rig.json("refresh")).answer, "huggingface")?.action).toBe("drifted");
        const log = path.join(rig.home, "events");
        rig.environment["PULUMI_DEBUG_COMMANDS"] = "true"; // without it there is no --event-log
        const running = rig.shell("up", "--yes", "--skip-preview", "--event-log", log);
        const seen = await listsWith(TOKEN, running);
        const { code, stdout, stderr } = await running.ended;
        delete rig.environment["PULUMI_DEBUG_COMMANDS"];
        expect({ code, seen }, stderr).toEqual({ code: 0, seen: [] });
        expect(there()).toEqual(pushed);
        const events = fs.readFileSync(log, "utf8");
        expect(events).toContain("::huggingface");
        expect(events).toContain('"resOutputsEvent"');
        expect(events + stdout).not.toContain(TOKEN);
        expect(holding()).toEqual([]);
    });

    test("of a new export only the files that differ are sent, in one commit", async () => {
        hub.uploads.length = 0;
        const before = repository()?.commits.length ?? 0;
        const { code, answer, stderr } = await rig.json("up", "--set", "training.seed=5");
        expect(code, stderr).toBe(0);
        const now = exportedBy(answer);
        const sent = differing(pushed, now);
        expect([...now.keys()].filter((name) => !sent.includes(name))).toEqual(["config.json", "tokenizer.json"]);
        expect(pushOf(answer, "huggingface")?.facts).toMatchObject({ files: now.size, sent: sent.length, removed: 0 });
        expect(repository()?.commits.slice(before)).toEqual([{ files: sent, removed: [] }]);
        expect(hub.uploads).toEqual([sha256(now.get("model.safetensors") ?? "")]);
        expect(there()).toEqual(now);
        // Back again: the hub still has the large file of the old one, and is sent what is small.
        expect((await rig.json("up")).code).toBe(0);
        expect({ there: there(), uploads: hub.uploads.length }).toEqual({ there: pushed, uploads: 1 });
    });

    test("that becomes public, and private again: the repository does, and no file is sent", async () => {
        const before = repository()?.commits.length;
        hub.requests.length = 0;
        for (const [isPrivate, args] of [
            [false, ["--set", "push.huggingface.private=false"]],
            [true, []],
        ] as const) {
            const { code, answer } = await rig.json("up", ...args);
            expect({ code, ...pushOf(answer, "huggingface") }).toMatchObject({
                ...{ code: 0, action: "ran", facts: { sent: 0, removed: 0 } },
                reasons: [{ field: "huggingface.private", old: !isPrivate, new: isPrivate }],
            });
            expect(repository()?.private).toBe(isPrivate);
        }
        expect(repository()?.commits).toHaveLength(before ?? 0);
        expect(hub.requests.filter((one) => !one.startsWith("GET "))).toEqual(
            Array(2).fill("PUT /api/models/someone/cold/settings"),
        );
    });

    test("to a hub that cannot be reached, or does not answer, is tried again by the next up", async () => {
        const nobody = `http://127.0.0.1:${await freePort()}`;
        const refused = await rig.json("up", "--set", `push.huggingface.endpoint=${nobody}`);
        expect({ code: refused.code, error: pushOf(refused.answer, "huggingface")?.error }).toEqual({
            code: 1,
            error: `${nobody}/someone/cold cannot be reached (Connection refused); the next \`npm run up\` tries again`,
        });
        hub.silent = true;
        const env = { HF_HUB_ETAG_TIMEOUT: "1" };
        const silent = await rig.spawn("up", ["--json", "--set", "training.seed=6"], { env }).ended;
        const refresh = await rig.spawn("refresh", ["--json"], { env }).ended;
        hub.silent = false;
        const words = `${hub.address}/someone/cold cannot be reached (it does not answer); the next \`npm run up\` tries again`;
        expect({ code: silent.code, error: pushOf(JSON.parse(silent.stdout) as Answer, "huggingface")?.error }).toEqual(
            {
                ...{ code: 1, error: words },
            },
        );
        expect(refresh.code).toBe(0);
        expect(refresh.stderr).toContain(`warning: ${words}: taken as it was\n`);
        expect(there()).toEqual(pushed);
        expect((await rig.json("up")).code).toBe(0);
    });

    test.each([
        [
            "a token that is wrong",
            { to: /GET \/api\/models/, status: 401, says: "Invalid username or password." },
            "refuses: HTTP 401, Invalid username or password; the token must be one that may write there (finetune:huggingfaceToken or HF_TOKEN)",
        ],
        [
            "a token that has expired in the middle",
            { to: /commit/, status: 401, says: "Token is expired" },
            "refuses: HTTP 401, Token is expired; the token must be one that may write there (finetune:huggingfaceToken or HF_TOKEN)",
        ],
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
        // A new export each time, so that there is something to send.
        const { code, answer } = await rig.json("up", "--set", `training.seed=${refusal.says.length}`);
        hub.refusal = undefined;
        expect(code).toBe(1);
        expect(pushOf(answer, "huggingface")?.error).toBe(`${hub.address}/someone/cold ${words}`);
        expect(there()).toEqual(pushed);
        expect(rig.stored("export")?.outputs?.["digest"]).not.toBe(before?.outputs?.["digest"]);
        expect((await rig.json("up")).code).toBe(0);
    });

    test("a repository with somebody's files, or another stack's copy, is not touched until the stack says so", async () => {
        const alike = [...pushed].filter(([name]) => name !== "model.safetensors" && name !== "retune.json");
        const theirs = ["model.safetensors", "retune.json"].map((name) => [name, Buffer.from("theirs")] as const);
        hub.add("someone/else", [["notes.txt", Buffer.from("theirs")], ...alike, ...theirs]);
        const commits = hub.repositories.get("someone/else")?.commits;
        configure({ repository: "someone/else" });
        const refused = await withToken("up");
        expect(refused.code).toBe(1);
        expect(pushOf(JSON.parse(refused.stdout) as Answer, "huggingface")?.error).toBe(
            foreign(`${hub.address}/someone/else`, "notes.txt, model.safetensors, retune.json", "huggingface"),
        );
        expect(commits).toEqual([]);
        configure({ repository: "someone/else", overwrite: true });
        const { code, stdout } = await withToken("up");
        expect({ code, facts: pushOf(JSON.parse(stdout) as Answer, "huggingface")?.facts }).toMatchObject({
            ...{ code: 0, facts: { sent: 2, removed: 0 } },
        });
        expect(commits).toEqual([{ files: ["model.safetensors", "retune.json"], removed: [] }]);
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
            `warning: the copy at ${hub.address}/someone/else stays as it is: remove it there if nobody needs it\n`,
        );
        expect(hub.repositories.get("someone/else")?.commits).toHaveLength(1);
        expect(there()).toEqual(pushed);
    });

    // `configure` has written the stack's file without the secret.
    const withToken = (command: "up" | "destroy", ...args: readonly string[]) =>
        rig.spawn(command, ["--json", ...args], { env: { HF_TOKEN: `${TOKEN}\n` } }).ended;
});

const rclone = spawnSync("rclone", ["version"]).status === 0;
if (!rclone) console.warn("SKIPPED: the push to S3. It wants rclone on PATH (apt-get install rclone).");

describe.skipIf(!rclone)("a push to S3", () => {
    let rig: Rig;
    let server: ChildProcess;
    let endpoint: string;
    let requests: (method: string) => number;
    const ask = (...args: string[]) =>
        execFileSync("rclone", args, { encoding: "utf8", env: { ...process.env, ...rig.environment } });
    const listed = () => ask("lsf", "-R", "--files-only", "mirror:models").trim().split("\n").sort();

    beforeAll(async () => {
        rig = new Rig({ standIns: true });
        const s3 = await startS3();
        ({ endpoint, server, requests } = s3);
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

    test("what lacks or is altered is drift, and only that is repaired; what is there besides stays", async () => {
        const before = listed();
        ask("deletefile", "mirror:models/here/cold/config.json");
        ask("copyto", rig.write("other", "{}"), "mirror:models/here/cold/tokenizer.json");
        ask("copyto", rig.write("other", "{}"), "mirror:models/here/cold/notes.txt");
        ask("copyto", rig.write("other", "{}"), "mirror:models/elsewhere.txt");
        expect(pushOf((await rig.json("refresh")).answer, "s3")?.action).toBe("drifted");
        const { code, answer } = await rig.json("up");
        expect({ code, facts: pushOf(answer, "s3")?.facts }).toMatchObject({ code: 0, facts: { sent: 2, removed: 0 } });
        expect(listed()).toEqual(["elsewhere.txt", "here/cold/notes.txt", ...before].sort());
        const { answer: now, stderr } = await rig.json("refresh");
        expect(pushOf(now, "s3")?.action).toBe("unchanged");
        expect(stderr).toContain(
            `warning: ${endpoint}/models/here/cold has besides notes.txt, which this stack has not put there: left alone\n`,
        );
    });

    test("of a new export only the files that differ are sent, what tells that it is whole last", async () => {
        const old = exportedBy((await rig.json("up")).answer);
        const before = requests("PUT");
        const { code, answer, stderr } = await rig.json("up", "--set", "training.seed=5");
        expect(code, stderr).toBe(0);
        const sent = differing(old, exportedBy(answer));
        expect(sent).toEqual(["SHA256SUMS", "evaluation.json", "model.safetensors", "retune.json"]);
        expect(requests("PUT") - before).toBe(sent.length);
        expect(pushOf(answer, "s3")?.facts).toMatchObject({ sent: sent.length, removed: 0 });
        const now = ask("cat", "mirror:models/here/cold/model.safetensors");
        expect(now).toBe(exportedBy(answer).get("model.safetensors")?.toString());
        expect((await rig.json("up")).code).toBe(0);
    });

    test("with keys that are wrong, or may not, is refused in S3's words, and the copy stays", async () => {
        const may = await makeUser(endpoint, "lister", ["s3:ListBucket"]);
        const nobody = await makeUser(endpoint, "nobody", []);
        const advice =
            "the keys must be ones that may list, read, write and delete there (finetune:s3AccessKeyId and " +
            "finetune:s3SecretAccessKey, or what AWS's own tools take)";
        const before = ask("lsf", "-R", "--files-only", "--format", "pth", "mirror:models");
        await checkKeys(endpoint, true);
        const told: unknown[] = [];
        for (const env of [
            { ...may, AWS_ACCESS_KEY_ID: "AKIAIOSFODNN7EXAMPLE" },
            { ...may, AWS_SECRET_ACCESS_KEY: "wrong" },
            nobody,
            may,
        ]) {
            const { code, stdout, stderr } = await rig.spawn("up", ["--json", "--set", "training.seed=6"], { env })
                .ended;
            expect(stdout + stderr).not.toContain(env.AWS_SECRET_ACCESS_KEY);
            told.push([code, pushOf(JSON.parse(stdout) as Answer, "s3")?.error]);
        }
        await checkKeys(endpoint, false);
        const refuses = (words: string) => [1, `${endpoint}/models/here/cold refuses: ${words}; ${advice}`];
        expect(told).toEqual([
            refuses("InvalidAccessKeyId: The AWS Access Key Id you provided does not exist in our records."),
            refuses(
                "SignatureDoesNotMatch: The request signature we calculated does not match the signature you provided. " +
                    "Check your key and signing method.",
            ),
            refuses("AccessDenied: Access Denied"),
            refuses("AccessDenied: Access Denied"),
        ]);
        expect(ask("lsf", "-R", "--files-only", "--format", "pth", "mirror:models")).toBe(before);
        expect((await rig.json("up")).code).toBe(0);
    });

    test("to a place that cannot be reached, or does not answer, is tried again by the next up", async () => {
        const port = await freePort();
        const nobody = `http://127.0.0.1:${port}`;
        const refused = await rig.json("up", "--set", `push.s3.endpoint=${nobody}`);
        expect({ code: refused.code, error: pushOf(refused.answer, "s3")?.error }).toEqual({
            code: 1,
            error: `${nobody}/models/here/cold cannot be reached (dial tcp 127.0.0.1:${port}: connect: connection refused); the next \`npm run up\` tries again`,
        });
        const silent = net.createServer();
        await new Promise<void>((resolve) => silent.listen(port, "127.0.0.1", resolve));
        try {
            const env = { RCLONE_TIMEOUT: "300ms", RCLONE_RETRIES: "1", RCLONE_LOW_LEVEL_RETRIES: "1" };
            const args = ["--json", "--set", `push.s3.endpoint=${nobody}`];
            const { code, stdout } = await rig.spawn("up", args, { env }).ended;
            const error = pushOf(JSON.parse(stdout) as Answer, "s3")?.error ?? "";
            const why = /\(([^)]*)\)/.exec(error)?.[1] ?? "";
            expect({ code, error }).toEqual({
                code: 1,
                error: `${nobody}/models/here/cold cannot be reached (${why}); the next \`npm run up\` tries again`,
            });
            // rclone's limits for an answer and for a connection are the same: either may be over first.
            expect(why).toMatch(/^(net\/http: timeout awaiting response headers|read tcp [\d.:>-]+: i\/o timeout)$/);
        } finally {
            silent.close();
        }
        expect((await rig.json("up")).answer.stages.map(({ action }) => action)).toEqual(Array(7).fill("unchanged"));
    });

    test("with the stack's own keys, which no rclone has in its environment, and no file after it", async () => {
        const keys = await makeUser(endpoint, "pusher", ["s3:*"]);
        const env = { PULUMI_BACKEND_URL: `file://${rig.home}/state`, PULUMI_CONFIG_PASSPHRASE: "" };
        for (const [name, value] of [
            ["s3AccessKeyId", keys.AWS_ACCESS_KEY_ID],
            ["s3SecretAccessKey", keys.AWS_SECRET_ACCESS_KEY],
        ] as const) {
            const set = ["config", "set", "--stack", "test", "--secret", `finetune:${name}`, "--", value];
            const ended = await rig.start(pulumi, set, { env }).ended;
            expect(ended.code, ended.stderr).toBe(0);
        }
        // The real one, after what it was started with is written down.
        const real = execFileSync("which", ["rclone"], { encoding: "utf8" }).trim();
        const bin = path.join(rig.folder, "recorded");
        const log = path.join(rig.folder, "rclone-environments");
        fs.mkdirSync(bin, { recursive: true });
        const script = `#!/bin/sh\ntr '\\0' '\\n' < /proc/$$/environ >> ${log}\nexec ${real} "$@"\n`;
        fs.writeFileSync(path.join(bin, "rclone"), script, { mode: 0o700 });
        await checkKeys(endpoint, true);
        const { code, stdout, stderr } = await rig.spawn("up", ["--json", "--set", "push.s3.prefix=keys"], {
            env: {
                ...{ AWS_ACCESS_KEY_ID: undefined, AWS_SECRET_ACCESS_KEY: undefined },
                PATH: `${bin}:${rig.environment["PATH"] ?? process.env["PATH"] ?? ""}`,
            },
        }).ended;
        await checkKeys(endpoint, false);
        expect(code, stderr).toBe(0);
        const answer = JSON.parse(stdout) as Answer;
        const files = exportedBy(answer);
        expect(pushOf(answer, "s3")?.facts).toMatchObject({ sent: files.size, removed: 0 });
        expect(listed().filter((name) => name.startsWith("keys/"))).toEqual(
            [...files.keys()].map((name) => `keys/${name}`),
        );
        const environments = fs.readFileSync(log, "utf8");
        // A look, two parts of the copy and a look.
        expect(environments.match(/^RCLONE_CONFIG=.*retune-push-\w+\/rclone\.conf$/gm)).toHaveLength(4);
        for (const secret of [keys.AWS_ACCESS_KEY_ID, keys.AWS_SECRET_ACCESS_KEY]) {
            expect(environments + stdout + stderr).not.toContain(secret);
        }
        expect(filesBelow(rig.runtime).filter((name) => name.includes("retune-push-"))).toEqual([]);
    });

    test("another stack's copy is not touched until the stack says so, and what is as it has to be is not in the way", async () => {
        const set = (...more: string[]) =>
            rig.json("up", "--set", "push.s3.prefix=theirs", ...more.flatMap((one) => ["--set", `push.s3.${one}`]));
        ask("copy", "mirror:models/keys", "mirror:models/theirs", "--exclude", "SHA256SUMS");
        ask("copyto", rig.write("other", "theirs"), "mirror:models/theirs/model.safetensors");
        const before = ask("lsf", "-R", "--files-only", "--format", "pth", "mirror:models");
        const refused = await set();
        expect({ code: refused.code, error: pushOf(refused.answer, "s3")?.error }).toEqual({
            ...{ code: 1, error: foreign(`${endpoint}/models/theirs`, "model.safetensors", "s3") },
        });
        expect(ask("lsf", "-R", "--files-only", "--format", "pth", "mirror:models")).toBe(before);
        const { code, answer } = await set("overwrite=true");
        // What was lacking, too, which is nobody's.
        expect({ code, facts: pushOf(answer, "s3")?.facts }).toMatchObject({ code: 0, facts: { sent: 2, removed: 0 } });
        expect(pushOf((await set()).answer, "s3")).toMatchObject({ action: "cached", facts: { sent: 0 } });
    });
});
