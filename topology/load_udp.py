# SPDX-License-Identifier: GPL-2.0-or-later
"""Drives the traffic programs that talk by UDP: sessions, numbered datagrams, DNS, QUIC."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from subprocess import Popen
from typing import Literal

import msgspec

from aa_cluster.errors import LabError
from aa_cluster.topology import services
from aa_cluster.topology.deadline import until
from aa_cluster.topology.load import Hosts, SessionReport, line_of, program, started, tell


class RoundReport(msgspec.Struct, frozen=True):
    """One question of each session."""

    completed: int
    failed: tuple[str, ...]
    seconds: float


class UdpSessions:
    """UDP sessions whose sockets are open; ``again`` lets each ask once more."""

    def __init__(self, process: Popen[str], begun: SessionReport) -> None:
        self.begun = begun
        self._process = process

    def again(self) -> RoundReport:
        tell(self._process, "ask")
        return line_of(self._process, RoundReport)


@contextmanager
def udp_sessions(
    hosts: Hosts, host: str, address: str, port: int, count: int, sources: Sequence[str] = (), **more: float
) -> Iterator[UdpSessions]:
    """``count`` UDP sessions from ``host``, against ``serving(…, "udp_sessions", …)``; all have asked when the block
    begins. ``more``: ``questions``, ``unanswered``, ``pause``, ``first``, ``timeout``, ``parallel`` of
    traffic/udp_sessions.py."""
    given = [word for source in sources for word in ("--source", source)]
    given += [str(word) for name, value in more.items() for word in (f"--{name}", value)]
    argv = program("udp_sessions", "ask", address, port, "--count", count, "--hold", *given)
    with started(hosts, host, argv) as process:
        yield UdpSessions(process, line_of(process, SessionReport))
        process.communicate(timeout=30)


class NumberedReport(msgspec.Struct, frozen=True):
    """Numbered datagrams as they arrived. ``arrived``: different ones; ``repeated``: those of them that came twice or
    more; ``altered``, ``missing``: the first few; ``first_missing``: sessions whose first one did not come;
    ``askers``: session → whom the receiver saw sending; ``overrun``: how many came and found the receiver's socket
    full."""

    arrived: int
    repeated: int
    altered: tuple[str, ...]
    first_missing: tuple[int, ...]
    missing: tuple[str, ...]
    askers: dict[str, tuple[str, ...]]
    overrun: int


class NumberedSent(msgspec.Struct, frozen=True):
    """``late``: how often the sender did not keep its pace; ``ports``: its own, by session."""

    sent: int
    seconds: float
    late: int
    ports: tuple[int, ...]


def numbered(
    hosts: Hosts, ends: tuple[str, str], where: tuple[str, int], port: int | None = None, **more: float
) -> tuple[NumberedSent, NumberedReport]:
    """Numbered datagrams from the first of ``ends`` to the second. ``where``: what the sender calls; ``port``: where
    the receiver listens, if that is another. ``more``: ``count``, ``sessions``, ``size``, ``rate`` of
    traffic/numbered.py."""
    sender, receiver = ends
    options = [str(word) for name, value in more.items() for word in (f"--{name}", value)]
    with started(hosts, receiver, program("numbered", "take", port or where[1])) as taking:
        if (taking.stdout.readline() if taking.stdout else "") != "ready\n":
            raise LabError(f"the receiver did not start: {taking.communicate()[1].strip()[-800:]}")
        with started(hosts, sender, program("numbered", "send", *where, *options)) as sending:
            sent = line_of(sending, NumberedSent)
        told, complaint = taking.communicate(timeout=60)
        if not told:
            raise LabError(f"the receiver broke: {complaint.strip()[-800:]}")
        return sent, msgspec.json.decode(told, type=NumberedReport)


@contextmanager
def name_server(hosts: Hosts, host: str) -> Iterator[None]:
    """``services.dnsmasq`` on ``host``; it answers when the block begins."""
    with started(hosts, host, services.dnsmasq()) as process:
        until(f"the name server on {host} to answer", lambda: process.poll() is not None or _answers(hosts, host), 5)
        if process.poll() is not None:
            raise LabError(f"the name server on {host} ended: {process.communicate()[1].strip()[-800:]}")
        yield


def _answers(hosts: Hosts, host: str) -> bool:
    return dns(hosts, host, "127.0.0.1", count=1).answered == 1


class DnsReport(msgspec.Struct, frozen=True):
    """``again``: queries that were sent more than once; ``failed``: the first few that had no right answer."""

    asked: int
    answered: int
    again: int
    failed: tuple[str, ...]
    seconds: float
    ports: tuple[int, ...]


def dns(hosts: Hosts, host: str, address: str, port: int = 53, **more: float) -> DnsReport:
    """Queries from ``host`` to a name server. ``more``: ``count``, ``each``, ``parallel`` of traffic/dns.py."""
    options = [str(word) for name, value in more.items() for word in (f"--{name}", value)]
    with started(hosts, host, program("dns", address, port, *options)) as process:
        return line_of(process, DnsReport)


class QuicReport(msgspec.Struct, frozen=True):
    """SHA-256 of what was ``sent`` and what was ``received`` in one QUIC stream; ``port``: the client's."""

    bytes: int
    seconds: float
    sent: str
    received: str
    port: int


def quic(
    hosts: Hosts, host: str, way: Literal["send", "take"], address: str, port: int, size: int, timeout: float = 120
) -> QuicReport:
    """One transfer of ``size`` bytes from or to ``host``, against ``serving(…, "quic", …)``."""
    with started(hosts, host, program("quic", way, address, port, "--bytes", size)) as process:
        out, complaint = process.communicate(timeout=timeout)
        if not out:
            raise LabError(f"the transfer broke: {complaint.strip()[-800:]}")
        return msgspec.json.decode(out, type=QuicReport)
