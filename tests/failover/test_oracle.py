# SPDX-License-Identifier: GPL-2.0-or-later
"""The oracle can fail: everything the scenarios claim is made untrue once, and must be seen."""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import pairwise

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import Ether

from aa_cluster.netlink import conntrack
from aa_cluster.topology import inject, rulesets
from aa_cluster.topology.capture import Capture
from aa_cluster.topology.claims import Reign, Watch, strays
from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.namespaces import inside
from aa_cluster.topology.shaping import Shape, Shaped
from aa_cluster.topology.streams import judge, load
from tests.failover import faults
from tests.failover.autopsy import Witness
from tests.failover.figures import Limits, complaints
from tests.failover.oracle import entries_differ, wait_whole
from tests.failover.scenario import go_on, under_load

pytestmark = pytest.mark.lab

FEW = {"count": 120, "rate": 40.0, "fresh": 0.0, "patience": 2.0}
LIMITS = Limits(worst_ms=500, median_ms=300)
ONLY_FIRST = [Reign("node1")]
VIRTUAL_MAC = "02:aa:00:4d:00:01"


@pytest.fixture(scope="module")
def lab(make_lab: Callable[..., Lab]) -> Lab:
    """Without election: who dies as primary stays dead."""
    return make_lab(3, ruleset=rulesets.text("failover"))


def test_nothing_happens(lab: Lab) -> None:
    with under_load(lab) as run:
        run.happen(lambda: None)
        outcome = run.end(ONLY_FIRST, after=1.0, differences=lambda: entries_differ(lab))
    assert complaints([outcome], Limits(worst_ms=100, median_ms=100, again=0)) == []
    assert outcome.verdict.counted >= 1000


def test_streams_that_end_fall_silent_or_say_something_wrong(lab: Lab) -> None:
    with under_load(lab, **FEW) as run:
        run.happen(lambda: [run.running.order(words) for words in ("close 0", "hush 13", "spoil 25", "abort 50")])
        verdict = run.end(ONLY_FIRST, after=1.5).verdict
    assert verdict.states == {"open": 117, "closed": 1, "stuck": 1, "reset": 1}
    assert (verdict.lost, verdict.stuck, verdict.reset, verdict.wrong) == (3, 1, 1, 1)
    assert {one.port for one in run.witness.resets()} & {"client-int", "server-ext"}, "who sent the reset"


def test_a_stream_that_was_too_young_does_not_count(lab: Lab) -> None:
    with load(lab, 24, 0, fresh=50, probes=0) as running:
        go_on(1.0)
        report, _ = running.stop()
    middle = sorted(row.established for row in report.streams)[-10]
    assert judge(report, middle).counted < judge(report, middle + 0.1).counted < len(report.streams)


def test_a_missing_entry_is_seen(lab: Lab) -> None:
    with load(lab, 120, rate=0):
        until("all entries to agree", lambda: not entries_differ(lab), 5)
        entries = inside(lab.plan.path("node2"), lambda: conntrack.dump(4))
        open_now = (entry.original for entry in entries if entry.tcp_state == "ESTABLISHED")
        inside(lab.plan.path("node2"), lambda: conntrack.delete(next(open_now)))
        assert entries_differ(lab)[0].startswith("1 of ")


@pytest.mark.parametrize(
    "fault", [faults.killed(2), faults.cut(2, "int"), faults.cut(2, "ext", silent=True)], ids=lambda fault: fault.name
)
def test_nobody_takes_over(lab: Lab, fault: faults.Fault) -> None:
    """The primary's agent is frozen: what the auxiliary owned is lost, and seen to be."""
    with under_load(lab, **FEW) as run:
        lab.pause(1)
        run.happen(fault.make, lab)
        outcome = run.end(ONLY_FIRST, after=0.5)
    lab.heal("node1")
    fault.mend(lab)
    wait_whole(lab)
    assert outcome.verdict.stuck >= 30
    assert outcome.verdict.counted == 120
    assert outcome.newcomers.failed
    assert any("streams lost" in said for said in complaints([outcome], LIMITS))


