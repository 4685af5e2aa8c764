import { describe, expect, test } from "vitest";
import { estimate, MARGIN, trainingBytes, type Work } from "../../infra/host/estimate";

/** SmolLM2-135M-Instruct. */
const small: Work = {
    model: { parameters: 134.5e6, hiddenSize: 576, layers: 30, vocabulary: 49_152 },
    method: "lora",
    precision: "bf16",
    batchSize: 4,
    cutoffLength: 84,
    loraRank: 8,
    gradientCheckpointing: false,
};

const sized = (billions: number, changes: Partial<Work> = {}): Work => ({
    ...small,
    model: { parameters: billions * 1e9, hiddenSize: 4096, layers: 32, vocabulary: 151_936 },
    gradientCheckpointing: true,
    batchSize: 1,
    cutoffLength: 512,
    ...changes,
});

describe("memory of a training", () => {
    // Resident memory of LLaMA-Factory on a CPU, all linear layers; rows of 84 tokens in English, 167 in Chinese.
    test.each<[string, Partial<Work>, number]>([
        ["bf16", {}, 2.1],
        ["fp32", { precision: "fp32" }, 2.7],
        ["longer rows", { cutoffLength: 167 }, 2.9],
        ["longer rows with gradient checkpointing", { cutoffLength: 167, gradientCheckpointing: true }, 2.0],
        ["a batch of 16", { cutoffLength: 167, batchSize: 16 }, 8],
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
        const large = sized(1, { cutoffLength: 2048 });
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
    const work: Work = { ...small, model, method: "qlora", cutoffLength: 512, gradientCheckpointing: true };
    expect(estimate(work).trainingMiB).toBeLessThan(16_384 * 0.8);
});

test("merging 14 billion parameters does not fit a host of 16 GiB", () => {
    const { mergeMiB } = estimate(sized(14));
    expect(mergeMiB).toBeGreaterThan(28e9 / 2 ** 20);
    expect(mergeMiB).toBeLessThan(40_000);
});

test("the disk takes three times the model and 20 GB", () => {
    expect(estimate(sized(7)).diskMiB).toBe(Math.ceil((7e9 * 2 * 3 + 20e9) / 2 ** 20));
});
