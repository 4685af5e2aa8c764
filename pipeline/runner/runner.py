#!/usr/bin/env python3
"""Runs the jobs of Retune on a target: one file, standard library only, sent along with the first job.

    runner.py submit --home H            job on stdin; starts it unless it is running or done; answers its status
    runner.py status --home H KEY        [--cursor N] [--wait SECONDS] state and the events after byte N
    runner.py stop   --home H KEY        asks a running job to stop after its current step, with a checkpoint
    runner.py list   --home H            every run, newest first
    runner.py gc     --home H            {roots, graceSeconds, dryRun} on stdin; removes what nobody needs

Every one of these prints one JSON object. For a client on another machine there are also

    runner.py hello   --home H           what a client must know of this machine before it sends anything
    runner.py missing --home H           digests on stdin; answers those whose artifacts are not here
    runner.py receive --home H DIGEST    takes an artifact from stdin, from where the last try broke off
    runner.py send    --home H DIGEST    writes an artifact to stdout, from where the last try broke off
    runner.py read    --home H KEY       [--file NAME] [--cursor N] a file of a run from byte N, as it is

Of a service, which answers requests for as long as it is wanted (front.py has its port), and of a client at work:

    runner.py serve       --home H          on stdin, what a port is to serve; answers the service's status at once
    runner.py service     --home H PORT     [--ask] its status; --ask also asks it something
    runner.py end-service --home H PORT     ends it and removes its folder
    runner.py service-key --home H PORT     its key, as it is
    runner.py attend      --home H          a program on the first line of stdin, then what it is told; ends with it

Layout below H, everything in it written to a temporary name, synced and renamed:

    runs/KEY/job.json      what to do: kind, program, parameters, inputs (name -> digest), expected files
    runs/KEY/state.json    queued | running | succeeded | failed | stopped, who owns it, since when, why it ended
    runs/KEY/events.jsonl  progress, one object a line, written by the program
    runs/KEY/log           what the program printed
    runs/KEY/work/         the program's working folder; inputs are links by name, the result is work/out
    runs/KEY/copied/       what goes to the bucket beside a copy of a checkpoint
    runs/KEY/result.json   digest, files, metrics; written last, only by a run that succeeded
    store/DIGEST/          an artifact; store/DIGEST.json, written after it, lists its files
    store/.incoming/       artifacts of which a part has arrived
    attended/PID/          of a program that works for a client while that listens
    services/PORT/         of a service: its key, what is wanted of it, its state and log, the sources of its front; a
                           folder for each model
    verified/DIGEST.json   how its files looked when they were last hashed: what was not touched since is not read again

A run belongs to a supervisor: a detached process that holds a lock on runs/KEY/lock for as long as it lives, so that
nothing is started twice, and whose pid, start time and boot are in state.json, so that anybody can tell a run that
goes on from one that was lost. The supervisor has the program executed by a worker: a process of the job's Python
environment that imports the heavy modules once and forks one child per job.
"""

import argparse
import contextlib
import errno
import fcntl
import fnmatch
import functools
import hashlib
import json
import os
import re
import runpy
import secrets
import select
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

# Exit code of a program that ended early because it was asked to, after saving what it had (BSD's EX_TEMPFAIL).
STOPPED = 75
# Seconds between asking a program to stop and ending it.
STOP_GRACE = 600
STATES = ("queued", "running", "succeeded", "failed", "stopped")
ACTIVE = ("queued", "running")
METER = Path("/var/lib/retune-meter/seconds")
NO_SPACE = "no space left on the disk: make room, or move RETUNE_HOME to a larger one"
# Bytes that must be free where a service has its log: as many are written at once.
LOG_BLOCK = 1 << 16
# Bytes that a run sets aside, so that there is room to say so when the disk is full.
RESERVE = 1 << 16
# What a worker has from the client that started it and another client may want different.
INHERITED = [
    "CUDA_VISIBLE_DEVICES",
    "LD_LIBRARY_PATH",
    "TMPDIR",
    "http_proxy",
    "https_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
]
# Seconds that a worker without jobs stays; long enough to serve the next stage of the same pipeline.
WORKER_IDLE = 60
# How rclone reaches S3 with the rights of the machine's own role: before 1.55, Ubuntu 22.04 has 1.53, a remote cannot
# say it.
RCLONE = {
    "RCLONE_CONFIG": "/dev/null",
    "RCLONE_S3_PROVIDER": "AWS",
    "RCLONE_S3_ENV_AUTH": "true",
    "RCLONE_S3_NO_CHECK_BUCKET": "true",
    # In a versioned bucket to look at what it has just sent would be another right.
    "RCLONE_S3_NO_HEAD": "true",
    "RCLONE_RETRIES": "2",
    "RCLONE_LOW_LEVEL_RETRIES": "3",
    "RCLONE_CONTIMEOUT": "10s",
    "RCLONE_TIMEOUT": "60s",
}
# Seconds between two copies of what a run has told, where its checkpoints are copied.
COPY_PAUSE = 60
# Seconds without a byte after which an artifact's sender counts as gone: its connection may never say so.
SENDER_IDLE = 30


# --- files ------------------------------------------------------------------------------------------------------------


def write_json(path: Path, value) -> None:
    """Writes value so that a reader sees the old content or the new one, also after a crash."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(value, file, ensure_ascii=False, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: Path):
    """The object in path, or None where there is no such file or, after somebody has edited it, no object in it."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def number(values: dict, name: str) -> float:
    value = values.get(name)
    return value if isinstance(value, (int, float)) else 0


def read_events(path: Path, cursor: int = 0):
    """The whole events after byte `cursor`, and where to go on. Lines that are none are passed over."""
    events = []
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        if cursor > path.stat().st_size:  # somebody has cut it short
            cursor = 0
        file.seek(cursor)
        for line in file:
            if not line.endswith(b"\n"):
                break
            cursor += len(line)
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict):
                    events.append(event)
    return events, cursor


def drop_half_line(path: Path) -> None:
    """Takes off what a process that was killed while it wrote has left after the last whole line."""
    with contextlib.suppress(FileNotFoundError), path.open("rb+") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def tail(path: Path, size: int = 20_000) -> str:
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read().decode("utf-8", "replace")
    return ""


# --- time -------------------------------------------------------------------------------------------------------------


def uptime() -> float:
    """Seconds since the boot, sleep included. The clock on the wall is put forward and back; this one is not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def booted_at() -> float:
    """When the machine was started, by the wall clock of now: it moves only when that clock is put."""
    return time.time() - uptime()


STARTED_BY = booted_at()


def now() -> float:
    """Seconds since 1970 by the clock as it was when this process began: of two times the later one is greater."""
    return STARTED_BY + uptime()


# --- processes --------------------------------------------------------------------------------------------------------


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def started(pid: int):
    """Start time of a process in clock ticks since boot; None when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def me() -> dict:
    return {
        "pid": os.getpid(),
        "pidStarted": started(os.getpid()),
        "boot": boot_id(),
        "bootedAt": round(booted_at(), 3),
    }


def why_lost(state: dict):
    """Why a run that ought to go on does not; None where it does."""
    if not {"pid", "pidStarted", "boot"} <= state.keys():
        return "its state.json does not name its process"
    if state["boot"] != boot_id():
        return "the machine was restarted"
    return None if started(state["pid"]) == state["pidStarted"] else "its process is gone without a result"


def memory_kills() -> int:
    """How many processes the kernel has ended because memory ran out, as far as can be seen from here."""
    kills = 0
    for file in ("/proc/vmstat", "/sys/fs/cgroup/memory.events"):
        with contextlib.suppress(OSError):
            kills += sum(map(int, re.findall(r"^oom_kill (\d+)$", Path(file).read_text(), re.MULTILINE)))
    return kills


def awake_seconds():
    """How long a machine that costs money was awake in all, as infra/host/meter.sh counts it; None on any other."""
    with contextlib.suppress(OSError, ValueError):
        return int(METER.read_text())
    return None


