# SPDX-License-Identifier: GPL-2.0-or-later
"""100,000 mutated frames through every program: nothing adopted, nothing but PASS or a counted drop.

The mutations touch what a verdict rests on: every length, every cut, every field the tag covers, versions, options.
A field that neither the tag nor a check covers (TTL, window) is left alone: changing it makes another valid frame.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from aa_cluster.dataplane import reasons, syscall
from aa_cluster.netlink import conntrack
from aa_cluster.wire.block import FlowTuple
from tests.bpf.announcements import announced, with_block
from tests.bpf.harness import (
    CLIENT,
    CLIENT_MAC,
    HA_MAC,
    OTHER,
    PHYSICAL,
    PUBLIC,
    SERVER,
    TC_OK,
    TC_SHOT,
    VIRTUAL,
    XDP_PASS,
    Plane,
    arp,
    handed,
    loaded,
    namespace,
    node_ha_mac,
    node_mac,
    sealed,
    segment,
    skb_context,
    tuple_of,
)
from tests.bpf.ndp_frames import CLIENT6, TELLING, advertisement, answer, relayed, solicitation
from tests.bpf.packets import TAGS, carried, error, pieces, steered, tagged, with_options
from tests.bpf.pulse_frames import HA_LINK, PULSE, Frame

pytestmark = [pytest.mark.bpf, pytest.mark.slow, pytest.mark.timeout(300)]

FRAMES = int(os.environ.get("AA_FUZZ_FRAMES", "100000"))
SEED = 20061
TC_UNSPEC = 0xFFFFFFFF
ORIGINAL = tuple_of(CLIENT, 40000, SERVER, 80)
TRANSLATED = tuple_of(PUBLIC, 50000, SERVER, 80)
DATAGRAM = FlowTuple(ORIGINAL.source, ORIGINAL.destination, 40000, 53, 17)
PROGRAMS = ("adopt", "steer", "handoff", "announce", "admit", "arp_ask", "arp_serve", "arp_answer", "arp_take", "echo")

BASES = (
    bytes(handed(ORIGINAL, sealed(ORIGINAL, TRANSLATED))),
    bytes(handed(ORIGINAL, sealed(ORIGINAL, TRANSLATED), b"odd")),
    bytes(handed(ORIGINAL, sealed(ORIGINAL, TRANSLATED), b"x" * 1200)),
    bytes(segment(ORIGINAL, "S", options=[("MSS", 1460), ("WScale", 7)])),
    bytes(segment(ORIGINAL, "A", b"data")),
    bytes(steered(with_options(ORIGINAL, "S", b"\x94\x04\0\0", sealed(ORIGINAL, TRANSLATED)))),
    bytes(steered(with_options(ORIGINAL, "S", b"\x01" * 40, b"odd" + sealed(ORIGINAL, TRANSLATED)))),
    bytes(with_options(ORIGINAL, "S", b"\x01" * 33 + b"\x07\x07\x04\0\0\0\0")),
    bytes(tagged(segment(ORIGINAL, "A", b"data"), TAGS["802.1Q"])),
    bytes(tagged(handed(ORIGINAL, sealed(ORIGINAL, TRANSLATED)), TAGS["802.1ad over 802.1Q"])),
    bytes(error(carried(TRANSLATED))),
    bytes(steered(error(carried(TRANSLATED, options=b"\x01" * 8), 11, 0, options=b"\x01" * 4))),
    *(bytes(steered(piece)) for piece in pieces(ORIGINAL, (24, 40))[:1]),
    *(bytes(piece) for piece in pieces(ORIGINAL, (64, 64, 30))),
    bytes(with_block(TRANSLATED, announced(ORIGINAL))),
    bytes(with_block(TRANSLATED, announced(ORIGINAL), "FA", b"odd")),
    bytes(with_block(DATAGRAM, announced(DATAGRAM), "", b"query")),
    bytes(arp(201, (node_mac(OTHER), "10.77.1.1"), ("00:00:00:00:02:00", CLIENT), (HA_MAC, node_ha_mac(OTHER)))),
    bytes(arp(202, (CLIENT_MAC, CLIENT), (PHYSICAL, "10.77.1.1"), (HA_MAC, HA_MAC))),
    bytes(arp(2, (CLIENT_MAC, CLIENT), (VIRTUAL, "10.77.1.1"), (VIRTUAL, CLIENT_MAC))),
    bytes(solicitation()),
    bytes(solicitation(CLIENT6, to=CLIENT_MAC)),
    bytes(relayed(CLIENT6)),
    bytes(answer(CLIENT6)),
    bytes(advertisement()),
    bytes(TELLING["MLD report, version 2"]),
    bytes(TELLING["advertisement behind options"]),
    bytes(Frame(PULSE).packet(PHYSICAL, VIRTUAL)),
    bytes(Frame(PULSE, link=HA_LINK).packet(HA_MAC, node_ha_mac(OTHER))),
    bytes(Frame().packet(VIRTUAL, node_mac(OTHER))),
    bytes(Frame(link=HA_LINK).packet(HA_MAC, node_ha_mac(OTHER))),
)

ETHERTYPE = 12
IP_LENGTH, IP_FRAGMENT, IP_PROTOCOL, IP_ADDRESSES = 2, 6, 9, 12  # in their headers
TCP_PORTS, TCP_SEQUENCE, TCP_OFFSET = 0, 4, 12
BLOCK_BYTES, TAG_BYTES = 80, 8
SHORTEST = 15  # the kernel runs no program on less than an Ethernet header and a byte

SKB_SHORTEST = {b"\x08\x00": 34, b"\x86\xdd": 54}  # … and no TC program on less than the network header (EINVAL)


def ip_at(frame: bytearray) -> int:
    at = ETHERTYPE
    while frame[at : at + 2] in (b"\x81\x00", b"\x88\xa8"):
        at += 4
    return at + 2


def tcp_at(frame: bytearray) -> int:
    ip = ip_at(frame)
    return ip + (frame[ip] & 15) * 4 if ip < len(frame) else len(frame)


def cut(frame: bytearray, dice: random.Random) -> None:
    del frame[dice.randrange(SHORTEST, len(frame)) :]


def wrong_length(frame: bytearray, dice: random.Random) -> None:
    at = ip_at(frame) + IP_LENGTH
    right = int.from_bytes(frame[at : at + 2], "big")
    wrong = dice.choice([0, 1, 19, 20, 39, 40, max(right - 1, 0), 0, 0xFFFF, dice.randrange(65536)])
    frame[at : at + 2] = (wrong if wrong != right else 1).to_bytes(2, "big")


def options(frame: bytearray, dice: random.Random) -> None:
    at = ip_at(frame)
    if at < len(frame):
        others = [version << 4 | length for version in (4, 5, 6) for length in range(16)]
        frame[at] = dice.choice([value for value in others if value != frame[at]])


def is_udp(frame: bytearray) -> bool:
    at = ip_at(frame) + IP_PROTOCOL
    return len(frame) > at and frame[at] == 17


def header_length(frame: bytearray, dice: random.Random) -> None:
    """A TCP header that swallows the block, or ends before it began. UDP's has no length to lie about."""
    if is_udp(frame):
        covered_byte(frame, dice)
        return
    at = tcp_at(frame) + TCP_OFFSET
    swallows = len(frame) < at - TCP_OFFSET + 60 + BLOCK_BYTES
    if len(frame) > at:
        words = dice.choice([words for words in (0, 1, 4, 15 if swallows else 3) if words != frame[at] >> 4])
        frame[at] = (words << 4) | (frame[at] & 0x0F)


