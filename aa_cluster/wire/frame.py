# SPDX-License-Identifier: GPL-2.0-or-later
"""An Ethernet frame with a SYN and a handoff block at its tail (RFC 791, RFC 8200, RFC 9293), read."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import ip_address

from aa_cluster.errors import WireError
from aa_cluster.wire.block import LENGTH, FlowTuple

ETHERNET = 14
_ETH_P_IP, _ETH_P_IPV6, _TCP = 0x0800, 0x86DD, 6
_IPV6_HEADER = 40
_CHECKSUM_AT = 16


@dataclass(frozen=True, slots=True)
class Syn:
    """``block``: the last bytes of the IP packet, not yet decoded; ``sequence``: of TCP."""

    flow: FlowTuple
    sequence: int
    block: bytes


def parse(frame: bytes) -> Syn:
    """TCP over IPv4 or IPv6 (without extension headers), whole; else ``WireError``."""
    addresses, tcp, end = _borders(frame)
    source_port, destination_port, sequence = struct.unpack_from("!HHI", frame, tcp)
    both = frame[addresses]
    source, destination = ip_address(both[: len(both) // 2]), ip_address(both[len(both) // 2 :])
    flow = FlowTuple(source, destination, source_port, destination_port, _TCP)
    return Syn(flow, sequence, frame[end - LENGTH : end])


def with_whole_checksum(frame: bytes) -> bytes:
    """The frame with its TCP checksum complete.

    A sender on this machine may have left that to the device: then the field holds the sum of the pseudo-header alone,
    and nobody would finish it. A checksum that is wrong stays wrong.
    """
    addresses, tcp, end = _borders(frame)
    pseudo = _sum(frame[addresses] + struct.pack("!HH", _TCP, end - tcp))
    found = struct.unpack_from("!H", frame, tcp + _CHECKSUM_AT)[0]
    if found != pseudo or _fold(pseudo + _sum(frame[tcp:end])) == 0xFFFF:
        return frame
    whole = bytearray(frame)
    struct.pack_into("!H", whole, tcp + _CHECKSUM_AT, 0xFFFF ^ _sum(frame[tcp:end]))  # the field is in the sum
    return bytes(whole)


def _borders(frame: bytes) -> tuple[slice, int, int]:
    """Where both addresses stand, and where the TCP header and what is behind the IP packet begin."""
    kind = struct.unpack_from("!H", frame, 12)[0] if len(frame) >= ETHERNET + 20 else 0
    version = frame[ETHERNET] >> 4 if kind else 0
    if kind == _ETH_P_IP and version == 4:
        tcp = ETHERNET + 4 * (frame[ETHERNET] & 0x0F)
        end = ETHERNET + int(struct.unpack_from("!H", frame, ETHERNET + 2)[0])
        addresses, protocol = slice(ETHERNET + 12, ETHERNET + 20), frame[ETHERNET + 9]
    elif kind == _ETH_P_IPV6 and version == 6:
        tcp = ETHERNET + _IPV6_HEADER
        end = tcp + int(struct.unpack_from("!H", frame, ETHERNET + 4)[0])
        addresses, protocol = slice(ETHERNET + 8, tcp), frame[ETHERNET + 6]
    else:
        raise WireError(f"a frame of {len(frame)} bytes, expected one with IPv4 or IPv6")
    if tcp < ETHERNET + 20 or protocol != _TCP or not tcp + 20 + LENGTH <= end <= len(frame):
        raise WireError(f"a frame of {len(frame)} bytes, expected one with a TCP SYN and a handoff block behind it")
    return addresses, tcp, end


def _sum(data: bytes) -> int:
    """Of 16-bit words, ones' complement (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    return _fold(sum(struct.unpack(f"!{len(padded) // 2}H", padded)))


def _fold(value: int) -> int:
    while value > 0xFFFF:
        value = (value & 0xFFFF) + (value >> 16)
    return value
