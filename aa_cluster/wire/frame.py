# SPDX-License-Identifier: GPL-2.0-or-later
"""An Ethernet frame with a SYN and a handoff block at its tail (RFC 791, RFC 9293), read."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from aa_cluster.errors import WireError
from aa_cluster.wire.block import LENGTH, FlowTuple

ETHERNET = 14
_ETH_P_IP, _TCP = 0x0800, 6
_CHECKSUM_AT = 16


@dataclass(frozen=True, slots=True)
class Syn:
    """``block``: the last bytes of the IP packet, not yet decoded; ``sequence``: of TCP."""

    flow: FlowTuple
    sequence: int
    block: bytes


def parse(frame: bytes) -> Syn:
    """IPv4 and TCP, whole; else ``WireError``."""
    ip, tcp, end = _borders(frame)
    source_port, destination_port, sequence = struct.unpack_from("!HHI", frame, tcp)
    source, destination = IPv4Address(frame[ip + 12 : ip + 16]), IPv4Address(frame[ip + 16 : ip + 20])
    flow = FlowTuple(source, destination, source_port, destination_port, _TCP)
    return Syn(flow, sequence, frame[end - LENGTH : end])


def with_whole_checksum(frame: bytes) -> bytes:
    """The frame with its TCP checksum complete.

    A sender on this machine may have left that to the device: then the field holds the sum of the pseudo-header alone,
    and nobody would finish it. A checksum that is wrong stays wrong.
    """
    ip, tcp, end = _borders(frame)
    pseudo = _sum(frame[ip + 12 : ip + 20] + struct.pack("!HH", _TCP, end - tcp))
    found = struct.unpack_from("!H", frame, tcp + _CHECKSUM_AT)[0]
    if found != pseudo or _fold(pseudo + _sum(frame[tcp:end])) == 0xFFFF:
        return frame
    whole = bytearray(frame)
    struct.pack_into("!H", whole, tcp + _CHECKSUM_AT, 0xFFFF ^ _sum(frame[tcp:end]))  # the field is in the sum
    return bytes(whole)


def _borders(frame: bytes) -> tuple[int, int, int]:
    """Where the IP header, the TCP header and what is behind the IP packet begin."""
    if len(frame) < ETHERNET + 20 or struct.unpack_from("!H", frame, 12)[0] != _ETH_P_IP or frame[ETHERNET] >> 4 != 4:
        raise WireError(f"a frame of {len(frame)} bytes, expected one with IPv4")
    tcp = ETHERNET + 4 * (frame[ETHERNET] & 0x0F)
    end = ETHERNET + int(struct.unpack_from("!H", frame, ETHERNET + 2)[0])
    if tcp < ETHERNET + 20 or frame[ETHERNET + 9] != _TCP or not tcp + 20 + LENGTH <= end <= len(frame):
        raise WireError(f"a frame of {len(frame)} bytes, expected one with a TCP SYN and a handoff block behind it")
    return ETHERNET, tcp, end


def _sum(data: bytes) -> int:
    """Of 16-bit words, ones' complement (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    return _fold(sum(struct.unpack(f"!{len(padded) // 2}H", padded)))


def _fold(value: int) -> int:
    while value > 0xFFFF:
        value = (value & 0xFFFF) + (value >> 16)
    return value
