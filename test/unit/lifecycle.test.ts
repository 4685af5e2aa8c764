import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, test, vi } from "vitest";
import type { SshTarget, Target } from "../../infra/target";
import { describeChange } from "../../pipeline/changes";
import { Absent, type Executor } from "../../pipeline/executor/executor";
import { sha256, type JsonObject } from "../../pipeline/identity";
import { Lifecycle } from "../../pipeline/provider/lifecycle";
import { followedRuns, noteFollowed } from "../../pipeline/store/followed";
import { Store } from "../../pipeline/store/store";
import { UserError } from "../../pipeline/user-error";
import { temporaryFolder } from "./datasets/folder";

const urn = "urn:pulumi:huatuo::retune::finetune:pipeline:Model::model";
const host: SshTarget = {
    type: "ssh",
    host: "i-0123",
    port: 22,
    user: "ubuntu",
    hostKey: `ssh-ed25519 ${"A".repeat(68)}`,
    home: ".retune",
    gpu: "required",
};
const instance: SshTarget["instance"] = { region: "us-east-1", access: "ssm" };
const UNREACHABLE = new UserError("ubuntu@i-0123 cannot be reached: Connection refused");

const key = sha256("the run");

/** Deletes a model whose run this client, or one that was killed, has started; answers the warnings, and what is followed then. */
async function deleted(
    target: Target,
    stop: () => Promise<never>,
    { known = true, others = [] }: { readonly known?: boolean; readonly others?: readonly string[] } = {},
) {
    const home = temporaryFolder();
    for (const stack of ["huatuo", ...others]) await noteFollowed(home, { stack, stage: "model", key, target });
    if (known) {
        const folder = path.join(home, "runs", key);
        mkdirSync(folder, { recursive: true });
        writeFileSync(path.join(folder, "state.json"), JSON.stringify({ state: "running", target }));
    }
    const warnings: string[] = [];
    const executor = { stop } as Partial<Executor> as Executor;
    const lifecycle = new Lifecycle(
        new Store(home),
        () => Promise.resolve(executor),
        (_urn, text, { warning }) => warning === true && warnings.push(text),
    );
    await lifecycle.delete(urn);
    return { warnings, followedBy: followedRuns(home).map(({ stack }) => stack) };
}

describe("the gate's override", () => {
    const evaluation = "urn:pulumi:dev::retune::finetune:pipeline:Evaluation::evaluation";
    const changed = (verdict: string, news: object): string[] => {
        const lifecycle = new Lifecycle(
            new Store(temporaryFolder()),
            () => Promise.reject(UNREACHABLE),
            () => undefined,
        );
        const old = { template: "qwen3", gate: { minRows: 8, override: { reason: "once", model: "3f2a91c07b1e" } } };
        const outputs = { key: "k", digest: "d", facts: { verdict } };
        return lifecycle.diff(evaluation, old, outputs, { ...old, ...news }).map(describeChange);
    };

    test("that did not decide is no reason to judge again; one that did, is", () => {
        const without = { gate: { minRows: 8 } };
        expect(changed("accepted", without)).toEqual([]);
        expect(
            changed("accepted", { gate: { minRows: 8, override: { reason: "again", model: "0".repeat(12) } } }),
        ).toEqual([]);
        const removed = ["gate.override.reason removed (was once)", "gate.override.model removed (was 3f2a91c07b1e)"];
        expect(changed("overridden", without)).toEqual(removed);
        // With another change it is named, for it may decide now.
        expect(changed("accepted", { ...without, template: "llama3" })).toEqual([
            "template qwen3 → llama3",
            ...removed,
        ]);
    });
});

describe("deleting a stage whose run goes on", () => {
    test("does not keep a machine of the stack's own that does not answer", async () => {
        const { warnings } = await deleted({ ...host, instance }, () => Promise.reject(UNREACHABLE));
        expect(warnings).toEqual([
            expect.stringMatching(
                /^run [0-9a-f]{12} could not be stopped, and ends with its machine: ubuntu@i-0123 cannot be reached: Connection refused$/,
            ),
        ]);
    });

    test("fails where the run would go on on somebody's host", async () => {
        await expect(deleted(host, () => Promise.reject(UNREACHABLE))).rejects.toThrow(UNREACHABLE);
    });

    test("goes on where it may never have been started, and that host is gone", async () => {
        expect(await deleted(host, () => Promise.reject(UNREACHABLE), { known: false })).toEqual({
            warnings: [
                `run ${key.slice(0, 12)} could not be stopped, and goes on if it was started: ubuntu@i-0123 cannot be reached: Connection refused`,
            ],
            followedBy: [],
        });
    });

    test("has nothing to do where its machine is no more", async () => {
        const gone = new Absent("i-0123 does not exist any more");
        const nothing = { warnings: [], followedBy: [] };
        expect(await deleted({ ...host, instance }, () => Promise.reject(gone))).toEqual(nothing);
    });

    test("asks the target for a run that a killed client had no answer about", async () => {
        let asked = 0;
        const gone = () => {
            asked += 1;
            return Promise.reject(new Absent("i-0123 does not exist any more"));
        };
        expect(await deleted({ ...host, instance }, gone, { known: false })).toEqual({ warnings: [], followedBy: [] });
        expect(asked).toBe(1);
    });

    test("leaves a run alone that another stack follows, too", async () => {
        const stop = () => Promise.reject(new Error("it must not be stopped"));
        expect(await deleted(host, stop, { others: ["other"] })).toEqual({
            warnings: [`run ${key.slice(0, 12)} goes on: stack other follows it, too`],
            followedBy: ["other"],
        });
    });
});

test("a report stays in the language of its stack's first one, whoever updates it, until it is configured", async () => {
    const lifecycle = new Lifecycle(
        new Store(temporaryFolder()),
        () => Promise.reject(new Error("nothing runs")),
        () => undefined,
    );
    const urn = "urn:pulumi:dev::retune::finetune:pipeline:Report::report";
    const each = Object.fromEntries(
        ["dataset", "model", "training", "evaluation", "export"].map((name) => [name, sha256(name)]),
    );
    const news = { stack: "dev", notice: "", digests: each, keys: each };
    const check = async (locale: string, given: JsonObject, olds?: JsonObject) => {
        vi.stubEnv("LC_ALL", locale);
        const { inputs, failures } = await lifecycle.check(urn, given, olds);
        vi.unstubAllEnvs();
        expect(failures).toEqual([]);
        return inputs;
    };
    const first = await check("zh_CN.UTF-8", news);
    expect(first["language"]).toBe("zh");
    const second = await check("C", news, first);
    expect(second).toEqual(first);
    expect(lifecycle.diff(urn, first, {}, second)).toEqual([]);
    const configured = await check("zh_CN.UTF-8", { ...news, language: "en" }, second);
    expect(lifecycle.diff(urn, second, {}, configured)).toEqual([
        { kind: "changed", field: "language", old: "zh", new: "en" },
    ]);
    expect((await check("zh_CN.UTF-8", news, configured))["language"]).toBe("en");
});
