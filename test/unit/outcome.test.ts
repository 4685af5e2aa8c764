import { describe, expect, test } from "vitest";
import type { JsonObject } from "../../pipeline/identity";
import { UNKNOWN } from "../../pipeline/identity";
import type { Operation } from "../../scripts/driver";
import type { EngineEvent, StepMetadata } from "../../scripts/events";
import { Outcomes } from "../../scripts/outcome";

// The events are as the engine sends them: engine-trials.md, sections 1, 5 and 10.
const urnOf = (kind: string, name: string): string => `urn:pulumi:dev::retune::finetune:pipeline:${kind}::${name}`;
const training = { name: "training", type: "finetune:pipeline:Training" };
const urn = urnOf("Training", "training");

interface Sides {
    readonly old?: {
        readonly inputs?: JsonObject;
        readonly outputs?: JsonObject;
        readonly initErrors?: readonly string[];
    };
    readonly new?: { readonly inputs?: JsonObject; readonly outputs?: JsonObject };
    readonly diff?: readonly string[];
}

function step(op: string, sides: Sides = {}): StepMetadata {
    const side = (one: Sides["old"]) => (one === undefined ? null : { inputs: {}, outputs: {}, ...one });
    const diffs = sides.diff?.map((field) => [field, { diffKind: "update", inputDiff: true }] as const);
    return {
        op,
        urn,
        type: training.type,
        old: side(sides.old),
        new: side(sides.new),
        detailedDiff: diffs === undefined ? null : Object.fromEntries(diffs),
    };
}

const ended = (op: string, sides?: Sides): EngineEvent => ({ resOutputsEvent: { metadata: step(op, sides) } });
const failed = (op: string, sides?: Sides): EngineEvent => ({ resOpFailedEvent: { metadata: step(op, sides) } });
const error = (message: string, of?: string): EngineEvent => ({
    diagnosticEvent: { message, severity: "error", ...(of === undefined ? {} : { urn: of }) },
});

function after(operation: Operation, ...events: EngineEvent[]): Outcomes {
    const outcomes = new Outcomes(operation);
    for (const event of events) outcomes.take(event);
    return outcomes;
}

const outputs = {
    key: "k",
    run: "r",
    digest: "d",
    uri: "file:///out",
    seconds: 93.1,
    facts: { steps: 24 },
    finishedAt: "2025-01-01T00:00:00Z",
};

