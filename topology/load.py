# SPDX-License-Identifier: GPL-2.0-or-later
"""Drives the traffic programs on the hosts of a lab and gives back what they counted."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol, TypeVar

import msgspec

from aa_cluster.errors import LabError

S = TypeVar("S")


NAMED = ("udp_sessions",)
"""Servers that say who they are."""


class Hosts(Protocol):
    """Where programs can be started: the netns lab, the Mininet cluster."""

    def popen(self, host: str, argv: Sequence[str], **options: object) -> subprocess.Popen[str]: ...


class SessionReport(msgspec.Struct, frozen=True):
    """``seen``: per completed session what the server says: its name, its address, whom it saw asking."""

    asked: int
    completed: int
    failed: tuple[str, ...]
    seen: tuple[str, ...]
    ports: tuple[int, ...]
    seconds: float
    sources: tuple[str, ...] = ()


class BusyReport(msgspec.Struct, frozen=True):
    """Of sessions that went on asking: answers in all, what failed, the slowest answer (s), segments sent again."""

    rounds: int
    failed: tuple[str, ...]
    slowest: float
    retransmits: int


class ReuseReport(msgspec.Struct, frozen=True):
    """``slowest_ms``: the longest session; a SYN that was lost shows as 1000. ``repeated``: segments sent again."""

    completed: int
    failed: tuple[str, ...]
    repeated: int
    slowest_ms: int
    seconds: float


class ChurnReport(msgspec.Struct, frozen=True):
    """``failed``: why, of the first twenty."""

    completed: int
    failed: tuple[str, ...]
    seconds: float


class PulseReport(msgspec.Struct, frozen=True):
    """Many paced streams: ``lines`` sent in all, ``echoed`` of them came back right; ``gap_ms`` by stream: the longest
    wait for one, ``net_ms``: the longest without the time in which the sender itself was late, which it was for
    ``late_ms`` in all. ``broken``: streams that ended before they should."""

    lines: int
    echoed: int
    broken: int
    retransmits: int
    gap_ms: tuple[int, ...]
    net_ms: tuple[int, ...]
    late_ms: float


class StreamReport(msgspec.Struct, frozen=True):
    """``retransmits``: segments both ends sent again, so packets that were lost. ``gap_ms``: the longest wait of who
    receives for a line."""

    sent: int
    lines: int
    wrong: int
    retransmits: int
    gap_ms: int = 0


class BulkReport(msgspec.Struct, frozen=True):
    """SHA-256 of what was ``sent`` and what was ``received``."""

    bytes: int
    seconds: float
    sent: str
    received: str
    retransmits: int


def program(tool: str, *arguments: object) -> list[str]:
    """The command line of one of the traffic programs."""
    return [sys.executable, "-m", f"aa_cluster.topology.traffic.{tool}", *map(str, arguments)]


@contextmanager
def started(hosts: Hosts, host: str, argv: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    process = hosts.popen(host, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str], kind: type[S]) -> S:
    """The program's next line; ``LabError`` with what it complained of when there is none."""
    text = process.stdout.readline() if process.stdout else ""
    if not text:
        complaint = process.stderr.read() if process.stderr else ""
        raise LabError(f"{' '.join(map(str, process.args[2:]))} gave nothing: {complaint.strip()[-800:]}")  # type: ignore[index]
    return msgspec.json.decode(text, type=kind)


def run_sessions(
    hosts: Hosts, host: str, address: str, port: int, count: int = 1, timeout: float = 15
) -> SessionReport:
    """``count`` HTTP sessions from ``host``; each its own connection, closed after its answer."""
    argv = program("sessions", address, port, "--count", count, "--timeout", timeout)
    with started(hosts, host, argv) as process:
        return line_of(process, SessionReport)


