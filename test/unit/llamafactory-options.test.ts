import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
    checkOptions,
    checkTemplate,
    type Problem,
    templates,
    type TrainingSettings,
} from "../../pipeline/llamafactory/options";
import { rules } from "../../pipeline/llamafactory/options-rules";
import { nearest } from "../../pipeline/nearest";

const lora: TrainingSettings = { method: "lora", gradientAccumulation: 1, validation: true };
const qlora: TrainingSettings = { ...lora, method: "qlora" };
const full: TrainingSettings = { ...lora, method: "full" };
const freeze: TrainingSettings = { ...lora, method: "freeze" };

const folder = join(__dirname, "../../pipeline/llamafactory");
const schema = JSON.parse(
    readFileSync(join(folder, "options-llamafactory-0.9.5-transformers-4.57.6.json"), "utf8"),
) as { llamafactory: string; transformers: string; options: Record<string, { group: string; default: unknown }> };
const names = Object.keys(schema.options);

const messages = (options: Record<string, unknown>, settings = lora) =>
    checkOptions(options, settings).problems.map(({ path, message }) => `${path}: ${message}`);

const message = (option: string, value: unknown) => messages({ [option]: value });

const value = (option: string, given: unknown) => {
    const { options, problems } = checkOptions({ [option]: given }, lora);
    expect(problems).toEqual([]);
    return options[option];
};

describe("the schema", () => {
    it("is of the locked versions", () => {
        const lock = readFileSync(join(folder, "requirements.lock"), "utf8");
        expect(lock).toContain(`\nllamafactory==${schema.llamafactory} `);
        expect(lock).toContain(`\ntransformers==${schema.transformers} `);
    });

    it("holds every option, one on a line", () => {
        expect(names).toHaveLength(365);
        expect(names).toEqual([...names].sort());
    });

    it("holds every option that a rule looks at", () => {
        expect(rules.flatMap(({ options }) => options).filter((name) => !names.includes(name))).toEqual([]);
    });
});

describe("templates", () => {
    it("knows LLaMA-Factory's", () => {
        expect(templates()).toHaveLength(121);
        expect(templates()).toEqual(expect.arrayContaining(["qwen3", "qwen3_nothink", "smollm2"]));
        expect(checkTemplate("qwen3")).toBeUndefined();
    });

    it("suggests the nearest, or lists them", () => {
        expect(checkTemplate("qwen33")).toBe('unknown template "qwen33"; did you mean qwen3?');
        expect(checkTemplate("Qwen3")).toBe('unknown template "Qwen3"; did you mean qwen3?');
        const list = `; there is ${templates().join(", ")}`;
        expect(checkTemplate("nothing-like-it")).toBe(`unknown template "nothing-like-it"${list}`);
        expect(checkTemplate("")).toBe(`unknown template ""${list}`);
    });
});

describe("nearest", () => {
    it("takes the nearest within a third of the word, ignoring case", () => {
        expect(nearest("COSIN", ["constant", "cosine", "linear"])).toBe("cosine");
        expect(nearest("lr", ["lora_rank", "seed"])).toBeUndefined();
        expect(nearest("abcdef", ["abcdzz"])).toBe("abcdzz");
        expect(nearest("abcdef", ["abczzz"])).toBeUndefined();
        expect(nearest("ab", ["ac"])).toBe("ac");
    });

    it("suggests nothing for a word of which nothing would remain", () => {
        expect(nearest("x", ["y"])).toBeUndefined();
        expect(nearest("", ["y", ""])).toBeUndefined();
    });

    it("finds every candidate itself", () => {
        fc.assert(
            fc.property(fc.constantFrom(...names), (name) => {
                expect(nearest(name.toUpperCase(), names)).toBe(name);
            }),
        );
    });
});

describe("unknown options", () => {
    it("are refused with the nearest known one", () => {
        expect(message("lora_drpout", 0.05)).toEqual([
            "lora_drpout: unknown LLaMA-Factory option; did you mean lora_dropout?",
        ]);
        expect(message("flash_attention_please", "fa2")).toEqual([
            "flash_attention_please: unknown LLaMA-Factory option",
        ]);
        expect(message("constructor", 1)).toEqual(["constructor: unknown LLaMA-Factory option"]);
    });

    it("name the setting where the nearest is Retune's", () => {
        expect(message("learningRate", 1e-4)).toEqual([
            "learningRate: unknown LLaMA-Factory option; did you mean learning_rate? (Retune writes this option itself; set training.learningRate)",
        ]);
    });

    it("include the fields that LLaMA-Factory derives itself", () => {
        expect(message("compute_dtype", "bf16")).toEqual(["compute_dtype: unknown LLaMA-Factory option"]);
        expect(message("model_max_length", 1)).toEqual(["model_max_length: unknown LLaMA-Factory option"]);
    });
});

