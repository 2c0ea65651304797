# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens, for those who watch (``monitor``): everybody gets each event once; who is slow loses some, and is told.

Nothing here is kept: an event that nobody watches is gone. What is true now is in ``status``.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from aa_cluster import api

QUEUE = 1024
"""Events that wait for one reader."""
FLOW_KINDS = frozenset(("flow-begin", "flow-end"))


@dataclass(frozen=True, slots=True)
class Filter:
    """Empty collections let everything through. ``flows``: flow events too, which are many; others are of no protocol
    and no family (``udp``, ``ipv6``)."""

    kinds: frozenset[str] = frozenset()
    nodes: frozenset[str] = frozenset()
    addresses: frozenset[str] = frozenset()
    flows: bool = False
    protocols: frozenset[str] = frozenset()
    families: frozenset[str] = frozenset()

    def passes(self, event: api.Event) -> bool:
        if event.event in FLOW_KINDS and not self.flows:
            return False
        return (
            _admits(self.kinds, (event.event,))
            and _admits(self.nodes, (event.node,))
            and _admits(self.addresses, (event.address, *event.detail.values()))
            and _admits(self.protocols, (event.detail.get("protocol", ""),))
            and _admits(self.families, (event.detail.get("family", ""),))
        )


def _admits(wanted: frozenset[str], found: Collection[str]) -> bool:
    return not wanted or not wanted.isdisjoint(found)


class Subscription:
    """One reader's queue. ``take`` waits for what comes next."""

    def __init__(self, wanted: Filter, size: int = QUEUE) -> None:
        self.wanted = wanted
        self._waiting: deque[api.Event] = deque()
        self._size = size
        self._dropped = 0
        self._news = asyncio.Event()

    def offer(self, event: api.Event) -> None:
        if not self.wanted.passes(event):
            return
        if len(self._waiting) >= self._size:
            self._dropped += 1
            return
        self._waiting.append(event)
        self._news.set()

    async def take(self, seconds: float) -> list[api.Event]:
        """All that wait, in order, and last how many were dropped meanwhile; empty when ``seconds`` pass."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return []
        self._news.clear()
        taken = list(self._waiting)
        self._waiting.clear()
        if self._dropped:
            taken.append(dropped(self._dropped, taken[-1].time if taken else time.time()))
            self._dropped = 0
        return taken


class EventHub:
    """Where the agent says what happens. ``relay`` gets everything but flow events, to tell other nodes."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.relay: Callable[[api.Event], None] = lambda event: None
        self.on_readers: Callable[[], None] = lambda: None
        self._clock = clock
        self._readers: list[Subscription] = []

    @property
    def flows_wanted(self) -> bool:
        return any(one.wanted.flows for one in self._readers)

    def say(self, event: api.EventKind, text: str, node: str = "", address: str = "", **detail: object) -> None:
        """It happens now, and here."""
        told = {key: str(value) for key, value in detail.items()}
        made = api.Event(time=self._clock(), event=event, node=node, address=address, text=text, detail=told)
        self.pass_on(made)
        if event not in FLOW_KINDS:
            self.relay(made)

    def pass_on(self, event: api.Event) -> None:
        """To the readers here only."""
        for reader in self._readers:
            reader.offer(event)

    @contextmanager
    def reading(self, wanted: Filter, size: int = QUEUE) -> Iterator[Subscription]:
        reader = Subscription(wanted, size)
        self._readers.append(reader)
        self.on_readers()
        try:
            yield reader
        finally:
            self._readers.remove(reader)
            self.on_readers()


def dropped(count: int, when: float) -> api.Event:
    text = f"{count} events were left out here: the reader was too slow"
    return api.Event(time=when, event="dropped", text=text, detail={"count": str(count)})