@contextmanager
def held_sessions(
    hosts: Hosts,
    host: str,
    address: str,
    port: int,
    count: int,
    timeout: float = 15,
    sources: Sequence[str] = (),
) -> Iterator[SessionReport]:
    """The same, and all connections stay open until the block ends. ``sources``: local addresses, taken in turn."""
    given = [word for source in sources for word in ("--source", source)]
    argv = program("sessions", address, port, "--count", count, "--timeout", timeout, "--hold", *given)
    with started(hosts, host, argv) as process:
        yield line_of(process, SessionReport)
        process.communicate(timeout=30)


def reuse(
    hosts: Hosts,
    host: str,
    where: tuple[str, int],
    source_port: int,
    count: int,
    end: Literal["reset", "peer"],
    pause: float = 0.0,
) -> ReuseReport:
    """``count`` HTTP sessions with ``where``, one after the other, all from ``source_port``; ``pause``: s between."""
    options = ("--count", count, "--end", end, "--pause", pause)
    with started(hosts, host, program("reuse", *where, source_port, *options)) as process:
        return line_of(process, ReuseReport)


def churn(hosts: Hosts, host: str, address: str, port: int, count: int, at_once: int = 64) -> ChurnReport:
    """``count`` HTTP sessions that are opened and closed, so many at once."""
    with started(hosts, host, program("churn", address, port, "--count", count, "--at-once", at_once)) as process:
        return line_of(process, ChurnReport)


class Busy:
    """Sessions that ask again and again; ``stop`` ends them and gives the report."""

    def __init__(self, process: subprocess.Popen[str], begun: SessionReport) -> None:
        self.begun = begun
        self._process = process

    def stop(self, timeout: float = 60) -> BusyReport:
        out, complaint = self._process.communicate(timeout=timeout)
        if not out:
            raise LabError(f"the sessions broke: {complaint.strip()[-800:]}")
        return msgspec.json.decode(out, type=BusyReport)


@contextmanager
def busy_sessions(
    hosts: Hosts, host: str, address: str, port: int, count: int, every: float = 0.5, timeout: float = 15
) -> Iterator[Busy]:
    """``count`` sessions, each of which asks once in ``every`` s; all are open when the block begins."""
    argv = program("sessions", address, port, "--count", count, "--timeout", timeout, "--hold", "--every", every)
    with started(hosts, host, argv) as process:
        yield Busy(process, line_of(process, SessionReport))


@contextmanager
def serving(
    hosts: Hosts,
    host: str,
    tool: Literal["stream", "bulk", "fastopen", "pulses", "datagrams", "udp_sessions", "quic"],
    port: int,
) -> Iterator[None]:
    """The server side of a traffic program on ``host``, listening while the block runs."""
    with started(hosts, host, program(tool, "serve", port, *(("--name", host) if tool in NAMED else ()))) as process:
        ready = process.stdout.readline() if process.stdout else ""
        if ready != "ready\n":
            raise LabError(f"the {tool} server on {host} did not start: {process.communicate()[1].strip()[-800:]}")
        yield


class Stream:
    """A running stream; ``stop`` ends it and gives the report."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def stop(self, timeout: float = 60) -> StreamReport:
        out, complaint = self._process.communicate(timeout=timeout)
        if not out:
            raise LabError(f"the stream broke: {complaint.strip()[-800:]}")
        return msgspec.json.decode(out, type=StreamReport)


@contextmanager
def stream(
    hosts: Hosts, host: str, way: Literal["push", "pull"], address: str, port: int, rate: float = 500
) -> Iterator[Stream]:
    """A stream from ``host`` to a server of ``serving(…, "stream", …)``; open when the block begins."""
    with started(hosts, host, program("stream", way, address, port, "--rate", rate)) as process:
        opened = process.stdout.readline() if process.stdout else ""
        if opened != "open\n":
            raise LabError(f"the stream to {address}:{port} did not open: {process.communicate()[1].strip()[-800:]}")
        yield Stream(process)


class Pulses:
    """Running streams; ``stop`` ends them and gives the report."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def freeze(self, seconds: float) -> None:
        """The sender stands still."""
        self._process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self._process.send_signal(signal.SIGCONT)

    def stop(self, timeout: float = 60) -> PulseReport:
        out, complaint = self._process.communicate(timeout=timeout)
        if not out:
            raise LabError(f"the streams broke: {complaint.strip()[-800:]}")
        return msgspec.json.decode(out, type=PulseReport)


