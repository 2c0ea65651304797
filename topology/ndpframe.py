# SPDX-License-Identifier: GPL-2.0-or-later
"""Neighbour discovery (RFC 4861) and MLD (RFC 2710, 3810) among captured frames: who sent what, of which kind."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from aa_cluster.netlink.packet_filter import Step
from aa_cluster.topology.capture import ETH_P_IPV6, Frame, address

NAMES = {
    130: "MLD query",
    131: "MLD report",
    132: "MLD done",
    133: "router solicitation",
    134: "router advertisement",
    135: "solicitation",
    136: "advertisement",
    137: "redirect",
    143: "MLD report (v2)",
}
OPTIONS_AT = {133: 8, 134: 16, 135: 24, 136: 24, 137: 40}
"""Where options begin in a message; MLD has none that tell a MAC."""
WITH_TARGET = (135, 136, 137)
EXTENSIONS = (0, 43, 60)
"""Hop-by-hop, routing, destination options (RFC 8200)."""
NEIGHBOUR_DISCOVERY: tuple[Step, ...] = (
    (0x28, 0, 0, 12),
    (0x15, 0, 6, ETH_P_IPV6),
    (0x30, 0, 0, 20),
    (0x15, 0, 4, socket.IPPROTO_ICMPV6),
    (0x30, 0, 0, 54),
    (0x35, 0, 2, 133),
    (0x25, 1, 0, 137),
    (6, 0, 0, 0xFFFF),
    (6, 0, 0, 0),
)
"""A capture's filter, for where there is other IPv6, too: no MLD, and nothing behind extension headers."""


@dataclass(frozen=True, slots=True)
class NdpFrame:
    """A frame of neighbour discovery or MLD taken apart; ``segment`` and ``member`` as in ``ArpFrame``.

    ``target`` is empty where the kind has none, ``mac`` (of the first option that tells one) where none is told.
    """

    segment: str
    member: str
    source: str
    destination: str
    type: int
    source_ip: str
    destination_ip: str
    target: str
    mac: str
    at: float = 0.0

    @property
    def kind(self) -> str:
        return NAMES[self.type]

    @classmethod
    def of(cls, frame: Frame) -> Self | None:
        """``None`` when it is something else."""
        body = icmpv6(frame.data)
        if not body or body[0] not in NAMES:
            return None
        member, _, segment = frame.port.rpartition("-")
        options = OPTIONS_AT.get(body[0], len(body))
        return cls(
            segment=segment,
            member=member,
            source=frame.source,
            destination=frame.destination,
            type=body[0],
            source_ip=address(frame.data[22:38]),
            destination_ip=address(frame.data[38:54]),
            target=address(body[8:24]) if body[0] in WITH_TARGET else "",
            mac=_told_mac(body[options:]),
            at=frame.at,
        )


def icmpv6(data: bytes) -> bytes:
    """The ICMPv6 message of an Ethernet frame, also behind extension headers; empty when there is none."""
    if data[12:14] != b"\x86\xdd" or len(data) < 54:
        return b""
    following, at = data[20], 54
    while following in EXTENSIONS and at + 8 <= len(data):
        following, at = data[at], at + 8 + 8 * data[at + 1]
    return data[at:] if following == socket.IPPROTO_ICMPV6 else b""


def _told_mac(options: bytes) -> str:
    at = 0
    while at + 8 <= len(options) and options[at + 1]:
        if options[at] in (1, 2):
            return options[at + 2 : at + 8].hex(":")
        at += 8 * options[at + 1]
    return ""


def neighbour_frames(frames: Iterable[Frame]) -> list[NdpFrame]:
    """Those that are, in the order they came."""
    return [one for frame in frames if (one := NdpFrame.of(frame)) is not None]
