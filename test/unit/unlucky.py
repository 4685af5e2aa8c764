"""Runs the runner on a disk that runs full, or with a clock that somebody puts.

    unlucky.py RUNNER VERB ... --home HOME

FULL_AT=N has the Nth write below HOME fail for want of space, and with FULL_UNTIL all later ones too, until a file of
that name is removed; what was hit is written to FULL_LOG. CLOCK names a file with seconds to add to the wall clock.
"""

import errno
import io
import os
import runpy
import sys
import time
from pathlib import Path

runner = sys.argv[1]
home = sys.argv[sys.argv.index("--home") + 1]
full_at = int(os.environ.get("FULL_AT", "0"))
full_until = os.environ.get("FULL_UNTIL")
writes = 0
full = False


def below_home(file) -> str:
    try:
        path = os.readlink(f"/proc/self/fd/{file}") if isinstance(file, int) else os.path.abspath(file)  # noqa: PTH100, PTH115
    except OSError:
        return ""
    return path if path.startswith(home + "/") else ""


def write(what: str, file) -> None:
    global writes, full
    path = below_home(file)
    if not path:
        return
    writes += 1
    if writes == full_at:
        full = full_until is not None
        with real["open"](os.environ["FULL_LOG"], "w") as log:
            log.write(f"{what} {os.path.relpath(path, home)}")
    if full or writes == full_at:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


class File(io.FileIO):
    def write(self, data):
        try:
            write("write", self.fileno())
        except OSError:
            super().write(bytes(data)[: len(data) // 2])  # as much as there was room for
            raise
        return super().write(data)


real = {"open": io.open, "unlink": os.unlink}


def open_file(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
    if not set("wxa+") & set(mode) or isinstance(file, int) or not below_home(file):
        return real["open"](file, mode, buffering, encoding, errors, newline, closefd, opener)
    write("open", file)
    raw = File(file, mode.replace("b", "").replace("t", ""))
    buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
    return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding)


def unlink(path, *args, **options):
    global full
    if Path(path).name == full_until:
        full = False
    real["unlink"](path, *args, **options)


def failing(name: str, place: int):
    real[name] = getattr(os, name)

    def call(*args, **options):
        write(name, args[place])
        return real[name](*args, **options)

    setattr(os, name, call)


if full_at:
    io.open = open_file
    os.unlink = unlink
    for name, place in (("mkdir", 0), ("symlink", 1), ("rename", 1), ("replace", 1), ("posix_fallocate", 0)):
        failing(name, place)
    failing("fsync", 0)
if "CLOCK" in os.environ:
    wall = time.time
    time.time = lambda: wall() + float(Path(os.environ["CLOCK"]).read_text())

sys.argv = sys.argv[1:]
runpy.run_path(runner, run_name="__main__")
