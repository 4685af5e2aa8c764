"""What would otherwise be learned after hours: whether data, model and machine fit, by reckoning and by two real steps.

It belongs to the run itself: what is in the store or going on has no preflight, and nothing of it is in a key.
"""

import ctypes
import itertools
import json
import math
import multiprocessing
import re
import resource
import shutil
import signal
import time
import traceback
from pathlib import Path

import torch
from estimate import gib, shortages
from llamafactory.data.processor.processor_utils import infer_seqlen
from llamafactory.data.template import TEMPLATES, get_template_and_fix_tokenizer
from llamafactory.hparams import DataArguments
from llamafactory.train.tuner import run_exp
from retune_job import event, fail, parameters, read_jsonl, template_options, why_not_finite
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer, TrainerCallback

# The rows of the two steps, as LLaMA-Factory knows them.
ROWS = "preflight"
STEPS = 2
ANSWER = Path("preflight.json")
TRAINER = "preflight-trainer"
# Rows that tell how long rows are; tokenising all of a large data set takes minutes.
SAMPLE = 2000

# Templates of plain text, which any model can learn.
PLAIN = {"alpaca", "default", "empty", "vicuna"}
# Options that the estimate knows nothing of and that make a training smaller: the two steps alone decide.
SAVING = re.compile(
    r"use_(galore|apollo|badam|adam_mini|muon|unsloth|unsloth_gc|liger_kernel)|enable_liger_kernel|optim"
)
# Options of a whole training that two steps cannot have.
LONG = ["eval_dataset", "eval_steps", "early_stopping_steps", "load_best_model_at_end", "max_samples", "save_steps"]


class UnfitError(Exception):
    """Why the training cannot be run, for people."""


class Done(BaseException):
    """The two steps are done; what would come after them, such as saving the model, is not wanted."""


def preflight(given: dict, resumed: bool) -> dict:
    """Ends the training with all reasons at once where it cannot be run; answers facts for its metrics.

    `given` are LLaMA-Factory's options for it. A resumed one has done real steps before.
    """
    event("note", text="preflight: template, row lengths, memory and disk" + ("" if resumed else ", two real steps"))
    ANSWER.unlink(missing_ok=True)
    # In a process of its own: its memory is given back, and nothing of it, such as the state of a random generator,
    # reaches the training. CUDA does not survive a fork.
    context = multiprocessing.get_context("spawn" if torch.cuda.is_initialized() else "fork")
    process = context.Process(target=look, args=(given, resumed))
    process.start()
    process.join()
    answer = json.loads(ANSWER.read_text("utf-8")) if ANSWER.exists() else {}
    if process.exitcode == -signal.SIGKILL:
        answer = {"problems": [out_of_memory("the machine ran out of memory, and the kernel killed the process")]}
    elif process.exitcode != 0:
        raise RuntimeError(f"preflight: {answer.get('error', f'exit code {process.exitcode}')}")
    problems = answer["problems"]
    if len(problems) == 1:
        fail(problems[0])
    if problems:
        fail(f"the training cannot be run, for {len(problems)} reasons:\n" + "\n".join(f"  {one}" for one in problems))
    return answer["facts"]


def look(given: dict, resumed: bool) -> None:
    """The preflight's own process. Leaves {problems, facts}, or {error} where something went wrong that is nobody's."""
    parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)
    try:
        answer = findings(given, resumed)
    except BaseException as error:
        traceback.print_exc()
        ANSWER.write_text(json.dumps({"error": f"{type(error).__name__}: {error}"}), "utf-8")
        raise SystemExit(1) from None
    finally:
        shutil.rmtree(TRAINER, ignore_errors=True)
    ANSWER.write_text(json.dumps(answer, ensure_ascii=False), "utf-8")


def findings(given: dict, resumed: bool) -> dict:
    tokenizer = AutoTokenizer.from_pretrained("base")
    problems = template_problems(tokenizer)
    rows = read_jsonl(Path("dataset/train.jsonl"))[: given.get("max_samples")]
    facts, longest = {}, []
    if not problems:
        facts, longest = measured(rows, tokenizer)
        problems += length_problems(facts)
    problems += shortages_here(facts.get("longestRow", parameters["cutoffLength"]), given)
    if not problems and not resumed:
        try:
            facts |= rehearse(given, longest, facts["longestRow"])
        except UnfitError as problem:
            problems.append(str(problem))
    return {"problems": problems, "facts": facts}


