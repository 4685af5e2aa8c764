/**
 * The rules between options: those of LLaMA-Factory and transformers that can be judged without the model, and a few
 * combinations that they accept and then silently ignore. On the target each would be an error (or a wrong model) after
 * the start of a machine and ten seconds of imports.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";

export type Method = "lora" | "qlora" | "full" | "freeze";

export type OptionValue =
    string | number | boolean | null | readonly OptionValue[] | { readonly [key: string]: OptionValue };

/** What the rules need to know besides the options themselves. */
export interface TrainingSettings {
    readonly method: Method;
    readonly gradientAccumulation: number;
    /** Whether the data set has a validation split. */
    readonly validation: boolean;
    readonly maxSteps?: number | undefined;
    readonly maxSamples?: number | undefined;
    /** What Retune writes into the file where the user says nothing, such as `save_strategy`. */
    readonly written?: Readonly<Record<string, OptionValue>> | undefined;
}

export interface Problem {
    /** The option's name, relative to the block of options. */
    readonly path: string;
    readonly message: string;
}

/** The values in effect: the user's, else what Retune writes, else LLaMA-Factory's default. */
type Values = (option: string) => unknown;

interface Rule {
    /** Every option the rule looks at. Where one of them is itself wrong, the rule has nothing to say. */
    readonly options: readonly string[];
    /** The text of the problem, or with the option that it is to be shown at. */
    readonly problem: (value: Values, settings: TrainingSettings) => string | Problem | undefined;
}

const isLora = ({ method }: TrainingSettings) => method === "lora" || method === "qlora";

const listed = (names: readonly string[]) => `${names.slice(0, -1).join(", ")} and ${String(names.at(-1))}`;

/** Only one of several switches: LLaMA-Factory refuses some pairs and silently takes the first of others. */
function exclusive(...options: string[]): Rule {
    return {
        options,
        problem: (value) => {
            const on = options.filter((option) => value(option) !== null && value(option) !== false);
            if (on[0] === undefined || on.length < 2) return undefined;
            return { path: on[0], message: `${listed(on)} exclude each other; keep one of them` };
        },
    };
}

function onlyWithLora(option: string): Rule {
    return {
        options: [option],
        problem: (value, settings) =>
            value(option) !== null && value(option) !== false && !isLora(settings)
                ? `${option} needs training.method lora or qlora, not ${settings.method}`
                : undefined,
    };
}

function notWithLora(option: string): Rule {
    return {
        options: [option],
        problem: (value, settings) =>
            value(option) === true && isLora(settings)
                ? `${option} cannot be combined with training.method ${settings.method}; set training.method to full or freeze`
                : undefined,
    };
}

function notWithQlora(option: string, why: string): Rule {
    return {
        options: [option],
        problem: (value, settings) =>
            value(option) === true && settings.method === "qlora"
                ? `${option} cannot be combined with training.method qlora: ${why}`
                : undefined,
    };
}

/** The optimizer that goes with a memory-saving one; the default, adamw_torch_fused, is none of them. */
function optimizers(option: string, allowed: readonly string[]): Rule {
    return {
        options: [option, "optim"],
        problem: (value) => {
            if (value(option) !== true || allowed.includes(String(value("optim")))) return undefined;
            const needed = allowed.length === 1 ? String(allowed[0]) : `one of ${allowed.join(", ")}`;
            return `${option} needs optim to be ${needed}, not ${String(value("optim"))}`;
        },
    };
}

function withoutAccumulation(option: string, switchedOnBy: string): Rule {
    return {
        options: [option, switchedOnBy],
        problem: (value, { gradientAccumulation }) =>
            value(option) === true && value(switchedOnBy) === true && gradientAccumulation !== 1
                ? `${option} needs training.gradientAccumulation to be 1, not ${gradientAccumulation}`
                : undefined,
    };
}

/** Steps above 1 are counts, below 1 a share of the whole training. */
function wholeSteps(steps: string, strategy: string): Rule {
    return {
        options: [steps, strategy],
        problem: (value) => {
            const count = value(steps);
            return value(strategy) === "steps" && typeof count === "number" && count > 1 && !Number.isInteger(count)
                ? `${steps} must be a whole number above 1 (or a share of the training below 1) with ${strategy} steps, got ${count}`
                : undefined;
        },
    };
}

