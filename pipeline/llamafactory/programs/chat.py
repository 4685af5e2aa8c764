"""Has one model or two answer a client, over stdin and stdout, for as long as it listens.

A line in is {"ask": name of a model, "messages": […], "maxTokens": n, "temperature": t}, or {"stop": true}. Lines out
are {"note": text}, {"ready": true}, and of an answer {"text": piece} …, then {"end": "stop" | "length" | "stopped"} or
{"error": text}.
"""

import copy
import json
import os
import queue
import sys
import threading
from pathlib import Path

# The answers' way out is ours alone; whatever else is printed goes where the log is.
answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
os.dup2(2, 1)
questions = queue.SimpleQueue()
stopped = threading.Event()


def listen() -> None:
    for line in sys.stdin:
        given = json.loads(line)
        if given.get("stop"):
            stopped.set()
        else:
            stopped.clear()
            questions.put(given)
    os._exit(0)  # nobody listens any more


def say(**what) -> None:
    print(json.dumps(what, ensure_ascii=False), file=answers)


threading.Thread(target=listen, daemon=True).start()
say(note="starting LLaMA-Factory")

from answering import context_of, end_streams_of_failures, load, tokens_of  # noqa: E402
from retune_job import base_model, parameters, trained_options  # noqa: E402
from transformers import StoppingCriteriaList  # noqa: E402


def options_of(name: str) -> dict:
    if name == "tuned":
        return trained_options()
    return {"model_name_or_path": base_model("model" if name == "base" else name, parameters["precision"])}


def stoppable(model) -> None:
    """An answer that is not wanted any more is not computed to its end."""
    generate = model.generate

    def generate_until_stopped(*args, **options):
        criteria = StoppingCriteriaList([lambda ids, scores, **_: stopped.is_set()])
        return generate(*args, **options, stopping_criteria=criteria)

    model.generate = generate_until_stopped


def answer(model, given: dict) -> None:
    tokens = tokens_of(model.engine, given["messages"])
    left = context_of(model.engine) - tokens
    if left < 1:
        return say(error=f"the conversation is longer than the model's context: {tokens} of {tokens + left} tokens")
    most = min(given["maxTokens"], left)
    pieces = ""
    options = {"max_new_tokens": most, "temperature": given["temperature"], "do_sample": given["temperature"] > 0}
    try:
        for piece in model.stream_chat(given["messages"], **options):
            pieces += piece
            if piece and not stopped.is_set():
                say(text=piece)
    except Exception as error:
        return say(error=f"the model could not answer: {str(error) or type(error).__name__}")
    length = len(model.engine.tokenizer.encode(pieces, add_special_tokens=False))
    return say(end="stopped" if stopped.is_set() else "length" if length >= most else "stop")


models = {}
for asked in parameters["models"]:
    name = asked["name"]
    say(note=f"loading the {name} model")
    parameters.update(asked)  # template and precision of this one: what loads it takes them from there
    models[name] = load(options_of(name))
    # LLaMA-Factory has one object for all models with a template, in which the last one says whether they think.
    models[name].engine.template = copy.copy(models[name].engine.template)
    end_streams_of_failures(models[name].engine.model)
    stoppable(models[name].engine.model)
Path("outcome.json").unlink(missing_ok=True)
say(ready=True)
while True:
    given = questions.get()
    answer(models[given["ask"]], given)
