import * as path from "node:path";
import * as fs from "node:fs";
import type { ReportData } from "../pipeline/report/data";
import type { ReportArgs } from "../pipeline/report";
import type { SessionEntry } from "../pipeline/stage";
import { readJson, Store } from "../pipeline/store/store";
import { describeReason } from "./display";
import type { StageOutcome } from "./outcome";

/**
 * Keeps the report of an update that changed something in the stack's history. One whose model was refused has none from
 * the stages, which ended before it; and that of one that went back to an earlier model tells of the earlier update: both
 * are made here. `hasModel`: the stack has one that was accepted, be it an earlier one. Answers the path of the page;
 * undefined where nothing has changed. Throws UserError as `gather` does.
 */
export async function keepReport(
    home: string,
    stages: readonly StageOutcome[],
    { hasModel, ...report }: Pick<ReportArgs, "stack" | "notice" | "language"> & { readonly hasModel: boolean },
): Promise<string | undefined> {
    const of = (name: string): StageOutcome | undefined => stages.find((one) => one.name === name);
    const page = stages.find(({ type }) => type === "finetune:pipeline:Report");
    const isRefused = stages.some(({ action }) => action === "refused");
    const isDone = ({ action }: StageOutcome): boolean => ["ran", "cached", "attached"].includes(action);
    // A service that does not come up keeps the report from its turn as well, but not the model from being there.
    const service = of("service");
    const isUnserved = service?.action === "failed" && stages.some(isDone);
    const isNew = page !== undefined && isDone(page);
    if (!isNew && !isRefused && !isUnserved) return undefined;
    const store = new Store(home);
    const { generationsOf, keepGeneration, languageOfHistory, pageOf } = await import("../pipeline/report/history");
    if (page?.action === "ran" && page.digest !== undefined) {
        const folder = store.artifactFolder(page.digest);
        const data = await readJson<ReportData>(path.join(folder, "report.json"));
        const html = await fs.promises.readFile(path.join(folder, "report.html"), "utf8");
        return data && (await keepGeneration(home, data, html));
    }
    const [dataset, model] = [of("dataset")?.key, of("model")?.key];
    const [training, evaluation] = [of("training")?.key, of("evaluation")?.key];
    if (dataset === undefined || model === undefined || training === undefined || evaluation === undefined)
        return undefined;
    const last = generationsOf(home, report.stack).at(-1);
    // Who tries again what was refused is refused again: nothing has changed.
    if (isRefused && last?.decision === "refused" && last.evaluation === evaluation.slice(0, 12))
        return pageOf(home, report.stack, last.number);
    const exported = isRefused ? undefined : of("export")?.key;
    const keys = { dataset, model, training, evaluation, ...(exported === undefined ? {} : { export: exported }) };
    const session = new Map(stages.flatMap((one) => sessionOf(one)));
    const { gather } = await import("../pipeline/report/gather");
    const { renderReport } = await import("../pipeline/report/render");
    // One that was switched off keeps its address in the events; one that failed has it where the model before serves on.
    const serves = service !== undefined && service.action !== "skipped" && service.action !== "deleted";
    const address = serves ? service.uri : undefined;
    const { languageOfLocale } = await import("../pipeline/report");
    const language = report.language ?? languageOfHistory(home, report.stack) ?? languageOfLocale();
    const data = await gather(store, { ...report, language, keys, session, service: address, hasModel });
    return keepGeneration(home, data, await renderReport(data));
}

function sessionOf({ name, action, seconds, cost, reasons, error }: StageOutcome): [string, SessionEntry][] {
    switch (action) {
        case "ran":
        case "cached":
        case "attached":
        case "refused":
            return [[name, { action, seconds: seconds ?? 0, cost, reasons: reasons.map(describeReason) }]];
        case "failed":
            return [[name, { action, seconds: 0, reasons: (error ?? "").split("\n").slice(0, 1) }]];
        case "skipped":
            return [[name, { action, seconds: 0, reasons: [] }]];
        default:
            return [];
    }
}
