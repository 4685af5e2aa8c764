import * as fs from "node:fs";
import * as path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { all, python, Rig } from "../engine/rig";
import { describeOverSsh } from "./over-ssh";
import { Sshd } from "./sshd";

describeOverSsh("a host as a resource", () => {
    let rig: Rig;
    let sshd: Sshd;

    beforeAll(async () => {
        sshd = await Sshd.start();
        rig = new Rig();
    });
    afterAll(async () => {
        await rig.dispose();
        await sshd.dispose();
    });

    const host = (answer: { stages: readonly { name: string; action: string; error?: string; facts?: unknown }[] }) =>
        answer.stages.find(({ name }) => name === "host");

    test("a machine without what a run needs is refused, with all reasons at once, before anything runs", async () => {
        rig.configure({
            target: { ...sshd.target, python, gpu: "required" },
            service: { enabled: true, backend: "vllm" },
        });
        const { code, answer } = await rig.json("up");
        expect({ code, result: answer.result }).toEqual({ code: 1, result: "failed" });
        expect(host(answer)?.action).toBe("failed");
        expect(host(answer)?.error).toMatch(/^127\.0\.0\.1 cannot be used/);
        expect(host(answer)?.error).toContain("GPU");
        const environment = fs.realpathSync(path.join(python, "..", ".."));
        expect(host(answer)?.error).toContain(
            `\n  vLLM is not installed in ${environment}: \`${environment}/bin/python -m pip install "vllm>=0.4.3,<=0.11.0"\` installs it, and \`service.backend: huggingface\` does without`,
        );
        expect(rig.runs("Model")).toEqual([]);
    });

    test("one that is what it must be is verified, and what it is stays in the state", async () => {
        rig.configure({ target: { ...sshd.target, python, gpu: "none" } });
        const { code, answer } = await rig.json("up");
        expect(code).toBe(0);
        expect(host(answer)).toMatchObject({
            action: "ran",
            facts: { architecture: "x86_64", driver: null, gpus: [], llamafactory: "0.9.5" },
        });
        const again = await rig.json("up");
        expect(again.actions).toEqual({ host: "unchanged", ...all("unchanged") });
    });

    test("a refresh looks again; a host that is silent is taken as it was", async () => {
        const there = await rig.json("refresh");
        expect(there.actions).toMatchObject({ host: "unchanged", model: "unchanged" });
        await sshd.down();
        const silent = await rig.json("refresh");
        expect(silent.actions).toMatchObject({ host: "unchanged", model: "unchanged", training: "unchanged" });
        expect(silent.stderr).toContain("cannot be reached");
        await sshd.up();
        expect((await rig.json("up")).actions).toEqual({ host: "unchanged", ...all("unchanged") });
    });
});