function between(option: string, low: number, high: number): Rule {
    return {
        options: [option],
        problem: (value) => {
            const number = value(option);
            if (typeof number !== "number" || (number >= low && number <= high)) return undefined;
            return high === Infinity
                ? `expected ${low} or more, got ${number}`
                : `expected a number from ${low} to ${high}, got ${number}`;
        },
    };
}

function notAbove(low: string, high: string): Rule {
    return {
        options: [low, high],
        problem: (value) =>
            Number(value(low)) > Number(value(high))
                ? `${low} (${Number(value(low))}) is above ${high} (${Number(value(high))})`
                : undefined,
    };
}

const optimizerPackages: readonly (readonly [RegExp, string])[] = [
    [/^galore_/, "galore-torch"],
    [/^apollo_/, "apollo-torch"],
    [/^(ada)?lomo$/, "lomo-optim"],
    [/^grokadamw$/, "grokadamw"],
    [/^adamw_torch_[48]bit$/, "torchao"],
    [/^schedule_free_/, "schedulefree"],
    [/^stable_adamw$/, "torch-optimi"],
    [/^adamw_apex_fused$/, "apex"],
    [/^adamw_anyprecision$/, "torchdistx"],
];

const reporterPackages: Readonly<Record<string, string>> = {
    azure_ml: "azureml-mlflow",
    comet_ml: "comet-ml",
    flyte: "flytekit",
};

let lock: string | undefined;

function isLocked(name: string): boolean {
    lock ??= readFileSync(join(__dirname, "requirements.lock"), "utf8");
    return lock.startsWith(`${name}==`) || lock.includes(`\n${name}==`);
}

/** An option that works only with a package; asked of the lock file, so that adding a package there is enough. */
function needsPackage(option: string, packages: (value: unknown) => readonly string[]): Rule {
    return {
        options: [option],
        problem: (value) => {
            const missing = packages(value(option)).find((name) => !isLocked(name));
            return missing === undefined
                ? undefined
                : `${option} ${String(value(option))} needs the Python package ${missing}, which Retune's environment does not have`;
        },
    };
}

const whenOn = (name: string) => (value: unknown) => (value === true ? [name] : []);

/** eval_steps falls back to logging_steps. */
const evalSteps = (value: Values) => Number(value("eval_steps") ?? 0) || Number(value("logging_steps"));

const evaluates = (value: Values) => value("eval_strategy") !== "no";