def runtime_folder() -> Path:
    """A private folder for sockets, locks and secrets of this boot, the same for all homes of this user."""
    base = os.environ.get("XDG_RUNTIME_DIR") or ("/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir())
    folder = Path(base) / f"retune-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise SystemExit(f"{folder} belongs to another user")
    return folder


# --- runs -------------------------------------------------------------------------------------------------------------


class Run:
    def __init__(self, home: Path, key: str):
        if not re.fullmatch(r"[0-9a-f]{64}", key):
            raise SystemExit(f"not a key: {key}")
        self.home = home
        self.key = key
        self.folder = home / "runs" / key
        self.work = self.folder / "work"

    def job(self):
        return read_json(self.folder / "job.json")

    def result(self):
        """result.json, if it is whole and of this run: it may have been edited by hand, or copied from elsewhere."""
        result = read_json(self.folder / "result.json") or {}
        with contextlib.suppress(KeyError, TypeError):
            if result["key"] == self.key and result["digest"] == digest_of(result["files"]):
                return result
        return None

    def state(self) -> dict:
        """state.json, with `lost` for a run whose owner is gone without having said how it ended.

        A result counts, whatever the state says: it is removed before an attempt begins.
        """
        file = self.folder / "state.json"
        state = read_json(file) or {}
        if "target" in state:  # a client's note of a run on another machine
            return state
        name = state.get("state")
        reason = why_lost(state) if name in ACTIVE else None
        if name in ACTIVE and reason is None:
            return state
        if result := self.result():
            times = {"startedAt": result.get("startedAt"), "finishedAt": result.get("finishedAt")}
            return {**state, "state": "succeeded", "reason": None, **times}
        if name in ("failed", "stopped"):
            return state
        if name not in STATES and self.is_locked():
            return {**state, "state": "running"}
        if name == "succeeded":
            reason = "its result.json is gone or was altered"
        elif not file.exists():
            reason = "it was never started"
        elif name is None:
            reason = "its state.json cannot be read"
        elif name not in STATES:
            reason = f"its state.json says {name!r}, which this Retune does not know: a newer one may have written it"
        return {**state, "state": "lost", "reason": reason}

    def set_state(self, state: str, **changes) -> None:
        if state not in ACTIVE:
            self.free_reserve()
        before = read_json(self.folder / "state.json") or {}
        for noted in ("target", "heardAt", "progress"):  # of a run of this key on another machine, by its client
            before.pop(noted, None)
        write_json(self.folder / "state.json", {**before, **me(), "state": state, **changes})

    def spent(self) -> float:
        """Seconds that the attempts so far took. One that was killed could not say so: it took until its last event."""
        return spent_in(self.folder)

    def set_reserve(self) -> None:
        with (self.folder / "reserve").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, RESERVE)

    def free_reserve(self) -> None:
        (self.folder / "reserve").unlink(missing_ok=True)

    def secrets_file(self) -> Path:
        return runtime_folder() / f"{self.key}.secrets"

    def status(self, cursor: int = 0) -> dict:
        """State, and the whole events after byte `cursor`; the answer's cursor is where to go on."""
        # The state is read before the events: a final state then comes with all of its events.
        state = self.state()
        events, cursor = read_events(self.folder / "events.jsonl", cursor)
        answer = {**state, "key": self.key, "cursor": cursor, "events": events}
        if state["state"] == "succeeded":
            answer["result"] = self.result()
        elif state["state"] not in ACTIVE and state.get("reason") != NO_SPACE:
            answer["log"] = tail(self.folder / "log", 4000)
        awake = awake_seconds()
        if awake is not None:
            answer["awakeSeconds"] = awake
        return answer

    def try_lock(self):
        """An open file that holds the run's lock, or None when somebody else holds it."""
        file = (self.folder / "lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return file

    def is_locked(self) -> bool:
        lock = self.try_lock() if self.folder.is_dir() else None
        if lock is not None:
            lock.close()
        return lock is None and self.folder.is_dir()


def spent_in(folder: Path) -> float:
    """Seconds of all attempts, by the state and the events in a folder."""
    state = read_json(folder / "state.json") or {}
    spent = number(state, "spent")
    if state.get("state") == "running":  # an attempt that came to its end is in `spent`
        times = [number(event, "time") for event in read_events(folder / "events.jsonl")[0]]
        spent += max(0, max(times, default=0) - (number(state, "startedAt") or float("inf")))
    return spent


def submit(home: Path, payload: dict) -> dict:
    """Starts the job unless it is running or has succeeded; `started` in the answer says which it was."""
    run = Run(home, payload["job"]["key"])
    run.folder.mkdir(parents=True, exist_ok=True)
    patience = uptime() + 10
    while (lock := run.try_lock()) is None:
        state = run.state()
        # One that is being started has no state yet; one whose state was taken away goes on all the same.
        if state["state"] in ACTIVE and ("attempt" in state or uptime() > patience):
            return {**run.status(), "started": False}
        time.sleep(0.02)  # another client is about to start it, or its supervisor is about to end
    if run.result() and payload.get("again") is not True:
        return {**run.status(), "started": False}
    try:
        lay_out(run, payload)
    except OSError:
        run.free_reserve()
        raise
    attempt = int(number(read_json(run.folder / "state.json") or {}, "attempt")) + 1
    spent = 0 if payload.get("again") else run.spent()
    ready, announce = os.pipe()
    if os.fork() == 0:
        # A session of its own: no hang-up, no Ctrl-C and no killed client reaches the run. The lock's open file is
        # inherited, so there is no moment at which nobody holds it.
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        try:
            os.close(ready)
            null = os.open(os.devnull, os.O_RDWR)
            log = os.open(run.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            for source, target in ((null, 0), (log, 1), (log, 2)):
                os.dup2(source, target)
            leave_login(run)
            run.set_state(
                "queued",
                attempt=attempt,
                spent=spent,
                queuedAt=now(),
                startedAt=None,
                finishedAt=None,
                reason=None,
                phase=None,
            )
            os.write(announce, b".")
            os.close(announce)
            supervise(run, payload["job"], spent)
        except BaseException as error:
            traceback.print_exc()
            if run.result() is None:  # else it has succeeded, and was interrupted while it tidied up
                run.set_state("failed", attempt=attempt, finishedAt=now(), reason=explain(error))
        finally:
            run.secrets_file().unlink(missing_ok=True)
            os._exit(0)
    os.close(announce)
    os.wait()
    os.read(ready, 1)
    lock.close()
    return {**run.status(), "started": True}


def leave_login(run: Run) -> None:
    """Takes this process out of the login that it was started in, which may take all of its processes along at its end.

    systemd moves it, as it is, into a scope of its own: one of the machine for root, else one of the user's manager, if
    that outlives the last logout. Without systemd, or where it refuses, its own session has to do, and mostly does:
    logind's KillUserProcesses is off unless somebody has set it.
    """
    instance = lasting_manager()
    if instance is None:
        return
    # Delegate: else a newer systemd ends the supervisor with a program that ran out of memory.
    properties = f"PIDs au 1 {os.getpid()} CollectMode s inactive-or-failed Delegate b true".split()
    name = f"retune-{run.key[:12]}-{os.getpid()}.scope"
    manager = ["org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"]
    call = ["call", *manager, "StartTransientUnit", "ssa(sv)a(sa(sv))", name, "fail", "3", *properties, "0"]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            ["busctl", f"--{instance}", *call],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=10,
            check=False,
        )


def lasting_manager():
    """The manager of systemd, system or user, whose units outlive the login; None where there is none."""
    if not Path("/run/systemd/system").is_dir():
        return None
    if os.getuid() == 0:
        return "system"
    import pwd

    lingers = Path("/var/lib/systemd/linger", pwd.getpwuid(os.getuid()).pw_name).exists()
    return "user" if lingers else None


def lay_out(run: Run, payload: dict) -> None:
    """Everything that the run begins with, in its folder. The caller holds the run's lock."""
    run.set_reserve()
    (run.folder / "result.json").unlink(missing_ok=True)
    (run.folder / "stop").unlink(missing_ok=True)
    if payload.get("again"):  # from the beginning; an attempt that resumes goes on with the events of the one before
        (run.folder / "events.jsonl").unlink(missing_ok=True)
    drop_half_line(run.folder / "events.jsonl")
    programs = run.folder / "programs"
    programs.mkdir(exist_ok=True)
    for name, source in payload["programs"].items():
        (programs / name).write_text(source, "utf-8")
    write_json(run.folder / "job.json", payload["job"])
    hidden = run.secrets_file()
    hidden.unlink(missing_ok=True)
    if payload.get("secrets"):
        with os.fdopen(os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(payload["secrets"], file)


def supervise(run: Run, job: dict, earlier: float) -> None:
    """`earlier` are the seconds of the attempts before: a resumed run has cost what they took as well."""
    with device_lock(run):
        begin = now()
        copies = Copies(run, job["checkpoints"]) if job.get("checkpoints") else None
        try:
            if copies and not (run.folder / "stop").exists():
                earlier = copies.bring(begin, earlier)
            state, reason = execute(run, job, begin, earlier, copies)
        except Exception as error:
            traceback.print_exc()
            state, reason = "failed", explain(error)
        finished = now()
        spent = round(earlier + finished - begin, 1)
        run.set_state(state, finishedAt=finished, reason=reason, spent=spent, phase=None)
    if state == "succeeded":
        shutil.rmtree(run.work, ignore_errors=True)


def execute(run: Run, job: dict, begin: float, earlier: float, copies):
    """Runs the job and stores what it made; answers the final state and why."""
    if (run.folder / "stop").exists():
        return "stopped", "stopped while it was queued"
    left = (job.get("limitSeconds") or float("inf")) - earlier
    if left <= 0:
        return "failed", f"it has used up its limit of {in_words(job['limitSeconds'])}: raise target.limits to go on"
    run.set_state("running", startedAt=begin)
    prepare(run, job)
    kills = memory_kills()
    with copies.kept() if copies else contextlib.nullcontext():
        code, how, software = converse(run, job, left, kills)
        if code == STOPPED:
            return "stopped", how + (copies.finish() if copies else "")
    outcome = read_json(run.work / "outcome.json") or {}
    if code != 0 or "error" in outcome:
        return "failed", outcome.get("error") or explain_exit(run.folder, code, memory_kills() > kills)
    run.set_state("running", phase="storing")
    missing = [p for p in job["produces"] if not any(fnmatch.fnmatch(f, p) for f in files_below(run.work / "out"))]
    if missing:
        return "failed", f"the program ended without an error, but did not write {', '.join(missing)}"
    digest, files = store(run.home, run.work / "out")
    link = run.folder / "out"
    if link.is_dir() and not link.is_symlink():  # somebody has put a folder there
        link.rename(link.with_name(f"out.{os.getpid()}"))
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(run.home / "store" / digest, run.folder))
    finished = now()
    result = {
        "key": run.key,
        "kind": job["kind"],
        "digest": digest,
        "files": files,
        "metrics": outcome.get("metrics", {}),
        "startedAt": begin,
        "finishedAt": finished,
        "seconds": round(earlier + finished - begin, 1),
        "host": {**host(), **software},
    }
    write_json(run.folder / "result.json", result)
    return "succeeded", None


def host() -> dict:
    """What a result depends on of the machine that made it, beyond the software of its program."""
    facts = {"name": os.uname().nodename, "machine": os.uname().machine, "cpus": os.cpu_count()}
    with contextlib.suppress(OSError):  # Arm says numbers there
        name = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        facts |= {"cpu": name.group(1)} if name else {}
    with contextlib.suppress(OSError):
        system = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', Path("/etc/os-release").read_text(), re.MULTILINE))
        facts["release"] = f"{system.get('ID', '')} {system.get('VERSION_ID', '')}".strip()
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
        if answer.returncode == 0 and answer.stdout.strip():
            gpus = [line.rsplit(", ", 1) for line in answer.stdout.strip().splitlines()]
            facts |= {"gpus": [name for name, _ in gpus], "driver": gpus[0][1]}
    return facts


@contextlib.contextmanager
def device_lock(run: Run):
    """One job at a time on this machine: two trainings do not fit one GPU, and slow each other 20-fold on one CPU."""
    with (runtime_folder() / "device.lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if (run.folder / "stop").exists():
                    break
                time.sleep(0.2)
        yield


def in_words(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def prepare(run: Run, job: dict) -> None:
    """Lays out the working folder; what an earlier attempt left there stays, for its checkpoints."""
    run.work.mkdir(exist_ok=True)
    (run.work / "outcome.json").unlink(missing_ok=True)
    (run.work / "saved.json").unlink(missing_ok=True)
    shutil.rmtree(run.work / "out", ignore_errors=True)
    (run.work / "out").mkdir()
    for name, digest in job["inputs"].items():
        artifact = run.home / "store" / digest
        damage = damage_of(run.home, digest)
        if damage:
            way_out = "`npm run refresh`, then `npm run up` bring it back"
            raise DamagedArtifactError(f"its input {name} ({digest[:12]}) {damage}: {way_out}")
        link = run.work / name
        link.unlink(missing_ok=True)
        link.symlink_to(artifact.resolve())


class DamagedArtifactError(Exception):
    pass


def is_disk_full(error: BaseException) -> bool:
    """Also as the libraries say it: safetensors in Rust's words, torch as a failed write of its archive."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return bool(re.search(r"No space left on device|os error 28|file write failed", str(error)))


def explain(error: Exception) -> str:
    if is_disk_full(error):
        return NO_SPACE
    if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{error.filename}: {error.strerror}; RETUNE_HOME must be a folder that you can write to"
    return str(error) or type(error).__name__


def explain_exit(folder: Path, code: int, memory_ran_out: bool) -> str:
    """What a program that died without a word of its own most likely died of."""
    if code == -signal.SIGKILL:
        if memory_ran_out:
            return "the machine ran out of memory, and the kernel killed the process (signal 9)"
        return "the process was killed (signal 9); where nobody did it, the machine ran out of memory"
    if code < 0:
        return f"the process was ended by {signal.Signals(-code).name}"
    errors = re.findall(r"^[\w.]*(?:Error|Exception|Interrupt)\b.*$", tail(folder / "log"), re.MULTILINE)
    return errors[-1] if errors else f"the program exited with code {code}"


# --- copies of checkpoints --------------------------------------------------------------------------------------------


class CopyError(Exception):
    """Why something did not get to the bucket or from there, in words."""


class Copies:
    """Copies of a run's checkpoints in a bucket of S3: a machine that is taken away may take its disk along.

    `where` is {place: BUCKET/PREFIX, region}. Below it and the run's key there are

        0/, 1/                      the files of the last checkpoint, and of one that is on its way
        checkpoint.json             {key, folder, step, slot, files} of the last one, written after its files
        state.json, events.jsonl    of the run, as they were at most COPY_PAUSE seconds ago

    rclone does the work, with the rights of the machine's own role, which may remove nothing. A bucket that does not
    answer is said once, and is no reason to end a training.
    """

    def __init__(self, run: Run, where: dict):
        self.run = run
        self.where = where
        self.records = run.folder / "copied"
        self.copied = None
        self.problem = None
        self.warned = False
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.keep, daemon=True)
        self.process = None
        self.given_up = False

    def saved(self) -> dict:
        """What the program says of the last checkpoint that it has written to its end: {folder, step}, or nothing."""
        return read_json(self.run.work / "saved.json") or {}

    def bring(self, begin: float, earlier: float) -> float:
        """Brings what another machine has left of this run, where that is further than what is here.

        Answers the seconds of all attempts so far, of which `earlier` are known here.
        """
        elsewhere = 0
        try:
            self.run.work.mkdir(exist_ok=True)
            shutil.rmtree(self.records, ignore_errors=True)
            self.rclone("copy", self.at(), self.records, "--max-depth", "1")
            elsewhere = spent_in(self.records)
            if elsewhere > earlier:
                attempt = int(number(read_json(self.records / "state.json") or {}, "attempt")) + 1
                self.run.set_state("running", startedAt=begin, attempt=attempt, spent=elsewhere)
                drop_half_line(self.records / "events.jsonl")
                (self.records / "events.jsonl").replace(self.run.folder / "events.jsonl")
            found = read_json(self.records / "checkpoint.json")
            if found:
                self.bring_files(found)
        except (CopyError, OSError, KeyError, TypeError) as problem:
            self.warn(f"no checkpoint was brought from the mirror: {problem}")
        return max(earlier, elsewhere)

    def bring_files(self, found: dict) -> None:
        if found.get("key") != self.run.key or not re.fullmatch(r"[\w-]+(/[\w-]+)*", found["folder"]):
            raise CopyError("the one that is there is of another run")
        place = self.run.work / found["folder"]
        if self.saved().get("step", -1) > found["step"] or all(
            intact(place / one["path"], one) for one in found["files"]
        ):
            return
        self.note(f"brings the checkpoint at step {found['step']} from the mirror")
        arrived = self.records / "files"
        self.rclone("copy", self.at(found["slot"]), arrived)
        if not all(intact(arrived / one["path"], one) for one in found["files"]):
            raise CopyError(f"the one at step {found['step']} is damaged there")
        for path in set(files_below(arrived)) - {one["path"] for one in found["files"]}:  # of an earlier one
            (arrived / path).unlink()
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        arrived.rename(place)

    @contextlib.contextmanager
    def kept(self):
        """Copies what the program saves, for as long as it is at work."""
        self.thread.start()
        try:
            yield
        finally:
            self.over.set()
            self.given_up = True
            if self.process is not None:
                self.process.kill()
            self.thread.join()
            shutil.rmtree(self.records, ignore_errors=True)

    def finish(self) -> str:
        """Copies the last checkpoint of a program that was stopped; answers, in words, whether it is there."""
        self.over.set()
        self.thread.join()
        saved = self.saved()
        if saved and saved != self.copied:
            self.copy(saved)
        if saved and saved == self.copied:
            return "; the mirror has a copy of it"
        return f"; it is on this machine alone: {self.problem}" if self.problem else ""

    def keep(self) -> None:
        tried, since = {}, uptime()
        while not self.over.wait(0.5):
            saved = self.saved()
            if saved != tried or uptime() - since > COPY_PAUSE:
                tried, since = saved, uptime()
                self.copy(saved)

    def copy(self, saved: dict) -> None:
        """Copies a checkpoint, unless it is there, and then what there is to tell of the run."""
        try:
            self.records.mkdir(exist_ok=True)
            if saved and saved != self.copied:
                self.copy_files(saved)
            for name in ("state.json", "events.jsonl"):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(self.run.folder / name, self.records / name)
            self.rclone("copy", self.records, self.at(), "--max-depth", "1")
            self.copied = saved
        except (CopyError, OSError) as problem:
            self.problem = problem
            if not self.given_up:
                self.warn(f"checkpoints do not get to the mirror: {problem}")

    def copy_files(self, saved: dict) -> None:
        """Copies the files of a checkpoint, and writes down what is then to be said of them."""
        file = self.records / "checkpoint.json"
        file.unlink(missing_ok=True)
        self.rclone("copy", self.at(), self.records, "--include", f"/{file.name}")
        known = read_json(file) or {}
        if known.get("key") == self.run.key and known["step"] >= saved["step"]:
            return
        slot = "1" if known.get("slot") == "0" else "0"
        frozen = self.records / "files"  # the program removes old checkpoints, in the middle of a copy too
        shutil.rmtree(frozen, ignore_errors=True)
        shutil.copytree(self.run.work / saved["folder"], frozen, copy_function=os.link)
        files = [
            {"path": path, "size": (frozen / path).stat().st_size, "sha256": sha256(frozen / path)}
            for path in files_below(frozen)
        ]
        self.rclone("copy", frozen, self.at(slot), "--ignore-times")
        write_json(file, {"key": self.run.key, **saved, "slot": slot, "files": files})
        shutil.rmtree(frozen)

    def at(self, *parts: str) -> str:
        return "/".join([f":s3:{self.where['place']}", self.run.key, *parts])

    def rclone(self, *words) -> None:
        """Throws CopyError; a folder of the bucket that is not there is an empty one."""
        not_found = 3
        environment = {**os.environ, **RCLONE, "RCLONE_S3_REGION": self.where["region"]}
        try:
            with subprocess.Popen(
                ["rclone", *map(str, words)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                preexec_fn=die_with_parent,
            ) as self.process:
                if self.given_up:
                    self.process.kill()
                _, said = self.process.communicate()
        except FileNotFoundError:
            raise CopyError("rclone is not installed on this machine") from None
        if self.process.returncode not in (0, not_found):
            lines = re.findall(r"^[\d/]+ [\d:]+ (?:\w+ *: )?(.+)$", said, re.MULTILINE)
            raise CopyError(lines[-1] if lines else f"rclone ended with {self.process.returncode}")

    def note(self, text: str, **values) -> None:
        line = json.dumps({"time": round(now(), 3), "type": "note", "text": text, **values}, ensure_ascii=False)
        with (self.run.folder / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def warn(self, text: str) -> None:
        print(text, flush=True)
        if not self.warned:
            self.note(text, warning=True)
        self.warned = True


# --- the store --------------------------------------------------------------------------------------------------------


def files_below(folder: Path) -> list:
    """Relative paths of all files below folder, sorted by their bytes."""
    return sorted((p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()), key=os.fsencode)


def digest_of(files: list) -> str:
    """The digest of an artifact: SHA-256 of its `sha256sum` listing."""
    listing = "".join(f"{file['sha256']}  {file['path']}\n" for file in files)
    return hashlib.sha256(listing.encode()).hexdigest()


def store(home: Path, folder: Path):
    """Moves folder into the store; answers its digest and its files."""
    files = [
        {"path": path, "size": (folder / path).stat().st_size, "sha256": sha256(folder / path)}
        for path in files_below(folder)
    ]
    digest = digest_of(files)
    place = home / "store" / digest
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir() and all(intact(place / file["path"], file) for file in files):
        shutil.rmtree(folder)  # somebody may be reading the one that is there
        write_json(place.with_name(f"{digest}.json"), {"digest": digest, "files": files})
        return digest, files
    # A damaged one is replaced: what was just made is known to be right.
    if place.exists():
        aside = place.with_name(f".{digest}.{os.getpid()}")
        place.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
    for path in files:
        with (folder / path["path"]).open("rb") as file:
            os.fsync(file.fileno())
    folder.rename(place)
    write_json(place.with_name(f"{digest}.json"), {"digest": digest, "files": files})
    return digest, files


def intact(path: Path, file: dict) -> bool:
    return path.is_file() and path.stat().st_size == file["size"] and sha256(path) == file["sha256"]


def manifest_of(home: Path, digest: str):
    """The files of an artifact; None where its manifest is missing or was altered."""
    files = (read_json(home / "store" / f"{digest}.json") or {}).get("files")
    with contextlib.suppress(KeyError, TypeError):
        return files if digest_of(files) == digest else None
    return None


def is_stored(home: Path, digest: str) -> bool:
    return damage_of(home, digest) is None


def damage_of(home: Path, digest: str):
    """What is wrong with an artifact, in words; None when every file is there with its digest.

    A file that looks as it did when it was last hashed is not read again: its ctime cannot be put back. One that was
    changed within the two seconds before is not remembered, because it could change again unseen.
    """
    artifact = home / "store" / digest
    files = manifest_of(home, digest)
    if files is None or not artifact.is_dir():
        return "is not in the store"
    memory = home / "verified" / f"{digest}.json"
    known = read_json(memory) or {}
    seen = {}
    for file in files:
        path = artifact / file["path"]
        if not path.is_file():
            return f"is damaged, {file['path']} is gone"
        stat = path.stat()
        mark = [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        if known.get(file["path"]) != mark and not intact(path, file):
            return f"is damaged, {file['path']} was altered"
        if time.time() - stat.st_ctime > 2:
            seen[file["path"]] = mark
    if seen != known:
        with contextlib.suppress(OSError):  # then it is hashed again
            memory.parent.mkdir(exist_ok=True)
            write_json(memory, seen)
    return None


# --- garbage ---------------------------------------------------------------------------------------------------------


def size_of(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def collect_garbage(home: Path, request: dict) -> dict:
    """Removes runs that are no root, not active and older than the grace period, then artifacts that no kept run has.

    `roots` says of keys why they stay. What a kept run took in stays with it. Every run and artifact is in the answer,
    with its size in bytes and the reason, and everything that a killed process has left in what is kept; with `dryRun`
    nothing is removed.
    """
    runs = [Run(home, path.name) for path in (home / "runs").glob("*") if re.fullmatch(r"[0-9a-f]{64}", path.name)]
    # A clock that was put forward makes everything look old, and one that was put back makes new things future ones.
    present = time.time() - clock_put_forward(runs)
    age = {run.key: max(0, present - last_use(run.folder)) for run in runs}
    reasons = {}
    for run in runs:
        if run.key in request["roots"]:
            reasons[run.key] = request["roots"][run.key]
        elif run.state()["state"] in ACTIVE:
            reasons[run.key] = "it is going on"
        elif age[run.key] < request["graceSeconds"]:
            reasons[run.key] = f"used {age[run.key] / 86400:.1f} days ago, within the grace period"
    made = {run.key: artifacts_of(run) for run in runs}
    inputs = {run.key: set(((run.job() or {}).get("inputs") or {}).values()) for run in runs}
    # A baseline is no stage of any stack, but without it the next evaluation would run the base again.
    taken = set().union(*(inputs[key] for key in reasons))
    for run in runs:
        if run.key not in reasons and made[run.key] & taken:
            reasons[run.key] = "input of a run that is kept"

    items = []
    for run in runs:
        kept = run.key in reasons
        kind = (run.job() or {}).get("kind")
        item = {"what": "run", "name": run.key, "kind": kind, "size": size_of(run.folder), "kept": kept}
        item["why"] = reasons.get(run.key) or f"no stack uses it, last used {age[run.key] / 86400:.1f} days ago"
        if not kept and not request["dryRun"] and not remove_run(run):
            item |= {"kept": True, "why": "it has just been started"}
        items.append(item)
    needed = set().union(*(made[key] | inputs[key] for key in reasons))
    served = {(read_json(file) or {}).get("digest") for file in home.glob("services/*/wanted.json")}
    for manifest in (home / "store").glob("*.json"):
        folder = manifest.with_suffix("")
        kept = folder.name in needed | served
        fresh = max(0, present - manifest.stat().st_mtime) < request["graceSeconds"]
        why = "new" if fresh else "no run that is kept has it"
        if kept:
            why = "of a run that is kept" if folder.name in needed else "a service has it"
        item = {"what": "artifact", "name": folder.name, "size": size_of(folder), "kept": kept or fresh, "why": why}
        if not item["kept"] and not request["dryRun"]:
            manifest.unlink()  # first: without it the folder counts as absent, however far its removal gets
            shutil.rmtree(folder, ignore_errors=True)
            (home / "verified" / manifest.name).unlink(missing_ok=True)
        items.append(item)
    for path, name in leftovers(home, [run for run in runs if run.key in reasons]):
        kept = max(0, present - path.lstat().st_ctime) < request["graceSeconds"]
        size = size_of(path) if is_folder(path) else path.lstat().st_size
        why = f"a killed process has left {path.name}{', within the grace period' if kept else ''}"
        items.append({"what": "leftover", "name": name, "size": size, "kept": kept, "why": why})
        if not kept and not request["dryRun"]:
            shutil.rmtree(path, ignore_errors=True) if is_folder(path) else path.unlink(missing_ok=True)
    return {"items": items, "freed": sum(item["size"] for item in items if not item["kept"])}


def leftovers(home: Path, runs: list) -> list:
    """What killed processes have left, with the run or artifact that it belongs to."""
    # What a process writes it writes under a name with its pid first: .NAME.PID here, NAME.PID.N in the clients.
    places = [(path, run.key) for run in runs for path in run.folder.iterdir()]
    places += [(path, path.name.strip(".")[:64]) for part in ("store", "verified") for path in (home / part).glob("*")]
    found = [
        (path, name)
        for path, name in places
        if (pid := re.fullmatch(r"(?:\..+\.(\d+))|(?:.+\.(\d+)\.\d+)", path.name))
        and started(int(pid[1] or pid[2])) is None
        and not (path.name.startswith("out.") and is_folder(path))  # somebody's own, put aside
    ]
    for run in runs:
        rest = [run.folder / name for name in ("work", "reserve") if (run.folder / name).exists()]
        if rest and run.state()["state"] == "succeeded" and not run.is_locked():
            found += [(path, run.key) for path in rest]
    if not any(run.state()["state"] in ACTIVE for run in runs):  # else it may be about to get its manifest
        artifacts = [path for path in (home / "store").glob("*") if re.fullmatch(r"[0-9a-f]{64}", path.name)]
        found += [(path, path.name) for path in artifacts if not path.with_name(f"{path.name}.json").exists()]
    return found


def is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def clock_put_forward(runs: list) -> float:
    """Seconds by which the wall clock was put forward since runs of this boot wrote their states."""
    states = [read_json(run.folder / "state.json") or {} for run in runs]
    then = [number(state, "bootedAt") for state in states if state.get("boot") == boot_id() and "bootedAt" in state]
    return max(0, booted_at() - min(then, default=booted_at()))


def artifacts_of(run: Run) -> set:
    """The digest of what a run made. Its link says so too, where somebody has spoilt its result."""
    out = run.folder / "out"
    linked = {out.readlink().name} if out.is_symlink() else set()
    return linked | {(run.result() or {}).get("digest")} - {None}


def last_use(folder: Path) -> float:
    """A result is touched when it is taken from the store."""
    times = [file.stat().st_mtime for file in (folder / "result.json", folder / "state.json") if file.exists()]
    return max(times, default=folder.stat().st_mtime)


def remove_run(run: Run) -> bool:
    lock = run.try_lock()
    if lock is None:
        return False
    with lock:
        (run.folder / "result.json").unlink(missing_ok=True)
        shutil.rmtree(run.folder, ignore_errors=True)
    return True


# --- services ---------------------------------------------------------------------------------------------------------


def lay_out_program(home: Path, folder: Path, payload: dict) -> None:
    """A folder for a program that is no run: its job, its sources, and its inputs in the working folder."""
    job = payload["job"]
    (folder / "work").mkdir(parents=True, exist_ok=True)
    (folder / "programs").mkdir(exist_ok=True)
    for name, source in payload["programs"].items():
        (folder / "programs" / name).write_text(source, "utf-8")
    write_json(folder / "job.json", job)
    for name, digest in job["inputs"].items():
        damage = damage_of(home, digest)
        if damage:
            raise SystemExit(f"its {name} ({digest[:12]}) {damage}: `npm run refresh`, then `npm run up` bring it back")
        link = folder / "work" / name
        link.unlink(missing_ok=True)
        link.symlink_to((home / "store" / digest).resolve())


def attend(home: Path) -> None:
    """Runs a program that speaks with the client over stdin and stdout, in a folder that goes with it."""
    line = b""
    while not line.endswith(b"\n"):  # and not a byte more: what follows is the program's
        block = os.read(0, 1)
        if not block:
            return
        line += block
    payload = json.loads(line)
    attended = home / "attended"
    attended.mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in attended.iterdir():
        if started(int(old.name)) is None:
            shutil.rmtree(old, ignore_errors=True)
    folder = attended / str(os.getpid())
    job = payload["job"]
    try:
        lay_out_program(home, folder, payload)
        with (folder / "log").open("wb") as log:
            command = [job["python"], str(folder / "programs" / job["program"])]
            environment = {**os.environ, **job["environment"]}
            environment.pop("PYTHONDONTWRITEBYTECODE", None)
            kills = memory_kills()
            code = subprocess.run(
                command, cwd=folder / "work", env=environment, stderr=log, preexec_fn=die_with_parent, check=False
            ).returncode
        outcome = read_json(folder / "work" / "outcome.json") or {}
        if code != 0:
            raise SystemExit(outcome.get("error") or explain_exit(folder, code, memory_kills() > kills))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def serve(home: Path, payload: dict) -> dict:
    """Sees to it that a port serves this model, or will: its front goes on by itself. Answers with the attempt."""
    port, owner, key = payload["port"], payload["owner"], payload["job"]["key"]
    folder = home / "services" / str(port)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = service(home, port)
        if before["state"] == "up" and before["owner"] != owner:
            raise SystemExit(f"port {port} is that of {before['owner']}: set service.port")
        if before["state"] == "up":
            active = before["active"]
            state = read_json(folder / "state.json") or {}
            front_answers = answers(folder, port, "", 401)  # the front alone says so: that is not its key
            before = service(home, port, ask=front_answers)
            # Another model comes up beside one that is silent; the same one has to take its place.
            # One without a code is of before a front could go on as another.
            if not front_answers or "code" not in state or (active == key and before["reason"] is not None):
                end_front(state, patience=20 if front_answers else 0)
                before = service(home, port)
        is_newer = lay_out_front(folder, payload["programs"].pop("front.py"))
        wanted = read_json(folder / "wanted.json") or {}
        if before["state"] == "up" and key == before["starting"]:
            if is_newer:
                write_json(folder / "wanted.json", wanted)
            return {**before, "attempt": wanted.get("attempt"), "started": False}
        if before["state"] == "up" and key == before["active"]:
            # What else was wanted meanwhile is no more, be it starting or have it failed.
            if is_newer or wanted["attempt"] != before["attempt"]:
                write_json(folder / "wanted.json", read_json(folder / str(before["attempt"]) / "wanted.json"))
            return {**before, "attempt": before["attempt"], "started": False}
        attempt = int(number(wanted, "attempt")) + 1
        model = folder / str(attempt)
        lay_out_program(home, model, payload)
        if wanted.get("owner", owner) != owner:  # its clients' key is not to be this one's
            (folder / "key").unlink(missing_ok=True)
        if not (folder / "key").exists():
            with os.fdopen(os.open(folder / "key", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(f"{secrets.token_urlsafe(32)}\n")
        digest = payload["job"]["inputs"]["model"]
        wanted = {"port": port, "owner": owner, "attempt": attempt, "digest": digest, "folder": str(model)}
        for place in (model, folder):
            write_json(place / "wanted.json", {**wanted, "job": payload["job"]})
        if before["state"] != "up":
            # Stale ones of a front that is gone would be taken for those of this attempt.
            (folder / "state.json").unlink(missing_ok=True)
            start_front(folder.resolve(), port)
        for old in folder.glob("[0-9]*"):
            if int(old.name) not in (attempt, before.get("attempt")):
                shutil.rmtree(old, ignore_errors=True)
        return {**service(home, port), "attempt": attempt, "started": True}


def lay_out_front(folder: Path, source: str) -> bool:
    """Writes the sources that a front is started from. Whether they are others than before."""
    before = code_of_front(folder)
    for name, text in (("front.py", source), ("runner.py", Path(__file__).read_text("utf-8"))):
        temporary = folder / f".{name}"
        temporary.write_text(text, "utf-8")
        temporary.replace(folder / name)
    return code_of_front(folder) != before


def code_of_front(folder: Path) -> str:
    """Names the sources in a front's folder."""
    sources = (folder / name for name in ("front.py", "runner.py"))
    return " ".join(sha256(source) for source in sources if source.exists())


def front_command(folder: Path) -> list:
    # Without bytecode: by time and size alone the old one might count for a source that has changed.
    return [sys.executable, "-B", str(folder / "front.py"), str(folder)]


class Unit:
    """The unit of systemd that starts a service's front, now and whenever the machine is started."""

    def __init__(self, folder: Path, port: int):
        name = hashlib.sha256(str(folder).encode()).hexdigest()[:8]
        self.name = f"retune-service-{port}-{name}.service"
        self.manager = "system" if os.getuid() == 0 else "user"
        own = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "systemd/user")
        self.file = (Path("/etc/systemd/system") if self.manager == "system" else own) / self.name
        self.folder = folder
        self.port = port

    def start(self) -> bool:
        """Whether systemd has started it, and will at the next boot."""
        if lasting_manager() != self.manager:
            return False
        kept = ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "TMPDIR", "PATH", "HOME")
        lines = [
            "[Unit]",
            f"Description=Service of Retune at port {self.port}",
            "[Service]",
            "ExecStart=" + " ".join(in_unit(word.replace("$", "$$")) for word in front_command(self.folder)),
            *(f"Environment={in_unit(f'{name}={os.environ[name]}')}" for name in kept if name in os.environ),
            # A model that is loaded and runs out of memory is not to end the one that serves.
            "OOMPolicy=continue",
            "[Install]",
            f"WantedBy={'multi-user' if self.manager == 'system' else 'default'}.target",
        ]
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text("\n".join(lines) + "\n", "utf-8")
        except OSError:
            return False
        if self.tell("enable", self.name) and self.tell("restart", self.name):
            return True
        self.remove()
        return False

    def remove(self) -> None:
        if self.file.exists():
            self.tell("disable", self.name)
            self.file.unlink(missing_ok=True)
            self.tell("daemon-reload")

    def tell(self, *words) -> bool:
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            command = ["systemctl", f"--{self.manager}", *words]
            return subprocess.run(command, **quiet, timeout=10, check=False).returncode == 0
        return False


def in_unit(word: str) -> str:
    """A word as a unit file has it: systemd.syntax(7)."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def start_front(folder: Path, port: int) -> None:
    """Starts the front as a unit of systemd, where one outlives the login; else in a session of its own."""
    state = folder / "state.json"
    if Unit(folder, port).start():
        return wait_for(state)
    with (folder / "front.log").open("w") as log:
        front = subprocess.Popen(
            front_command(folder), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    return wait_for(state, front)


def wait_for(state: Path, front=None) -> None:
    """Until the front has said something of itself."""
    until = time.monotonic() + 20
    while not state.exists():
        if time.monotonic() > until or (front is not None and front.poll() is not None):
            said = tail(state.with_name("front.log"), 2000).strip()
            raise SystemExit(
                f"the service's front did not start: {said.splitlines()[-1] if said else 'it said nothing'}"
            )
        time.sleep(0.02)


def service(home: Path, port: int, ask: bool = False) -> dict:
    """What a port serves: `state` is absent, up (its front is there; `active` is what answers) or down, and why."""
    folder = home / "services" / str(port)
    state = read_json(folder / "state.json") or {}
    answer = {"boot": boot_id(), "state": "absent", "failed": state.get("failed")}
    if not (folder / "wanted.json").exists():
        return answer
    why = why_lost(state)
    if why:
        return {**answer, "state": "down", "reason": state.get("reason") or why}
    active, starting = state.get("active") or {}, state.get("starting") or {}
    keys = {"active": active.get("key"), "starting": starting.get("key"), "phase": starting.get("phase")}
    answer |= {"state": "up", "owner": state["owner"], **keys, "reason": None, "attempt": active.get("attempt")}
    answer["warning"] = None
    with contextlib.suppress(OSError):
        if shutil.disk_usage(folder / "log").free < LOG_BLOCK:
            answer["warning"] = f"services/{port}/log cannot be written: {NO_SPACE}"
    if ask and active and not answers(folder, port, (folder / "key").read_text("utf-8").strip(), 200):
        answer |= {"active": None, "reason": "it does not answer"}
    return answer


def answers(folder: Path, port: int, key: str, code: int) -> bool:
    """Whether a service answers so. One that goes on as another has everybody wait, who may have come just before."""

    def is_renewing() -> bool:
        return (read_json(folder / "state.json") or {}).get("renewing") is True

    return is_renewing() or asked(port, key) == code or is_renewing()


def asked(port: int, key: str):
    """The HTTP status of a service's answer to a simple question; None where there is no answer within 10 seconds."""
    import http.client  # slow, and of use here only

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
        connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})
        return connection.getresponse().status
    return None


