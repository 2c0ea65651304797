# SPDX-License-Identifier: GPL-2.0-or-later
"""A stream of numbered lines: what arrives when, what is a gap, and that the generator's own work is none."""

from __future__ import annotations

import math
import socket
import struct
import time

import pytest

from aa_cluster.topology.deadline import until
from aa_cluster.topology.traffic.arrival import SO_TIMESTAMPNS, receive, stamped
from aa_cluster.topology.traffic.mix import plan
from aa_cluster.topology.traffic.paced import LINE, End, Said, Stream, line, wrong_bytes


def test_kinds_ways_and_probes_are_in_equal_parts() -> None:
    streams = plan(1000, 72, seed=3)
    assert sorted(stream.number for stream in streams) == list(range(1000))
    probes = [(stream.kind, stream.way) for stream in streams if stream.probe]
    assert {probes.count(sort) for sort in set(probes)} == {8}
    assert len(set(probes)) == 9
    assert sum(stream.period == 0 for stream in streams) == pytest.approx(125, abs=5)


def test_lines_tell_apart_streams_ways_and_numbers() -> None:
    lines = {line(stream, way, number) for stream in (0, 1, 999) for way in (0, 1) for number in (0, 1, 10**9)}
    assert len(lines) == 18
    assert {len(one) for one in lines} == {LINE}
    assert wrong_bytes(b"abc", b"abd") == 1


LATELY = math.inf
"""The reader is never busy."""


class Pipe:
    """What is sent by one end's connection comes out at the other's; ``at``: the kernel's time for it."""

    def __init__(self) -> None:
        self.data = b""
        self.at: float | None = None

    def send(self, data: bytes) -> None:
        self.data += data

    def recvmsg(self, size: int, room: int = 0) -> tuple[bytes, list[tuple[int, int, bytes]], int, None]:
        taken, self.data = self.data[:size], self.data[size:]
        return taken, [] if self.at is None else [stamp(self.at)], 0, None


def stamp(at: float) -> tuple[int, int, bytes]:
    """``at``: CLOCK_MONOTONIC, s; the kernel's stamps are of the other clock."""
    whole, rest = divmod(at + time.time() - time.monotonic(), 1)
    return socket.SOL_SOCKET, SO_TIMESTAMPNS, struct.pack("@qq", int(whole), int(rest * 1e9))


def stream_over(pipe: Pipe) -> tuple[Stream, End, End]:
    stream = Stream(5, "pull", "plain", 0.02)
    stream.state = "open"
    for end in stream.ends:
        end.connection = pipe  # type: ignore[assignment]
    return stream, *stream.ends


def test_a_stream_counts_lines_wrong_bytes_and_gaps() -> None:
    pipe = Pipe()
    stream, opener, acceptor = stream_over(pipe)
    for _ in range(3):
        stream.say(opener)
    assert not stream.settled
    pipe.data, rest = pipe.data[:150], pipe.data[150:]
    stream.take(acceptor, LATELY, paced=True)
    assert (acceptor.got, acceptor.wrong, stream.gaps) == (2, 0, [])
    stream.arrived -= 0.2
    pipe.data = rest[:-2] + b"!\n"
    stream.take(acceptor, LATELY, paced=True)
    assert (acceptor.got, acceptor.wrong) == (3, 1)
    assert [round(length, 2) for _, length in stream.gaps] == [0.2]
    assert stream.settled


@pytest.mark.parametrize(
    ("came", "gap"),
    [(0.05, 0.45), (0.3, 0.2), (None, 0.5), (-1.0, 0.5), (20.0, 0.5)],
    ids=["just now", "long unread", "no stamp", "to come", "of another clock"],
)
def test_a_line_comes_when_the_kernel_receives_it(came: float | None, gap: float) -> None:
    """However late it is read; ``came``: seconds before that. The one before came 0.5 s before it is read."""
    pipe = Pipe()
    stream, opener, acceptor = stream_over(pipe)
    stream.say(opener)
    stream.arrived = time.monotonic() - 0.5
    pipe.at = None if came is None else time.monotonic() - came
    stream.take(acceptor, LATELY, paced=True)
    assert [round(length, 2) for _, length in stream.gaps] == [gap]


@pytest.mark.parametrize(("late", "gaps"), [(0.0, [0.5]), (0.1, [0.4]), (0.48, [])])
def test_what_a_line_was_sent_late_by_is_no_part_of_a_probes_gap(late: float, gaps: list[float]) -> None:
    pipe = Pipe()
    stream, opener, acceptor = stream_over(pipe)
    stream.arrived = time.monotonic() - 0.5
    stream.say(opener, due=time.monotonic() - late)
    stream.take(acceptor, LATELY, paced=True)
    assert [round(length, 2) for _, length in stream.gaps] == gaps


