import * as fs from "node:fs";
import * as path from "node:path";
import { tiny } from "./project";
import type { Workplace } from "./workplace";

/** The four commands that a person would type for what the pipeline does. */
export const COMMANDS = ["train", "predict base", "predict tuned", "export"] as const;

/** Folders of what the commands take in. */
export interface Sources {
    readonly dataset: string;
    readonly model: string;
    /** The constant instruction of the recipe, which questions of the evaluation are asked with, too. */
    readonly instruction: string;
}

/**
 * Runs them one after the other, each as a process of its own, with the options that the stages give LLaMA-Factory.
 * Answers their seconds, and the folder with `trainer` and `merged`.
 */
export async function bareCommands(place: Workplace, sources: Sources) {
    const folder = place.make("bare");
    prepare(folder, sources);
    // The environment's own place for programs. Only what changes the result, or keeps it from the network, is set.
    const cli = path.join(path.dirname(place.tools.python), "llamafactory-cli");
    const env = { OMP_NUM_THREADS: String(tiny.training.threads), HF_HUB_OFFLINE: "1", PYTHONHASHSEED: "0" };
    const seconds: number[] = [];
    for (const command of COMMANDS) {
        const file = path.join(folder, `${command.replace(" ", "-")}.yaml`);
        // JSON is YAML.
        fs.writeFileSync(file, JSON.stringify(options(command), undefined, 2));
        const verb = command === "export" ? "export" : "train";
        seconds.push((await place.run([cli, verb, file], { cwd: folder, env })).seconds);
    }
    return { folder, seconds };
}

/** The working folder: the base model in the precision of the training, and the data sets by name. */
function prepare(folder: string, { dataset, model, instruction }: Sources): void {
    fs.mkdirSync(path.join(folder, "base"));
    for (const name of fs.readdirSync(model)) {
        const [from, to] = [path.join(model, name), path.join(folder, "base", name)];
        if (name !== "config.json") fs.symlinkSync(from, to);
        else {
            const { torch_dtype: _, ...config } = JSON.parse(fs.readFileSync(from, "utf8")) as Record<string, unknown>;
            fs.writeFileSync(to, JSON.stringify({ ...config, dtype: "float32" }));
        }
    }
    fs.mkdirSync(path.join(folder, "data"));
    const rows = (part: string) => fs.readFileSync(path.join(dataset, `${part}.jsonl`), "utf8");
    const held = rows("test").trimEnd().split("\n").slice(0, tiny.evaluation.answeredRows);
    const asked = tiny.evaluation.prompts.map((input) => JSON.stringify({ instruction, input, output: "" }));
    const files = {
        train: rows("train"),
        validation: rows("validation"),
        cases: `${[...held, ...asked].join("\n")}\n`,
    };
    for (const [name, content] of Object.entries(files)) {
        fs.writeFileSync(path.join(folder, "data", `${name}.jsonl`), content);
    }
    const information = Object.keys(files).map((name) => [name, { file_name: `${name}.jsonl` }]);
    fs.writeFileSync(path.join(folder, "data", "dataset_info.json"), JSON.stringify(Object.fromEntries(information)));
}

/** As in programs/train.py, retune_job.py and export.py, for the tiny stack. */
function options(command: (typeof COMMANDS)[number]): Record<string, unknown> {
    const { training, evaluation, model } = tiny;
    const template = { template: model.template, enable_thinking: model.enableThinking };
    const adapter = command === "predict base" ? {} : { adapter_name_or_path: "trainer" };
    const common = {
        model_name_or_path: "base",
        finetuning_type: "lora",
        ...template,
    };
    if (command === "export") {
        const { finetuning_type: _finetuning, ...merged } = common;
        return {
            ...merged,
            ...adapter,
            export_dir: "merged",
            export_size: 5,
            export_device: "cpu",
            infer_dtype: "float32",
        };
    }
    const data = { dataset_dir: "data", cache_dir: "cache", overwrite_cache: true };
    const shared = { ...common, ...data, stage: "sft", cutoff_len: training.cutoffLength, report_to: "none", seed: 42 };
    if (command !== "train") {
        return {
            ...shared,
            ...adapter,
            do_predict: true,
            predict_with_generate: true,
            do_sample: false,
            eval_dataset: "cases",
            max_new_tokens: evaluation.maxNewTokens,
            per_device_eval_batch_size: evaluation.batchSize,
            output_dir: command.replace(" ", "-"),
        };
    }
    const every = Math.ceil(training.maxSteps / 4);
    return {
        ...shared,
        do_train: true,
        dataset: "train",
        per_device_train_batch_size: training.batchSize,
        per_device_eval_batch_size: training.batchSize,
        gradient_accumulation_steps: training.gradientAccumulation,
        learning_rate: training.learningRate,
        num_train_epochs: 3,
        max_steps: training.maxSteps,
        max_samples: 100_000,
        lr_scheduler_type: "cosine",
        logging_steps: 1,
        save_steps: every,
        save_total_limit: 2,
        output_dir: "trainer",
        disable_tqdm: true,
        eval_dataset: "validation",
        eval_strategy: "steps",
        eval_steps: every,
        lora_rank: training.loraRank,
        lora_target: "all",
    };
}
