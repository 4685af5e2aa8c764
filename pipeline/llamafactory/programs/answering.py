"""A model that answers people: what service and chat have in common."""

import logging
import os
import re
import sys
import threading
import traceback
from contextvars import ContextVar

os.environ["API_VERBOSE"] = "0"  # else every request is printed in full
os.environ["ALLOW_LOCAL_FILES"] = "0"

import torch
import transformers.modeling_utils
from llamafactory.chat import ChatModel
from llamafactory.chat.hf_engine import HuggingfaceEngine
from retune_job import DTYPES, fail, parameters, template_options

# Of the request that is answered: set once nobody waits for the answer.
abandoned: ContextVar[threading.Event | None] = ContextVar("abandoned", default=None)


class Invented(logging.Handler):
    """Hears of weights that are not in the files: transformers makes some up, warns, and goes on."""

    names = None

    def emit(self, record) -> None:
        found = re.search(r"newly initialized: \[(.*)\]", record.getMessage())
        if found:
            self.names = found[1].replace("'", "")


def load(options: dict, backend: str = "huggingface") -> ChatModel:
    """The model of these options of LLaMA-Factory; where it cannot be loaded, the program ends with the reason."""
    invented = Invented(logging.WARNING)
    transformers.modeling_utils.logger.addHandler(invented)
    try:
        model = ChatModel(
            {
                **options,
                **template_options(),
                "infer_backend": backend,
                "infer_dtype": DTYPES[parameters["precision"]],
            }
        )
    except Exception as error:
        said = str(error).strip()
        if isinstance(error, MemoryError) or "out of memory" in said or "allocate memory" in said:
            first, *_ = said.splitlines() or [type(error).__name__]
            fail(f"out of memory while the model was loaded: {first}")
        traceback.print_exc()
        fail(f"the model cannot be loaded: {type(error).__name__}: {' '.join(said.split())}")
    if invented.names is not None:
        fail(f"the model cannot be loaded: weights are not in its files: {invented.names}")
    return model


def context_of(engine) -> int:
    """Tokens of question and answer together."""
    if engine.name == "vllm":
        return int(engine.model_args.vllm_maxlen)
    return int(getattr(engine.model.config, "max_position_embeddings", None) or sys.maxsize)


def tokens_of(engine, messages: list, system: str | None = None, tools: str | None = None) -> int:
    """The length of a conversation as the model gets it."""
    paired = [*messages, {"role": "assistant", "content": ""}]
    return len(engine.template.encode_oneturn(engine.tokenizer, paired, system, tools)[0])


def end_streams_of_failures(model) -> None:
    """Generation is a thread; one that dies, as of too little memory, would leave its reader waiting for ever."""
    generate = model.generate

    def generate_or_break(*args, **options):
        try:
            return generate(*args, **options)
        except Exception:
            if "streamer" in options and threading.current_thread() is not threading.main_thread():
                options["streamer"].text_queue.put(None)  # no text: the stream breaks off where it is read
            raise

    model.generate = generate_or_break


def end_abandoned_answers() -> None:
    """Generation is a thread that nothing interrupts: after each token it looks whether somebody waits for the next."""
    process_args = HuggingfaceEngine._process_args

    def process_args_and_look(*args, **options):
        generation, length = process_args(*args, **options)
        nobody_waits = abandoned.get()

        def is_over(tokens, _scores, **_more):
            return torch.full((len(tokens),), nobody_waits.is_set(), device=tokens.device)

        if nobody_waits is not None:
            generation["stopping_criteria"] = transformers.StoppingCriteriaList([is_over])
        return generation, length

    HuggingfaceEngine._process_args = staticmethod(process_args_and_look)