@pytest.mark.parametrize(("busy", "gaps"), [(0.0, [0.8]), (0.3, [0.5]), (0.9, [])])
def test_of_lines_read_at_once_only_the_last_ones_time_is_known(busy: float, gaps: list[float]) -> None:
    """The others may have come ever since the reader last looked, ``busy`` seconds ago: that long they do not count."""
    pipe = Pipe()
    stream, opener, acceptor = stream_over(pipe)
    stream.period = 0.5
    for ago in (0.8, 0.01):
        stream.say(opener)
        opener.under_way[-1] = Said(time.monotonic() - ago)
    stream.take(acceptor, time.monotonic() - busy, paced=True)
    assert acceptor.got == 2
    assert [round(length, 2) for _, length in stream.gaps] == gaps


def test_probes_that_were_sent_late_and_read_at_once_are_no_gap() -> None:
    """The sender was busy for 0.2 s, then it says all that is due, and is busy again for 0.1 s."""
    pipe = Pipe()
    stream, opener, acceptor = stream_over(pipe)
    now = time.monotonic()
    stream.arrived = now - 0.3
    for number in range(10):
        stream.say(opener)
        opener.under_way[-1] = Said(now - 0.08, 0.2 - 0.02 * number)
    pipe.at = now - 0.08
    stream.take(acceptor, now - 0.1, paced=True)
    assert (acceptor.got, stream.gaps) == (10, [])


def test_ends_are_read_in_any_order() -> None:
    """An answer that has waited is read after a question that came later; then the next question comes."""
    pipe = Pipe()
    stream, opener, acceptor = stream_over(pipe)
    stream.arrived = time.monotonic() - 0.3
    for ago, end in ((0.05, opener), (0.25, acceptor), (0.03, opener)):
        stream.say(end)
        pipe.at = time.monotonic() - ago
        stream.take(stream.ends[1 - end.way], LATELY, paced=True)
    assert [round(length, 2) for _, length in stream.gaps] == [0.25]


def test_who_has_not_read_an_answer_is_late_with_the_next_question() -> None:
    """Since the answer came, not since the question was due: that was the network's."""
    pipe = Pipe()
    stream, opener, acceptor = stream_over(pipe)
    stream.kind = "ask"
    now = time.monotonic()
    stream.beat(now - 0.5)
    pipe.at = now - 0.45
    stream.take(acceptor, LATELY, paced=True)
    assert acceptor.sent == 1
    stream.beat(now - 0.4)
    assert opener.sent == 1
    pipe.at = now - 0.3
    stream.take(opener, LATELY, paced=True)
    for due, late in ((now - 0.01, 0.3), (now - 0.2, None)):
        stream.beat(due)
        assert opener.sent == 2
        assert late is None or opener.under_way[-1].late == pytest.approx(late, abs=0.05)


def test_an_answer_is_late_by_what_its_question_waited_to_be_read() -> None:
    pipe = Pipe()
    stream, opener, acceptor = stream_over(pipe)
    stream.kind = "ask"
    stream.say(opener)
    pipe.at = time.monotonic() - 0.2
    stream.take(acceptor, LATELY, paced=True)
    assert [round(said.late, 2) for said in acceptor.under_way] == [0.2]


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_the_kernel_tells_when_something_came(kind: socket.SocketKind) -> None:
    """Over TCP, where who is accepted inherits it, and over UDP; the reader takes its time. The kernel begins to stamp
    a moment after the first socket asks for it (``net_enable_timestamp`` leaves that to a work queue)."""
    with stamped(socket.socket(socket.AF_INET, kind)) as listener, socket.socket(socket.AF_INET, kind) as sender:
        listener.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            listener.listen()
        sender.connect(listener.getsockname())
        receiver = listener.accept()[0] if kind == socket.SOCK_STREAM else listener

        def unread() -> bool:
            before = time.monotonic()
            sender.send(b"x")
            sent = time.monotonic()
            time.sleep(0.1)
            data, at, _ = receive(receiver, 10)
            assert data == b"x"
            assert before - 0.001 <= at <= time.monotonic()
            return at <= sent + 0.05

        until("the kernel to stamp what it receives", unread, 2)
        receiver.close()


def test_the_end_of_a_connection_ends_its_stream() -> None:
    stream, _, acceptor = stream_over(Pipe())
    stream.take(acceptor, LATELY, paced=True)
    assert stream.state == "closed"
    stream.end("reset")
    assert stream.state == "closed"
