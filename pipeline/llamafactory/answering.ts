import { z } from "zod";
import { digest, flag, integer, list, oneOf, text } from "../fields";

export const PRECISIONS = ["fp32", "bf16", "fp16"] as const;

/** How a model is asked: where training, evaluation and export differ in it, the model answers beside the point. */
export const chatFields = {
    template: text("the name of a template"),
    enableThinking: flag().optional(),
};

/** What a stage needs that has base and tuned model answer questions. */
export const answeringFields = {
    ...chatFields,
    model: digest("the digest of a model"),
    trained: digest("the digest of a training"),
    dataset: digest("the digest of a data set"),
    /** The data set's instruction: a question is put as its rows are. */
    instruction: z.string(),
    prompts: list(text("a question"), "a list of one or more questions"),
    /** Tokens of an answer. */
    maxNewTokens: integer("a whole number from 1", { from: 1 }),
    precision: oneOf(PRECISIONS),
    cutoffLength: integer("a whole number from 16", { from: 16 }),
    threads: integer("a whole number from 1", { from: 1 }),
};
