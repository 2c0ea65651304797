# SPDX-License-Identifier: GPL-2.0-or-later
"""Digests of the flow table: what makes two tables equal, and what does not."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from aa_cluster.dataplane.flows import DEAD, ESTABLISHED, SYN_RECV, SYN_SENT
from aa_cluster.dataplane.maps import Map
from aa_cluster.dataplane.replication import DIGEST_BLOCK, DIGEST_STRETCH, differing, digests
from tests.unit.flow_table import RECORD, Table

ENTRIES = 4 * DIGEST_BLOCK


def digested(table: Table) -> np.ndarray:
    return digests(cast(Map, table), cast(Map, table))


def random_table(entries: int) -> Table:
    draw = np.random.default_rng(4)
    rows = np.frombuffer(draw.bytes(128 * entries), RECORD).copy()
    rows["state"] = draw.integers(0, 7, entries)
    return Table(rows, entries - 1)


@pytest.fixture
def table() -> Table:
    assert RECORD.itemsize == 128
    return random_table(ENTRIES)


def test_equal_tables_have_equal_digests(table: Table) -> None:
    assert len(digested(table)) == 4
    assert differing(digested(table), digested(table.copy())) == []


@pytest.mark.parametrize("name", ["created_ns", "seen_ns", "place", "held_ns", "position"])
def test_what_differs_from_node_to_node_does_not_count(table: Table, name: str) -> None:
    other = table.copy()
    other.rows[name] += 1
    assert differing(digested(table), digested(other)) == []


@pytest.mark.parametrize(
    "name", ["original_saddr", "original_dport", "reply_daddr", "reply_sport", "mark", "owner", "ended", "slot"]
)
def test_what_counts(table: Table, name: str) -> None:
    other = table.copy()
    number = DIGEST_BLOCK + 5
    table.rows["state"][number] = other.rows["state"][number] = ESTABLISHED
    other.rows[name][number] ^= 1
    assert differing(digested(table), digested(other)) == [1]


def test_flows_that_changed_their_numbers(table: Table) -> None:
    other = table.copy()
    table.rows["state"][[7, 8]] = other.rows["state"][[7, 8]] = ESTABLISHED
    other.rows[[7, 8]] = other.rows[[8, 7]]
    assert differing(digested(table), digested(other)) == [0]


def test_free_and_dead_are_the_same_and_what_they_held_is_nothing(table: Table) -> None:
    other = table.copy()
    gone = (table.rows["state"] == 0) | (table.rows["state"] == DEAD)
    other.rows["state"][gone] = 0
    other.rows["mark"][gone] += 1
    assert differing(digested(table), digested(other)) == []


def test_half_open_flows_do_not_count(table: Table) -> None:
    other = table.copy()
    other.rows["state"][(other.rows["state"] == SYN_SENT) | (other.rows["state"] == SYN_RECV)] = 0
    assert differing(digested(table), digested(other)) == []
    other.rows["state"][np.flatnonzero(table.rows["state"] == SYN_SENT)[0]] = ESTABLISHED
    assert len(differing(digested(table), digested(other))) == 1


def test_a_shorter_table_is_empty_behind_its_end(table: Table) -> None:
    other = table.copy()
    other.highest = 2 * DIGEST_BLOCK
    other.rows["state"][2 * DIGEST_BLOCK :] = 0
    assert len(digested(other)) == 3
    assert differing(digested(table), digested(other)) == [2, 3]
    assert differing(np.zeros(0, "<u8"), np.zeros(5, "<u8")) == []


def test_a_table_of_many_stretches() -> None:
    """Each record counts in its own block, with its number, wherever the stretches end."""
    entries = 2 * DIGEST_STRETCH + DIGEST_BLOCK + 5
    table = random_table(entries)
    table.rows["state"] = ESTABLISHED
    assert len(digested(table)) == 2 * DIGEST_STRETCH // DIGEST_BLOCK + 2
    for number in (DIGEST_STRETCH - 1, DIGEST_STRETCH, 2 * DIGEST_STRETCH, entries - 1):
        other = table.copy()
        other.rows["mark"][number] ^= 1
        assert differing(digested(table), digested(other)) == [number // DIGEST_BLOCK]
    moved = Table(np.roll(table.rows, DIGEST_STRETCH), table.highest)
    assert differing(digested(table)[4:8], digested(moved)[4:8]) == [0, 1, 2, 3]
