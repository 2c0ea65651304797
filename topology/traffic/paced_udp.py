# SPDX-License-Identifier: GPL-2.0-or-later
"""A stream whose lines are datagrams, one each: what is lost stays lost, and is a gap, not the end of the stream."""

from __future__ import annotations

import contextlib
import math
import socket
import time

from aa_cluster.topology.traffic.arrival import receive
from aa_cluster.topology.traffic.paced import LINE, MOST_NOTED, NOTED, End, Said, Stream, line, wrong_bytes

SILENCE = 15.0
"""Seconds between two lines of a stream that is silent but for that: an answered UDP session is forgotten by gateways
after 30 s, so those who use them speak before (as QUIC's PING does)."""
AGAIN = 1.0
"""Seconds after which the first and the last line are said again, as long as they have not arrived."""


class Correspondent:
    """The end that was asked: it answers from the receiver's one socket, to whom it saw asking first."""

    def __init__(self, receiver: socket.socket, asker: tuple[str, int]) -> None:
        self.receiver, self.asker = receiver, asker

    def send(self, data: bytes) -> int:
        return self.receiver.sendto(data, self.asker)

    def recvmsg(self, size: int, room: int = 0) -> tuple[bytes, list[tuple[int, int, bytes]], int, tuple[str, int]]:
        raise BlockingIOError  # the receiver's socket is read for all streams

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        """The socket is the receiver's."""


class DatagramStream(Stream):
    """As ``Stream``. Lines carry their number, so that what is lost is known when a later one comes.

    ``expected``: by end, the number of the next line; ``missing``: by end, lines that later ones have overtaken, or
    that are lost; ``repeated``: (sender, number) of those that were said again.
    """

    __slots__ = ("expected", "missing", "repeated")

    def __init__(self, number: int, kind: str, way: str, period: float) -> None:
        super().__init__(number, kind, way, period or SILENCE)
        self.expected = [0, 0]
        self.missing: tuple[set[int], set[int]] = (set(), set())
        self.repeated: set[tuple[int, int]] = set()

    @property
    def settled(self) -> bool:
        """The last lines have arrived, whatever was lost before."""
        if self.state != "open":
            return self.state != "opening"
        return self.opener.sent == self.expected[1] and self.acceptor.sent == self.expected[0]

    @property
    def may_ask(self) -> bool:
        """Always: an answer that is lost will not come."""
        return True

    @property
    def lost(self) -> int:
        return len(self.missing[0]) + len(self.missing[1])

    def say(self, end: End, due: float = math.inf) -> None:
        if self.state not in ("open", "opening") or end.connection is None or end.silent:
            return
        data = line(self.number, end.way, end.sent)
        if self.spoil and end.sent:
            data, self.spoil = data[:40] + bytes((data[40] ^ 1,)) + data[41:], False
        _send(end, data)
        end.sent += 1
        end.under_way.append(Said(now := time.monotonic(), max(0.0, now - due)))

    def insist(self) -> None:
        """Both ends say their last line again, if it has not arrived."""
        for end in self.ends:
            if end.sent > self.expected[1 - end.way] and end.connection is not None and not end.silent:
                self.repeated.add((end.way, end.sent - 1))
                _send(end, line(self.number, end.way, end.sent - 1))
                end.under_way[-1] = Said(time.monotonic())

    def take(self, end: End, looked: float, paced: bool) -> None:
        """All that waits at this end's own socket. An ICMP error about a datagram is no more than its loss."""
        while end.connection is not None:
            try:
                data, at, _ = receive(end.connection, LINE + 1)
            except BlockingIOError:
                return
            except OSError:
                continue
            self.note(end, data, at, paced)

    def note(self, end: End, data: bytes, at: float, paced: bool) -> None:
        """One datagram that came to this end, and when (CLOCK_MONOTONIC, s)."""
        sender = self.ends[1 - end.way]
        number = int(data[9:19]) if data[9:19].isdigit() else -1
        expected, missing = self.expected[end.way], self.missing[end.way]
        if not 0 <= number < sender.sent:
            end.wrong += LINE  # nobody has said that
            return
        if number < expected and number not in missing:
            end.wrong += LINE * ((sender.way, number) not in self.repeated)
            return
        end.wrong += wrong_bytes(data.ljust(LINE)[:LINE], line(self.number, sender.way, number))
        end.got += 1
        if number < expected:
            missing.discard(number)
            return
        self._lost(end, sender, range(expected, number))
        self._clock(at, at, sender.under_way.popleft(), paced)
        if self.kind == "ask" and end is self.acceptor:
            self.say(end, due=at)

    def _lost(self, end: End, sender: End, numbers: range) -> None:
        """What was lost lasted at least from the first of them to the last; probes know it better."""
        self.missing[end.way].update(numbers)
        self.expected[end.way] = numbers.stop + 1
        times = [sender.under_way.popleft().at for _ in numbers]
        if times and not self.probe and times[-1] - times[0] >= NOTED and len(self.gaps) < MOST_NOTED:
            self.gaps.append((times[0], times[-1] - times[0]))


def _send(end: End, data: bytes) -> None:
    """A socket tells of an earlier datagram's ICMP error instead of sending: once more, then."""
    for _ in range(2):
        with contextlib.suppress(OSError):
            if end.connection is not None:
                end.connection.send(data)
            return
