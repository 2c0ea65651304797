# SPDX-License-Identifier: GPL-2.0-or-later
"""Sessions that come and go: ``ADDRESS PORT --count N --at-once M``. Each is one HTTP request; the client closes first.

So TIME_WAIT is this host's: at the server, behind a masquerade with random ports, it would refuse sessions that happen
to get the same port again (PAWS). Each session has the next source port, from 10,000 on: where most are taken, the
kernel would search long for a free one. M sessions are opened, then asked and closed, then the next M. Prints one line
of JSON.
"""

from __future__ import annotations

import argparse
import errno
import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

from aa_cluster.topology.traffic.tcp import family_of

REQUEST = b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n"
PATIENCE = struct.pack("ll", 4, 0)
FIRST_PORT, MOST = 10_000, 55_000


def begin(address: str, port: int, source_port: int) -> socket.socket:
    """A connection on its way."""
    connection = socket.socket(family_of(address))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    connection.bind(("", source_port))
    for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, PATIENCE)
    connection.setblocking(False)
    if (code := connection.connect_ex((address, port))) not in (0, errno.EINPROGRESS):
        connection.close()
        raise OSError(code, "connect")
    connection.setblocking(True)
    return connection


def finish(connection: socket.socket) -> None:
    """Ask, read the answer, close."""
    with connection:
        connection.send(REQUEST)
        answer = connection.recv(4096)
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise ConnectionError(f"answer begins {answer[:40]!r}")


@contextmanager
def noted(failed: list[str]) -> Iterator[None]:
    """A session that fails inside is one more in ``failed``."""
    try:
        yield
    except OSError as error:
        failed.append(f"{type(error).__name__}: {error}")


def run(address: str, port: int, count: int, at_once: int) -> dict[str, object]:
    failed: list[str] = []
    start = time.monotonic()
    for first in range(0, count, at_once):
        under_way: list[socket.socket] = []
        for number in range(first, min(first + at_once, count)):
            with noted(failed):
                under_way.append(begin(address, port, FIRST_PORT + number))
        for connection in under_way:
            with noted(failed):
                finish(connection)
    return {"completed": count - len(failed), "failed": failed[:20], "seconds": time.monotonic() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=64)
    given = parser.parse_args()
    if given.count > MOST:
        parser.error(f"no more than {MOST} sessions: each has a port of its own")
    print(json.dumps(run(given.address, given.port, given.count, given.at_once)), flush=True)


if __name__ == "__main__":
    main()
