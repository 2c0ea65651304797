# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's flood: frames that differ, with right checksums, at a pace."""

from __future__ import annotations

import time

import pytest

from aa_cluster.dataplane import syscall
from aa_cluster.dataplane.maps import Map
from aa_cluster.topology.capture import Frame
from aa_cluster.topology.tcpframe import TcpFrame
from aa_cluster.topology.traffic.flood import load, template

VIA, OWN = bytes.fromhex("02aa004d0000"), bytes.fromhex("020000010064")
FRAME = template("10.77.2.1", 8080, VIA, OWN)
XDP_DROP, XDP_REDIRECT = 1, 4
MANY = 200


@pytest.fixture
def quick() -> tuple[int, Map]:
    """At a pace that always wants another frame."""
    return load(FRAME, "lo", 1e9)


def test_syns_that_differ_and_are_right(quick: tuple[int, Map]) -> None:
    runs = [syscall.run_program(quick[0], FRAME) for _ in range(MANY)]
    assert {run.verdict for run in runs} == {XDP_REDIRECT}
    taken = [TcpFrame.of(Frame("client-int", run.packet)) for run in runs]
    found = [one for one in taken if one is not None]
    assert len(found) == MANY
    assert all(one.is_first and one.sums_right for one in found)
    assert {(one.destination, one.destination_port, one.mac) for one in found} == {("10.77.2.1", 8080, OWN.hex(":"))}
    assert len({(one.source, one.source_port) for one in found}) == MANY


def test_its_pace() -> None:
    """A thousand a second, 32 of them ahead of their time, and what is late by more is left out; other runs drop."""
    program, plan = load(FRAME, "lo", 1000)
    verdicts, start = [], time.monotonic()
    while time.monotonic() < start + 0.5:
        verdicts.append(syscall.run_program(program, FRAME).verdict)
    took, after = time.monotonic() - start, plan.get(0)
    assert after is not None
    assert verdicts.count(XDP_REDIRECT) == int(after["sent"])
    assert 100 < int(after["sent"]) <= 1000 * took + 33
    assert set(verdicts) == {XDP_DROP, XDP_REDIRECT}
