# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames that are not plain segments: ICMP errors, fragments, tags, options."""

from __future__ import annotations

from itertools import pairwise

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from aa_cluster.wire.block import FlowTuple
from tests.bpf.harness import CLIENT_MAC, PHYSICAL, VIRTUAL, segment

ROUTER = "10.77.9.9"
ERRORS = tuple(
    (kind, code) for kind, codes in ((3, range(16)), (4, range(1)), (11, range(2)), (12, range(3))) for code in codes
)
"""Every type and code of ICMP error that RFC 792, 1122 and 1812 name."""

OTHER_ICMP = (0, 5, 8, 9, 10, 13, 14, 15, 16, 17, 18, 40)

TAGS = {
    "802.1Q": (Dot1Q(vlan=5),),
    "802.1Q, priority only": (Dot1Q(vlan=0, prio=3),),
    "802.1ad": (Dot1AD(vlan=7),),
    "802.1ad over 802.1Q": (Dot1AD(vlan=7), Dot1Q(vlan=5)),
    "802.1Q twice": (Dot1Q(vlan=7), Dot1Q(vlan=5)),
}

OPTIONS = {
    "router alert": b"\x94\x04\0\0",
    "NOPs": b"\x01" * 8,
    "NOPs, odd end": b"\x01\x01\x01\0",
    "CIPSO": b"\x86\x0c" + b"\0\0\0\1\5\6\0\1\0\2",
    "an experiment, 40 bytes": b"\x5e\x28" + b"e" * 38,
    "alert behind NOPs, 40 bytes": b"\x01" * 36 + b"\x94\x04\0\0",
}
"""Those that a router leaves as they are."""

WRITTEN = {
    "record route": b"\x07\x07\x04\0\0\0\0\0",
    "record route, 40 bytes": b"\x07\x27\x04" + b"\0" * 36 + b"\0",
    "timestamp": b"\x44\x08\x05\0\0\0\0\0",
    "loose source route": b"\x83\x07\x04\x0a\x4d\x02\x64\0",
    "strict source route": b"\x89\x07\x04\x0a\x4d\x02\x64\0",
    "record route behind NOPs": b"\x01" * 32 + b"\x07\x07\x04\0\0\0\0\0",
    "record route behind an alert": b"\x94\x04\0\0\x07\x07\x04\0\0\0\0\0",
    "an option of length 0": b"\x94\0\0\0",
    "an option beyond the header": b"\x94\x09\0\0",
}
"""Those that a router writes into, and those nobody can read."""


def frame(inner: Packet, tags: tuple[Packet, ...] = (), dst: str = VIRTUAL, src: str = CLIENT_MAC) -> Packet:
    out: Packet = Ether(src=src, dst=dst)
    for tag in tags:
        out = out / tag.copy()
    return Ether(bytes(out / inner.copy()))


def tagged(whole: Packet, tags: tuple[Packet, ...]) -> Packet:
    """The same frame inside tags."""
    return frame(whole.payload, tags, whole.dst, whole.src)


def steered(packet: Packet, tags: tuple[Packet, ...] = ()) -> Packet:
    """The same as an auxiliary gets it from the primary."""
    return frame(packet[IP], tags, PHYSICAL, VIRTUAL)


def with_options(which: FlowTuple, flags: str, options: bytes, payload: bytes = b"", **fields: object) -> Packet:
    """A whole segment with IPv4 options, checksums right."""
    ttl = int(str(fields.pop("ttl", 64)))
    header = IP(src=str(which.source), dst=str(which.destination), ttl=ttl, flags="DF", options=[Raw(options)])
    inner = TCP(sport=which.source_port, dport=which.destination_port, flags=flags, seq=1000, **fields)
    return frame(header / inner / payload)


def carried(which: FlowTuple, protocol: int = 6, keep: int = 8, options: bytes = b"", **fields: object) -> bytes:
    """What an ICMP error carries of a packet of that tuple: its header, and ``keep`` bytes behind it."""
    ports = {"sport": which.source_port, "dport": which.destination_port}
    inner: Packet = TCP(flags="A", seq=77, **ports) if protocol == 6 else UDP(len=500, **ports)
    header = IP(src=str(which.source), dst=str(which.destination), ttl=1, len=1500, proto=protocol, **fields)
    if options:
        header.options = [Raw(options)]
    raw = bytes(header / inner)
    return raw[: 20 + len(options) + keep]


def error(
    about: bytes,
    kind: int = 3,
    code: int = 4,
    to: str = "10.77.2.1",
    options: bytes = b"",
    tags: tuple[Packet, ...] = (),
) -> Packet:
    """An ICMP error as it comes in for the virtual MAC."""
    header = IP(src=ROUTER, dst=to)
    if options:
        header.options = [Raw(options)]
    return frame(header / ICMP(type=kind, code=code) / Raw(about), tags)


def pieces(
    which: FlowTuple, sizes: tuple[int, ...] = (512, 512, 400), flags: str = "A", ident: int = 4711
) -> list[Packet]:
    """A segment in fragments of so many bytes behind the IP header, as they come in for the virtual MAC."""
    whole = segment(which, flags, b"f" * (sum(sizes) - 20))[IP]
    whole.flags, whole.id = 0, ident
    body = bytes(whole.payload)
    edges = [sum(sizes[:count]) for count in range(len(sizes) + 1)]
    out = []
    for start, end in pairwise(edges):
        part = IP(
            src=whole.src, dst=whole.dst, id=ident, proto=6, frag=start // 8, flags="MF" if end < edges[-1] else 0
        )
        out.append(frame(part / Raw(body[start:end])))
    return out