@contextmanager
def pulses(hosts: Hosts, host: str, address: str, port: int, count: int, rate: float = 50) -> Iterator[Pulses]:
    """``count`` streams of ``rate`` lines a second each, echoed by ``serving(…, "pulses", …)``; open at the begin."""
    with started(hosts, host, program("pulses", "send", address, port, "--count", count, "--rate", rate)) as process:
        opened = process.stdout.readline() if process.stdout else ""
        if opened != "open\n":
            raise LabError(f"the streams did not open: {process.communicate()[1].strip()[-800:]}")
        yield Pulses(process)


class Absence(msgspec.Struct, frozen=True, array_like=True):
    """A core stood still from ``began`` (CLOCK_MONOTONIC, s) on for ``ms``."""

    core: int
    began: float
    ms: float

    def within_ms(self, began: float, ended: float) -> float:
        """How much of it lies in that time (s)."""
        return max(0.0, 1000 * (min(self.began + self.ms / 1000, ended) - max(self.began, began)))


def longest_ms(absences: Iterable[Absence]) -> float:
    """No figure of time is known better than that."""
    return max((one.ms for one in absences), default=0.0)


class Standstill:
    """The watch over the machine's cores; ``stop`` ends it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def stop(self) -> tuple[Absence, ...]:
        """When cores stood still, for 10 ms or longer."""
        out, complaint = self._process.communicate(timeout=10)
        if not out:
            raise LabError(f"the watch over the cores ended: {complaint.strip()[-800:]}")
        return msgspec.json.decode(out, type=tuple[Absence, ...])


@contextmanager
def standstill(hosts: Hosts, host: str = "client") -> Iterator[Standstill]:
    """How long this machine's cores are away while the block runs (``traffic/standstill.py``)."""
    with started(hosts, host, program("standstill")) as process:
        ready = process.stdout.readline() if process.stdout else ""
        if ready != "ready\n":
            raise LabError(f"the watch over the cores did not start: {process.communicate()[1].strip()[-800:]}")
        yield Standstill(process)


class FloodReport(msgspec.Struct, frozen=True):
    """Frames that left the host, and how long that took."""

    sent: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.sent / self.seconds


class Flood:
    """A generator that waits; ``start`` lets it go, ``wait`` gives what it did."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.write("\n")
            self._process.stdin.flush()

    def wait(self) -> FloodReport:
        return line_of(self._process, FloodReport)


@contextmanager
def flood(
    hosts: Hosts, host: str, via: str, address: str, port: int, rate: float = 100_000, seconds: float = 10
) -> Iterator[Flood]:
    """SYNs from random sources out of ``host``'s eth0 to the MAC ``via``; frames are made when the block begins."""
    options = ("--via", via, "--rate", rate, "--seconds", seconds)
    with started(hosts, host, program("flood", address, port, *options)) as process:
        ready = process.stdout.readline() if process.stdout else ""
        if ready != "ready\n":
            raise LabError(f"the flood on {host} did not start: {process.communicate()[1].strip()[-800:]}")
        yield Flood(process)


class FastOpenReport(msgspec.Struct, frozen=True):
    """``data``: what went with the SYN, in hex; ``echoed``: it came back the same; ``port``: the client's."""

    data: str
    echoed: bool
    port: int
    retransmits: int


