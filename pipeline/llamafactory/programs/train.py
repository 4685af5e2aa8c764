"""Trains with LLaMA-Factory; out/ is the adapter (lora, qlora) or the model (full, freeze) with its tokenizer."""

import json
import math
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path

import torch
import transformers.trainer
from llamafactory.train.tuner import run_exp
from preflight import ROWS, preflight
from retune_job import (
    Progress,
    base_model,
    data_folder,
    event,
    fail,
    out,
    parameters,
    precision_options,
    read_jsonl,
    succeed,
    template_options,
)
from safetensors import SafetensorError, safe_open

TRAINER = Path("trainer")
# Files of a trained folder that are the result; the others hold times, paths or the optimizer.
WANTED = ["adapter_*", "model*.safetensors*", "config.json", "generation_config.json", "*token*", "vocab.*", "*.jinja"]
WANTED += ["merges.txt", "added_tokens.json"]


def complete(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end. LLaMA-Factory writes it file by file, the trainer's state last."""
    try:
        step = json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))["global_step"]
        if step != int(checkpoint.name.split("-")[1]):
            return False
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            with zipfile.ZipFile(checkpoint / name) as archive:
                archive.namelist()
        weights = list(checkpoint.glob("*.safetensors"))
        for file in weights:
            with safe_open(file, "pt") as tensors:
                tensors.keys()
        return bool(weights)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, SafetensorError):
        return False


def resume_point():
    """The newest complete checkpoint of an earlier attempt; torn ones are removed, because they fail or mislead."""
    checkpoints = sorted(TRAINER.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]), reverse=True)
    for checkpoint in checkpoints:
        if complete(checkpoint):
            return checkpoint
        shutil.rmtree(checkpoint)
    return None


def told() -> list:
    """The events of all attempts so far; what was torn by a kill is passed over."""
    events = []
    with suppress(FileNotFoundError), Path("../events.jsonl").open("rb") as file:
        for line in file:
            with suppress(ValueError):
                events.append(json.loads(line))
    return [one for one in events if isinstance(one, dict)]


def tell_lost_work(step: int) -> None:
    """Says what the attempt before did after this step, the checkpoint's, and what is now done again."""
    attempt = []
    for one in told():
        attempt = [one] if "lostSteps" in one else [*attempt, one]
    while attempt and attempt[-1].get("type") != "progress":  # this attempt's own, such as of its preflight
        attempt.pop()
    steps = [one for one in attempt if one.get("type") == "progress"]
    if not steps:
        return
    lost = max(0, max(one["step"] for one in steps) - step)
    since = next((one["time"] for one in steps if one["step"] == step), attempt[0]["time"])
    seconds = max(0, round(attempt[-1]["time"] - since, 1)) if lost else 0
    begins = f"resumed from the checkpoint at step {step}" if step else "begun again: there was no complete checkpoint"
    what = f"{lost} steps ({seconds} s) done after it are lost" if lost else "nothing is lost"
    event("note", text=f"{begins}; {what}", resumedFrom=step, lostSteps=lost, lostSeconds=seconds)


def keep_order_after_resume() -> None:
    """Has a resumed epoch go on with its own order of rows.

    accelerate's loader forgets the epoch when it skips the batches that a checkpoint has seen: in any epoch but the
    first the rest would be taken from the first epoch's order, some rows twice and others never.
    """
    skip = transformers.trainer.skip_first_batches

    def skip_within_epoch(dataloader, num_batches=0):
        rest = skip(dataloader, num_batches)
        if hasattr(dataloader, "iteration"):
            rest.set_epoch(dataloader.iteration)
        return rest

    transformers.trainer.skip_first_batches = skip_within_epoch


