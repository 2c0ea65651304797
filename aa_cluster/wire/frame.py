# SPDX-License-Identifier: GPL-2.0-or-later
"""An Ethernet frame that begins a session, with a handoff block at its tail, read (RFC 791, 8200, 9293, 768)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from aa_cluster.errors import WireError
from aa_cluster.wire.block import LENGTH, Address, FlowTuple

ETHERNET = 14
_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD
_TCP, _UDP = 6, 17
_IPV6_HEADER = 40
_HEADER = {_TCP: 20, _UDP: 8}
"""The shortest header of each protocol, bytes."""
_CHECKSUM_AT = {_TCP: 16, _UDP: 6}


@dataclass(frozen=True, slots=True)
class Syn:
    """``block``: the last bytes of the IP packet, not yet decoded; ``sequence``: of TCP, 0 of a datagram."""

    flow: FlowTuple
    sequence: int
    block: bytes


@dataclass(frozen=True, slots=True)
class _Borders:
    """Where the transport header and what is behind the IP packet begin; the addresses as they stand there."""

    protocol: int
    source: Address
    destination: Address
    transport: int
    end: int


def parse(frame: bytes) -> Syn:
    """TCP or UDP over IPv4 or IPv6 (without extension headers), whole; else ``WireError``."""
    found = _borders(frame)
    source_port, destination_port = struct.unpack_from("!HH", frame, found.transport)
    sequence = struct.unpack_from("!I", frame, found.transport + 4)[0] if found.protocol == _TCP else 0
    flow = FlowTuple(found.source, found.destination, source_port, destination_port, found.protocol)
    return Syn(flow, sequence, frame[found.end - LENGTH : found.end])


def with_whole_checksum(frame: bytes) -> bytes:
    """The frame with its TCP or UDP checksum complete.

    A sender on this machine may have left that to the device: then the field holds the sum of the pseudo-header alone,
    and nobody would finish it. A checksum that is wrong stays wrong, a datagram without one is left so.
    """
    found = _borders(frame)
    at = found.transport + _CHECKSUM_AT[found.protocol]
    length = struct.pack("!IHH", found.end - found.transport, 0, found.protocol)
    pseudo = _sum(found.source.packed + found.destination.packed + length)
    body = frame[found.transport : found.end]
    given = struct.unpack_from("!H", frame, at)[0]
    if given != pseudo or _fold(pseudo + _sum(body)) == 0xFFFF:
        return frame
    whole = bytearray(frame)
    sum_ = 0xFFFF ^ _sum(body)  # the field is in the sum
    struct.pack_into("!H", whole, at, 0xFFFF if found.protocol == _UDP and not sum_ else sum_)
    return bytes(whole)


def _borders(frame: bytes) -> _Borders:
    kind = struct.unpack_from("!H", frame, 12)[0] if len(frame) >= ETHERNET else 0
    if kind == _ETH_P_IP and len(frame) >= ETHERNET + 20 and frame[ETHERNET] >> 4 == 4:
        found = _ipv4(frame)
    elif kind == _ETH_P_IPV6 and len(frame) >= ETHERNET + _IPV6_HEADER and frame[ETHERNET] >> 4 == 6:
        found = _ipv6(frame)
    else:
        raise WireError(f"a frame of {len(frame)} bytes, expected one with IPv4 or IPv6")
    least = _HEADER.get(found.protocol)
    if least is None or not found.transport + least + LENGTH <= found.end <= len(frame):
        raise WireError(
            f"a frame of {len(frame)} bytes, expected one with a TCP SYN or a datagram and a handoff block behind it"
        )
    return found


def _ipv4(frame: bytes) -> _Borders:
    source, destination = (IPv4Address(frame[ETHERNET + at : ETHERNET + at + 4]) for at in (12, 16))
    header = 4 * (frame[ETHERNET] & 0x0F)
    end = ETHERNET + int(struct.unpack_from("!H", frame, ETHERNET + 2)[0])
    return _Borders(frame[ETHERNET + 9] if header >= 20 else 0, source, destination, ETHERNET + header, end)


def _ipv6(frame: bytes) -> _Borders:
    source, destination = (IPv6Address(frame[ETHERNET + at : ETHERNET + at + 16]) for at in (8, 24))
    transport = ETHERNET + _IPV6_HEADER
    end = transport + int(struct.unpack_from("!H", frame, ETHERNET + 4)[0])
    return _Borders(frame[ETHERNET + 6], source, destination, transport, end)


def _sum(data: bytes) -> int:
    """Of 16-bit words, ones' complement (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    return _fold(sum(struct.unpack(f"!{len(padded) // 2}H", padded)))


def _fold(value: int) -> int:
    while value > 0xFFFF:
        value = (value & 0xFFFF) + (value >> 16)
    return value
