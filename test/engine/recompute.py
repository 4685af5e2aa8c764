"""Works out anew what an evaluation says, from the questions, answers and losses in its file alone.

It is written by the definitions and shares no code with what it is held against: neither the product's nor nltk's,
rouge_chinese's or LLaMA-Factory's. Only the words of a Chinese text are taken from jieba, for there is no other measure
of those. `evaluation.json` comes over stdin; what it should say goes to stdout.
"""

import json
import math
import random
import re
import sys
from collections import Counter

import jieba

jieba.setLogLevel("ERROR")
RESAMPLES = 4000


def runs(items: list, length: int) -> list:
    return [tuple(items[at : at + length]) for at in range(len(items) - length + 1)]


def bleu4(answer: str, reference: str) -> float:
    """Papineni's, of characters; a length without a match counts half, a quarter, … of a match (NIST's smoothing)."""
    if not set(answer) & set(reference):
        return 0.0
    product, share = 1.0, 1.0
    for length in (1, 2, 3, 4):
        said, wanted = Counter(runs(list(answer), length)), Counter(runs(list(reference), length))
        matches = sum(min(count, wanted[run]) for run, count in said.items())
        if matches == 0:
            share /= 2
        product *= (matches or share) / max(1, sum(said.values()))
    brevity = 1.0 if len(answer) > len(reference) else math.exp(1 - len(reference) / len(answer))
    return 100 * brevity * product**0.25


def words_of(text: str) -> list:
    """jieba's, sentence by sentence; what of white space alone stands between two is counted as one empty word."""
    spaced = re.sub(r"(?<=[。！？?]) ", "\n ", " ".join(jieba.cut(text)).rstrip())
    return [word for line in spaced.split("\n") if line for word in line.split() or [""]]


def f_score(common: int, said: int, wanted: int) -> float:
    """Of both numbers the harmonic mean; the tiny summand keeps it from a division by zero."""
    precision, recall = common / said if said else 0.0, common / wanted if wanted else 0.0
    return 100 * 2 * precision * recall / (precision + recall + 1e-8)


def in_common(one: list, other: list) -> int:
    """The length of the longest common subsequence."""
    best = [0] * (len(other) + 1)
    for item in one:
        diagonal = 0
        for at, opposite in enumerate(other, 1):
            diagonal, best[at] = best[at], diagonal + 1 if item == opposite else max(best[at], best[at - 1])
    return best[-1]


def scores(answer: str, reference: str) -> dict:
    said, wanted = words_of(answer), words_of(reference)
    rouge = {"rouge1": 0.0, "rouge2": 0.0, "rougeL": 0.0}
    if answer.strip() and reference.strip():
        for length in (1, 2):
            mine, theirs = set(runs(said, length)), set(runs(wanted, length))
            rouge[f"rouge{length}"] = f_score(len(mine & theirs), len(mine), len(theirs))
        rouge["rougeL"] = f_score(in_common(said, wanted), len(said), len(wanted))
    return {"bleu4": bleu4(answer, reference), **rouge}


def values(model: dict, metric: str) -> list:
    """(value, weight) of each held-out row: a loss is one per token, a score one per answer."""
    if metric == "evalLoss":
        return [(row["loss"], row["tokens"]) for row in model["losses"]]
    return [(scores(case["answer"], case["reference"])[metric], 1) for case in model["cases"]]


def mean(rows: list) -> float:
    return sum(value * weight for value, weight in rows) / sum(weight for _, weight in rows)


def decide(evaluation: dict, condition: dict, outcome: dict) -> dict:
    """Whether a condition holds, and how the rest of its outcome stands among resamples of this program's own."""
    metric, against = condition["metric"], condition["against"]
    tuned = values(evaluation["tuned"], metric)
    if against == "incumbent" and against not in evaluation:
        return {"tuned": mean(tuned), "other": None, "held": True}
    if isinstance(against, str):
        other, allowed = values(evaluation[against], metric), condition["maxRegression"]
    else:
        other, allowed = [(against, weight) for _, weight in tuned], 0
    better = -1 if metric == "evalLoss" else 1

    def difference(rows: list) -> float:
        return mean([tuned[row] for row in rows]) - mean([other[row] for row in rows])

    def holds(change: float) -> bool:
        return better * change >= -allowed - 1e-9

    everything = range(len(tuned))
    held = holds(difference(everything))
    draw = random.Random(7)
    drawn = [difference(draw.choices(everything, k=len(tuned))) for _ in range(RESAMPLES)]

    def share(of) -> float:
        return sum(map(of, drawn)) / RESAMPLES

    low, high = outcome["difference"]["low"], outcome["difference"]["high"]
    resampled = {
        "certainty": share(lambda change: holds(change) == held),
        # Below the limit, and up to it: of few rows, many resamples have the very same mean.
        "low": [share(lambda change: change < low - 1e-4), share(lambda change: change <= low + 1e-4)],
        "high": [share(lambda change: change < high - 1e-4), share(lambda change: change <= high + 1e-4)],
    }
    return {"tuned": mean(tuned), "other": mean(other), "held": held, "resampled": resampled}


def recompute(evaluation: dict) -> dict:
    names = [name for name in ("base", "incumbent", "tuned") if name in evaluation]
    metrics = ("evalLoss", "bleu4", "rouge1", "rouge2", "rougeL")
    conditions = zip(evaluation["gate"]["conditions"], evaluation["verdict"]["conditions"], strict=True)
    return {
        "cases": {
            name: [scores(case["answer"], case["reference"]) for case in evaluation[name]["cases"]] for name in names
        },
        "metrics": {name: {metric: mean(values(evaluation[name], metric)) for metric in metrics} for name in names},
        "conditions": [decide(evaluation, condition, outcome) for condition, outcome in conditions],
    }


print(json.dumps(recompute(json.load(sys.stdin))))
