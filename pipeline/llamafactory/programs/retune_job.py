"""What the programs of all stages share. They run in runs/KEY/work, with LLaMA-Factory already imported."""

import json
import math
import re
import sys
import time
from pathlib import Path

from transformers import TrainerCallback

job = json.loads(Path("../job.json").read_text("utf-8"))
parameters = job["parameters"]
out = Path("out")

# The exit code that tells the runner so: see there.
STOPPED = 75
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


# The wall clock may be put while the program runs; the time left is counted from this one.
STARTED_BY = time.time() - time.monotonic()


def event(kind: str, **values) -> None:
    """Appends one line of progress for whoever follows the run."""
    line = json.dumps({"time": round(STARTED_BY + time.monotonic(), 3), "type": kind, **values}, ensure_ascii=False)
    with Path("../events.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def succeed(**metrics) -> None:
    Path("outcome.json").write_text(json.dumps({"metrics": metrics}, ensure_ascii=False), "utf-8")


def fail(message: str) -> None:
    """Ends the program with a message for people instead of a traceback."""
    Path("outcome.json").write_text(json.dumps({"error": message}, ensure_ascii=False), "utf-8")
    print(message, file=sys.stderr)
    sys.exit(1)


def stop_requested() -> bool:
    return Path("../stop").exists()


def read_jsonl(path: Path) -> list:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def licence_of(model: Path) -> str | None:
    """The licence of a model as its card says it, else the first line of its licence file, else None."""
    card = model / "README.md"
    text = card.read_text("utf-8", "replace") if card.exists() else ""
    # Metadata stand between two lines of dashes at the top.
    metadata = re.match(r"---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    fields = dict(
        re.findall(r"^(license(?:_name)?):[ \t]*[\"']?([^\"'\r\n#]+)", metadata[1] if metadata else "", re.MULTILINE)
    )
    named = fields.get("license_name") if fields.get("license", "").strip() == "other" else fields.get("license")
    if named and named.strip():
        return named.strip()
    for file in sorted(model.glob("LICENSE*")):
        lines = [line.strip() for line in file.read_text("utf-8", "replace").splitlines()]
        first = next((line for line in lines if line), None)
        if first:
            return first
    return None


def base_model(source: str, precision: str) -> str:
    """A folder that looks like the model in `source`, but loads in `precision`; answers its name.

    LLaMA-Factory takes the weights' type from config.json unless told to use bf16: a model stored in bf16 trains in
    bf16 even where fp32 is asked for. The name stays the same for all runs, because it is written into the adapter.
    """
    view = Path("base")
    view.mkdir(exist_ok=True)
    for link in view.iterdir():
        if not Path(source, link.name).exists():
            link.unlink()  # of another model, whose weights would be loaded in place of these
    for file in Path(source).iterdir():
        link = view / file.name
        link.unlink(missing_ok=True)
        if file.name == "config.json":
            config = json.loads(file.read_text("utf-8"))
            config.pop("torch_dtype", None)
            config["dtype"] = DTYPES[precision]
            link.write_text(json.dumps(config, indent=2), "utf-8")
        else:
            link.symlink_to(file.resolve())
    return str(view)


def precision_options(precision: str) -> dict:
    return {} if precision == "fp32" else {precision: True}


def template_options() -> dict:
    """The chat format: the same in training, evaluation, export and service, or the model answers beside the point."""
    options = {"template": parameters["template"]}
    if parameters.get("enableThinking") is not None:
        options["enable_thinking"] = parameters["enableThinking"]
    return options


def data_folder(datasets: dict) -> dict:
    """Registers JSON Lines files with LLaMA-Factory by name; answers the options that make it find them."""
    folder = Path("data")
    folder.mkdir(exist_ok=True)
    information = {}
    for name, file in datasets.items():
        link = folder / f"{name}.jsonl"
        link.unlink(missing_ok=True)
        link.symlink_to(Path(file).resolve())
        information[name] = {"file_name": link.name}
    (folder / "dataset_info.json").write_text(json.dumps(information), "utf-8")
    # A cache of the run's own: the shared one is keyed by path and time of the file and has served stale rows.
    return {"dataset_dir": str(folder), "cache_dir": "cache", "overwrite_cache": True}


def trained_options() -> dict:
    """How to load what was trained: an adapter on the base, or the trained model itself; the base where neither is."""
    precision = parameters["precision"]
    if not Path("trained").exists():
        return {"model_name_or_path": base_model("model", precision), "finetuning_type": "lora"}
    if Path("trained/adapter_config.json").exists():
        return {
            "model_name_or_path": base_model("model", precision),
            "adapter_name_or_path": "trained",
            "finetuning_type": "lora",
        }
    return {"model_name_or_path": base_model("trained", precision), "finetuning_type": "full"}


def rendered(prompt: str) -> dict:
    """A question in the form of the data set's rows."""
    return {"instruction": parameters["instruction"], "input": prompt, "output": ""}


def predict(rows: list, name: str, **model_options) -> list:
    """Greedy answers of the model to rows (Alpaca), in their order: [{"prompt": as rendered, "answer": text}, ...]."""
    from llamafactory.train.tuner import run_exp

    file = Path(f"{name}.jsonl")
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    run_exp(
        {
            **model_options,
            **template_options(),
            **data_folder({name: file}),
            **precision_options(parameters["precision"]),
            "stage": "sft",
            "do_predict": True,
            "predict_with_generate": True,
            "do_sample": False,
            "eval_dataset": name,
            "cutoff_len": parameters["cutoffLength"],
            "max_new_tokens": parameters["maxNewTokens"],
            "per_device_eval_batch_size": parameters["batchSize"],
            "output_dir": f"predict-{name}",
            "report_to": "none",
            "seed": 42,
        },
        [Progress(f"answers {name}")],
    )
    lines = read_jsonl(Path(f"predict-{name}/generated_predictions.jsonl"))
    if len(lines) != len(rows):
        fail(f"LLaMA-Factory answered {len(lines)} of {len(rows)} prompts")
    return [{"prompt": line["prompt"], "answer": line["predict"].strip()} for line in lines]


def why_not_finite(logs: dict, step: int):
    """What has become NaN or infinite, in words; None where nothing has."""
    for name in ("loss", "grad_norm", "eval_loss"):
        value = logs.get(name)
        # The trainer shows a NaN loss as 0.0 and ends with success; only the gradient's norm tells.
        if value is not None and not math.isfinite(float(value)):
            return f"{name} became {value} at step {step}: lower training.learningRate, or check the data"
    return None


class Progress(TrainerCallback):
    """Turns the trainer's own calls into events, ends a training that became NaN, saves and stops on request."""

    def __init__(self, phase: str, trains: bool = True):
        self.phase = phase
        self.trains = trains
        self.predicted = 0

    def on_log(self, args, state, control, logs=None, **_):
        logs = logs or {}
        why = why_not_finite(logs, state.global_step) if self.trains else None
        if why:
            fail(why)
        if "loss" in logs:
            event(
                "progress",
                phase=self.phase,
                step=state.global_step,
                steps=state.max_steps,
                loss=round(logs["loss"], 5),
                learningRate=logs.get("learning_rate"),
            )
        elif math.isfinite(logs.get("eval_loss", math.nan)):
            event("evaluated", step=state.global_step, steps=state.max_steps, evalLoss=round(logs["eval_loss"], 5))

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **_):
        self.predicted += 1
        if not state.max_steps:
            event("progress", phase=self.phase, step=self.predicted, steps=len(eval_dataloader))

    def on_step_end(self, args, state, control, **_):
        if stop_requested():
            control.should_save = True
            control.should_training_stop = True
        return control

    def on_save(self, args, state, control, **_):
        """Tells the runner that there is a whole checkpoint, of which it may keep a copy elsewhere."""
        saved = {"folder": f"{args.output_dir}/checkpoint-{state.global_step}", "step": state.global_step}
        Path("saved.json.new").write_text(json.dumps(saved), "utf-8")
        Path("saved.json.new").replace("saved.json")

    def on_train_end(self, args, state, control, **_):
        # The checkpoint is written by now. LLaMA-Factory would go on with a whole evaluation of a model half trained.
        if stop_requested() and state.global_step < state.max_steps:
            sys.exit(STOPPED)
