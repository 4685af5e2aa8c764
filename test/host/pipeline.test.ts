import * as fs from "node:fs";
import * as path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { all, digestsOf, python, Rig } from "../engine/rig";
import { describeOverSsh, Sshd } from "./sshd";

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
});
