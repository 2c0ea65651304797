# SPDX-License-Identifier: GPL-2.0-or-later
"""The flows of some nodes out of the whole table, which is looked at by stretches."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from aa_cluster.agent.preparation import AT_ONCE, SETTLED_NS, Preparation
from aa_cluster.dataplane.flows import CLOSED, DEAD, ESTABLISHED, STRETCH, SYN_SENT, TCP, Choice, Owned, owned
from aa_cluster.dataplane.maps import Map
from tests.unit.flow_table import RECORD, Table

ENTRIES = 3 * STRETCH + 100
NOW = 10 * SETTLED_NS


@pytest.fixture
def table() -> Table:
    draw = np.random.default_rng(7)
    rows = np.zeros(ENTRIES, RECORD)
    rows["state"] = draw.choice([0, SYN_SENT, ESTABLISHED, CLOSED, DEAD], ENTRIES)
    rows["owner"] = draw.integers(1, 4, ENTRIES)
    rows["mark"] = np.arange(ENTRIES)
    rows["original_protocol"], rows["created_ns"] = TCP, SETTLED_NS
    return Table(rows, ENTRIES - 50)


def found(table: Table, *owners: int, wanted: Choice | None = None) -> Owned:
    return owned(cast(Map, table), cast(Map, table), owners, wanted)


def test_all_of_them_with_their_numbers(table: Table) -> None:
    known = table.rows[: table.highest + 1]
    live = (known["state"] != 0) & (known["state"] != DEAD)
    live[0] = False  # no record has that number
    theirs = np.flatnonzero(live & np.isin(known["owner"], (2, 3)))
    got = found(table, 2, 3)
    assert got.numbers.tolist() == theirs.tolist() == got.rows["mark"].tolist()


def test_the_choice_is_asked_of_each_stretch_once(table: Table) -> None:
    asked: list[np.ndarray] = []

    def wanted(records: np.ndarray, at: np.ndarray) -> np.ndarray:
        asked.append(at)
        out: np.ndarray = records["mark"][at] % 2 == 0
        return out

    got = found(table, 2, wanted=wanted)
    everything = found(table, 2).numbers
    assert len(asked) == 4
    assert (np.concatenate(asked) + 1).tolist() == everything.tolist()
    assert got.numbers.tolist() == [number for number in everything if number % 2 == 0]


def test_an_empty_table_has_none(table: Table) -> None:
    table.highest = 0
    assert found(table, 1, 2, 3).numbers.tolist() == []


@pytest.mark.parametrize("more", [-1, 0, 1000])
def test_so_many_are_taken_up_in_one_look(table: Table, more: int) -> None:
    """Over all stretches together; it says when there may be others."""
    due = np.arange(1, 1 + 2 * (AT_ONCE + more), 2)
    table.rows["state"] = SYN_SENT
    table.rows["state"][due], table.rows["owner"][due] = ESTABLISHED, 2
    choice = Preparation().due(NOW)
    got = found(table, 2, wanted=choice)
    assert got.numbers.tolist() == due[:AT_ONCE].tolist()
    assert choice.full == (more >= 0)