describe("a stage that ended", () => {
    test.each([
        ["create", "ran"],
        ["create", "cached"],
        ["update", "attached"],
        ["update", "ran"],
    ])("after %s says what the provider did: %s", (op, action) => {
        const old = { initErrors: ["detached: …"] };
        const outcomes = after("up", ended(op, { old, new: { outputs: { ...outputs, action } } }));
        expect(outcomes.list([training])).toEqual([
            {
                ...training,
                action,
                // An update without a difference repeats what was interrupted.
                reasons: op === "create" ? [] : [{ field: "interrupted", old: "detached: …", new: null }],
                ...{ key: "k", run: "r", digest: "d", uri: "file:///out", seconds: 93.1, facts: { steps: 24 } },
                madeAt: "2025-01-01T00:00:00Z",
            },
        ]);
    });

    test("is answered when the event is taken", () => {
        const outcomes = new Outcomes("up");
        const outcome = outcomes.take(ended("create", { new: { outputs: { action: "ran" } } }));
        expect(outcome).toEqual({ ...training, action: "ran", reasons: [] });
        expect(outcomes.take({ resourcePreEvent: { metadata: step("create") } })).toBeUndefined();
        expect(outcomes.take({})).toBeUndefined();
    });

    test("is unchanged when the engine left it as it was, whatever its last action", () => {
        const events = [ended("same", { old: {}, new: { outputs: { ...outputs, action: "ran" } } })];
        expect(after("up", ...events).list([training])).toMatchObject([{ action: "unchanged", digest: "d" }]);
    });

    test("is deleted in a destroy", () => {
        expect(after("destroy", ended("delete", { old: { outputs } })).list([])).toMatchObject([
            { ...training, action: "deleted", digest: "d" },
        ]);
    });

    test.each([
        [{ ...outputs, action: "ran", drift: "the artifact is gone" }, "drifted"],
        [{ ...outputs, action: "ran" }, "unchanged"],
    ])("has drifted in a refresh exactly if it says so", (seen, action) => {
        expect(after("refresh", ended("refresh", { old: { outputs }, new: { outputs: seen } })).list([])).toMatchObject(
            [{ action, reasons: [] }],
        );
    });

    test("shows in a preview only what is known", () => {
        const foreseen = { key: "k", digest: UNKNOWN, run: "r", uri: UNKNOWN, facts: UNKNOWN, action: "would-run" };
        expect(after("preview", ended("create", { new: { outputs: foreseen } })).list([training])).toEqual([
            { ...training, action: "would-run", isNew: true, reasons: [], key: "k", run: "r" },
        ]);
    });

    test("has the reasons of its update with both values, absent ones as null, unknown ones as such", () => {
        const sides: Sides = {
            old: { inputs: { learningRate: 0.0005, llamafactory: { lora_dropout: 0.1 }, model: "old" }, outputs },
            new: {
                inputs: { learningRate: 0.0001, seed: 7, llamafactory: {}, model: UNKNOWN, prompts: ["a"] },
                outputs: { ...outputs, action: "ran" },
            },
            diff: ["learningRate", "seed", "llamafactory.lora_dropout", "model", "prompts"],
        };
        expect(after("up", ended("update", sides)).list([training])[0]?.reasons).toEqual([
            { field: "learningRate", old: 0.0005, new: 0.0001 },
            { field: "seed", old: null, new: 7 },
            { field: "llamafactory.lora_dropout", old: 0.1, new: null },
            { field: "model", old: "old", new: "unknown" },
            { field: "prompts", old: null, new: ["a"] },
        ]);
    });

    test("takes the reason of a repair from the old outputs", () => {
        const drift = "adapter.safetensors was altered";
        const sides = { old: { outputs: { ...outputs, drift } }, new: { outputs: { action: "ran" } }, diff: ["drift"] };
        expect(after("up", ended("update", sides)).list([training])[0]?.reasons).toEqual([
            { field: "drift", old: drift, new: null },
        ]);
    });
});

describe("a stage that did not end well", () => {
    test("has failed, in the provider's own words without the engine's frame", () => {
        const sides = { old: { inputs: { seed: 1 } }, new: { inputs: { seed: 2 } }, diff: ["seed"] };
        const text = "updating failed: run 0123 failed: loss is NaN\n  the whole log: npm run logs -- 0123\n";
        const outcomes = after("up", error(text, urn), failed("update", sides), error("update failed"));
        expect(outcomes.list([training])).toEqual([
            {
                ...training,
                action: "failed",
                reasons: [{ field: "seed", old: 1, new: 2 }],
                error: "run 0123 failed: loss is NaN\n  the whole log: npm run logs -- 0123",
            },
        ]);
        expect(outcomes.hasStageErrors()).toBe(true);
        expect(outcomes.misconfigured).toBe(false);
        expect(outcomes.errors).toEqual(["update failed"]);
    });

    test("is detached when its run goes on; that is no error of its own", () => {
        const reason = "1 error occurred:\n\t* detached: the run goes on; the next `npm run up` attaches to it\n\n";
        const outcomes = after("up", error(reason, urn), failed("create"));
        expect(outcomes.list([training])).toEqual([{ ...training, action: "detached", reasons: [] }]);
    });

    test("is refused by the gate, with the key and the address of its verdict", () => {
        const key = "0123456789abcdef".repeat(4);
        const uri = `file:///home/me/.retune/runs/${key}/out`;
        const refusal = `refused by the gate: the condition failed\n  evalLoss 2 against 1\n  all there is to say: ${uri}`;
        const outcomes = after("up", error(`updating failed: ${refusal}`, urn), failed("update"));
        expect(outcomes.list([training])).toMatchObject([{ ...training, action: "refused", key, uri, error: refusal }]);
    });

    test("is a service whose model before goes on: at the address that it had", () => {
        const serves =
            "updating failed: the model did not come up: no memory; the one before goes on serving\n  its log";
        const uri = "http://127.0.0.1:8000/v1";
        const sides = { old: { outputs: { ...outputs, uri } } };
        const uriAfter = (text: string) =>
            after("up", error(text, urn), failed("update", sides)).list([training])[0]?.uri;
        expect(uriAfter(serves)).toBe(uri);
        expect(uriAfter(serves.replace("; the one before goes on serving", ""))).toBeUndefined();
    });

    test("was refused its inputs: each problem, and a mistake of the configuration", () => {
        const refused = (text: string) =>
            error(`finetune:pipeline:Training resource 'training' has a problem: ${text}`, urn);
        const outcomes = after(
            "up",
            refused('learningRate: expected a number between 0 and 1, got "fast"'),
            refused("epochs: missing: expected a number above 0"),
        );
        expect(outcomes.list([training])).toEqual([
            {
                ...training,
                action: "failed",
                reasons: [],
                error:
                    'learningRate: expected a number between 0 and 1, got "fast"\n' +
                    "epochs: missing: expected a number above 0",
            },
        ]);
        expect(outcomes.misconfigured).toBe(true);
    });

    test("is skipped when it never had its turn", () => {
        const report = { name: "report", type: "finetune:pipeline:Report" };
        const outcomes = after("up", error("creating failed: no", urn), failed("create"));
        expect(outcomes.list([training, report]).map((one) => one.action)).toEqual(["failed", "skipped"]);
        expect(outcomes.list([training, report])[1]).toEqual({ ...report, action: "skipped", reasons: [] });
    });
});