describe("types and choices", () => {
    it.each<[string, unknown, string]>([
        ["lora_dropout", "0.05x", 'expected a number, got "0.05x"'],
        ["lora_dropout", true, "expected a number, got true"],
        ["lora_dropout", NaN, "expected a number, got NaN"],
        ["lora_dropout", Infinity, "expected a number, got Infinity"],
        ["lora_dropout", "1e999", 'expected a number, got "1e999"'],
        ["lora_dropout", "", 'expected a number, got ""'],
        ["lora_dropout", "0x1", 'expected a number, got "0x1"'],
        ["lora_dropout", null, "expected a number, got null"],
        ["lora_dropout", [0.1], "expected a number, got a list"],
        ["warmup_steps", 1.5, "expected a whole number, got 1.5"],
        ["warmup_steps", "1.5", 'expected a whole number, got "1.5"'],
        ["packing", "yes", 'expected true or false, got "yes"'],
        ["packing", 1, "expected true or false, got 1"],
        ["default_system", 5, "expected text, got 5"],
        ["default_system", { a: 1 }, "expected text, got an object"],
        ["label_names", "labels,x", 'expected a list of texts, got "labels,x"'],
        ["label_names", [1], "expected a list of texts, got a list"],
        ["lora_target", 5, "expected text or a list of texts, got 5"],
        ["lora_target", ["q_proj", true], "expected text or a list of texts, got a list"],
        ["lora_target", " , ", 'expected text or a list of texts, got " , "'],
        ["lora_target", [], "expected text or a list of texts, got a list"],
        ["lr_scheduler_kwargs", 5, "expected an object, got 5"],
        ["lr_scheduler_kwargs", "kwargs.json", 'expected an object, got "kwargs.json"'],
        ["lr_scheduler_kwargs", "[1]", 'expected an object, got "[1]"'],
        ["default_system", ["x".repeat(99)], "expected text, got a list"],
        ["lora_dropout", "x".repeat(99), `expected a number, got "${"x".repeat(60)}…"`],
        [
            "lr_scheduler_type",
            "cosin",
            'expected one of linear, cosine, cosine_with_restarts, polynomial, constant, constant_with_warmup, inverse_sqrt, reduce_lr_on_plateau, cosine_with_min_lr, cosine_warmup_with_min_lr, warmup_stable_decay, got "cosin"; did you mean cosine?',
        ],
        ["eval_strategy", "always", 'expected one of no, steps, epoch, got "always"'],
        ["eval_strategy", false, "expected one of no, steps, epoch, got false"],
        [
            "mix_strategy",
            "bogus",
            'expected one of concat, interleave_under, interleave_over, interleave_once, got "bogus"',
        ],
        ["fp8_backend", "torcha", 'expected one of auto, torchao, te, msamp, got "torcha"; did you mean torchao?'],
        // LLaMA-Factory declares fa3 and fails on it.
        ["flash_attn", "fa3", 'expected one of auto, disabled, sdpa, fa2, got "fa3"; did you mean fa2?'],
        ["debug", "overflow", 'expected one of underflow_overflow, tpu_metrics_debug, got "overflow"'],
        [
            "debug",
            "underflow_overflow tpu_metric_debug",
            'expected one of underflow_overflow, tpu_metrics_debug, got "tpu_metric_debug"; did you mean tpu_metrics_debug?',
        ],
        [
            "report_to",
            ["none", "wandbb"],
            'expected one of none, all, azure_ml, comet_ml, mlflow, neptune, tensorboard, trackio, wandb, codecarbon, clearml, dagshub, …, got "wandbb"; did you mean wandb?',
        ],
        ["include_num_input_tokens_seen", "every", 'expected one of all, non_padding, no, true, false, got "every"'],
    ])("%s: %j", (option, given, expected) => {
        expect(message(option, given)).toEqual([`${option}: ${expected}`]);
    });

    it("shortens long lists of choices", () => {
        expect(message("optim", "adamw_torc")).toEqual([
            'optim: expected one of adamw_torch, adamw_torch_fused, adamw_torch_xla, adamw_torch_npu_fused, adamw_apex_fused, adafactor, adamw_anyprecision, adamw_torch_4bit, adamw_torch_8bit, ademamix, sgd, adagrad, …, got "adamw_torc"; did you mean adamw_torch?',
        ]);
    });

    it("reports all problems at once, in the order of the options", () => {
        const given = {
            use_dora: true,
            learning_rate: 1,
            lora_drpout: 1,
            optim: "adamw_torch",
            weight_decay: "heavy",
            mask_history: true,
            train_on_prompt: true,
        };
        expect(messages(given, full)).toEqual([
            "use_dora: use_dora needs training.method lora or qlora, not full",
            "learning_rate: Retune writes this option itself; set training.learningRate",
            "lora_drpout: unknown LLaMA-Factory option; did you mean lora_dropout?",
            'weight_decay: expected a number, got "heavy"',
            "mask_history: mask_history and train_on_prompt exclude each other; keep one of them",
        ]);
        expect(messages({ train_on_prompt: true, packing: 3, mask_history: true })).toEqual([
            "packing: expected true or false, got 3",
            "mask_history: mask_history and train_on_prompt exclude each other; keep one of them",
        ]);
    });
});

