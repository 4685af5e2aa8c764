import { isObject } from "../pipeline/identity";
import { Store } from "../pipeline/store/store";
import { noteUpload, type Upload } from "../pipeline/store/uploads";
import type { StepMetadata } from "./events";

/**
 * What a stage's mirror lacks because it is another one than before, such as a bucket that was made again: the results from
 * before this update, which began at `begin` (milliseconds since 1970). The engine calls no stage that is as it was. They
 * are noted as uploads, so that whoever updates next sends what this client cannot.
 */
export async function resultsForNewMirror(home: string, step: StepMetadata, begin: number): Promise<Upload[]> {
    const { op, type, old, new: now } = step;
    const remote = mirrorOf(now);
    const key = now?.outputs["key"];
    const isMade = ["same", "create", "update"].includes(op) && type.startsWith("finetune:pipeline:");
    if (!isMade || remote === undefined || remote === mirrorOf(old) || typeof key !== "string") return [];
    const store = new Store(home);
    const job = await store.job(key);
    // A mirror has what ran on a target: the stage itself, which has sent its result if it was called, or what it is made of.
    const own = job?.program !== undefined && op === "same" ? [key] : [];
    const uploads: Upload[] = [];
    for (const one of [...own, ...(job?.before ?? [])]) {
        const result = await store.result(one);
        if (result === undefined || result.at !== undefined || result.finishedAt * 1000 >= begin) continue;
        const upload = { key: one, remote };
        await noteUpload(home, upload);
        uploads.push(upload);
    }
    return uploads;
}

function mirrorOf(state: StepMetadata["new"]): string | undefined {
    const target = state?.inputs["target"];
    const mirror = isObject(target) ? target["mirror"] : undefined;
    return typeof mirror === "string" ? mirror : undefined;
}
