import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { sha256, type JsonObject } from "../../pipeline/identity";
import { Store } from "../../pipeline/store/store";
import { pendingUploads } from "../../pipeline/store/uploads";
import { resultsForNewMirror } from "../../scripts/new-mirror";

const home = fs.mkdtempSync(path.join(os.tmpdir(), "retune-mirror-"));
const store = new Store(home);
const BEGIN = 1_000_000; // milliseconds
const [trained, answered, verdict, stayed, fresh] = ["trained", "answered", "verdict", "stayed", "fresh"].map(
    sha256,
) as [string, string, string, string, string];

function write(key: string, job: JsonObject, result: JsonObject = {}): void {
    const folder = store.runFolder(key);
    fs.mkdirSync(folder, { recursive: true });
    fs.writeFileSync(path.join(folder, "job.json"), JSON.stringify(job));
    const digest = sha256("");
    const made = { key, digest, files: [], metrics: {}, finishedAt: 900, ...result };
    fs.writeFileSync(path.join(folder, "result.json"), JSON.stringify(made));
}

beforeAll(() => {
    write(trained, { program: "train.py" });
    write(answered, { program: "evaluate.py" });
    write(fresh, { program: "evaluate.py" }, { finishedAt: 1001 });
    write(stayed, { program: "model.py" }, { at: "i-1" });
    write(verdict, { before: [answered, fresh] });
});
afterAll(() => {
    fs.rmSync(home, { recursive: true });
});

const state = (mirror: string | undefined, key: string) => ({
    inputs: { target: { type: "local", ...(mirror === undefined ? {} : { mirror }) } },
    outputs: { key },
});
const found = (op: string, key: string, old: string | undefined, now: string | undefined) => {
    const step = { op, urn: "", type: "finetune:pipeline:Training", old: state(old, key), new: state(now, key) };
    return resultsForNewMirror(home, { ...step, detailedDiff: null }, BEGIN);
};

test.each<[what: string, op: string, key: string, old: string | undefined, now: string | undefined, keys: string[]]>([
    ["what an unchanged stage has made there", "same", trained, "s3:a", "s3:b", [trained]],
    ["also where there was no mirror", "same", trained, undefined, "s3:b", [trained]],
    ["nothing where the mirror is the same", "same", trained, "s3:b", "s3:b", []],
    ["nothing where there is none any more", "same", trained, "s3:a", undefined, []],
    ["nothing of a stage that was called, which has sent its own", "update", trained, "s3:a", "s3:b", []],
    ["nothing that stays on its target", "same", stayed, "s3:a", "s3:b", []],
    [
        "for a verdict the runs that it is made of, as far as they are of earlier updates",
        "update",
        verdict,
        "s3:a",
        "s3:b",
        [answered],
    ],
    ["nothing of a stage that was deleted", "delete", trained, "s3:a", "s3:b", []],
])("a mirror that is new to a stage lacks %s", async (_what, op, key, old, now, keys) => {
    const uploads = keys.map((one) => ({ key: one, remote: "s3:b" }));
    expect(await found(op, key, old, now)).toEqual(uploads);
    expect(pendingUploads(home)).toEqual(uploads);
    fs.rmSync(path.join(home, "uploads"), { recursive: true, force: true });
});
