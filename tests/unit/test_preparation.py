# SPDX-License-Identifier: GPL-2.0-or-later
"""What the entry of a flow is to be made as, and how long it lives then: TCP by state, UDP by what was seen of it."""

from __future__ import annotations

import numpy as np
import pytest

from aa_cluster.agent.preparation import SETTLED_NS, Preparation
from aa_cluster.dataplane.flows import (
    CLOSED,
    CLOSING,
    DATAGRAMS,
    ESTABLISHED,
    LASTS,
    ONE_SIDED,
    STREAM,
    SYN_RECV,
    SYN_SENT,
    TAKEN,
    TCP,
    UDP,
    timeout_index,
)
from aa_cluster.netlink.ct_messages import (
    ANSWERED,
    CT_ESTABLISHED,
    CT_SYN_RECV,
    CT_TIME_WAIT,
    LASTING,
    UNREPLIED,
    needs,
)

RECORD = np.dtype(
    [("state", "u1"), ("ended", "u1"), ("created_ns", "<u8"), ("original_protocol", "u1"), ("owner", "u1")]
)


@pytest.mark.parametrize(
    ("protocol", "state", "ended", "needed", "timeout"),
    [
        (TCP, SYN_SENT, 0, CT_SYN_RECV, SYN_SENT),
        (TCP, SYN_RECV, 0, CT_SYN_RECV, SYN_RECV),
        (TCP, ESTABLISHED, 0, CT_ESTABLISHED, ESTABLISHED),
        (TCP, ESTABLISHED, TAKEN | LASTS, CT_ESTABLISHED, ESTABLISHED),
        (TCP, CLOSING, 1, CT_ESTABLISHED, CLOSING),
        (TCP, CLOSED, 3, CT_TIME_WAIT, CLOSED),
        (UDP, SYN_SENT, 0, UNREPLIED, DATAGRAMS),
        (UDP, SYN_SENT, LASTS, UNREPLIED, DATAGRAMS),
        (UDP, ESTABLISHED, 0, ANSWERED, DATAGRAMS),
        (UDP, ESTABLISHED, TAKEN, ANSWERED, DATAGRAMS),
        (UDP, ESTABLISHED, LASTS, LASTING, STREAM),
        (UDP, ESTABLISHED, LASTS | ONE_SIDED, LASTING, STREAM),
    ],
)
def test_what_a_flow_needs(protocol: int, state: int, ended: int, needed: int, timeout: int) -> None:
    row = [np.array([value], "u1") for value in (protocol, state, ended)]
    assert needs(*row).tolist() == [needed]
    assert timeout_index(*row).tolist() == [timeout]


def records(*flows: tuple[int, int, int, int]) -> np.ndarray:
    """(protocol, state, ended, created_ns)"""
    out = np.zeros(len(flows), RECORD)
    for row, (protocol, state, ended, created) in zip(out, flows, strict=True):
        row["original_protocol"], row["state"], row["ended"], row["created_ns"] = protocol, state, ended, created
    return out


NOW = 10 * SETTLED_NS
OLD = SETTLED_NS


def test_due_are_answered_ones_of_both_protocols() -> None:
    """Not those that are young, unreplied, or their node's own."""
    table = records(
        (UDP, ESTABLISHED, 0, OLD),
        (UDP, ESTABLISHED, LASTS, OLD),
        (TCP, ESTABLISHED, 0, OLD),
        (UDP, SYN_SENT, 0, OLD),
        (UDP, ESTABLISHED, 0, NOW),
        (UDP, ESTABLISHED, ONE_SIDED, OLD),
    )
    due = Preparation().due(NOW)(table, np.arange(len(table)))
    assert due.tolist() == [True, True, True, False, False, False]


def test_one_that_has_become_a_stream_is_due_again() -> None:
    """Its entry is to live as long as the flow."""
    preparation = Preparation()
    table = records((UDP, ESTABLISHED, 0, OLD), (TCP, ESTABLISHED, 0, OLD))
    at = np.arange(2)
    preparation._reach(2)
    created = table["created_ns"]
    needed = needs(table["original_protocol"], table["state"], table["ended"])
    preparation._stamps[at + 1] = created & ~np.uint64(7) | needed.astype("u8")
    assert not preparation.due(NOW)(table, at).any()
    assert preparation.ready(at + 1, created, needed).all()
    table["ended"] = LASTS
    assert preparation.due(NOW)(table, at).tolist() == [True, False]
