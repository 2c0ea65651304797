# SPDX-License-Identifier: GPL-2.0-or-later
"""One source port, one HTTP session after the other: ``ADDRESS PORT SOURCE_PORT --count N --end reset|peer``.

``reset``: the client ends each with a RST. ``peer``: the server closes first and the client waits until its own FIN is
acknowledged, so that neither a socket nor TIME_WAIT of this host holds the port. ``--pause``: seconds between two
sessions; without one the next SYN can come to the server while it still has the old session: nothing acknowledges a
RST, and a FIN is acknowledged before the server lets go of its socket. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import time

from aa_cluster.topology.traffic.tcp import family_of, retransmits

PATIENCE = 10
"""Seconds a session may take; a lost SYN comes again after one."""
ABORT, WAIT = struct.pack("ii", 1, 0), struct.pack("ii", 1, PATIENCE)


def session(address: str, port: int, source_port: int, reset: bool) -> int:
    """One whole session; ``OSError`` when it fails. How many segments, SYN included, had to be sent again."""
    head = b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: %s\r\n\r\n" % (b"keep-alive" if reset else b"close")
    with socket.socket(family_of(address)) as connection:
        connection.settimeout(PATIENCE)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT if reset else WAIT)
        connection.bind(("", source_port))
        connection.connect((address, port))
        connection.sendall(head)
        answer = connection.recv(4096)
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise ConnectionError(f"answer begins {answer[:40]!r}")
        while not reset and connection.recv(4096):
            pass
        connection.settimeout(None)  # close() waits for the last ACK only on a blocking socket
        return retransmits(connection)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("source_port", type=int)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--end", choices=("reset", "peer"), default="reset")
    parser.add_argument("--pause", type=float, default=0.0)
    given = parser.parse_args()
    failed: list[str] = []
    slowest, again, start = 0.0, 0, time.monotonic()
    for turn in range(given.count):
        began = time.monotonic()
        try:
            again += session(given.address, given.port, given.source_port, given.end == "reset")
        except OSError as error:
            failed.append(f"turn {turn}: {type(error).__name__}: {error}")
        slowest = max(slowest, time.monotonic() - began)
        time.sleep(given.pause)
    told = {"completed": given.count - len(failed), "failed": failed, "repeated": again}
    print(json.dumps(told | {"slowest_ms": int(1000 * slowest), "seconds": time.monotonic() - start}), flush=True)


if __name__ == "__main__":
    main()