def options(rows: int, validation: bool) -> dict:
    method = parameters["method"]
    batch = parameters["batchSize"] * parameters["gradientAccumulation"]
    used = min(rows, parameters["maxSamples"] or rows)
    total = parameters["maxSteps"] or math.ceil(math.ceil(used / batch) * parameters["epochs"])
    # Often enough to lose little and to see a curve, seldom enough to cost little.
    every = max(1, min(100, math.ceil(total / 4)))
    answer = {
        "model_name_or_path": "base",
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora" if method == "qlora" else method,
        "dataset": "train",
        "cutoff_len": parameters["cutoffLength"],
        "per_device_train_batch_size": parameters["batchSize"],
        "per_device_eval_batch_size": parameters["batchSize"],
        "gradient_accumulation_steps": parameters["gradientAccumulation"],
        "learning_rate": parameters["learningRate"],
        "num_train_epochs": parameters["epochs"],
        "max_steps": parameters["maxSteps"] or -1,
        "lr_scheduler_type": "cosine",
        "logging_steps": 1,
        "save_steps": every,
        "save_total_limit": 2,
        "output_dir": str(TRAINER),
        "seed": parameters["seed"],
        "report_to": "none",
        "disable_tqdm": True,
        **template_options(),
        **precision_options(parameters["precision"]),
    }
    if parameters["maxSamples"]:
        answer["max_samples"] = parameters["maxSamples"]
    if validation:
        answer |= {"eval_dataset": "validation", "eval_strategy": "steps", "eval_steps": every}
    if method in ("lora", "qlora"):
        answer |= {"lora_rank": parameters["loraRank"], "lora_target": "all"}
    if method == "qlora":
        answer |= {"quantization_bit": 4, "quantization_method": "bnb"}
    return answer | parameters["llamafactory"]


def main() -> None:
    rows = read_jsonl(Path("dataset/train.jsonl"))
    validation = Path("dataset/validation.jsonl").exists()
    base_model("model", parameters["precision"])
    datasets = {"train": "dataset/train.jsonl"} | ({"validation": "dataset/validation.jsonl"} if validation else {})
    given = options(len(rows), validation) | data_folder({**datasets, ROWS: f"{ROWS}.jsonl"})
    checkpoint = resume_point()
    facts = preflight(given, resumed=checkpoint is not None)
    tell_lost_work(int(checkpoint.name.split("-")[1]) if checkpoint else 0)
    if checkpoint:
        given["resume_from_checkpoint"] = str(checkpoint)
        keep_order_after_resume()
    else:
        shutil.rmtree(TRAINER, ignore_errors=True)
    event("note", text=f"training on {len(rows)} rows")
    run_exp(given, [Progress("learning")])

    # LLaMA-Factory exits with 0 after an abort too: only the step count tells whether the training is complete.
    state = json.loads((TRAINER / "trainer_state.json").read_text("utf-8"))
    if state["global_step"] < state["max_steps"] and "early_stopping_steps" not in given:
        fail(f"the training ended at step {state['global_step']} of {state['max_steps']}")

    for pattern in WANTED:
        for file in TRAINER.glob(pattern):
            shutil.move(file, out / file.name)
    for file in out.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            bad = [name for name in tensors.keys() if not torch.isfinite(tensors.get_tensor(name)).all()]  # noqa: SIM118
        if bad:
            fail(f"{len(bad)} trained tensors are NaN or infinite, such as {bad[0]}: lower training.learningRate")
    adapter = out / "adapter_config.json"
    if adapter.exists():  # peft writes its sets in any order; the content decides what reruns
        config = json.loads(adapter.read_text("utf-8"))
        config["target_modules"] = sorted(config["target_modules"])
        adapter.write_text(json.dumps(config, indent=2, sort_keys=True), "utf-8")

    # Not train_loss, the mean over all steps, which a resumed run has wrong: the mean over the last tenth.
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    last = losses[-max(1, len(losses) // 10) :]
    evaluated = [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]
    succeed(
        steps=state["global_step"],
        loss=round(sum(last) / len(last), 4),
        firstLoss=losses[0],
        evalLoss=round(evaluated[-1], 4) if evaluated else None,
        resumedFrom=next((one["resumedFrom"] for one in reversed(told()) if "resumedFrom" in one), None),
        lostSteps=sum(one.get("lostSteps", 0) for one in told()),
        lostSeconds=round(sum(one.get("lostSeconds", 0) for one in told()), 1),
        **facts,
    )


# A process that the preflight spawns imports this file too.
if __name__ == "__main__":
    main()
