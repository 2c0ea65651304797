# SPDX-License-Identifier: GPL-2.0-or-later
"""Pulses: what the primary sends, what a node answers, what the primary notes, and what counts for nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import ARP, Ether

from aa_cluster.dataplane import pulses, syscall
from aa_cluster.dataplane.pulses import Prober, Pulse, Question
from tests.bpf.harness import (
    CLIENT_MAC,
    HA_MAC,
    OTHER,
    PHYSICAL,
    SELF,
    TC_OK,
    TC_REDIRECT,
    TC_SHOT,
    THIRD,
    VIRTUAL,
    Plane,
    loaded,
    namespace,
    node_ha_mac,
    node_mac,
    raw_mac,
)
from tests.bpf.pulse_frames import ANSWER, ETHERTYPE, HA_LINK, PULSE, Frame, decode

pytestmark = pytest.mark.bpf

UNSPEC = 0xFFFFFFFF
PRIMARY_HA_MAC = node_ha_mac(OTHER)
WRONG_KEY = bytes(16)
ONE, BOTH = frozenset({OTHER}), frozenset({OTHER, THIRD})


@pytest.fixture(scope="module")
def wired(root: None, object_cache: Path) -> Iterator[Plane]:
    """d0 is the data interface of slot 0, h0 the HA link; what goes out there comes out of d1 and h1."""
    with namespace(f"pulse{os.getpid()}"):
        for command in ("link add d0 type veth peer name d1", "link add h0 type veth peer name h1"):
            subprocess.run(["ip", *command.split()], check=True)
        for name in ("d0", "d1", "h0", "h1"):
            subprocess.run(["ip", "link", "set", name, "up"], check=True)
        with loaded(object_cache) as plane:
            yield plane


@pytest.fixture
def plane(wired: Plane) -> Plane:
    """This node is the primary."""
    wired.reset()
    record = wired.maps["slots"].record()
    record[...] = wired.maps["slots"].get(0)
    record["ifindex"] = socket.if_nametoindex("d0")
    wired.maps["slots"].put(0, record)
    wired.configure(ha_ifindex=socket.if_nametoindex("h0"))
    return wired


@pytest.fixture
def auxiliary(plane: Plane) -> Plane:
    """This node is an auxiliary of node ``OTHER``."""
    ha = socket.if_nametoindex("h0")
    plane.configure(primary=OTHER, ha_ifindex=ha, primary_ha_mac=raw_mac(PRIMARY_HA_MAC))
    return plane


@pytest.fixture
def wires() -> Iterator[dict[str, socket.socket]]:
    """What comes out of d1 and h1, from now on."""
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
    taps = {name: socket.socket(socket.AF_PACKET, kind, socket.htons(ETHERTYPE)) for name in ("d1", "h1")}
    for name, tap in taps.items():
        tap.bind((name, ETHERTYPE))
    yield taps
    for tap in taps.values():
        tap.close()


@pytest.fixture
def prober(plane: Plane) -> Iterator[Prober]:
    made = Prober(os.dup(plane.fds["pulse"]), plane.maps["pulses"])
    yield made
    made.close()


def row(plane: Plane, node: int, link: int) -> Pulse:
    return pulses.read(plane.maps["pulses"], node, link)


def frames(tap: socket.socket) -> list[bytes]:
    out = []
    while True:
        try:
            out.append(tap.recv(2048))
        except BlockingIOError:
            return out


# The primary asks.


def test_one_run_asks_a_node_on_every_link(plane: Plane, prober: Prober, wires: dict[str, socket.socket]) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    assert prober.send(ONE) == 0
    (data,), (ha,) = frames(wires["d1"]), frames(wires["h1"])
    assert (Ether(data).dst, Ether(data).src) == (node_mac(OTHER), VIRTUAL)
    assert (Ether(ha).dst, Ether(ha).src) == (node_ha_mac(OTHER), HA_MAC)
    for raw, link in ((data, 0), (ha, HA_LINK)):
        seen = decode(raw)
        assert seen == Frame(PULSE, 1, link, SELF, OTHER, sent_ns=seen.sent_ns)
        assert before < seen.sent_ns < time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        assert row(plane, OTHER, link).sent == 1
        assert row(plane, OTHER, link).sent_ns == seen.sent_ns
    assert row(plane, OTHER, 1).sent == 0  # there is no such interface
    assert row(plane, THIRD, 0).sent == 0


def test_an_answer_that_is_missing_shows_in_the_next_run(plane: Plane, prober: Prober) -> None:
    both = 1 << 0 | 1 << HA_LINK
    assert [prober.send(ONE) for _ in range(3)] == [0, both, both]
    assert plane.run("admit", Frame(sequence=3).packet(VIRTUAL, node_mac(OTHER))).why == {"PULSE_HEARD": 1}
    assert prober.send(ONE) == 1 << HA_LINK
    answer = Frame(sequence=4, link=HA_LINK).packet(HA_MAC, node_ha_mac(OTHER))
    assert plane.run("echo", answer).why == {"PULSE_HEARD": 1}
    assert prober.send(ONE) == 1 << 0
    assert prober.counts(OTHER, 0) == (5, 3)


def test_each_node_has_its_own_sequence(plane: Plane, prober: Prober, wires: dict[str, socket.socket]) -> None:
    for nodes in (ONE, BOTH, ONE):
        prober.send(nodes)
    assert [(one.target, one.sequence) for one in map(decode, frames(wires["h1"]))] == [(2, 1), (2, 2), (3, 1), (2, 3)]


@pytest.mark.parametrize("node", [0, SELF, 64])
def test_nobody_is_asked_that_cannot_be(
    plane: Plane, prober: Prober, wires: dict[str, socket.socket], node: int
) -> None:
    assert prober.send(frozenset({node})) == 0
    assert frames(wires["h1"]) == frames(wires["d1"]) == []


def test_a_link_that_is_down_is_counted_and_asked_again(plane: Plane, prober: Prober) -> None:
    subprocess.run(["ip", "link", "set", "d0", "down"], check=True)
    try:
        before = plane.maps["reasons"].per_cpu_sum()
        prober.send(ONE)
        changed = plane.maps["reasons"].per_cpu_sum() - before
        assert (changed[170], changed[171]) == (1, 1)
        assert row(plane, OTHER, 0).sent == 1
    finally:
        subprocess.run(["ip", "link", "set", "d0", "up"], check=True)


# A node answers.


def asked(link: int = 0, **changes: int) -> Frame:
    values = {"kind": PULSE, "sequence": 7, "link": link, "sender": OTHER, "target": SELF, "sent_ns": 1234} | changes
    return Frame(**values)


def on_ha(frame: Frame, key: bytes | None = None) -> Ether:
    packet = frame.packet(HA_MAC, PRIMARY_HA_MAC)
    return packet if key is None else frame.packet(HA_MAC, PRIMARY_HA_MAC, key)


def on_data(frame: Frame, key: bytes | None = None) -> Ether:
    packet = frame.packet(PHYSICAL, VIRTUAL)
    return packet if key is None else frame.packet(PHYSICAL, VIRTUAL, key)


WAYS: dict[str, tuple[str, Callable[..., Ether], int, str, str]] = {
    "ha": ("echo", on_ha, HA_LINK, PRIMARY_HA_MAC, HA_MAC),
    "data": ("adopt", on_data, 0, VIRTUAL, PHYSICAL),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_pulse_is_answered_out_of_the_link_it_came_in_on(auxiliary: Plane, way: str) -> None:
    """On a data link to the virtual MAC and from the physical one: no switch learns the virtual MAC here."""
    program, carried, link, to, own = WAYS[way]
    ran = auxiliary.run(program, carried(asked(link)))
    assert (ran.verdict, ran.why) == (TC_REDIRECT, {"PULSE_ANSWERED": 1})
    assert (ran.packet.dst, ran.packet.src, ran.packet.type) == (to, own, ETHERTYPE)
    assert decode(ran.raw) == Frame(ANSWER, 7, link, SELF, OTHER, sent_ns=1234)
    assert row(auxiliary, OTHER, link).heard == 7
    assert row(auxiliary, OTHER, link).heard_ns > 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"magic": b"AAHB"}, "PULSE_MALFORMED"),
        ({"version": 2}, "PULSE_MALFORMED"),
        ({"kind": 9}, "PULSE_MALFORMED"),
        ({"length": 55}, "PULSE_MALFORMED"),
        ({"cluster_id": 8}, "PULSE_MALFORMED"),
        ({"generation": 2}, "PULSE_GENERATION"),
        ({"target": THIRD}, "PULSE_STRANGER"),
        ({"target": 0}, "PULSE_STRANGER"),
        ({"sender": THIRD}, "PULSE_STRANGER"),
        ({"sender": SELF}, "PULSE_STRANGER"),
        ({"sender": 200}, "PULSE_STRANGER"),
        ({"link": 3}, "PULSE_STRANGER"),
    ],
)
def test_no_other_is_answered(auxiliary: Plane, way: str, changes: dict[str, int], why: str) -> None:
    program, carried, link, _, _ = WAYS[way]
    values: dict[str, int] = {"link": link} | changes
    ran = auxiliary.run(program, carried(asked(**values)))
    assert (ran.verdict, ran.why) == (TC_SHOT, {why: 1})
    assert not auxiliary.maps["pulses"].view()["heard"].any()


@pytest.mark.parametrize("way", WAYS)
def test_a_primary_of_a_later_generation_is_answered(auxiliary: Plane, way: str) -> None:
    """Before this node follows it: it is to know who lives. Its pulses say nothing about this node's own primary."""
    program, carried, link, _, _ = WAYS[way]
    ran = auxiliary.run(program, carried(asked(link=link, generation=4, sender=THIRD)))
    assert ran.why == {"PULSE_ANSWERED": 1}
    assert row(auxiliary, THIRD, link).heard
    assert not row(auxiliary, OTHER, link).heard


