"""What a host is: one JSON object of facts, none of them judged. Changes nothing; standard library only.

Arguments: RETUNE_HOME of the host, relative to the user's home directory; the environment's Python, where it is not the
one that the preparation makes. What cannot be found out is null.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

VERSION = re.compile(r"\b\d{3}\.\d+(?:\.\d+)?\b")
TORCH = """
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "available": cuda,
                  "bf16": cuda and torch.cuda.is_bf16_supported(including_emulation=False)}))
"""
VLLM = "import importlib.metadata; print(importlib.metadata.version('vllm'))"


def run(*command, seconds=20):
    """Exit code and all output of a command; None where it cannot be started or does not end."""
    try:
        ended = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=seconds
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ended.returncode, ended.stdout.decode(errors="replace").strip()


def said(*command, seconds=20):
    """What a command prints when it succeeds."""
    answer = run(*command, seconds=seconds)
    return answer[1] if answer is not None and answer[0] == 0 else None


def read(path):
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return None


def first(pattern, text):
    found = pattern.search(text or "")
    return found.group(0) if found else None


def release():
    fields = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', read("/etc/os-release") or "", re.MULTILINE))
    return {"id": fields.get("ID"), "version": fields.get("VERSION_ID")}


def pci_gpus():
    """NVIDIA's graphics and compute devices, whether a driver knows them or not."""
    devices = list(Path("/sys/bus/pci/devices").glob("*"))
    return sum(read(one / "vendor") == "0x10de" and (read(one / "class") or "").startswith("0x03") for one in devices)


def driver():
    answer = run("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    works = answer is not None and answer[0] == 0
    signer = said("modinfo", "-F", "signer", "nvidia")
    return {
        "programs": first(VERSION, answer[1]) if works else None,
        "loaded": first(VERSION, read("/proc/driver/nvidia/version")),
        "installed": first(VERSION, said("modinfo", "-F", "version", "nvidia")),
        "signed": None if signer is None else signer != "",
        "error": None if works or answer is None else answer[1].splitlines()[0] if answer[1] else f"exit {answer[0]}",
    }


def gpus():
    listing = said("nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits")
    found = []
    for line in (listing or "").splitlines():
        fields = [one.strip() for one in line.split(",")]
        if len(fields) == 3 and fields[1].isdigit():
            found.append({"name": fields[0], "memoryMiB": int(fields[1]), "capability": fields[2]})
    return found


def secure_boot():
    """None on a machine that was not started by UEFI."""
    state = said("mokutil", "--sb-state")
    if state is not None:
        return "SecureBoot enabled" in state
    return next((one.read_bytes()[-1] == 1 for one in Path("/sys/firmware/efi/efivars").glob("SecureBoot-*")), None)


def memory():
    fields = dict(re.findall(r"^(\w+):\s+(\d+) kB", read("/proc/meminfo") or "", re.MULTILINE))
    return {name: int(fields[key]) // 1024 for name, key in (("totalMiB", "MemTotal"), ("swapMiB", "SwapTotal"))}


def timers():
    """Whether each of what upgrades by itself is off; nothing where there is no systemd to run it."""
    if not Path("/run/systemd/system").is_dir():
        return {}
    states = {}
    for unit in ("apt-daily.timer", "apt-daily-upgrade.timer", "unattended-upgrades.service"):
        answer = run("systemctl", "is-enabled", unit)
        states[unit] = answer[1].splitlines()[-1] if answer is not None and answer[1] else "not-found"
    return states


def systemd():
    return {
        "running": Path("/run/systemd/system").is_dir(),
        "userManager": said("systemctl", "--user", "show-environment", seconds=5) is not None,
        "linger": said("loginctl", "show-user", str(os.getuid()), "--property=Linger", "--value") == "yes",
        # Of logind itself; root's runs are the machine's.
        "endsAtLogout": os.getuid() != 0
        and said("loginctl", "show-user", "--property=KillUserProcesses", "--value") == "yes",
    }


def environment(folder):
    python, command = folder / "bin" / "python", folder / "bin" / "llamafactory-cli"
    if not python.exists():
        return None
    torch = said(str(python), "-c", TORCH, seconds=120)
    version = said(str(command), "version", seconds=120)
    return {
        "folder": str(folder.resolve()),
        "python": said(str(python), "-c", "import platform; print(platform.python_version())"),
        "llamafactory": first(re.compile(r"(?<=version )\d[\w.]*|(?<=version: )\d[\w.]*"), version),
        "torch": json.loads(torch.splitlines()[-1]) if torch else None,
        "vllm": said(str(python), "-c", VLLM),
    }


def root():
    return os.getuid() == 0 or said("sudo", "-n", "true") is not None


def main():
    home = Path.home() / (sys.argv[1] if len(sys.argv) > 1 else ".retune")
    python = Path(sys.argv[2]) if len(sys.argv) > 2 else home / "miniforge/envs/llama-factory/bin/python"
    here = home
    while not here.exists():
        here = here.parent
    facts = {
        "time": time.time(),
        "release": release(),
        "architecture": platform.machine(),
        "kernel": platform.release(),
        "boot": read("/proc/sys/kernel/random/boot_id"),
        "home": str(home),
        "pciGpus": pci_gpus(),
        "driver": driver(),
        "gpus": gpus(),
        "nouveau": any(line.startswith("nouveau ") for line in (read("/proc/modules") or "").splitlines()),
        "secureBoot": secure_boot(),
        "environment": environment(python.parents[1]),
        "diskFreeMiB": shutil.disk_usage(here).free // 2**20,
        "memory": memory(),
        "timers": timers(),
        "systemd": systemd(),
        "root": root(),
    }
    print(json.dumps(facts))


main()
