# SPDX-License-Identifier: GPL-2.0-or-later
"""The life of a UDP flow: answered, without room, aged; and what its owner does not know."""

from __future__ import annotations

import subprocess

import pytest

from aa_cluster.dataplane.flows import ESTABLISHED, LASTS, SETTLED, SYN_SENT, TOUCHED
from aa_cluster.netlink import conntrack
from tests.bpf.families import (
    UDP_ONLY,
    Kind,
    leaving,
    now,
    session,
)
from tests.bpf.harness import (
    OTHER,
    SELF,
    TC_OK,
    TC_SHOT,
    THIRD,
    TIMEOUTS,
    XDP_DROP,
    Plane,
    entry,
    reversed_tuple,
    segment,
)

pytestmark = pytest.mark.bpf


def remaining(kind: Kind) -> int:
    (found,) = conntrack.dump(kind[0])
    return found.timeout


@UDP_ONLY
def test_an_answer_settles_and_holds_the_entry(plane: Plane, kind: Kind) -> None:
    both = session(kind)
    entry(*both)
    plane.add_flow(*both, OTHER, SYN_SENT)
    plane.run("steer", segment(both[0], ""))
    record = plane.flow(both[0])
    assert record is not None
    assert (int(record["state"]), plane.word(both[0]) & SETTLED) == (SYN_SENT, 0)
    assert plane.run("steer", segment(both[1], "")).why == {"STEER_DATAGRAM": 1}
    assert (int(record["state"]), plane.word(both[0]) & SETTLED, plane.word(both[1]) & SETTLED) == (
        ESTABLISHED,
        SETTLED,
        SETTLED,
    )
    (found,) = conntrack.dump(kind[0])
    assert found.status & conntrack.Status.ASSURED
    assert TIMEOUTS[7] - 5 < found.timeout <= TIMEOUTS[7]


@UDP_ONLY
@pytest.mark.parametrize(("owner", "why"), [(SELF, "HANDOFF_LOCAL"), (OTHER, "HANDOFF_AGAIN")])
def test_a_datagram_of_a_known_flow(plane: Plane, kind: Kind, owner: int, why: str) -> None:
    """One that `steer` did not see in time: of this node's own it leaves as it is, of another's it goes there again."""
    both = session(kind)
    entry(*both)
    plane.add_flow(*both, owner, SYN_SENT)
    ran = plane.run("handoff", leaving(both[1], payload=b"second"))
    assert ran.why == {why: 1}
    assert plane.flow_count() == 1


@UDP_ONLY
@pytest.mark.parametrize("owner", [SELF, OTHER])
def test_an_answer_in_the_stack_leaves_as_it_is(plane: Plane, kind: Kind, owner: int) -> None:
    """Untranslated already, so its tuple is the original one, turned round."""
    original, reply = session(kind)
    entry(original, reply)
    plane.add_flow(original, reply, owner, SYN_SENT)
    packet = segment(reversed_tuple(original), "", b"answer", ttl=63)
    ran = plane.run("handoff", packet)
    assert (ran.verdict, ran.why, ran.raw) == (TC_OK, {"HANDOFF_OTHER": 1}, bytes(packet))


@UDP_ONLY
def test_a_port_that_comes_again_is_a_session_of_its_own(plane: Plane, kind: Kind) -> None:
    """A flow of this node's own outlives its conntrack entry for a moment, and netfilter gives the port away."""
    _, reply = session(kind)
    plane.add_flow(session(kind, port=39_000)[0], reply, SELF, ESTABLISHED)
    original = session(kind)[0]
    entry(original, reply)
    assert plane.run("handoff", leaving(reply)).why == {"HANDOFF_SENT": 1}
    assert (plane.owner(original), plane.owner(reply)) == (OTHER, OTHER)
    assert not plane.owner(session(kind, port=39_000)[0])


@UDP_ONLY
def test_without_room_the_next_one_takes_the_block(plane: Plane, kind: Kind) -> None:
    original, reply = session(kind)
    entry(original, reply)
    large = leaving(reply, payload=b"d" * 1400)
    ran = plane.run("handoff", large)
    assert (ran.verdict, ran.why, ran.raw) == (TC_OK, {"HANDOFF_NO_ROOM": 1}, bytes(large))
    assert plane.flow_count() == 0
    assert plane.run("handoff", leaving(reply, payload=b"small")).why == {"HANDOFF_SENT": 1}


@UDP_ONLY
def test_what_goes_to_a_group_is_no_session(plane: Plane, kind: Kind) -> None:
    original, reply = session(kind, "none")
    entry(original, reply)
    packet = leaving(reply)
    packet.dst = "01:00:5e:01:02:03" if kind[0] == 4 else "33:33:00:01:02:03"
    ran = plane.run("handoff", packet)
    assert (ran.verdict, ran.why, plane.flow_count()) == (TC_OK, {"HANDOFF_OTHER": 1}, 0)


@UDP_ONLY
def test_one_that_was_answered_here_stays_here(plane: Plane, kind: Kind) -> None:
    original, reply = session(kind)
    entry(original, reply, state="ESTABLISHED")
    assert plane.run("handoff", leaving(reply)).why == {"HANDOFF_UNDER_WAY": 1}
    assert (plane.owner(original), plane.owner(reply)) == (SELF, SELF), "the others know of it"


