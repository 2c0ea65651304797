# SPDX-License-Identifier: GPL-2.0-or-later
"""Sessions of every family and protocol that is shared, and IPv6 frames that are not plain."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from aa_cluster.wire.block import FlowTuple
from tests.bpf.harness import CLIENT_MAC, PHYSICAL, UDP_PROTOCOL, VIRTUAL, reversed_tuple, segment, tuple_of

CLIENT = {4: "10.77.1.100", 6: "fd77:1::100"}
SERVER = {4: "10.77.2.100", 6: "fd77:2::100"}
PUBLIC = {4: "10.77.2.1", 6: "fd77:2::1"}
INSIDE = {4: "10.77.1.1", 6: "fd77:1::1"}
SECOND = {4: "10.77.1.101", 6: "fd77:1::101"}

SHARED = {"TCP/IPv4": (4, 6), "UDP/IPv4": (4, 17), "TCP/IPv6": (6, 6), "UDP/IPv6": (6, 17)}
"""(family, protocol) by name."""
DATAGRAMS = {name: kind for name, kind in SHARED.items() if kind[1] == UDP_PROTOCOL}


def session(kind: tuple[int, int], nat: str = "masquerade", port: int = 40000) -> tuple[FlowTuple, FlowTuple]:
    """(original, reply) as on the wire, under each kind of NAT."""
    family, protocol = kind
    client, server, public, inside = CLIENT[family], SERVER[family], PUBLIC[family], INSIDE[family]
    ends = {
        "none": (client, 80, server, 80, server, client, port),
        "masquerade": (client, 80, server, 80, server, public, port + 9),
        "dnat": (server, 8080, public, 80, client, server, port),
        "both": (client, 8080, inside, 80, SECOND[family], inside, port + 9),
    }
    source, dport, destination, reply_port, answers, asked, asked_port = ends[nat]
    original = tuple_of(source, port, destination, dport, protocol)
    return original, tuple_of(answers, reply_port, asked, asked_port, protocol)


EXTENSIONS: dict[str, tuple[Packet, ...]] = {
    "hop by hop": (IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)]),),
    "destination options, 24 bytes": (IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 20)]),),
    "routing": (IPv6ExtHdrRouting(type=4, addresses=[], segleft=0),),
    "all three": (
        IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)]),
        IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)]),
        IPv6ExtHdrRouting(type=4, addresses=[], segleft=0),
    ),
}


def extended(which: FlowTuple, flags: str, headers: tuple[Packet, ...], payload: bytes = b"", ttl: int = 64) -> Packet:
    """An IPv6 frame of that tuple with extension headers."""
    plain = segment(which, flags, payload, ttl=ttl)
    inner: Packet = IPv6(src=plain[IPv6].src, dst=plain[IPv6].dst, hlim=ttl)
    for header in headers:
        inner = inner / header.copy()
    return Ether(bytes(Ether(src=CLIENT_MAC, dst=VIRTUAL) / inner / plain[IPv6].payload))


def pieces(
    which: FlowTuple, flags: str = "A", sizes: tuple[int, ...] = (512, 512, 400), ident: int = 4711
) -> list[Packet]:
    """An IPv6 packet in fragments of so many bytes behind the fragment header."""
    whole = segment(which, flags, b"f" * (sum(sizes) - (8 if which.protocol == UDP_PROTOCOL else 20)))[IPv6]
    body = bytes(whole.payload)
    edges = [sum(sizes[:count]) for count in range(len(sizes) + 1)]
    out = []
    for start, end in pairwise(edges):
        fragment = IPv6ExtHdrFragment(nh=which.protocol, offset=start // 8, m=int(end < edges[-1]), id=ident)
        inner = IPv6(src=whole.src, dst=whole.dst) / fragment / Raw(body[start:end])
        out.append(Ether(bytes(Ether(src=CLIENT_MAC, dst=VIRTUAL) / inner)))
    return out


def carried(which: FlowTuple, headers: tuple[Packet, ...] = ()) -> bytes:
    """What an ICMPv6 error carries of a packet of that tuple."""
    frame = extended(which, "A", headers, b"c" * 600) if headers else segment(which, "A", b"c" * 600)
    return bytes(frame[IPv6])


def error(about: bytes, kind: type[Packet] = ICMPv6PacketTooBig, to: str = "fd77:2::1") -> Packet:
    header = IPv6(src="2001:db8::9", dst=to)
    return Ether(bytes(Ether(src=CLIENT_MAC, dst=VIRTUAL) / header / kind() / Raw(about)))


def echo() -> Packet:
    return Ether(bytes(Ether(src=CLIENT_MAC, dst=VIRTUAL) / IPv6(src=CLIENT[6], dst=SERVER[6]) / ICMPv6EchoRequest()))


FAMILIES = pytest.mark.parametrize("kind", SHARED.values(), ids=SHARED)
UDP_ONLY = pytest.mark.parametrize("kind", DATAGRAMS.values(), ids=DATAGRAMS)
Kind = tuple[int, int]


def leaving(reply: FlowTuple, flags: str = "S", payload: bytes = b"", **fields: object) -> Packet:
    return segment(reversed_tuple(reply), flags, payload, ttl=63, **fields)


def inward(packet: Packet) -> Packet:
    """As the primary sends it on to an auxiliary."""
    packet.src, packet.dst = VIRTUAL, PHYSICAL
    return packet


def now() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)