def fast_open(hosts: Hosts, host: str, address: str, port: int, size: int) -> FastOpenReport:
    """One connection whose SYN carries ``size`` bytes, against ``serving(…, "fastopen", …)``."""
    with started(hosts, host, program("fastopen", "send", address, port, "--size", size)) as process:
        return line_of(process, FastOpenReport)


class DatagramReport(msgspec.Struct, frozen=True):
    """``ports``: the asker's, of the questions that were answered; ``failed``: what was wrong with the others."""

    asked: int
    answered: int
    failed: list[str]
    ports: list[int]


def datagrams(
    hosts: Hosts, host: str, address: str, port: int, count: int, size: int = 0, timeout: float = 5
) -> DatagramReport:
    """``count`` questions from ``host``, one after the other, against ``serving(…, "datagrams", …)``."""
    argv = program("datagrams", "ask", address, port, "--count", count, "--size", size, "--timeout", timeout)
    with started(hosts, host, argv) as process:
        return line_of(process, DatagramReport)


def bulk(
    hosts: Hosts, host: str, way: Literal["send", "take"], address: str, port: int, size: int, timeout: float = 120
) -> BulkReport:
    """One transfer of ``size`` bytes from or to ``host``, against ``serving(…, "bulk", …)``."""
    with started(hosts, host, program("bulk", way, address, port, "--bytes", size)) as process:
        out, complaint = process.communicate(timeout=timeout)
        if not out:
            raise LabError(f"the transfer broke: {complaint.strip()[-800:]}")
        return msgspec.json.decode(out, type=BulkReport)


class TalkReport(msgspec.Struct, frozen=True):
    """One side's sessions of one kind (``traffic/talks.py``). ``gaps_ms``: by stream, where lines come at a pace."""

    sessions: int
    broken: int
    sent: int
    lines: int
    wrong: int
    repeated: int
    gaps_ms: tuple[int, ...]


class Talks:
    """Sessions of every temper, open; ``stop`` gives what client and server counted, by kind.

    ``stood_still_ms``: after ``stop``, the longest that a core of this machine was away meanwhile.
    """

    def __init__(self, client: subprocess.Popen[str], server: subprocess.Popen[str], still: Standstill) -> None:
        self._both, self._still = (client, server), still
        self.stood_still_ms = 0.0

    def speak(self) -> None:
        """The silent ones say a line: those of the server before those of the client."""
        for process in reversed(self._both):
            tell(process, "speak")

    def stop(self) -> tuple[dict[str, TalkReport], dict[str, TalkReport]]:
        for process in self._both:
            tell(process, "stop")
        client, server = (line_of(process, dict[str, TalkReport]) for process in self._both)
        self.stood_still_ms = longest_ms(self._still.stop())
        return client, server


def tell(process: subprocess.Popen[str], word: str) -> None:
    if process.stdin is not None:
        process.stdin.write(f"{word}\n")
        process.stdin.flush()


@contextmanager
def talks(
    hosts: Hosts,
    ends: tuple[str, str],
    where: tuple[str, int],
    kinds: Mapping[str, int],
    port: int | None = None,
    rate: float = 50,
) -> Iterator[Talks]:
    """Sessions between ``ends`` (client, server), all open when the block begins. ``where``: what the client calls;
    ``port``: what the server listens on, where that is another."""
    client, server = ends
    with started(hosts, server, program("talks", "serve", port or where[1], "--rate", rate)) as serving:
        if (serving.stdout.readline() if serving.stdout else "") != "ready\n":
            raise LabError(f"the server of talks did not start: {serving.communicate()[1].strip()[-800:]}")
        argv = program("talks", "open", *where, *(f"{kind}={count}" for kind, count in kinds.items()), "--rate", rate)
        with started(hosts, client, argv) as opening:
            if (opening.stdout.readline() if opening.stdout else "") != "open\n":
                raise LabError(f"the talks did not open: {opening.communicate()[1].strip()[-800:]}")
            with standstill(hosts, client) as still:
                yield Talks(opening, serving, still)
