# SPDX-License-Identifier: GPL-2.0-or-later
"""A captured TCP frame taken apart, its checksums verified the slow way."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Self

from aa_cluster.topology.capture import Frame

ETHERNET = 14
FIXED = 40
"""Bytes of an IPv6 header, and of the shortest IPv4 and TCP headers together."""
SHORTEST = 20
SYN, ACK = 0x02, 0x10
ALL_ONES = 0xFFFF


@dataclass(frozen=True, slots=True)
class TcpFrame:
    """``port``: where it was caught; ``mac``: its source MAC; ``sums_right``: the TCP checksum, and IPv4's."""

    port: str
    mac: str
    source: str
    source_port: int
    destination: str
    destination_port: int
    sequence: int
    flags: int
    payload: bytes
    sums_right: bool

    @property
    def is_first(self) -> bool:
        """A SYN that opens a connection."""
        return self.flags & (SYN | ACK) == SYN

    @classmethod
    def of(cls, frame: Frame) -> Self | None:
        """``None`` when it is not whole TCP right behind an IPv4 or IPv6 header. What lies after the end that this
        header tells (padding) is left out."""
        packet = frame.data[ETHERNET:]
        taken = _segment(packet) if len(packet) >= FIXED else None
        if taken is None or len(taken[2]) < SHORTEST:
            return None
        (source, destination, segment), head = taken, (packet[0] & 15) * 4
        sport, dport, sequence, _, offset, flags = struct.unpack_from("!HHIIBB", segment)
        pseudo = source + destination + struct.pack("!II", len(segment), socket.IPPROTO_TCP)
        head_right = packet[0] >> 4 == 6 or ones_sum(packet[:head]) == ALL_ONES
        return cls(
            port=frame.port,
            mac=frame.source,
            source=_text(source),
            source_port=sport,
            destination=_text(destination),
            destination_port=dport,
            sequence=sequence,
            flags=flags,
            payload=segment[(offset >> 4) * 4 :],
            sums_right=head_right and ones_sum(pseudo + segment) == ALL_ONES,
        )


def _segment(packet: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Source, destination, TCP segment."""
    if packet[0] >> 4 == 4 and packet[9] == socket.IPPROTO_TCP:
        total = int.from_bytes(packet[2:4], "big")
        return packet[12:16], packet[16:20], packet[(packet[0] & 15) * 4 : total]
    if packet[0] >> 4 == 6 and packet[6] == socket.IPPROTO_TCP:
        return packet[8:24], packet[24:40], packet[FIXED : FIXED + int.from_bytes(packet[4:6], "big")]
    return None


def _text(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def ones_sum(data: bytes) -> int:
    """RFC 1071: the ones' complement sum; 0xFFFF over data that carries its right checksum."""
    padded = data + b"\0" * (len(data) & 1)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def tcp(frames: list[Frame]) -> list[TcpFrame]:
    return [taken for frame in frames if (taken := TcpFrame.of(frame)) is not None]
