# SPDX-License-Identifier: GPL-2.0-or-later
"""Templates for the generator and the feeder (bpf/bench/traffic.h): frames, and sums of what stays the same."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address

ETHERTYPE_IPV4, ETHERTYPE_ARP = 0x0800, 0x0806
PROTOCOL_TCP = 6
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
HEADERS = 54
"""Ethernet, IPv4 and TCP, bytes."""
SMALLEST = 60
"""An Ethernet frame without its checksum."""
BLOCK = 80
BLOCK_AT = 56
"""Where the feeder's template keeps the block: on a word's edge; it sends it at 54."""


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
    length: int = SMALLEST,
) -> Template:
    """A TCP segment, TTL 64, don't-fragment; ``length`` beyond the payload is padding inside the IP packet if it is
    more than an Ethernet frame must have. Addresses, ports and checksums are 0, for the program to fill in."""
    body = payload if length <= SMALLEST else payload.ljust(length - HEADERS, b"\0")
    total = HEADERS - 14 + len(body)
    ip = struct.pack("!BBHHHBBH8x", 0x45, 0, total, 0, 0x4000, 64, PROTOCOL_TCP, 0)
    segment = struct.pack("!HHIIBBHHH", 0, 0, sequence, acknowledged, 5 << 4, flags, 65535, 0, 0) + body
    pseudo = struct.pack("!xBH", PROTOCOL_TCP, len(segment))
    frame = to + sender + struct.pack("!H", ETHERTYPE_IPV4) + ip + segment
    return Template(
        frame.ljust(SMALLEST, b"\0"), max(length, SMALLEST), shape, words_sum(ip), words_sum(pseudo + segment)
    )


def with_block(syn: Template, block: bytes) -> Template:
    """The SYN of ``syn`` with a handoff block (whose addresses, ports and tag the feeder writes) behind it.

    The TCP checksum leaves the block out: the programs only ever adjust it.
    """
    frame = bytearray(syn.frame[:HEADERS])
    total = HEADERS - 14 + BLOCK
    struct.pack_into("!H", frame, 16, total)
    return Template(
        bytes(frame) + bytes(BLOCK_AT - HEADERS) + block,
        HEADERS + BLOCK,
        Shape.BLOCK,
        words_sum(bytes(frame[14:34])),
        syn.tcp_sum,
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
    return Template(frame.ljust(SMALLEST, b"\0"), SMALLEST, shape)


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
