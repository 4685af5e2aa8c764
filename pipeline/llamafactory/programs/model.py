"""Brings the base model into out/: safetensors weights, configuration and tokenizer, nothing else."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

from retune_job import event, fail, out, parameters, succeed

# What a model is made of. Pickled weights (.bin, .pt) are left behind on purpose: loading them runs code.
WANTED = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.txt", "*.model", "LICENSE*", "README.md"]


def from_gguf(package: str) -> None:
    """Unpacks the GGUF file that a Python package ships into a folder that LLaMA-Factory can train."""
    import gguf
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        fail(f"the Python package {package} is not in the environment")
    folder = Path(spec.origin).parent
    files = sorted(folder.glob("*.gguf"))
    if len(files) != 1:
        fail(f"the Python package {package} has {len(files)} GGUF files where one is expected")
    event("note", text=f"unpacking {files[0].name}")
    fields = gguf.GGUFReader(files[0]).fields

    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=files[0].name)

    def special(name: str):
        field = fields.get(f"tokenizer.ggml.{name}_token_id")
        return None if field is None else tokenizer.convert_ids_to_tokens(int(field.parts[field.data[0]][0]))

    # transformers does not take the special tokens from the file and guesses the end of a turn wrong.
    tokenizer.eos_token = special("eos")
    tokenizer.bos_token = special("bos")
    padding = special("padding")
    # Padding with the end of a turn would hide that token from training.
    tokenizer.pad_token = special("unknown") if padding in (None, tokenizer.eos_token) else padding
    tokenizer.save_pretrained(out)
    (out / "tokenizer.model").unlink(missing_ok=True)  # a copy of the whole GGUF file, not a tokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=files[0].name, dtype=torch.float32)
    model.generation_config.eos_token_id = model.config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.bos_token_id = model.config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id
    model.to(torch.bfloat16).save_pretrained(out)


def from_hub() -> None:
    """Downloads one commit from Hugging Face or ModelScope; both verify the files that they fetch."""
    source = parameters["source"]
    repository = source.get("huggingface") or source["modelscope"]
    event("note", text=f"downloading {repository}")
    if "huggingface" in source:
        from huggingface_hub import snapshot_download
    else:
        from modelscope import snapshot_download
    try:
        # Into the working folder, not the hub's own cache: an interrupted download goes on in the next attempt.
        folder = snapshot_download(
            repository,
            revision=parameters["commit"],
            allow_patterns=WANTED,
            endpoint=parameters["endpoint"],
            local_dir="download",
        )
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        fail(
            f"{repository} at {parameters['commit'][:12]} could not be downloaded: {reason}; where the hub cannot be "
            "reached, name a mirror in model.source.endpoint or HF_ENDPOINT, or use model.source.folder"
        )
    for file in sorted(Path(folder).iterdir()):
        if file.is_file() and any(file.match(pattern) for pattern in WANTED):
            shutil.copyfile(file, out / file.name)


def random_tiny() -> None:
    """A Qwen3 of 140,000 random parameters, for tests: it learns nothing of use, but runs through every step."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokens.train_from_iterator(
        ["感冒了应该怎么办？ What should I do when I have a cold? 高血压患者饮食需要注意什么？"] * 2, trainer
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.save_pretrained(out)

    torch.manual_seed(parameters["source"]["random"]["seed"])
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen3ForCausalLM(config).to(torch.float32).save_pretrained(out)


def check() -> None:
    if not (out / "config.json").exists():
        fail("the model has no config.json: it is not a transformers model")
    if not list(out.glob("*.safetensors")):
        fail("the model has no safetensors weights; pickled ones (.bin) are refused, because loading them runs code")
    if "auto_map" in json.loads((out / "config.json").read_text("utf-8")):
        fail("the model's config.json has an auto_map: it needs trust_remote_code, which runs code from the repository")


source = parameters["source"]
if "package" in source:
    from_gguf(source["package"])
elif "random" in source:
    random_tiny()
else:
    from_hub()
check()
succeed(bytes=sum(file.stat().st_size for file in out.iterdir()), files=len(list(out.iterdir())))
