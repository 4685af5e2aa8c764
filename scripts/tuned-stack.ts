import { targetSchema, type Target } from "../infra/target";
import type { Attended } from "../pipeline/executor/attended";
import { machineFor } from "../pipeline/executor/executors";
import { isObject, type JsonObject } from "../pipeline/identity";
import { environmentOf, programs } from "../pipeline/llamafactory/job";
import { Store } from "../pipeline/store/store";
import { UserError } from "../pipeline/user-error";
import { home } from "./locations.cjs";
import { findStack, type StackStatus } from "./stacks";

/** The models of a stack: `incumbent` is the last one that was accepted and exported, `tuned` the newest one. */
export const MODELS = ["base", "incumbent", "tuned"] as const;
export type ModelName = (typeof MODELS)[number];

/** What one must know of a stack to have its models answer. */
export interface TunedStack {
    readonly name: string;
    readonly target: Target;
    /** Where its models are, in words. */
    readonly place: string;
    /** Artifacts by the name that programs know them by. */
    readonly inputs: Readonly<Record<string, string>>;
    /** The data set's: what its questions come with. */
    readonly instruction: string;
    readonly template: string;
    readonly parameters: JsonObject;
    readonly threads: number;
}

/** A stack with the artifacts of these models, from its state and without the engine. Throws UserError. */
export function tunedStack(name: string, models: readonly ModelName[]): TunedStack {
    const stack = findStack(name);
    const training = stageOf(stack, "Training");
    const { template, enableThinking, precision, threads } = training.inputs;
    const target = targetSchema.safeParse(training.inputs["target"]).data;
    if (target === undefined || typeof template !== "string" || typeof threads !== "number")
        throw new UserError(`the training of stack ${name} did not come to its end: \`npm run up -- --stack ${name}\``);
    const inputs: Record<string, string> = {};
    if (models.some((model) => model !== "incumbent")) inputs["model"] = digestOf(stack, "Model");
    if (models.includes("tuned")) inputs["trained"] = digestOf(stack, "Training");
    if (models.includes("incumbent")) inputs["incumbent"] = digestOf(stack, "Export");
    const recipe = stageOf(stack, "Dataset").inputs["recipe"];
    const instruction = isObject(recipe) && isObject(recipe["instruction"]) ? recipe["instruction"]["constant"] : "";
    return {
        name,
        target,
        place: target.type === "ssh" ? target.host : "this machine",
        inputs,
        instruction: typeof instruction === "string" ? instruction : "",
        template,
        parameters: { template, enableThinking: enableThinking ?? null, precision: precision ?? "fp32" },
        threads,
    };
}

function stageOf(stack: StackStatus, kind: string) {
    const found = stack.stages.find(({ type }) => type === `finetune:pipeline:${kind}`);
    if (found !== undefined) return found;
    throw new UserError(
        `stack ${stack.stack} has no ${kind.toLowerCase()} yet: \`npm run up -- --stack ${stack.stack}\``,
    );
}

function digestOf(stack: StackStatus, kind: string): string {
    const { digest } = stageOf(stack, kind).outputs;
    if (typeof digest === "string") return digest;
    throw new UserError(
        `the ${kind.toLowerCase()} of stack ${stack.stack} did not come to its end: \`npm run up -- --stack ${stack.stack}\``,
    );
}

/** Starts a program on the stack's target that works for us alone, with the stack's models in its folder. */
export async function attend(
    { target, inputs, parameters, threads }: TunedStack,
    program: string,
    more: JsonObject,
    note: (text: string) => void,
): Promise<Attended> {
    const machine = await machineFor(target, new Store(home()), note);
    for (const digest of await machine.missing(Object.values(inputs))) await machine.send(digest, note);
    const job = {
        key: "",
        program,
        parameters: { ...parameters, ...more },
        inputs,
        environment: environmentOf(threads),
    };
    return machine.attend(job, programs(program));
}
