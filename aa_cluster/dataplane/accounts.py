# SPDX-License-Identifier: GPL-2.0-or-later
"""Packets and bytes per flow, counted by `steer` and `handoff` while accounting is on (bpf/include/account.h).

A flow that was there before accounting was switched on is counted from then on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aa_cluster.dataplane.flows import in_use
from aa_cluster.dataplane.maps import Map

FEATURE = 1
"""AA_FEATURE_ACCOUNTING of bpf/include/types.h."""

OFF_ENTRIES = 1
"""What the map holds while accounting is off: no flow has record 0."""


def is_on(accounts: Map) -> bool:
    """Whether the map was made for accounting."""
    return accounts.entries > OFF_ENTRIES


@dataclass(frozen=True, slots=True)
class Look:
    """All accounts at a moment, by record number from 1: both directions together. ``created_ns`` tells flows apart."""

    created_ns: np.ndarray
    packets: np.ndarray
    octets: np.ndarray


def look(records: Map, watermark: Map, accounts: Map) -> Look:
    """Copies, a row for each record ever given out: also those of flows that went meanwhile."""
    created = in_use(records, watermark)["created_ns"].copy()
    table = accounts.view()[1 : len(created) + 1]
    return Look(created, table["packets"].sum(axis=1), table["octets"].sum(axis=1))


def since(before: Look, records: Map, watermark: Map, accounts: Map) -> dict[int, tuple[int, int]]:
    """(packets, octets) since that look, by owner id: of flows that were there, began or went.

    What a flow carried whose number was given out again meanwhile is missing; a number rests a second before.
    """
    owner = in_use(records, watermark)["owner"].copy()
    after = look(records, watermark, accounts)
    size = min(len(owner), len(after.created_ns))
    known = min(size, len(before.created_ns))
    same = np.zeros(size, bool)
    same[:known] = before.created_ns[:known] == after.created_ns[:known]
    packets, octets = (
        _by_owner(owner[:size], _risen(getattr(before, name)[:known], getattr(after, name)[:size], same))
        for name in ("packets", "octets")
    )
    return {number: (packets[number], octets[number]) for number in packets}


def _risen(before: np.ndarray, after: np.ndarray, same: np.ndarray) -> np.ndarray:
    """What each account rose by; one of another flow than before began at 0, and so did one that fell."""
    was = np.zeros(len(after), after.dtype)
    was[: len(before)] = before
    was[~same | (was > after)] = 0
    risen: np.ndarray = after - was
    return risen


def _by_owner(owner: np.ndarray, amount: np.ndarray) -> dict[int, int]:
    sums = np.bincount(owner, weights=amount, minlength=1)
    return {number: int(total) for number, total in enumerate(sums) if total}
