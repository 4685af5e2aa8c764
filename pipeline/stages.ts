import { dataset } from "./dataset";
import { evaluation } from "./evaluation";
import { exported } from "./export";
import { model } from "./model";
import { report } from "./report";
import type { Stage } from "./stage";
import { training } from "./training";

/** Every stage, by the last part of its type token: `finetune:pipeline:Training`. */
export const stages: ReadonlyMap<string, Stage> = new Map(
    [dataset, model, training, evaluation, exported, report].map((stage) => [stage.kind, stage as Stage]),
);
