"""Merges what was trained into the base model and proves that the merged model still answers like it."""

import hashlib
import json
from pathlib import Path

import torch
from llamafactory.train.tuner import export_model
from retune_job import (
    DTYPES,
    base_model,
    event,
    fail,
    licence_of,
    out,
    parameters,
    predict,
    rendered,
    succeed,
    template_options,
    trained_options,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

# Rounding in half precision moves logits by up to about 1 at a magnitude of 43 (measured); a wrong merge by far more.
HALF_PRECISION_LOGITS = 2.0


def largest_logit_difference(texts: list) -> float:
    """Between base + adapter and the merged model, over all positions of the given texts."""
    from peft import PeftModel

    tokenizer = AutoTokenizer.from_pretrained(out)
    tuned = AutoModelForCausalLM.from_pretrained(base_model("model", parameters["precision"]))
    tuned = PeftModel.from_pretrained(tuned, "trained").eval()
    merged = AutoModelForCausalLM.from_pretrained(out).eval()
    largest = 0.0
    with torch.no_grad():
        for text in texts:
            tokens = tokenizer(text, return_tensors="pt", add_special_tokens=False)
            difference = (tuned(**tokens).logits.float() - merged(**tokens).logits.float()).abs().max().item()
            largest = max(largest, difference)
    return largest


def check_parity() -> dict:
    """Greedy answers must be equal, character for character, in fp32; in half precision logits must be close."""
    if not Path("trained/adapter_config.json").exists() or not parameters["prompts"]:
        return {"checked": 0}
    rows = [rendered(prompt) for prompt in parameters["prompts"]]
    before = predict(rows, "adapter", **trained_options())
    after = predict(rows, "merged", model_name_or_path="out", finetuning_type="lora")
    different = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a["answer"] != b["answer"]]
    parity = {"checked": len(rows), "equal": len(rows) - len(different)}
    if parameters["precision"] != "fp32":
        parity["logits"] = round(largest_logit_difference([one["prompt"] + one["answer"] for one in before]), 5)
        if parity["logits"] <= HALF_PRECISION_LOGITS:
            return parity
        fail(f"the merged model's logits differ by up to {parity['logits']} from those of base + adapter")
    if different:
        first = different[0]
        answers = f"{after[first]['answer'][:80]!r} instead of {before[first]['answer'][:80]!r}"
        fail(
            f"the merged model answers {len(different)} of {len(rows)} prompts differently from base + adapter: "
            f"{parameters['prompts'][first]!r} gives {answers}"
        )
    return parity


def main() -> None:
    event("note", text="merging")
    model = {k: v for k, v in trained_options().items() if k != "finetuning_type"}
    export_model(
        {
            **model,
            **template_options(),
            "export_dir": str(out),
            "export_size": 5,
            "export_device": "cpu",
            "infer_dtype": DTYPES[parameters["precision"]],
        }
    )
    if not list(out.glob("*.safetensors")):
        fail("LLaMA-Factory exported no safetensors weights")
    event("note", text="comparing the merged model with base + adapter")
    parity = check_parity()
    manifest = {**parameters["manifest"], "licence": licence_of(Path("model")), "parity": parity}
    (out / "retune.json").write_text(json.dumps(manifest, ensure_ascii=False, indent=1))
    (out / "README.md").write_text(parameters["card"], "utf-8")
    files = sorted(file for file in out.iterdir() if file.is_file())
    sums = "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
    (out / "SHA256SUMS").write_text(sums)
    succeed(files=len(files) + 1, bytes=sum(file.stat().st_size for file in out.iterdir()), parity=parity)


main()
