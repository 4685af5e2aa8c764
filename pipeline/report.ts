import * as fs from "node:fs";
import * as path from "node:path";
import { z } from "zod";
import { parseEvents } from "./executor/executor";
import { digest, jsonObject, text } from "./fields";
import type { JsonObject } from "./identity";
import type { ModelEvaluation, ReportData, ReportStage } from "./report/data";
import type { ClientContext, Stage } from "./stage";
import { readJson, type Metrics, type Result, type Store } from "./store/store";
import { UserError } from "./user-error";

const names = ["dataset", "model", "training", "evaluation", "export"] as const;
type Name = (typeof names)[number];

const perStage = <Field extends z.ZodType>(field: Field) =>
    z.strictObject({ dataset: field, model: field, training: field, evaluation: field, export: field });

const fields = {
    stack: text("the name of the stack"),
    notice: z.string(),
    digests: perStage(digest("the digest of a stage")),
    /** Where the store has what the digests were made by. */
    keys: perStage(digest("the key of a stage")),
    tools: jsonObject().optional(),
};

type Inputs = z.infer<z.ZodObject<typeof fields>>;

/** What a program gives; the rest is found out. */
export type ReportArgs = Omit<Inputs, "tools">;

/** One self-contained HTML page about what the stages before it made. */
export const report: Stage<Inputs> = {
    kind: "Report",
    fields,
    transport: ["keys"],
    tools: () => ({ contract: 2 }),

    work({ stack, notice, keys }) {
        return {
            on: "client",
            inPreview: "unknown",
            async run(context) {
                const { renderReport } = await import("./report/render");
                const data = await gather(context, stack, notice, keys);
                const page = path.join(context.folder, "report.html");
                await fs.promises.writeFile(page, await renderReport(data));
                return { bytes: (await fs.promises.stat(page)).size };
            },
        };
    },

    effort: () => ({ amount: 1, like: {} }),

    facts: () => ({}),
};

async function gather(
    { store, session }: ClientContext,
    stack: string,
    notice: string,
    keys: Record<Name, string>,
): Promise<ReportData> {
    const resultOf = async (name: Name): Promise<[Name, Result]> => {
        const result = await store.result(keys[name]);
        if (result !== undefined) return [name, result];
        throw new UserError(
            `the run of ${name} is gone from the store: \`npm run refresh\`, then \`npm run up\` repair it`,
        );
    };
    const results = Object.fromEntries(await Promise.all(names.map(resultOf))) as Record<Name, Result>;
    for (const name of ["evaluation", "export"] as const) {
        const { digest } = results[name];
        const damage = await store.flaw(results[name]);
        if (damage === undefined) continue;
        const what = `the artifact of ${name} (${digest.slice(0, 12)}) is not as it was made, ${damage}`;
        throw new UserError(`${what}: \`npm run refresh\`, then \`npm run up\` bring it back`);
    }
    const artifact = (name: Name, file: string) => path.join(store.artifactFolder(results[name].digest), file);

    const stages = names.map((name): ReportStage => {
        const { key, kind, digest, seconds, finishedAt, host } = results[name];
        const done = session.get(name) ?? { action: "unchanged", seconds: 0, reasons: [] };
        const made = { run: key.slice(0, 12), digest, finishedAt: new Date(finishedAt * 1000), host };
        return { name, kind, ...made, ...done, seconds: done.seconds || seconds };
    });
    const jobOf = async (name: Name): Promise<JsonObject> => (await store.job(keys[name]))?.parameters ?? {};
    const { instruction, enableThinking } = await jobOf("evaluation");
    const chat = {
        instruction: typeof instruction === "string" ? instruction : "",
        ...(typeof enableThinking === "boolean" ? { enableThinking } : {}),
    };
    const conversion = results.dataset.metrics as unknown as ReportData["dataset"];
    const evaluation = await readJson<{ base: ModelEvaluation; tuned: ModelEvaluation }>(
        artifact("evaluation", "evaluation.json"),
    );
    if (evaluation === undefined)
        throw new UserError("the evaluation's artifact is gone; `npm run refresh` finds what else is");
    const exported = results.export.metrics as unknown as Omit<ReportData["exported"], "folder" | "chat">;
    return {
        stack,
        at: new Date(),
        notice,
        stages,
        settings: await jobOf("training"),
        ...(await curves(store, keys.training)),
        lost: lostWork(results.training.metrics),
        dataset: conversion,
        base: evaluation.base,
        tuned: evaluation.tuned,
        exported: { ...exported, chat, folder: store.artifactFolder(results.export.digest) },
        provenance: (await readJson<JsonObject>(artifact("export", "retune.json"))) ?? {},
    };
}

function lostWork({ lostSteps, lostSeconds }: Metrics) {
    const number = (value: unknown) => (typeof value === "number" ? value : 0);
    return { steps: number(lostSteps), seconds: number(lostSeconds) };
}

/** The losses of a training. A resumed run has told some steps twice: the later line is the one that counts. */
async function curves(store: Store, key: string): Promise<Pick<ReportData, "losses" | "evalLosses">> {
    const file = path.join(store.runFolder(key), "events.jsonl");
    const losses = new Map<number, ReportData["losses"][number]>();
    const evalLosses = new Map<number, ReportData["evalLosses"][number]>();
    for (const event of parseEvents(await fs.promises.readFile(file, "utf8").catch(() => ""))) {
        if (event.type === "progress" && event.loss !== undefined) {
            const { step, loss, learningRate } = event;
            losses.set(step, { step, loss, learningRate });
        } else if (event.type === "evaluated") {
            evalLosses.set(event.step, { step: event.step, loss: event.evalLoss });
        }
    }
    return { losses: [...losses.values()], evalLosses: [...evalLosses.values()] };
}
