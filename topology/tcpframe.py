# SPDX-License-Identifier: GPL-2.0-or-later
"""A captured IPv4 TCP frame taken apart, its checksums verified the slow way."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Self

from aa_cluster.topology.capture import Frame

ETHERNET = 14
SYN, ACK = 0x02, 0x10


@dataclass(frozen=True, slots=True)
class TcpFrame:
    """``port``: where it was caught; ``mac``: its source MAC; ``sums_right``: IP and TCP checksum both."""

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
        """``None`` when it is not whole IPv4 TCP. What lies after the IP total length (padding) is left out."""
        packet = frame.data[ETHERNET:]
        if len(packet) < 40 or packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_TCP:
            return None
        head, total = (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big")
        segment = packet[head:total]
        sport, dport, sequence, _, offset, flags = struct.unpack_from("!HHIIBB", segment)
        pseudo = packet[12:20] + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(segment))
        return cls(
            port=frame.port,
            mac=frame.source,
            source=socket.inet_ntoa(packet[12:16]),
            source_port=sport,
            destination=socket.inet_ntoa(packet[16:20]),
            destination_port=dport,
            sequence=sequence,
            flags=flags,
            payload=segment[(offset >> 4) * 4 :],
            sums_right=ones_sum(packet[:head]) == 0xFFFF and ones_sum(pseudo + segment) == 0xFFFF,
        )


def ones_sum(data: bytes) -> int:
    """RFC 1071: the ones' complement sum; 0xFFFF over data that carries its right checksum."""
    padded = data + b"\0" * (len(data) & 1)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def tcp(frames: list[Frame]) -> list[TcpFrame]:
    return [taken for frame in frames if (taken := TcpFrame.of(frame)) is not None]
