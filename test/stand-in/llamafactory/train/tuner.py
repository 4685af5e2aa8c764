"""Stand-in for LLaMA-Factory, and for the programs that need it: a worker that has imported it runs this instead.

What it makes is a function of what a job is given, and of nothing else. It leaves the files that any stage expects, and
tells steps as a training does for as long as the test holds it. A test holds it, or has it fail, by a file `hold` or
`fail` for jobs of any kind, or one such as `hold-Training` for one kind. What a model is found to answer it says by a
file such as `evaluation-Answers.json`.
"""

import json
import os
import runpy
import sys
import time
from pathlib import Path

CONTROL = Path(os.environ["RETUNE_STAND_IN"])
# A program's exit code for: stopped on request, with a checkpoint.
STOPPED = 75


def program(*_, **__):
    job = json.loads(Path("../job.json").read_text("utf-8"))

    def wanted(what: str):
        return next((file for file in (CONTROL / f"{what}-{job['kind']}", CONTROL / what) if file.exists()), None)

    with (CONTROL / "starts").open("a") as file:
        file.write(f"{job['kind']}\n")
    step = 0
    while step == 0 or wanted("hold"):
        step += 1
        event = {"type": "progress", "time": time.time(), "phase": "learning", "step": step, "steps": 1000, "loss": 2.5}
        with Path("../events.jsonl").open("a") as file:
            file.write(json.dumps(event) + "\n")
        if job["stoppable"] and Path("../stop").exists():
            sys.exit(STOPPED)
        time.sleep(0.03)
    failure = wanted("fail")
    if failure:
        Path("outcome.json").write_text(json.dumps({"error": failure.read_text()}))
        sys.exit(1)
    given = {name: job[name] for name in ("kind", "parameters", "inputs")}
    for name in ("config.json", "tokenizer.json"):  # of the base: no training changes them
        Path("out", name).write_text(json.dumps({"file": name}))
    for name in ("model.safetensors", "retune.json", "SHA256SUMS"):
        Path("out", name).write_text(json.dumps({"file": name, **given}, sort_keys=True))
    measured = {"evalLoss": 1.5, "bleu4": None, "rouge1": None, "rouge2": None, "rougeL": None, "rows": 0}
    evaluation = {"metrics": measured, "losses": [], "cases": [], "prompts": [], "given": given}
    said = CONTROL / f"evaluation-{job['kind']}.json"
    evaluation |= json.loads(said.read_text()) if said.exists() else {}
    Path("out", "evaluation.json").write_text(json.dumps(evaluation, sort_keys=True))
    metrics = {"steps": 24, "loss": 0.81, "evalLoss": 0.42, "files": 6, "bytes": 1000, "parity": {"checked": 0}}
    Path("outcome.json").write_text(json.dumps({"metrics": metrics}))


runpy.run_path = program
