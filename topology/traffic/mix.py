# SPDX-License-Identifier: GPL-2.0-or-later
"""Many established streams of four kinds, both ends in this process: ``CLIENT-NS SERVER-NS --count N``.

``push``: who accepted sends; ``pull``: who opened sends; ``ask``: who opened asks, the other answers; ``idle``:
silent, half of them until told to speak. Each goes one of several ways (``ends.Ways``), over TCP or UDP. What is sent
are numbered lines of 64 bytes which name their stream; the receiver checks every byte. With ``--fresh R`` so many more
are opened each second.

Some streams are *probes*, with a line every 20 ms: their gap is the time between two arrivals. Of all others it is
the time a line was under way, since their own pace is slower than what is looked for. A line arrives when the kernel
receives it, and what its sender was late by is no part of a gap: how busy this process is makes none. Gaps from 30 ms
on are kept with the time they began (CLOCK_MONOTONIC, s), so that whoever made a fault finds those it caused; so is how
late this process was with the lines of one turn, from 10 ms on.

Says ``{"open": N}`` when all are open, then obeys lines on standard input: ``speak`` (every idle stream says one
line; of half of them who opened, of half who accepted), ``spoil N`` (a wrong byte in stream N), ``close N``, ``abort
N`` (who accepted closes, resets), ``hush N`` (its sender is silent from now on, also at the end), ``pause`` and
``resume`` (all of them). At the end of standard input every end says one more line; what has not arrived within
``--patience`` is stuck. One line of JSON tells about each stream.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import select
import socket
import struct
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from pathlib import Path

from aa_cluster.topology.traffic.arrival import receive
from aa_cluster.topology.traffic.ends import Ways, by_udp, prepare, why
from aa_cluster.topology.traffic.paced import KINDS, LINE, PROBE, SELDOM, SLOW, End, Stream
from aa_cluster.topology.traffic.paced_udp import AGAIN, Correspondent, DatagramStream
from aa_cluster.topology.traffic.tcp import retransmits

LATE = 0.010
MOST_LATE = 10_000
BURST = 16
"""Streams that say their last line at once: two thousand lines would overrun the ring of a cable."""
OPENING = 64
"""Connections under way at once while the first ones are opened."""
READ = select.EPOLLIN | select.EPOLLRDHUP
ERROR = select.EPOLLERR | select.EPOLLHUP
ABORT, WAIT = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)
"""SO_LINGER: closing sends a RST, or a FIN."""


def plan(count: int, probes: int, seed: int, ways: Sequence[str] = Ways.NAMES) -> list[Stream]:
    """Kinds and ways in equal parts; of each sort that speaks as many probes as of the others; in random order."""
    sorts = [(kind, way) for way in ways for kind in KINDS]
    made, left = [], dict.fromkeys(sorts, max(1, round(probes / (3 * len(ways)))))
    for number in range(count):
        kind, way = sorts[number % len(sorts)]
        period = SLOW
        if kind == "idle":
            period = SELDOM if number // len(sorts) % 2 else 0.0
        elif left[kind, way]:
            left[kind, way] -= 1
            period = PROBE
        made.append(stream_of(number, kind, way, period))
    random.Random(seed).shuffle(made)
    return made


def stream_of(number: int, kind: str, way: str, period: float) -> Stream:
    return (DatagramStream if by_udp(way) else Stream)(number, kind, way, period)


class Mixture:
    """The streams and their one event loop."""

    def __init__(self, ways: Ways, given: argparse.Namespace) -> None:
        self.streams: dict[int, Stream] = {}
        self.late: list[tuple[float, float]] = []
        self._ways, self._given = ways, given
        self._waiting = plan(given.count, given.probes, given.seed, ways.names)[::-1]
        self._dice = random.Random(given.seed)
        self._epoll = select.epoll()
        self._known: dict[int, tuple[Stream, End]] = {}
        self._unnamed: dict[int, socket.socket] = {}
        self._due: list[tuple[float, int, bool]] = []
        self._unanswered: deque[tuple[float, Stream]] = deque()
        self._listeners = {listener.fileno(): listener for listener in ways.listeners}
        self._receivers = {receiver.fileno(): receiver for receiver in ways.receivers}
        self._opening = 0
        self._trouble: list[str] = []
        self._paced = True
        self._still = False
        self._looked = time.monotonic()
        for descriptor in (*self._listeners, *self._receivers):
            self._epoll.register(descriptor, select.EPOLLIN)

    # -- the three parts of its life

    def open(self, patience: float) -> dict[str, object]:
        """All of the plan; how many are open, and of the others why not."""
        end = time.monotonic() + patience
        while (self._waiting or self._opening) and time.monotonic() < end:
            while self._waiting and self._opening < OPENING:
                self._begin(self._waiting.pop())
            self._turn(0.02)
        states = Counter(stream.state for stream in self.streams.values())
        return {"open": states.pop("open", 0), "trouble": [*self._trouble, *(f"{states[one]} {one}" for one in states)]}

    def run(self) -> None:
        """Until the end of standard input."""
        self._epoll.register(0, select.EPOLLIN | select.EPOLLHUP)
        began, opened = time.monotonic(), 0
        while self._paced:
            now = time.monotonic()
            if self._still:
                began, opened = now, 0
            while self._given.fresh and opened < (now - began) * self._given.fresh:
                self._begin(self._another())
                opened += 1
            self._turn(0.02)

    def finish(self, patience: float) -> None:
        """Each end says a line; what is still missing when the patience ends will not come."""
        for number, stream in enumerate(self.streams.values()):
            stream.arrived = 0.0
            for end in stream.ends:
                stream.say(end)
            if number % BURST == 0:
                self._turn(0.001)
        self._await_last_lines(patience)
        for stream in self.streams.values():
            if stream.state == "opening" or not stream.settled or any(end.silent for end in stream.ends):
                stream.state = "refused" if stream.state == "opening" else "stuck"

    def _await_last_lines(self, patience: float) -> None:
        over = again = time.monotonic()
        over += patience
        while (now := time.monotonic()) < over and not all(stream.settled for stream in self.streams.values()):
            if now - again > AGAIN:
                again = now
                self._insist(self.streams.values())
            self._turn(0.02)

    @staticmethod
    def _insist(streams: Iterable[Stream]) -> None:
        for stream in streams:
            if isinstance(stream, DatagramStream) and stream.state in ("open", "opening"):
                stream.insist()

    def close(self) -> None:
        """By RST: TIME_WAIT at a server would refuse streams that get the same translated port in the next minute."""
        for stream in self.streams.values():
            for end in stream.ends:
                if isinstance(end.connection, socket.socket):
                    end.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
                    end.connection.close()

    def report(self) -> dict[str, object]:
        return {"streams": [_row(stream) for stream in self.streams.values()], "late": self.late}

    # -- one turn

    def _turn(self, longest: float) -> None:
        wait = longest
        if self._due and self._paced:
            wait = min(max(0.0, self._due[0][0] - time.monotonic()), longest)
        found = self._epoll.poll(wait)
        polled = time.monotonic()
        for descriptor, events in found:
            self._event(descriptor, events)
        self._looked = polled
        now = time.monotonic()
        if self._paced and self._due and now - self._due[0][0] > LATE and len(self.late) < MOST_LATE:
            self.late.append((self._due[0][0], now - self._due[0][0]))
        while self._paced and self._due and self._due[0][0] <= now:
            due, number, again = heapq.heappop(self._due)
            self._beat(self.streams[number], due, again)
        while self._unanswered and self._unanswered[0][0] <= now:
            _, stream = self._unanswered.popleft()
            if stream.state == "opening":
                self._insist([stream])
                self._unanswered.append((now + AGAIN, stream))

    def _event(self, descriptor: int, events: int) -> None:
        if descriptor == 0:
            self._obey(os.read(0, 4096).decode())
        elif descriptor in self._listeners:
            self._accept(self._listeners[descriptor])
        elif descriptor in self._receivers:
            self._receive(self._receivers[descriptor])
        elif descriptor in self._unnamed:
            self._name(descriptor)
        elif (known := self._known.get(descriptor)) is not None:
            self._serve(*known, descriptor, events)

    def _serve(self, stream: Stream, end: End, descriptor: int, events: int) -> None:
        if events & ERROR and isinstance(end.connection, socket.socket) and not by_udp(stream.way):
            self._end(stream, end.connection)
        elif events & select.EPOLLOUT:
            stream.established = time.monotonic()
            stream.say(end)
            self._epoll.modify(descriptor, READ)
        else:
            stream.take(end, self._looked, self._paced)
            if stream.state == "opening" and stream.opener.got:
                stream.state = "open"
                stream.established = stream.established or time.monotonic()
                self._opening -= 1
                self._first_beat(stream)
        if stream.state not in ("open", "opening"):
            self._forget(stream)

    def _end(self, stream: Stream, connection: socket.socket) -> None:
        reason = why(connection)
        if stream.state == "opening":
            where = "opener" if stream.opener.connection is connection else "acceptor"
            self._trouble.append(f"{stream.number} {stream.way} port {stream.port}: {reason} at its {where}")
        stream.end(reason)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                accepted, _ = listener.accept()
            except BlockingIOError:
                return
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._unnamed[accepted.fileno()] = accepted
            self._epoll.register(accepted, READ)

    def _receive(self, receiver: socket.socket) -> None:
        """Datagrams to those who were asked; each names its stream."""
        while True:
            try:
                data, at, asker = receive(receiver, LINE + 1)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error about one of ours: it is lost
            stream = self.streams.get(int(data[:6])) if data[:6].isdigit() else None
            if isinstance(stream, DatagramStream) and stream.state in ("open", "opening"):
                self._correspond(stream, receiver, asker[:2], data, at)

    def _correspond(
        self, stream: DatagramStream, receiver: socket.socket, asker: tuple[str, int], data: bytes, at: float
    ) -> None:
        """The first datagram makes its asker the other end, and is answered; a session may not come to have another
        address or port in the midst of its life."""
        end = stream.acceptor
        if end.connection is None:
            end.connection = Correspondent(receiver, asker)
            stream.note(end, data, at, self._paced)
            if stream.kind != "ask":
                stream.say(end)
        elif isinstance(end.connection, Correspondent) and end.connection.asker != asker:
            stream.end("moved")
            self._forget(stream)
        else:
            stream.note(end, data, at, self._paced)

    def _name(self, descriptor: int) -> None:
        """The first line of an accepted connection tells whose it is; the answer to it opens the stream."""
        accepted = self._unnamed.pop(descriptor)
        try:
            stream = self.streams[int(accepted.recv(LINE, socket.MSG_PEEK)[:6])]
        except (OSError, ValueError, KeyError):
            accepted.close()
            return
        stream.acceptor.connection = accepted
        self._known[descriptor] = stream, stream.acceptor
        stream.take(stream.acceptor, self._looked, self._paced)
        if stream.kind != "ask":
            stream.say(stream.acceptor)

    # -- streams come, speak and go

    def _begin(self, stream: Stream) -> None:
        self.streams[stream.number] = stream
        self._opening += 1
        try:
            opened = self._ways.begin(stream.way)
        except OSError:
            self._opening -= 1
            stream.end("refused")
            return
        stream.opener.connection = opened
        stream.port = opened.getsockname()[1]
        self._known[opened.fileno()] = stream, stream.opener
        if by_udp(stream.way):
            self._epoll.register(opened, READ)
            stream.say(stream.opener)
            self._unanswered.append((time.monotonic() + AGAIN, stream))
        else:
            self._epoll.register(opened, READ | select.EPOLLOUT)

    def _another(self) -> Stream:
        number, ways = len(self.streams), self._ways.names
        return stream_of(number, KINDS[number % 4], ways[number // 4 % len(ways)], 0.0 if number % 4 == 2 else SLOW)

    def _first_beat(self, stream: Stream) -> None:
        """From now on it has a pace."""
        stream.arrived = time.monotonic()
        if stream.period:
            at = stream.arrived + stream.period * self._dice.random()
            heapq.heappush(self._due, (at, stream.number, True))

    def _beat(self, stream: Stream, due: float, again: bool) -> None:
        if stream.state != "open":
            return
        if not (self._still and again):
            stream.beat(due)
        if again:
            now = time.monotonic()
            heapq.heappush(self._due, ((due if now - due < 1 else now) + stream.period, stream.number, True))

    def _forget(self, stream: Stream) -> None:
        self._opening -= stream.state == "refused"
        for end in stream.ends:
            if end.connection is not None and self._known.pop(end.connection.fileno(), None) is not None:
                self._epoll.unregister(end.connection)

    def _obey(self, words: str) -> None:
        if not words:
            self._paced = False
            self._epoll.unregister(0)
        for order in words.split("\n"):
            match order.split():
                case ["speak"]:
                    self._speak()
                case ["pause"]:
                    self._still = True
                case ["resume"]:
                    self._resume()
                case ["spoil", number]:
                    self.streams[int(number)].spoil = True
                case ["hush", number]:
                    self.streams[int(number)].sender.silent = True
                case ["close", number]:
                    self._close(self.streams[int(number)], WAIT)
                case ["abort", number]:
                    self._close(self.streams[int(number)], ABORT)

    def _resume(self) -> None:
        """What nobody said meanwhile is no gap."""
        self._still = False
        for stream in self.streams.values():
            stream.arrived = 0.0

    def _speak(self) -> None:
        """Spread over 200 ms."""
        idle = [stream for stream in self.streams.values() if stream.kind == "idle"]
        for at, stream in enumerate(idle):
            heapq.heappush(self._due, (time.monotonic() + 0.2 * at / len(idle), stream.number, False))

    def _close(self, stream: Stream, linger: bytes) -> None:
        closing = stream.acceptor.connection
        if isinstance(closing, socket.socket):
            closing.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._known.pop(closing.fileno(), None)
            self._epoll.unregister(closing)
            stream.acceptor.connection = None
            closing.close()


def _row(stream: Stream) -> list[object]:
    """As ``StreamRow`` of topology/streams.py has it."""
    opener, acceptor = stream.ends
    tcp = [end.connection for end in stream.ends if isinstance(end.connection, socket.socket)]
    again = 0 if by_udp(stream.way) else sum(map(retransmits, tcp))
    head = [stream.number, stream.kind, stream.way, stream.probe, stream.established, stream.state]
    counts = [opener.sent + acceptor.sent, opener.got + acceptor.got, opener.wrong + acceptor.wrong, again]
    return [*head, *counts, stream.gaps, stream.port, stream.ended, stream.lost]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("client", type=Path, help="network namespace")
    parser.add_argument("server", type=Path, help="network namespace")
    parser.add_argument("--port", type=int, default=7001, help="both hosts listen here")
    parser.add_argument("--published", type=int, default=7101, help="port of the cluster that leads to the client's")
    parser.add_argument("--ways", default=",".join(Ways.NAMES), help="of traffic/ends.py")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--probes", type=int, default=72, help="streams with a line every 20 ms")
    parser.add_argument("--fresh", type=float, default=0.0, help="further streams opened each second")
    parser.add_argument("--patience", type=float, default=8.0, help="seconds for what is under way at the end")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    prepare()
    ways = Ways(given.client, given.server, given.port, given.published, given.ways.split(","))
    mixture = Mixture(ways, given)
    print(json.dumps(mixture.open(30.0)), flush=True)
    mixture.run()
    mixture.finish(given.patience)
    told = mixture.report()
    mixture.close()
    json.dump(told, sys.stdout)
    print(flush=True)


if __name__ == "__main__":
    main()
