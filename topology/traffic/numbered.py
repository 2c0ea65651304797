# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbered datagrams at a steady pace: ``take PORT`` counts and compares, ``send ADDRESS PORT --count N`` sends.

They go over several sessions in turn. Each names its session and its number, and every byte behind follows from the
two. The sender never sends more than ``BURST`` at once: what the machine makes it miss is not made up for, so that no
queue here overflows by its doing. The receiver prints one line of JSON at the end of its standard input, when nothing
has come for a moment.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import select
import socket
import struct
import sys
import time

from aa_cluster.topology.traffic.tcp import family_of
from aa_cluster.topology.traffic.udp import Datagram, Listener

HEAD = struct.Struct("!II")
PATTERN = random.Random(1).randbytes(1 << 12)
BURST = 8
PRIORITY = -10
IDLE = 0.5
"""Seconds: what has not come by then will not."""
TOLD = 20


def datagram(session: int, number: int, size: int) -> bytes:
    start = (session * 40503 + number * 2654435761) % (len(PATTERN) - size)
    return HEAD.pack(session, number) + PATTERN[start : start + size - HEAD.size]


def send(address: str, port: int, count: int, sessions: int, size: int, rate: float) -> dict[str, object]:
    """``rate`` datagrams a second over all. ``late``: how often the pace was not kept."""
    sockets = [socket.socket(family_of(address), socket.SOCK_DGRAM) for _ in range(sessions)]
    for one in sockets:
        one.connect((address, port))
    start = due = time.monotonic()
    late = 0
    for number in range(count):
        if number % BURST == 0:
            wait = due - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            else:
                late += wait < -BURST / rate
                due = time.monotonic()
            due += BURST / rate
        sockets[number % sessions].send(datagram(number % sessions, number // sessions, size))
    ports = [one.getsockname()[1] for one in sockets]
    return {"sent": count, "seconds": time.monotonic() - start, "late": late, "ports": ports}


class Account:
    """What came: by session how often each number did, and from whom."""

    def __init__(self) -> None:
        self.times: dict[int, bytearray] = {}
        self.askers: dict[int, set[str]] = {}
        self.altered: list[str] = []

    def note(self, came: Datagram) -> None:
        session, number = HEAD.unpack_from(came.payload.ljust(HEAD.size))
        if came.payload != datagram(session, number, len(came.payload)):
            self.altered.append(f"{len(came.payload)} bytes from {came.asker[:2]}: {came.payload[:16].hex()}…")
            return
        times = self.times.setdefault(session, bytearray())
        if number >= len(times):
            times.extend(bytes(number + 1 - len(times)))
        times[number] = min(255, times[number] + 1)
        self.askers.setdefault(session, set()).add(f"{came.asker[0]}:{came.asker[1]}")

    def report(self) -> dict[str, object]:
        """``arrived``: different ones; ``missing``: ranges of numbers, those below the last that came."""
        return {
            "arrived": sum(len(times) - times.count(0) for times in self.times.values()),
            "repeated": sum(len(times) - times.count(0) - times.count(1) for times in self.times.values()),
            "altered": self.altered[:TOLD],
            "first_missing": [session for session, times in self.times.items() if not times[0]],
            "missing": [f"{session}: {times.index(0)}" for session, times in self.times.items() if 0 in times][:TOLD],
            "askers": {str(session): sorted(askers) for session, askers in self.askers.items()},
        }


def take(port: int) -> dict[str, object]:
    """Until standard input has ended and nothing comes any more."""
    account = Account()
    with Listener(port) as listener:
        print("ready", flush=True)
        while True:
            came = listener.take(IDLE)
            if came is not None:
                account.note(came)
            elif select.select([sys.stdin], [], [], 0)[0]:
                return account.report() | {"overrun": listener.overrun()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("take", "send"))
    parser.add_argument("address", nargs="?", default="")
    parser.add_argument("port", type=int)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--size", type=int, default=200)
    parser.add_argument("--rate", type=float, default=20_000.0, help="datagrams a second")
    given = parser.parse_args()
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    if given.what == "take":
        print(json.dumps(take(given.port)), flush=True)
        return
    done = send(given.address, given.port, given.count, given.sessions, given.size, given.rate)
    print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main()