def end_front(state: dict, patience: float = 20) -> None:
    """Ends a front, and its models with it; one that has not ended after so many seconds is killed."""
    if why_lost(state) is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(state["pid"], signal.SIGTERM)
    until = time.monotonic() + patience
    while why_lost(state) is None:
        if time.monotonic() > until:
            with contextlib.suppress(ProcessLookupError):
                os.kill(state["pid"], signal.SIGKILL)
        time.sleep(0.05)


def end_service(home: Path, port: int, owner: str) -> dict:
    """Ends a service, unless it has become that of another."""
    folder = home / "services" / str(port)
    if not folder.is_dir():
        return {"state": "absent"}
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = read_json(folder / "state.json") or {}
        if (state.get("owner") or owner) != owner:
            return service(home, port)
        end_front(state)
        Unit(folder.resolve(), port).remove()
        shutil.rmtree(folder, ignore_errors=True)
    return {"state": "absent"}


# --- artifacts on their way -------------------------------------------------------------------------------------------


def receive(home: Path, digest: str) -> dict:
    """Takes an artifact from stdin.

    The client sends the manifest, one line; is told, in one line, whether the artifact is here and otherwise how much
    of each file is; and sends the rest, one file after the other. What a broken connection has brought stays for the
    next try.
    """
    files = json.loads(sys.stdin.buffer.readline())["files"]
    if digest_of(files) != digest or not all(is_below(file["path"]) for file in files):
        raise SystemExit(f"the manifest is not that of {digest[:12]}")
    incoming = home / "store" / ".incoming" / digest
    incoming.mkdir(parents=True, exist_ok=True)
    with (incoming / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_stored(home, digest):
            print(json.dumps({"present": True}), flush=True)
            shutil.rmtree(incoming, ignore_errors=True)
            return {"digest": digest}
        have = {file["path"]: arrived(incoming / "files" / file["path"], file["size"]) for file in files}
        print(json.dumps({"present": False, "have": have}), flush=True)
        for file in files:
            take(incoming / "files" / file["path"], file["size"])
        damaged = [file["path"] for file in files if not intact(incoming / "files" / file["path"], file)]
        for path in damaged:
            (incoming / "files" / path).unlink()
        if damaged:
            raise SystemExit(f"{', '.join(damaged)} did not arrive as sent")
        store(home, incoming / "files")
        shutil.rmtree(incoming, ignore_errors=True)
    return {"digest": digest}


def is_below(path: str) -> bool:
    return not path.startswith("/") and ".." not in path.split("/")


def arrived(path: Path, size: int) -> int:
    """How many bytes of a file are here. More than it has are none: it belongs to something else."""
    there = path.stat().st_size if path.is_file() else 0
    return there if there <= size else 0


def take(path: Path, size: int) -> None:
    """Appends from stdin until the file has its size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    there = arrived(path, size)
    with path.open("r+b" if there else "wb") as file:
        file.seek(there)
        while there < size:
            if not select.select([0], [], [], SENDER_IDLE)[0]:
                raise SystemExit(f"nothing has arrived for {SENDER_IDLE} seconds")
            block = os.read(0, min(1 << 20, size - there))
            if not block:
                raise SystemExit("the connection ended before everything had arrived")
            file.write(block)
            file.flush()  # a killed process leaves what has arrived
            there += len(block)


def send(home: Path, digest: str) -> None:
    """Writes an artifact to stdout: its manifest, one line, then of each file what the client does not have yet."""
    have = json.load(sys.stdin)["have"]
    if not is_stored(home, digest):
        raise SystemExit(f"the artifact {digest[:12]} is gone")
    files = manifest_of(home, digest)
    sys.stdout.buffer.write(json.dumps({"files": files}).encode() + b"\n")
    for file in files:
        copy_to_stdout(home / "store" / digest / file["path"], have.get(file["path"], 0))


def copy_to_stdout(path: Path, start: int) -> None:
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(start)
        shutil.copyfileobj(file, sys.stdout.buffer, 1 << 20)
    sys.stdout.buffer.flush()


def hello(home: Path) -> dict:
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = home.stat()
    return {
        "home": str(home.resolve()),
        "boot": boot_id(),
        "inode": [status.st_dev, status.st_ino],
    }


# --- the worker -------------------------------------------------------------------------------------------------------


def worker_address(job: dict) -> Path:
    """Jobs share a worker when their environment, its variables and the modules to import are the same."""
    inherited = {name: os.environ.get(name) for name in INHERITED}
    parts = [job["python"], job["environment"], job["preload"], inherited, sha256(Path(__file__))]
    identity = json.dumps(parts, sort_keys=True)
    return runtime_folder() / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.sock"


def connect(job: dict) -> socket.socket:
    """A connection to the job's worker, which is started where there is none."""
    address = worker_address(job)
    with address.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            return dial(address)
        environment = {**os.environ, **job["environment"]}
        # Without its bytecode LLaMA-Factory takes 2.4 x as long to import.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        if not Path(job["python"]).exists():
            raise FileNotFoundError(f"there is no Python environment at {job['python']}; npm run setup makes it")
        with address.with_suffix(".log").open("w") as log:
            worker = subprocess.Popen(
                [job["python"], __file__, "worker", str(address), *job["preload"]],
                env=environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        while worker.poll() is None:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                return dial(address)
            time.sleep(0.02)
        raise RuntimeError(worker_ended(job))


def worker_ended(job: dict, memory_ran_out: bool = False) -> str:
    log = tail(worker_address(job).with_suffix(".log"), 2000).strip()
    if memory_ran_out:
        return "the machine ran out of memory, and the kernel killed the worker process"
    if log:
        return f"the worker process ended: {log.splitlines()[-1]}"
    return "the worker process was killed; where nobody did it, the machine ran out of memory"


def dial(address: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(address))
    except OSError:
        connection.close()
        raise
    return connection


def converse(run: Run, job: dict, seconds: float, kills: int):
    """Has the worker execute the job, at most for so many seconds. `kills` is what memory_kills() said before.

    Answers the exit code; how it was stopped; and versions of the software that ran it.
    """
    connection = connect(job)
    hidden = read_json(run.secrets_file()) or {}
    run.secrets_file().unlink(missing_ok=True)
    request = {"folder": str(run.folder), "program": job["program"], "secrets": hidden}
    with contextlib.suppress(BrokenPipeError):  # then there is no answer either
        connection.sendall(json.dumps(request).encode() + b"\n")
    connection.settimeout(0.2)
    received = b""
    asked = None
    until = time.monotonic() + seconds
    why = None
    while True:
        with contextlib.suppress(TimeoutError):
            try:
                block = connection.recv(4096)
            except ConnectionResetError:  # it ended before it read the request
                block = b""
            if not block:
                raise RuntimeError(worker_ended(job, memory_kills() > kills))
            received += block
            if received.endswith(b"\n"):
                answer = json.loads(received)
                return answer["exit"], f"{why or who_stopped(run)}; a checkpoint was saved", answer["software"]
        if asked is None and time.monotonic() > until:
            why = f"stopped at its limit of {in_words(job['limitSeconds'])}"
            (run.folder / "stop").touch()
        if asked is None and (run.folder / "stop").exists():
            asked = uptime()
            if not job["stoppable"]:
                connection.close()  # the worker ends the program of a closed connection
                return STOPPED, why or who_stopped(run), {}
        if asked is not None and uptime() - asked > STOP_GRACE:
            connection.close()
            how = f"{why or who_stopped(run)}; it did not reach a step's end within {STOP_GRACE} seconds"
            return STOPPED, how, {}


def who_stopped(run: Run) -> str:
    """Why a run was asked to stop, in the words of whoever has asked."""
    with contextlib.suppress(FileNotFoundError):
        return (run.folder / "stop").read_text("utf-8").strip() or "stopped on request"
    return "stopped on request"


def worker(address: Path, preload: list) -> None:
    """Imports the modules once, then forks one child per job. The death of its supervisor ends a child."""
    listener = socket.socket(socket.AF_UNIX)
    address.unlink(missing_ok=True)
    listener.bind(str(address))
    listener.listen()
    for module in preload:
        __import__(module)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    children = {}  # connection -> pid of its child, from the moment that its request was read
    idle_since = time.monotonic()
    while children or time.monotonic() - idle_since < WORKER_IDLE or not retire(address, listener):
        for ready, _ in selector.select(timeout=1):
            source = ready.fileobj
            if source is listener:
                connection, _ = listener.accept()
                selector.register(connection, selectors.EVENT_READ)
            elif isinstance(source, int):  # a child ended
                selector.unregister(source)
                os.close(source)
                connection, pid = ready.data
                _, status = os.waitpid(pid, 0)
                children.pop(connection)
                with contextlib.suppress(OSError):
                    answer = {"exit": os.waitstatus_to_exitcode(status), "software": software()}
                    connection.sendall(json.dumps(answer).encode() + b"\n")
                with contextlib.suppress(KeyError):
                    selector.unregister(connection)
                connection.close()
                idle_since = time.monotonic()
            elif source.fileno() >= 0:  # else its child's end, just seen, has closed it
                data = source.recv(1 << 16)
                while data and not data.endswith(b"\n"):
                    data += source.recv(1 << 16)
                if data and source not in children:
                    pid = start(json.loads(data), [listener, source, *children], selector)
                    children[source] = pid
                    selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (source, pid))
                else:  # closed: its supervisor is gone, or wants the program ended
                    selector.unregister(source)
                    if source in children:
                        with contextlib.suppress(ProcessLookupError):
                            os.killpg(children[source], signal.SIGKILL)
                    else:
                        source.close()


@functools.cache
def software() -> dict:
    """Versions that a result depends on, of this environment; of CUDA the one of torch, where that is loaded."""
    import importlib.metadata  # slow, and of use in a worker only

    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in ("torch", "llamafactory"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    cuda = getattr(getattr(sys.modules.get("torch"), "version", None), "cuda", None)
    return versions | ({"cuda": cuda} if cuda else {})


def retire(address: Path, listener: socket.socket) -> bool:
    """Whether an idle worker may end: nobody is connecting, and from here on nobody finds it."""
    with address.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if select.select([listener], [], [], 0)[0]:
            return False
        address.unlink(missing_ok=True)
        return True


def start(request: dict, sockets: list, selector) -> int:
    """Forks the child of one job and answers its pid."""
    folder = Path(request["folder"])
    pid = os.fork()
    if pid != 0:
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        return pid
    code = 1
    try:
        os.setpgid(0, 0)
        die_with_parent()
        for one in sockets:
            one.close()
        selector.close()
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout.reconfigure(line_buffering=True)
        os.environ.update(request["secrets"])
        os.chdir(folder / "work")
        program = folder / "programs" / request["program"]
        if cuda_initialised():
            # CUDA does not survive a fork: such a job pays for its own import.
            code = subprocess.run([sys.executable, str(program)], check=False).returncode
        else:
            sys.path.insert(0, str(program.parent))
            runpy.run_path(str(program), run_name="__main__")
            code = 0
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException as error:
        full = is_disk_full(error)
        if full:
            (folder / "reserve").unlink(missing_ok=True)
        traceback.print_exc()
        if full:
            with contextlib.suppress(OSError):
                write_json(folder / "work" / "outcome.json", {"error": explain(error)})
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def die_with_parent() -> None:
    import ctypes

    parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)


def cuda_initialised() -> bool:
    torch = sys.modules.get("torch")
    return bool(torch and torch.cuda.is_initialized())


# --- verbs ------------------------------------------------------------------------------------------------------------


def wait_for_news(run: Run, cursor: int, seconds: float) -> dict:
    """The status as soon as there is an event after `cursor` or the state changes; after `seconds` in any case."""
    first = run.status(cursor)
    until = time.monotonic() + seconds
    answer = first
    while not answer["events"] and answer["state"] == first["state"] and time.monotonic() < until:
        if answer["state"] not in ACTIVE:
            break
        time.sleep(0.1)
        answer = run.status(cursor)
    return answer


def stop(run: Run) -> dict:
    if run.folder.is_dir() and run.state()["state"] in ACTIVE:
        with contextlib.suppress(FileNotFoundError):  # it has ended, and was collected
            (run.folder / "stop").touch()
    return run.status()


def list_runs(home: Path) -> dict:
    runs = []
    for folder in (home / "runs").glob("*"):
        if re.fullmatch(r"[0-9a-f]{64}", folder.name):
            run = Run(home, folder.name)
            runs.append({"key": run.key, "kind": (run.job() or {}).get("kind"), **run.state()})
    runs.sort(key=lambda run: number(run, "queuedAt"), reverse=True)
    return {"runs": runs}


def main() -> None:
    if sys.argv[1:2] == ["worker"]:
        return worker(Path(sys.argv[2]), sys.argv[3:])
    parser = argparse.ArgumentParser(description="Runs the jobs of Retune on a target.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("submit", "list", "gc", "hello", "missing", "serve", "attend"):
        verbs.add_parser(verb)
    for verb in ("status", "stop", "read"):
        verbs.add_parser(verb).add_argument("key")
    for verb in ("receive", "send"):
        verbs.add_parser(verb).add_argument("digest")
    for verb in ("service", "end-service", "service-key"):
        verbs.add_parser(verb).add_argument("port", type=int)
    verbs.choices["service"].add_argument("--ask", action="store_true")
    verbs.choices["end-service"].add_argument("--owner", required=True)
    for verb in verbs.choices.values():
        verb.add_argument("--home", type=Path, required=True)
    for verb in ("status", "read"):
        verbs.choices[verb].add_argument("--cursor", type=int, default=0)
    verbs.choices["status"].add_argument("--wait", type=float, default=0)
    verbs.choices["read"].add_argument("--file", choices=["log", "events.jsonl", "job.json"], default="log")
    given = parser.parse_args()
    try:
        act(given)
    except OSError as error:
        raise SystemExit(explain(error)) from None


def act(given) -> None:
    home = given.home
    match given.verb:
        case "submit":
            answer = submit(home, json.load(sys.stdin.buffer))
        case "status":
            answer = wait_for_news(Run(home, given.key), given.cursor, given.wait)
        case "stop":
            answer = stop(Run(home, given.key))
        case "list":
            answer = list_runs(home)
        case "gc":
            answer = collect_garbage(home, json.load(sys.stdin.buffer))
        case "hello":
            answer = hello(home)
        case "missing":
            answer = {"missing": [digest for digest in json.load(sys.stdin.buffer) if not is_stored(home, digest)]}
        case "receive":
            answer = receive(home, given.digest)
        case "send":
            return send(home, given.digest)
        case "serve":
            answer = serve(home, json.load(sys.stdin.buffer))
        case "attend":
            return attend(home)
        case "service":
            answer = service(home, given.port, given.ask)
        case "end-service":
            answer = end_service(home, given.port, given.owner)
        case "service-key":
            return copy_to_stdout(home / "services" / str(given.port) / "key", 0)
        case "read":
            return copy_to_stdout(Run(home, given.key).folder / given.file, given.cursor)
    print(json.dumps(answer))
    return None


if __name__ == "__main__":
    main()
