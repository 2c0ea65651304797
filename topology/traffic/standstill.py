# SPDX-License-Identifier: GPL-2.0-or-later
"""How long this machine's cores stood still: taken away by whoever runs the machine, or kept by its kernel.

One thread a core, before all others (SCHED_FIFO), wakes at a pace and notes when it wakes late: no process can delay
it. Prints ``ready``; when standard input ends, one line of JSON: the core's number, when it stood still
(CLOCK_MONOTONIC, s) and for how long (ms), each time that it was longer than ``NOTICED`` s.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

PACE, NOTICED = 0.010, 0.010
MOST = 10_000


def watch(core: int, found: list[tuple[int, float, float]], ready: threading.Barrier) -> None:
    """Does not return."""
    os.sched_setaffinity(0, {core})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
    ready.wait()
    while True:
        due = time.monotonic() + PACE
        time.sleep(PACE)
        late = time.monotonic() - due
        if late > NOTICED and len(found) < MOST:
            found.append((core, due, 1000 * late))


def main() -> None:
    found: list[tuple[int, float, float]] = []
    cores = sorted(os.sched_getaffinity(0))
    ready = threading.Barrier(len(cores) + 1)
    for core in cores:
        threading.Thread(target=watch, args=(core, found, ready), daemon=True).start()
    ready.wait(10)
    print("ready", flush=True)
    sys.stdin.read()
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