@UDP_ONLY
def test_none_begins_while_another_node_becomes_primary(plane: Plane, kind: Kind) -> None:
    original, reply = session(kind)
    entry(original, reply)
    plane.configure(heir=OTHER)
    ran = plane.run("handoff", leaving(reply))
    assert (ran.verdict, ran.why, plane.flow_count()) == (TC_SHOT, {"HANDOFF_HANDING_OVER": 1}, 0)
    plane.add_flow(original, reply, THIRD, ESTABLISHED)
    assert plane.run("handoff", leaving(reply)).why == {"HANDOFF_AGAIN": 1}, "a known one goes on"


@UDP_ONLY
@pytest.mark.parametrize("state", [SYN_SENT, ESTABLISHED])
def test_a_dead_nodes_datagrams_wait_for_their_entries(plane: Plane, kind: Kind, state: int) -> None:
    """While this node takes its place; the others' go on, and so do its own and TCP's."""
    theirs = session(kind)
    plane.add_flow(*theirs, THIRD, state)
    plane.nodes(n1=1, n2=2, n3=1)
    datagram = segment(theirs[0], "A")
    plane.configure(heir=OTHER)
    assert plane.run("steer", datagram).why == {"STEER_LOCAL": 1}, "another one is the heir"
    plane.configure(heir=SELF)
    ran = plane.run("steer", datagram)
    assert (ran.verdict, ran.why) == (XDP_DROP, {"STEER_HANDING_OVER": 1})
    plane.nodes(n1=1, n2=2, n3=2)
    assert plane.run("steer", datagram).why == {"STEER_DATAGRAM": 1}, "it lives"
    plane.reset()
    plane.add_flow(*theirs, SELF, state)
    plane.configure(heir=SELF)
    assert plane.run("steer", datagram).why == {"STEER_LOCAL": 1}, "its own"


@UDP_ONLY
def test_a_flow_without_an_answer_goes_after_conntracks_time(plane: Plane, kind: Kind) -> None:
    both = session(kind)
    for idle, left in ((TIMEOUTS[0] - 2, 1), (TIMEOUTS[0] + 1, 0)):
        plane.reset()
        entry(*both)
        plane.add_flow(*both, OTHER, ESTABLISHED, seen_ns=now() - idle * 10**9)
        plane.sweep()
        assert (plane.flow_count(), len(conntrack.dump(kind[0]))) == (left, left)


@UDP_ONLY
@pytest.mark.parametrize(
    ("state", "age_s", "touched", "lasts"),
    [(ESTABLISHED, 1.5, False, 0), (ESTABLISHED, 3, True, 0), (ESTABLISHED, 3, False, LASTS), (SYN_SENT, 3, False, 0)],
    ids=["within two seconds", "not the first one", "later", "nobody answers"],
)
@pytest.mark.parametrize("direction", [0, 1])
def test_what_makes_a_stream(
    plane: Plane, kind: Kind, direction: int, state: int, age_s: float, touched: bool, lasts: int
) -> None:
    """Answered, and still there two seconds later (nf_conntrack_proto_udp.c). Asked once between two looks."""
    both = session(kind)
    entry(*both)
    index = plane.add_flow(*both, OTHER, state)
    record = plane.maps["records"].view()[index : index + 1]
    if touched:
        plane.run("steer", segment(both[direction], ""))
    record["created_ns"] = now() - int(age_s * 1e9)
    plane.run("steer", segment(both[direction], ""))
    answered = bool(direction) and state == SYN_SENT
    assert (int(record["state"][0]), int(record["ended"][0])) == (ESTABLISHED if answered else state, lasts)
    assert plane.word(both[direction]) & TOUCHED


@UDP_ONLY
def test_a_stream_lives_longer(plane: Plane, kind: Kind) -> None:
    """So does its entry, which from the answer has the short time: over before a quarter of the long one is gone."""
    both = session(kind)
    entry(*both)
    subprocess.run(["conntrack", "-U", "-p", "udp", "-s", str(both[0].source), "--timeout", "20"], check=True)
    plane.add_flow(*both, OTHER, ESTABLISHED, seen_ns=now() - 11 * 10**9)
    record = plane.flow(both[0])
    assert record is not None
    record["held_ns"] = now() - 11 * 10**9
    plane.run("steer", segment(both[0], ""))
    plane.sweep()
    assert remaining(kind) > TIMEOUTS[7] - 5 >= TIMEOUTS[0]
    record["seen_ns"] = now() - (TIMEOUTS[0] + 5) * 10**9
    plane.sweep()
    assert plane.flow_count() == 1


@UDP_ONLY
def test_the_entry_of_a_session_nobody_answers_is_renewed(plane: Plane, kind: Kind) -> None:
    """The primary's stack sees none of its datagrams, and would give its NAT away."""
    both = session(kind)
    entry(*both)
    update = ["conntrack", "-U", "-p", "udp", "-s", str(both[0].source), "--timeout", "3"]
    subprocess.run(update, capture_output=True, check=True)
    index = plane.add_flow(*both, OTHER, SYN_SENT, seen_ns=now() - 9 * 10**9)
    plane.maps["records"].view()["held_ns"][index] = now() - 9 * 10**9
    plane.run("steer", segment(both[0], ""))
    plane.sweep()
    assert remaining(kind) > TIMEOUTS[0] - 5
