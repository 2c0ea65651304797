# SPDX-License-Identifier: GPL-2.0-or-later
"""UDP sessions, each with a socket of its own: ``serve PORT`` answers, ``ask ADDRESS PORT --count N`` asks.

The answer to each question says who answered and whom he saw asking, as the web servers' page does, so that it tells
what was made of the session's address and port. A session whose asker changes from one answer to the next has failed.
Prints one line of JSON when all have had their answers. With ``--hold`` all sockets stay open until standard input
ends; each line there lets all ask once more, and a line of JSON says how that went.

``--first``: bytes of the first question. ``--unanswered``: so many questions come first that are not to be answered,
each ``--pause`` seconds before the next: datagrams that begin a session at once race each other through netfilter.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice

from aa_cluster.topology.traffic.tcp import family_of
from aa_cluster.topology.traffic.udp import Listener

ASK, TELL = b"ask", b"tell"
"""What is to be answered, and what is not."""


def serve(port: int, name: str) -> None:
    """Answers are ``SESSION NUMBER NAME asked:port asker:port``."""
    with Listener(port) as listener:
        print("ready", flush=True)
        while (asked := listener.take()) is not None:
            word, session, number, *_ = asked.payload.split()
            if word == ASK:
                listener.answer(asked, b"%s %s %s %s" % (session, number, name.encode(), asked.line(port).encode()))


class Session:
    """``seen``: what the server said first about itself and the asker; ``trouble``: what went wrong first."""

    def __init__(self, number: int, address: str, port: int, source: str, timeout: float) -> None:
        self.number = number
        self.asked = 0
        self.seen = self.trouble = ""
        self.socket = socket.socket(family_of(address), socket.SOCK_DGRAM)
        self.socket.settimeout(timeout)
        if source:
            self.socket.bind((source, 0))
        self.socket.connect((address, port))

    def say(self, word: bytes, size: int = 0) -> None:
        self.asked += 1
        self.socket.send((b"%s %d %d " % (word, self.number, self.asked)).ljust(size, b"\0"))

    def ask(self, size: int = 0) -> bool:
        """Whether the right answer came."""
        try:
            self.say(ASK, size)
            number, asked, said = self.socket.recv(4096).decode().split(" ", 2)
        except OSError as error:
            return self._fails(f"question {self.asked}: {type(error).__name__} {error}")
        if (int(number), int(asked)) != (self.number, self.asked):
            return self._fails(f"question {self.asked} of {self.number}: answer to {asked} of {number}")
        self.seen = self.seen or said
        return said == self.seen or self._fails(f"question {self.asked}: first {self.seen}, now {said}")

    def _fails(self, why: str) -> bool:
        self.trouble = self.trouble or why
        return False


def begin(session: Session, given: argparse.Namespace) -> bool:
    first = given.first
    for _ in range(given.unanswered):
        session.say(TELL, first)
        first = 0
        time.sleep(given.pause)
    return all(session.ask(first if turn == 0 else 0) for turn in range(given.questions))


def together(sessions: list[Session], parallel: int, work: Callable[[Session], bool]) -> dict[str, object]:
    """``work`` with each of them, so many at once."""
    start = time.monotonic()
    with ThreadPoolExecutor(max_workers=parallel) as pool:
        completed = sum(pool.map(work, sessions))
    failed = [f"session {session.number}: {session.trouble}" for session in sessions if session.trouble]
    return {"completed": completed, "failed": failed, "seconds": time.monotonic() - start}


def run(given: argparse.Namespace) -> None:
    sources = islice(cycle(given.source or [""]), given.count)
    sessions = [
        Session(number, given.address, given.port, source, given.timeout) for number, source in enumerate(sources)
    ]
    told = together(sessions, given.parallel, lambda session: begin(session, given))
    told |= {"asked": given.count, "seen": [session.seen for session in sessions if not session.trouble]}
    names = [session.socket.getsockname() for session in sessions]
    print(json.dumps(told | {"ports": [name[1] for name in names], "sources": [name[0] for name in names]}), flush=True)
    while given.hold and sys.stdin.readline():
        print(json.dumps(together(sessions, given.parallel, Session.ask)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("serve", "ask"))
    parser.add_argument("address", nargs="?", default="")
    parser.add_argument("port", type=int)
    parser.add_argument("--name", default="server", help="who answers")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--questions", type=int, default=3, help="of each session, one after the other")
    parser.add_argument("--unanswered", type=int, default=0)
    parser.add_argument("--pause", type=float, default=0.02, help="seconds")
    parser.add_argument("--first", type=int, default=0, help="bytes")
    parser.add_argument("--parallel", type=int, default=16)
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds an answer may take")
    parser.add_argument("--hold", action="store_true")
    parser.add_argument("--source", action="append", default=[], help="local address; may be repeated")
    given = parser.parse_args()
    if given.what == "serve":
        serve(given.port, given.name)
    else:
        run(given)


if __name__ == "__main__":
    main()
