"""Has one model answer the held-out rows and the fixed prompts; out/evaluation.json holds every case."""

import json
import math
from pathlib import Path

import jieba
import torch
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from retune_job import (
    Progress,
    data_folder,
    event,
    fail,
    out,
    parameters,
    precision_options,
    predict,
    read_jsonl,
    rendered,
    succeed,
    template_options,
    trained_options,
)
from rouge_chinese import Rouge
from transformers import AutoTokenizer, TrainerCallback


class RowLosses(TrainerCallback):
    """Notes the sum and the number of every row's token losses: the trainer itself has only the means of batches."""

    def __init__(self):
        self.rows = []

    def on_init_end(self, args, state, control, model=None, **_):
        model.register_forward_hook(self.note, with_kwargs=True)

    def note(self, module, args, kwargs, output):
        labels = kwargs.get("labels")
        if labels is None or module.training:
            return
        for logits, expected in zip(output.logits, labels, strict=True):
            # Each position foretells the next one; what is no part of the answer is -100.
            wanted = expected[1:] != -100
            picked = logits[:-1][wanted].float()
            total = torch.nn.functional.cross_entropy(picked, expected[1:][wanted], reduction="sum").item()
            self.rows.append((total, int(wanted.sum())))


def held_out_losses(model: dict, file: Path, rows: list) -> list:
    """The mean cross-entropy per token of each held-out answer, None where it is no number or where no token is left.

    A call of its own: with generation there is no loss.
    """
    from llamafactory.train.tuner import run_exp

    losses = RowLosses()
    run_exp(
        {
            **model,
            **template_options(),
            **data_folder({"test": file}),
            **precision_options(parameters["precision"]),
            "stage": "sft",
            "do_eval": True,
            "eval_dataset": "test",
            "cutoff_len": parameters["cutoffLength"],
            "per_device_eval_batch_size": parameters["batchSize"],
            "output_dir": "loss",
            "report_to": "none",
            "seed": 42,
        },
        # Nothing is trained: what is no number is looked at below, row by row.
        [Progress("held-out loss", trains=False), losses],
    )
    if len(losses.rows) != len(rows):
        fail(f"LLaMA-Factory took the loss of {len(losses.rows)} of {len(rows)} held-out rows")
    totals = [total for total, tokens in losses.rows if tokens]
    if totals and not any(map(math.isfinite, totals)):
        fail(no_number())
    return [
        {
            "question": row["input"],
            "loss": round(total / tokens, 6) if tokens and math.isfinite(total) else None,
            "tokens": tokens,
        }
        for row, (total, tokens) in zip(rows, losses.rows, strict=True)
    ]


def no_number() -> str:
    """Of a model that gives no number at all: whose it is, and what to do."""
    precision = parameters["precision"]
    wider = "" if precision == "fp32" else f", or {precision} is too narrow for it: set training.precision to fp32"
    whose, remedy = (
        ("tuned", "lower training.learningRate")
        if Path("trained").exists()
        else ("base", "its weights may be damaged: take another model.source")
    )
    return f"the {whose} model's loss is no number on any held-out row: {remedy}{wider}"


def mean_loss(losses: list) -> float | None:
    """Per token, over all rows."""
    known = [row for row in losses if row["loss"] is not None]
    tokens = sum(row["tokens"] for row in known)
    return round(sum(row["loss"] * row["tokens"] for row in known) / tokens, 4) if tokens else None


def scores(answer: str, reference: str) -> dict:
    """BLEU-4 over characters and ROUGE F over jieba's words, in percent: as LLaMA-Factory computes them."""
    words, expected = list(jieba.cut(answer)), list(jieba.cut(reference))
    rouge = {"rouge-1": {"f": 0.0}, "rouge-2": {"f": 0.0}, "rouge-l": {"f": 0.0}}
    if " ".join(words).split() and " ".join(expected).split():
        rouge = Rouge().get_scores(" ".join(words), " ".join(expected))[0]
    bleu = sentence_bleu([list(reference)], list(answer), smoothing_function=SmoothingFunction().method3)
    return {
        "bleu4": round(bleu * 100, 4),
        "rouge1": round(rouge["rouge-1"]["f"] * 100, 4),
        "rouge2": round(rouge["rouge-2"]["f"] * 100, 4),
        "rougeL": round(rouge["rouge-l"]["f"] * 100, 4),
    }


def main() -> None:
    model = trained_options()
    tokenizer = AutoTokenizer.from_pretrained(model["model_name_or_path"])
    file = Path("dataset/test.jsonl")
    held_out = read_jsonl(file) if file.exists() else []
    losses = held_out_losses(model, file, held_out) if held_out else []
    cases = held_out[: parameters["answeredRows"]]
    event("note", text=f"answering {len(cases)} held-out questions and {len(parameters['prompts'])} prompts")
    answers = predict([*cases, *map(rendered, parameters["prompts"])], "cases", **model)

    def complete(answer: str) -> bool:
        return len(tokenizer.encode(answer, add_special_tokens=False)) < parameters["maxNewTokens"]

    judged = [
        {
            "question": row["input"],
            "reference": row["output"],
            "answer": one["answer"],
            "complete": complete(one["answer"]),
            **scores(one["answer"], row["output"]),
        }
        for row, one in zip(cases, answers, strict=False)
    ]
    prompted = [
        {"prompt": prompt, "answer": one["answer"], "complete": complete(one["answer"])}
        for prompt, one in zip(parameters["prompts"], answers[len(cases) :], strict=True)
    ]
    metrics = {"evalLoss": mean_loss(losses), "rows": len(held_out)}
    for name in ("bleu4", "rouge1", "rouge2", "rougeL"):
        metrics[name] = round(sum(case[name] for case in judged) / len(judged), 2) if judged else None
    content = {"metrics": metrics, "losses": losses, "cases": judged, "prompts": prompted}
    (out / "evaluation.json").write_text(json.dumps(content, ensure_ascii=False, indent=1), "utf-8")
    succeed(**metrics)


main()