# --- the template -----------------------------------------------------------------------------------------------------


def text_of(slots: list) -> str:
    """The literal text of a template's slots: strings, and tokens that stand for themselves."""
    return "".join(
        slot if isinstance(slot, str) else slot.get("token", "") if isinstance(slot, dict) else "" for slot in slots
    )


def template_problems(tokenizer) -> list:
    """A chat format of another family: the training would end with a good loss and bad answers."""
    name = parameters["template"]
    advice = "set model.template to the one of the model's family"
    if name not in TEMPLATES:
        return [f"model.template: LLaMA-Factory has no {name}; {advice}"]
    template = TEMPLATES[name]
    parts = (template.format_user, template.format_assistant, template.format_system, template.format_prefix)
    words = {word for part in parts for word in re.findall(r"<[^<>\s{}]+>", text_of(part.slots))}
    foreign = sorted(word for word in words if len(tokenizer.encode(word, add_special_tokens=False)) != 1)
    if foreign:
        unknown = ", ".join(foreign)
        return [f"model.template: {name} does not fit this model, whose tokenizer does not know {unknown}; {advice}"]
    marker = text_of(template.format_user.slots).split("{{content}}")[0].strip()
    if name in PLAIN or not marker or not tokenizer.chat_template:
        return []
    own = tokenizer.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False, add_generation_prompt=True)
    if marker in own:
        return []
    return [
        f"model.template: {name} begins a question with {marker!r}, but this model's own format is {own!r}; {advice}"
    ]


# --- the rows ---------------------------------------------------------------------------------------------------------


def measured(rows: list, tokenizer) -> tuple:
    """Facts about the lengths of rows, in tokens, and the rows of the two steps, the longest first."""
    options = {k: v for k, v in template_options().items() if k in ("template", "enable_thinking")}
    template = get_template_and_fix_tokenizer(tokenizer, DataArguments(**options))
    cutoff = parameters["cutoffLength"]

    def lengths(row: dict) -> tuple:
        user = "\n".join(part for part in (row["instruction"], row["input"]) if part)
        messages = [{"role": "user", "content": user}, {"role": "assistant", "content": row["output"]}]
        question, answer = template.encode_oneturn(tokenizer, messages)
        return len(question), len(answer)

    # Those that are long in characters are long in tokens.
    by_size = sorted(range(len(rows)), key=lambda i: sum(len(rows[i][part]) for part in rows[i]), reverse=True)
    sample = list(range(min(SAMPLE, len(rows))))
    known = {i: lengths(rows[i]) for i in {*sample, *by_size[: max(64, 2 * parameters["batchSize"])]}}
    total = {i: sum(pair) for i, pair in known.items()}
    longest = sorted(known, key=lambda i: (-total[i], i))
    cut = sum(total[i] > cutoff for i in sample)
    unanswered = sum(infer_seqlen(*known[i], cutoff)[1] == 0 for i in sample)
    facts = {
        "longestRow": total[longest[0]],
        "rowsLookedAt": len(sample),
        "rowsCutOff": round(cut / len(sample), 4),
        "rowsWithoutAnswer": unanswered,
    }
    if cut:
        without = f", and {unanswered} have no answer left" if unanswered else ""
        event(
            "note",
            text=f"{cut} of {len(sample)} rows ({cut / len(sample):.0%}) are longer than cutoffLength and will be cut "
            f"off{without}; the longest has {facts['longestRow']} tokens",
        )
    return facts, [rows[i] for i in longest]


def length_problems(facts: dict) -> list:
    """A row whose answer is cut off teaches nothing, and a step of only such rows has a loss of NaN."""
    unanswered, rows = facts["rowsWithoutAnswer"], facts["rowsLookedAt"]
    if unanswered * 2 < rows:
        return []
    return [
        f"training.cutoffLength: {unanswered} of {rows} rows have no answer left within {parameters['cutoffLength']} "
        f"tokens, wanted fewer than half; the longest row has {facts['longestRow']}: raise it, or take shorter rows"
    ]


# --- the machine ------------------------------------------------------------------------------------------------------


