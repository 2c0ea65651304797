# SPDX-License-Identifier: GPL-2.0-or-later
"""Neighbour discovery for IPv6 (RFC 4861) as frames: what a segment is told, and what its hosts say of themselves.

::

    | Ethernet 14 | IPv6 40 | type 1 | code 1 | checksum 2 | flags 4 | target 16 | options, 8 bytes each … |
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator

ETH_P_IPV6 = 0x86DD
ICMPV6 = 58
SOLICITATION, ADVERTISEMENT = 135, 136
ROUTER, OVERRIDE = 0x80000000, 0x20000000
SOURCE_MAC, TARGET_MAC = 1, 2
"""Options."""
HOPS = 255
"""A frame with fewer has come through a router, and is no neighbour's."""
ALL_NODES = ipaddress.IPv6Address("ff02::1")
SOLICITED_NODE = ipaddress.IPv6Address("ff02::1:ff00:0")
"""The group of all addresses that end alike: their last three bytes are its own."""
HEAD = struct.Struct("!6s6sH IHBB16s16s BBHI16s")
IP_END, TARGET_END = 54, HEAD.size
TYPE_AT = 54
LONGEST = 512
"""Bytes of a frame that are read; options of neighbour discovery are short."""
NEIGHBOUR_FILTER = (
    (0x30, 0, 0, 20),
    (0x15, 0, 4, ICMPV6),
    (0x30, 0, 0, TYPE_AT),
    (0x15, 1, 0, SOLICITATION),
    (0x15, 0, 1, ADVERTISEMENT),
    (6, 0, 0, LONGEST),
    (6, 0, 0, 0),
)
"""Classic BPF (struct sock_filter: code, jt, jf, k) for a packet socket of IPv6: only these two come through."""


def advertisement(mac: bytes, address: ipaddress.IPv6Address) -> bytes:
    """The frame that tells all nodes of a segment that ``mac`` has ``address`` now (RFC 4861, 7.2.6).

    It says "router", too: the cluster forwards, and who hears that a router is none any more drops its routes (7.2.5).
    """
    option = struct.pack("!BB6s", TARGET_MAC, 1, mac)
    body = struct.pack("!BBHI16s", ADVERTISEMENT, 0, 0, ROUTER | OVERRIDE, address.packed) + option
    return _frame(mac, address.packed, ALL_NODES, body)


def _frame(mac: bytes, source: bytes, group: ipaddress.IPv6Address, body: bytes) -> bytes:
    """``body``: the ICMPv6 message, its checksum zero."""
    head = struct.pack("!6s6sH", group_mac(group), mac, ETH_P_IPV6)
    ip = struct.pack("!IHBB16s16s", 6 << 28, len(body), ICMPV6, HOPS, source, group.packed)
    return head + ip + body[:2] + struct.pack("!H", checksum(source, group.packed, body)) + body[4:]


def probe(mac: bytes, address: ipaddress.IPv6Address) -> bytes:
    """The frame that asks whether ``address`` is there, from ``::``: it says nothing about who asks."""
    nobody = bytes(16)
    group = ipaddress.IPv6Address(SOLICITED_NODE.packed[:13] + address.packed[13:])
    return _frame(mac, nobody, group, struct.pack("!BBHI16s", SOLICITATION, 0, 0, 0, address.packed))


def group_mac(group: ipaddress.IPv6Address) -> bytes:
    """Where a multicast goes on Ethernet (RFC 2464, 7)."""
    return b"\x33\x33" + group.packed[12:]


def checksum(source: bytes, destination: bytes, body: bytes) -> int:
    """ICMPv6's, over the pseudo-header and ``body`` (RFC 8200, 8.1); 0 for a body whose own checksum is right."""
    data = source + destination + struct.pack("!II", len(body), ICMPV6) + body
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def sender(frame: bytes) -> tuple[str, bytes] | None:
    """(address, MAC) that a solicitation says its sender has, or an advertisement its target; ``None`` for nothing.

    Nothing: duplicate address detection (source ``::``), an advertisement that is not to replace what is known, a
    frame whose own source is another MAC, from behind a router, cut short, or with a wrong checksum.
    """
    if len(frame) < HEAD.size:
        return None
    _, mac, ethertype, _, length, following, hops, source, destination, kind, code, _, flags, target = HEAD.unpack_from(
        frame
    )
    if (ethertype, following, hops, code) != (ETH_P_IPV6, ICMPV6, HOPS, 0) or len(frame) < IP_END + length:
        return None
    body = frame[IP_END : IP_END + length]
    if length < TARGET_END - IP_END or checksum(source, destination, body):
        return None
    if kind == SOLICITATION:
        said, option = source, SOURCE_MAC
    elif kind == ADVERTISEMENT and flags & OVERRIDE:
        said, option = target, TARGET_MAC
    else:
        return None
    address = ipaddress.IPv6Address(said)
    if not is_host(address) or mac[0] & 1 or not any(mac):
        return None
    return (str(address), mac) if (option, mac) in _options(body[TARGET_END - IP_END :]) else None


def is_host(address: ipaddress.IPv6Address) -> bool:
    """One that an interface on a segment can have."""
    return not (address.is_unspecified or address.is_multicast or address.is_loopback or address.ipv4_mapped)


def _options(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, the six bytes behind it) of each, up to the first that is cut short."""
    at = 0
    while at + 8 <= len(data) and data[at + 1]:
        yield data[at], data[at + 2 : at + 8]
        at += 8 * data[at + 1]
