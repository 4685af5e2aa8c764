import type { ModelEvaluation, ReportData, ReportStage } from "../../pipeline/report/data";

/** A report of an update whose evaluation was attached to, with data in two languages. */

export const at = "2026-07-30T14:05:11.000Z";

export function stage(name: string, kind: string, action: ReportStage["action"], seconds: number): ReportStage {
    const made = { run: `${name}-0123`, digest: "c0ffee".repeat(10), finishedAt: at };
    return { name, kind, action, seconds, reasons: [], after: [], made };
}

export function evaluation(which: string, metrics: Partial<ModelEvaluation["metrics"]>): ModelEvaluation {
    const answered = (question: string, rougeL: number): ModelEvaluation["cases"][number] => ({
        question,
        reference: `reference of ${question}`,
        answer: `${which} answer to ${question}`,
        complete: true,
        bleu4: 1.5,
        rouge1: 20,
        rouge2: 5,
        rougeL,
    });
    const gain = which === "base" ? [0, 0, 0] : [10, -5, 0];
    return {
        metrics: { evalLoss: 3.7612, bleu4: 2, rouge1: 18, rouge2: 3, rougeL: 13.2, rows: 50, ...metrics },
        losses: [],
        cases: [
            answered("胎动减少", 50 + (gain[0] ?? 0)),
            answered("newborn skin looks yellow", 20 + (gain[1] ?? 0)),
            answered("飞蚊症", 35 + (gain[2] ?? 0)),
        ],
        prompts: [{ prompt: "感冒了应该怎么办？", answer: `${which}: 多喝水`, complete: which === "tuned" }],
    };
}

export const steps = (number: number): ReportData["training"]["losses"] =>
    Array.from({ length: number }, (_, index) => ({
        step: index + 1,
        loss: 0.6 + 3 * Math.exp(-index / 9),
        learningRate: 5e-5 * (1 - index / number),
    }));

const METRICS = ["evalLoss", "bleu4", "rouge1", "rouge2", "rougeL"] as const;

/** Without rows to tell by, as in an evaluation of another time. */
export function differences(
    against: "base" | "incumbent",
    other: ModelEvaluation,
    tuned: ModelEvaluation,
): ReportData["differences"] {
    return METRICS.flatMap((metric) => {
        const [before, after] = [other.metrics[metric], tuned.metrics[metric]];
        return before === null || after === null ? [] : [{ metric, against, tuned: after, other: before }];
    });
}

const tuned = evaluation("tuned", { evalLoss: 0.5904, bleu4: 27.9, rouge1: 48, rouge2: 22, rougeL: 41.4 });

const none = { rows: 0, examples: [] };

export const data: ReportData = {
    version: 3,
    language: "en",
    stack: "dev",
    at,
    notice: "This is a demonstration, not medical advice.",
    verdict: { decision: "ungated", model: "cafe".repeat(16), conditions: [], worse: [], warnings: [] },
    stages: [
        stage("dataset", "Dataset", "unchanged", 1.2),
        stage("base", "Model", "cached", 34),
        {
            ...stage("training", "Training", "ran", 184.3),
            after: ["dataset", "base"],
            reasons: ["learningRate 0.0005 → 0.0001"],
            expectedSeconds: 150,
            host: {
                machine: "x86_64",
                cpus: 16,
                gpus: ["NVIDIA A10"],
                driver: "570.158.01",
                release: "ubuntu 22.04",
                torch: "2.8.0",
                cuda: "12.8",
                llamafactory: "0.9.5",
            },
        },
        {
            ...stage("evaluation", "Evaluation", "attached", 71),
            after: ["training"],
            reasons: ["trained 0123 → 4567", "maxNewTokens 64 → 128"],
            host: { machine: "aarch64", cpus: 1 },
        },
    ],
    settings: { method: "lora", loraRank: 8, llamafactory: { lora_dropout: 0.1 } },
    training: {
        losses: steps(40),
        evalLosses: [
            { step: 20, loss: 1.25 },
            { step: 40, loss: 0.75 },
        ],
    },
    lost: { steps: 0, seconds: 0 },
    dataset: {
        scanned: 6230,
        kept: 5000,
        dropped: { "duplicate question": 301, "score below 4": 929, "never": 0 },
        rows: { train: 4250, validation: 500, test: 250 },
        characters: { p50: 118, p95: 212, max: 1043 },
        tokens: { cutoff: 256, longest: 301, lookedAt: 1000, shareCutOff: 0.012 },
        quality: {
            ...{ leaks: none, duplicates: none, emptyAnswers: none, oneWordAnswers: none, otherScript: none },
            ...{ overCutoff: null, identityNumbers: none, emailAddresses: none },
            nearDuplicates: { rows: 1, examples: ['row 1 (train) and row 9 (train), 84 % alike: "<Why>?" and "Why?"'] },
            mobileNumbers: { rows: 2, examples: ['row 7: "138******78"', 'row 8: "199******00"'] },
        },
        examples: [{ input: "头痛怎么办？", output: "多休息。" }],
    },
    base: evaluation("base", {}),
    tuned,
    differences: differences("base", evaluation("base", {}), tuned),
    trained: "/data/adapter",
    exported: {
        folder: "/data/it's here/model",
        files: 11,
        bytes: 1_192_134_656,
        parity: { checked: 2, equal: 2 },
        template: "qwen3",
        instruction: "你是一名医生。",
        enableThinking: false,
    },
    provenance: { model: { commit: "9f9f9f" }, tools: { torch: "2.9.1" } },
};