def covered_byte(frame: bytearray, dice: random.Random) -> None:
    """One byte that the tag covers or a check reads."""
    ip, tcp = ip_at(frame), tcp_at(frame)
    ranges = [
        range(ETHERTYPE, ETHERTYPE + 2),
        range(ip + IP_PROTOCOL, ip + IP_PROTOCOL + 1),
        range(ip + IP_ADDRESSES, ip + IP_ADDRESSES + 8),
        range(tcp + TCP_PORTS, tcp + TCP_PORTS + 4),
        range(tcp + TCP_SEQUENCE, tcp + TCP_SEQUENCE + (2 if is_udp(frame) else 4)),  # UDP's length
        range(max(ETHERTYPE, len(frame) - BLOCK_BYTES), len(frame)),
    ]
    place = dice.choice([at for each in ranges for at in each if at < len(frame)])
    frame[place] ^= dice.randrange(1, 256)


def tail_of_noise(frame: bytearray, dice: random.Random) -> None:
    frame[-BLOCK_BYTES:] = dice.randbytes(BLOCK_BYTES)


def wrong_tag(frame: bytearray, dice: random.Random) -> None:
    frame[-TAG_BYTES:] = dice.randbytes(TAG_BYTES)


def fragment(frame: bytearray, dice: random.Random) -> None:
    at = ip_at(frame) + IP_FRAGMENT
    frame[at : at + 2] = dice.choice([b"\x20\x00", b"\x00\x01", b"\x3f\xff", b"\x20\x10"])