@pytest.mark.parametrize("way", WAYS)
def test_a_wrong_tag_is_not_answered(auxiliary: Plane, way: str) -> None:
    program, carried, link, _, _ = WAYS[way]
    ran = auxiliary.run(program, carried(asked(link), WRONG_KEY))
    assert (ran.verdict, ran.why) == (TC_SHOT, {"PULSE_TAG": 1})
    for at in range(14, 70):
        raw = bytearray(bytes(carried(asked(link))))
        raw[at] ^= 1
        assert "PULSE_ANSWERED" not in auxiliary.run(program, bytes(raw)).why, at


@pytest.mark.parametrize("way", WAYS)
def test_a_pulse_is_answered_once(auxiliary: Plane, way: str) -> None:
    program, carried, link, _, _ = WAYS[way]
    sequences = {7: "PULSE_ANSWERED", 6: "PULSE_OLD", 9: "PULSE_ANSWERED", 8: "PULSE_OLD"}
    for sequence, why in sequences.items():
        assert auxiliary.run(program, carried(asked(link, sequence=sequence))).why == {why: 1}
    assert auxiliary.run(program, carried(asked(link, sequence=9))).why == {"PULSE_OLD": 1}


@pytest.mark.parametrize("way", WAYS)
def test_a_new_generation_counts_anew(auxiliary: Plane, way: str) -> None:
    program, carried, link, _, _ = WAYS[way]
    auxiliary.run(program, carried(asked(link, sequence=900)))
    auxiliary.configure(primary=OTHER, generation=4)
    assert auxiliary.run(program, carried(asked(link, sequence=1, generation=4))).why == {"PULSE_ANSWERED": 1}


