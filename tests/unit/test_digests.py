# SPDX-License-Identifier: GPL-2.0-or-later
"""Digests of the flow table: what makes two tables equal, and what does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import pytest

from aa_cluster.dataplane.flows import DEAD, ESTABLISHED, SYN_RECV, SYN_SENT
from aa_cluster.dataplane.maps import Map
from aa_cluster.dataplane.replication import DIGEST_BLOCK, differing, digests

SIDE = [("saddr", "u1", 16), ("daddr", "u1", 16), ("sport", "<u2"), ("dport", "<u2")]
SIDE += [("protocol", "u1"), ("family", "u1"), ("zero", "<u2")]
RECORD = np.dtype(
    [
        *((f"{end}_{name}", *kind) for end in ("original", "reply") for name, *kind in SIDE),
        ("created_ns", "<u8"),
        ("seen_ns", "<u8"),
        ("place", "<u4", 2),
        ("mark", "<u4"),
        *((name, "u1") for name in ("owner", "state", "ended", "slot")),
        ("held_ns", "<u8"),
        ("position", "<u8"),
    ]
)
ENTRIES = 4 * DIGEST_BLOCK


@dataclass
class Table:
    """Stands for the two maps."""

    rows: np.ndarray
    highest: int
    entries: int = ENTRIES

    def view(self) -> np.ndarray:
        return self.rows

    def get(self, key: int) -> int:
        assert key == 0
        return self.highest

    def digests(self) -> np.ndarray:
        return digests(cast(Map, self), cast(Map, self))

    def copy(self) -> Table:
        return Table(self.rows.copy(), self.highest)


@pytest.fixture
def table() -> Table:
    assert RECORD.itemsize == 128
    draw = np.random.default_rng(4)
    rows = np.frombuffer(draw.bytes(128 * ENTRIES), RECORD).copy()
    rows["state"] = draw.integers(0, 7, ENTRIES)
    return Table(rows, ENTRIES - 1)


def test_equal_tables_have_equal_digests(table: Table) -> None:
    assert len(table.digests()) == 4
    assert differing(table.digests(), table.copy().digests()) == []


@pytest.mark.parametrize("name", ["created_ns", "seen_ns", "place", "held_ns", "position"])
def test_what_differs_from_node_to_node_does_not_count(table: Table, name: str) -> None:
    other = table.copy()
    other.rows[name] += 1
    assert differing(table.digests(), other.digests()) == []


@pytest.mark.parametrize(
    "name", ["original_saddr", "original_dport", "reply_daddr", "reply_sport", "mark", "owner", "ended", "slot"]
)
def test_what_counts(table: Table, name: str) -> None:
    other = table.copy()
    number = DIGEST_BLOCK + 5
    table.rows["state"][number] = other.rows["state"][number] = ESTABLISHED
    other.rows[name][number] ^= 1
    assert differing(table.digests(), other.digests()) == [1]


def test_flows_that_changed_their_numbers(table: Table) -> None:
    other = table.copy()
    table.rows["state"][[7, 8]] = other.rows["state"][[7, 8]] = ESTABLISHED
    other.rows[[7, 8]] = other.rows[[8, 7]]
    assert differing(table.digests(), other.digests()) == [0]


def test_free_and_dead_are_the_same_and_what_they_held_is_nothing(table: Table) -> None:
    other = table.copy()
    gone = (table.rows["state"] == 0) | (table.rows["state"] == DEAD)
    other.rows["state"][gone] = 0
    other.rows["mark"][gone] += 1
    assert differing(table.digests(), other.digests()) == []


def test_half_open_flows_do_not_count(table: Table) -> None:
    other = table.copy()
    other.rows["state"][(other.rows["state"] == SYN_SENT) | (other.rows["state"] == SYN_RECV)] = 0
    assert differing(table.digests(), other.digests()) == []
    other.rows["state"][np.flatnonzero(table.rows["state"] == SYN_SENT)[0]] = ESTABLISHED
    assert len(differing(table.digests(), other.digests())) == 1


def test_a_shorter_table_is_empty_behind_its_end(table: Table) -> None:
    other = table.copy()
    other.highest = 2 * DIGEST_BLOCK
    other.rows["state"][2 * DIGEST_BLOCK :] = 0
    assert len(other.digests()) == 3
    assert differing(table.digests(), other.digests()) == [2, 3]
    assert differing(np.zeros(0, "<u8"), np.zeros(5, "<u8")) == []
