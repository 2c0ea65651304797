# SPDX-License-Identifier: GPL-2.0-or-later
"""UDP across the cluster: shares are exact, every datagram arrives once and whole, the first one included."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

from aa_cluster.api import FlowRow
from aa_cluster.errors import TimeoutReached
from aa_cluster.topology import rulesets
from aa_cluster.topology.agreement import compare
from aa_cluster.topology.capture import Capture, Frame
from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import serving
from aa_cluster.topology.load_udp import numbered, udp_sessions
from aa_cluster.topology.view import counters, flows_of, forwarded, only, owners, set_weights
from tests.topology.hosts import CLIENT, ETHERTYPE, FAMILIES, HEADER, INSIDE, OUTSIDE, SERVER, fresh_ports

pytestmark = pytest.mark.lab

MTU, BLOCK, UDP_HEADER, ETHERNET = 1500, 80, 8, 14
DATAGRAMS = int(os.environ.get("AA_CLUSTER_DATAGRAMS", "100000"))
"""How many numbered ones; a million in `make long`."""
NETWORK9 = {4: "10.77.9.100", 6: "fd77:9::100"}
_ports = itertools.count(7100)


@pytest.fixture
def answering(lab: Lab) -> Iterator[Lab]:
    """The lab, with UDP servers on both hosts' port 80, where the rulesets publish it."""
    with serving(lab, "server", "udp_sessions", 80), serving(lab, "client", "udp_sessions", 80):
        fresh_ports(lab)
        yield lab


def udp_flows(lab: Lab, source: str, ports: Sequence[int], destination: tuple[str, int]) -> list[FlowRow]:
    return [row for row in flows_of(lab, source, ports, destination) if row.protocol == "udp"]


def seen_as(seen: Sequence[str]) -> set[str]:
    """Whose address the server saw."""
    return {line.split()[2].rpartition(":")[0] for line in seen}


def exact(
    lab: Lab, ends: tuple[str, str], where: tuple[str, int], asker: str, count: int = 300
) -> tuple[Counter[str], set[str]]:
    """Owners of ``count`` sessions whose every question was answered, and who answered."""
    before = counters(lab, 1)
    with udp_sessions(lab, ends[0], *where, count) as sessions:
        assert sessions.begun.completed == count, sessions.begun.failed
        rows = udp_flows(lab, ends[1], sessions.begun.ports, where)
        found = compare(lab, rows)
        assert not found.differences
        assert found.compared == len([row for row in rows if row.owner_name != "node1"])
        assert len({line.split()[2] for line in sessions.begun.seen}) == count, "two sessions had one port"
        assert seen_as(sessions.begun.seen) == {asker}
        assert sessions.again().completed == count
        assert len(rows) == count, f"no flow: {_without(rows, sessions.begun.ports)}; {counters(lab, 1) - before}"
        return owners(rows), {line.split()[0] for line in sessions.begun.seen}


def _without(rows: Sequence[FlowRow], ports: Sequence[int]) -> list[int]:
    return sorted(set(ports) - {row.source_port for row in rows})


@FAMILIES
@pytest.mark.parametrize("ruleset", ["default", "npt", "no-nat"])
def test_shares_are_exact_from_the_client(answering: Lab, ruleset: str, family: int) -> None:
    lab = answering
    lab.load_ruleset(rulesets.text(ruleset))
    asker = {"default": OUTSIDE, "npt": NETWORK9, "no-nat": CLIENT}[ruleset][family]
    shares, said = exact(lab, ("client", CLIENT[family]), (SERVER[family], 80), asker)
    assert shares == {"node1": 100, "node2": 100, "node3": 100}
    assert said == {"server"}


