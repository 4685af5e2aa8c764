"""Evaluates a model on the held-out rows and the fixed prompts; out/evaluation.json holds every case."""

import json
from pathlib import Path

import jieba
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from retune_job import (
    Progress,
    data_folder,
    event,
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
from transformers import AutoTokenizer


def held_out_loss(model: dict, file: Path) -> float:
    """Mean cross-entropy per token of the held-out answers. A call of its own: with generation there is no loss."""
    from llamafactory.train.tuner import run_exp

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
        [Progress("held-out loss")],
    )
    return json.loads(Path("loss/eval_results.json").read_text("utf-8"))["eval_loss"]


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
    loss = held_out_loss(model, file) if held_out else None
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
    metrics = {"evalLoss": None if loss is None else round(loss, 4), "rows": len(held_out)}
    for name in ("bleu4", "rouge1", "rouge2", "rougeL"):
        metrics[name] = round(sum(case[name] for case in judged) / len(judged), 2) if judged else None
    tuned = {"metrics": metrics, "cases": judged, "prompts": prompted}
    baseline = Path("baseline/evaluation.json")
    content = tuned
    if baseline.exists():
        content = {"base": json.loads(baseline.read_text("utf-8")), "tuned": tuned}
        metrics = {"base": content["base"]["metrics"], "tuned": metrics, "rows": len(held_out)}
    (out / "evaluation.json").write_text(json.dumps(content, ensure_ascii=False, indent=1), "utf-8")
    succeed(**metrics)


main()
