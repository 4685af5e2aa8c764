import type { Benchmark } from "./benchmark";
import { newHome, ProjectCopy } from "./project";
import { growth, median, round } from "./result";

const SIZES = [10, 100, 1000];

/** As many data sets as the stack's name says. They differ in a field of their keys, so that each is a stage of its own. */
const PROGRAM = `
import * as path from "node:path";
import { getStack } from "@pulumi/pulumi/metadata.js";
import { huatuoLite } from "./datasets/huatuo-lite";
import { Dataset } from "./pipeline/resources";

Error.stackTraceLimit = 0;
const count = Number(getStack().split("-")[1]);
const source = { file: path.join(__dirname, "rows.jsonl") };
const split = { validation: 0, test: 0, seed: 42 };
for (let number = 1; number <= count; number++) {
    new Dataset(\`stage-\${number}\`, { recipe: huatuoLite, source, limit: number, split });
}
`;

export const stages: Benchmark = {
    name: "stages",
    what: `up with nothing to do, ${SIZES.join(", ")} stages: what a stage costs`,
    async run(place, runs) {
        const project = new ProjectCopy(place);
        const home = newHome(place);
        project.write("index.ts", PROGRAM);
        project.writeRows(4);
        const up = async (size: number, env: NodeJS.ProcessEnv = {}) => {
            const ended = await project.run(home, "up", ["--stack", `stages-${size}`], env);
            return {
                seconds: ended.seconds,
                idle: ended.stdout.includes(`Nothing to do: ${size} stages are unchanged`),
            };
        };
        const samples = new Map<number, number[]>();
        for (const size of SIZES) {
            place.say(`  creating ${size} stages`);
            project.writeStack(`stages-${size}`, {});
            // The whole state is written twice a stage otherwise, which is not what is measured here.
            await up(size, { PULUMI_SKIP_CHECKPOINTS: "true" });
            samples.set(size, []);
        }
        for (let run = 0; run < runs; run += 1) {
            for (const size of SIZES) {
                const { seconds, idle } = await up(size);
                if (!idle) throw new Error(`up of ${size} unchanged stages had something to do`);
                samples.get(size)?.push(seconds);
            }
            place.say(`  ${run + 1}/${runs}`);
        }
        const points = [...samples].map(([size, seconds]) => ({ size, seconds: median(seconds) }));
        const { slope, steeper } = growth(points);
        return {
            unit: "ms a stage",
            ours: slope * 1000,
            limits: [
                { value: slope * 1000, relation: "≤", bound: 4.5, unit: "ms a stage" },
                { value: steeper, relation: "≤", bound: 2, unit: "× steeper (linear)" },
            ],
            samples: Object.fromEntries([...samples].map(([size, seconds]) => [`${size} stages`, seconds])),
            notes: [points.map(({ size, seconds }) => `${size} stages ${round(seconds)} s`).join(", ")],
        };
    },
};