export const service: ReportStage = {
    ...{ name: "service", kind: "Service", after: ["evaluation"], action: "ran", seconds: 9.4 },
    reasons: ["model 0123 → 4567"],
};

/** Of a stack with a service. */
export const served: ReportData = {
    ...data,
    stages: [...data.stages, service],
    service: { address: "http://127.0.0.1:8000/v1" },
};

/** Of the same update, judged by a gate against an incumbent, and refused. */
export const refused: ReportData = (() => {
    const { exported: _exported, provenance: _provenance, ...rest } = data;
    const incumbent = evaluation("incumbent", { evalLoss: 0.48, rougeL: 45 });
    return {
        ...rest,
        provenance: {},
        stages: [
            ...data.stages.map((one) => (one.name === "evaluation" ? { ...one, action: "refused" as const } : one)),
            { name: "export", kind: "Export", after: ["evaluation"], action: "skipped", seconds: 0, reasons: [] },
        ],
        differences: [
            ...data.differences.map((one) => ({ ...one, interval: { low: -0.5, high: 30, confidence: 0.95 } })),
            ...differences("incumbent", incumbent, tuned).map((one) => ({
                ...one,
                interval: { low: 0.1, high: 0.12, confidence: 0.95 },
            })),
        ],
        incumbent: {
            trained: "beef".repeat(16),
            evaluation: incumbent,
            training: { losses: steps(30), evalLosses: [{ step: 30, loss: 0.9 }] },
        },
        verdict: {
            decision: "refused",
            model: "cafe".repeat(16),
            conditions: [
                {
                    text: "evalLoss 0.5904 against 3.7612 of the base model: better by 3.1708",
                    finding: { kind: "compared", gain: 3.1708, allowed: 0 },
                    held: true,
                    ...{ against: "base", metric: "evalLoss", tuned: 0.5904, other: 3.7612 },
                    difference: { low: -3.2, high: -3.1, confidence: 0.95 },
                    certainty: 1,
                },
                {
                    text: "evalLoss 0.5904 against 0.4800 of the incumbent: worse by 0.1104, where 0 is allowed",
                    finding: { kind: "compared", gain: -0.1104, allowed: 0 },
                    held: false,
                    ...{ against: "incumbent", metric: "evalLoss", tuned: 0.5904, other: 0.48 },
                    difference: { low: 0.1, high: 0.12, confidence: 0.95 },
                    certainty: 1,
                },
                {
                    text: 'the answer to "感冒了应该怎么办？" does not say "医生"',
                    finding: {
                        kind: "phrase",
                        prompt: "感冒了应该怎么办？",
                        phrase: "医生",
                        says: false,
                        forbidden: false,
                    },
                    held: false,
                    ...{ against: "phrase", tuned: null, other: null },
                },
            ],
            worse: [],
            warnings: [
                {
                    text: "20 held-out rows are fewer than 30: the verdict may be chance",
                    ...{ kind: "fewRows", rows: 20, least: 30 },
                },
            ],
        },
    };
})();

export const nothingHeldOut: ModelEvaluation = {
    metrics: { evalLoss: null, bleu4: null, rouge1: null, rouge2: null, rougeL: null, rows: 0 },
    losses: [],
    cases: [],
    prompts: [],
};

const evil = `<script>alert(1)</script><img src=http://a.example/b onerror="x">'&amp;`;
const arabic = "مرحبا بالعالم";

const hostileFinding = { kind: "phrase", prompt: evil, phrase: arabic, says: true, forbidden: true } as const;

/** With markup, right-to-left text, emoji and endless words wherever data can be. */
export const hostile: ReportData = {
    ...data,
    stack: evil,
    notice: evil,
    verdict: {
        ...refused.verdict,
        decision: "overridden",
        conditions: [{ text: evil, finding: hostileFinding, held: false, against: "phrase", tuned: null, other: null }],
        warnings: [{ text: evil, kind: "nothingHeldOut" }],
        override: { reason: evil, model: evil },
    },
    stages: [
        {
            ...stage(evil, evil, "ran", 1),
            reasons: [evil],
            made: { run: evil, digest: evil, finishedAt: at },
            host: { machine: evil, cpus: 1 },
        },
    ],
    settings: { [evil]: evil },
    dataset: {
        ...data.dataset,
        dropped: { [evil]: 1 },
        examples: [{ input: evil, output: "z".repeat(10_000) }],
    },
    tuned: {
        ...data.tuned,
        cases: [
            {
                question: evil,
                reference: arabic,
                answer: "👩‍👩‍👧".repeat(2000),
                complete: false,
                ...{ bleu4: 0, rouge1: 0, rouge2: 0, rougeL: 0 },
            },
        ],
        prompts: [
            { prompt: evil, answer: "x".repeat(10_000), complete: false },
            { prompt: arabic, answer: arabic.repeat(20), complete: true },
        ],
    },
    exported: data.exported && { ...data.exported, folder: evil, instruction: evil, template: evil },
    provenance: { [evil]: evil },
};
