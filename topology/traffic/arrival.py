# SPDX-License-Identifier: GPL-2.0-or-later
"""When the kernel received what a socket gives, however late its reader is: SO_TIMESTAMPNS (socket(7))."""

from __future__ import annotations

import socket
import struct
import time
from typing import Protocol

SO_TIMESTAMPNS = 35
_STAMP = struct.Struct("@qq")
_ROOM = socket.CMSG_SPACE(_STAMP.size)
_OLDEST = 10.0
"""Seconds between arrival and reading; a stamp that says more is of a clock that was set in between."""


class Readable(Protocol):
    """What is read from: a socket."""

    def recvmsg(
        self, size: int, room: int = ..., /
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, tuple[str, int]]: ...


def stamped(connection: socket.socket) -> socket.socket:
    """The same; from now on its kernel notes when something comes. Who is accepted by it inherits that."""
    connection.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    return connection


def receive(connection: Readable, size: int) -> tuple[bytes, float, tuple[str, int]]:
    """Data, when the last of it came (CLOCK_MONOTONIC, s), from whom; ``OSError`` as ``recvmsg``."""
    data, told, _, asker = connection.recvmsg(size, _ROOM)
    now = time.monotonic()
    for level, kind, value in told:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
            seconds, nanoseconds = _STAMP.unpack(value)
            ago = time.time() - seconds - nanoseconds / 1e9
            if 0 <= ago < _OLDEST:
                return data, now - ago, asker
    return data, now, asker
