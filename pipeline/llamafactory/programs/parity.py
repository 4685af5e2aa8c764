"""Proves that the exported model is what was trained: the same weights, the same logits, the same answers."""

from pathlib import Path

import torch
from retune_job import base_model, event, fail, out, parameters, predict, rendered, trained_options
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

# The largest difference of logits, as a share of the largest logit. In fp32 rounding makes 2e-6 of it (measured), in a
# merge done in bf16 0.006; with one tensor scaled by 1.01 it is 0.001 and more.
LOGITS = {"fp32": 5e-5, "bf16": 0.05, "fp16": 0.05}
# The largest difference of a tensor and of one of its rows and columns, as shares of their norms, and of one of its
# numbers. A merge of LoRA or DoRA rounds to 0.0021, 0.0033 and 0.0076 of these in bf16, to an eighth of it in fp16 and
# to 1e-7 in fp32 (measured). Scaled by 1.01 it is 0.01, which for one number in bf16 is no more than its last digit. A
# tensor before a norm can be scaled without any change of logits, so both are looked at.
WEIGHTS = {
    "fp32": {"tensor": 1e-5, "line": 1e-5, "number": 1e-5},
    "bf16": {"tensor": 5e-3, "line": 7.5e-3, "number": 1.6e-2},
    "fp16": {"tensor": 1e-3, "line": 1e-3, "number": 2e-3},
}
# Numbers that are compared at a time: a large model's embedding need not be there several times over.
AT_A_TIME = 2**24


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


def tensors_in(folder: Path) -> dict:
    """The file of each tensor, by its name."""
    files = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            files.update(dict.fromkeys(tensors.keys(), file))
    return files


def read_tensor(file: Path, name: str):
    with safe_open(file, "pt") as tensors:
        return tensors.get_tensor(name)


def largest_differences(exported, should, base) -> dict:
    """By how much an exported tensor differs, as (share, place) of the tensor, of its worst line and its worst number.

    Lines and numbers are as large as what they were merged of, for that is what was rounded: a sum may be next to
    nothing. What is small beside the others, such as the row of a token that no training has seen, is as exact as they
    are. Where `base` is None that is not known, and single numbers are not looked at.
    """

    def lines(tensor):
        return tensor.reshape(len(tensor), -1) if tensor.dim() > 1 else tensor.reshape(1, -1)

    def share(difference, size):
        ratio = difference / size.clamp_min(1e-12)
        return torch.where(ratio.isfinite(), ratio, torch.inf)

    exported, should = lines(exported), lines(should)
    base = None if base is None else lines(base)
    rows, columns, number = [], 0, (0.0, "")
    step = max(1, AT_A_TIME // should.shape[1])
    for start in range(0, len(should), step):
        one = should[start : start + step].float()
        other = one if base is None else base[start : start + step].float()
        size = (one.abs() + other.abs() + (one - other).abs()) / 2
        difference = (exported[start : start + step].float() - one).abs()
        squares = torch.stack([difference, size]).square()
        rows.append(squares.sum(2))
        columns = columns + squares.sum(1)
        if base is not None:
            shares = share(difference, size + 0.05 * size.square().mean().sqrt())
            row, column = divmod(int(shares.argmax()), shares.shape[1])
            at = f"the number in row {start + row + 1}, column {column + 1} of "
            number = max(number, (shares[row, column].item(), at))
    rows = torch.cat(rows, 1)
    line = (0.0, "")
    # A vector is one row itself, and its columns are single numbers.
    for kind, sums in (("row", rows), ("column", columns)) if len(should) > 1 else ():
        difference, size = sums.sqrt()
        shares = share(difference, size.clamp_min(0.05 * size.square().mean().sqrt()))
        line = max(line, (shares.max().item(), f"{kind} {int(shares.argmax()) + 1} of "))
    whole = share(rows[0].sum().sqrt(), should.norm(dtype=torch.float32)).item()
    return {"tensor": (whole, ""), "line": line, "number": number}


def compare_weights(tuned, reasons: list) -> int:
    """Compares each exported tensor with the one that it must be; answers their number."""
    is_merged = hasattr(tuned, "merge_and_unload")
    expected = (tuned.merge_and_unload() if is_merged else tuned).state_dict()
    bases = tensors_in(Path("model"))
    seen, worst = set(), dict.fromkeys(("tensor", "line", "number"), (0.0, ""))
    for name, file in tensors_in(out).items():
        exported, should = read_tensor(file, name), expected.get(name)
        if should is None or should.shape != exported.shape:
            fail(f"the exported model has a tensor {name} that what was trained has not, or in another shape")
        base = should
        if is_merged:
            base = read_tensor(bases[name], name) if name in bases else None
            base = base if base is not None and base.shape == should.shape else None
        for kind, (share, place) in largest_differences(exported, should, base).items():
            worst[kind] = max(worst[kind], (share, place + name))
        seen.add(should.data_ptr())
    # Tied weights are stored once.
    missing = [name for name, tensor in expected.items() if tensor.data_ptr() not in seen]
    if missing:
        fail(f"the exported model lacks {len(missing)} tensors of what was trained, such as {missing[0]}")
    told = (0.0, "")
    for kind, (share, place) in worst.items():
        allowed = WEIGHTS[parameters["precision"]][kind]
        # A part is named where it differs much more than the whole: of what differs throughout, the whole is.
        if share > allowed and share > 3 * told[0]:
            told = (share, f"{place} differs by {share:.2%} of its norm, where {allowed:.3%} is rounding")
    if told[1]:
        reasons.append(told[1])
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
        measured = {
            "checked": len(rows),
            "equal": equal,
            "tensors": tensors,
            "logits": float(f"{share:.2g}"),
        }
    if reasons:
        fail("the exported model is not what was trained: " + "; ".join(reasons))
    return measured
