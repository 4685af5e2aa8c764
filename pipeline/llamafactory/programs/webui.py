"""LLaMA-Factory's own web UI on loopback, with a stack's model and adapter chosen, for as long as its client listens.

The first line in is {"user": …, "password": …}. Lines out are {"note": text}, then {"port": n} once it can be opened.
"""

import contextlib
import json
import os
import socket
import sys
import threading
from pathlib import Path

answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
os.dup2(2, 1)
given = json.loads(sys.stdin.readline())


def end_with_client() -> None:
    sys.stdin.read()
    os._exit(0)


threading.Thread(target=end_with_client, daemon=True).start()
print(json.dumps({"note": "starting LLaMA-Factory's web UI"}), file=answers)
# No page of its may call home.
os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_SHARE="0", HF_HUB_OFFLINE="1")

import gradio as gr  # noqa: E402
from llamafactory.extras.constants import DEFAULT_TEMPLATE, SUPPORTED_MODELS, DownloadSource  # noqa: E402
from llamafactory.webui import common  # noqa: E402
from llamafactory.webui.components import top  # noqa: E402
from llamafactory.webui.interface import create_ui  # noqa: E402
from retune_job import parameters, trained_options  # noqa: E402

ADAPTER = "tuned"


def choose() -> None:
    """Makes the stack's model one of its catalogue, chosen when the page opens."""
    name = parameters["name"]
    options = trained_options()
    adapter = options.get("adapter_name_or_path")
    SUPPORTED_MODELS[name] = {DownloadSource.DEFAULT: str(Path(options["model_name_or_path"]).absolute())}
    DEFAULT_TEMPLATE[name] = parameters["template"]
    common.save_config(parameters["language"], "huggingface", name)
    if adapter is None:
        return
    saved = Path(common.DEFAULT_SAVE_DIR, name, "lora", ADAPTER)
    saved.parent.mkdir(parents=True, exist_ok=True)
    saved.symlink_to(Path(adapter).resolve())
    listed = top.list_checkpoints

    def list_checkpoints(model_name: str, finetuning_type: str):
        found = listed(model_name, finetuning_type)
        if (model_name, finetuning_type) == (name, "lora"):
            return gr.Dropdown(value=[ADAPTER], choices=[ADAPTER], multiselect=True)
        return found

    top.list_checkpoints = list_checkpoints


choose()
with contextlib.closing(socket.socket()) as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
ui = create_ui()
# Whoever reaches it can have it run anything: on loopback that is everybody on the machine.
ui.queue().launch(
    server_name="127.0.0.1",
    server_port=port,
    share=False,
    inbrowser=False,
    prevent_thread_lock=True,
    auth=(given["user"], given["password"]),
    quiet=True,
)
print(json.dumps({"port": port}), file=answers)
threading.Event().wait()
