# SPDX-License-Identifier: GPL-2.0-or-later
"""New short sessions at a steady rate, both ends in this process: ``CLIENT-NS SERVER-NS --rate N``.

Each connects, asks one line, gets one back, and closes first; they go the ways of ``ends.Ways`` in turn. Those over UDP
are a datagram and its answer, and ask again after a second, as TCP does with its SYN. Says ``open`` when it begins; at
the end of standard input one line of JSON: how many completed, how long the slowest took, and each that was not clean
(a SYN or a question sent again, slower than 100 ms, failed), with when it began (CLOCK_MONOTONIC, s) and its client's
port.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import socket
import time
from collections import deque
from pathlib import Path

from aa_cluster.topology.traffic.ends import Ways, by_udp, named, prepare, why
from aa_cluster.topology.traffic.paced import LINE, line
from aa_cluster.topology.traffic.tcp import retransmits, state

SLOW_MS = 100
MOST_KEPT = 5000
AGAIN = 1.0
"""Seconds after which a datagram without an answer is sent again."""
ERROR = select.EPOLLERR | select.EPOLLHUP


class Arrival:
    """One session, seen by its client."""

    __slots__ = ("again", "began", "connection", "number", "port", "said", "way")

    def __init__(self, number: int, way: str, connection: socket.socket | None) -> None:
        self.number, self.way, self.connection = number, way, connection
        self.began = self.said = time.monotonic()
        self.again = 0
        self.port = connection.getsockname()[1] if connection is not None else 0


class Arrivals:
    """``patience``: s a session may take."""

    def __init__(self, ways: Ways, rate: float, patience: float) -> None:
        self._ways, self._rate, self._patience = ways, rate, patience
        self._epoll = select.epoll()
        self._clients: dict[int, Arrival] = {}
        self._servers: dict[int, socket.socket] = {}
        self._ages: deque[Arrival] = deque()
        self._listeners = {listener.fileno(): listener for listener in ways.listeners}
        self._receivers = {receiver.fileno(): receiver for receiver in ways.receivers}
        self.begun = self.completed = 0
        self.times: list[float] = []
        self.unclean: list[tuple[float, str, float, int, str, int]] = []
        self.late = 0.0
        for descriptor in (*self._listeners, *self._receivers):
            self._epoll.register(descriptor, select.EPOLLIN)

    def run(self) -> None:
        self._epoll.register(0, select.EPOLLIN)
        start, going = time.monotonic(), True
        while going or self._clients:
            due = start + self.begun / self._rate
            wait = max(0.0, min(0.02, due - time.monotonic())) if going else 0.02
            for descriptor, events in self._epoll.poll(wait):
                if descriptor == 0:
                    going = going and bool(os.read(0, 4096))
                    if not going:
                        self._epoll.unregister(0)
                else:
                    self._event(descriptor, events)
            now = time.monotonic()
            while going and start + self.begun / self._rate <= now:
                self.late = max(self.late, now - start - self.begun / self._rate)
                self._begin()
            self._ask_again(now)
            self._give_up(now)

    def report(self) -> dict[str, object]:
        ordered = sorted(self.times)
        middle = ordered[len(ordered) // 2] if ordered else 0.0
        told = {"begun": self.begun, "completed": self.completed, "median_ms": 1000 * middle}
        return told | {"late_ms": 1000 * self.late, "unclean": self.unclean}

    def _begin(self) -> None:
        way = self._ways.names[self.begun % len(self._ways.names)]
        self.begun += 1
        try:
            connection = self._ways.begin(way)
        except OSError as error:
            self._note(Arrival(self.begun, way, None), named(error.errno or 0))
            return
        arrival = Arrival(self.begun % 1_000_000, way, connection)
        self._clients[connection.fileno()] = arrival
        self._ages.append(arrival)
        self._epoll.register(connection, select.EPOLLIN if by_udp(way) else select.EPOLLOUT)
        if by_udp(way):
            self._say(arrival)

    def _event(self, descriptor: int, events: int) -> None:
        if descriptor in self._listeners:
            self._accept(self._listeners[descriptor])
        elif descriptor in self._receivers:
            self._answer(self._receivers[descriptor])
        elif (arrival := self._clients.get(descriptor)) is not None:
            self._client(arrival, events)
        elif (server := self._servers.get(descriptor)) is not None:
            self._server(server)

    def _client(self, arrival: Arrival, events: int) -> None:
        connection = arrival.connection
        if connection is None:
            return
        try:
            if by_udp(arrival.way):
                self._answered(arrival, connection)
            elif events & ERROR:
                self._end(arrival, why(connection))
            elif events & select.EPOLLOUT:
                arrival.again = retransmits(connection)
                connection.send(line(arrival.number, 0, 0))
                self._epoll.modify(connection, select.EPOLLIN)
            elif events & select.EPOLLIN:
                right = connection.recv(4096) == line(arrival.number, 1, 0)
                self._end(arrival, "" if right else "another answer")
        except OSError as error:
            self._end(arrival, named(error.errno or 0))

    @staticmethod
    def _say(arrival: Arrival) -> None:
        arrival.said = time.monotonic()
        with contextlib.suppress(OSError):  # about the datagram before, or lost: it is sent again
            if arrival.connection is not None:
                arrival.connection.send(line(arrival.number, 0, 0))

    def _answered(self, arrival: Arrival, connection: socket.socket) -> None:
        try:
            right = connection.recv(4096) == line(arrival.number, 1, 0)
        except OSError:
            return  # an ICMP error: as if the datagram were lost
        self._end(arrival, "" if right else "another answer")

    @staticmethod
    def _answer(receiver: socket.socket) -> None:
        with contextlib.suppress(OSError):  # BlockingIOError: all are answered
            while True:
                asked, asker = receiver.recvfrom(4096)
                receiver.sendto(line(int(asked[:6]), 1, 0), asker)

    def _ask_again(self, now: float) -> None:
        """Those over UDP; few sessions are under way at a time."""
        for arrival in self._clients.values():
            if by_udp(arrival.way) and now - arrival.said > AGAIN:
                arrival.again += 1
                self._say(arrival)

    def _server(self, server: socket.socket) -> None:
        """Answers the line with its own; the end of a session ends it here too."""
        try:
            asked = server.recv(LINE)
            if asked:
                server.send(line(int(asked[:6]), 1, 0))
                return
        except BlockingIOError:
            return
        except (OSError, ValueError):
            asked = b""
        self._epoll.unregister(server)
        del self._servers[server.fileno()]
        server.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                accepted, _ = listener.accept()
            except BlockingIOError:
                return
            accepted.setblocking(False)
            self._servers[accepted.fileno()] = accepted
            self._epoll.register(accepted, select.EPOLLIN)

    def _end(self, arrival: Arrival, trouble: str) -> None:
        if arrival.connection is not None:
            if trouble and not by_udp(arrival.way):
                arrival.again = max(arrival.again, retransmits(arrival.connection))
            del self._clients[arrival.connection.fileno()]
            self._epoll.unregister(arrival.connection)
            arrival.connection.close()
            arrival.connection = None
        self._note(arrival, trouble)

    def _note(self, arrival: Arrival, trouble: str) -> None:
        took = time.monotonic() - arrival.began
        if not trouble:
            self.completed += 1
            self.times.append(took)
        if (trouble or arrival.again or 1000 * took > SLOW_MS) and len(self.unclean) < MOST_KEPT:
            self.unclean.append((arrival.began, arrival.way, 1000 * took, arrival.again, trouble, arrival.port))

    def _give_up(self, now: float) -> None:
        while self._ages and (self._ages[0].connection is None or now - self._ages[0].began > self._patience):
            oldest = self._ages.popleft()
            if oldest.connection is not None:
                where = "" if by_udp(oldest.way) else f" in {state(oldest.connection)}"
                self._end(oldest, f"timeout{where}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("client", type=Path, help="network namespace")
    parser.add_argument("server", type=Path, help="network namespace")
    parser.add_argument("--port", type=int, default=7002, help="both hosts listen here")
    parser.add_argument("--published", type=int, default=7102, help="port of the cluster that leads to the client's")
    parser.add_argument("--ways", default=",".join(Ways.NAMES), help="of traffic/ends.py")
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--patience", type=float, default=6.0, help="seconds a session may take")
    given = parser.parse_args()
    prepare()
    ways = Ways(given.client, given.server, given.port, given.published, given.ways.split(","))
    work = Arrivals(ways, given.rate, given.patience)
    print("open", flush=True)
    work.run()
    print(json.dumps(work.report()), flush=True)


if __name__ == "__main__":
    main()
