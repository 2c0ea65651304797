# SPDX-License-Identifier: GPL-2.0-or-later
"""A stream of datagrams: what is lost, late, repeated or altered, and how long that lasted."""

from __future__ import annotations

import pytest

from aa_cluster.topology.load import Absence
from aa_cluster.topology.streams import MixReport, StreamRow, judge
from aa_cluster.topology.traffic.ends import EVERY_WAY, TRANSLATIONS
from aa_cluster.topology.traffic.mix import plan
from aa_cluster.topology.traffic.paced import LINE, End, Said, line
from aa_cluster.topology.traffic.paced_udp import DatagramStream


class Wire:
    """Keeps what an end sends; ``error``: a socket tells it instead of sending."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.error: OSError | None = None

    def send(self, data: bytes) -> int:
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        self.sent.append(data)
        return len(data)

    def recvmsg(self, size: int, room: int = 0) -> tuple[bytes, list[tuple[int, int, bytes]], int, tuple[str, int]]:
        raise BlockingIOError

    def fileno(self) -> int:
        return -1

    def close(self) -> None: ...


def stream_with(lines: int, kind: str = "pull", period: float = 0.5) -> tuple[DatagramStream, End, list[bytes]]:
    """An open stream whose opener has said so many lines, 0.5 s apart from 100 s on; its acceptor; the datagrams."""
    stream = DatagramStream(5, kind, "plain-udp", period)
    stream.state = "open"
    stream.opener.connection = wire = Wire()
    stream.acceptor.connection = Wire()
    for number in range(lines):
        stream.say(stream.opener)
        stream.opener.under_way[-1] = Said(100 + number / 2)
    return stream, stream.acceptor, wire.sent


def test_what_arrives_in_order_is_no_gap() -> None:
    stream, acceptor, datagrams = stream_with(3)
    for number, data in enumerate(datagrams):
        stream.note(acceptor, data, 100.001 + number / 2, paced=True)
    assert (acceptor.got, acceptor.wrong, stream.lost, stream.gaps) == (3, 0, 0, [])
    assert stream.settled


def test_what_is_lost_is_known_by_the_next_and_lasts_from_the_first_to_the_last() -> None:
    stream, acceptor, datagrams = stream_with(6)
    for number in (0, 4, 5):
        stream.note(acceptor, datagrams[number], 100.001 + number / 2, paced=True)
    assert (acceptor.got, acceptor.wrong, stream.lost) == (3, 0, 3)
    assert stream.gaps == [(100.5, 1.0)]
    assert stream.settled, "it goes on all the same"


def test_a_probe_knows_a_gap_by_its_arrivals() -> None:
    stream, acceptor, datagrams = stream_with(4, period=0.02)
    stream.note(acceptor, datagrams[0], 100.01, paced=True)
    stream.note(acceptor, datagrams[3], 100.31, paced=True)
    assert [(began, round(length, 3)) for began, length in stream.gaps] == [(100.01, 0.3)]


def test_one_that_was_overtaken_is_not_lost_but_one_that_comes_twice_is_wrong() -> None:
    stream, acceptor, datagrams = stream_with(3)
    for number in (0, 2, 1):
        stream.note(acceptor, datagrams[number], 101.001, paced=True)
    assert (acceptor.got, acceptor.wrong, stream.lost) == (3, 0, 0)
    stream.note(acceptor, datagrams[1], 101.1, paced=True)
    assert (acceptor.got, acceptor.wrong) == (3, LINE)


@pytest.mark.parametrize(
    ("data", "wrong"),
    [(line(5, 0, 0)[:-2] + b"!\n", 1), (line(5, 0, 0)[:60], 4), (line(5, 0, 7), LINE), (b"", LINE), (b"x" * 64, LINE)],
    ids=["altered", "cut short", "never said", "empty", "foreign"],
)
def test_what_nobody_said_so_is_wrong(data: bytes, wrong: int) -> None:
    stream, acceptor, _ = stream_with(1)
    stream.note(acceptor, data, 100.001, paced=True)
    assert acceptor.wrong == wrong


def test_the_last_line_is_said_again_and_may_arrive_twice() -> None:
    stream, acceptor, datagrams = stream_with(2)
    stream.note(acceptor, datagrams[0], 100.001, paced=True)
    assert not stream.settled
    stream.insist()
    assert datagrams[2] == datagrams[1]
    for data in datagrams[1:]:
        stream.note(acceptor, data, 100.6, paced=True)
    assert (acceptor.got, acceptor.wrong) == (2, 0)
    assert stream.settled
    stream.insist()
    assert len(datagrams) == 3, "what has arrived is not said again"


def test_an_icmp_error_is_not_the_end() -> None:
    stream, _, datagrams = stream_with(1)
    assert isinstance(stream.opener.connection, Wire)
    stream.opener.connection.error = ConnectionRefusedError()
    stream.say(stream.opener)
    assert stream.state == "open"
    assert datagrams == [line(5, 0, 0), line(5, 0, 1)]


def test_questions_are_answered_each() -> None:
    stream, acceptor, datagrams = stream_with(2, kind="ask")
    assert stream.may_ask, "an answer that is lost would be waited for forever"
    stream.note(acceptor, datagrams[1], 100.6, paced=True)
    assert isinstance(acceptor.connection, Wire)
    assert acceptor.connection.sent == [line(5, 1, 0)]


def test_every_way_has_its_part() -> None:
    streams = plan(960, 72, seed=3, ways=EVERY_WAY)
    assert len(EVERY_WAY) == 4 * len(TRANSLATIONS) == len(set(EVERY_WAY))
    counted = [sum(stream.way == way for stream in streams) for way in EVERY_WAY]
    assert counted == [80] * 12
    probes = [(stream.kind, stream.way) for stream in streams if stream.probe]
    assert {probes.count(sort) for sort in set(probes)} == {2}
    assert all(stream.period for stream in streams if stream.way.endswith("-udp")), "gateways forget silent ones"


def test_a_gap_of_a_datagram_stream_has_no_tcp_in_it() -> None:
    """Net of what a core stood still, and of nothing else: nobody sends a datagram again after 200, 400, 800 ms."""

    def net(way: str) -> float:
        row = StreamRow(1, "push", way, True, 90.0, "open", 9, 9, 0, 0, ((100.0, 0.63),), lost=4)
        return judge(MixReport((row,), ()), 100.0, absences=(Absence(0, 100.1, 50.0),)).net_ms

    assert net("plain-udp") == pytest.approx(580)
    assert net("plain") == pytest.approx(210)