describe("values", () => {
    it("are read from text where the option wants something else", () => {
        expect(value("weight_decay", "1e-4")).toBe(1e-4);
        expect(value("weight_decay", "+.5")).toBe(0.5);
        expect(value("weight_decay", 0.1)).toBe(0.1);
        expect(value("warmup_steps", "10")).toBe(10);
        expect(value("packing", "true")).toBe(true);
        expect(value("packing", "false")).toBe(false);
    });

    it("stay as they are where text is wanted", () => {
        expect(value("default_system", "1e-4")).toBe("1e-4");
        expect(value("default_system", "true")).toBe("true");
        expect(value("default_system", null)).toBeNull();
    });

    it("are choices of several types", () => {
        expect(value("include_num_input_tokens_seen", "true")).toBe(true);
        expect(value("include_num_input_tokens_seen", "non_padding")).toBe("non_padding");
        expect(value("report_to", "none")).toBe("none");
        expect(value("report_to", ["none"])).toEqual(["none"]);
    });

    it("become one string where LLaMA-Factory writes a list as one", () => {
        expect(value("lora_target", ["q_proj", "v_proj"])).toBe("q_proj,v_proj");
        expect(value("lora_target", "q_proj, v_proj")).toBe("q_proj,v_proj");
        expect(value("add_tokens", ["<a>"])).toBe("<a>");
        expect(value("add_tokens", null)).toBeNull();
        expect(value("debug", "underflow_overflow  tpu_metrics_debug")).toBe("underflow_overflow tpu_metrics_debug");
        expect(value("debug", "")).toBe("");
    });

    it("are objects, with their numbers read", () => {
        const read = { min_lr: 1e-6, decay_type: "1-sqrt", deep: { power: 2 } };
        expect(value("lr_scheduler_kwargs", { min_lr: "1e-6", decay_type: "1-sqrt", deep: { power: "2" } })).toEqual(
            read,
        );
        expect(value("lr_scheduler_kwargs", JSON.stringify(read))).toEqual(read);
    });

    it("are accepted at the default of every option that is not refused or without its package", () => {
        const own = names.filter((name) => message(name, schema.options[name]?.default).length === 0);
        const others = names.filter((name) => !own.includes(name));
        expect(
            others.filter(
                (name) =>
                    !message(name, schema.options[name]?.default)[0]?.match(
                        /Retune|refuse|concerns|deprecated|needs several|names a file|evaluation, not|environment only/,
                    ),
            ),
        ).toEqual([]);
        expect(own.length).toBeGreaterThan(200);
    });

    it("without any option there is nothing to say", () => {
        expect(checkOptions({}, lora)).toEqual({ options: {}, problems: [] });
    });
});