export const rules: readonly Rule[] = [
    // Data
    exclusive("mask_history", "train_on_prompt"),
    {
        options: ["neat_packing", "packing"],
        problem: (value) =>
            value("neat_packing") === true && value("packing") === false
                ? "neat_packing switches packing on; packing cannot be false"
                : undefined,
    },
    {
        options: ["interleave_probs", "mix_strategy"],
        problem: (value) =>
            value("interleave_probs") !== null && value("mix_strategy") === "concat"
                ? "interleave_probs needs mix_strategy interleave_under, interleave_over or interleave_once, not concat"
                : undefined,
    },
    {
        options: ["interleave_probs"],
        problem: (value) => {
            const probabilities = value("interleave_probs");
            if (typeof probabilities !== "string") return undefined;
            const parts = probabilities.split(",");
            const wrong = parts.find((part) => part === "" || Number.isNaN(Number(part)));
            if (wrong !== undefined) return `expected a list of numbers, got ${JSON.stringify(wrong)}`;
            return parts.length === 1 ? undefined : `has ${parts.length} probabilities; Retune trains on one data set`;
        },
    },
    {
        options: ["streaming"],
        problem: (value, { maxSteps }) =>
            value("streaming") === true && maxSteps === undefined
                ? "streaming needs training.maxSteps: the number of rows is not known"
                : undefined,
    },
    {
        options: ["streaming"],
        problem: (value, { maxSamples }) =>
            value("streaming") === true && maxSamples !== undefined
                ? "streaming cannot be combined with training.maxSamples; set dataset.limit"
                : undefined,
    },
    notAbove("image_min_pixels", "image_max_pixels"),
    notAbove("video_min_pixels", "video_max_pixels"),

    // Method
    onlyWithLora("loraplus_lr_ratio"),
    onlyWithLora("use_rslora"),
    onlyWithLora("use_dora"),
    onlyWithLora("pissa_init"),
    notWithQlora("pissa_init", "LLaMA-Factory cannot initialise PiSSA on a quantized model"),
    notWithQlora("resize_vocab", "the embeddings of a quantized model cannot be resized"),
    notWithQlora("fp8", "FP8 and quantization exclude each other"),
    between("lora_dropout", 0, 1),
    {
        options: ["use_llama_pro"],
        problem: (value, { method }) =>
            value("use_llama_pro") === true && method === "full"
                ? "use_llama_pro needs training.method freeze, lora or qlora, not full"
                : undefined,
    },
    {
        options: ["quantization_method"],
        problem: (value, { method }) =>
            method === "qlora" && value("quantization_method") !== "bnb"
                ? `training.method qlora needs quantization_method bnb, not ${String(value("quantization_method"))}`
                : undefined,
    },

    // Optimizer
    notWithLora("use_galore"),
    notWithLora("use_apollo"),
    notWithLora("use_badam"),
    exclusive("use_galore", "use_apollo", "use_badam", "use_adam_mini", "use_muon", "loraplus_lr_ratio"),
    optimizers("use_galore", ["adamw_torch", "adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit", "adafactor"]),
    optimizers("use_apollo", ["adamw_torch"]),
    withoutAccumulation("galore_layerwise", "use_galore"),
    withoutAccumulation("apollo_layerwise", "use_apollo"),

    // Loss
    exclusive("use_dft_loss", "use_eaft_loss", "use_asft_loss"),
    {
        // LLaMA-Factory makes no reference model for an adapter, and calls it in the first step.
        options: ["use_asft_loss"],
        problem: (value, settings) =>
            value("use_asft_loss") === true && isLora(settings)
                ? `use_asft_loss cannot be combined with training.method ${settings.method}; set training.method to full or freeze`
                : undefined,
    },

    // Schedule
    between("warmup_ratio", 0, 1),
    between("warmup_steps", 0, Infinity),
    between("torch_empty_cache_steps", 1, Infinity),
    {
        options: ["lr_scheduler_type", "lr_scheduler_kwargs"],
        problem: (value) => {
            const type = value("lr_scheduler_type");
            if (type !== "cosine_with_min_lr" && type !== "cosine_warmup_with_min_lr") return undefined;
            const given: object = value("lr_scheduler_kwargs") ?? {};
            return "min_lr" in given === "min_lr_rate" in given
                ? `lr_scheduler_type ${type} needs either min_lr or min_lr_rate in lr_scheduler_kwargs`
                : undefined;
        },
    },
    {
        options: ["lr_scheduler_type", "eval_strategy"],
        problem: (value) =>
            value("lr_scheduler_type") === "reduce_lr_on_plateau" && !evaluates(value)
                ? "lr_scheduler_type reduce_lr_on_plateau needs eval_strategy steps or epoch"
                : undefined,
    },

    // Evaluation, logging and saving during the training
    {
        options: ["eval_strategy"],
        problem: (value, { validation }) =>
            evaluates(value) && !validation
                ? `eval_strategy ${String(value("eval_strategy"))} needs rows to evaluate on; set dataset.split.validation above 0`
                : undefined,
    },
    {
        options: ["eval_on_start"],
        problem: (value, { validation }) =>
            value("eval_on_start") === true && !validation
                ? "eval_on_start needs rows to evaluate on; set dataset.split.validation above 0"
                : undefined,
    },
    {
        options: ["logging_steps", "logging_strategy"],
        problem: (value) =>
            value("logging_strategy") === "steps" && value("logging_steps") === 0
                ? "logging_strategy steps needs logging_steps above 0"
                : undefined,
    },
    wholeSteps("logging_steps", "logging_strategy"),
    wholeSteps("eval_steps", "eval_strategy"),
    wholeSteps("save_steps", "save_strategy"),
    {
        options: ["save_strategy", "metric_for_best_model", "load_best_model_at_end", "lr_scheduler_type"],
        problem: (value) =>
            value("save_strategy") === "best" &&
            value("metric_for_best_model") === null &&
            value("load_best_model_at_end") !== true &&
            value("lr_scheduler_type") !== "reduce_lr_on_plateau"
                ? "save_strategy best needs metric_for_best_model, such as eval_loss"
                : undefined,
    },
    {
        options: ["save_strategy", "eval_strategy"],
        problem: (value) =>
            value("save_strategy") === "best" && !evaluates(value)
                ? "save_strategy best needs eval_strategy steps or epoch"
                : undefined,
    },
    {
        options: ["load_best_model_at_end", "eval_strategy", "save_strategy"],
        problem: (value) => {
            const [evaluation, saving] = [String(value("eval_strategy")), String(value("save_strategy"))];
            if (value("load_best_model_at_end") !== true || saving === "best" || evaluation === saving)
                return undefined;
            return `load_best_model_at_end needs eval_strategy and save_strategy to be the same, not ${evaluation} and ${saving}`;
        },
    },
    {
        options: [
            "load_best_model_at_end",
            "save_steps",
            "eval_steps",
            "eval_strategy",
            "save_strategy",
            "logging_steps",
        ],
        problem: (value) => {
            const bothSteps = value("eval_strategy") === "steps" && value("save_strategy") === "steps";
            if (value("load_best_model_at_end") !== true || !bothSteps) return undefined;
            const [saving, evaluation] = [Number(value("save_steps")), evalSteps(value)];
            if (saving % evaluation === 0) return undefined;
            // transformers' own way around 0.3 % 0.1; a share of the training and a count cannot be compared.
            const shares = saving < 1 && evaluation < 1;
            if (shares && (saving * 1_000_000) % (evaluation * 1_000_000) === 0) return undefined;
            return `load_best_model_at_end needs save_steps (${saving}) to be a multiple of eval_steps (${evaluation})`;
        },
    },
    {
        options: ["early_stopping_steps", "eval_strategy"],
        problem: (value) =>
            value("early_stopping_steps") !== null && !evaluates(value)
                ? "early_stopping_steps needs eval_strategy steps or epoch"
                : undefined,
    },
    {
        options: ["early_stopping_steps", "metric_for_best_model", "load_best_model_at_end", "lr_scheduler_type"],
        problem: (value) =>
            value("early_stopping_steps") !== null &&
            value("metric_for_best_model") === null &&
            value("load_best_model_at_end") !== true &&
            value("lr_scheduler_type") !== "reduce_lr_on_plateau"
                ? "early_stopping_steps needs load_best_model_at_end or metric_for_best_model"
                : undefined,
    },
    exclusive("bf16_full_eval", "fp16_full_eval"),

    // Packages
    needsPackage("use_unsloth", whenOn("unsloth")),
    needsPackage("enable_liger_kernel", whenOn("liger-kernel")),
    needsPackage("use_liger_kernel", whenOn("liger-kernel")),
    needsPackage("use_galore", whenOn("galore-torch")),
    needsPackage("use_apollo", whenOn("apollo-torch")),
    needsPackage("use_badam", whenOn("badam")),
    needsPackage("use_adam_mini", whenOn("adam-mini")),
    needsPackage("use_swanlab", whenOn("swanlab")),
    needsPackage("use_hyper_parallel", whenOn("hyper-parallel")),
    needsPackage("use_kt", whenOn("kt-kernel")),
    needsPackage("mixture_of_depths", (value) => (value === null ? [] : ["mixture-of-depth"])),
    needsPackage("half_precision_backend", (value) => (value === "apex" ? ["apex"] : [])),
    // Without the package LLaMA-Factory only warns and takes another attention.
    needsPackage("flash_attn", (value) => (value === "fa2" ? ["flash-attn"] : [])),
    needsPackage("optim", (value) =>
        optimizerPackages.filter(([optimizer]) => optimizer.test(String(value))).map(([, name]) => name),
    ),
    needsPackage("report_to", (value) =>
        [value]
            .flat()
            .filter((reporter) => typeof reporter === "string")
            .filter((reporter) => reporter !== "none" && reporter !== "all")
            .map((reporter) => reporterPackages[reporter] ?? reporter),
    ),
];
