# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is on the HA link? Ask for a primary, and tell apart: one is there, one cannot be understood, none."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aa_cluster.agent.context import Context
from aa_cluster.agent.link import Peer, Stranger
from aa_cluster.agent.survey import refusal
from aa_cluster.core import admission
from aa_cluster.errors import JoinRefused
from aa_cluster.wire import control, envelope
from aa_cluster.wire.control import AnyMessage, Finding

PROBES = 6
"""Probes that a primary with our key may leave unanswered before a stranger's word counts."""
PROBE_SECONDS = 0.2
"""Between two probes, at most; no longer than a heartbeat."""


@dataclass(frozen=True, slots=True)
class Sighting:
    beat: control.PrimaryBeat
    peer: Peer


class Discovery:
    """Takes the link's messages while it looks."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._pause = min(context.beat, PROBE_SECONDS)
        self._patience = PROBES * self._pause
        self._seen: Sighting | None = None
        self._rival: str = ""
        self._news = asyncio.Event()

    def on_message(self, message: AnyMessage, peer: Peer) -> None:
        if isinstance(message, control.PrimaryBeat):
            if self._seen is None or message.generation >= self._seen.beat.generation:
                self._seen = Sighting(message, peer)
            self._news.set()
        elif isinstance(message, control.Probe) and message.candidate and peer.instance < self._context.link.instance:
            self._rival = message.name
            self._news.set()

    async def find(self, timeout: float) -> Sighting:
        """The primary. ``JoinRefused`` when there is none, or only one with another key or wire version."""
        started = self._context.clock()
        while True:
            self._context.link.send(control.Probe(self._context.name, candidate=False))
            await self._wait(self._pause)
            waited = self._context.clock() - started
            if self._seen is not None:
                return self._seen
            strangers = self._strange_primaries() if waited > self._patience else ()
            if strangers:
                raise refusal("the primary cannot be understood", [self._explain(one) for one in strangers])
            if waited >= timeout:
                raise self._none(timeout)

    async def look(self, seconds: float) -> Sighting | None:
        """The primary, if one answers within so many s."""
        deadline = self._context.clock() + seconds
        while self._seen is None and self._context.clock() < deadline:
            self._context.link.send(control.Probe(self._context.name, candidate=False))
            await self._wait(self._context.beat)
        return self._seen

    async def find_none(self) -> None:
        """Return when nobody else is primary or about to be; else ``JoinRefused``."""
        deadline = self._context.clock() + self._patience
        while self._context.clock() < deadline:
            self._context.link.send(control.Probe(self._context.name, candidate=True))
            await self._wait(self._pause)
            if self._seen is not None:
                raise self._second(f"{self._seen.beat.name} at {self._seen.peer.address} is primary already")
            if self._rival:
                raise self._second(f"{self._rival} is becoming primary at this moment")
        strangers = self._strange_primaries()
        if strangers:
            findings = [self._explain(one) for one in strangers]
            raise refusal("there is a primary of this cluster that cannot be understood", findings)

    async def _wait(self, seconds: float) -> None:
        self._news.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return

    def _strange_primaries(self) -> tuple[Stranger, ...]:
        strangers = self._context.link.heard_strangers()
        return tuple(one for one in strangers if one.header.flags & envelope.FLAG_PRIMARY)

    def _explain(self, stranger: Stranger) -> Finding:
        ours = self._context.wire_version
        if stranger.header.version != ours:
            finding = admission.wire_version(ours, stranger.header.version)
            return Finding(f"{finding.what} of {stranger.address}", finding.found, finding.expected, finding.remedy)
        return Finding(
            "cluster key",
            f"fingerprint {self._context.keys.fingerprint.hex()}",
            f"{stranger.header.fingerprint.hex()}, which the primary at {stranger.address} has",
            f"copy the primary's key file to {self._context.config.cluster.key_file}",
        )

    def _second(self, found: str) -> JoinRefused:
        finding = Finding(
            "primary", found, "no other primary", "join without --primary, or let that node leave the cluster first"
        )
        return refusal("a cluster has one primary", [finding])

    def _none(self, timeout: float) -> JoinRefused:
        config = self._context.config
        finding = Finding(
            "primary",
            f"none heard on {config.ha.interface}, UDP port {config.ha.port}, within {timeout:g} s",
            f"a primary of cluster {config.cluster.id}",
            "start one with `aa-cluster join --primary`, or look at the HA link and the firewall on it",
        )
        return refusal("no primary was found", [finding])
