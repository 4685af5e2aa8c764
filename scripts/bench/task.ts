import * as fs from "node:fs";
import * as path from "node:path";
import { convert } from "../../datasets/convert";
import { huatuoLite } from "../../datasets/huatuo-lite";
import type { Standards } from "../../datasets/quality";
import type { Split } from "../../datasets/split";
import { Store } from "../../pipeline/store/store";
import { randomBytes } from "./random";

const KEY = "0".repeat(64);

const tasks: Readonly<Record<string, (first: string, second: string) => Promise<string>>> = {
    /** Rows of a file into an empty folder. */
    "convert": (file, into) => converted(file, into, { validation: 0, test: 0, seed: 42 }),

    /** The same, divided as a stack's data set is by default. */
    "convert-and-divide": (file, into) => converted(file, into, { validation: 0.1, test: 0.05, seed: 42 }),

    /** The same, with a look at the quality of the rows. */
    "convert-and-examine": (file, into) =>
        converted(
            file,
            into,
            { validation: 0.1, test: 0.05, seed: 42 },
            { limits: { leaks: "100%" }, cutoffLength: 2048 },
        ),

    /** Puts an artifact like an exported model into the store of a home: one large file and a few small ones. */
    async "artifact"(home) {
        const run = { key: KEY, kind: "Export", stage: "export", parameters: {} };
        const { digest } = await new Store(home).make(run, (folder) => {
            fs.writeFileSync(path.join(folder, "model.safetensors"), randomBytes(240e6, 1));
            for (let file = 1; file <= 10; file += 1) {
                fs.writeFileSync(path.join(folder, `file-${file}.json`), randomBytes(1e6, 1 + file));
            }
            return Promise.resolve({});
        });
        return digest;
    },

    /** Takes it from there, verified. */
    async "find"(home) {
        const found = await new Store(home).find(KEY);
        if (found === undefined) throw new Error("the artifact is not in the store");
        return found.digest;
    },
};

async function converted(file: string, into: string, split: Split, quality?: Standards): Promise<string> {
    const examined = quality === undefined ? {} : { quality };
    const { kept } = await convert({ files: [file], recipe: huatuoLite, limit: undefined, split, into, ...examined });
    return String(kept);
}

const [name = "", first = "", second = ""] = process.argv.slice(2);
const task = tasks[name];
if (task === undefined) throw new Error(`there is no task ${name}`);
void task(first, second).then((answer) => {
    process.stdout.write(`${answer}\n`);
});
