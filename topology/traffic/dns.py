# SPDX-License-Identifier: GPL-2.0-or-later
"""Many DNS queries at once: ``ADDRESS PORT --count N --each M``; every M of them come from a socket of their own.

Asks for A records of names that are never the same (``NUMBER.lab.test``), and looks at identification, question,
return code and address of the answer. A query without an answer is sent again after a second, as resolvers do. Prints
one line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import selectors
import socket
import struct
import time
from collections import deque

from aa_cluster.topology.traffic.tcp import family_of

HEADER = struct.Struct("!6H")
DESIRED, A, IN = 0x0100, 1, 1
ANSWER = 0x8000
CODE = 0x000F
ZONE = (b"lab", b"test")
WANTED = socket.inet_aton("192.0.2.53")
PATIENCE, TRIES = 1.0, 5
TOLD, PORTS_TOLD = 20, 1000


def query(number: int) -> bytes:
    labels = (b"%d" % number, *ZONE, b"")
    name = b"".join(bytes((len(label),)) + label for label in labels)
    return HEADER.pack(number & 0xFFFF, DESIRED, 1, 0, 0, 0) + name + struct.pack("!HH", A, IN)


def trouble(number: int, answer: bytes) -> str:
    """What is wrong with the answer to query ``number`` (RFC 1035, 4.1); empty when nothing is."""
    asked = query(number)
    if len(answer) < HEADER.size:
        return f"{len(answer)} bytes"
    identification, flags, _, answers, _, _ = HEADER.unpack_from(answer)
    if identification != number & 0xFFFF or not flags & ANSWER or flags & CODE or answers != 1:
        return f"header {answer[: HEADER.size].hex()}"
    if answer[HEADER.size : len(asked)].lower() != asked[HEADER.size :] or not answer.endswith(WANTED):
        return f"another question or address: {answer.hex()}"
    return ""


class Asker:
    """One socket, one query under way at a time."""

    def __init__(self, address: str, port: int, numbers: range) -> None:
        self.socket = socket.socket(family_of(address), socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.connect((address, port))
        self.port: int = self.socket.getsockname()[1]
        self._numbers = iter(numbers)
        self.number = -1
        self.tries = 0
        self.repeated = False
        self.sent = 0.0

    def next(self) -> bool:
        """The next query; False when there is none."""
        self.number = next(self._numbers, -1)
        self.tries = 0
        if self.number >= 0:
            self.say()
        return self.number >= 0

    def say(self) -> None:
        self.tries += 1
        self.repeated |= self.tries > 1
        self.sent = time.monotonic()
        with contextlib.suppress(OSError):  # an ICMP error about the one before: this one counts
            self.socket.send(query(self.number))


class Questions:
    """All of them, ``parallel`` under way at once."""

    def __init__(self, given: argparse.Namespace) -> None:
        starts = range(0, given.count, given.each)
        self._waiting = deque(range(start, min(start + given.each, given.count)) for start in starts)
        self._given = given
        self._selector = selectors.DefaultSelector()
        self._under_way: set[Asker] = set()
        self.answered = self.again = 0
        self.failed: list[str] = []
        self.ports: list[int] = []

    def run(self) -> None:
        looked = time.monotonic()
        while self._waiting or self._under_way:
            while self._waiting and len(self._under_way) < self._given.parallel:
                self._begin()
            for key, _ in self._selector.select(PATIENCE / 4):
                self._take(key.data)
            if time.monotonic() - looked > PATIENCE / 4:
                looked = time.monotonic()
                self._remind(looked)

    def _begin(self) -> None:
        asker = Asker(self._given.address, self._given.port, self._waiting.popleft())
        self.ports.append(asker.port)
        self._under_way.add(asker)
        self._selector.register(asker.socket, selectors.EVENT_READ, asker)
        asker.next()

    def _take(self, asker: Asker) -> None:
        try:
            answer = asker.socket.recv(4096)
        except OSError:
            return  # an ICMP error; the query is sent again
        wrong = trouble(asker.number, answer)
        if wrong and asker.repeated:
            return  # may be the second answer to a query that was sent twice
        self._close(asker, wrong)

    def _remind(self, now: float) -> None:
        for asker in [one for one in self._under_way if now - one.sent > PATIENCE]:
            if asker.tries == TRIES:
                self._close(asker, f"no answer to {TRIES} queries")
            else:
                self.again += asker.tries == 1
                asker.say()

    def _close(self, asker: Asker, wrong: str) -> None:
        """The query is done; the next one, or the end of the socket."""
        self.answered += not wrong
        if wrong:
            self.failed.append(f"query {asker.number} from port {asker.port}: {wrong}")
        if not asker.next():
            self._under_way.remove(asker)
            self._selector.unregister(asker.socket)
            asker.socket.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--each", type=int, default=4, help="queries of each socket")
    parser.add_argument("--parallel", type=int, default=64)
    given = parser.parse_args()
    start, work = time.monotonic(), Questions(given)
    work.run()
    told = {"asked": given.count, "answered": work.answered, "again": work.again, "failed": work.failed[:TOLD]}
    print(json.dumps(told | {"seconds": time.monotonic() - start, "ports": work.ports[:PORTS_TOLD]}), flush=True)


if __name__ == "__main__":
    main()
