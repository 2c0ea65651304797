# SPDX-License-Identifier: GPL-2.0-or-later
"""Templates for the generator and the feeder (bpf/bench/traffic.h): frames, and sums of what stays the same."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address

ETHERTYPE_IPV4, ETHERTYPE_ARP, ETHERTYPE_IPV6 = 0x0800, 0x0806, 0x86DD
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
ETHERNET = 14
BLOCK = 80
PREFIX = IPv6Address("2001:db8::").packed[:12]
"""Of every IPv6 address; the last four bytes are the IPv4 address of the same flow."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a packet is. ``smallest``: bytes of its shortest frame here, on a word's edge for IPv6."""

    family: int
    protocol: int
    smallest: int
    block_at: int
    """Where the feeder's template keeps the block: on a word's edge. It sends it right behind the headers."""

    @property
    def network(self) -> int:
        """Bytes of the IP header."""
        return 20 if self.family == 4 else 40

    @property
    def headers(self) -> int:
        """Ethernet, IP and TCP or UDP, bytes."""
        return ETHERNET + self.network + (20 if self.protocol == 6 else 8)

    def __str__(self) -> str:
        return f"{'TCP' if self.protocol == 6 else 'UDP'}/IPv{self.family}"

    def named(self, case: str) -> str:
        """The name of the case for packets of this kind; TCP over IPv4 is what the others are measured beside."""
        if self == TCP4:
            return case
        return f"{case if self.protocol == 6 else case.replace('SYN', 'datagram')}, {self}"


TCP4, UDP4 = Kind(4, 6, 60, 56), Kind(4, 17, 60, 56)
TCP6, UDP6 = Kind(6, 6, 80, 80), Kind(6, 17, 80, 80)
KINDS = (TCP4, UDP4, TCP6, UDP6)


class Shape(IntEnum):
    """Which way a flow's packet goes; ``enum bench_shape``."""

    ORIGINAL = 0
    REPLY = 1
    LEAVING = 2
    BOTH = 3
    BLOCK = 4
    ARP_TARGET = 5
    ARP_SENDER = 6


@dataclass(frozen=True, slots=True)
class Template:
    """``frame``: what does not change; ``length``: bytes on the wire; the sums as in ``struct bench_plan``."""

    frame: bytes
    length: int
    shape: Shape
    ip_sum: int = 0
    tcp_sum: int = 0
    kind: Kind = TCP4


def words_sum(data: bytes) -> int:
    """The 16-bit words as this machine reads them, added up (RFC 1071: byte order does not matter); odd data padded."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"<{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def tcp(
    to: bytes,
    sender: bytes,
    shape: Shape,
    flags: int = ACK,
    sequence: int = 1000,
    acknowledged: int = 0,
    payload: bytes = b"",
    length: int = 0,
    kind: Kind = TCP4,
) -> Template:
    """A TCP segment. ``length`` beyond the payload is padding inside the IP packet if it is more than the shortest
    frame has. Ports and checksums are 0, and of addresses the last four bytes, for the program to fill in."""
    body = _body(kind, payload, length)
    head = struct.pack("!HHIIBBHHH", 0, 0, sequence, acknowledged, 5 << 4, flags, 65535, 0, 0)
    return _frame(kind, to, sender, shape, head + body, length)


def udp(to: bytes, sender: bytes, shape: Shape, payload: bytes = b"", length: int = 0, kind: Kind = UDP4) -> Template:
    """A datagram, likewise."""
    body = _body(kind, payload, length)
    return _frame(kind, to, sender, shape, struct.pack("!HHHH", 0, 0, 8 + len(body), 0) + body, length)


def _body(kind: Kind, payload: bytes, length: int) -> bytes:
    return payload if length <= kind.smallest else payload.ljust(length - kind.headers, b"\0")


def _frame(kind: Kind, to: bytes, sender: bytes, shape: Shape, segment: bytes, length: int) -> Template:
    """TTL and hop limit 64, IPv4 with don't-fragment."""
    pseudo = struct.pack("!xBH", kind.protocol, len(segment))
    if kind.family == 4:
        ethertype, total = ETHERTYPE_IPV4, kind.network + len(segment)
        ip = struct.pack("!BBHHHBBH8x", 0x45, 0, total, 0, 0x4000, 64, kind.protocol, 0)
    else:
        ethertype, end = ETHERTYPE_IPV6, PREFIX + bytes(4)
        ip = struct.pack("!IHBB", 6 << 28, len(segment), kind.protocol, 64) + 2 * end
        pseudo += 2 * PREFIX
    frame = to + sender + struct.pack("!H", ethertype) + ip + segment
    return Template(
        frame.ljust(kind.smallest, b"\0"),
        max(length, len(frame), kind.smallest),
        shape,
        words_sum(ip) if kind.family == 4 else 0,
        words_sum(pseudo + segment),
        kind,
    )


def with_block(first: Template, block: bytes) -> Template:
    """The SYN or datagram of ``first`` with a handoff block behind it: the feeder writes its addresses, ports and tag.

    The transport checksum leaves the block out: the programs only ever adjust it.
    """
    kind = first.kind
    frame = bytearray(first.frame[: kind.headers])
    if kind.family == 4:
        struct.pack_into("!H", frame, ETHERNET + 2, kind.headers - ETHERNET + BLOCK)
    else:
        struct.pack_into("!H", frame, ETHERNET + 4, kind.headers - ETHERNET - kind.network + BLOCK)
    if kind.protocol == UDP4.protocol:
        struct.pack_into("!H", frame, ETHERNET + kind.network + 4, 8 + BLOCK)
    return Template(
        bytes(frame) + bytes(kind.block_at - kind.headers) + block,
        kind.headers + BLOCK,
        Shape.BLOCK,
        words_sum(bytes(frame[ETHERNET : ETHERNET + 20])) if kind.family == 4 else 0,
        first.tcp_sum,
        kind,
    )


def arp(
    to: bytes,
    sender: bytes,
    operation: int,
    asking: tuple[bytes, IPv4Address],
    target: tuple[bytes, IPv4Address],
    shape: Shape,
) -> Template:
    """``asking`` and ``target``: hardware and protocol address; ``shape`` tells which of the two addresses varies."""
    body = struct.pack("!HHBBH", 1, ETHERTYPE_IPV4, 6, 4, operation)
    body += asking[0] + asking[1].packed + target[0] + target[1].packed
    frame = to + sender + struct.pack("!H", ETHERTYPE_ARP) + body
    return Template(frame.ljust(TCP4.smallest, b"\0"), TCP4.smallest, shape)


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