describe("refused options", () => {
    const own = (setting: string) => `Retune writes this option itself; set ${setting}`;

    it.each([
        ["bf16", own("training.precision")],
        ["fp16", own("training.precision")],
        ["learning_rate", own("training.learningRate")],
        ["per_device_train_batch_size", own("training.batchSize")],
        ["per_gpu_train_batch_size", own("training.batchSize")],
        ["gradient_accumulation_steps", own("training.gradientAccumulation")],
        ["num_train_epochs", own("training.epochs")],
        ["lora_rank", own("training.loraRank")],
        ["finetuning_type", own("training.method")],
        ["quantization_bit", own("training.method")],
        ["seed", own("training.seed")],
        ["cutoff_len", own("training.cutoffLength")],
        ["max_samples", own("training.maxSamples")],
        ["max_steps", own("training.maxSteps")],
        ["val_size", own("dataset.split.validation")],
        ["eval_dataset", own("dataset.split.validation")],
        ["dataset", own("dataset.source")],
        ["template", own("model.template")],
        ["model_name_or_path", own("model.source")],
        ["model_revision", own("model.source")],
        ["trust_remote_code", "refused: it runs code from the model's repository"],
        ["hf_hub_token", "refused: a token would end up in files and logs; set HF_TOKEN in the environment"],
        ["hub_token", "refused: a token would end up in files and logs; set HF_TOKEN in the environment"],
        ["push_to_hub_token", "refused: a token would end up in files and logs; set HF_TOKEN in the environment"],
        ["ms_hub_token", "refused: a token would end up in files and logs; Retune downloads the model itself"],
        ["om_hub_token", "refused: a token would end up in files and logs; Retune downloads the model itself"],
        ["swanlab_api_key", "refused: a secret would end up in files and logs"],
        ["swanlab_lark_secret", "refused: a secret would end up in files and logs"],
        ["swanlab_lark_webhook_url", "refused: a secret would end up in files and logs"],
        ["push_to_hub", "refused: Retune publishes nothing; take the files of the export"],
        ["hub_model_id", "refused: Retune publishes nothing; take the files of the export"],
        ["trackio_space_id", "refused: Retune publishes nothing; take the files of the export"],
        ["stage", "Retune trains with stage sft"],
        ["output_dir", "Retune chooses it"],
        ["adapter_name_or_path", "Retune starts every training from the model itself"],
        ["adapter_folder", "Retune starts every training from the model itself"],
        ["create_new_adapter", "Retune starts every training from the model itself"],
        ["auto_find_batch_size", "refused: the batch size would depend on the machine; set training.batchSize"],
        ["predict_with_generate", "belongs to the evaluation, not to the training"],
        ["save_only_model", "refused: a training could not be resumed"],
        ["save_safetensors", "Retune stores weights as safetensors only"],
        ["per_gpu_eval_batch_size", "deprecated; set per_device_eval_batch_size"],
        ["fp16_backend", "deprecated; set half_precision_backend"],
        ["quantization_device_map", "LLaMA-Factory refuses it in a training"],
        ["use_mca", "LLaMA-Factory takes it from its environment only"],
        ["new_special_tokens_config", "names a file, which would not travel to the target; set add_special_tokens"],
        ["deepspeed", "needs several processes; Retune trains in one"],
        ["fsdp", "needs several processes; Retune trains in one"],
        ["fsdp_config", "needs several processes; Retune trains in one"],
        ["fp8_enable_fsdp_float8_all_gather", "needs several processes; Retune trains in one"],
        ["parallelism_config", "needs several processes; Retune trains in one"],
        ["ray_num_workers", "needs several processes; Retune trains in one"],
        ["export_size", "concerns LLaMA-Factory's export, not the training"],
        ["vllm_maxlen", "concerns inference, not the training"],
        ["sglang_maxlen", "concerns inference, not the training"],
        ["infer_backend", "concerns inference, not the training"],
        ["infer_dtype", "concerns inference, not the training"],
        ["oft_rank", "concerns the method oft, which Retune does not offer"],
        ["module_dropout", "concerns the method oft, which Retune does not offer"],
        ["generation_max_length", "concerns text generation, not the training; the evaluation decodes greedily"],
        ["generation_num_beams", "concerns text generation, not the training; the evaluation decodes greedily"],
        ["eval_num_beams", "concerns text generation, not the training; the evaluation decodes greedily"],
    ])("%s", (option, expected) => {
        expect(names).toContain(option);
        expect(message(option, null)).toEqual([`${option}: ${expected}`]);
    });

    // Those of LLaMA-Factory's options that decide where things lie, how a run is started or what leaves the machine.
    const reserved =
        `output_dir overwrite_output_dir resume_from_checkpoint ignore_data_skip do_train do_eval do_predict
        dataset_dir media_dir tokenized_path cache_dir offload_folder logging_dir run_name disable_tqdm use_cpu no_cuda
        use_mps_device local_rank ddp_backend master_addr master_port profiler_output_dir`.split(/\s+/);

    it.each(reserved)("%s is Retune's to choose", (option) => {
        expect(names).toContain(option);
        expect(message(option, null)).toEqual([`${option}: Retune chooses it`]);
    });

    it.each([
        [/^(hub_|push_to_hub|ms_hub_|om_hub_|hf_hub_)/, /^\S+: refused: /],
        [/^ray_/, /^\S+: needs several processes/],
        [
            /^(pref_|kto_|ppo_|simpo_|dpo_|ref_model|reward_model|ld_alpha)/,
            /^\S+: concerns the stages rm, ppo, dpo and kto; Retune trains with stage sft$/,
        ],
        [/^export_/, /^\S+: concerns LLaMA-Factory's export/],
        [/^oft_/, /^\S+: concerns the method oft/],
    ])("the family %s", (family, expected) => {
        const members = names.filter((name) => family.test(name));
        expect(members).not.toEqual([]);
        for (const member of members) expect(message(member, null)[0]).toMatch(expected);
    });

    it("text generation", () => {
        const members = [...names.filter((name) => schema.options[name]?.group === "generating"), "generation_config"];
        expect(members).toHaveLength(11);
        for (const member of members)
            expect(message(member, null)).toEqual([
                `${member}: concerns text generation, not the training; the evaluation decodes greedily`,
            ]);
    });

    it("never show the value", () => {
        expect(JSON.stringify(checkOptions({ hub_token: "hf_canary", hf_hub_token: "hf_canary" }, lora))).not.toContain(
            "canary",
        );
    });
});

const galore = "use_galore true needs the Python package galore-torch, which Retune's environment does not have";
const evaluated = { eval_strategy: "steps", eval_steps: 10, save_steps: 20 };
const minLr = "lr_scheduler_type cosine_with_min_lr needs either min_lr or min_lr_rate in lr_scheduler_kwargs";

/** Options, settings, the problems. Each pair of a wrong and a right case shows what makes the difference. */
const cases: [Record<string, unknown>, TrainingSettings, string[]][] = [
    [{ mask_history: true }, lora, []],
    [
        { mask_history: true, train_on_prompt: "true" },
        lora,
        ["mask_history: mask_history and train_on_prompt exclude each other; keep one of them"],
    ],
    [{ neat_packing: true }, lora, []],
    [{ neat_packing: true, packing: true }, lora, []],
    [
        { packing: false, neat_packing: true },
        lora,
        ["neat_packing: neat_packing switches packing on; packing cannot be false"],
    ],
    [{ interleave_probs: "1", mix_strategy: "interleave_under" }, lora, []],
    [
        { interleave_probs: 0.5, mix_strategy: "interleave_under" },
        lora,
        ["interleave_probs: expected text or a list of texts, got 0.5"],
    ],
    [
        { interleave_probs: [1] },
        lora,
        [
            "interleave_probs: interleave_probs needs mix_strategy interleave_under, interleave_over or interleave_once, not concat",
        ],
    ],
    [
        { mix_strategy: "interleave_over", interleave_probs: [0.5, 0.5] },
        lora,
        ["interleave_probs: has 2 probabilities; Retune trains on one data set"],
    ],
    [
        { mix_strategy: "interleave_over", interleave_probs: "half" },
        lora,
        ['interleave_probs: expected a list of numbers, got "half"'],
    ],
    [{ streaming: true }, { ...lora, maxSteps: 5 }, []],
    [{ streaming: true }, lora, ["streaming: streaming needs training.maxSteps: the number of rows is not known"]],
    [{ streaming: false }, { ...lora, maxSamples: 5 }, []],
    [
        { streaming: true },
        { ...lora, maxSteps: 5, maxSamples: 5 },
        ["streaming: streaming cannot be combined with training.maxSamples; set dataset.limit"],
    ],
    [{ image_max_pixels: 2000 }, lora, []],
    [{ image_max_pixels: 5 }, lora, ["image_max_pixels: image_min_pixels (1024) is above image_max_pixels (5)"]],
    [
        { video_min_pixels: 70000 },
        lora,
        ["video_min_pixels: video_min_pixels (70000) is above video_max_pixels (65536)"],
    ],

    [{ use_dora: true, use_rslora: true, loraplus_lr_ratio: 16 }, qlora, []],
    [{ use_dora: false, loraplus_lr_ratio: null, lora_dropout: 0.1, lora_alpha: 8 }, full, []],
    [{ use_dora: true }, freeze, ["use_dora: use_dora needs training.method lora or qlora, not freeze"]],
    [{ use_rslora: true }, full, ["use_rslora: use_rslora needs training.method lora or qlora, not full"]],
    [{ pissa_init: true }, lora, []],
    [{ pissa_init: true }, full, ["pissa_init: pissa_init needs training.method lora or qlora, not full"]],
    [
        { loraplus_lr_ratio: 16 },
        full,
        ["loraplus_lr_ratio: loraplus_lr_ratio needs training.method lora or qlora, not full"],
    ],
    [
        { pissa_init: true },
        qlora,
        [
            "pissa_init: pissa_init cannot be combined with training.method qlora: LLaMA-Factory cannot initialise PiSSA on a quantized model",
        ],
    ],
    [{ resize_vocab: true, fp8: true }, lora, []],
    [
        { resize_vocab: true },
        qlora,
        [
            "resize_vocab: resize_vocab cannot be combined with training.method qlora: the embeddings of a quantized model cannot be resized",
        ],
    ],
    [
        { fp8: true },
        qlora,
        ["fp8: fp8 cannot be combined with training.method qlora: FP8 and quantization exclude each other"],
    ],
    [{ lora_dropout: 1.5 }, lora, ["lora_dropout: expected a number from 0 to 1, got 1.5"]],
    [{ lora_dropout: "-0.1" }, lora, ["lora_dropout: expected a number from 0 to 1, got -0.1"]],
    [{ use_llama_pro: true }, freeze, []],
    [
        { use_llama_pro: true },
        full,
        ["use_llama_pro: use_llama_pro needs training.method freeze, lora or qlora, not full"],
    ],
    [{ quantization_method: "bnb" }, qlora, []],
    [{ quantization_method: "hqq" }, lora, []],
    [
        { quantization_method: "hqq" },
        qlora,
        ["quantization_method: training.method qlora needs quantization_method bnb, not hqq"],
    ],

    [
        { use_galore: true, optim: "adamw_torch" },
        lora,
        [
            "use_galore: use_galore cannot be combined with training.method lora; set training.method to full or freeze",
            `use_galore: ${galore}`,
        ],
    ],
    [{ use_galore: true, optim: "adamw_torch" }, full, [`use_galore: ${galore}`]],
    [
        { use_galore: true },
        full,
        [
            "use_galore: use_galore needs optim to be one of adamw_torch, adamw_8bit, adamw_bnb_8bit, paged_adamw_8bit, adafactor, not adamw_torch_fused",
            `use_galore: ${galore}`,
        ],
    ],
    [
        { use_galore: true, galore_layerwise: true, optim: "adafactor" },
        { ...full, gradientAccumulation: 4 },
        [
            `use_galore: ${galore}`,
            "galore_layerwise: galore_layerwise needs training.gradientAccumulation to be 1, not 4",
        ],
    ],
    [
        { use_apollo: true, apollo_layerwise: true, optim: "adamw_8bit" },
        { ...qlora, gradientAccumulation: 2 },
        [
            "use_apollo: use_apollo cannot be combined with training.method qlora; set training.method to full or freeze",
            "use_apollo: use_apollo needs optim to be adamw_torch, not adamw_8bit",
            "use_apollo: use_apollo true needs the Python package apollo-torch, which Retune's environment does not have",
            "apollo_layerwise: apollo_layerwise needs training.gradientAccumulation to be 1, not 2",
        ],
    ],
    [
        { use_badam: true },
        lora,
        [
            "use_badam: use_badam cannot be combined with training.method lora; set training.method to full or freeze",
            "use_badam: use_badam true needs the Python package badam, which Retune's environment does not have",
        ],
    ],
    [{ use_muon: true }, full, []],
    [
        { use_adam_mini: false, loraplus_lr_ratio: 16, use_muon: true },
        lora,
        ["use_muon: use_muon and loraplus_lr_ratio exclude each other; keep one of them"],
    ],
    [
        { use_badam: true, optim: "adamw_torch", use_galore: true, use_muon: true },
        freeze,
        [
            "use_badam: use_badam true needs the Python package badam, which Retune's environment does not have",
            "use_galore: use_galore, use_badam and use_muon exclude each other; keep one of them",
            `use_galore: ${galore}`,
        ],
    ],

    [{ use_dft_loss: true }, lora, []],
    [
        { use_dft_loss: true, use_eaft_loss: true },
        lora,
        ["use_dft_loss: use_dft_loss and use_eaft_loss exclude each other; keep one of them"],
    ],
    [{ use_asft_loss: true }, full, []],
    [
        { use_asft_loss: true },
        lora,
        [
            "use_asft_loss: use_asft_loss cannot be combined with training.method lora; set training.method to full or freeze",
        ],
    ],

    [{ warmup_ratio: 2 }, lora, ["warmup_ratio: expected a number from 0 to 1, got 2"]],
    [{ warmup_steps: -1 }, lora, ["warmup_steps: expected 0 or more, got -1"]],
    [{ torch_empty_cache_steps: 0 }, lora, ["torch_empty_cache_steps: expected 1 or more, got 0"]],
    [{ torch_empty_cache_steps: null }, lora, []],
    [{ lr_scheduler_type: "cosine_with_min_lr", lr_scheduler_kwargs: { min_lr_rate: 0.1 } }, lora, []],
    [{ lr_scheduler_type: "cosine_with_min_lr" }, lora, [`lr_scheduler_type: ${minLr}`]],
    [
        { lr_scheduler_kwargs: { min_lr: 1e-6, min_lr_rate: 0.1 }, lr_scheduler_type: "cosine_with_min_lr" },
        lora,
        [`lr_scheduler_type: ${minLr}`],
    ],
    [{ lr_scheduler_type: "reduce_lr_on_plateau", eval_strategy: "epoch" }, lora, []],
    [{ lr_scheduler_type: "reduce_lr_on_plateau" }, { ...lora, written: { eval_strategy: "epoch" } }, []],
    [
        { lr_scheduler_type: "reduce_lr_on_plateau" },
        lora,
        ["lr_scheduler_type: lr_scheduler_type reduce_lr_on_plateau needs eval_strategy steps or epoch"],
    ],

    [{ eval_strategy: "no" }, { ...lora, validation: false }, []],
    [
        { eval_strategy: "steps" },
        { ...lora, validation: false },
        ["eval_strategy: eval_strategy steps needs rows to evaluate on; set dataset.split.validation above 0"],
    ],
    [{ eval_on_start: true }, lora, []],
    [
        { eval_on_start: true },
        { ...lora, validation: false },
        ["eval_on_start: eval_on_start needs rows to evaluate on; set dataset.split.validation above 0"],
    ],
    [{ logging_steps: 0, logging_strategy: "epoch" }, lora, []],
    [{ logging_steps: 0 }, lora, ["logging_steps: logging_strategy steps needs logging_steps above 0"]],
    [{ logging_steps: 0.5, save_steps: 0.5 }, lora, []],
    [
        { logging_steps: 2.5 },
        lora,
        [
            "logging_steps: logging_steps must be a whole number above 1 (or a share of the training below 1) with logging_strategy steps, got 2.5",
        ],
    ],
    [
        { save_steps: 2.5 },
        lora,
        [
            "save_steps: save_steps must be a whole number above 1 (or a share of the training below 1) with save_strategy steps, got 2.5",
        ],
    ],
    [{ eval_steps: 2.5 }, lora, []],
    [
        { eval_steps: 2.5, eval_strategy: "steps" },
        lora,
        [
            "eval_steps: eval_steps must be a whole number above 1 (or a share of the training below 1) with eval_strategy steps, got 2.5",
        ],
    ],
    [{ save_strategy: "best", eval_strategy: "epoch", metric_for_best_model: "eval_loss" }, lora, []],
    [{ save_strategy: "best", eval_strategy: "epoch", load_best_model_at_end: true }, lora, []],
    [{ save_strategy: "best", eval_strategy: "epoch", lr_scheduler_type: "reduce_lr_on_plateau" }, lora, []],
    [
        { save_strategy: "best", eval_strategy: "epoch" },
        lora,
        ["save_strategy: save_strategy best needs metric_for_best_model, such as eval_loss"],
    ],
    [
        { save_strategy: "best", metric_for_best_model: "eval_loss" },
        lora,
        ["save_strategy: save_strategy best needs eval_strategy steps or epoch"],
    ],
    [{ load_best_model_at_end: true, ...evaluated }, lora, []],
    [
        { load_best_model_at_end: true },
        lora,
        [
            "load_best_model_at_end: load_best_model_at_end needs eval_strategy and save_strategy to be the same, not no and steps",
        ],
    ],
    [
        { load_best_model_at_end: true, eval_strategy: "epoch", save_strategy: "epoch", save_steps: 3, eval_steps: 2 },
        lora,
        [],
    ],
    [
        { ...evaluated, eval_steps: 15, load_best_model_at_end: true },
        lora,
        ["load_best_model_at_end: load_best_model_at_end needs save_steps (20) to be a multiple of eval_steps (15)"],
    ],
    // eval_steps falls back to logging_steps.
    [{ eval_strategy: "steps", load_best_model_at_end: true, save_steps: 10, logging_steps: 5 }, lora, []],
    [
        { eval_strategy: "steps", load_best_model_at_end: true, save_steps: 10, logging_steps: 4 },
        lora,
        ["load_best_model_at_end: load_best_model_at_end needs save_steps (10) to be a multiple of eval_steps (4)"],
    ],
    [{ eval_strategy: "steps", load_best_model_at_end: true, save_steps: 0.3, eval_steps: 0.1 }, lora, []],
    [{ early_stopping_steps: 3, load_best_model_at_end: true, ...evaluated }, lora, []],
    [{ early_stopping_steps: 3, metric_for_best_model: "eval_loss", ...evaluated }, lora, []],
    [
        { early_stopping_steps: 3, metric_for_best_model: "eval_loss" },
        lora,
        ["early_stopping_steps: early_stopping_steps needs eval_strategy steps or epoch"],
    ],
    [
        { early_stopping_steps: 3, ...evaluated },
        lora,
        ["early_stopping_steps: early_stopping_steps needs load_best_model_at_end or metric_for_best_model"],
    ],
    [
        { fp16_full_eval: true, bf16_full_eval: true },
        lora,
        ["bf16_full_eval: bf16_full_eval and fp16_full_eval exclude each other; keep one of them"],
    ],

    [{ optim: "paged_adamw_8bit", report_to: "all", half_precision_backend: "auto", flash_attn: "sdpa" }, lora, []],
    ...(
        [
            ["use_unsloth", true, "unsloth"],
            ["enable_liger_kernel", true, "liger-kernel"],
            ["use_liger_kernel", true, "liger-kernel"],
            ["use_adam_mini", true, "adam-mini"],
            ["use_swanlab", true, "swanlab"],
            ["use_hyper_parallel", true, "hyper-parallel"],
            ["use_kt", true, "kt-kernel"],
            ["mixture_of_depths", "convert", "mixture-of-depth"],
            ["half_precision_backend", "apex", "apex"],
            ["flash_attn", "fa2", "flash-attn"],
            ["optim", "galore_adamw", "galore-torch"],
            ["optim", "apollo_adamw", "apollo-torch"],
            ["optim", "adalomo", "lomo-optim"],
            ["optim", "grokadamw", "grokadamw"],
            ["optim", "adamw_torch_4bit", "torchao"],
            ["optim", "schedule_free_sgd", "schedulefree"],
            ["optim", "stable_adamw", "torch-optimi"],
            ["optim", "adamw_apex_fused", "apex"],
            ["optim", "adamw_anyprecision", "torchdistx"],
            ["report_to", "wandb", "wandb"],
            ["report_to", ["none", "azure_ml"], "azureml-mlflow"],
        ] as const
    ).map(([option, given, name]): [Record<string, unknown>, TrainingSettings, string[]] => [
        { [option]: given },
        full,
        [
            `${option}: ${option} ${String(given)} needs the Python package ${name}, which Retune's environment does not have`,
        ],
    ]),
];

describe("rules between options", () => {
    it.each(cases)("%j", (options, settings, expected) => {
        expect(messages(options, settings)).toEqual(expected);
    });

    it("have each a case that fails without them", () => {
        const outcome = () => JSON.stringify(cases.map(([options, settings]) => messages(options, settings)));
        const whole = outcome();
        const list = rules as unknown[];
        const untested = rules.filter((rule, index) => {
            list.splice(index, 1);
            const same = outcome() === whole;
            list.splice(index, 0, rule);
            return same;
        });
        expect(untested.map(({ options }) => options)).toEqual([]);
    });

    it("say nothing about options that are wrong in themselves", () => {
        expect(messages({ load_best_model_at_end: true, eval_strategy: "step" })).toEqual([
            'eval_strategy: expected one of no, steps, epoch, got "step"; did you mean steps?',
        ]);
    });

    it("blame only what the user wrote", () => {
        const written = { eval_strategy: "steps", save_strategy: "epoch", load_best_model_at_end: true };
        expect(checkOptions({ weight_decay: 0.1 }, { ...lora, written }).problems).toEqual([]);
        expect(checkOptions({ save_strategy: "epoch" }, { ...lora, written }).problems).toEqual<Problem[]>([
            {
                path: "save_strategy",
                message:
                    "load_best_model_at_end needs eval_strategy and save_strategy to be the same, not steps and epoch",
            },
        ]);
        expect(checkOptions({ use_muon: true }, { ...full, written: { use_adam_mini: true } }).problems).toEqual<
            Problem[]
        >([{ path: "use_muon", message: "use_adam_mini and use_muon exclude each other; keep one of them" }]);
    });
});
