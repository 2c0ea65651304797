# SPDX-License-Identifier: GPL-2.0-or-later
"""What the switch sees: frames as they come in at its ports, each once, with the port it came in at.

A frame is taken at its ingress port only, so the port tells who really sent it, whatever its source MAC says.
"""

from __future__ import annotations

import contextlib
import ipaddress
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from aa_cluster.errors import LabError
from aa_cluster.netlink import packet_filter
from aa_cluster.netlink.packet_filter import Step
from aa_cluster.topology.namespaces import inside

ETH_P_ALL = 3
ETH_P_IP = 0x0800
ETH_P_ARP = 0x0806
ETH_P_IPV6 = 0x86DD
SO_RCVBUFFORCE = 33
PACKET_OUTGOING = 4
PACKET_STATISTICS = 6
PACKET_IGNORE_OUTGOING = 23
SOL_PACKET = 263
BUFFER = 64 << 20
ARP_NAMES = {1: "request", 2: "reply", 201: "relayed request (201)", 202: "relayed reply (202)"}


@dataclass(frozen=True, slots=True)
class Frame:
    """``port``: the switch port it came in at (``node1-int``), or the interface when caught on a host; ``at``: when
    it was taken from the socket (CLOCK_MONOTONIC, s)."""

    port: str
    data: bytes
    at: float = 0.0

    @property
    def source(self) -> str:
        return self.data[6:12].hex(":")

    @property
    def destination(self) -> str:
        return self.data[0:6].hex(":")


@dataclass(frozen=True, slots=True)
class ArpFrame:
    """An ARP frame taken apart, or what the relay says about IPv6 in ARP's layout. ``segment`` and ``member`` come from
    the port's name; an address that was cut off is empty."""

    segment: str
    member: str
    source: str
    destination: str
    opcode: int
    sender_mac: str
    sender_ip: str
    target_mac: str
    target_ip: str
    at: float = 0.0

    @property
    def kind(self) -> str:
        return ARP_NAMES.get(self.opcode, f"opcode {self.opcode}")

    @classmethod
    def of(cls, frame: Frame) -> Self:
        size, opcode = struct.unpack_from("!BH", frame.data, 19)
        sender, target = 28, 34 + size
        member, _, segment = frame.port.rpartition("-")
        return cls(
            segment=segment,
            member=member,
            source=frame.source,
            destination=frame.destination,
            opcode=opcode,
            sender_mac=frame.data[22:28].hex(":"),
            sender_ip=address(frame.data[sender : sender + size]),
            target_mac=frame.data[target - 6 : target].hex(":"),
            target_ip=address(frame.data[target : target + size]),
            at=frame.at,
        )


def address(packed: bytes) -> str:
    """As text; empty when it is of neither family's length."""
    return str(ipaddress.ip_address(packed)) if len(packed) in (4, 16) else ""


class Capture:
    """Catches frames of one EtherType while its block runs: in a switch's namespace all ports, else all interfaces.

    ``frames()`` is everything caught until now, also while running. ``LabError`` at the end if it lost any. ``steps``:
    a filter of one's own, which must take frames of that EtherType only.
    """

    def __init__(self, namespace: Path, ethertype: int = ETH_P_ARP, steps: Sequence[Step] = ()) -> None:
        self._namespace = namespace
        self._steps = steps or of_ethertype(ethertype)
        self._caught: list[Frame] = []
        self._stop, self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._read, name="capture", daemon=True)

    def __enter__(self) -> Self:
        self._socket = inside(self._namespace, self._open)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wake.close()
        self._thread.join()
        self._drain()
        _, lost = struct.unpack("II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        self._socket.close()
        self._stop.close()
        if lost and kind is None:
            raise LabError(f"the capture in {self._namespace.name} lost {lost} frames", "catch less at a time")

    def _open(self) -> socket.socket:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(ETH_P_ALL))
        opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        packet_filter.attach(opened, self._steps)
        opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        with contextlib.suppress(BlockingIOError):
            while True:  # what came before the filter was attached
                opened.recv(1)
        opened.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)  # and what did not fit then is not missed
        return opened

    def _read(self) -> None:
        while True:
            ready, _, _ = select.select([self._socket, self._stop], [], [])
            if self._stop in ready:
                return
            self._drain()

    def _drain(self) -> None:
        while True:
            try:
                data, (port, _, packet_type, _, _) = self._socket.recvfrom(65535)
            except BlockingIOError:
                return
            if packet_type != PACKET_OUTGOING and not port.startswith("br-"):
                self._caught.append(Frame(port, data, time.monotonic()))

    def frames(self) -> list[Frame]:
        return list(self._caught)

    def arp(self) -> list[ArpFrame]:
        return [ArpFrame.of(frame) for frame in self.frames() if frame.data[12:14] == b"\x08\x06"]


def by_kind(frames: list[ArpFrame]) -> Counter[tuple[str, str]]:
    """(segment, kind) → frames."""
    return Counter((frame.segment, frame.kind) for frame in frames)


def of_ethertype(ethertype: int) -> tuple[Step, ...]:
    """Whole frames of it; anything else is not even copied."""
    return ((0x28, 0, 0, 12), (0x15, 0, 1, ethertype), (6, 0, 0, 0xFFFF), (6, 0, 0, 0))


RESETS: dict[int, tuple[Step, ...]] = {
    ETH_P_IP: (
        (0x28, 0, 0, 12),
        (0x15, 0, 6, ETH_P_IP),
        (0x30, 0, 0, 23),
        (0x15, 0, 4, socket.IPPROTO_TCP),
        (0xB1, 0, 0, 14),  # X: the IPv4 header's length
        (0x50, 0, 0, 14 + 13),
        (0x45, 0, 1, 0x04),
        (6, 0, 0, 0xFFFF),
        (6, 0, 0, 0),
    ),
    ETH_P_IPV6: (
        (0x28, 0, 0, 12),
        (0x15, 0, 5, ETH_P_IPV6),
        (0x30, 0, 0, 20),
        (0x15, 0, 3, socket.IPPROTO_TCP),
        (0x30, 0, 0, 54 + 13),
        (0x45, 0, 1, 0x04),
        (6, 0, 0, 0xFFFF),
        (6, 0, 0, 0),
    ),
}
"""By EtherType: TCP segments that reset a connection, without extension headers."""


@dataclass(frozen=True, slots=True)
class Reset:
    """A TCP segment with RST. ``port``: the switch port it came in at, so who sent it."""

    at: float
    port: str
    source: tuple[str, int]
    destination: tuple[str, int]
    sequence: int
    acknowledged: int
    flags: int

    @classmethod
    def of(cls, frame: Frame) -> Self:
        v6 = frame.data[12:14] == ETH_P_IPV6.to_bytes(2, "big")
        header = 54 if v6 else 14 + 4 * (frame.data[14] & 15)
        first, size = (22, 16) if v6 else (26, 4)
        ports = struct.unpack_from("!HH", frame.data, header)
        sequence, acknowledged = struct.unpack_from("!II", frame.data, header + 4)
        ends = [address(frame.data[at : at + size]) for at in (first, first + size)]
        return cls(
            at=frame.at,
            port=frame.port,
            source=(ends[0], ports[0]),
            destination=(ends[1], ports[1]),
            sequence=sequence,
            acknowledged=acknowledged,
            flags=frame.data[header + 13],
        )
