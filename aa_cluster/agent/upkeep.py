# SPDX-License-Identifier: GPL-2.0-or-later
"""The primary's regular work on its dataplane: sweep old flows, count sessions, take in what the programs tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from aa_cluster import log
from aa_cluster.agent.context import Context
from aa_cluster.agent.tasks import TaskSet, pause
from aa_cluster.agent.threads import PlaneThread
from aa_cluster.agent.told import say_all
from aa_cluster.agent.wakeup import Wakeup
from aa_cluster.errors import AaError

if TYPE_CHECKING:
    from aa_cluster.dataplane.events import Event
    from aa_cluster.dataplane.settings import Port

SWEEP_SECONDS = 1.0
SWEEP_REST = 100
SWEEP_MOST = 10.0
"""A sweep of a large table takes long: rest so many times as long after it (1 % of a core), but no more s than this.
The shortest timeout of a flow is half a minute (UDP). In a flood there is no such rest."""
COUNT_SECONDS = 5.0
EVENT_SECONDS = 1.0

_log = log.get("upkeep")


class Upkeep:
    """``sessions``: live flows by owner as last counted (see ``count_sessions``). ``on_journal``: it moves again."""

    def __init__(self, context: Context, plane: PlaneThread, ports: Sequence[Port]) -> None:
        self.sessions: dict[int, int] = {}
        self.trouble = ""
        self.on_journal: Callable[[], None] = lambda: None
        self._context = context
        self._plane = plane
        self._ports = tuple(ports)
        self._ifindex = {port.slot: port.ifindex for port in ports}
        self._tasks = TaskSet()
        self._counting = asyncio.Lock()
        self._counted = float("-inf")
        self._wakeup = Wakeup(self._tasks, self._on_wakeup, self._take_events)

    def start(self) -> None:
        self._tasks.start(self._sweep(), "sweep")
        self._tasks.start(self._look_for_events(), "events")
        self._wakeup.start(self._plane.plane.event_fd())

    async def stop(self) -> None:
        self._wakeup.stop()
        await self._tasks.cancel()

    async def count_sessions(self, age: float) -> dict[int, int]:
        """Live flows by owner, at most ``age`` s old; the table is read once however many ask."""
        async with self._counting:
            if self._context.clock() - self._counted > age:
                self.sessions = await self._plane.call(self._plane.plane.sessions_by_owner)
                self._counted = self._context.clock()
        return self.sessions

    async def _sweep(self) -> None:
        rest = await self._sweep_once()  # a promoted node has numbers to give back before it can give them out
        while True:
            await pause(rest)
            rest = await self._sweep_once()
            with suppress(AaError):  # the sweep says what is wrong
                await self.count_sessions(COUNT_SECONDS)

    async def _sweep_once(self) -> float:
        """Seconds until the next one."""
        start = self._context.clock()
        try:
            flooded = await self._plane.call(self._plane.plane.sweep)
        except AaError as error:
            if not self.trouble:
                _log.error("sweep failed", why=str(error))
            self.trouble = f"old flows cannot be removed: {error.message}"
            return SWEEP_SECONDS
        self.trouble = ""
        rest = SWEEP_REST * (self._context.clock() - start)
        return SWEEP_SECONDS if flooded else max(SWEEP_SECONDS, min(SWEEP_MOST, rest))

    def _on_wakeup(self) -> None:
        """The journal may be what woke us, and is not to wait for the dataplane's thread."""
        self.on_journal()

    async def _look_for_events(self) -> None:
        """Most events do not wake the agent, so that nobody can."""
        while True:
            await pause(EVENT_SECONDS)
            if self._plane.plane.events_wait():
                await self._take_events()

    async def _take_events(self) -> None:
        events = await self._plane.call(self._plane.plane.read_events)
        if any(event.kind == "journal" for event in events):
            self.on_journal()  # it came while others were being read
        if events:
            say_all(self._context, self._ports, events)
            await asyncio.to_thread(self._enter_neighbours, events)

    def _enter_neighbours(self, events: Sequence[Event]) -> None:
        """In a worker thread."""
        neighbours = {(event.slot, event.address): event.mac for event in events if event.kind == "neighbour"}
        for (slot, address), mac in neighbours.items():
            ifindex = self._ifindex.get(slot)
            if ifindex is None:
                continue
            try:
                self._context.host.put_neighbour(ifindex, address, mac)
            except AaError as error:
                _log.warning("neighbour not entered", address=address, why=error.message)
