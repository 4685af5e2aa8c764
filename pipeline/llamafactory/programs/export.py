"""Merges what was trained into the base model, and says in a manifest what it is made of."""

import hashlib
import json
import re
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


def write_manifest(parity: dict) -> dict:
    """Writes retune.json, from which the same run can be started, and answers what it says.

    What was measured is left out: it differs a little from machine to machine, and the same weights are the same
    artifact wherever they are made.
    """
    precision = parameters["precision"]
    manifest = {
        # Of this file with nothing in its place: an edit by hand is noticed.
        "checksum": "",
        **parameters["manifest"],
        "licence": licence_of(Path("model")),
        "parity": {
            "checked": parity["checked"],
            "tensors": parity["tensors"],
            "logitsWithin": LOGITS[precision],
            "weightsWithin": WEIGHTS[precision],
        },
    }
    text = json.dumps(manifest, ensure_ascii=False, indent=1)
    checksum = hashlib.sha256(text.encode("utf-8")).hexdigest()
    (out / "retune.json").write_text(text.replace('"checksum": ""', f'"checksum": "{checksum}"', 1), "utf-8")
    return manifest


def write_card(manifest: dict) -> None:
    """Writes README.md as Hugging Face reads it: metadata in YAML, then what people must know."""
    training, dataset = manifest["configuration"]["training"], manifest["configuration"]["dataset"]
    hub, recipe, licence = manifest["base"].get("huggingface"), dataset["recipe"], manifest["licence"]
    data = dataset["source"].get("huggingface")
    known = licence and re.fullmatch(r"[a-z0-9][a-z0-9.-]*", licence)
    metadata = {
        "base_model": hub,
        "base_model_relation": "finetune" if hub else None,
        "datasets": [data] if data else None,
        "language": [recipe["language"]] if recipe.get("language") else None,
        "library_name": "transformers",
        "license": licence if known else "other" if licence else None,
        "license_name": None if known else licence,
        "metrics": ["bleu", "rouge"],
        "pipeline_tag": "text-generation",
        "tags": ["llama-factory", training["method"], "retune"],
    }
    hardware = manifest.get("hardware", {})
    machine = ", ".join(hardware.get("gpus", [])) or hardware.get("cpu") or hardware.get("machine")
    base = hub or manifest["base"].get("modelscope") or json.dumps(manifest["base"], ensure_ascii=False)
    parity, override = manifest["parity"], manifest.get("override")
    answers = f"{parity['checked']} prompts and {parity['tensors']} tensors were compared"
    lines = [
        "---",
        # JSON is YAML.
        *(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in metadata.items() if value is not None),
        "---",
        "",
        "# A fine-tuned model",
        "",
        *([manifest["notice"], ""] if manifest["notice"] else []),
        *([f"**Accepted against its gate:** {' '.join(override['reason'].split())}", ""] if override else []),
        f"- Base model: {base}" + (f" at {manifest['base']['commit']}" if "commit" in manifest["base"] else ""),
        f"- Licence of the base model: {licence or 'not stated by it'}",
        f"- Licence of the data: {manifest.get('dataLicence', 'not stated')}",
        f"- Data: recipe {recipe['name']}, {json.dumps(manifest['data'], ensure_ascii=False)}",
        f"- Training: {training['method']}, learning rate {training['learningRate']}, {training['precision']}",
        *([f"- Trained on: {machine}"] if machine else []),
        f"- Chat template: {manifest['configuration']['model']['template']}",
        f"- The export was compared with what was trained: {answers}.",
        "",
        "Made by Retune with LLaMA-Factory. `retune.json` says from what; in a checkout of Retune",
        "`npm run up -- --from retune.json` makes it again. `sha256sum -c SHA256SUMS` checks the files.",
        "",
    ]
    (out / "README.md").write_text("\n".join(lines), "utf-8")


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
    write_card(write_manifest(parity))
    files = sorted(file for file in out.iterdir() if file.is_file())
    sums = "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
    (out / "SHA256SUMS").write_text(sums)
    succeed(files=len(files) + 1, bytes=sum(file.stat().st_size for file in out.iterdir()), parity=parity)


main()
