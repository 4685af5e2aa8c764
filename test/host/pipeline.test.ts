import * as fs from "node:fs";
import * as path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { JsonObject } from "../../pipeline/identity";
import { Hub } from "../engine/hub";
import { listsWith } from "../engine/processes";
import { actionsOf, all, digestsOf, filesBelow, python, Rig, type Answer } from "../engine/rig";
import { describeOverSsh } from "./over-ssh";
import { Sshd } from "./sshd";

// In two parts, so that this file, of which the project has a copy, does not hold it.
const TOKEN = ["hf", "canaryQ7x3vN9sLp2"].join("_");

describeOverSsh("a stack on an SSH host", () => {
    let rig: Rig;
    let sshd: Sshd;

    beforeAll(async () => {
        sshd = await Sshd.start();
        rig = new Rig();
        rig.configure({ target: { ...sshd.target, python } });
    });
    afterAll(async () => {
        await rig.dispose();
        await sshd.dispose();
    });

    test("the whole pipeline runs there, and its results come here; the base model stays", async () => {
        const { code, answer, actions, stderr } = await rig.json("up");
        expect({ code, stderr: code === 0 ? "" : stderr }).toEqual({ code: 0, stderr: "" });
        expect(actions).toEqual({ host: "ran", ...all("ran") });
        const { model = "", training = "", export: merged = "" } = digestsOf(answer);
        const facts = rig.stored("training")?.outputs?.["host"] as JsonObject;
        // Its processor is named on x86, its GPUs with their driver where there are any.
        const always = Object.keys(facts).filter((name) => !["cpu", "gpus", "driver"].includes(name));
        expect(always.sort()).toEqual(
            ["name", "machine", "cpus", "release", "python", "torch", "cuda", "llamafactory"].sort(),
        );
        expect(facts).toMatchObject({ llamafactory: "0.9.5", torch: expect.stringMatching(/^\d+\.\d+/) as string });
        const host = path.join(sshd.folder, "home", "store");
        for (const digest of [model, training, merged]) expect(fs.existsSync(path.join(host, digest))).toBe(true);
        expect(fs.existsSync(path.join(rig.home, "store", training))).toBe(true);
        expect(fs.existsSync(path.join(rig.home, "store", merged))).toBe(true);
        expect(fs.existsSync(path.join(rig.home, "store", model))).toBe(false);
    });

    test("a second up changes nothing and asks the host nothing", async () => {
        const before = sshd.commands;
        const { actions } = await rig.json("up");
        expect(actions).toEqual({ host: "unchanged", ...all("unchanged") });
        const preview = await rig.json("preview");
        expect(preview.actions).toEqual({ host: "unchanged", ...all("unchanged") });
        expect(sshd.commands).toBe(before);
    });

    test("another host reruns nothing; what then changes runs there, with what it needs brought along", async () => {
        const other = await Sshd.start();
        try {
            rig.configure({ target: { ...other.target, python } });
            const moved = await rig.json("up");
            expect(moved.actions).toEqual({ host: "ran", ...all("unchanged") });

            rig.configure({ target: { ...other.target, python }, training: { learningRate: 0.02 } });
            const changed = await rig.json("up");
            expect(changed.actions).toEqual({
                host: "unchanged",
                ...all("ran", { dataset: "unchanged", model: "unchanged" }),
            });

            // Back again, on either host: everything is known here.
            rig.configure({ target: { ...sshd.target, python } });
            const back = await rig.json("up");
            expect(back.actions).toEqual({
                host: "ran",
                ...all("cached", { dataset: "unchanged", model: "unchanged" }),
            });
        } finally {
            await other.dispose();
        }
    });

    test("the export is pushed from here: the host is asked nothing, and sees no token", async () => {
        const hub = new Hub();
        const endpoint = await hub.listen();
        const before = sshd.commands;
        const push = { huggingface: { repository: "someone/cold", endpoint } };
        rig.configure({ target: { ...sshd.target, python }, push });
        const running = rig.spawn("up", ["--json"], { env: { HF_TOKEN: TOKEN } });
        const seen = await listsWith(TOKEN, running);
        const { code, stdout, stderr } = await running.ended;
        hub.close();
        expect({ code, seen }, stderr).toEqual({ code: 0, seen: [] });
        const answer = JSON.parse(stdout) as Answer;
        expect(actionsOf(answer)).toEqual({ host: "unchanged", ...all("unchanged"), huggingface: "ran" });
        expect(sshd.commands).toBe(before);
        const folder = path.join(rig.home, "store", digestsOf(answer)["export"] ?? "");
        const { files } = hub.repositories.get("someone/cold") ?? { files: new Map<string, Buffer>() };
        files.delete(".gitattributes");
        expect([...files.keys()].sort()).toEqual(filesBelow(folder));
        for (const [name, content] of files) {
            expect(content.equals(fs.readFileSync(path.join(folder, name))), name).toBe(true);
        }
        const holding = filesBelow(sshd.folder)
            .map((file) => path.join(sshd.folder, file))
            .filter((file) => fs.existsSync(file) && fs.statSync(file).isFile())
            .filter((file) => fs.readFileSync(file).includes(TOKEN));
        expect(holding).toEqual([]);
    });

    test("gc removes there what no stack uses, and what the stack uses stays", async () => {
        const target = { ...sshd.target, python };
        rig.configure({ target, training: { learningRate: 0.03 } });
        expect((await rig.json("up")).actions).toMatchObject({ training: "ran", evaluation: "ran", export: "ran" });
        rig.configure({ target });
        expect((await rig.json("up")).code).toBe(0);

        const gc = (...args: string[]) =>
            rig.start(process.execPath, ["scripts/gc.cjs", "--grace-days", "0", ...args]).ended;
        const before = filesBelow(sshd.at("store"));
        const would = await gc("--json", "--dry-run");
        interface Item {
            readonly at?: string;
            readonly what: string;
            readonly kind?: string;
            readonly kept: boolean;
        }
        const { items } = JSON.parse(would.stdout) as { items: Item[] };
        const there = items.filter(({ at, what }) => at === "127.0.0.1" && what === "run");
        const kinds = (kept: boolean) => there.flatMap((item) => (item.kept === kept ? (item.kind ?? "") : [])).sort();
        expect(kinds(false)).toEqual(["Answers", "Export", "Training"]);
        expect(kinds(true)).toEqual(["Answers", "Baseline", "Export", "Model", "Training"]);
        expect(filesBelow(sshd.at("store"))).toEqual(before);

        const done = await gc();
        expect(done.stdout).toMatch(/^removed on 127\.0\.0\.1\n(?: {2}[0-9a-f]{12} .*\n)+Freed [\d.]+ MB\.\n$/m);
        expect(fs.readdirSync(sshd.at("runs"))).toHaveLength(kinds(true).length);
        expect((await rig.json("up")).actions).toEqual({ host: "unchanged", ...all("unchanged") });

        await sshd.down();
        const silent = await gc();
        expect([silent.code, silent.stderr]).toEqual([
            0,
            `nothing is collected on 127.0.0.1: ${sshd.target.user}@127.0.0.1 cannot be reached: connect to host 127.0.0.1 port ${sshd.port}: Connection refused\n`,
        ]);
    });
});
