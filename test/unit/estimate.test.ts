import { execFileSync } from "node:child_process";
import * as path from "node:path";
import { describe, expect, test } from "vitest";
import { project } from "../../scripts/locations.cjs";

interface Work {
    readonly model: { parameters: number; hiddenSize: number; layers: number; vocabulary: number };
    readonly method: "lora" | "qlora" | "full" | "freeze";
    readonly precision: "fp32" | "bf16" | "fp16";
    readonly batchSize: number;
    readonly tokens: number;
    readonly loraRank: number;
    readonly trainedLayers: number;
    readonly gradientCheckpointing: boolean;
}

interface Machine {
    readonly gpu: { name: string; totalMiB: number; freeMiB: number } | null;
    readonly memoryMiB: number;
    readonly swapMiB: number;
    readonly diskFreeMiB: number;
    readonly home: string;
}

const MARGIN = 1.3;
const programs = path.join(project, "pipeline", "llamafactory", "programs");

/** What a function of programs/estimate.py answers. */
function ask(call: string, ...given: readonly unknown[]): unknown {
    const program = `import json, sys, estimate; print(json.dumps(estimate.${call}(*json.load(sys.stdin))))`;
    const answer = execFileSync("python3", ["-c", program], {
        input: JSON.stringify(given),
        env: { ...process.env, PYTHONPATH: programs, PYTHONDONTWRITEBYTECODE: "1" },
        encoding: "utf8",
    });
    return JSON.parse(answer) as unknown;
}

const estimate = (work: Work) => ask("estimate", work) as { trainingMiB: number; mergeMiB: number; diskMiB: number };
const trainingBytes = (work: Work) => ask("training_bytes", work) as number;
const shortages = (work: Work, machine: Machine) => ask("shortages", work, machine);

/** SmolLM2-135M-Instruct. */
const small: Work = {
    model: { parameters: 134.5e6, hiddenSize: 576, layers: 30, vocabulary: 49_152 },
    method: "lora",
    precision: "bf16",
    batchSize: 4,
    tokens: 84,
    loraRank: 8,
    trainedLayers: 2,
    gradientCheckpointing: false,
};

const sized = (billions: number, changes: Partial<Work> = {}): Work => ({
    ...small,
    model: { parameters: billions * 1e9, hiddenSize: 4096, layers: 32, vocabulary: 151_936 },
    gradientCheckpointing: true,
    batchSize: 1,
    tokens: 512,
    ...changes,
});

describe("memory of a training", () => {
    // Resident memory of LLaMA-Factory on a CPU, all linear layers; rows of 84 tokens in English, 167 in Chinese.
    test.each<[string, Partial<Work>, number]>([
        ["bf16", {}, 2.1],
        ["fp32", { precision: "fp32" }, 2.7],
        ["longer rows", { tokens: 167 }, 2.9],
        ["longer rows with gradient checkpointing", { tokens: 167, gradientCheckpointing: true }, 2.0],
        ["a batch of 16", { tokens: 167, batchSize: 16 }, 8],
        ["4 bits", { method: "qlora" }, 2.3],
    ])("%s: within a fifth of what was measured, and below it by no more than the margin", (_, changes, measured) => {
        const bytes = trainingBytes({ ...small, ...changes });
        expect(bytes / (measured * 1e9)).toBeGreaterThan(0.8);
        expect(bytes / (measured * 1e9)).toBeLessThan(1.2);
        expect(bytes * MARGIN).toBeGreaterThan(measured * 1e9);
    });

    test.each([
        ["lora", 7, 16],
        ["lora", 14, 32],
        ["lora", 30, 64],
        ["lora", 70, 160],
        ["qlora", 7, 6],
        ["qlora", 14, 12],
        ["qlora", 30, 24],
        ["qlora", 70, 48],
    ] as const)(
        "%s of %d billion parameters is no less than LLaMA-Factory says, with the margin",
        (method, size, gigabytes) => {
            const { trainingMiB } = estimate(sized(size, { method }));
            expect(trainingMiB).toBeGreaterThanOrEqual(Math.floor((gigabytes * 1e9 * MARGIN) / 2 ** 20));
            expect(trainingMiB).toBeLessThan((gigabytes * 1e9 * MARGIN * 1.6) / 2 ** 20);
        },
    );

    test("full training in mixed precision takes 18 bytes a parameter and more", () => {
        const { trainingMiB } = estimate(sized(1, { method: "full" }));
        expect(trainingMiB).toBeGreaterThan((18e9 * MARGIN) / 2 ** 20);
        expect(trainingMiB).toBeLessThan((22e9 * MARGIN) / 2 ** 20);
    });

    test("each method needs less than the one that trains more", () => {
        const of = (method: Work["method"]) => trainingBytes(sized(7, { method }));
        const sizes = [of("qlora"), of("lora"), of("freeze"), of("full")];
        expect(sizes).toEqual(sizes.toSorted((a, b) => a - b));
    });

    test("a vocabulary of 151,936 costs 1.16 GiB for each 2,048 tokens, three times", () => {
        const large = sized(1, { tokens: 2048 });
        const none = { ...large, model: { ...large.model, vocabulary: 0 } };
        expect((trainingBytes(large) - trainingBytes(none)) / 2 ** 30).toBeCloseTo(3 * 1.16, 1);
    });

    test("a model beyond the table goes on as the table ends", () => {
        const { trainingMiB } = estimate(sized(140));
        expect(trainingMiB).toBeGreaterThan(estimate(sized(70)).trainingMiB * 1.9);
    });
});

