/** LLaMA-Factory options that people must not pass through, and what to do instead. */

const settings: Readonly<Record<string, string>> = {
    bf16: "training.precision",
    cutoff_len: "training.cutoffLength",
    dataset: "dataset.source",
    eval_dataset: "dataset.split.validation",
    finetuning_type: "training.method",
    fp16: "training.precision",
    gradient_accumulation_steps: "training.gradientAccumulation",
    learning_rate: "training.learningRate",
    lora_rank: "training.loraRank",
    max_samples: "training.maxSamples",
    max_steps: "training.maxSteps",
    model_name_or_path: "model.source",
    model_revision: "model.source",
    num_train_epochs: "training.epochs",
    per_device_train_batch_size: "training.batchSize",
    per_gpu_train_batch_size: "training.batchSize",
    quantization_bit: "training.method",
    seed: "training.seed",
    template: "model.template",
    val_size: "dataset.split.validation",
};

const token = "refused: a token would end up in files and logs; set HF_TOKEN in the environment";
const secret = "refused: a secret would end up in files and logs";
const generation = "concerns text generation, not the training; the evaluation decodes greedily";
const inference = "concerns inference, not the training";
const otherStages = "concerns the stages rm, ppo, dpo and kto; Retune trains with stage sft";
const processes = "needs several processes; Retune trains in one";
const publishing = "refused: Retune publishes nothing; take the files of the export";

const chosen = "Retune chooses it";

const reasons: Readonly<Record<string, string>> = {
    adapter_folder: "Retune starts every training from the model itself",
    adapter_name_or_path: "Retune starts every training from the model itself",
    auto_find_batch_size: "refused: the batch size would depend on the machine; set training.batchSize",
    cache_dir: chosen,
    create_new_adapter: "Retune starts every training from the model itself",
    dataset_dir: chosen,
    ddp_backend: chosen,
    deepspeed: processes,
    disable_tqdm: chosen,
    do_eval: chosen,
    do_predict: chosen,
    do_sample: generation,
    do_train: chosen,
    dpo_label_smoothing: otherStages,
    eval_num_beams: generation,
    fp16_backend: "deprecated; set half_precision_backend",
    fp8_enable_fsdp_float8_all_gather: processes,
    generation_config: generation,
    generation_max_length: generation,
    generation_num_beams: generation,
    hf_hub_token: token,
    hub_token: token,
    ignore_data_skip: chosen,
    infer_backend: inference,
    infer_dtype: inference,
    ld_alpha: otherStages,
    length_penalty: generation,
    local_rank: chosen,
    logging_dir: chosen,
    master_addr: chosen,
    master_port: chosen,
    max_length: generation,
    max_new_tokens: generation,
    media_dir: chosen,
    module_dropout: "concerns the method oft, which Retune does not offer",
    ms_hub_token: "refused: a token would end up in files and logs; Retune downloads the model itself",
    new_special_tokens_config: "names a file, which would not travel to the target; set add_special_tokens",
    no_cuda: chosen,
    num_beams: generation,
    offload_folder: chosen,
    om_hub_token: "refused: a token would end up in files and logs; Retune downloads the model itself",
    output_dir: chosen,
    overwrite_output_dir: chosen,
    parallelism_config: processes,
    per_gpu_eval_batch_size: "deprecated; set per_device_eval_batch_size",
    predict_with_generate: "belongs to the evaluation, not to the training",
    profiler_output_dir: chosen,
    push_to_hub_token: token,
    quantization_device_map: "LLaMA-Factory refuses it in a training",
    repetition_penalty: generation,
    resume_from_checkpoint: chosen,
    run_name: chosen,
    save_only_model: "refused: a training could not be resumed",
    save_safetensors: "Retune stores weights as safetensors only",
    simpo_gamma: otherStages,
    skip_special_tokens: generation,
    stage: "Retune trains with stage sft",
    swanlab_api_key: secret,
    temperature: generation,
    tokenized_path: chosen,
    top_k: generation,
    top_p: generation,
    trackio_space_id: publishing,
    trust_remote_code: "refused: it runs code from the model's repository",
    use_cpu: chosen,
    use_mca: "LLaMA-Factory takes it from its environment only",
    use_mps_device: chosen,
};

/** Whole families, looked at where no name fits. */
const families: readonly (readonly [RegExp, string])[] = [
    [/^export_/, "concerns LLaMA-Factory's export, not the training"],
    [/^(vllm|sglang)_/, inference],
    [/^(pref|kto|ppo|ref_model|reward_model)(_|$)/, otherStages],
    [/^oft_/, "concerns the method oft, which Retune does not offer"],
    [/^fsdp(_|$)/, processes],
    [/^ray_/, processes],
    [/^(hub|push_to_hub)(_|$)/, publishing],
    [/^swanlab_lark_/, secret],
];

/** Why an option is refused; undefined where it is not. */
export function refusal(option: string): string | undefined {
    const setting = settings[option];
    if (setting !== undefined) return `Retune writes this option itself; set ${setting}`;
    return reasons[option] ?? families.find(([family]) => family.test(option))?.[1];
}
