# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's own path: `handoff` or the agent's `flush` → `compose` on one end of a link → `mirror` on the other."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from aa_cluster.dataplane.attach import Attacher, Point
from aa_cluster.dataplane.replication import FEATURES, Sender
from tests.bpf import replicas
from tests.bpf.harness import OTHER, entry, namespace, segment, tuple_of
from tests.bpf.replicas import Pair, add, flow

pytestmark = pytest.mark.bpf


@pytest.fixture(scope="module")
def linked(root: None, object_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with namespace(f"rwire{os.getpid()}"), replicas.pair(object_cache, 8192) as both:
        subprocess.run(["ip", "link", "add", "h0", "type", "veth", "peer", "name", "h1"], check=True)
        for name in ("h0", "h1"):
            subprocess.run(["ip", "link", "set", name, "up"], check=True)
        with IPRoute() as ipr:
            attacher = Attacher(ipr, tmp_path_factory.mktemp("marks"))
            attacher.attach(Point("egress", index("h0"), "compose"), both.primary.fds["compose"], "auto")
            attacher.attach(Point("ingress", index("h1"), "mirror"), both.auxiliary.fds["mirror"], "auto")
        yield both


@pytest.fixture
def pair(linked: Pair) -> Pair:
    replicas.configure(linked)
    record = linked.primary.maps["config"].view()
    record["ha_ifindex"] = index("h0")
    return linked


def index(name: str) -> int:
    return socket.if_nametoindex(name)


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not done():
        assert time.monotonic() < deadline, "it has not come in five seconds"
        time.sleep(0.002)


def drained(sender: Sender) -> Callable[[], bool]:
    return lambda: sender.flush() == 0


def test_the_agent_sends_what_pends(pair: Pair) -> None:
    for number in range(500):
        add(pair.primary, number)
    sender = pair.sender()
    sender.rejournal(1, 500)
    until(drained(sender))
    until(lambda: pair.mirror.state().low + len(pair.mirror.missing()) == 500)
    pair.assert_equal()
    assert sender.state().records == 500


def test_what_is_missing_is_sent_again(pair: Pair) -> None:
    """Frames that come while user space is at the table are dropped: as good as lost."""
    for number in range(100):
        add(pair.primary, number)
    sender = pair.sender()
    pair.auxiliary.maps["mirrored"].view()["closed"] = 1
    sender.rejournal(1, 100)
    until(drained(sender))
    until(lambda: pair.auxiliary.maps["reasons"].per_cpu_sum()[157] >= 7)
    pair.auxiliary.maps["mirrored"].view()["closed"] = 0
    pair.mirror.note_head(sender.head())
    assert pair.mirror.missing() == [(0, 100)]
    assert sender.resend(OTHER, 0, 100) == 100
    until(lambda: pair.mirror.missing() == [])
    pair.assert_equal()
    assert sender.state().again == 100


def test_too_old_to_be_sent_again(pair: Pair) -> None:
    assert pair.sender().resend(OTHER, 0, 100) == 0
    add(pair.primary, 1)
    pair.sender().rejournal(1, 1)
    assert pair.sender().resend(OTHER, 0, 100) == 0, "what pends comes anyway"
    until(drained(pair.sender()))
    assert pair.sender().resend(OTHER, 0, 100) == 1


def test_a_syn_takes_the_journal_along(pair: Pair) -> None:
    """No agent has a part in it."""
    original, reply = flow(1)
    entry(original, reply, mark=5)
    leaving = tuple_of("10.77.2.1", original.source_port, "10.77.2.100", 80)
    ran = pair.primary.run("handoff", segment(leaving, "S", ttl=63))
    assert ran.why["HANDOFF_SENT"] == 1
    assert ran.why["REPLICA_SENT"] == 1
    until(lambda: pair.auxiliary.flow_count() == 1)
    pair.assert_equal()


@pytest.mark.parametrize("mode", ["periodic", "off"])
def test_only_when_it_is_asked_to(pair: Pair, mode: str) -> None:
    pair.primary.maps["config"].view()["features"] = FEATURES[mode]
    original, reply = flow(1)
    entry(original, reply)
    leaving = tuple_of("10.77.2.1", original.source_port, "10.77.2.100", 80)
    assert "REPLICA_SENT" not in pair.primary.run("handoff", segment(leaving, "S", ttl=63)).why


def test_nobody_listens(pair: Pair) -> None:
    sender = pair.sender()
    sender.set_listeners(0)
    add(pair.primary, 1)
    sender.rejournal(1, 1)
    assert sender.flush() == 0
    sender.set_listeners(1)
    assert sender.pending() == 0, "a first listener is told what changes from now on; the rest is a resynchronisation"
