"""A model that answers people: what service and chat have in common."""

import os
import sys
import threading

os.environ["API_VERBOSE"] = "0"  # else every request is printed in full
os.environ["ALLOW_LOCAL_FILES"] = "0"

from llamafactory.chat import ChatModel
from retune_job import DTYPES, fail, parameters, template_options


def load(options: dict, backend: str = "huggingface") -> ChatModel:
    """The model of these options of LLaMA-Factory; where memory does not do for it, the program ends with that."""
    try:
        return ChatModel(
            {
                **options,
                **template_options(),
                "infer_backend": backend,
                "infer_dtype": DTYPES[parameters["precision"]],
            }
        )
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "out of memory" in str(error) or "allocate memory" in str(error):
            said = str(error).splitlines()[:1] or [type(error).__name__]
            fail(f"out of memory while the model was loaded: {said[0]}")
        raise


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
