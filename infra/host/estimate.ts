/*
 * What a run will need, before a machine is paid for it. A sum of parts: weights, what is kept for each trained parameter,
 * activations, logits. It is within a fifth of what was measured (test/unit/estimate.test.ts); the margin is on top.
 */

const MIB = 2 ** 20;

/** Practitioners find theory 25 to 40 % too low. */
export const MARGIN = 1.3;

/** Python with torch and LLaMA-Factory; on a GPU its context and libraries. */
const PROCESS = 1000 * MIB;

/** Gigabytes for models of so many billions of parameters, from LLaMA-Factory's README: no less than what it says. */
const README = {
    billions: [0, 7, 14, 30, 70],
    lora: [0, 16, 32, 64, 160],
    qlora: [0, 6, 12, 24, 48],
} as const;

export interface Work {
    readonly model: {
        readonly parameters: number;
        readonly hiddenSize: number;
        readonly layers: number;
        readonly vocabulary: number;
    };
    readonly method: "lora" | "qlora" | "full" | "freeze";
    readonly precision: "fp32" | "bf16" | "fp16";
    /** Rows at a time on one device. */
    readonly batchSize: number;
    readonly cutoffLength: number;
    readonly loraRank?: number;
    /** Of `freeze`. */
    readonly trainedLayers?: number;
    readonly gradientCheckpointing: boolean;
}

export interface Estimate {
    /** For the training, on the device that trains; with the margin. */
    readonly trainingMiB: number;
    /** For the merge, of the host's memory; with the margin. */
    readonly mergeMiB: number;
    /** For base, checkpoints, adapter and merged model. */
    readonly diskMiB: number;
}

export function estimate(work: Work): Estimate {
    const { parameters } = work.model;
    const bytes = work.precision === "fp32" ? 4 : 2;
    const readme = work.method === "qlora" ? README.qlora : README.lora;
    const floor = work.method === "full" ? 0 : interpolate(parameters / 1e9, readme) * 1e9;
    return {
        trainingMiB: Math.ceil((Math.max(trainingBytes(work), floor) * MARGIN) / MIB),
        mergeMiB: Math.ceil(((parameters * bytes + PROCESS) * MARGIN) / MIB),
        // A merged model takes what its base does, and so does a half-written one.
        diskMiB: Math.ceil((parameters * bytes * 3 + 20e9) / MIB),
    };
}

/** Without a margin. */
export function trainingBytes(work: Work): number {
    const { parameters, hiddenSize, layers, vocabulary } = work.model;
    const bytes = work.precision === "fp32" ? 4 : 2;
    const tokens = work.batchSize * work.cutoffLength;
    const adapters = work.method === "lora" || work.method === "qlora";

    // Embeddings are not quantised; their share is small where quantising is worth it.
    const weights = parameters * (work.method === "qlora" ? 0.5 : bytes);
    // An adapter of rank r on all linear layers of a block has about 19 r times the hidden size; each trained parameter has
    // a gradient, two moments and, in half precision, a master copy, in 4 bytes each.
    const trained = adapters
        ? (work.loraRank ?? 8) * layers * 19 * hiddenSize
        : work.method === "freeze"
          ? (parameters * (work.trainedLayers ?? 2)) / layers
          : parameters;
    const states = trained * (bytes === 4 ? 12 : 16);

    // Of one block and token: what backpropagation needs, and in fp32 what enters each adapter, before and after dropout.
    const ofBlock = hiddenSize * (34 * (bytes / 2) + (adapters ? 70 : 0));
    const activations = work.gradientCheckpointing
        ? tokens * (hiddenSize * bytes * layers + ofBlock)
        : tokens * ofBlock * layers;
    // In fp32: logits, their gradient, and a copy for the loss.
    const logits = tokens * vocabulary * 4 * 3;
    return PROCESS + weights + states + activations + logits;
}

function interpolate(billions: number, gigabytes: readonly number[]): number {
    const { billions: at } = README;
    const next = Math.min(
        at.findIndex((one) => one >= billions && one > 0),
        at.length - 1,
    );
    const upper = next < 0 ? at.length - 1 : next;
    const [x0 = 0, x1 = 0] = [at[upper - 1], at[upper]];
    const [y0 = 0, y1 = 0] = [gigabytes[upper - 1], gigabytes[upper]];
    return y0 + ((y1 - y0) * (billions - x0)) / (x1 - x0);
}
