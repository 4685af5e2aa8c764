"""Runs a command on a pseudo-terminal and does to it, when it gets SIGUSR1, what people do: terminal.py ACTION COMMAND...

ACTION is `ctrl-c`, `ctrl-c-twice` or `close` (the terminal's window). What the command prints is passed on; the last
lines say whether it has left the terminal's modes as they were, and its exit code.
"""

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time

action, command = sys.argv[1], sys.argv[2:]
pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    os.execvp(command[0], command)

modes = termios.tcgetattr(terminal)
asked, asking = os.pipe()
signal.signal(signal.SIGUSR1, lambda *_: os.write(asking, b"."))
is_open = True
while is_open:
    for ready in select.select([terminal, asked], [], [])[0]:
        if ready == terminal:
            try:
                data = os.read(terminal, 65536)
            except OSError:  # the command has ended
                data = b""
            is_open = is_open and data != b""
            sys.stdout.buffer.write(data)
            sys.stdout.flush()
        else:
            os.read(asked, 1)
            if action == "close":
                os.close(terminal)
                is_open = False
                break
            os.write(terminal, b"\x03")
            if action == "ctrl-c-twice":
                time.sleep(0.15)
                os.write(terminal, b"\x03")
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
if action != "close":
    print("\nmodes", "as before" if termios.tcgetattr(terminal) == modes else "changed", end="")
print(f"\nexit {code}")
