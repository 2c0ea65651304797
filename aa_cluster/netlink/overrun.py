# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames that this machine received and could not keep: a count that only rises.

softnet_stat has them for the queues between driver and stack (of all network namespaces; net/core/net-procfs.c),
/proc/net/dev for the drivers' own (column fifo, proc(5)). Frames that nobody wanted are in neither.
"""

from __future__ import annotations

from pathlib import Path

PROC = Path("/proc/self/net")
_DROPPED = 1
_FIFO = 4


def lost_frames(proc: Path = PROC) -> int:
    """Since the machine started; 0 where the kernel does not tell."""
    try:
        softnet = (proc / "softnet_stat").read_text("ascii")
        devices = (proc / "dev").read_text("ascii")
    except OSError:
        return 0
    return sum(_queue(line) for line in softnet.splitlines()) + sum(map(_driver, devices.splitlines()[2:]))


def _queue(line: str) -> int:
    columns = line.split()
    return int(columns[_DROPPED], 16) if len(columns) > _DROPPED else 0


def _driver(line: str) -> int:
    columns = line.partition(":")[2].split()
    return int(columns[_FIFO]) if len(columns) > _FIFO else 0
