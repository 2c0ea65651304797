# SPDX-License-Identifier: GPL-2.0-or-later
"""Many paced streams in one process: ``serve PORT`` echoes, ``send ADDRESS PORT --count N --rate LINES`` checks.

Every stream sends a numbered line at its rate and expects it back; the longest time between two that came back is its
gap. Runs until standard input ends, then waits for what is still under way. Both run at a raised priority where that is
allowed: what is measured is the network, not who gets the CPU. A machine whose cores do nothing but the work of its
network's interrupts keeps even that from the sender: gaps are told again without the time in which it was late itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import selectors
import socket
import sys
import time

from aa_cluster.topology.traffic.stream import line
from aa_cluster.topology.traffic.tcp import listening, retransmits

PRIORITY = -10
PATIENCE = 5.0
"""Seconds that lines may be under way after the last was sent."""
KEPT, LATE = 0.030, 0.010
"""Seconds: gaps from there on are kept with their begin, and so is when the sender was later than that."""


class Pulse:
    """One stream at the client."""

    def __init__(self, address: str, port: int) -> None:
        self.socket = socket.create_connection((address, port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.sent = self.right = 0
        self.broken = False
        self.gap, self.last = 0.0, time.monotonic()
        self.gaps: list[tuple[float, float]] = []
        self._rest = b""

    def send(self) -> None:
        """The next line; a full socket buffer (64 KiB and more of them unanswered) breaks the stream."""
        try:
            self.socket.send(line(self.sent))
            self.sent += 1
        except OSError:
            self.broken = True

    def take(self) -> None:
        """What came back."""
        try:
            data = self.socket.recv(65536)
        except OSError:
            data = b""
        if not data:
            self.broken = True
            return
        now = time.monotonic()
        if now - self.last > KEPT:
            self.gaps.append((self.last, now))
        self.gap, self.last = max(self.gap, now - self.last), now
        *whole, self._rest = (self._rest + data).split(b"\n")
        for one in whole:
            self.right += one + b"\n" == line(self.right)


def net_gap(way: Pulse, late: list[tuple[float, float]]) -> float:
    """The longest gap of what is left of each without the times (begin, end) in which the sender was late, s."""
    kept = (
        ended - began - sum(max(0.0, min(ended, end) - max(began, begin)) for begin, end in late)
        for began, ended in way.gaps
    )
    return max(kept, default=way.gap)


def send(address: str, port: int, count: int, rate: float) -> dict[str, object]:
    """Until standard input ends; what all streams counted."""
    late: list[tuple[float, float]] = []
    ways = [Pulse(address, port) for _ in range(count)]
    print("open", flush=True)
    with selectors.DefaultSelector() as waiting:
        for way in ways:
            waiting.register(way.socket, selectors.EVENT_READ, way)
            way.last = time.monotonic()
        start, turn, ended = time.monotonic(), 0, float("inf")
        while time.monotonic() < ended and not all(
            way.broken or (ended < 1e18 and way.right == way.sent) for way in ways
        ):
            due = start + turn / (rate * count)
            for key, _ in waiting.select(max(0.0, min(due, ended) - time.monotonic())):
                key.data.take()
                if key.data.broken:
                    waiting.unregister(key.fileobj)
            if ended < float("inf"):
                turn += 1
            while ended == float("inf") and time.monotonic() >= start + turn / (rate * count):
                way = ways[turn % count]
                turn += 1
                if not way.broken:
                    way.send()
            if ended == float("inf") and (now := time.monotonic()) - due > LATE:
                late.append((due, now))
            if ended == float("inf") and select.select([sys.stdin], [], [], 0)[0]:
                ended = time.monotonic() + PATIENCE
    told: dict[str, object] = {"lines": sum(way.sent for way in ways), "echoed": sum(way.right for way in ways)}
    told |= {"broken": sum(way.broken for way in ways), "retransmits": sum(retransmits(way.socket) for way in ways)}
    told["gap_ms"] = [int(1000 * way.gap) for way in ways]
    told["net_ms"] = [int(1000 * net_gap(way, late)) for way in ways]
    told["late_ms"] = 1000 * sum(end - begin for begin, end in late)
    return told


def serve(port: int) -> None:
    """Echo for everybody, in one thread; does not return."""
    with listening(port) as listener, selectors.DefaultSelector() as waiting:
        waiting.register(listener, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            for key, _ in waiting.select():
                if key.fileobj is listener:
                    connection = listener.accept()[0]
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    waiting.register(connection, selectors.EVENT_READ, connection)
                elif not _echo(key.data):
                    waiting.unregister(key.data)
                    key.data.close()


def _echo(connection: socket.socket) -> bool:
    """False at the end."""
    try:
        data = connection.recv(65536)
        if data:
            connection.sendall(data)
    except OSError:
        return False
    return bool(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("serve", "send"))
    parser.add_argument("address", nargs="?", default="")
    parser.add_argument("port", type=int)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--rate", type=float, default=50.0, help="lines a second of each stream")
    given = parser.parse_args()
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    if given.what == "serve":
        serve(given.port)
    print(json.dumps(send(given.address, given.port, given.count, given.rate)), flush=True)


if __name__ == "__main__":
    main()
