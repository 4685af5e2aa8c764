import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { Absent, type Executor } from "../../pipeline/executor/executor";
import type { JsonObject } from "../../pipeline/identity";
import { Lifecycle } from "../../pipeline/provider/lifecycle";
import { stageKey } from "../../pipeline/stage";
import { model } from "../../pipeline/model";
import { Store } from "../../pipeline/store/store";
import { UserError } from "../../pipeline/user-error";
import { temporaryFolder } from "./datasets/folder";

const urn = "urn:pulumi:huatuo::retune::finetune:pipeline:Model::model";
const host = {
    type: "ssh",
    host: "i-0123",
    port: 22,
    user: "ubuntu",
    hostKey: `ssh-ed25519 ${"A".repeat(68)}`,
    home: ".retune",
    gpu: "required",
};
const instance = { region: "us-east-1", access: "ssm" };
const UNREACHABLE = new UserError("ubuntu@i-0123 cannot be reached: Connection refused");

/** Deletes a model whose run this client knows to be going on; answers the warnings. */
async function deleted(target: JsonObject, stop: () => Promise<never>): Promise<string[]> {
    const home = temporaryFolder();
    const inputs: JsonObject = { target, source: { random: { seed: 1 } }, template: "qwen3", content: "c", tools: {} };
    const folder = path.join(home, "runs", stageKey(model, inputs));
    mkdirSync(folder, { recursive: true });
    writeFileSync(path.join(folder, "state.json"), JSON.stringify({ state: "running", target }));
    const warnings: string[] = [];
    const executor = { stop } as Partial<Executor> as Executor;
    const lifecycle = new Lifecycle(
        new Store(home),
        () => Promise.resolve(executor),
        (_urn, text, { warning }) => warning === true && warnings.push(text),
    );
    await lifecycle.delete(urn, inputs, {});
    return warnings;
}

describe("deleting a stage whose run goes on", () => {
    test("does not keep a machine of the stack's own that does not answer", async () => {
        const warnings = await deleted({ ...host, instance }, () => Promise.reject(UNREACHABLE));
        expect(warnings).toEqual([
            expect.stringMatching(
                /^run [0-9a-f]{12} could not be stopped, and ends with its machine: ubuntu@i-0123 cannot be reached: Connection refused$/,
            ),
        ]);
    });

    test("fails where the run would go on on somebody's host", async () => {
        await expect(deleted(host, () => Promise.reject(UNREACHABLE))).rejects.toThrow(UNREACHABLE);
    });

    test("has nothing to do where its machine is no more", async () => {
        const gone = new Absent("i-0123 does not exist any more");
        expect(await deleted({ ...host, instance }, () => Promise.reject(gone))).toEqual([]);
    });
});
