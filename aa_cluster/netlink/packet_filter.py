# SPDX-License-Identifier: GPL-2.0-or-later
"""Classic BPF for packet sockets: the kernel keeps back what nobody will read."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence

SO_ATTACH_FILTER = 26

Step = tuple[int, int, int, int]
"""struct sock_filter of linux/filter.h: code, jt, jf, k."""


def attach(packet: socket.socket, steps: Sequence[Step]) -> None:
    """Before the socket is bound, so that it is there for the first frame. ``OSError`` as setsockopt(2)."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    packet.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(steps), ctypes.addressof(code)))
