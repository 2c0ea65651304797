# SPDX-License-Identifier: GPL-2.0-or-later
"""Who says on the data segments that he is the cluster: by ARP, by NDP, and by the virtual MAC as source of frames.

ARP and NDP are captured. Frames are too many for that, and need not be: a bridge learns each source MAC with every
frame, and tells when one is seen at another port than before. So a bridge's notices are all frames but those that came
from the same port as the one before, for no cost.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from aa_cluster.topology.capture import ETH_P_IPV6, ArpFrame, Capture
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.namespaces import inside
from aa_cluster.topology.ndpframe import NEIGHBOUR_DISCOVERY, NdpFrame, neighbour_frames
from aa_cluster.topology.plan import CLUSTER_HOST

ADVERTISEMENT = 136
NEIGHBOURS = 1 << 2
"""RTMGRP_NEIGH of linux/rtnetlink.h."""
NEW_NEIGHBOUR = 28
AF_BRIDGE = 7
LLADDR = 2
ALIGN = 4
RECEIVE_BUFFER = 8 << 20


@dataclass(frozen=True, slots=True)
class Claim:
    """``member`` (``node1``, ``server``) said at ``at`` on ``segment`` that it is the cluster. ``by``: ``ARP``,
    ``NDP`` or ``MAC``."""

    at: float
    segment: str
    member: str
    by: str


@dataclass(frozen=True, slots=True)
class Reign:
    """From ``since`` until ``until`` (CLOCK_MONOTONIC, s) ``member`` may be the cluster. Reigns overlap while a role
    moves."""

    member: str
    since: float = float("-inf")
    until: float = float("inf")


def strays(claims: Sequence[Claim], reigns: Sequence[Reign]) -> list[Claim]:
    """Claims by those whose time it was not."""
    return [
        claim
        for claim in claims
        if not any(reign.member == claim.member and reign.since <= claim.at <= reign.until for reign in reigns)
    ]


class Watch:
    """Collects claims while its block runs; ``claims()`` at any time."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._addresses = {net.address(CLUSTER_HOST, family) for net in lab.plan.data for family in (4, 6)}
        self._segments = {net.name for net in lab.plan.data}
        self._macs = {bytes.fromhex(f"02aa004d00{slot:02x}") for slot in range(len(lab.plan.data))}
        self._told = {mac.hex(":") for mac in self._macs}
        self._capture = Capture(lab.plan.path("switch"))
        self._neighbours = Capture(lab.plan.path("switch"), ETH_P_IPV6, NEIGHBOUR_DISCOVERY)
        self._moves: list[Claim] = []
        self._names: dict[int, str] = {}
        self._stop, self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._read, name="bridge notices", daemon=True)

    def __enter__(self) -> Self:
        self._socket = inside(self._lab.plan.path("switch"), _subscribe)
        self._capture.__enter__()
        self._neighbours.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wake.close()
        self._thread.join()
        self._socket.close()
        self._stop.close()
        self._neighbours.__exit__(kind, error, trace)
        self._capture.__exit__(kind, error, trace)

    def claims(self) -> list[Claim]:
        """In the order of their times."""
        said = [_claim(frame, "ARP") for frame in self._capture.arp() if self._is_claim(frame)]
        shown = [_claim(frame, "NDP") for frame in neighbour_frames(self._neighbours.frames()) if self._shows(frame)]
        return sorted([*said, *shown, *self._moves], key=lambda claim: claim.at)

    def _is_claim(self, frame: ArpFrame) -> bool:
        """On the HA link auxiliaries ask in the cluster's name, and only the primary hears it."""
        return frame.segment in self._segments and frame.sender_ip in self._addresses

    def _shows(self, frame: NdpFrame) -> bool:
        """An advertisement speaks of its target, anything else of its sender."""
        about = frame.target if frame.type == ADVERTISEMENT else frame.source_ip
        return frame.segment in self._segments and (about in self._addresses or frame.mac in self._told)

    def _read(self) -> None:
        while True:
            ready, _, _ = select.select([self._socket, self._stop], [], [])
            if self._socket in ready:
                self._notices(self._socket.recv(1 << 16), time.monotonic())
            if self._stop in ready:
                return

    def _notices(self, data: bytes, now: float) -> None:
        for port, mac in learned(data):
            if mac not in self._macs:
                continue
            member, _, segment = self._name(port).rpartition("-")
            if member != "br":  # the bridge's own entries
                self._moves.append(Claim(now, segment, member, "MAC"))

    def _name(self, port: int) -> str:
        if port not in self._names:
            self._names.update(inside(self._lab.plan.path("switch"), lambda: dict(socket.if_nameindex())))
        return self._names.get(port, f"gone-{port}")


def _claim(frame: ArpFrame | NdpFrame, by: str) -> Claim:
    return Claim(frame.at, frame.segment, frame.member, by)


def _subscribe() -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    opened.bind((0, NEIGHBOURS))
    return opened


def learned(data: bytes) -> list[tuple[int, bytes]]:
    """(port's ifindex, MAC) of each entry that bridges made or moved, from netlink messages (struct ndmsg)."""
    out = []
    while len(data) >= 16:
        length, kind = struct.unpack_from("=IH", data)
        if not 16 <= length <= len(data):
            break
        if kind == NEW_NEIGHBOUR and length >= 28 and data[16] == AF_BRIDGE:
            (port,) = struct.unpack_from("=i", data, 20)
            out += [(port, value) for number, value in _attributes(data[28:length]) if number == LLADDR]
        data = data[-(-length // ALIGN) * ALIGN :]
    return out


def _attributes(data: bytes) -> list[tuple[int, bytes]]:
    out = []
    while len(data) >= 4:
        length, number = struct.unpack_from("=HH", data)
        if not 4 <= length <= len(data):
            break
        out.append((number & 0x3FFF, data[4:length]))
        data = data[-(-length // ALIGN) * ALIGN :]
    return out
