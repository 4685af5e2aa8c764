import { expect, test } from "vitest";
import { evaluation } from "../../pipeline/evaluation";
import { gateField, judge } from "../../pipeline/gate";
import { sha256, type JsonObject } from "../../pipeline/identity";
import type { ModelEvaluation } from "../../pipeline/report/data";

type Inputs = Parameters<typeof evaluation.work>[0];

const inputs = (trained: string) =>
    ({
        ...{ model: sha256("base"), trained: sha256(trained), template: "qwen3", instruction: "Answer." },
        ...{ precision: "fp32", threads: 2, gate: gateField.parse(undefined) },
    }) as unknown as Inputs;

/** What the stage's state holds of a model that was accepted. */
function stateAfter(trained: string, before?: JsonObject): JsonObject {
    const recalled = evaluation.recalls?.(inputs(trained), before) ?? {};
    return evaluation.declares?.({ ...inputs(trained), ...recalled }) ?? {};
}

function model(loss: number): ModelEvaluation {
    const metrics = { evalLoss: loss, bleu4: null, rouge1: null, rouge2: null, rougeL: null, rows: 1 };
    return { metrics, losses: [{ question: "A cold?", loss, tokens: 10 }], cases: [], prompts: [] };
}

test("a destroyed stack has no incumbent: the next model needs to beat the base alone, and the verdict says so", () => {
    const state = stateAfter("better", stateAfter("first"));
    expect(evaluation.recalls?.(inputs("worse"), state)).toMatchObject({ incumbent: { trained: sha256("better") } });
    // A destroy takes the state away.
    const forgotten = evaluation.recalls?.(inputs("worse"), undefined);
    expect(forgotten).not.toHaveProperty("incumbent");
    expect(forgotten).toMatchObject({ accepted: [{ model: { trained: sha256("worse") } }] });

    const { gate } = inputs("worse");
    const [base, tuned] = [model(3), model(2)];
    expect(judge(gate, { base, tuned, incumbent: model(1) }, sha256("worse")).decision).toBe("refused");
    const verdict = judge(gate, { base, tuned, incumbent: undefined }, sha256("worse"));
    expect([verdict.decision, ...verdict.conditions.map(({ text }) => text)]).toEqual([
        "accepted",
        "evalLoss 2.0000 against 3.0000 of the base model: better by 1.0000",
        "evalLoss 2.0000: there is no incumbent, as after a destroy or at first",
    ]);
});
