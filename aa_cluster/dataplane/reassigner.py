# SPDX-License-Identifier: GPL-2.0-or-later
"""Change of owner: runs the ``reassign`` program over the whole table, in bites, in the kernel."""

from __future__ import annotations

import os

from aa_cluster.dataplane import syscall
from aa_cluster.dataplane.maps import Map
from aa_cluster.dataplane.sweeper import BITE, RUNS_PER_CALL

_FRAME = bytes(64)  # a test-run wants a packet; the program does not read it


class Reassigner:
    """``fd`` is the loaded program, owned by this object; ``moving`` and ``watermark`` its maps."""

    def __init__(self, fd: int, moving: Map, watermark: Map) -> None:
        self._fd = fd
        self._moving = moving
        self._watermark = watermark

    def move(self, from_id: int, to_id: int) -> int:
        """Gives how many flows changed hands; those that ended instead are not among them."""
        order = self._moving.record()
        order["from"], order["to"] = from_id, to_id
        self._moving.put(0, order)
        highest = self._watermark.get(0)
        runs = (0 if highest is None else int(highest)) // BITE + 1
        while runs > 0:
            try:
                syscall.run_program(self._fd, _FRAME, repeat=min(runs, RUNS_PER_CALL))
            except InterruptedError:  # by a signal; the program goes on where it stood
                continue
            runs -= RUNS_PER_CALL
        done = self._moving.get(0)
        return 0 if done is None else int(done["moved"])

    def close(self) -> None:
        os.close(self._fd)
