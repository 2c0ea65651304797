# SPDX-License-Identifier: GPL-2.0-or-later
"""Which entries a successor makes first, and which while its hooks change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.lib.recfunctions as rfn
import pytest

from aa_cluster.agent.promotion import Entries
from aa_cluster.dataplane.flows import CLOSED, ESTABLISHED, FLOW_ROW, TCP, UDP, Choice, Owned
from aa_cluster.dataplane.reserver import Reserved
from aa_cluster.errors import NetlinkError

SELF, DEAD, LIVES = 2, 1, 3
TABLE = (
    (SELF, TCP, ESTABLISHED),
    (DEAD, TCP, ESTABLISHED),
    (DEAD, UDP, ESTABLISHED),
    (LIVES, TCP, ESTABLISHED),
    (LIVES, TCP, CLOSED),
    (LIVES, UDP, ESTABLISHED),
    (LIVES, UDP, CLOSED),
)


def rows() -> np.ndarray:
    out = np.zeros(len(TABLE), FLOW_ROW)
    for row, (owner, protocol, state) in zip(out, TABLE, strict=True):
        row["owner"], row["protocol"], row["state"] = owner, protocol, state
    return out


class Kernel:
    """``refuses``: so many of its entries, ``which``: those it names; ``full``: conntrack's table is; ``room``: what it
    says it has."""

    def __init__(self, refuses: int = 0, full: bool = False, room: int = 2, which: tuple[int, ...] = ()) -> None:
        self.refuses, self.full, self.room, self.which = refuses, full, room, which
        self.asked: list[tuple[str, set[tuple[int, int]] | set[int]]] = []

    def reserve(self, owners: Collection[int]) -> Reserved:
        known = set(owners) & {SELF, DEAD, LIVES}
        self.asked.append(("reserve", known))
        return Reserved(len(known) - self.refuses, 0, self.refuses, self.which)

    def make(self, some: np.ndarray) -> int:
        self.asked.append(("make", {(int(row["owner"]), int(row["protocol"])) for row in some}))
        if self.full:
            raise NetlinkError("the conntrack table is full")
        return len(some)

    def flows_of(self, owners: Collection[int], wanted: Choice) -> Owned:
        """Records have other names than rows."""
        table = rows()
        records = rfn.rename_fields(table, {"protocol": "original_protocol"})
        at = np.flatnonzero(np.isin(table["owner"], list(owners)))
        at = at[wanted(records, at)]
        return Owned(at + 1, table[at], np.zeros(len(at), bool))

    def entries(self) -> Entries:
        async def call(function: Callable[..., Any], *arguments: object) -> object:
            return function(*arguments)

        plane = SimpleNamespace(call=call, plane=SimpleNamespace(flows_of=self.flows_of, reserve=self.reserve))
        role = SimpleNamespace(settings=SimpleNamespace(node_id=SELF), plane=plane)
        context = SimpleNamespace(host=SimpleNamespace(make_entries=self.make, room_for_entries=lambda: self.room))
        return Entries(cast(Any, context), cast(Any, role))


SESSIONS = ("make", {(DEAD, TCP), (LIVES, TCP)})
DATAGRAMS = ("make", {(DEAD, UDP), (LIVES, UDP)})
RESERVED = ("reserve", {DEAD, LIVES})


@pytest.mark.parametrize("refuses", [0, 1])
async def test_tcp_comes_first_and_what_the_kernel_refuses_is_left_to_ctnetlink(refuses: int) -> None:
    kernel = Kernel(refuses)
    entries = kernel.entries()
    entries.begin()
    assert await entries.vital() == 2
    assert await entries.reserved() == (3 if refuses else 2)
    assert kernel.asked == [SESSIONS, RESERVED, *([DATAGRAMS] if refuses else [])]


async def test_only_what_was_refused_is_left_to_ctnetlink() -> None:
    kernel = Kernel(1, which=(6,))
    entries = kernel.entries()
    entries.begin()
    await entries.vital()
    assert await entries.reserved() == 2
    assert kernel.asked == [SESSIONS, RESERVED, ("make", {(LIVES, UDP)})]


async def test_nothing_is_kept_when_the_first_cannot_be_made() -> None:
    kernel = Kernel(full=True)
    entries = kernel.entries()
    entries.begin()
    for part in (entries.vital, entries.reserved):
        with pytest.raises(NetlinkError, match="full"):
            await part()
    await asyncio.wait_for(entries.over(), 1)
    assert kernel.asked == [SESSIONS]


async def test_where_room_is_short_nothing_is_left_for_later() -> None:
    kernel = Kernel(room=1)
    entries = kernel.entries()
    entries.begin()
    assert await entries.vital() == 4
    assert kernel.asked == [SESSIONS, RESERVED]
    assert await entries.reserved() == 0
    assert kernel.asked == [SESSIONS, RESERVED]


async def test_no_room_for_the_last_is_said_too() -> None:
    kernel = Kernel(refuses=2)
    entries = kernel.entries()
    entries.begin()
    await entries.vital()
    kernel.full = True
    with pytest.raises(NetlinkError, match="full"):
        await entries.reserved()
