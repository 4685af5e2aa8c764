"""Stands in for vLLM, which needs a GPU and 8 GB of packages: what LLaMA-Factory asks of it is written to vllm.jsonl in
the working folder, and every answer is the same; one that is to stop at "never" goes on. As the real one may, it has a process of its own that is started afresh."""

import asyncio
import json
import multiprocessing
import os
from pathlib import Path
from types import SimpleNamespace

__version__ = "0.11.0"
RequestOutput = None


def note(kind, what):
    with Path("vllm.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({kind: what}) + "\n")


def engine_process():
    note("process", {"knowsTheKey": "API_KEY" in os.environ})


class AsyncEngineArgs:
    def __init__(self, **arguments):
        self.arguments = arguments


class SamplingParams:
    def __init__(self, **arguments):
        self.arguments = arguments


class AsyncLLMEngine:
    @classmethod
    def from_engine_args(cls, asked):
        note("engine", asked.arguments)
        process = multiprocessing.get_context("spawn").Process(target=engine_process)
        process.start()
        process.join()
        if process.exitcode != 0:
            raise RuntimeError("Engine core initialization failed.")
        return cls()

    async def generate(self, prompt, sampling_params, request_id, lora_request):  # noqa: ARG002
        note("request", sampling_params.arguments)
        if sampling_params.arguments["stop"] == "never":
            try:
                await asyncio.Event().wait()
            finally:
                note("request", "ended")
        for text in ("a", "a stand-in"):
            answer = SimpleNamespace(text=text, token_ids=[0] * len(text), finish_reason="stop")
            yield SimpleNamespace(outputs=[answer], prompt_token_ids=prompt["prompt_token_ids"])
