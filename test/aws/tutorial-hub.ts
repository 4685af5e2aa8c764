import { execFile } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { promisify } from "node:util";
import { project } from "../../scripts/locations.cjs";
import { Hub } from "../engine/hub";
import { python } from "../engine/rig";

/** Of the data set; the real file has some 178,000. */
const ROWS = 40;

/** The stand-in of Hugging Face with what the tutorial takes from there: under the real names, in the real formats, but small. */
export async function tutorialHub(): Promise<Hub> {
    const hub = new Hub();
    hub.add("Qwen/Qwen3-0.6B", await tinyQwen3());
    const sample = fs.readFileSync(path.join(project, "datasets", "samples", "huatuo-lite.jsonl"), "utf8");
    const rows = sample.split("\n").slice(0, ROWS).join("\n");
    hub.add("FreedomIntelligence/Huatuo26M-Lite", [["format_data.jsonl", Buffer.from(`${rows}\n`)]]);
    await hub.listen();
    return hub;
}

/** The files of a random Qwen3 of two layers with a tokenizer of its own, as `model.source.random` makes them. */
async function tinyQwen3(): Promise<[name: string, content: Buffer][]> {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), "retune-qwen3-"));
    try {
        const work = path.join(folder, "work");
        fs.mkdirSync(path.join(work, "out"), { recursive: true });
        const job = { parameters: { source: { random: { seed: 1 } } } };
        fs.writeFileSync(path.join(folder, "job.json"), JSON.stringify(job));
        const program = path.join(project, "pipeline", "llamafactory", "programs", "model.py");
        await promisify(execFile)(python, [program], { cwd: work });
        const names = fs.readdirSync(path.join(work, "out"));
        return names.map((name) => [name, fs.readFileSync(path.join(work, "out", name))]);
    } finally {
        fs.rmSync(folder, { recursive: true });
    }
}
