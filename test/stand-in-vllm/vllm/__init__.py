"""Stands in for vLLM, which needs a GPU and 8 GB of packages: what LLaMA-Factory asks of it is written to vllm.jsonl in
the working folder, and every answer is the same; one that is to stop at "never" goes on. As the real one may, it has a process of its own that is started afresh, and that joins a group of torch's processes."""

import asyncio
import json
import multiprocessing
import os
import re
import socket
from pathlib import Path
from types import SimpleNamespace

__version__ = "0.11.0"
RequestOutput = None


def note(kind, what):
    with Path("vllm.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({kind: what}) + "\n")


def engine_process():
    import torch.distributed

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = os.environ.get("VLLM_HOST_IP", "0.0.0.0")
    torch.distributed.init_process_group("gloo", init_method=f"tcp://{own}:{port}", rank=0, world_size=1)
    note("process", {"knowsTheKey": "API_KEY" in os.environ, "listensAt": listens_at()})


def listens_at():
    """The addresses, as the kernel lists them: that of loopback is 0100007F."""
    links = (os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink())
    own = {found[1] for link in links if (found := re.match(r"socket:\[(\d+)\]", link))}
    lines = [line.split() for kind in ("tcp", "tcp6") for line in Path("/proc/net", kind).read_text().splitlines()]
    return sorted({line[1].split(":")[0] for line in lines if line[3] == "0A" and line[9] in own})


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
