import * as crypto from "node:crypto";
import * as fs from "node:fs";
import * as path from "node:path";
import { huatuoLite } from "../../datasets/huatuo-lite";
import { bareCommands, type Sources } from "./bare";
import { sideBySide, type Benchmark } from "./benchmark";
import { finishedHome, newHome, stageOf, tinyProject, type Answer, type Home } from "./project";
import { median, ratioOf, round } from "./result";
import type { Ended, Workplace } from "./workplace";

/** What the bare commands are given as files, so our side has it in its store. */
const GIVEN = ["dataset", "model"];

export const pipeline: Benchmark = {
    name: "pipeline",
    what: "train, evaluate base and tuned, export through up, to four bare llamafactory-cli commands",
    async run(place, runs) {
        const project = await tinyProject(place);
        const { home, answer } = await finishedHome(place);
        const folder = (name: string) => path.join(home.folder, "store", stageOf(answer, name).digest);
        const instruction = "constant" in huatuoLite.instruction ? huatuoLite.instruction.constant : "";
        const sources: Sources = { dataset: folder("dataset"), model: folder("model"), instruction };
        const digests = { ours: new Set<string>(), peer: new Set<string>() };
        const stage: number[] = [];
        const train: number[] = [];
        const ours = async () => {
            const fresh = homeWith(place, home, answer);
            const ended = await project.run(fresh, "up", ["--stack", "bench"]);
            await place.endRunners(fresh.runtime);
            stage.push(trainingSeconds(ended));
            const runsOf = path.join(fresh.folder, "runs");
            digests.ours.add(
                weights(path.join(runsOf, stageOf(answer, "training").key, "out", "adapter_model.safetensors")),
            );
            digests.ours.add(weights(path.join(runsOf, stageOf(answer, "export").key, "out", "model.safetensors")));
            fs.rmSync(fresh.folder, { recursive: true });
            return ended.seconds;
        };
        const peer = async () => {
            const { folder: work, seconds } = await bareCommands(place, sources);
            train.push(seconds[0] ?? NaN);
            digests.peer.add(weights(path.join(work, "trainer", "adapter_model.safetensors")));
            digests.peer.add(weights(path.join(work, "merged", "model.safetensors")));
            fs.rmSync(work, { recursive: true });
            return seconds.reduce((sum, one) => sum + one, 0);
        };
        const measured = await sideBySide(place, runs, ours, peer);
        const ratio = ratioOf(measured.ours, measured.peer);
        // The first ones are not in the samples either.
        const [ofStage, ofTrain] = [stage.slice(1), train.slice(1)];
        const bare = median(ofTrain);
        const same = [...digests.ours].sort().join() === [...digests.peer].sort().join();
        return {
            unit: "s",
            ours: measured.ours,
            ...(measured.peer === undefined || ratio === undefined ? {} : { peer: measured.peer, ratio }),
            peerName: "llamafactory-cli, four commands",
            limits: [
                { value: ratio, relation: "≤", bound: 1, unit: "×" },
                { value: median(ofStage) - bare, relation: "≤", bound: Math.max(1, 0.03 * bare), unit: "s over train" },
            ],
            samples: { ...measured.samples, trainingStage: ofStage, bareTrain: ofTrain },
            notes: [
                `the training stage took ${round(median(ofStage))} s, bare train ${round(bare)} s; the worker was cold in every run`,
                "ours also takes the loss on the held-out rows twice, proves that the merged model answers alike, hashes and reports",
                same
                    ? "adapter and merged model are the same bytes on both sides"
                    : "adapter or merged model differ between the two sides: their options may not be the same",
            ],
        };
    },
};

/** A new home that holds the data set and the model, and nothing that was made of them. */
function homeWith(place: Workplace, home: Home, answer: Answer): Home {
    const fresh = newHome(place);
    for (const { key, digest } of GIVEN.map((name) => stageOf(answer, name))) {
        for (const one of [path.join("runs", key), path.join("store", digest), path.join("store", `${digest}.json`)]) {
            const [from, to] = [path.join(home.folder, one), path.join(fresh.folder, one)];
            fs.cpSync(from, to, { recursive: true, verbatimSymlinks: true, preserveTimestamps: true });
        }
    }
    return fresh;
}

/** From the moment at which nothing is left to wait for until the stage is done, as somebody at the terminal sees it. */
function trainingSeconds({ lines, stdout }: Ended): number {
    const at = (fits: RegExp): number => {
        const line = lines.find(({ text }) => fits.test(text));
        if (line === undefined) throw new Error(`up did not run the training:\n${stdout}`);
        return line.at;
    };
    return at(/^ {2}training +ran/) - Math.max(at(/^ {2}dataset +cached/), at(/^ {2}model +cached/));
}

function weights(file: string): string {
    return crypto.createHash("sha256").update(fs.readFileSync(file)).digest("hex");
}
