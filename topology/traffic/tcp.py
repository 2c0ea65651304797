# SPDX-License-Identifier: GPL-2.0-or-later
"""What the traffic programs share: a listener that says it is ready, and how often TCP had to send again."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable

TOTAL_RETRANS = 100
"""Offset of ``tcpi_total_retrans`` in ``struct tcp_info`` (linux/tcp.h)."""


def retransmits(connection: socket.socket) -> int:
    """Segments this end has sent more than once."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TOTAL_RETRANS + 4)
    return int(struct.unpack_from("=I", info, TOTAL_RETRANS)[0])


def serve(port: int, session: Callable[[socket.socket], None]) -> None:
    """Listen on all addresses, print ``ready``, run ``session`` in a thread per connection; does not return."""
    with socket.create_server(("", port), backlog=1024) as listener:
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_closing, args=(connection, session), daemon=True).start()


def _closing(connection: socket.socket, session: Callable[[socket.socket], None]) -> None:
    with connection:
        try:
            session(connection)
        except OSError as error:
            print(f"session ended: {error}", flush=True)