test("errors of the stack belong to no stage; warnings and lines of progress are none", () => {
    const stack = "urn:pulumi:dev::retune::pulumi:pulumi:Stack::retune-dev";
    const note = (severity: "info" | "warning" | "debug"): EngineEvent => ({
        diagnosticEvent: { urn, message: "step 3", severity, ephemeral: true },
    });
    const outcomes = after("up", error(" a \n", stack), error("b"), note("info"), note("warning"), note("debug"));
    expect(outcomes.errors).toEqual(["a", "b"]);
    expect(outcomes.hasStageErrors()).toBe(false);
});

test("an error of a resource that is no stage is kept with its name, whatever the resource belongs to", () => {
    const of = (type: string) => `urn:pulumi:dev::retune::${type}::host-driver`;
    const outcomes = after(
        "up",
        error("creating failed: no driver", of("command:remote:Command")),
        error("gone", of("finetune:infra:Host$command:remote:Command")),
        error("creating failed: no", of("aws:ec2/vpc:Vpc$finetune:infra:Host")),
    );
    expect(outcomes.errors).toEqual(["host-driver: no driver", "host-driver: gone"]);
    expect(outcomes.hasStageErrors()).toBe(true);
});

test("the stack's outputs are the program's; the stages come in its order, and resources of others are left out", () => {
    const stackStep = { ...step("same", { new: { outputs: { report: "file:///r" } } }), type: "pulumi:pulumi:Stack" };
    const other = { ...step("create", { new: {} }), type: "aws:ec2/instance:Instance", urn: "urn::host" };
    const dataset = { name: "dataset", type: "finetune:pipeline:Dataset" };
    const outcomes = after(
        "up",
        ended("create", { new: { outputs: { action: "ran" } } }),
        {
            resOutputsEvent: {
                metadata: { ...step("create", { new: {} }), type: dataset.type, urn: urnOf("Dataset", "dataset") },
            },
        },
        { resOutputsEvent: { metadata: other } },
        { resOpFailedEvent: { metadata: other } },
        { resOutputsEvent: { metadata: stackStep } },
    );
    expect(outcomes.outputs).toEqual({ report: "file:///r" });
    expect(outcomes.list([dataset, training]).map((one) => one.name)).toEqual(["dataset", "training"]);
    expect(outcomes.list([]).map((one) => one.name)).toEqual(["training", "dataset"]);
});