@FAMILIES
@pytest.mark.parametrize("ruleset", ["default", "npt", "no-nat"])
def test_shares_are_exact_from_the_server(answering: Lab, ruleset: str, family: int) -> None:
    lab = answering
    lab.load_ruleset(rulesets.text(ruleset))
    where = {"default": (OUTSIDE[family], 8080), "npt": (NETWORK9[family], 80), "no-nat": (CLIENT[family], 80)}
    shares, said = exact(lab, ("server", SERVER[family]), where[ruleset], SERVER[family])
    assert shares == {"node1": 100, "node2": 100, "node3": 100}
    assert said == {"client"}


@FAMILIES
def test_weights_are_exact(answering: Lab, family: int) -> None:
    set_weights(answering, {1: 0, 2: 1, 3: 2})
    shares, _ = exact(answering, ("client", CLIENT[family]), (SERVER[family], 80), OUTSIDE[family])
    assert shares == {"node2": 100, "node3": 200}


@FAMILIES
@pytest.mark.parametrize("owner", [1, 2, 3])
def test_published_and_masqueraded_at_once(answering: Lab, owner: int, family: int) -> None:
    """DNAT and SNAT of one session, through each node."""
    only(answering, owner)
    where = (INSIDE[family], 8080)
    shares, said = exact(answering, ("client", CLIENT[family]), where, OUTSIDE[family], 30)
    assert shares == {f"node{owner}": 30}
    assert said == {"server"}


def largest(family: int) -> int:
    """Bytes of payload that fill the MTU."""
    return MTU - HEADER[family] - UDP_HEADER


@FAMILIES
@pytest.mark.parametrize("size", [1, 2, 255, 1000])
def test_every_first_datagram_arrives_as_it_was_sent(lab: Lab, size: int, family: int) -> None:
    """One for each session, odd and even ones; up to the last byte that leaves room for the block."""
    only(lab, 2)
    fresh_ports(lab)
    size = largest(family) - BLOCK if size == 1000 else 7 + size
    before = counters(lab, 1)
    sent, came = numbered(lab, ("client", "server"), (SERVER[family], next(_ports)), count=50, sessions=50, size=size)
    assert (came.arrived, came.repeated, came.altered, came.first_missing) == (sent.sent, 0, (), ())
    since = counters(lab, 1) - before
    assert since["HANDOFF_SENT"] == 50
    assert since["HANDOFF_NO_ROOM"] == 0


def agreed(lab: Lab, rows: Sequence[FlowRow]) -> None:
    """The owner makes its entry when the block has come, which is a moment after the primary's flow."""
    try:
        until("all entries to agree", lambda: not compare(lab, rows).differences, 2)
    except TimeoutReached:
        pytest.fail("; ".join(compare(lab, rows).differences))


@FAMILIES
def test_a_datagram_without_room_is_let_go_and_the_next_takes_the_block(answering: Lab, family: int) -> None:
    """As long as nobody has answered."""
    lab, where = answering, (SERVER[family], 80)
    only(lab, 2)
    before = counters(lab, 1)["HANDOFF_NO_ROOM"]
    first = largest(family) - BLOCK + 1
    with udp_sessions(lab, "client", *where, 20, unanswered=1, first=first) as sessions:
        assert sessions.begun.completed == 20, sessions.begun.failed
        rows = udp_flows(lab, CLIENT[family], sessions.begun.ports, where)
        assert owners(rows) == {"node2": 20}
        agreed(lab, rows)
    assert counters(lab, 1)["HANDOFF_NO_ROOM"] == before + 20


@FAMILIES
def test_datagrams_that_race_each_other_do_not_part_owner_and_primary(answering: Lab, family: int) -> None:
    """Of a session's first datagrams two may be in netfilter at once, each with a masquerade port of its own: the
    loser's entry lives for a second, so it is no decision to hand off."""
    lab, where, count = answering, (SERVER[family], 80), 300
    only(lab, 2)
    racing = {"unanswered": 3, "questions": 0, "pause": 0, "parallel": 4}
    with udp_sessions(lab, "client", *where, count, **racing) as sessions:
        rows = udp_flows(lab, CLIENT[family], sessions.begun.ports, where)
        assert owners(rows) == {"node2": count}
        agreed(lab, rows)


