"""Converts as the tutorial does: a loop over the rows that writes an indented JSON array by hand.

    tutorial_loop.py IN.jsonl OUT.json

Written anew from its description, with its last comma left out, so that the array is one.
"""

import json
import sys
from pathlib import Path

INSTRUCTION = "请根据患者的问题给出建议"


def main() -> None:
    kept = 0
    source_file, target_file = map(Path, sys.argv[1:])
    with source_file.open(encoding="utf-8") as source, target_file.open("w", encoding="utf-8") as target:
        target.write("[\n")
        for line in source:
            row = json.loads(line)
            if not row["label"]:
                continue
            entry = {
                "instruction": INSTRUCTION,
                "input": row["question"].replace("\n\r", "\n"),
                "output": row["answer"].replace("\n\r", "\n"),
            }
            text = json.dumps(entry, ensure_ascii=False, indent=4)
            indented = "\n".join("    " + part for part in text.split("\n"))
            target.write((",\n" if kept else "") + indented)
            kept += 1
        target.write("\n]\n")
    print(kept)


main()
