# SPDX-License-Identifier: GPL-2.0-or-later
"""Both ends of a connection in one process: sockets of several network namespaces, one clock, one event loop.

A socket stays in the namespace it was made in, so a process holds the client's end and the server's end of a session
at once. What one end sent when is known where the other receives it, and nothing has to be merged afterwards.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from aa_cluster.topology.namespaces import inside
from aa_cluster.topology.traffic.arrival import stamped
from aa_cluster.topology.traffic.tcp import family_of
from aa_cluster.topology.traffic.udp import ROOM, SO_RCVBUFFORCE

PRIORITY = -10
BITE = 256
IN_PROGRESS = (0, errno.EINPROGRESS)
BIND_ADDRESS_NO_PORT = 24
"""IP_BIND_ADDRESS_NO_PORT: the port is chosen for the whole tuple."""
CLIENT, PLAIN, SERVER, PUBLISHED = "10.77.1.100", "10.77.1.101", "10.77.2.100", "10.77.2.1"
CLIENT6, PLAIN6, SERVER6, PUBLISHED6 = "fd77:1::100", "fd77:1::101", "fd77:2::100", "fd77:2::1"
TRANSLATIONS = ("masquerade", "plain", "published")
IPV6, UDP = "-ipv6", "-udp"
EVERY_WAY = tuple(way + suffix for suffix in ("", IPV6, UDP, UDP + IPV6) for way in TRANSLATIONS)


def by_udp(way: str) -> bool:
    return UDP in way


class Pool:
    """Sockets of the namespace at ``path``, made ahead: entering a namespace takes a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ready: dict[tuple[int, int], deque[socket.socket]] = {}

    def take(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A socket that does not block; one of TCP does not wait to fill segments."""
        ready = self._ready.setdefault((family, kind), deque())
        if not ready:
            ready.extend(inside(self._path, lambda: [_socket(family, kind) for _ in range(BITE)]))
        return ready.popleft()

    def listen(self, family: int, port: int) -> socket.socket:
        listener = inside(self._path, lambda: _socket(family, socket.SOCK_STREAM))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", port))
        listener.listen(4096)
        return listener

    def receive(self, address: str, port: int) -> socket.socket:
        """For datagrams to that address, and answers from there."""
        receiver = inside(self._path, lambda: _socket(family_of(address), socket.SOCK_DGRAM))
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)
        receiver.bind((address, port))
        return receiver


def _socket(family: int, kind: int) -> socket.socket:
    made = stamped(socket.socket(family, kind))
    made.setblocking(False)
    if kind == socket.SOCK_STREAM:
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made


class Ways:
    """How sessions cross the gateway: the two hosts, and on each a listener (TCP) or a receiver (UDP) at ``port``.

    ``masquerade``: client → server. ``plain``: the same from an address that no rule translates. ``published``:
    server → the cluster's ``published_port``, which leads to the client. With ``-ipv6`` and ``-udp`` behind it the
    same over those. ``names``: those that are wanted.
    """

    NAMES = TRANSLATIONS

    def __init__(
        self, client: Path, server: Path, port: int, published_port: int, names: Sequence[str] = TRANSLATIONS
    ) -> None:
        self.names = tuple(names)
        self._pools = {"client": Pool(client), "server": Pool(server)}
        self.listeners: list[socket.socket] = []
        self.receivers: list[socket.socket] = []
        self._targets: dict[str, tuple[str, str, tuple[str, int]]] = {}
        for six in sorted({IPV6 in name for name in names}):
            here, plain, there, public = (
                (CLIENT6, PLAIN6, SERVER6, PUBLISHED6) if six else (CLIENT, PLAIN, SERVER, PUBLISHED)
            )
            targets = (
                ("client", here, (there, port)),
                ("client", plain, (there, port)),
                ("server", there, (public, published_port)),
            )
            for udp in sorted({by_udp(name) for name in names if (IPV6 in name) == six}):
                suffix = UDP * udp + IPV6 * six
                self._targets |= {way + suffix: target for way, target in zip(TRANSLATIONS, targets, strict=True)}
                self._open(udp, {"client": here, "server": there}, port)

    def _open(self, udp: bool, addresses: dict[str, str], port: int) -> None:
        for host, address in addresses.items():
            if udp:
                self.receivers.append(self._pools[host].receive(address, port))
            else:
                self.listeners.append(self._pools[host].listen(family_of(address), port))

    def begin(self, way: str) -> socket.socket:
        """A connection on its way, or a socket for datagrams; ``OSError`` when it cannot even begin."""
        host, source, target = self._targets[way]
        udp = by_udp(way)
        opened = self._pools[host].take(family_of(source), socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
        try:
            if not udp:
                opened.setsockopt(socket.SOL_IP, BIND_ADDRESS_NO_PORT, 1)
            opened.bind((source, 0))
            if (code := opened.connect_ex(target)) not in IN_PROGRESS:
                raise OSError(code, os.strerror(code))
        except OSError:
            opened.close()
            raise
        return opened


def why(connection: socket.socket) -> str:
    """What ended a connection that epoll complains of: ``reset``, ``closed``, or the error's name."""
    return named(connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


def named(code: int) -> str:
    if code == errno.ECONNRESET:
        return "reset"
    return errno.errorcode.get(code, "closed").lower() if code else "closed"


def prepare() -> None:
    """As many descriptors as may be; a raised priority where that is allowed, since the network is to be measured."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
