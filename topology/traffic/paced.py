# SPDX-License-Identifier: GPL-2.0-or-later
"""One stream of numbered lines with both its ends: what it says, what it makes of what arrives, when nothing did."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import NamedTuple, Protocol

from aa_cluster.topology.traffic.arrival import Readable, receive
from aa_cluster.topology.traffic.ends import named

KINDS = ("push", "pull", "idle", "ask")
LINE = 64
PROBE = 0.020
SLOW = 0.5
SELDOM = 4.0
"""Seconds between two lines of a probe, of other streams, and of idle ones that speak at all."""
NOTED = 0.030
"""Seconds: shorter gaps are not kept."""
MOST_NOTED = 64


def line(stream: int, way: int, number: int) -> bytes:
    """The 64 bytes of line ``number`` that stream ``stream`` sends from its opener (0) or its acceptor (1)."""
    return b"%06d %d %010d %043d\n" % (stream, way, number, (number * 2654435761 + stream * 40503 + way) % 10**43)


def wrong_bytes(got: bytes, expected: bytes) -> int:
    return sum(one != other for one, other in zip(got, expected, strict=True))


class Connection(Readable, Protocol):
    """What an end needs of its socket."""

    def send(self, data: bytes, /) -> int: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...


class Said(NamedTuple):
    """A line that is under way: sent ``at`` (CLOCK_MONOTONIC, s), ``late`` by so many seconds."""

    at: float
    late: float = 0.0


class End:
    """One end of a stream. ``under_way``: its lines that the other end does not have yet."""

    __slots__ = ("connection", "got", "rest", "sent", "silent", "under_way", "way", "wrong")

    def __init__(self, way: int) -> None:
        self.way = way
        self.connection: Connection | None = None
        self.sent = self.got = self.wrong = 0
        self.rest = b""
        self.under_way: deque[Said] = deque()
        self.silent = False


class Stream:
    """A connection with both its ends. ``state``: opening, open, or what ended it."""

    __slots__ = (
        "acceptor",
        "arrived",
        "ended",
        "established",
        "gaps",
        "kind",
        "number",
        "opener",
        "owed",
        "period",
        "port",
        "spoil",
        "state",
        "way",
    )

    def __init__(self, number: int, kind: str, way: str, period: float) -> None:
        self.number, self.kind, self.way, self.period = number, kind, way, period
        self.opener, self.acceptor = End(0), End(1)
        self.state = "opening"
        self.established = self.arrived = self.ended = self.owed = 0.0
        self.port = 0
        self.gaps: list[tuple[float, float]] = []
        self.spoil = False

    @property
    def ends(self) -> tuple[End, End]:
        return self.opener, self.acceptor

    @property
    def probe(self) -> bool:
        return 0 < self.period <= PROBE

    @property
    def settled(self) -> bool:
        """Everything that was sent has arrived, or nothing more can."""
        if self.state != "open":
            return self.state != "opening"
        return self.opener.sent == self.acceptor.got and self.acceptor.sent == self.opener.got

    @property
    def may_ask(self) -> bool:
        """The last question was answered."""
        return self.opener.sent == self.opener.got

    @property
    def lost(self) -> int:
        """Lines that did not arrive: none here, TCP sends them again."""
        return 0

    @property
    def sender(self) -> End:
        """Who speaks when it is time: of idle streams each second one's opener."""
        if self.kind == "idle":
            return self.ends[self.number % 2]
        return self.acceptor if self.kind == "push" else self.opener

    def say(self, end: End, due: float = math.inf) -> None:
        """The next line, at once. ``due``: when it should have been said."""
        if self.state not in ("open", "opening") or end.connection is None or end.silent:
            return
        data = line(self.number, end.way, end.sent)
        if self.spoil and end.sent:
            data, self.spoil = data[:40] + bytes((data[40] ^ 1,)) + data[41:], False
        try:
            end.connection.send(data)
        except BlockingIOError:
            return  # thousands of lines wait already
        except OSError as error:
            self.end(named(error.errno or 0))
            return
        end.sent += 1
        end.under_way.append(Said(now := time.monotonic(), max(0.0, now - due)))

    def beat(self, due: float) -> None:
        """It is time for a line (CLOCK_MONOTONIC, s). Who waits for an answer owes it once that has come."""
        if self.kind == "ask" and not self.may_ask:
            self.owed = self.owed or due
            return
        self.say(self.sender, max(self.owed, self.arrived) if self.owed else due)
        self.owed = 0.0

    def take(self, end: End, looked: float, paced: bool) -> None:
        """What has arrived at this end. ``looked``: when it was last seen that nothing had; ``paced``: lines are being
        sent by the clock.

        Of lines that are read at once TCP knows only when the last one came; the others came since one ``looked``.
        """
        if end.connection is None:
            return
        try:
            data, at, _ = receive(end.connection, 65536)
        except BlockingIOError:
            return
        except OSError as error:
            self.end(named(error.errno or 0))
            return
        if not data:
            self.end("closed")
            return
        data = end.rest + data
        other = self.ends[1 - end.way]
        whole = len(data) - len(data) % LINE
        for start in range(0, whole, LINE):
            piece, expected = data[start : start + LINE], line(self.number, other.way, end.got)
            if piece != expected:
                end.wrong += wrong_bytes(piece, expected)
            end.got += 1
            since = at if start + LINE == whole else min(looked, at)
            self._clock(since, at, other.under_way.popleft(), paced)
        end.rest = data[whole:]
        if whole and self.kind == "ask" and end is self.acceptor:
            self.say(end, due=at)

    def _clock(self, earliest: float, latest: float, said: Said, paced: bool) -> None:
        """A line came between these times: what is certain is a gap. What its sender was late by is no part of a
        probe's. The ends are not read in the order in which lines came."""
        since, gap = said.at, earliest - said.at
        if self.probe and paced and self.arrived:
            since, gap = self.arrived, earliest - self.arrived - said.late
        if gap >= NOTED and len(self.gaps) < MOST_NOTED:
            self.gaps.append((since, gap))
        self.arrived = max(self.arrived, latest)

    def end(self, state: str) -> None:
        """It is over, for both ends; the first reason counts."""
        if self.state in ("open", "opening"):
            self.ended = time.monotonic()
            self.state = state if self.state == "open" else "refused"
