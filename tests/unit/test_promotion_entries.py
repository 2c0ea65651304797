# SPDX-License-Identifier: GPL-2.0-or-later
"""Which entries a successor makes first, and which while its hooks change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from aa_cluster.agent.promotion import Entries
from aa_cluster.dataplane.flows import CLOSED, ESTABLISHED, FLOW_ROW, TCP, UDP, Owned
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


def entries_by(make: Callable[[np.ndarray], int]) -> Entries:
    def flows_of(owners: set[int], wanted: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Owned:
        table = rows()
        at = np.flatnonzero(np.isin(table["owner"], list(owners)))
        at = at[wanted(table, at)]
        return Owned(at + 1, table[at], np.zeros(len(at), bool))

    async def call(function: Callable[..., Any], *arguments: object) -> object:
        return function(*arguments)

    plane = SimpleNamespace(call=call, plane=SimpleNamespace(flows_of=flows_of))
    role = SimpleNamespace(settings=SimpleNamespace(node_id=SELF), plane=plane)
    context = SimpleNamespace(host=SimpleNamespace(make_entries=make))
    return Entries(cast(Any, context), cast(Any, role), frozenset({DEAD}))


async def test_what_goes_on_here_comes_first_and_what_is_only_kept_behind_it() -> None:
    made: list[set[tuple[int, int]]] = []

    def make(some: np.ndarray) -> int:
        made.append({(int(row["owner"]), int(row["protocol"])) for row in some})
        return len(some)

    entries = entries_by(make)
    entries.begin()
    assert await entries.vital() == 3
    assert await entries.reserved() == 1
    assert made == [{(DEAD, TCP), (DEAD, UDP), (LIVES, TCP)}, {(LIVES, UDP)}]


async def test_nothing_is_kept_when_the_first_cannot_be_made() -> None:
    asked: list[int] = []

    def make(some: np.ndarray) -> int:
        asked.append(len(some))
        raise NetlinkError("the conntrack table is full")

    entries = entries_by(make)
    entries.begin()
    for part in (entries.vital, entries.reserved):
        with pytest.raises(NetlinkError, match="full"):
            await part()
    await asyncio.wait_for(entries.over(), 1)
    assert asked == [3]
