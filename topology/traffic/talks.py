# SPDX-License-Identifier: GPL-2.0-or-later
"""Sessions of every temper in one process: who speaks, and when. ``serve PORT``; ``open ADDRESS PORT KIND=COUNT …``.

    pull         the server sends numbered lines at a pace        late-server  silent, until the server says one line
    push         the client does                                  late-client  silent, until the client does
    echo         the client asks at a pace, the server answers

On standard input ``speak`` makes the silent ones of that side speak; ``stop`` ends the pace, and a second later a
report by kind is printed. A stream's gap is the longest time without a line, from its first one (the pace begins when
all are open) until ``stop``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import socket
import time

from aa_cluster.topology.traffic.stream import line
from aa_cluster.topology.traffic.tcp import listening, retransmits

PRIORITY = -10
SETTLE = 1.0
STDIN = 0
SENDERS = {"server": ("pull",), "client": ("push", "echo")}
RECEIVERS = {"server": ("push", "late-client"), "client": ("pull", "echo", "late-server")}
LATE = {"server": "late-server", "client": "late-client"}


class Talk:
    """One end of a session."""

    def __init__(self, connection: socket.socket, kind: str, side: str) -> None:
        self.socket, self.kind = connection, kind
        self.sends, self.receives = kind in SENDERS[side], kind in RECEIVERS[side]
        self.late, self.echoes = kind == LATE[side], side == "server" and kind == "echo"
        self.sent = self.lines = self.wrong = 0
        self.broken = False
        self.begun, self.gap, self.last = time.monotonic(), 0.0, 0.0
        self._rest = b""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)

    def say(self) -> None:
        try:
            self.socket.send(line(self.sent))
            self.sent += 1
        except OSError:
            self.broken = True

    def take(self) -> bool:
        """False when the session has ended."""
        try:
            data = self.socket.recv(65536)
            if self.echoes and data:
                self.socket.sendall(data)
        except OSError:
            data = b""
        if not data:
            return False
        now = time.monotonic()
        self.gap, self.last = max(self.gap, now - (self.last or now)), now
        *whole, self._rest = (self._rest + data).split(b"\n")
        for one in whole:
            self.wrong += one + b"\n" != line(self.lines)
            self.lines += 1
        return True

    @property
    def paced(self) -> bool:
        """Lines are expected here all the time."""
        return self.receives and not self.kind.startswith("late")


class Talks:
    """All ends of one side, in one loop."""

    def __init__(self, side: str, rate: float, listener: socket.socket | None = None) -> None:
        self.side, self.rate, self.listener = side, rate, listener
        self.ends: list[Talk] = []
        self.waiting = selectors.DefaultSelector()
        self.waiting.register(STDIN, selectors.EVENT_READ)
        if listener is not None:
            self.waiting.register(listener, selectors.EVENT_READ)

    def add(self, connection: socket.socket, kind: str) -> None:
        end = Talk(connection, kind, self.side)
        self.ends.append(end)
        self.waiting.register(connection, selectors.EVENT_READ, end)

    def run(self) -> None:
        """Until ``stop``, and a moment longer."""
        turn, start, until = 0, time.monotonic(), float("inf")
        while time.monotonic() < until:
            senders = [end for end in self.ends if end.sends and not end.broken]
            due = start + turn / self.rate
            if time.monotonic() >= due and until == float("inf"):
                turn = int((time.monotonic() - start) * self.rate) + 1
                for end in senders:
                    end.say()
            for key, _ in self.waiting.select(max(0.0, min(due, until) - time.monotonic())):
                if key.fileobj == STDIN:
                    for word in os.read(STDIN, 4096).decode().split() or ["stop"]:
                        until = self._obey(word, until)
                elif key.fileobj is self.listener:
                    self._accept()
                elif not key.data.take():
                    self.waiting.unregister(key.fileobj)
                    key.data.broken |= until == float("inf")
            if until < float("inf"):
                due = until

    def _obey(self, word: str, until: float) -> float:
        if word == "speak":
            for end in self.ends:
                if end.late:
                    end.say()
            return until
        now = time.monotonic()
        self.waiting.unregister(STDIN)
        for end in self.ends:
            if end.paced:
                end.gap = max(end.gap, now - (end.last or end.begun))
        return now + SETTLE

    def _accept(self) -> None:
        """The first line, which comes with the handshake, says the kind."""
        if self.listener is not None:
            connection = self.listener.accept()[0]
            connection.settimeout(10)
            word = b""
            while not word.endswith(b"\n"):
                word += connection.recv(1)
            connection.sendall(b"!")
            self.add(connection, word.decode().strip())

    def report(self) -> dict[str, dict[str, object]]:
        out: dict[str, dict[str, object]] = {}
        for kind in dict.fromkeys(end.kind for end in self.ends):
            ends = [end for end in self.ends if end.kind == kind]
            out[kind] = {
                "sessions": len(ends),
                "broken": sum(end.broken for end in ends),
                "sent": sum(end.sent for end in ends),
                "lines": sum(end.lines for end in ends),
                "wrong": sum(end.wrong for end in ends),
                "repeated": sum(retransmits(end.socket) for end in ends),
                "gaps_ms": sorted(int(1000 * end.gap) for end in ends) if ends[0].paced else [],
            }
        return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("serve", "open"))
    parser.add_argument("address", nargs="?", default="")
    parser.add_argument("port", type=int)
    parser.add_argument("kinds", nargs="*", help="KIND=COUNT")
    parser.add_argument("--rate", type=float, default=50.0, help="lines a second of each stream")
    given = parser.parse_args()
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    if given.what == "serve":
        talks = Talks("server", given.rate, listening(given.port))
        print("ready", flush=True)
    else:
        talks = Talks("client", given.rate)
        for kind, _, count in (word.partition("=") for word in given.kinds):
            for _ in range(int(count)):
                connection = socket.create_connection((given.address, given.port), timeout=10)
                connection.sendall(f"{kind}\n".encode())
                if connection.recv(1) != b"!":
                    raise SystemExit(f"{given.address}:{given.port} did not take {kind}")
                talks.add(connection, kind)
        print("open", flush=True)
    talks.run()
    print(json.dumps(talks.report()), flush=True)


if __name__ == "__main__":
    main()
