# SPDX-License-Identifier: GPL-2.0-or-later
"""Conntrack entries of others' UDP flows: runs the ``reserve`` program over the whole table, bite by bite."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from aa_cluster.dataplane.flows import DATAGRAMS, STREAM
from aa_cluster.dataplane.maps import Map
from aa_cluster.dataplane.sweeper import over_the_table


@dataclass(frozen=True, slots=True)
class Reserved:
    """Entries. ``refused``: no room, or another entry has one of the flow's tuples; ``ct_bulk.create`` says which.
    ``which``: the record numbers of the first of them."""

    made: int
    present: int
    refused: int
    which: tuple[int, ...] = ()


class Reserver:
    """``fd`` is the loaded program, owned by this object; ``reserving`` and ``watermark`` its maps."""

    def __init__(self, fd: int, reserving: Map, watermark: Map) -> None:
        self._fd = fd
        self._reserving = reserving
        self._watermark = watermark

    def reserve(self, owners: Collection[int], lifetimes: Mapping[int, int]) -> Reserved:
        """Of the open flows of these nodes. ``lifetimes``: s, as ``flows.Timeouts`` has them."""
        order = self._reserving.record()
        order["owners"] = sum(1 << owner for owner in set(owners))
        order["datagrams_s"], order["stream_s"] = lifetimes[DATAGRAMS], lifetimes[STREAM]
        self._reserving.put(0, order)
        over_the_table(self._fd, self._watermark)
        done = self._reserving.get(0)
        if done is None:
            return Reserved(0, 0, 0)
        refused = int(done["refused"])
        return Reserved(int(done["made"]), int(done["present"]), refused, tuple(done["which"][:refused].tolist()))

    def close(self) -> None:
        os.close(self._fd)
