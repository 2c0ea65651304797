# SPDX-License-Identifier: GPL-2.0-or-later
"""UDP on the HA link, bound to its device: the transport of the control protocol."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

from aa_cluster import log
from aa_cluster.errors import NetlinkError

BROADCAST = "255.255.255.255"
RECEIVE_BUFFER = 1 << 20
DEVICE_GONE = (errno.ENODEV, errno.ENXIO)
REOPEN_PAUSE = 1.0

_log = log.get("link")


class UdpTransport(asyncio.DatagramProtocol):
    """Datagrams that arrive are given to ``receive(datagram, sender's address)`` on the event loop."""

    def __init__(self, interface: str, port: int, receive: Callable[[bytes, str], None]) -> None:
        self._interface = interface
        self._port = port
        self._receive = receive
        self._transport: asyncio.DatagramTransport | None = None
        self._opening: asyncio.Task[None] | None = None
        self._complained = False

    async def open(self) -> None:
        """``NetlinkError`` when the interface is not there or the port is taken."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, sock=self._socket())

    def send(self, datagram: bytes, address: str | None) -> None:
        if self._transport is not None:
            self._transport.sendto(datagram, (address or BROADCAST, self._port))

    def close(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
        self._drop()

    def _drop(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._complained = False
        self._receive(data, addr[0])

    def error_received(self, exc: Exception) -> None:
        """A link that is down loses datagrams; said once. A device made anew needs a new binding."""
        if not self._complained:
            self._complained = True
            _log.warning("cannot send on the HA link", interface=self._interface, why=str(exc))
        if isinstance(exc, OSError) and exc.errno in DEVICE_GONE and self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._reopen())

    async def _reopen(self) -> None:
        self._drop()
        while self._transport is None:
            try:
                await self.open()
            except NetlinkError:
                await asyncio.sleep(REOPEN_PAUSE)
        self._opening = None

    def _socket(self) -> socket.socket:
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
