"""Serves a model with LLaMA-Factory's OpenAI-compatible API, on the socket that its front has chosen."""

import importlib
import importlib.util
import json
import os
import socket
import sys
from pathlib import Path

from retune_job import base_model, fail, job, parameters

# LLaMA-Factory's own, for which vLLM sets memory aside before the first question.
VLLM_CONTEXT = 4096


def vllm_options(folder: str) -> dict:
    """vLLM refuses a context that is longer than the model's."""
    longest = json.loads(Path(folder, "config.json").read_text("utf-8")).get("max_position_embeddings")
    return {"vllm_maxlen": min(VLLM_CONTEXT, longest or VLLM_CONTEXT)}


def listen_on_loopback_only() -> None:
    """Of vLLM, and of torch, whose processes find one another over TCP even where there is one only."""
    # The address of vLLM's own; of gloo's and NCCL's the interface. And it reports to nobody how it is used.
    own = {"VLLM_HOST_IP": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    os.environ.update(own, VLLM_NO_USAGE_STATS="1")
    # torch's store listens at every address of the machine, whichever it is asked for, unless it is given a socket.
    rendezvous = importlib.import_module("torch.distributed.rendezvous")
    store = rendezvous.TCPStore

    def store_on_loopback(**asked):
        if asked["is_master"]:
            listener = socket.create_server(("127.0.0.1", asked["port"]))
            asked |= {"port": listener.getsockname()[1], "master_listen_fd": listener.detach()}
        return store(**asked)

    rendezvous.TCPStore = store_on_loopback


def main() -> None:
    # The key comes over stdin, into the memory of this process and nowhere else.
    given = json.loads(sys.stdin.readline())
    vllm = parameters["backend"] == "vllm"
    if vllm and importlib.util.find_spec("vllm") is None:
        fail(
            f"service.backend vllm: vLLM is not installed in {sys.prefix}; "
            "install vllm>=0.4.3,<=0.11.0 there, or set service.backend to huggingface"
        )

    import uvicorn
    from answering import end_abandoned_answers, end_streams_of_failures, load
    from guard import Guard
    from llamafactory.api.app import create_app

    os.environ.update(MAX_CONCURRENT="1", API_MODEL_NAME=f"retune-{job['inputs']['model'][:12]}")
    folder = base_model("model", parameters["precision"])
    chat_model = load({"model_name_or_path": folder, **(vllm_options(folder) if vllm else {})}, parameters["backend"])
    if not vllm:
        end_streams_of_failures(chat_model.engine.model)
        end_abandoned_answers()
    # Only now: what vLLM starts inherits the environment.
    os.environ["API_KEY"] = given["key"]
    app = Guard(create_app(chat_model), chat_model.engine)
    del os.environ["API_KEY"]
    uvicorn.run(app, uds=given["socket"], access_log=False, log_level="warning")


# vLLM may start a process of its own by importing this file again.
if parameters["backend"] == "vllm":
    listen_on_loopback_only()
if __name__ == "__main__":
    main()
