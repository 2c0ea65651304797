# SPDX-License-Identifier: GPL-2.0-or-later
"""An HTTP client of a few lines that makes each of its frames itself: tagged, with options, in pieces, in any order."""

from __future__ import annotations

import itertools
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

from aa_cluster.topology.inject import mac
from aa_cluster.topology.namespaces import inside
from aa_cluster.topology.tcpframe import ones_sum

ETH_P_ALL = 3
IDENTS = itertools.count(1)
"""No identification is used twice: what the nodes remember of a packet in pieces outlives a test."""

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


def checksum(data: bytes) -> bytes:
    return struct.pack("!H", ~ones_sum(data) & 0xFFFF)


@dataclass(frozen=True)
class Shape:
    """``tags``: (EtherType, control) from the outside; ``options``: of IPv4, a multiple of four bytes."""

    tags: tuple[tuple[int, int], ...] = ()
    options: bytes = b""


@dataclass
class RawClient:
    """From ``source`` on ``eth0`` of the namespace to port 80 of ``server``, by the gateway of that MAC.

    The kernel of the client knows nothing of the connection: its RSTs must be dropped (see the test's ruleset).
    """

    namespace: Path
    source: str
    port: int
    server: str
    gateway: str
    own_mac: str
    shape: Shape = Shape()
    sequence: int = 1000
    acknowledged: int = 0
    ident: int = field(default_factory=lambda: next(IDENTS))
    answer: bytes = b""
    _socket: socket.socket = field(init=False)

    def __enter__(self) -> Self:
        self._socket = inside(self.namespace, self._open)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.send(RST)
        self._socket.close()

    def _open(self) -> socket.socket:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        opened.bind(("eth0", ETH_P_ALL))
        return opened

    def connect(self) -> None:
        """SYN, SYN/ACK, ACK."""
        self.send(SYN)
        self.sequence += 1
        self._until(lambda flags: flags & (SYN | ACK) == SYN | ACK, 5)
        self.send(ACK)

    def ask(self, cuts: Sequence[int] = (), order: Sequence[int] = (), size: int = 0, wait: float = 5) -> bool:
        """Send a request (``size`` bytes longer than need be) whole, or cut at these offsets of the IP payload (from 0
        and to the end) and in this order of pieces; whether an answer came within ``wait`` seconds."""
        request = b"GET /" + b"x" * size + b" HTTP/1.0\r\nHost: lab\r\n\r\n"
        self.send(PSH | ACK, request, cuts, order)
        if not self._until(lambda _: self.answer != b"", wait):
            return False
        self.sequence += len(request)
        self.send(ACK)
        return True

    def send(self, flags: int, data: bytes = b"", cuts: Sequence[int] = (), order: Sequence[int] = ()) -> None:
        segment = self._segment(flags, data)
        edges = [0, *cuts, len(segment)]
        self.ident = next(IDENTS)
        parts = [self._frame(segment[start:end], start, end < len(segment)) for start, end in pairwise(edges)]
        for index in order or range(len(parts)):
            self._socket.send(parts[index])

    def _segment(self, flags: int, data: bytes) -> bytes:
        ends = struct.pack("!HH", self.port, 80)
        head = ends + struct.pack("!IIBBHHH", self.sequence, self.acknowledged, 5 << 4, flags, 65000, 0, 0)
        pseudo = socket.inet_aton(self.source) + socket.inet_aton(self.server)
        pseudo += struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(head) + len(data))
        return head[:16] + checksum(pseudo + head + data) + head[18:] + data

    def _frame(self, payload: bytes, offset: int, more: bool) -> bytes:
        options = self.shape.options
        length = 20 + len(options)
        head = struct.pack(
            "!BBHHHBBH", 0x40 | length // 4, 0, length + len(payload), self.ident, more << 13 | offset // 8, 64, 6, 0
        )
        head += socket.inet_aton(self.source) + socket.inet_aton(self.server) + options
        tags = b"".join(struct.pack("!HH", kind, control) for kind, control in self.shape.tags)
        ethernet = mac(self.gateway) + mac(self.own_mac) + tags + b"\x08\x00"
        return ethernet + head[:10] + checksum(head) + head[12:] + payload

    def _until(self, done: object, wait: float) -> bool:
        """Take in what comes for this connection until ``done(flags)``; acknowledge nothing by itself."""
        deadline = time.monotonic() + wait
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                frame = self._socket.recv(65535)
            except TimeoutError:
                break
            flags = self._take(frame)
            if flags is not None and callable(done) and done(flags):
                return True
        return False

    def _take(self, frame: bytes) -> int | None:
        packet = frame[14:]
        if frame[12:14] != b"\x08\x00" or packet[9:10] != b"\x06" or packet[12:16] != socket.inet_aton(self.server):
            return None
        segment = packet[(packet[0] & 15) * 4 : int.from_bytes(packet[2:4], "big")]
        if struct.unpack_from("!HH", segment) != (80, self.port):
            return None
        sequence, _, offset, flags = struct.unpack_from("!IIBB", segment, 4)
        data = segment[(offset >> 4) * 4 :]
        if flags & SYN or sequence == self.acknowledged:
            self.acknowledged = sequence + len(data) + (flags & SYN != 0)
            self.answer += data
        return int(flags)