@pytest.mark.parametrize("cut", [14, 40, 69])
@pytest.mark.parametrize("way", WAYS)
def test_a_short_pulse_is_dropped(auxiliary: Plane, way: str, cut: int) -> None:
    program, carried, link, _, _ = WAYS[way]
    ran = auxiliary.run(program, bytes(carried(asked(link)))[:cut])
    assert (ran.verdict, ran.why) == (TC_SHOT, {"PULSE_MALFORMED": 1})


def test_a_padded_pulse_is_answered(auxiliary: Plane) -> None:
    assert auxiliary.run("adopt", bytes(on_data(asked())) + bytes(20)).why == {"PULSE_ANSWERED": 1}


def test_the_guard_comes_before_the_answer(auxiliary: Plane) -> None:
    """None but the primary is answered on a data link, and nothing that is not for this node."""
    assert auxiliary.run("adopt", asked().packet(PHYSICAL, CLIENT_MAC)).why == {"GUARD_STRANGER": 1}
    assert auxiliary.run("adopt", asked().packet(CLIENT_MAC, VIRTUAL)).why == {"GUARD_NOT_MINE": 1}
    assert auxiliary.run("echo", asked(HA_LINK).packet(CLIENT_MAC, PRIMARY_HA_MAC)).why == {"PULSE_STRANGER": 1}


