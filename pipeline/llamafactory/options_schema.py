"""Writes the options of LLaMA-Factory's `train` as JSON: type, default, choices and help, from its own dataclasses.

Run by the Python of the locked environment, once for each pair of LLaMA-Factory and transformers versions (both decide
which options there are); the result is committed beside this file, with both versions in its name:

    python pipeline/llamafactory/options_schema.py > pipeline/llamafactory/options-llamafactory-…-transformers-….json
"""

import dataclasses
import enum
import json
import sys
import types
import typing
from importlib.metadata import version

from llamafactory.data.template import TEMPLATES
from llamafactory.hparams import (
    DataArguments,
    FinetuningArguments,
    GeneratingArguments,
    ModelArguments,
    TrainingArguments,
)
from transformers.debug_utils import DebugOption
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_utils import FSDPOption

GROUPS = {
    "model": ModelArguments,
    "data": DataArguments,
    "training": TrainingArguments,
    "finetuning": FinetuningArguments,
    "generating": GeneratingArguments,
}


def joined(separator: str, choices: list | None = None, null: bool = False) -> dict:
    """One string in LLaMA-Factory's files, a list in meaning: both are accepted, and the string gets written."""
    patch = {"type": ["string", "array", *(["null"] if null else [])], "items": "string", "separator": separator}
    return patch | ({"choices": choices} if choices else {})


# What the dataclasses do not say, or say wrongly.
PATCHES = {
    # Choices that are checked late (or, for fp8_backend and fa3, not before the model is loaded) and not declared.
    "template": {"choices": sorted(TEMPLATES)},
    "quantization_bit": {"choices": [2, 3, 4, 5, 6, 8]},
    "fp8_backend": {"choices": ["auto", "torchao", "te", "msamp"]},
    "flash_attn": {"choices": ["auto", "disabled", "sdpa", "fa2"]},  # fa3 is declared, and always fails as unknown
    "report_to": {"choices": ["none", "all", *INTEGRATION_TO_CALLBACK]},
    "include_num_input_tokens_seen": {"choices": ["all", "non_padding", "no", True, False]},
    # Lists that are written as one string.
    "debug": joined(" ", [option.value for option in DebugOption]),
    "fsdp": joined(" ", [option.value for option in FSDPOption], null=True),
    "add_tokens": joined(",", null=True),
    "add_special_tokens": joined(",", null=True),
    "additional_target": joined(",", null=True),
    "apollo_target": joined(","),
    "freeze_extra_modules": joined(",", null=True),
    "freeze_trainable_modules": joined(","),
    "galore_target": joined(","),
    "interleave_probs": joined(",", null=True),
    "lora_target": joined(","),
    "oft_target": joined(","),
    # Python objects, which no file can hold.
    "generation_config": {"type": ["string", "null"]},
    "parallelism_config": {"type": ["null"]},
}

SCALARS = {bool: "boolean", int: "integer", float: "number", str: "string", dict: "object"}


def described(annotation: object) -> dict:
    """The type and, where the annotation names them, the choices."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        branches = [described(part) for part in parts if part is not type(None)]
        names = [name for branch in branches for name in branch.pop("type")]
        null = ["null"] if type(None) in parts else []
        merged: dict = {"type": [*dict.fromkeys(names), *null]}
        for branch in branches:
            merged |= branch
        return merged
    if origin is typing.Literal:
        return {"type": [SCALARS[type(parts[0])]], "choices": list(parts)}
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return {"type": ["string"], "choices": [member.value for member in annotation]}
    if origin is list:
        return {"type": ["array"], "items": described(parts[0])["type"][0]}
    scalar = SCALARS.get(origin or annotation)
    # Anything else needs a line in PATCHES, which schema() sees to.
    return {"type": [scalar] if scalar else []}


def default_of(field: dataclasses.Field) -> object:
    default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    if default is dataclasses.MISSING:
        raise TypeError(f"{field.name} has no default")
    return default.value if isinstance(default, enum.Enum) else default


def schema() -> dict:
    options: dict = {}
    patches = dict(PATCHES)
    for group, arguments in GROUPS.items():
        hints = typing.get_type_hints(arguments)
        for field in dataclasses.fields(arguments):
            if not field.init:
                continue
            if field.name in options:
                raise TypeError(f"{field.name} is in two groups")
            found = described(hints[field.name])
            if "choices" in field.metadata:
                found.setdefault("choices", list(field.metadata["choices"]))
            found |= patches.pop(field.name, {})
            if not found["type"]:
                raise TypeError(f"{field.name}: no JSON type for {hints[field.name]}; add it to PATCHES")
            text = " ".join(field.metadata.get("help", "").split())
            options[field.name] = {"type": found.pop("type"), "default": default_of(field), **found}
            options[field.name] |= {"group": group, "help": text}
    if patches:
        raise TypeError(f"patches of options that do not exist: {', '.join(patches)}")
    return options


def main() -> None:
    # One option per line: small enough to load, and a change of version shows as the lines that changed.
    compact = {"ensure_ascii": False, "separators": (",", ":")}
    lines = [f"{json.dumps(name)}:{json.dumps(option, **compact)}" for name, option in sorted(schema().items())]
    versions = "".join(f'"{name}":"{version(name)}",\n' for name in ("llamafactory", "transformers"))
    sys.stdout.write("{\n" + versions + '"options":{\n' + ",\n".join(lines) + "\n}\n}\n")


if __name__ == "__main__":
    main()
