# SPDX-License-Identifier: GPL-2.0-or-later
"""A stream of numbered lines, paced, whose receiver checks every one: ``serve PORT`` and ``push|pull ADDRESS PORT``.

The client says which way (``push``: the server sends; ``pull``: the client sends) and lets it run until its standard
input ends. Paced well below what any queue here holds, so that a retransmitted segment means a lost packet.

::

    client → server   "push RATE" | "pull RATE"
    push: server → client lines … until the client shuts its direction down, then "end LINES RETRANSMITS 0 0"
    pull: client → server lines …, shuts down; server answers "end LINES RETRANSMITS WRONG GAP_MS"
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import sys
import time
from collections.abc import Callable
from typing import BinaryIO

from aa_cluster.topology.traffic.tcp import retransmits, serve


def line(number: int) -> bytes:
    """The 64 bytes of line ``number``: the number, then digits that depend on it."""
    return b"%010d %052d\n" % (number, number * 2654435761 % 10**40)


def send(connection: socket.socket, rate: float, over: Callable[[float], bool]) -> int:
    """Send ``rate`` lines a second until ``over(wait)`` (which waits at most ``wait`` s) says so; how many went."""
    start, number = time.monotonic(), 0
    while not over(max(0.0, start + number / rate - time.monotonic())):
        connection.sendall(line(number))
        number += 1
    return number


def check(reader: BinaryIO) -> tuple[int, int, int, list[bytes]]:
    """Read to the end: lines, how many were not what they should be, the longest wait for one (ms), and the fields of
    a closing ``end`` line."""
    lines = wrong = 0
    gap, last = 0.0, time.monotonic()
    for got in reader:
        if got.startswith(b"end "):
            return lines, wrong, int(1000 * gap), got.split()[1:]
        now = time.monotonic()
        gap, last = max(gap, now - last), now
        wrong += got != line(lines)
        lines += 1
    return lines, wrong, int(1000 * gap), []


def session(connection: socket.socket) -> None:
    """The server's side of one stream."""
    reader = connection.makefile("rb")
    way, rate = reader.readline().split()
    if way == b"push":
        sent = send(connection, float(rate), lambda wait: _readable(connection, wait))
        connection.sendall(b"end %d %d 0 0\n" % (sent, retransmits(connection)))
    else:
        lines, wrong, gap, _ = check(reader)
        connection.sendall(b"end %d %d %d %d\n" % (lines, retransmits(connection), wrong, gap))


def _readable(connection: socket.socket | BinaryIO, wait: float) -> bool:
    return bool(select.select([connection], [], [], wait)[0])


def run(way: str, address: str, port: int, rate: float) -> dict[str, int]:
    """The client's side: until standard input ends. What both ends counted."""
    with socket.create_connection((address, port), timeout=30) as connection:
        connection.settimeout(60)
        connection.sendall(f"{way} {rate}\n".encode())
        print("open", flush=True)
        reader = connection.makefile("rb")
        sent = 0
        if way == "pull":
            sent = send(connection, rate, lambda wait: _readable(sys.stdin.buffer, wait))
            connection.shutdown(socket.SHUT_WR)
            *_, (lines, again, wrong, gap) = check(reader)
            counted = {"sent": sent, "lines": int(lines), "wrong": int(wrong), "gap_ms": int(gap)}
        else:
            lines_in, wrong_in, gap_in, (told, again) = _receive(connection, reader)
            counted = {"sent": told, "lines": lines_in, "wrong": wrong_in, "gap_ms": gap_in}
        return counted | {"retransmits": retransmits(connection) + int(again)}


def _receive(connection: socket.socket, reader: BinaryIO) -> tuple[int, int, int, tuple[int, bytes]]:
    """Check what the server pushes; at the end of standard input tell it to stop."""
    import threading

    def stop() -> None:
        sys.stdin.buffer.read()
        connection.shutdown(socket.SHUT_WR)

    threading.Thread(target=stop, daemon=True).start()
    lines, wrong, gap, end = check(reader)
    if not end:
        raise ConnectionError(f"the stream broke after {lines} lines")
    return lines, wrong, gap, (int(end[0]), end[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("serve", "push", "pull"))
    parser.add_argument("address", nargs="?", default="")
    parser.add_argument("port", type=int)
    parser.add_argument("--rate", type=float, default=500.0, help="lines a second")
    given = parser.parse_args()
    if given.what == "serve":
        serve(given.port, session)
    print(json.dumps(run(given.what, given.address, given.port, given.rate)), flush=True)


if __name__ == "__main__":
    main()