def all_noise(frame: bytearray, dice: random.Random) -> None:
    frame[12:] = dice.randbytes(len(frame) - 12)


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    cut,
    wrong_length,
    options,
    header_length,
    covered_byte,
    tail_of_noise,
    wrong_tag,
    fragment,
    all_noise,
)


def frames(count: int) -> Iterator[bytes]:
    """First every base cut at every offset, then dice."""
    dice = random.Random(SEED)
    made = 0
    for base in BASES:
        for length in range(SHORTEST, len(base)):
            yield base[:length]
            made += 1
    while made < count:
        frame = bytearray(dice.choice(BASES))
        for mutate in dice.sample(MUTATIONS, dice.choice((1, 1, 1, 2, 3))):  # none twice: it might undo itself
            mutate(frame, dice)
            if len(frame) < 14 + BLOCK_BYTES:
                break
        yield bytes(frame)
        made += 1


@pytest.fixture(scope="module")
def plane(root: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with namespace(f"fuzz{os.getpid()}"), loaded(tmp_path_factory.mktemp("objects")) as plane:
        plane.reset()
        yield plane


@pytest.fixture(scope="module")
def mutants() -> list[bytes]:
    return list(frames(FRAMES))


@pytest.mark.parametrize("program", PROGRAMS)
def test_nothing_but_pass_or_a_counted_drop(plane: Plane, mutants: list[bytes], program: str) -> None:
    plane.reset()
    verdicts: Counter[int] = Counter()
    before = plane.maps["reasons"].per_cpu_sum()
    context = b"" if program == "steer" else skb_context(1, 0, 0)
    tried = 0
    for raw in mutants:
        if program != "steer" and len(raw) < SKB_SHORTEST.get(raw[ETHERTYPE : ETHERTYPE + 2], 0):
            continue
        verdicts[syscall.run_program(plane.fds[program], raw, context=context).verdict] += 1
        tried += 1
    counted = plane.maps["reasons"].per_cpu_sum() - before
    why = {reason.name: int(counted[reason.number]) for reason in reasons.all_reasons() if counted[reason.number]}
    print(f"{program}: {tried} frames, verdicts {dict(verdicts)}, reasons {why}")

    allowed = {XDP_PASS} if program == "steer" else {TC_OK, TC_SHOT}
    served = {"ASKED", "FROM_CACHE", "ON_WIRE"}  # a request with another target is still a request
    redirected = {f"{protocol}_{name}" for protocol in ("ARP", "NDP") for name in served}
    if program in ("arp_ask", "arp_serve"):
        allowed |= {7}
    if program.startswith("arp_"):
        allowed |= {TC_UNSPEC}  # the program behind it has the verdict
    assert set(verdicts) <= allowed
    done = {"ADOPT_NEW", "ADOPT_AGAIN", "HANDOFF_SENT", "STEER_TX", "ARP_TAKEN", "NDP_TAKEN", "PULSE_HEARD"}
    assert not done & set(why)
    assert verdicts[7] == sum(why.get(name, 0) for name in redirected)
    assert sum(why.values()) == tried, "every exit carries one reason"
    assert tried > 0.9 * FRAMES
    assert conntrack.dump() == []


def test_the_unmutated_frame_is_adopted(plane: Plane) -> None:
    """The negative control: the fuzz test can fail."""
    plane.reset()
    assert plane.run("adopt", BASES[0]).why == {"ADOPT_NEW": 1}
