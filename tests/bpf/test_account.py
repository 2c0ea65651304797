# SPDX-License-Identifier: GPL-2.0-or-later
"""Packets and bytes per flow and direction, against a ledger kept in Python."""

from __future__ import annotations

import os
import random
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import numpy as np
import pytest
from scapy.layers.inet import IP, UDP
from scapy.packet import Packet

from aa_cluster.dataplane import accounts, flows, syscall
from aa_cluster.dataplane.flows import DEAD, ESTABLISHED, EXACT, RECORD_SHIFT, SETTLED
from aa_cluster.wire.block import FlowTuple
from tests.bpf.announcements import announced, plain, with_block
from tests.bpf.harness import (
    CLIENT,
    OTHER,
    PUBLIC,
    SELF,
    SERVER,
    THIRD,
    XDP_TX,
    Plane,
    entry,
    reversed_tuple,
    segment,
    tuple_of,
)
from tests.bpf.packets import OPTIONS, TAGS, carried, error, frame, pieces, tagged, with_options
from tests.bpf.test_handoff import hand_off, leaving, nat

pytestmark = pytest.mark.bpf

ORIGINAL, REPLY = tuple_of(CLIENT, 40000, SERVER, 80), tuple_of(SERVER, 80, PUBLIC, 50000)
WAYS = pytest.mark.parametrize("way", [0, 1], ids=["original", "reply"])
Account = tuple[tuple[int, int], tuple[int, int]]
NOTHING: Account = ((0, 0), (0, 0))


@pytest.fixture
def counting(plane: Plane) -> Plane:
    plane.configure(features=accounts.FEATURE)
    return plane


def account(plane: Plane, index: int) -> Account:
    """((packets, bytes) of the original direction, of the reply direction)."""
    row = plane.maps["accounts"].view()[index]
    first, second = ((int(row["packets"][way]), int(row["octets"][way])) for way in (0, 1))
    return first, second


def only(way: int, frames: list[Packet]) -> Account:
    """What these frames make, all of one direction."""
    told = len(frames), sum(one[IP].len for one in frames)
    return ((0, 0), told) if way else (told, (0, 0))


def both(port: int, owner: int) -> tuple[FlowTuple, FlowTuple, int]:
    return tuple_of(CLIENT, port, SERVER, 80), tuple_of(SERVER, 80, PUBLIC, port + 10000), owner


# -- steer


@pytest.mark.parametrize("owner", [OTHER, SELF, 9], ids=["an auxiliary's", "this node's", "of a node that is gone"])
@WAYS
def test_every_segment_of_a_known_flow(counting: Plane, owner: int, way: int) -> None:
    index = counting.add_flow(ORIGINAL, REPLY, owner, ESTABLISHED)
    frames = [
        segment((ORIGINAL, REPLY)[way], flags, b"x" * size) for flags in ("A", "PA", "FA") for size in (0, 1, 900)
    ]
    for one in frames:
        counting.run("steer", one)
    assert account(counting, index) == only(way, frames)


def test_padding_of_short_frames_is_no_traffic(counting: Plane) -> None:
    index = counting.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    counting.run("steer", bytes(segment(ORIGINAL, "A")).ljust(60, b"\0"))
    assert account(counting, index) == ((1, 40), (0, 0))


@WAYS
@pytest.mark.parametrize("tags", [(), *TAGS.values()], ids=["untagged", *TAGS])
def test_tags_options_and_pieces(counting: Plane, tags: tuple[Packet, ...], way: int) -> None:
    index = counting.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    which = (ORIGINAL, REPLY)[way]
    plain = [segment(which, "A", b"data"), *(with_options(which, "A", each, b"d") for each in OPTIONS.values())]
    frames = [tagged(one, tags) for one in [*plain, *pieces(which), *pieces(which, (64, 30), ident=9)]]
    for one in frames:
        counting.run("steer", one)
    assert account(counting, index) == only(way, frames)


def test_this_nodes_pieces(counting: Plane) -> None:
    index = counting.add_flow(ORIGINAL, REPLY, SELF, ESTABLISHED)
    for one in pieces(REPLY):
        counting.run("steer", one)
    assert account(counting, index) == only(1, pieces(REPLY))


def test_pieces_that_overtake_their_first_are_nobodys(counting: Plane) -> None:
    index = counting.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    first, second, third = pieces(ORIGINAL)
    for one in (third, first, second):
        counting.run("steer", one)
    assert account(counting, index) == only(0, [first])


def test_what_is_remembered_of_a_piece_does_not_outlive_its_flow(counting: Plane) -> None:
    index = counting.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    first, later, _ = pieces(ORIGINAL)
    counting.run("steer", first)
    counting.maps["records"].view()["created_ns"][index] = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + 10**9
    assert counting.run("steer", later).why == {"STEER_FRAGMENT_LATER": 1}
    assert account(counting, index) == only(0, [first])


