import { execFileSync, spawnSync, type ChildProcess } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startS3 } from "./moto";
import { all, digestsOf, Rig, type Answer } from "./rig";

const BUCKET = "models";

const rclone = spawnSync("rclone", ["version"]).status === 0;
if (!rclone) console.warn("skipped: the mirror's tests want rclone on PATH (apt-get install rclone)");

describe.skipIf(!rclone)("a mirror of the store on S3", () => {
    let rig: Rig;
    let server: ChildProcess;
    let first: Answer;
    const at = (key: string) => `mirror:${BUCKET}/here/${key}`;
    const ask = (...args: string[]) =>
        execFileSync("rclone", args, { encoding: "utf8", env: { ...process.env, ...rig.environment } });

    beforeAll(async () => {
        rig = new Rig();
        const s3 = await startS3();
        server = s3.server;
        Object.assign(rig.environment, s3.environment);
        ask("mkdir", `mirror:${BUCKET}`);
        rig.configure({ target: { mirror: `mirror:${BUCKET}/here` } });
    });
    afterAll(async () => {
        server.kill();
        await rig.dispose();
    });

    test("takes every result of a target, the entry of a run after its artifact", async () => {
        const { code, answer, actions } = await rig.json("up");
        first = answer;
        expect({ code, actions }).toEqual({ code: 0, actions: all("ran") });
        const kinds = ["model", "training", "export"] as const;
        const listed = ask("lsf", "-R", "--files-only", `mirror:${BUCKET}/here`).trim().split("\n");
        for (const name of kinds) {
            const { key = "", digest = "" } = answer.stages.find((stage) => stage.name === name) ?? {};
            expect(listed).toContain(`runs/${key}/result.json`);
            expect(listed.some((file) => file.startsWith(`store/${digest}/`))).toBe(true);
        }
        // The answers of base and tuned model are runs too; data set, verdict and report are made again in no time.
        expect(listed.filter((file) => file.endsWith("/result.json"))).toHaveLength(kinds.length + 2);
    });

    test("gives a fresh machine the model instead of a training, and the preview says so", async () => {
        rig.home = path.join(rig.folder, "fresh");
        const preview = await rig.json("preview");
        const taken = {
            model: "would-reuse",
            training: "would-reuse",
            export: "would-reuse",
        };
        expect(preview.actions).toEqual(all("would-run", taken));
        const { code, answer, actions } = await rig.json("up");
        expect({ code, actions }).toEqual({
            code: 0,
            actions: all("cached", { dataset: "ran", evaluation: "ran", report: "ran" }),
        });
        const { report: _now, ...digests } = digestsOf(answer);
        const { report: _then, ...before } = digestsOf(first);
        expect(digests).toEqual(before);
    });

    test("repairs an artifact that was altered, without a run", async () => {
        const { digest = "" } = first.stages.find(({ name }) => name === "training") ?? {};
        fs.appendFileSync(path.join(rig.home, "store", digest, "adapter_model.safetensors"), "x");
        expect((await rig.json("refresh")).actions).toMatchObject({ training: "drifted" });
        const { code, actions } = await rig.json("up");
        expect({ code, actions }).toEqual({ code: 0, actions: all("unchanged", { training: "cached" }) });
    });

    test("does not count when what comes down is not what was sent: the run is made again", async () => {
        const { digest = "" } = first.stages.find(({ name }) => name === "training") ?? {};
        const damaged = rig.write("damaged", "nothing of an adapter");
        ask("copyto", damaged, at(`store/${digest}/adapter_model.safetensors`));
        rig.home = path.join(rig.folder, "another");
        const { code, actions } = await rig.json("up");
        expect({ code, actions }).toEqual({
            code: 0,
            actions: all("cached", { dataset: "ran", training: "ran", evaluation: "ran", report: "ran" }),
        });
    });

    test("that cannot be reached fails nothing: what runs counts, and the next up sends it although nothing has changed", async () => {
        const endpoint = rig.environment["RCLONE_CONFIG_MIRROR_ENDPOINT"];
        rig.environment["RCLONE_CONFIG_MIRROR_ENDPOINT"] = "http://127.0.0.1:9";
        const OTHER = ["--set", "training.seed=9"];
        const { code, actions, stderr, answer } = await rig.json("up", ...OTHER);
        const rerun = { training: "ran", evaluation: "ran", export: "ran", report: "ran" };
        expect({ code, actions }).toEqual({ code: 0, actions: all("unchanged", rerun) });
        const down = /^warning: the mirror mirror:models\/here cannot be reached: .*connection refused; (.*)$/gm;
        const said = [...stderr.matchAll(down)].map((match) => match[1]);
        const keys = ["training", "export"].map((name) => {
            return answer.stages.find((stage) => stage.name === name)?.key ?? "";
        });
        // The base's answers came from the mirror before.
        keys.push(rig.runs("Answers").at(-1)?.key ?? "");
        const counts = keys.map((key) => `run ${key.slice(0, 12)} counts, and the next \`npm run up\` sends it`);
        expect(said.sort()).toEqual([...counts, "what it may have runs again"].sort());
        const pending = "3 uploads to a mirror are pending: the next `npm run up` sends what it could not\n";
        expect((await rig.run("status")).stdout.endsWith(`\n${pending}`)).toBe(true);
        const sentTo = () => ask("lsf", "-R", "--files-only", `mirror:${BUCKET}/here/runs`);
        rig.environment["RCLONE_CONFIG_MIRROR_ENDPOINT"] = endpoint;
        for (const key of keys) expect(sentTo()).not.toContain(key);

        const next = await rig.json("up", ...OTHER);
        expect({ code: next.code, actions: next.actions }).toEqual({ code: 0, actions: all("unchanged") });
        expect(next.stderr).toContain("\nsent 3 results of earlier updates to the mirror\n");
        for (const key of keys) expect(sentTo()).toContain(`${key}/result.json`);
        expect((await rig.run("status")).stdout).not.toContain("pending");
        expect((await rig.json("up", ...OTHER)).stderr).not.toContain("mirror");
    });

    test("that is not configured is a mistake, and nothing is trained in its place", async () => {
        rig.configure({ target: { mirror: "nowhere:models" } });
        rig.home = path.join(rig.folder, "cut-off");
        const { code, stage } = await rig.json("up");
        expect(code).toBe(1);
        expect(stage("model").error).toMatch(
            /^the mirror nowhere:models cannot be used: Failed to create file system for .*: didn't find section in config file$/,
        );
        expect(rig.runs("Model")).toHaveLength(0);
    });
});
