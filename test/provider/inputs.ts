import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { sha256, type JsonObject } from "../../pipeline/identity";
import type { Rig } from "./rig";

/** As the engine sends a secret (engine-trials.md, section 4). */
export const secret = (value: string): JsonObject => ({
    "4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270",
    value,
});

/** What a program gives for a data set of twenty rows, which lie in the rig's folder. */
export function datasetOf(rig: Rig, rows = 20): JsonObject & { readonly source: { readonly file: string } } {
    const file = path.join(rig.folder, "data", "rows.jsonl");
    mkdirSync(path.dirname(file), { recursive: true });
    const lines = Array.from({ length: rows }, (_, i) => JSON.stringify({ q: `question ${i}`, a: `answer ${i}` }));
    writeFileSync(file, `${lines.join("\n")}\n`);
    const recipe = { name: "test", instruction: { constant: "Answer." }, columns: { input: "q", output: "a" } };
    return { recipe, source: { file }, split: { validation: 0.2, test: 0.1 } };
}

/** What a program gives for a training. */
export const training: JsonObject = {
    target: { type: "local" },
    model: sha256("a model"),
    dataset: sha256("a data set"),
    template: "smollm2",
    learningRate: 0.0005,
};

/** What a program gives for a model of random weights. */
export const model: JsonObject = { target: { type: "local" }, source: { random: { seed: 1 } } };
