import { sideBySide, type Benchmark } from "./benchmark";
import { dvcPipeline, type Dvc } from "./dvc";
import { finishedHome, tinyProject } from "./project";
import { ratioOf, type Measured } from "./result";
import type { Workplace } from "./workplace";

const FAIR =
    "DVC with its bytecode, as pip leaves it, and without looking for updates; its stages have small files only";

/** Commands that find nothing to do, as whole processes, beside what DVC takes for the same answer. */
async function idle(
    place: Workplace,
    runs: number,
    command: { readonly ours: "up" | "preview" | "status"; readonly dvc: "repro" | "status"; readonly budget: number },
): Promise<Measured> {
    const project = await tinyProject(place);
    const { home } = await finishedHome(place);
    const found = await dvcPipeline(place);
    const dvc: Dvc | undefined = "missing" in found ? undefined : found;
    const args = command.ours === "status" ? [] : ["--stack", "bench"];
    const expected = command.ours === "status" ? "stack bench" : "Nothing to do: 6 stages are unchanged";
    const ours = async (): Promise<number> => {
        const { seconds, stdout } = await project.run(home, command.ours, args);
        if (!stdout.includes(expected)) throw new Error(`${command.ours} had something to do:\n${stdout}`);
        return seconds;
    };
    const measured = await sideBySide(place, runs, ours, dvc?.[command.dvc]);
    const ratio = ratioOf(measured.ours, measured.peer);
    return {
        unit: "s",
        ours: measured.ours,
        ...(measured.peer === undefined || ratio === undefined ? {} : { peer: measured.peer, ratio }),
        peerName: `dvc ${command.dvc}`,
        limits: [{ value: ratio, relation: "≤", bound: command.budget, unit: "×" }],
        samples: measured.samples,
        notes: ["missing" in found ? found.missing : FAIR],
    };
}

export const noopUp: Benchmark = {
    name: "noop-up",
    what: "up with nothing to do, 6 stages, whole process, to `dvc repro`",
    run: (place, runs) => idle(place, runs, { ours: "up", dvc: "repro", budget: 0.6 }),
};

export const noopPreview: Benchmark = {
    name: "noop-preview",
    what: "preview with nothing to do, 6 stages, whole process, to `dvc repro`",
    run: (place, runs) => idle(place, runs, { ours: "preview", dvc: "repro", budget: 0.6 }),
};

export const status: Benchmark = {
    name: "status",
    what: "status without the engine, to `dvc status`",
    run: (place, runs) => idle(place, runs, { ours: "status", dvc: "status", budget: 0.2 }),
};
