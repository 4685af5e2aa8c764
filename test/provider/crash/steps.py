"""Runs runner.py as it is, and counts its steps: every call of its process into the file system, a lock, a socket or
another process. At the step that CRASH_AT names, `role:number:signal`, the process sends itself that signal.

Only its clock is changed, so that every run takes the same steps and a number names the same step in each: where it
would look again after some time, it waits for what it is looking for, and no file is too young for it.
"""

import _io
import _posixsubprocess
import _socket
import contextlib
import fcntl
import os
import runpy
import select
import signal
import socket
import sys
import time
from pathlib import Path

runner, verb = sys.argv[1:3]
control = Path(os.environ["CRASH_CONTROL"])
recording = os.environ.get("CRASH_RECORD")
doomed, number, signal_name = (os.environ.get("CRASH_AT") or "nobody:0:SIGKILL").split(":")
# What asks the kernel for nothing, or only for what a process is.
PURE = {
    *("fspath", "getpid", "getuid", "getppid", "uname", "cpu_count", "text_encoding", "fileno", "_path_normpath"),
    *("settimeout", "getsockname", "getpeername", "waitstatus_to_exitcode", "WIFSTOPPED", "WIFSIGNALED", "WIFEXITED"),
    *("strerror", "readable", "seekable", "writable"),
}
MODULES = {module.__name__ for module in (_posixsubprocess, fcntl, select, _socket, _io)} | {"posix"}
OBJECTS = (_io._IOBase, _socket.socket)
# A submit forks twice; the supervisor is the grandchild.
ROLES = ["submit", "session", "supervisor"] if verb == "submit" else [verb]
lock = Path(sys.argv[-1]) / "runs" / sys.argv[3] / "lock"
real_sleep, real_time = time.sleep, time.time
count = 0
counting = False
buffering = False


def step(name: str) -> None:
    global count
    count += 1
    if recording:
        with open(recording, "a") as file:  # noqa: PTH123 -- the shortest way there, in a profiler
            file.write(f"{ROLES[0]} {count} {name}\n")
    if ROLES[0] == doomed and count == int(number):
        (control / "hit").touch()
        os.kill(os.getpid(), signal.Signals[signal_name])


def profile(frame, event, function) -> None:
    global buffering, counting
    code = frame.f_code
    if event == "call" and code.co_filename == runner:
        counting = counting or code.co_name in ("submit", "wait_for_news")
        if code.co_name == "supervise":
            wait(lambda: not is_alive(submitter))
    elif event == "c_call" and counting and function.__name__ not in PURE:
        of = getattr(function, "__self__", None)
        if function.__module__ in MODULES or isinstance(of, OBJECTS):
            caller = frame
            while caller.f_code.co_filename != runner:
                caller = caller.f_back
                if caller is None or caller.f_code.co_filename == __file__:
                    return
            # All but the first of several writes of one file only fill its buffer.
            before, buffering = buffering, isinstance(of, _io.TextIOWrapper) and function.__name__ == "write"
            if caller.f_code.co_name not in ("boot_id", "started") and not (before and buffering):
                step(f"{caller.f_code.co_name}: {function.__name__}")


def wait(condition) -> None:
    """Not for ever: what is waited for may have been killed in a way that shows nowhere."""
    until = time.monotonic() + 20
    while not condition() and time.monotonic() < until:
        real_sleep(0.002)


def is_alive(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat[stat.rindex(")") + 2] not in "ZX"
    return False


def run_is_over() -> bool:
    """Its supervisor holds this lock for as long as it lives."""
    with lock.open() as file, contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    return False


def sleep(seconds: float) -> None:
    match sys._getframe(1).f_code.co_name:
        case "wait_for_news":
            (control / "go").touch()
            wait(run_is_over)
        case "connect":
            (control / "dialled").touch()
            wait((control / "listening").exists)
        case _:
            real_sleep(seconds)


def later() -> float:
    return real_time() + (60 if sys._getframe(1).f_code.co_name == "damage_of" else 0)


def listen(self) -> None:
    parent = os.getppid()
    wait(lambda: (control / "dialled").exists() or os.getppid() != parent)
    _socket.socket.listen(self)
    (control / "listening").touch()


def forked() -> None:
    global count
    if verb == "submit":
        ROLES.pop(0)
        count = 0


submitter = os.getpid()
sys.argv = sys.argv[1:]
if verb == "worker":
    socket.socket.listen = listen
elif verb in ("submit", "status"):
    time.sleep, time.time = sleep, later
    socket.socket.settimeout = lambda self, _: _socket.socket.settimeout(self, 60)
    os.register_at_fork(after_in_child=forked)
    if verb == "status":
        wait(lambda: (control / "started").exists() or run_is_over())
    sys.setprofile(profile)
runpy.run_path(runner, run_name="__main__")
if counting:
    step("exit")
