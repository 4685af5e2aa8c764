"""Runs a command and says on its last line what it took: {"wall": seconds, "cpu": seconds, "rss": MiB}."""

import json
import os
import sys
import time

begin = time.perf_counter()
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(pid, 0)
wall = time.perf_counter() - begin
# Linux counts it in KiB.
print(json.dumps({"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "rss": usage.ru_maxrss / 1024}))
sys.exit(1 if os.waitstatus_to_exitcode(status) else 0)
