# SPDX-License-Identifier: GPL-2.0-or-later
"""What the traffic programs share: addresses of both families, a listener that says it is ready, and how often TCP had
to send again."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable

TOTAL_RETRANS = 100
"""Offset of ``tcpi_total_retrans`` in ``struct tcp_info`` (linux/tcp.h)."""

STATES = {1: "ESTABLISHED", 2: "SYN_SENT", 3: "SYN_RECV", 4: "FIN_WAIT1", 5: "FIN_WAIT2", 7: "CLOSE", 8: "CLOSE_WAIT"}
"""Those that a client which waits can be in (net/tcp_states.h)."""


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def listening(port: int, backlog: int = 1024) -> socket.socket:
    """A listener on all addresses of both families."""
    return socket.create_server(("", port), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=True)


def retransmits(connection: socket.socket) -> int:
    """Segments this end has sent more than once."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TOTAL_RETRANS + 4)
    return int(struct.unpack_from("=I", info, TOTAL_RETRANS)[0])


def state(connection: socket.socket) -> str:
    """Where this end's connection stands: ``tcpi_state``."""
    number = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return STATES.get(number, f"state {number}")


def serve(port: int, session: Callable[[socket.socket], None]) -> None:
    """Listen on all addresses, print ``ready``, run ``session`` in a thread per connection; does not return."""
    with listening(port) as listener:
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
