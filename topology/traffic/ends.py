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
from pathlib import Path

from aa_cluster.topology.namespaces import inside

PRIORITY = -10
BITE = 256
IN_PROGRESS = (0, errno.EINPROGRESS)
CLIENT, PLAIN, SERVER, PUBLISHED = "10.77.1.100", "10.77.1.101", "10.77.2.100", "10.77.2.1"


class Pool:
    """Sockets of the namespace at ``path``, made ahead: entering a namespace takes a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ready: deque[socket.socket] = deque()

    def take(self) -> socket.socket:
        """A TCP socket that does not block and does not wait to fill segments."""
        if not self._ready:
            self._ready.extend(inside(self._path, lambda: [_socket() for _ in range(BITE)]))
        return self._ready.popleft()

    def listen(self, port: int) -> socket.socket:
        listener = inside(self._path, _socket)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", port))
        listener.listen(4096)
        return listener


def _socket() -> socket.socket:
    made = socket.socket()
    made.setblocking(False)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


class Ways:
    """How sessions cross the gateway: the two hosts, and a listener on each at ``port``.

    ``masquerade``: client → server. ``plain``: the same from an address that no rule translates. ``published``:
    server → the cluster's ``published_port``, which leads to the client.
    """

    NAMES = ("masquerade", "plain", "published")

    def __init__(self, client: Path, server: Path, port: int, published_port: int) -> None:
        self._pools = {"client": Pool(client), "server": Pool(server)}
        self.listeners = [pool.listen(port) for pool in self._pools.values()]
        self._targets = {
            "masquerade": ("client", CLIENT, (SERVER, port)),
            "plain": ("client", PLAIN, (SERVER, port)),
            "published": ("server", SERVER, (PUBLISHED, published_port)),
        }

    def begin(self, way: str) -> socket.socket:
        """A connection on its way; ``OSError`` when it cannot even begin."""
        host, source, target = self._targets[way]
        opened = self._pools[host].take()
        try:
            opened.setsockopt(socket.SOL_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: the port is chosen for the whole tuple
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
