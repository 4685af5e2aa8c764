"""Stand-in for LLaMA-Factory, and for the programs that need it: a worker that has imported it runs this instead.

It tells steps as a training does for as long as the test holds it, and leaves the files that any stage expects.
"""

import json
import os
import runpy
import sys
import time
from pathlib import Path

CONTROL = Path(os.environ["RETUNE_STAND_IN"])


def program(*_, **__):
    job = json.loads(Path("../job.json").read_text("utf-8"))
    with (CONTROL / "starts").open("a") as file:
        file.write(f"{job['kind']}\n")
    step = 0
    while step == 0 or (CONTROL / "hold").exists():
        step += 1
        event = {"type": "progress", "time": time.time(), "phase": "learning", "step": step, "steps": 1000, "loss": 2.5}
        with Path("../events.jsonl").open("a") as file:
            file.write(json.dumps(event) + "\n")
        time.sleep(0.03)
    if (CONTROL / "fail").exists():
        Path("outcome.json").write_text(json.dumps({"error": (CONTROL / "fail").read_text()}))
        sys.exit(1)
    for name in ("model.safetensors", "config.json", "tokenizer.json", "evaluation.json", "retune.json", "SHA256SUMS"):
        Path("out", name).write_text(json.dumps([name, job["parameters"]], sort_keys=True))
    metrics = {"steps": 24, "loss": 0.81, "evalLoss": 0.42, "files": 6, "bytes": 1000}
    Path("outcome.json").write_text(json.dumps({"metrics": metrics}))


runpy.run_path = program
