"""Merges what was trained into the base model, and says in a manifest what it is made of."""

import hashlib
import json
from pathlib import Path

from llamafactory.train.tuner import export_model
from parity import LOGITS, WEIGHTS, check_parity
from retune_job import (
    DTYPES,
    event,
    fail,
    licence_of,
    out,
    parameters,
    succeed,
    template_options,
    trained_options,
)


def main() -> None:
    event("note", text="merging")
    model = {k: v for k, v in trained_options().items() if k != "finetuning_type"}
    export_model(
        {
            **model,
            **template_options(),
            "export_dir": str(out),
            "export_size": 5,
            "export_device": "cpu",
            "infer_dtype": DTYPES[parameters["precision"]],
        }
    )
    if not list(out.glob("*.safetensors")):
        fail("LLaMA-Factory exported no safetensors weights")
    parity = check_parity()
    # Without what was measured, which differs a little from machine to machine: the same weights are the same artifact.
    precision = parameters["precision"]
    proven = {"checked": parity["checked"], "tensors": parity["tensors"]}
    proven |= {"logitsWithin": LOGITS[precision], "weightsWithin": WEIGHTS[precision]}
    manifest = {**parameters["manifest"], "licence": licence_of(Path("model")), "parity": proven}
    (out / "retune.json").write_text(json.dumps(manifest, ensure_ascii=False, indent=1))
    (out / "README.md").write_text(parameters["card"], "utf-8")
    files = sorted(file for file in out.iterdir() if file.is_file())
    sums = "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
    (out / "SHA256SUMS").write_text(sums)
    succeed(files=len(files) + 1, bytes=sum(file.stat().st_size for file in out.iterdir()), parity=parity)


main()