test("the 0.6B model of the tutorial with 4 bits fits every card of 16 GiB", () => {
    const model = { parameters: 0.6e9, hiddenSize: 1024, layers: 28, vocabulary: 151_936 };
    const work: Work = { ...small, model, method: "qlora", tokens: 512, gradientCheckpointing: true };
    expect(estimate(work).trainingMiB).toBeLessThan(16_384 * 0.8);
});

test("merging 14 billion parameters does not fit a host of 16 GiB", () => {
    const { mergeMiB } = estimate(sized(14));
    expect(mergeMiB).toBeGreaterThan(28e9 / 2 ** 20);
    expect(mergeMiB).toBeLessThan(40_000);
});

test("the disk takes the merged model, and for an adapter hardly more", () => {
    const lora = estimate(sized(7)).diskMiB;
    expect(lora).toBeGreaterThan(14e9 / 2 ** 20 + 1024);
    expect(lora).toBeLessThan(14e9 / 2 ** 20 + 3072);
});

test("where all weights are trained it takes three checkpoints with their moments, the result and the merged model", () => {
    expect(estimate(sized(1, { method: "full" })).diskMiB).toBe(Math.ceil((3 * 10e9 + 2 * 2e9) / 2 ** 20 + 1024));
});

describe("a machine that lacks something", () => {
    const large: Machine = {
        gpu: { name: "NVIDIA H100", totalMiB: 81_559, freeMiB: 81_000 },
        memoryMiB: 128_000,
        swapMiB: 0,
        diskFreeMiB: 200_000,
        home: "/home/ubuntu/.retune",
    };
    const work = sized(7, { batchSize: 2 });

    test("enough of everything lacks nothing", () => {
        expect(shortages(work, large)).toEqual([]);
    });

    test("everything too small is said at once, with what is there, what is needed and what to do", () => {
        const gpu = { name: "Tesla T4", totalMiB: 15_360, freeMiB: 15_000 };
        const tiny = { ...large, gpu, memoryMiB: 15_800, swapMiB: 1024, diskFreeMiB: 10_240 };
        expect(shortages(work, tiny)).toEqual([
            "GPU memory: the Tesla T4 has 14.6 GiB free of 15.0 GiB, and the training needs about 21.7 GiB: smaller training.batchSize (2), smaller training.cutoffLength (the longest row has 512 tokens), training.method qlora instead of lora, or a larger GPU",
            "memory for the merge: the machine has 15.4 GiB and 1.0 GiB of swap, and merging takes 18.2 GiB of the host's memory: a machine with more, or more swap",
            "disk: /home/ubuntu/.retune has 10.0 GiB left, and checkpoints, the result and the merged model take 14.8 GiB: make room (`npm run gc`), or move it to a larger disk",
        ]);
    });

    test("what others have taken of the GPU is not there", () => {
        const gpu = { name: "NVIDIA H100", totalMiB: 81_559, freeMiB: 12_000 };
        expect(shortages(work, { ...large, gpu })).toEqual([expect.stringContaining("has 11.7 GiB free of 79.6 GiB")]);
    });

    test("swap counts for the merge", () => {
        expect(shortages(work, { ...large, memoryMiB: 15_800, swapMiB: 8000 })).toEqual([]);
    });

    test("without a GPU the machine's memory counts, and only what is left to make smaller is advised", () => {
        const least = sized(70, { method: "qlora" });
        expect(shortages(least, { ...large, gpu: null, memoryMiB: 32_000, swapMiB: 200_000 })).toEqual([
            "memory: the machine has 31.2 GiB, and the training needs about 58.1 GiB: smaller training.cutoffLength (the longest row has 512 tokens), or a machine with more",
        ]);
    });

    test("gradient checkpointing that is off is named", () => {
        const off = sized(7, { gradientCheckpointing: false, batchSize: 64 });
        expect(shortages(off, large)).toEqual([
            expect.stringContaining(
                "gradient checkpointing (training.llamafactory.disable_gradient_checkpointing is true)",
            ),
        ]);
    });
});
