"""Proves that the exported model is what was trained: the same weights, the same logits, the same answers."""

from pathlib import Path

import torch
from retune_job import base_model, event, fail, out, parameters, predict, rendered, trained_options
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

# The largest difference of logits, as a share of the largest logit. In fp32 rounding makes 2e-6 of it (measured), in a
# merge done in half precision 0.006; with one tensor scaled by 1.01 it is 0.001 and more.
LOGITS = {"fp32": 5e-5, "bf16": 0.05, "fp16": 0.05}
# The difference of a tensor, as a share of its norm. Rounding makes 1e-7 and 0.002 of it; scaled by 1.01 it is 0.01. A
# tensor before a norm can be scaled without any change of logits, so both are looked at.
WEIGHTS = {"fp32": 1e-5, "bf16": 5e-3, "fp16": 5e-3}


def tuned_model():
    """What was trained, in fp32 arithmetic: base + adapter, not merged, or the whole model."""
    precision = parameters["precision"]
    if not Path("trained/adapter_config.json").exists():
        return AutoModelForCausalLM.from_pretrained(base_model("trained", precision)).eval()
    from peft import PeftModel

    base = AutoModelForCausalLM.from_pretrained(base_model("model", precision))
    return PeftModel.from_pretrained(base, "trained").eval()


def logits_of(model, texts: list) -> list:
    """For each text (tokens, vocabulary)."""
    tokenizer = AutoTokenizer.from_pretrained(out)
    with torch.no_grad():
        return [
            model(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits[0].float() for text in texts
        ]


def compare_weights(tuned, reasons: list) -> int:
    """Compares each exported tensor with the one that it must be; answers their number."""
    whole = tuned.merge_and_unload() if hasattr(tuned, "merge_and_unload") else tuned
    expected = whole.state_dict()
    allowed = WEIGHTS[parameters["precision"]]
    seen, worst = set(), (0.0, "")
    for file in sorted(out.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                if name not in expected or list(expected[name].shape) != tensors.get_slice(name).get_shape():
                    fail(f"the exported model has a tensor {name} that what was trained has not, or in another shape")
                should, exported = expected[name].float(), tensors.get_tensor(name).float()
                difference = ((exported - should).norm() / should.norm().clamp_min(1e-12)).item()
                worst = max(worst, (difference if difference == difference else float("inf"), name))
                seen.add(expected[name].data_ptr())
    # Tied weights are stored once.
    missing = [name for name, tensor in expected.items() if tensor.data_ptr() not in seen]
    if missing:
        fail(f"the exported model lacks {len(missing)} tensors of what was trained, such as {missing[0]}")
    if worst[0] > allowed:
        reasons.append(f"{worst[1]} differs by {worst[0]:.2%} of its norm, where {allowed:.3%} is rounding")
    return len(seen)


def compare_logits(before: list, after: list, texts: list, reasons: list) -> float:
    """The largest difference as a share of the largest logit; where it is too large, the first token at which it is."""
    allowed = LOGITS[parameters["precision"]]
    tokenizer = AutoTokenizer.from_pretrained(out)
    largest = 0.0
    for number, (one, other) in enumerate(zip(before, after, strict=True)):
        share = (one - other).abs().amax(-1) / one.abs().max()
        share = torch.where(share.isfinite(), share, torch.inf)
        if share.max() > allowed and largest <= allowed:
            at = int((share > allowed).nonzero()[0])
            tokens = tokenizer(texts[number], add_special_tokens=False)["input_ids"]
            reasons.append(
                f"logits part by {share.max():.2%}, where {allowed:.3%} is rounding, from token {at + 1} of "
                f"{len(tokens)} on ({tokenizer.decode(tokens[at])!r}) at prompt {parameters['prompts'][number]!r}"
            )
        largest = max(largest, share.max().item())
    return largest


def compare_answers(before: list, after: list, reasons: list) -> int:
    """How many prompts are answered alike: in fp32 all must be, character for character."""
    different = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a["answer"] != b["answer"]]
    if different and parameters["precision"] == "fp32":
        first = different[0]
        reasons.append(
            f"{len(different)} of {len(before)} prompts are answered differently: {parameters['prompts'][first]!r} "
            f"gives {after[first]['answer'][:80]!r} instead of {before[first]['answer'][:80]!r}"
        )
    return len(before) - len(different)


def check_parity() -> dict:
    """Ends with all reasons where the model in out/ is not what was trained; else answers what it measured."""
    event("note", text="comparing the exported model with what was trained")
    reasons = []
    if not Path("trained/adapter_config.json").exists():
        measured = {"checked": 0, "tensors": compare_weights(tuned_model(), reasons)}
    else:
        rows = [rendered(prompt) for prompt in parameters["prompts"]]
        before = predict(rows, "adapter", **trained_options())
        after = predict(rows, "merged", model_name_or_path="out", finetuning_type="lora")
        texts = [one["prompt"] + one["answer"] for one in before]
        # One model after the other: both at once may be more than the machine has.
        tuned = tuned_model()
        logits = logits_of(tuned, texts)
        tensors = compare_weights(tuned, reasons)
        del tuned
        merged = AutoModelForCausalLM.from_pretrained(out).eval()
        share = compare_logits(logits, logits_of(merged, texts), texts, reasons)
        equal = compare_answers(before, after, reasons)
        measured = {"checked": len(rows), "equal": equal, "tensors": tensors, "logits": float(f"{share:.2g}")}
    if reasons:
        fail("the exported model is not what was trained: " + "; ".join(reasons))
    return measured