# An auxiliary that has heard nothing asks its primary.


def ask(plane: Plane) -> Question:
    return Question(Prober(os.dup(plane.fds["pulse"]), plane.maps["pulses"]), plane.maps["pulses"], OTHER)


@pytest.fixture
def question(auxiliary: Plane, wires: dict[str, socket.socket]) -> Iterator[Question]:
    """Asked already."""
    made = ask(auxiliary)
    yield made
    made.close()


def test_the_primary_is_asked_on_every_link(question: Question, wires: dict[str, socket.socket]) -> None:
    """From the physical MAC: nothing of an auxiliary ever comes from the virtual one."""
    (data,), (ha,) = frames(wires["d1"]), frames(wires["h1"])
    assert (Ether(data).dst, Ether(data).src) == (VIRTUAL, PHYSICAL)
    assert (Ether(ha).dst, Ether(ha).src) == (PRIMARY_HA_MAC, HA_MAC)
    assert [(one.kind, one.target, one.link) for one in map(decode, (data, ha))] == [
        (PULSE, OTHER, 0),
        (PULSE, OTHER, HA_LINK),
    ]
    assert not question.answered()


@pytest.mark.parametrize("way", WAYS)
def test_its_answer_on_any_link_will_do(
    auxiliary: Plane, question: Question, wires: dict[str, socket.socket], way: str
) -> None:
    program, carried, link, _, _ = WAYS[way]
    (raw,) = frames(wires["h1" if way == "ha" else "d1"])
    asked_for = decode(raw)
    answer = asked(link, kind=ANSWER, sequence=asked_for.sequence, sent_ns=asked_for.sent_ns)
    assert auxiliary.run(program, carried(answer)).why == {"PULSE_HEARD": 1}
    assert question.answered()


def test_each_question_is_asked_anew(auxiliary: Plane, wires: dict[str, socket.socket]) -> None:
    """The answer to the one before says nothing; and no number that was used before a reboot is used again, since the
    primary's own numbers have risen meanwhile."""
    sequences = []
    for heard in (7, 7, 8):
        auxiliary.run("echo", on_ha(asked(HA_LINK, sequence=heard)))
        made = ask(auxiliary)
        (raw,) = frames(wires["h1"])
        sequences.append(decode(raw).sequence)
        assert not made.answered()
        made.close()
        late = asked(HA_LINK, kind=ANSWER, sequence=sequences[-1])
        assert auxiliary.run("echo", on_ha(late)).why == {"PULSE_OLD": 1}
        left = row(auxiliary, OTHER, HA_LINK)
        assert (left.sent, left.rtt_ns) == (left.answered, 0)
    assert sequences == [(7 << 16) + 1, (7 << 16) + 2, (8 << 16) + 1]


def test_an_auxiliary_asks_nobody_else(auxiliary: Plane, prober: Prober, wires: dict[str, socket.socket]) -> None:
    prober.send(frozenset({THIRD}))
    assert frames(wires["h1"]) == frames(wires["d1"]) == []


@pytest.mark.parametrize("way", ["ha", "data"])
def test_the_primary_answers_its_nodes(plane: Plane, way: str) -> None:
    program, link, to, source = BACK[way]
    ran = plane.run(program, asked(link).packet(to, source))
    assert (ran.verdict, ran.why) == (TC_REDIRECT, {"PULSE_ANSWERED": 1})
    assert (ran.packet.dst, ran.packet.src, ran.packet.type) == (source, to, ETHERTYPE)
    assert decode(ran.raw) == Frame(ANSWER, 7, link, SELF, OTHER, sent_ns=1234)
    assert plane.run(program, asked(link).packet(to, source)).why == {"PULSE_OLD": 1}


