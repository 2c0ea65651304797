# SPDX-License-Identifier: GPL-2.0-or-later
"""UDP on the HA link, bound to its device: the transport of the control protocol.

Heartbeats of several nodes come close together, because each answers the primary's. Where the last came in company, the
next are taken from the socket in one go, a few milliseconds after the first: an idle agent is woken seldom.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

from aa_cluster import log
from aa_cluster.errors import NetlinkError

BROADCAST = "255.255.255.255"
RECEIVE_BUFFER = 1 << 20
MAX_DATAGRAM = 1 << 16
BATCH = 256
GATHER_SECONDS = 0.005
DEVICE_GONE = (errno.ENODEV, errno.ENXIO)
REOPEN_PAUSE = 1.0

_log = log.get("link")


class _Company:
    """Datagrams that come within twice ``GATHER_SECONDS`` are one burst; ``count``: taken of the one that goes on."""

    def __init__(self) -> None:
        self.count = 0
        self._begun = float("-inf")
        self._before = 0

    def expected(self, now: float) -> bool:
        """Whether more than one came in the burst before the one that goes on, or begins, now."""
        if now - self._begun > 2 * GATHER_SECONDS:
            self._begun, self._before, self.count = now, self.count, 0
        return self._before > 1


class UdpTransport:
    """Datagrams that arrive are given to ``receive(datagram, sender's address)`` on the event loop."""

    def __init__(self, interface: str, port: int, receive: Callable[[bytes, str], None]) -> None:
        self._interface = interface
        self._port = port
        self._receive = receive
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._company = _Company()
        self._complained = False

    def open(self) -> None:
        """``NetlinkError`` when the interface is not there or the port is taken. Needs a running loop."""
        self._socket = self._bound()
        self._listen()

    def send(self, datagram: bytes, address: str | None) -> None:
        """To everybody when ``address`` is None. A link that is down loses datagrams, which is said once."""
        if self._socket is None:
            return
        try:
            self._socket.sendto(datagram, (address or BROADCAST, self._port))
        except OSError as error:
            self._complain(error)
            return
        if address is None:
            self._gather()  # it comes back at once, and the answers soon

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _listen(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        """The first of a batch is there: take it, or with those that follow at once."""
        if not self._gather():
            self._take()

    def _gather(self) -> bool:
        """What comes is taken in a moment, if it is expected to come in company."""
        loop = asyncio.get_running_loop()
        if self._socket is None or self._timer is not None or not self._company.expected(loop.time()):
            return False
        loop.remove_reader(self._socket.fileno())
        self._timer = loop.call_later(GATHER_SECONDS, self._take_gathered)
        return True

    def _take_gathered(self) -> None:
        self._timer = None
        self._take()
        if self._timer is None:
            self._listen()

    def _take(self) -> None:
        for _ in range(BATCH):
            if self._socket is None:
                return
            try:
                datagram, sender = self._socket.recvfrom(MAX_DATAGRAM)
            except BlockingIOError:
                break
            except OSError as error:
                self._complain(error)
                break
            self._complained = False
            self._company.count += 1
            self._receive(datagram, sender[0])

    def _complain(self, error: OSError) -> None:
        """Said once until something arrives again. A device that was made anew needs a new binding."""
        if not self._complained:
            self._complained = True
            _log.warning("the HA link does not work", interface=self._interface, why=error.strerror)
        if error.errno in DEVICE_GONE:
            self.close()
            self._reopen()

    def _reopen(self) -> None:
        try:
            self.open()
        except NetlinkError:
            self._timer = asyncio.get_running_loop().call_later(REOPEN_PAUSE, self._reopen)

    def _bound(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self._interface.encode())
            sock.bind(("", self._port))
        except OSError as error:
            sock.close()
            raise NetlinkError(
                f"cannot open UDP port {self._port} on the HA link {self._interface}: {error.strerror}",
                "correct [ha] interface and port, and run as root",
            ) from None
        return sock