NOT_COUNTED = {
    "an ICMP error about it": error(carried(reversed_tuple(REPLY))),
    "a SYN, which handoff counts": segment(ORIGINAL, "S"),
    "a SYN with options": with_options(ORIGINAL, "S", b"\x01" * 8),
    "another flow": segment(tuple_of(CLIENT, 1, SERVER, 80), "A"),
    "UDP of the same ports": frame(IP(src=CLIENT, dst=SERVER) / UDP(sport=40000, dport=80)),
}


@pytest.mark.parametrize("name", NOT_COUNTED)
def test_what_is_not_the_flows(counting: Plane, name: str) -> None:
    counting.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    counting.run("steer", NOT_COUNTED[name])
    assert not counting.maps["accounts"].view()["packets"].any()


def test_another_session_of_that_fingerprint(counting: Plane) -> None:
    index = counting.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    stranger = tuple_of("10.77.1.7", 7, SERVER, 80)
    counting.put_entry(stranger, index, OTHER, SETTLED | EXACT)
    assert counting.run("steer", segment(stranger, "A")).why == {"STEER_COLLISION": 1}
    assert account(counting, index) == NOTHING


def test_the_answer_to_a_syn_and_the_end(counting: Plane) -> None:
    index = counting.add_flow(ORIGINAL, REPLY, OTHER, flows.SYN_SENT)
    told = [(REPLY, "SA"), (ORIGINAL, "A"), (ORIGINAL, "FA"), (REPLY, "FA"), (ORIGINAL, "A"), (REPLY, "R")]
    for which, flags in told:
        counting.run("steer", segment(which, flags))
    assert account(counting, index) == ((3, 120), (3, 120))


# -- handoff


@pytest.mark.parametrize("kind", ["none", "masquerade", "dnat and snat"])
@pytest.mark.parametrize("owner", [OTHER, SELF])
def test_the_syn_is_the_first_packet_and_so_is_each_repetition(counting: Plane, kind: str, owner: int) -> None:
    counting.schedule(owner)
    original, reply = nat(kind)
    entry(original, reply)
    for times in (1, 2, 3):
        counting.run("handoff", leaving(reply, options=[("MSS", 1460)]))
        assert account(counting, number(counting, original)) == ((times, 44 * times), (0, 0))


def test_a_syn_with_options_and_data(counting: Plane) -> None:
    original, reply = nat("masquerade")
    entry(original, reply)
    syn = with_options(reversed_tuple(reply), "S", b"\x94\x04\0\0", b"early data")
    counting.run("handoff", syn)
    assert account(counting, number(counting, original)) == only(0, [syn])


def number(plane: Plane, which: FlowTuple) -> int:
    return plane.word(which) >> RECORD_SHIFT & flows.RECORD_MASK


def test_a_number_given_out_again_begins_at_nothing(counting: Plane) -> None:
    index = counting.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    for which in (ORIGINAL, REPLY):
        counting.run("steer", segment(which, "A", b"x" * 500))
    record = counting.maps["records"].view()[index]
    counting.maps["buckets"].view()["word"][:] = 0
    record["state"], record["seen_ns"] = DEAD, 0
    counting.sweep()
    original, _ = nat("masquerade", 41000)
    hand_off(counting, "masquerade", 41000)
    assert number(counting, original) == index
    assert account(counting, index) == ((1, 40), (0, 0))


# -- admit


def test_an_announced_session(counting: Plane) -> None:
    """Begun by an auxiliary: what it sends through the primary, and all answers; on a number that was used before."""
    session, carrier = tuple_of(PUBLIC, 40000, SERVER, 80), tuple_of(PUBLIC, 50000, SERVER, 80)
    dirty = np.array(9, "<u8")
    counting.maps["accounts"].view()["packets"][:] = counting.maps["accounts"].view()["octets"][:] = dirty
    assert counting.run("admit", with_block(carrier, announced(session))).why == {"ADMIT_NEW": 1}
    size = plain(carrier)[IP].len
    assert account(counting, number(counting, carrier)) == ((1, size), (0, 0))
    counting.run("admit", with_block(carrier, announced(session)))
    counting.run("steer", segment(reversed_tuple(carrier), "SA"))
    counting.run("admit", with_block(carrier, announced(session), "FA", b"last"))
    assert account(counting, number(counting, carrier)) == (
        (3, 2 * size + plain(carrier, "FA", b"last")[IP].len),
        (1, 40),
    )


def test_an_announced_query_and_its_answers(counting: Plane) -> None:
    query = FlowTuple(IPv4Address(PUBLIC), IPv4Address(SERVER), 40000, 53, 17)
    counting.run("admit", with_block(query, announced(query), "", b"name?"))
    answer = frame(IP(src=SERVER, dst=PUBLIC) / UDP(sport=53, dport=40000) / b"an address")
    for one in (answer, tagged(answer, TAGS["802.1Q"])):
        assert counting.run("steer", one).verdict == XDP_TX
    assert account(counting, number(counting, query)) == ((1, 33), (2, 76))


