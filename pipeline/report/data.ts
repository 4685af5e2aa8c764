import type { Quality } from "../../datasets/quality";
import type { Json, JsonObject } from "../identity";
import type { Result } from "../store/store";

/** Everything that a report shows, gathered from the store; render.ts turns it into a page. */
export interface ReportData {
    readonly stack: string;
    /** When the page was made. */
    readonly at: Date;
    /** Shown at the top, such as "This is a demonstration, not medical advice." Empty: nothing to say. */
    readonly notice: string;
    readonly stages: readonly ReportStage[];
    /** The training's settings as LLaMA-Factory got them, such as { method: "lora", loraRank: 8 }. */
    readonly settings: JsonObject;
    readonly losses: readonly {
        readonly step: number;
        readonly loss: number;
        readonly learningRate: number | undefined;
    }[];
    readonly evalLosses: readonly { readonly step: number; readonly loss: number }[];
    /** What interruptions of the training have cost: done after the last checkpoint, and again. */
    readonly lost?: { readonly steps: number; readonly seconds: number };
    readonly dataset: {
        readonly scanned: number;
        readonly kept: number;
        readonly dropped: Readonly<Record<string, number>>;
        readonly rows: { readonly train: number; readonly validation: number; readonly test: number };
        /** Lengths of question + answer. */
        readonly characters: { readonly p50: number; readonly p95: number; readonly max: number };
        /** What was found amiss in the rows. */
        readonly quality?: Quality;
    };
    readonly base: ModelEvaluation;
    readonly tuned: ModelEvaluation;
    readonly exported: {
        /** The folder of the merged model on this machine. */
        readonly folder: string;
        readonly files: number;
        readonly bytes: number;
        /** { checked, equal } prompts, and in half precision the largest difference of logits. */
        readonly parity: { readonly checked: number; readonly equal?: number; readonly logits?: number };
        /** How the training put its questions, so that the page's snippet puts them the same way. */
        readonly chat?: { readonly instruction: string; readonly enableThinking?: boolean };
    };
    /** The manifest of the merged model: digests, versions, sources. */
    readonly provenance: Json;
}

export interface ReportStage {
    readonly name: string;
    readonly kind: string;
    readonly action: "ran" | "cached" | "attached" | "unchanged";
    /** Of all that this update ran for it; of one that it did not run, of the run that made the result. */
    readonly seconds: number;
    /** What earlier runs had let one expect of this one. */
    readonly expectedSeconds?: number | undefined;
    /** Why this update looked at it, in words. */
    readonly reasons: readonly string[];
    /** The machine that the result was made on, such as { cpus: 2, machine: "x86_64" }; none of what the client makes. */
    readonly host?: Host | undefined;
    readonly run: string;
    readonly digest: string;
    readonly finishedAt: Date;
}

type Host = Omit<NonNullable<Result["host"]>, "name">;

/** What evaluate.py writes. Scores are percent, the loss is mean cross-entropy per token; null where nothing was held out. */
export interface ModelEvaluation {
    readonly metrics: {
        readonly evalLoss: number | null;
        readonly bleu4: number | null;
        readonly rouge1: number | null;
        readonly rouge2: number | null;
        readonly rougeL: number | null;
        readonly rows: number;
    };
    /** Of every held-out row; null where no token of its answer is left within the cut-off, or where it is no number. */
    readonly losses: readonly { readonly question: string; readonly loss: number | null; readonly tokens: number }[];
    /** The rows that were answered: the first ones. */
    readonly cases: readonly {
        readonly question: string;
        readonly reference: string;
        readonly answer: string;
        /** Whether the model ended by itself within the limit of new tokens. */
        readonly complete: boolean;
        readonly bleu4: number;
        readonly rouge1: number;
        readonly rouge2: number;
        readonly rougeL: number;
    }[];
    readonly prompts: readonly { readonly prompt: string; readonly answer: string; readonly complete: boolean }[];
}
