# SPDX-License-Identifier: GPL-2.0-or-later
"""What is still known of a session that was lost: who reset it, what TCP counted everywhere, its flow and its conntrack
entries on every node, what the agents said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from aa_cluster.errors import AaError
from aa_cluster.topology.capture import RESETS, Capture, Reset
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.namespaces import inside
from aa_cluster.topology.pinned import maps_of
from aa_cluster.topology.view import counters
from tests.failover.oracle import agents

LINES = 15
PLAIN = frozenset(
    {"InSegs", "OutSegs", "TCPHPHits", "TCPPureAcks", "TCPHPAcks", "DelayedACKs", "TCPOrigDataSent", "TCPDelivered"}
)


class Witness:
    """While its block runs: every reset that goes through the switch, what TCP counted everywhere, and the programs."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._captures = [Capture(lab.plan.path("switch"), kind, steps) for kind, steps in RESETS.items()]
        self._before: dict[str, dict[str, int]] = {}

    def __enter__(self) -> Self:
        self._before = self._count()
        for capture in self._captures:
            capture.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for capture in self._captures:
            capture.__exit__(kind, error, trace)

    def resets(self, port: int | None = None) -> list[Reset]:
        """Those that have ``port`` at either end; all of them without one."""
        caught = (Reset.of(frame) for capture in self._captures for frame in capture.frames())
        return [one for one in caught if port is None or port in (one.source[1], one.destination[1])]

    def counted(self) -> Iterator[str]:
        """What changed since the block began, a line each host; plain traffic is left out."""
        for host, now in self._count().items():
            before = self._before.get(host, {})
            changed = {name: value - before.get(name, 0) for name, value in now.items() if value != before.get(name, 0)}
            yield f"{host} counted: " + ", ".join(f"{name} {by}" for name, by in sorted(changed.items()))

    def _count(self) -> dict[str, dict[str, int]]:
        nodes = agents(self._lab)
        counted = {host: inside(self._lab.plan.path(host), tcp_counters) for host in ("client", "server", *nodes)}
        return counted | {node: counted[node] | _reasons(self._lab, node) for node in nodes}


def _reasons(lab: Lab, node: str) -> dict[str, int]:
    """Of an agent that does not answer none are known."""
    try:
        return dict(counters(lab, node))
    except AaError:
        return {}


def tcp_counters() -> dict[str, int]:
    """TCP's counters of this thread's network namespace, by their names in /proc."""
    out: dict[str, int] = {}
    for table in ("snmp", "netstat"):
        lines = Path("/proc/thread-self/net", table).read_text("ascii").splitlines()
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            if names.startswith("Tcp"):
                out.update(zip(names.split()[1:], map(int, values.split()[1:]), strict=True))
    return {name: value for name, value in out.items() if name not in PLAIN}


def autopsy(lab: Lab, port: int, witness: Witness) -> Iterator[str]:
    """``port``: of the host that opened the session. One line a trace."""
    yield from (f"reset: {one}" for one in witness.resets(port))
    for node in agents(lab):
        yield from (f"{node} flow: {row}" for row in _flows(lab, node, port))
        yield from (f"{node} entry: {line}" for line in _entries(lab, node, port))
        yield said(lab, node)


def said(lab: Lab, node: str) -> str:
    """The last lines of the agent's log."""
    return f"{node} said:\n{lab.site(node).tail(LINES)}"


def _flows(lab: Lab, node: str, port: int) -> list[str]:
    with maps_of(lab, node) as maps:
        rows = maps["records"].view()
        found = np.flatnonzero(rows["original_sport"].view(">u2") == port)
        return [f"record {number}: {rows[number]}" for number in found]


def _entries(lab: Lab, node: str, port: int) -> list[str]:
    def read() -> list[str]:
        with open("/proc/thread-self/net/nf_conntrack", encoding="ascii") as table:
            return [line.strip() for line in table if f"port={port} " in line]

    return inside(lab.plan.path(node), read)
