# SPDX-License-Identifier: GPL-2.0-or-later
"""A UDP server of both families on all addresses, which answers from the address that was asked."""

from __future__ import annotations

import selectors
import socket
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from aa_cluster.topology.traffic.tcp import family_of

ROOM = 8 << 20
"""Bytes that may wait to be read: a server that the machine lets wait for a moment loses nothing."""
SO_RCVBUFFORCE = 33
SO_MEMINFO = 55
DROPS = 8
"""Place of ``SK_MEMINFO_DROPS`` in what SO_MEMINFO gives (linux/sock_diag.h)."""
IP_PKTINFO = 8
LARGEST, ROOM_ASIDE = 65535, 128
PLACE = {socket.AF_INET: slice(4, 8), socket.AF_INET6: slice(0, 16)}
"""Of the address that was asked, in ``struct in_pktinfo`` (ipi_spec_dst) and ``struct in6_pktinfo``."""


@dataclass(frozen=True, slots=True)
class Datagram:
    """``asked``: the address of ours that it came to; ``asker``: who sent it, as the socket needs it to answer."""

    payload: bytes
    socket: socket.socket
    asker: tuple[str, int]
    asked: str

    def line(self, port: int) -> str:
        """``asked:port asker:port``, as nginx has it too."""
        return f"{self.asked}:{port} {self.asker[0]}:{self.asker[1]}"


class Listener:
    """Two sockets; closed at the end of its block."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.sockets = tuple(_open(family, port) for family in PLACE)
        self._selector = selectors.DefaultSelector()
        for one in self.sockets:
            self._selector.register(one, selectors.EVENT_READ, one)
        self._ready: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._selector.close()
        for one in self.sockets:
            one.close()

    def take(self, longest: float | None = None) -> Datagram | None:
        """The next one; ``None`` when there is none for ``longest`` s."""
        while True:
            while self._ready:
                one = self._ready[-1]
                try:
                    payload, ancillary, _, asker = one.recvmsg(LARGEST, ROOM_ASIDE)
                except BlockingIOError:
                    self._ready.pop()
                    continue
                return Datagram(payload, one, asker, _asked(one, ancillary))
            self._ready = [key.data for key, _ in self._selector.select(longest)]
            if not self._ready:
                return None

    def answer(self, to: Datagram, payload: bytes) -> None:
        """From the address that was asked."""
        to.socket.sendmsg([payload], [_from(to)], 0, to.asker)

    def overrun(self) -> int:
        """Datagrams that came and found no room to wait."""
        told = (one.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 4 * (DROPS + 1)) for one in self.sockets)
        return sum(int.from_bytes(one[4 * DROPS :], sys.byteorder) for one in told)


def _open(family: socket.AddressFamily, port: int) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_DGRAM)
    opened.setblocking(False)
    opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)
    if family == socket.AF_INET6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        opened.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    opened.bind(("", port))
    return opened


def _asked(one: socket.socket, ancillary: list[tuple[int, int, bytes]]) -> str:
    for _, _, data in ancillary:
        return socket.inet_ntop(one.family, data[PLACE[one.family]])
    return ""


def _from(to: Datagram) -> tuple[int, int, bytes]:
    address = socket.inet_pton(family_of(to.asked), to.asked)
    if len(address) == 16:
        return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, address + bytes(4)
    return socket.IPPROTO_IP, IP_PKTINFO, bytes(4) + address + bytes(4)