# -- off


def test_off_nothing_is_written(plane: Plane) -> None:
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    mark = np.array(0x5A5A, "<u8")
    plane.maps["accounts"].view()["packets"][:] = plane.maps["accounts"].view()["octets"][:] = mark
    hand_off(plane, "masquerade", 41000)
    plane.run("handoff", leaving(nat("masquerade", 41000)[1]))
    for one in [segment(ORIGINAL, "A"), tagged(segment(REPLY, "FA"), TAGS["802.1Q"]), *pieces(ORIGINAL)]:
        plane.run("steer", one)
    assert (plane.maps["accounts"].view()["packets"] == mark).all()
    assert (plane.maps["accounts"].view()["octets"] == mark).all()


# -- all together


@dataclass
class Ledger:
    """The oracle: what the frames themselves say. ``known``: tuple → (record number, direction)."""

    known: dict[FlowTuple, tuple[int, int]] = field(default_factory=dict)
    sums: dict[tuple[int, int], list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))

    def take(self, which: FlowTuple, frames: list[Packet]) -> None:
        for one in frames if which in self.known else ():
            line = self.sums[self.known[which]]
            line[0] += 1
            line[1] += one[IP].len


def made(dice: random.Random, which: FlowTuple, ident: int) -> list[Packet]:
    """A frame or more of that tuple, of any kind that is counted."""
    tags = dice.choice([(), (), *TAGS.values()])
    data = b"x" * dice.randrange(0, 1200)
    kind = dice.randrange(3)
    if kind == 0:
        return [tagged(segment(which, "A", data), tags)]
    if kind == 1:
        return [tagged(with_options(which, "PA", dice.choice(list(OPTIONS.values())), data), tags)]
    sizes = (*(8 * dice.randint(3, 60) for _ in range(dice.randint(1, 4))), dice.randint(20, 90))
    return [tagged(one, tags) for one in pieces(which, sizes, ident=ident)]


def test_a_mix_of_flows_agrees_with_the_ledger(counting: Plane) -> None:
    dice, ledger = random.Random(21), Ledger()
    table = [both(40000 + number, owner) for number, owner in enumerate([OTHER, SELF, THIRD] * 5)]
    for original, reply, owner in table:
        index = counting.add_flow(original, reply, owner, ESTABLISHED)
        ledger.known |= {original: (index, 0), reply: (index, 1)}
    strangers = [tuple_of(CLIENT, port, SERVER, 80) for port in (1, 2)]
    for ident in range(1, 1500):
        which = dice.choice([*ledger.known, *strangers])
        frames = made(dice, which, ident)
        for one in frames:
            counting.run("steer", one)
        ledger.take(which, frames)
        if ident % 50 == 0:
            counting.run("steer", error(carried(reversed_tuple(which))))
    rows = flows.rows(counting.maps["records"], counting.maps["watermark"], counting.maps["accounts"])
    assert len(rows) == len(table)
    for (original, _, _), row in zip(table, rows, strict=True):
        index = ledger.known[original][0]
        assert [int(row["packets"]), int(row["octets"])] == ledger.sums[index, 0]
        assert [int(row["reply_packets"]), int(row["reply_octets"])] == ledger.sums[index, 1]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU")
def test_packets_of_one_flow_on_two_cpus_are_all_counted(counting: Plane) -> None:
    index = counting.add_flow(ORIGINAL, REPLY, SELF, ESTABLISHED)
    raw, repeat = bytes(segment(ORIGINAL, "A")), 300_000

    def feed(cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})
        syscall.run_program(counting.fds["steer"], raw, repeat)

    cpus = sorted(os.sched_getaffinity(0))[:2]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(feed, cpus))
    assert account(counting, index) == ((2 * repeat, 2 * repeat * 40), (0, 0))


# -- as user space sums it up


def test_what_each_owner_carried_since(counting: Plane) -> None:
    maps = counting.maps["records"], counting.maps["watermark"], counting.maps["accounts"]
    first, second = (counting.add_flow(*both(port, owner), ESTABLISHED) for port, owner in ((1, OTHER), (2, SELF)))
    counting.run("steer", segment(both(1, OTHER)[0], "A"))
    before = accounts.look(*maps)
    for port in (1, 1, 2):
        counting.run("steer", segment(both(port, OTHER)[1], "A"))
    third = counting.add_flow(*both(3, THIRD), ESTABLISHED)
    counting.run("steer", segment(both(3, THIRD)[0], "A", b"x" * 60))
    assert accounts.since(before, *maps) == {OTHER: (2, 80), SELF: (1, 40), THIRD: (1, 100)}
    table = counting.maps["records"].view()
    table["state"][second] = DEAD  # it went, but its number was not given out again
    table["created_ns"][first] += 1  # its number was
    assert accounts.since(before, *maps) == {OTHER: (3, 120), SELF: (1, 40), THIRD: (1, 100)}
    assert third == second + 1
