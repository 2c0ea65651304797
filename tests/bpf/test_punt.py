# SPDX-License-Identifier: GPL-2.0-or-later
"""adopt and deliver: a SYN that needs a helper goes to the agent, and comes back."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2 import IPRoute
from scapy.layers.inet import TCP

from aa_cluster.dataplane import reasons
from aa_cluster.dataplane.attach import Attacher, Point
from aa_cluster.dataplane.maps import PUNT_BYTES
from aa_cluster.dataplane.punts import Courier, Punt, PuntRing
from aa_cluster.errors import DataplaneError
from aa_cluster.netlink import conntrack, ct_create
from aa_cluster.topology.deadline import until
from tests.bpf.harness import CLIENT, LOOPBACK, PUBLIC, SERVER, TC_OK, TC_SHOT, Plane, handed, sealed, tuple_of
from tests.bpf.test_helper import entry, kernel_tuple

pytestmark = pytest.mark.bpf

ORIGINAL, AFTER = tuple_of(CLIENT, 40000, SERVER, 21), tuple_of(PUBLIC, 50000, SERVER, 21)
OTHER = tuple_of(PUBLIC, 50001, SERVER, 21)
DELIVERED = 0x41414456


@pytest.fixture
def ring(plane: Plane) -> Iterator[PuntRing]:
    ring = PuntRing(plane.maps["punts"].fd, PUNT_BYTES)
    ring.read()
    yield ring
    ring.close()


def syn(**changes: int) -> bytes:
    return bytes(handed(ORIGINAL, sealed(ORIGINAL, AFTER, helper=1, **changes), b"data"))


def test_the_agent_gets_the_whole_frame(plane: Plane, ring: PuntRing) -> None:
    ran = plane.run("adopt", syn())
    assert (ran.verdict, ran.why) == (TC_SHOT, {"ADOPT_BY_AGENT": 1})
    (punt,) = ring.read()
    assert (punt.ifindex, punt.frame) == (LOOPBACK, syn())
    assert conntrack.find(kernel_tuple(ORIGINAL)) is None
    assert ring.read() == []


def test_with_the_entry_there_it_goes_on_stripped(plane: Plane, ring: PuntRing) -> None:
    assert ct_create.create(entry("ftp"))
    for mark in (0, DELIVERED):
        ran = plane.run("adopt", syn(), mark=mark)
        assert (ran.verdict, ran.why) == (TC_OK, {"ADOPT_AGAIN": 1})
        assert (bytes(ran.packet[TCP].payload), ran.mark) == (b"data", 0x42)
    assert ring.read() == []


def test_a_frame_that_comes_back_is_not_sent_round_again(plane: Plane, ring: PuntRing) -> None:
    assert ct_create.create(entry("ftp", ORIGINAL, OTHER))
    ran = plane.run("adopt", syn(), mark=DELIVERED)
    assert (ran.verdict, ran.why) == (TC_SHOT, {"ADOPT_CLASH": 1})
    assert ring.read() == []
    assert conntrack.find(kernel_tuple(ORIGINAL)) is None, "the entry that differs is gone for the next one"


def test_a_ring_that_is_full(plane: Plane, ring: PuntRing) -> None:
    told = [plane.run("adopt", syn()).why for _ in range(200)]
    lost = told.count({"ADOPT_NO_AGENT": 1})
    assert len(ring.read()) == told.count({"ADOPT_BY_AGENT": 1}) == 200 - lost
    assert 0 < lost < 120
    assert plane.run("adopt", syn()).why == {"ADOPT_BY_AGENT": 1}


def test_an_unknown_helper_is_refused(plane: Plane, ring: PuntRing) -> None:
    frame = handed(ORIGINAL, sealed(ORIGINAL, AFTER, helper=2))
    assert plane.run("adopt", frame).why == {"BLOCK_MALFORMED": 1}


@pytest.fixture
def veth(plane: Plane, tmp_path: Path) -> Iterator[int]:
    """The index of an interface that is up, with ``adopt`` on its ingress."""
    subprocess.run(["ip", "link", "add", "pa", "type", "veth", "peer", "pb"], check=True)
    try:
        for name in ("pa", "pb"):
            subprocess.run(["ip", "link", "set", name, "up"], check=True)
        index = socket.if_nametoindex("pa")
        plane.port(index)
        with IPRoute() as ipr:
            Attacher(ipr, tmp_path / "qdiscs").attach(Point("ingress", index, "adopt"), plane.fds["adopt"], "auto")
        yield index
    finally:
        subprocess.run(["ip", "link", "del", "pa"], check=True)


def test_the_frame_comes_in_again_and_meets_adopt(plane: Plane, ring: PuntRing, veth: int) -> None:
    def counted(reason: str) -> int:
        return int(plane.maps["reasons"].per_cpu_sum()[reasons.by_name()[reason].number])

    plane.run("adopt", syn())
    (punt,) = ring.read()
    courier = Courier(os.dup(plane.fds["deliver"]))
    try:
        clashes, again = counted("ADOPT_CLASH"), counted("ADOPT_AGAIN")
        courier.deliver(Punt(veth, punt.frame))
        until("a frame without entry to be dropped", lambda: counted("ADOPT_CLASH") == clashes + 1, 5)
        assert ct_create.create(entry("ftp"))
        courier.deliver(Punt(veth, punt.frame))
        until("a frame with entry to go on", lambda: counted("ADOPT_AGAIN") == again + 1, 5)
        assert ring.read() == []
        subprocess.run(["ip", "link", "set", "pa", "down"], check=True)
        with pytest.raises(DataplaneError):
            courier.deliver(Punt(veth, punt.frame))
    finally:
        courier.close()