def test_a_gap_is_seen(lab: Lab) -> None:
    """The client's port is mute for 400 ms: nothing is lost, and the gap is that, with TCP's pause on top."""

    def shortly() -> None:
        lab.cut("client", "int", silent=True)
        go_on(0.4)
        lab.heal("client", "int")

    with under_load(lab, **FEW) as run:
        run.happen(shortly)
        verdict = run.end(ONLY_FIRST).verdict
    assert verdict.lost == 0
    assert 400 <= verdict.gap_ms < 1500
    assert set(verdict.by_kind) >= {"push", "pull", "ask"}


def test_a_generator_that_stands_still_is_no_gap(lab: Lab) -> None:
    """As long as the client was mute: the streams went on."""
    with under_load(lab, **FEW) as run:
        run.happen(run.running.stall, 0.4)
        verdict = run.end(ONLY_FIRST).verdict
    assert verdict.lost == 0
    assert verdict.gap_ms < 100
    assert 300 <= verdict.late_ms < 800


def test_a_second_claimant_is_seen(lab: Lab) -> None:
    """By ARP, by NDP, by a frame whose source is the virtual MAC."""
    server, other = lab.plan.path("server"), ("02:00:00:02:00:63", "10.77.2.99")
    frame = b"\xff" * 6 + inject.mac(VIRTUAL_MAC) + b"\x88\xb5" + bytes(46)
    answer = inject.arp_frame(2, ("02:00:00:02:00:64", "10.77.2.1"), other, destination=other[0])
    shown = (
        Ether(src="02:00:00:02:00:64", dst="33:33:00:00:00:01")
        / IPv6(src="fe80::64", dst="ff02::1", hlim=255)
        / ICMPv6ND_NA(tgt="fd77:2::1", S=0)
        / ICMPv6NDOptDstLLAddr(lladdr="02:00:00:02:00:64")
    )

    with Watch(lab) as watch:
        inject.send(server, "eth0", answer)
        until("the answer to be seen", lambda: _by(watch) == {"ARP"}, 2)
        inject.send(server, "eth0", bytes(shown))
        until("the advertisement to be seen", lambda: _by(watch) == {"ARP", "NDP"}, 2)
        inject.send(server, "eth0", frame)
        until("the MAC to be seen", lambda: _by(watch) == {"ARP", "NDP", "MAC"}, 2)
    assert strays(watch.claims(), [Reign("node1"), Reign("server")]) == []


def _by(watch: Watch) -> set[str]:
    return {stray.by for stray in strays(watch.claims(), ONLY_FIRST)}


def test_a_reset_is_seen_with_who_sent_it(lab: Lab) -> None:
    """Nobody listens there."""
    with Witness(lab) as witness:
        for address in ("10.77.2.100", "[fd77:2::100]"):
            lab.exec("client", ["curl", "--silent", "--max-time", "2", f"http://{address}:7999/"])
        seen = {"10.77.2.100", "fd77:2::100"}
        until("both resets", lambda: {one.source[0] for one in witness.resets(7999)} >= seen, 2)
    assert "server-ext" in {one.port for one in witness.resets(7999)}


def test_the_link_is_as_rough_as_it_says(lab: Lab) -> None:
    """Of 4,000 frames to everybody a tenth is lost, a tenth comes twice, a tenth comes late."""
    tag, count = 0x88B5, 4000
    with Shaped(lab.plan, Shape(0.1, 0.1, 0.1), [2, 3]), Capture(lab.plan.path("node2"), tag) as capture:
        for first in range(0, count, 50):
            inject.send(lab.plan.path("node1"), "ha", *(_numbered(number) for number in range(first, first + 50)))
        go_on(0.1)
        numbers = [struct.unpack_from("!I", frame.data, 14)[0] for frame in capture.frames()]
    assert 0.85 * count < len(set(numbers)) < 0.95 * count
    assert 0.07 * count < len(numbers) - len(set(numbers)) < 0.13 * count
    assert sum(later < sooner for sooner, later in pairwise(numbers)) > 0.03 * count


def _numbered(number: int) -> bytes:
    return b"\xff" * 6 + inject.mac("02:00:00:00:00:01") + b"\x88\xb5" + struct.pack("!I", number) + bytes(42)


def test_the_primary_dies_and_nobody_is_elected(lab: Lab) -> None:
    """Last of all: roles are static, so everything is lost."""
    with under_load(lab, **FEW) as run:
        run.happen(lab.kill, 1)
        outcome = run.end(ONLY_FIRST, after=0.5)
    assert outcome.verdict.stuck == 120
    assert outcome.newcomers.failed > 10
