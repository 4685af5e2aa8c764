// What a chat knows of a stack, from its state alone.
import { describe, expect, test } from "vitest";
import type { JsonObject } from "../../pipeline/identity";
import type { StackStatus } from "../../scripts/stacks";
import { tunedStack } from "../../scripts/tuned-stack";

const home = { target: { type: "local" }, threads: 2 };

/** The state after an update whose model was refused: the export is that of the model before. */
const OLD = { template: "qwen3", enableThinking: false, precision: "fp32" };
const NEW = { template: "llama3", precision: "bf16" };
const instruction = (text: string): JsonObject => ({ recipe: { instruction: { constant: text } } });

function stackOf(stages: Readonly<Record<string, readonly [inputs: JsonObject, digest?: string]>>): StackStatus {
    return {
        stack: "dev",
        stages: Object.entries(stages).map(([kind, [inputs, digest]]) => ({
            name: kind.toLowerCase(),
            type: `finetune:pipeline:${kind}`,
            inputs,
            outputs: digest === undefined ? {} : { digest },
        })),
    };
}

const refused = stackOf({
    Dataset: [instruction("New."), "d2"],
    Model: [{}, "m2"],
    Training: [{ ...home, ...NEW, model: "m2" }, "t2"],
    Export: [{ ...home, ...OLD, model: "m1", trained: "t1", instruction: "Old." }, "e1"],
});

describe("the models of a stack", () => {
    test("are asked as they were trained: after a refused update the incumbent in another way than the newest", () => {
        const { models, inputs } = tunedStack(refused, ["incumbent", "tuned"]);
        expect(models).toEqual([
            { name: "incumbent", ...OLD, instruction: "Old." },
            { name: "tuned", ...NEW, enableThinking: null, instruction: "New." },
        ]);
        expect(inputs).toEqual({ incumbent: "e1", model: "m2", trained: "t2" });
        expect(tunedStack(refused, ["base"]).models).toEqual([
            { name: "base", ...NEW, enableThinking: null, instruction: "New." },
        ]);
    });

    test("are those that belong together, where an update ended between its data and its training", () => {
        const stack = stackOf({
            Dataset: [instruction("New."), "d2"],
            Model: [{}, "m2"],
            Training: [{ ...home, ...OLD, model: "m1" }, "t1"],
            Export: [{ ...home, ...OLD, model: "m1", trained: "t1", instruction: "Old." }, "e1"],
        });
        const { models, inputs } = tunedStack(stack, ["base", "tuned"]);
        expect(models.map((one) => one.instruction)).toEqual(["Old.", "Old."]);
        expect(inputs).toEqual({ model: "m1", trained: "t1" });
    });

    test("that are not there yet are named", () => {
        const first = { ...refused, stages: refused.stages.slice(0, 3) };
        expect(tunedStack(first, ["base", "tuned"]).models.map(({ name }) => name)).toEqual(["base", "tuned"]);
        expect(() => tunedStack(first, ["incumbent", "tuned"])).toThrow(
            "stack dev has no export yet: `npm run up -- --stack dev`",
        );
        const interrupted = stackOf({ Dataset: [{}], Training: [{ ...home, ...OLD, model: "m1" }] });
        expect(() => tunedStack(interrupted, ["tuned"])).toThrow(
            "the training of stack dev did not come to its end: `npm run up -- --stack dev`",
        );
    });
});
