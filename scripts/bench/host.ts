import * as fs from "node:fs";
import * as path from "node:path";
import { Sshd, withoutSshd } from "../../test/host/sshd";
import { attached, firstStep } from "./attach";
import type { Benchmark } from "./benchmark";
import { newHome, tiny, tinyProject } from "./project";
import { median, round } from "./result";
import { until, type Workplace } from "./workplace";

const MINUTES = 600;

/** A bare host on loopback: an sshd whose user has nothing of Retune's, but for LLaMA-Factory's environment. */
async function bareHost(place: Workplace): Promise<{ sshd: Sshd; stack: string }> {
    if (withoutSshd !== undefined) throw new Error(withoutSshd);
    const sshd = await Sshd.start();
    place.atTheEnd(() => sshd.dispose());
    const stack = `host-${sshd.port}`;
    const project = await tinyProject(place);
    project.writeStack(stack, { ...tiny, target: { ...sshd.target, python: place.tools.python } });
    return { sshd, stack };
}

export const bareHostToFirstStep: Benchmark = {
    name: "host",
    what: "up on a bare host, over SSH on loopback: from its start to the first training step",
    async run(place, runs) {
        const project = await tinyProject(place);
        const samples: Record<string, number[]> = {};
        for (let run = 0; run < runs; run += 1) {
            const { sshd, stack } = await bareHost(place);
            const begin = Date.now() / 1000;
            const client = project.start(newHome(place), "up", "--stack", stack);
            const step = () => firstStep(sshd.at("runs"));
            const connected = until("the first connection", () => sshd.log().includes("Accepted "), MINUTES).then(
                () => Date.now() / 1000,
            );
            await Promise.race([
                until("the first step", () => step() !== undefined, MINUTES),
                client.ended.then(({ stdout, stderr }) => {
                    throw new Error(`up ended before the training began:\n${stdout}${stderr}`);
                }),
            ]);
            // What was done when is on the host.
            const times = [
                ["start and connection", await connected],
                ["host looked at, runner sent", modified(sshd.at("runner"))],
                ["base model made there", runOf(sshd, "Model").finishedAt],
                ["data sent", modified(sshd.at("store", `${runOf(sshd, "Training").dataset}.json`))],
                ["training submitted", runOf(sshd, "Training").queuedAt],
                ["first step", step() ?? NaN],
            ] as const;
            times.forEach(([name, at], index) => {
                (samples[name] ??= []).push(at - (times[index - 1]?.[1] ?? begin));
            });
            (samples["ours"] ??= []).push((step() ?? NaN) - begin);
            place.say(`  ${run + 1}/${runs}`);
            client.kill("SIGTERM");
            await client.ended;
            await sshd.dispose();
        }
        const { ours = [], ...steps } = samples;
        const notes = [
            Object.entries(steps)
                .map(([name, some]) => `${name} ${round(median(some))} s`)
                .join(", "),
        ];
        return { unit: "s", ours: median(ours), limits: [], samples, notes };
    },
};

export const attachOverSsh: Benchmark = {
    name: "attach-ssh",
    what: "up after a killed one, during a training on an SSH host: from its start to the stage's first line",
    async run(place, runs) {
        const { sshd, stack } = await bareHost(place);
        const project = await tinyProject(place);
        const followed = { project, home: newHome(place), stack, runsFolder: sshd.at("runs") };
        const measured = await attached(place, runs, followed);
        await sshd.dispose();
        return measured;
    },
};

function modified(file: string): number {
    return fs.statSync(file).mtimeMs / 1000;
}

/** The one run of a kind on a host. */
function runOf(sshd: Sshd, kind: string): { queuedAt: number; finishedAt: number; dataset: string } {
    for (const key of fs.readdirSync(sshd.at("runs"))) {
        const read = (name: string) =>
            JSON.parse(fs.readFileSync(path.join(sshd.at("runs"), key, name), "utf8")) as Record<string, unknown>;
        const job = read("job.json") as { kind: string; inputs: Record<string, string> };
        if (job.kind !== kind) continue;
        const { queuedAt, finishedAt } = read("state.json") as { queuedAt: number; finishedAt: number };
        return { queuedAt, finishedAt, dataset: job.inputs["dataset"] ?? "" };
    }
    throw new Error(`there is no run of kind ${kind} on the host`);
}
