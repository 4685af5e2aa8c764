import { z } from "zod";
import { targetSchema, type Target } from "../infra/target";
import type { Attended } from "../pipeline/executor/attended";
import { machineFor } from "../pipeline/executor/executors";
import { isObject, type Json, type JsonObject } from "../pipeline/identity";
import { environmentOf, programs } from "../pipeline/llamafactory/job";
import { Store } from "../pipeline/store/store";
import { UserError } from "../pipeline/user-error";
import { home } from "./locations.cjs";
import type { StackStatus } from "./stacks";

/** The models of a stack: `incumbent` is the last one that was accepted and exported, `tuned` the newest one. */
export const MODELS = ["base", "incumbent", "tuned"] as const;
export type ModelName = (typeof MODELS)[number];

const STAGE = "finetune:pipeline:";

const askedSchema = z.object({
    template: z.string(),
    enableThinking: z.boolean().nullable().default(null),
    precision: z.string(),
    /** What its questions come with. */
    instruction: z.string(),
});

/** A model and how it is asked: as it was trained, whatever the next one is. */
export type AskedModel = z.infer<typeof askedSchema> & { readonly name: ModelName };

/** What one must know of a stack to have its models answer. */
export interface TunedStack {
    readonly name: string;
    readonly target: Target;
    /** Where its models are, in words. */
    readonly place: string;
    readonly models: readonly AskedModel[];
    /** Artifacts by the name that programs know them by. */
    readonly inputs: Readonly<Record<string, string>>;
    readonly threads: number;
}

/** A stack with the artifacts of these models, from its state and without the engine. Throws UserError. */
export function tunedStack(stack: StackStatus, models: readonly ModelName[]): TunedStack {
    const training = stageOf(stack, "Training");
    const { model, threads } = training.inputs;
    const target = targetSchema.safeParse(training.inputs["target"]).data;
    if (target === undefined || typeof model !== "string" || typeof threads !== "number")
        throw unfinished(stack, "Training");
    const inputs: Record<string, string> = {};
    // Its own base: an update that ended before its training has left another one in the stack.
    if (models.some((one) => one !== "incumbent")) inputs["model"] = model;
    if (models.includes("tuned")) inputs["trained"] = digestOf(stack, "Training");
    if (models.includes("incumbent")) inputs["incumbent"] = digestOf(stack, "Export");
    return {
        name: stack.stack,
        target,
        place: target.type === "ssh" ? target.host : "this machine",
        models: models.map((name) => ({ name, ...howAsked(stack, name) })),
        inputs,
        threads,
    };
}

function howAsked(stack: StackStatus, model: ModelName): z.infer<typeof askedSchema> {
    const kind = model === "incumbent" ? "Export" : "Training";
    const { inputs } = stageOf(stack, kind);
    const instruction = kind === "Export" ? inputs["instruction"] : instructionOf(stack);
    const asked = askedSchema.safeParse({ ...inputs, instruction }).data;
    if (asked === undefined) throw unfinished(stack, kind);
    return asked;
}

/** Of the newest training. Of the one that is exported the export knows, whatever the data set has become meanwhile. */
function instructionOf(stack: StackStatus): Json | undefined {
    const exported = stack.stages.find(({ type }) => type === `${STAGE}Export`)?.inputs;
    if (exported !== undefined && exported["trained"] === stageOf(stack, "Training").outputs["digest"])
        return exported["instruction"];
    const recipe = stageOf(stack, "Dataset").inputs["recipe"];
    return isObject(recipe) && isObject(recipe["instruction"]) ? (recipe["instruction"]["constant"] ?? "") : "";
}

function stageOf(stack: StackStatus, kind: string) {
    const found = stack.stages.find(({ type }) => type === `${STAGE}${kind}`);
    if (found !== undefined) return found;
    throw new UserError(
        `stack ${stack.stack} has no ${kind.toLowerCase()} yet: \`npm run up -- --stack ${stack.stack}\``,
    );
}

function digestOf(stack: StackStatus, kind: string): string {
    const { digest } = stageOf(stack, kind).outputs;
    if (typeof digest === "string") return digest;
    throw unfinished(stack, kind);
}

function unfinished({ stack }: StackStatus, kind: string): UserError {
    return new UserError(
        `the ${kind.toLowerCase()} of stack ${stack} did not come to its end: \`npm run up -- --stack ${stack}\``,
    );
}

/** Starts a program on the stack's target that works for us alone, with the stack's models in its folder. */
export async function attend(
    { target, inputs, threads }: TunedStack,
    program: string,
    parameters: JsonObject,
    note: (text: string) => void,
): Promise<Attended> {
    const machine = await machineFor(target, new Store(home()), note);
    for (const digest of await machine.missing(Object.values(inputs))) await machine.send(digest, note);
    const job = { key: "", program, parameters, inputs, environment: environmentOf(threads) };
    return machine.attend(job, programs(program));
}
