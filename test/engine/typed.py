"""Runs a command on a pseudo-terminal of 80 columns; what comes on stdin is typed there, what it prints is passed on.

Ctrl-C is typed once the command has read what was typed before it: a terminal drops what was not. The last lines say
whether the command has left the terminal's modes as they were, and its exit code.
"""

import fcntl
import os
import pty
import select
import struct
import sys
import termios

pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    os.execvp(sys.argv[1], sys.argv[1:])


def is_read() -> bool:
    """Whether nothing waits at the command's end of the terminal, which is not kept open: its end would not be seen."""
    try:
        end = os.open(f"/proc/{pid}/fd/0", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return True
    try:
        return struct.unpack("i", fcntl.ioctl(end, termios.FIONREAD, bytes(4)))[0] == 0
    finally:
        os.close(end)


modes = termios.tcgetattr(terminal)
sources = [terminal, 0]
typed = b""
while terminal in sources:
    for ready in select.select(sources, [], [], 0.01 if typed else None)[0]:
        try:
            data = os.read(ready, 65536)
        except OSError:  # the command has ended
            data = b""
        if not data:
            sources.remove(ready)
        elif ready == 0:
            typed += data
        else:
            os.write(1, data)
    if typed and (b"\x03" not in typed or is_read()):
        os.write(terminal, typed)
        typed = b""
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
after = "as before" if termios.tcgetattr(terminal) == modes else "changed"
print(f"\nmodes {after}\nexit {code}", flush=True)
