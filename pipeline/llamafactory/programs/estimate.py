"""What a training needs of a machine, before it is paid for; standard library only.

A sum of parts: weights, what is kept for each trained parameter, activations, logits. It is within a fifth of what was
measured (test/unit/estimate.test.ts); the margin is on top.

`work` is {model: {parameters, hiddenSize, layers, vocabulary}, method, precision, batchSize, tokens (of the longest
row), loraRank, trainedLayers, gradientCheckpointing}; `machine` is {gpu: {name, totalMiB, freeMiB} or None, memoryMiB,
swapMiB, diskFreeMiB, home}.
"""

MIB = 2**20

# Practitioners find theory 25 to 40 % too low.
MARGIN = 1.3

# Python with torch and LLaMA-Factory; on a GPU its context and libraries.
PROCESS = 1000 * MIB

# Gigabytes for models of so many billions of parameters, from LLaMA-Factory's README: no less than what it says.
BILLIONS = [0, 7, 14, 30, 70]
README = {"lora": [0, 16, 32, 64, 160], "qlora": [0, 6, 12, 24, 48]}

ADAPTERS = ("lora", "qlora")
# Of gradients and two moments there is more where all weights are trained.
SMALLER = {"full": "freeze, lora or qlora", "freeze": "lora or qlora", "lora": "qlora"}

# Two that are kept, and the one that is being written.
CHECKPOINTS = 3
# Logs, the tokenised rows, and what a file system keeps for itself.
REST = 1024 * MIB


def estimate(work: dict) -> dict:
    """Mebibytes, with the margin: for the training on the device that trains, for the merge in the host's memory; and
    of the disk, for checkpoints, what is trained and the merged model. The base model is there already."""
    parameters, trained = work["model"]["parameters"], trained_parameters(work)
    size = bytes_each(work)
    readme = README["qlora" if work["method"] == "qlora" else "lora"]
    floor = 0 if work["method"] == "full" else interpolated(parameters / 1e9, readme) * 1e9
    result = trained * 4 if work["method"] in ADAPTERS else parameters * size
    checkpoint = result + trained * 8
    return {
        "trainingMiB": mebibytes(max(training_bytes(work), floor) * MARGIN),
        "mergeMiB": mebibytes((parameters * size + PROCESS) * MARGIN),
        "diskMiB": mebibytes(checkpoint * CHECKPOINTS + result + parameters * size + REST),
    }


def training_bytes(work: dict) -> float:
    """Without a margin."""
    model, size = work["model"], bytes_each(work)
    tokens = work["batchSize"] * work["tokens"]

    # Embeddings are not quantised; their share is small where quantising is worth it.
    weights = model["parameters"] * (0.5 if work["method"] == "qlora" else size)
    # Each trained parameter has a gradient, two moments and, in half precision, a master copy, in 4 bytes each.
    states = trained_parameters(work) * (12 if size == 4 else 16)

    # Of one block and token: what backpropagation needs, and in fp32 what enters an adapter, before and after dropout.
    of_block = model["hiddenSize"] * (34 * (size / 2) + (70 if work["method"] in ADAPTERS else 0))
    if work["gradientCheckpointing"]:
        activations = tokens * (model["hiddenSize"] * size * model["layers"] + of_block)
    else:
        activations = tokens * of_block * model["layers"]
    # In fp32: logits, their gradient, and a copy for the loss.
    logits = tokens * model["vocabulary"] * 4 * 3
    return PROCESS + weights + states + activations + logits


def trained_parameters(work: dict) -> float:
    model = work["model"]
    if work["method"] in ADAPTERS:
        # An adapter of rank r on all linear layers of a block has about 19 r times the hidden size.
        return work["loraRank"] * model["layers"] * 19 * model["hiddenSize"]
    if work["method"] == "freeze":
        return model["parameters"] * work["trainedLayers"] / model["layers"]
    return model["parameters"]


def shortages(work: dict, machine: dict) -> list:
    """What a machine lacks for a training: of each what it has, what is needed and what to do."""
    needed = estimate(work)
    gpu, memory = machine["gpu"], machine["memoryMiB"]
    less = [f"smaller training.batchSize ({work['batchSize']})"] if work["batchSize"] > 1 else []
    less.append(f"smaller training.cutoffLength (the longest row has {work['tokens']} tokens)")
    if not work["gradientCheckpointing"]:
        less.append("gradient checkpointing (training.llamafactory.disable_gradient_checkpointing is true)")
    if work["method"] in SMALLER:
        less.append(f"training.method {SMALLER[work['method']]} instead of {work['method']}")
    found = []
    if gpu and gpu["freeMiB"] < needed["trainingMiB"]:
        found.append(
            f"GPU memory: the {gpu['name']} has {gib(gpu['freeMiB'])} free of {gib(gpu['totalMiB'])}, and the training "
            f"needs about {gib(needed['trainingMiB'])}: {', '.join(less)}, or a larger GPU"
        )
    if not gpu and memory < needed["trainingMiB"]:
        found.append(
            f"memory: the machine has {gib(memory)}, and the training needs about {gib(needed['trainingMiB'])}: "
            f"{', '.join(less)}, or a machine with more"
        )
    if memory + machine["swapMiB"] < needed["mergeMiB"]:
        found.append(
            f"memory for the merge: the machine has {gib(memory)} and {gib(machine['swapMiB'])} of swap, and merging "
            f"takes {gib(needed['mergeMiB'])} of the host's memory: a machine with more, or more swap"
        )
    if machine["diskFreeMiB"] < needed["diskMiB"]:
        found.append(
            f"disk: {machine['home']} has {gib(machine['diskFreeMiB'])} left, and checkpoints, the result and the "
            f"merged model take {gib(needed['diskMiB'])}: make room (`npm run gc`), or move it to a larger disk"
        )
    return found


def bytes_each(work: dict) -> int:
    return 4 if work["precision"] == "fp32" else 2


def mebibytes(size: float) -> int:
    return -int(-size // MIB)


def gib(size: float) -> str:
    return f"{size / 1024:.1f} GiB"


def interpolated(billions: float, gigabytes: list) -> float:
    upper = next((i for i, at in enumerate(BILLIONS) if i > 0 and at >= billions), len(BILLIONS) - 1)
    (x0, x1), (y0, y1) = BILLIONS[upper - 1 : upper + 1], gigabytes[upper - 1 : upper + 1]
    return y0 + (y1 - y0) * (billions - x0) / (x1 - x0)