def shortages_here(longest_row: int, given: dict) -> list:
    if any(SAVING.fullmatch(option) for option in parameters["llamafactory"]):
        return []
    config = AutoConfig.from_pretrained("base").get_text_config()
    cutoff = parameters["cutoffLength"]
    work = {
        "model": {
            "parameters": model_parameters(),
            "hiddenSize": config.hidden_size,
            "layers": config.num_hidden_layers,
            "vocabulary": config.vocab_size,
        },
        "method": parameters["method"],
        "precision": parameters["precision"],
        "batchSize": given["per_device_train_batch_size"],
        "tokens": cutoff if packs(given) else min(longest_row, cutoff),
        "loraRank": parameters["loraRank"],
        "trainedLayers": abs(given.get("freeze_trainable_layers", 2)),
        "gradientCheckpointing": not given.get("disable_gradient_checkpointing", False),
    }
    return shortages(work, machine())


def model_parameters() -> int:
    total = 0
    for file in Path("base").glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return total


def machine() -> dict:
    sizes = {name: int(size) // 1024 for name, size in re.findall(r"^(\w+): +(\d+) kB", read("/proc/meminfo"), re.M)}
    limit = read("/sys/fs/cgroup/memory.max").strip()
    memory = min(sizes["MemTotal"], int(limit) // 2**20) if limit.isdigit() else sizes["MemTotal"]
    gpu = None
    if torch.cuda.is_available():
        free, total = (size // 2**20 for size in torch.cuda.mem_get_info())
        gpu = {"name": torch.cuda.get_device_name(), "totalMiB": total, "freeMiB": free}
    home = Path.cwd().parents[2]
    disk = shutil.disk_usage(home).free // 2**20
    return {"gpu": gpu, "memoryMiB": memory, "swapMiB": sizes["SwapTotal"], "diskFreeMiB": disk, "home": str(home)}


def read(file: str) -> str:
    try:
        return Path(file).read_text()
    except OSError:
        return ""


# --- two steps --------------------------------------------------------------------------------------------------------


class Rehearsal(TrainerCallback):
    def __init__(self):
        self.times = [time.monotonic()]

    def on_log(self, args, state, control, logs=None, **_):
        why = why_not_finite(logs or {}, state.global_step)
        if why:
            raise UnfitError(why)

    def on_step_end(self, args, state, control, **_):
        self.times.append(time.monotonic())

    def on_train_end(self, args, state, control, **_):
        raise Done


def rehearse(given: dict, longest: list, tokens: int) -> dict:
    """Two optimizer steps of the training on its longest rows, which take the most memory; answers what they took.

    `tokens` is the length of the first one.
    """
    batch = given["per_device_train_batch_size"]
    packed = 2 * math.ceil(parameters["cutoffLength"] / tokens) if packs(given) else 1
    rows = itertools.islice(itertools.cycle(longest[: STEPS * batch]), STEPS * batch * packed)
    Path(f"{ROWS}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    options = {name: value for name, value in given.items() if name not in LONG} | {
        "dataset": ROWS,
        "max_steps": STEPS,
        # Gradients are added up in place: more of them take longer and no more memory.
        "gradient_accumulation_steps": 1,
        "save_strategy": "no",
        "eval_strategy": "no",
        "output_dir": TRAINER,
    }
    steps = Rehearsal()
    try:
        run_exp(options, [steps])
    except Done:
        pass
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "allocate memory" not in str(error):
            raise
        traceback.print_exc()
        raise UnfitError(out_of_memory("memory ran out in the first two steps")) from None
    gpu = torch.cuda.is_available()
    peak = torch.cuda.max_memory_reserved() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    event("note", text=f"preflight: two steps on the longest rows took {gib(peak / 2**20)} of memory")
    return {"peakMiB": peak // 2**20}


def packs(given: dict) -> bool:
    """Whether rows are put together until they have the length of the cutoff."""
    return bool(given.get("packing") or given.get("neat_packing"))


def out_of_memory(what: str) -> str:
    return (
        f"{what}, with training.batchSize {parameters['batchSize']} and rows of up to {parameters['cutoffLength']} "
        "tokens: make one of them smaller, keep gradient checkpointing on, take training.method qlora, or a machine "
        "with more memory"
    )