def test_what_is_no_pulse_passes(plane: Plane) -> None:
    """And what the relay leaves alone on the HA link gets to `echo`."""
    other = Ether(dst=HA_MAC) / IP()
    for program in ("arp_serve", "arp_take"):
        assert plane.run(program, other).verdict == UNSPEC
        assert plane.run(program, on_ha(asked(HA_LINK))).verdict == UNSPEC
        assert plane.run(program, Ether(dst=HA_MAC) / ARP()).verdict == TC_OK
    ran = plane.run("echo", other)
    assert (ran.verdict, ran.why) == (TC_OK, {"PULSE_OTHER": 1})


# The primary notes.

BACK: dict[str, tuple[str, int, str, str]] = {
    "ha": ("echo", HA_LINK, HA_MAC, node_ha_mac(OTHER)),
    "data": ("admit", 0, VIRTUAL, node_mac(OTHER)),
}


@pytest.mark.parametrize("way", BACK)
def test_an_answer_is_noted_with_its_time(plane: Plane, prober: Prober, way: str) -> None:
    program, link, to, source = BACK[way]
    prober.send(ONE)
    sent = row(plane, OTHER, link)
    ran = plane.run(program, Frame(link=link, sent_ns=sent.sent_ns).packet(to, source))
    assert (ran.verdict, ran.why) == (TC_SHOT, {"PULSE_HEARD": 1})
    noted = row(plane, OTHER, link)
    assert (noted.sent, noted.answered) == (1, 1)
    assert noted.answered_ns > noted.sent_ns
    assert noted.rtt_ns == noted.answered_ns - noted.sent_ns


@pytest.mark.parametrize("way", BACK)
def test_an_answer_counts_once_and_only_to_a_pulse(plane: Plane, prober: Prober, way: str) -> None:
    program, link, to, source = BACK[way]
    assert plane.run(program, Frame(link=link).packet(to, source)).why == {"PULSE_OLD": 1}
    for _ in range(3):
        prober.send(ONE)
    for sequence, why in ((2, "PULSE_HEARD"), (2, "PULSE_OLD"), (1, "PULSE_OLD"), (4, "PULSE_OLD"), (3, "PULSE_HEARD")):
        assert plane.run(program, Frame(link=link, sequence=sequence).packet(to, source)).why == {why: 1}


@pytest.mark.parametrize("way", BACK)
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"generation": 2}, "PULSE_GENERATION"),
        ({"target": THIRD}, "PULSE_STRANGER"),
        ({"sender": SELF}, "PULSE_STRANGER"),
        ({"link": 1}, "PULSE_STRANGER"),
        ({"cluster_id": 1}, "PULSE_MALFORMED"),
    ],
)
def test_no_other_answer_is_noted(plane: Plane, prober: Prober, way: str, changes: dict[str, int], why: str) -> None:
    program, link, to, source = BACK[way]
    prober.send(ONE)
    values: dict[str, int] = {"link": link} | changes
    ran = plane.run(program, Frame(**values).packet(to, source))
    assert (ran.verdict, ran.why) == (TC_SHOT, {why: 1})
    assert row(plane, OTHER, link).answered == 0
    ran = plane.run(program, Frame(link=link).packet(to, source, WRONG_KEY))
    assert (ran.verdict, ran.why) == (TC_SHOT, {"PULSE_TAG": 1})
    assert row(plane, OTHER, link).answered == 0


def test_a_run_takes_little(plane: Plane, prober: Prober) -> None:
    nodes = frozenset(set(range(1, 64)) - {SELF})
    context = pulses.context_for(nodes)
    ran = syscall.run_program(plane.fds["pulse"], bytes(12) + b"\x88\xb6" + bytes(56), len(nodes), context)
    print(f"two pulses made and sent: {ran.duration_ns} ns")
    assert ran.duration_ns < 100_000
