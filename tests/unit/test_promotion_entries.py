# SPDX-License-Identifier: GPL-2.0-or-later
"""Which entries a successor makes first, and which while its hooks change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from aa_cluster.agent.promotion import Entries
from aa_cluster.dataplane.flows import CLOSED, ESTABLISHED, FLOW_ROW, TCP, UDP, Owned
from aa_cluster.dataplane.reserver import Reserved
from aa_cluster.errors import NetlinkError

SELF, DEAD, LIVES = 2, 1, 3
TABLE = (
    (SELF, TCP, ESTABLISHED),
    (DEAD, TCP, ESTABLISHED),
    (DEAD, UDP, ESTABLISHED),
    (LIVES, TCP, ESTABLISHED),
    (LIVES, UDP, ESTABLISHED),
    (LIVES, UDP, CLOSED),
)


def rows() -> np.ndarray:
    out = np.zeros(len(TABLE), FLOW_ROW)
    for row, (owner, protocol, state) in zip(out, TABLE, strict=True):
        row["owner"], row["protocol"], row["state"] = owner, protocol, state
    return out


def entries_by(make: Callable[[np.ndarray], int], reserve: Callable[[Collection[int]], Reserved]) -> Entries:
    def flows_of(owners: set[int], wanted: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Owned:
        table = rows()
        at = np.flatnonzero(np.isin(table["owner"], list(owners)))
        at = at[wanted(table, at)]
        return Owned(at + 1, table[at], np.zeros(len(at), bool))

    async def call(function: Callable[..., Any], *arguments: object) -> object:
        return function(*arguments)

    plane = SimpleNamespace(call=call, plane=SimpleNamespace(flows_of=flows_of, reserve=reserve))
    role = SimpleNamespace(settings=SimpleNamespace(node_id=SELF), plane=plane)
    context = SimpleNamespace(host=SimpleNamespace(make_entries=make))
    return Entries(cast(Any, context), cast(Any, role), frozenset({DEAD}))


class Kernel:
    """``refuses``: each of that node's."""

    def __init__(self, refuses: int = 0, full: bool = False) -> None:
        self.refuses, self.full = refuses, full
        self.asked: list[tuple[str, set[tuple[int, int]] | set[int]]] = []

    def reserve(self, owners: Collection[int]) -> Reserved:
        known = set(owners) & {DEAD, LIVES}
        self.asked.append(("reserve", known))
        return Reserved(len(known - {self.refuses}), 0, len(known & {self.refuses}))

    def make(self, some: np.ndarray) -> int:
        self.asked.append(("make", {(int(row["owner"]), int(row["protocol"])) for row in some}))
        if self.full:
            raise NetlinkError("the conntrack table is full")
        return len(some)

    def entries(self) -> Entries:
        return entries_by(self.make, self.reserve)


TCP_FIRST = ("make", {(DEAD, TCP), (LIVES, TCP)})


async def test_what_goes_on_here_comes_first_and_what_is_only_kept_behind_it() -> None:
    kernel = Kernel()
    entries = kernel.entries()
    entries.begin()
    assert await entries.vital() == 3
    assert await entries.reserved() == 1
    assert kernel.asked == [("reserve", {DEAD}), TCP_FIRST, ("reserve", {LIVES})]


async def test_what_the_kernel_refuses_is_left_to_ctnetlink() -> None:
    dead, lives = Kernel(refuses=DEAD), Kernel(refuses=LIVES)
    for kernel in (dead, lives):
        entries = kernel.entries()
        entries.begin()
        assert await entries.vital() == 3
        assert await entries.reserved() == 1
    assert dead.asked == [("reserve", {DEAD}), ("make", TCP_FIRST[1] | {(DEAD, UDP)}), ("reserve", {LIVES})]
    assert lives.asked == [("reserve", {DEAD}), TCP_FIRST, ("reserve", {LIVES}), ("make", {(LIVES, UDP)})]


async def test_nothing_is_kept_when_the_first_cannot_be_made() -> None:
    kernel = Kernel(full=True)
    entries = kernel.entries()
    entries.begin()
    for part in (entries.vital, entries.reserved):
        with pytest.raises(NetlinkError, match="full"):
            await part()
    await asyncio.wait_for(entries.over(), 1)
    assert kernel.asked == [("reserve", {DEAD}), TCP_FIRST]