@FAMILIES
def test_once_it_is_answered_a_session_stays_on_the_primary(answering: Lab, family: int) -> None:
    """Its first datagram had no room, and the answer has passed the primary's stack: so do the others."""
    lab, where = answering, (SERVER[family], 80)
    only(lab, 2)
    with udp_sessions(lab, "client", *where, 20, first=largest(family)) as sessions:
        assert sessions.begun.completed == 20, sessions.begun.failed
        assert sessions.again().completed == 20
        rows = udp_flows(lab, CLIENT[family], sessions.begun.ports, where)
        assert owners(rows) == {"node1": 20}, "they have flows, so that the other nodes know of them"


@FAMILIES
def test_nothing_of_the_block_leaves_the_cluster(answering: Lab, family: int) -> None:
    """What the server gets is what the client sent: no longer datagram, and the right checksum."""
    lab = answering
    only(lab, 2)
    sent = {b"ask %d %d " % (session, 1) for session in range(20)}
    with (
        Capture(lab.plan.path("server"), ETHERTYPE[family]) as capture,
        udp_sessions(lab, "client", SERVER[family], 80, 20, questions=1) as sessions,
    ):
        assert sessions.begun.completed == 20, sessions.begun.failed
    came = [frame for frame in capture.frames() if is_question(frame, family)]
    assert {payload(frame, family) for frame in came} == sent
    assert len(came) == 20


def is_question(frame: Frame, family: int) -> bool:
    transport = ETHERNET + HEADER[family]
    return frame.data[transport + 2 : transport + 4] == (80).to_bytes(2, "big") and frame.data[12:14] == ETHERTYPE[
        family
    ].to_bytes(2, "big")


def payload(frame: Frame, family: int) -> bytes:
    """All that the IP header counts."""
    head = frame.data[ETHERNET : ETHERNET + HEADER[family]]
    total = int.from_bytes(head[2:4], "big") if family == 4 else HEADER[6] + int.from_bytes(head[4:6], "big")
    return frame.data[ETHERNET + HEADER[family] + UDP_HEADER : ETHERNET + total]


@pytest.mark.slow
@pytest.mark.timeout(300)
@FAMILIES
def test_a_million_numbered_datagrams(lab: Lab, family: int) -> None:
    """Through auxiliaries, at a steady rate: none lost by us, none altered, none twice, the first ones included."""
    set_weights(lab, {1: 0})
    fresh_ports(lab)
    before, stack = [counters(lab, node) for node in (1, 2, 3)], forwarded(lab, 1, family)
    where = (SERVER[family], next(_ports))
    sent, came = numbered(lab, ("client", "server"), where, count=DATAGRAMS, sessions=20)
    after = [counters(lab, node) for node in (1, 2, 3)]
    dropped = [ours for now, then in zip(after, before, strict=True) for ours in lost_by_us(now - then)]
    assert came.overrun == 0, "the receiver itself was too slow"
    assert (came.arrived, came.altered, came.repeated) == (sent.sent, (), 0), (came.missing, dropped)
    assert came.first_missing == ()
    assert all(len(askers) == 1 for askers in came.askers.values()), "a session had two ports"
    assert not dropped
    assert forwarded(lab, 1, family) - stack < 200, "datagrams went through the primary's stack"


def lost_by_us(counted: Counter[str]) -> list[str]:
    """Reasons for which the programs drop what belongs to a session."""
    kinds = ("HANDOFF_FAILED", "ADOPT_CLASH", "ADOPT_FAILED", "GUARD_NO_ENTRY", "GUARD_NO_BLOCK", "GUARD_MALFORMED")
    return [f"{name} {count}" for name, count in counted.items() if name in kinds or name.startswith("BLOCK_")]
