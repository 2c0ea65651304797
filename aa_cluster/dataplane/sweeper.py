# SPDX-License-Identifier: GPL-2.0-or-later
"""Ageing: runs the ``sweep`` program over the whole table, in bites, in the kernel."""

from __future__ import annotations

import os

from aa_cluster.dataplane import syscall
from aa_cluster.dataplane.flows import Timeouts
from aa_cluster.dataplane.maps import Map

BITE = 32
"""Records a run; AA_SWEEP_BITE of bpf/sweep.bpf.c."""

RUNS_PER_CALL = 2048
"""Runs a system call: some milliseconds, so that the thread can be stopped and the CPU shared."""

_FRAME = bytes(64)  # a test-run wants a packet; the program does not read it


def over_the_table(fd: int, watermark: Map) -> None:
    """A program that looks at ``BITE`` records a run, and goes on where it stopped, sees each once."""
    highest = watermark.get(0)
    runs = (0 if highest is None else int(highest)) // BITE + 1
    while runs > 0:
        try:
            syscall.run_program(fd, _FRAME, repeat=min(runs, RUNS_PER_CALL))
        except InterruptedError:  # by a signal; the program goes on where it stood
            continue
        runs -= RUNS_PER_CALL


class Sweeper:
    """``fd`` is the loaded program, owned by this object; ``swept`` and ``watermark`` its maps.

    ``timeouts``: of the namespace it was made in, for whoever writes them where the program finds them.
    """

    def __init__(self, fd: int, swept: Map, watermark: Map) -> None:
        self.timeouts = Timeouts()
        self._fd = fd
        self._swept = swept
        self._watermark = watermark

    def round(self) -> None:
        """Looks at every record once."""
        over_the_table(self._fd, self._watermark)

    def expired(self) -> int:
        """Flows that went by age since the maps were made."""
        progress = self._swept.get(0)
        return 0 if progress is None else int(progress["expired"])

    def close(self) -> None:
        self.timeouts.close()
        os.close(self._fd)
