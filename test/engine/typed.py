"""Runs a command on a pseudo-terminal of 80 columns; what comes on stdin is typed there, what it prints is passed on.

The last lines say whether it has left the terminal's modes as they were, and its exit code.
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

modes = termios.tcgetattr(terminal)
sources = [terminal, 0]
while terminal in sources:
    for ready in select.select(sources, [], [])[0]:
        try:
            data = os.read(ready, 65536)
        except OSError:  # the command has ended
            data = b""
        if not data:
            sources.remove(ready)
        elif ready == 0:
            os.write(terminal, data)
        else:
            os.write(1, data)
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
after = "as before" if termios.tcgetattr(terminal) == modes else "changed"
print(f"\nmodes {after}\nexit {code}", flush=True)
