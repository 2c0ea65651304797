# SPDX-License-Identifier: GPL-2.0-or-later
"""Change of owner: runs the ``reassign`` program over the whole table, in bites, in the kernel."""

from __future__ import annotations

import os

from aa_cluster.dataplane.maps import Map
from aa_cluster.dataplane.sweeper import over_the_table


class Reassigner:
    """``fd`` is the loaded program, owned by this object; ``moving`` and ``watermark`` its maps."""

    def __init__(self, fd: int, moving: Map, watermark: Map) -> None:
        self._fd = fd
        self._moving = moving
        self._watermark = watermark

    def move(self, source: int, target: int, keep_own: bool = False) -> int:
        """Gives how many flows changed hands. What ``source`` began itself ends, or with ``keep_own`` stays."""
        order = self._moving.record()
        order["from"], order["to"], order["keep_own"] = source, target, keep_own
        self._moving.put(0, order)
        over_the_table(self._fd, self._watermark)
        done = self._moving.get(0)
        return 0 if done is None else int(done["moved"])

    def close(self) -> None:
        os.close(self._fd)
