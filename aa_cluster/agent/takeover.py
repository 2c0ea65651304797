# SPDX-License-Identifier: GPL-2.0-or-later
"""The primary goes on with another node's flows: conntrack first, one switch, then the owner (docs/take-over.md)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from aa_cluster import log
from aa_cluster.agent.preparation import Made, Preparation
from aa_cluster.agent.tasks import TaskSet
from aa_cluster.agent.threads import PlaneThread
from aa_cluster.dataplane.flows import CLOSED, ESTABLISHED, Owned, Timeouts
from aa_cluster.errors import AaError

if TYPE_CHECKING:
    from aa_cluster.dataplane.plane import Dataplane

LOOK_SECONDS = 0.25
BITE = 2048
"""Entries prepared at a time: some ms, which is what a take-over may have to wait for."""

REST = 9
"""Times as long as it took that preparation rests after each piece of work: a tenth of a core, and no more."""

LOOK_REST = 50
"""The same after a look through the table, which there is at least once in ``LOOK_MOST`` s."""
LOOK_MOST = 5.0

ROUNDS = 4
"""Looks for flows that changed while they were taken over."""

_log = log.get("takeover")


@dataclass(frozen=True, slots=True)
class Taken:
    """``flows`` that go on here; those that had ended have come along. Their entries: ``prepared_before`` long since,
    ``updated`` or made since they were missing just now, ``lost``: not to be had (``errors`` says why). ``ended``: the
    node's own sessions. ``seconds`` until the switch, ``whole_seconds`` until all was done.
    """

    flows: int
    prepared_before: int
    updated: int
    missing_created: int
    lost: int
    ended: int
    seconds: float
    whole_seconds: float
    errors: str = ""


class TakeOver:
    """``others``: the ids of the nodes whose flows are to be kept ready. One take-over at a time."""

    def __init__(
        self,
        plane: PlaneThread,
        self_id: int,
        others: Callable[[], Collection[int]],
        lifetimes: Callable[[], Mapping[int, int]] = lambda: Timeouts.of_this_namespace().by_state,
    ) -> None:
        self.trouble = ""
        self._plane = plane
        self._self_id = self_id
        self._others = others
        self._lifetimes = lifetimes
        self._preparation = Preparation()
        self._working = asyncio.Lock()
        self._tasks = TaskSet()

    @property
    def _calls(self) -> Dataplane:
        return self._plane.plane

    def start(self) -> None:
        self._tasks.start(self._prepare(), "prepare take-overs")

    async def stop(self) -> None:
        await self._tasks.cancel()

    async def take_over(self, node_id: int, *, back: bool = False) -> Taken:
        """All flows of that node continue here. ``back``: packets may go to it again afterwards (it lives); otherwise
        what is still addressed to it stays here until the node map is written again.

        New sessions must be off it before (``set_draining``), and the caller keeps it so until this is back.
        ``AaError``: it did not come to the switch, and nothing has changed but conntrack; or the switch is made, and
        the flows' owner is not: then they go on here, and it can be tried again.
        """
        begun = time.monotonic()
        async with self._working:
            lifetimes = self._lifetimes()
            taking = _Taking(self._preparation, lifetimes)
            found = await self._plane.call(self._calls.flows_of, (node_id,))
            await asyncio.to_thread(taking.first, found)
            await self._plane.call(self._calls.set_hop, node_id, True)
            switched = time.monotonic()
            await self._settle(node_id, taking)
            if back:
                await self._plane.call(self._calls.set_hop, node_id, False)
        taken = taking.result(switched - begun, time.monotonic() - begun)
        _say(node_id, taken)
        return taken

    async def _settle(self, node_id: int, taking: _Taking) -> None:
        """A handshake may have gone on, a SYN may have been on its way to the node, while its flows were prepared; an
        entry made ready long ago may be gone."""
        for turn in range(ROUNDS):
            found = await self._plane.call(self._calls.flows_of, (node_id,))
            if turn and not len(found.numbers):
                break
            await asyncio.to_thread(taking.again, found)
            await self._plane.call(self._calls.reassign, node_id, self._self_id)

    # Preparation, in the background.

    async def _prepare(self) -> None:
        while True:
            try:
                pause = await self._prepare_all()
                self.trouble = ""
            except AaError as error:
                if not self.trouble:
                    _log.error("take-overs cannot be prepared", why=str(error))
                self.trouble = f"take-overs cannot be prepared: {error.message}"
                pause = LOOK_MOST
            await asyncio.sleep(pause)

    async def _prepare_all(self) -> float:
        """One look, and all it has found, in bites; gives how long to rest."""
        owners = tuple(self._others())
        if not owners:
            return LOOK_SECONDS
        start = time.monotonic()
        choice = self._preparation.due(time.clock_gettime_ns(time.CLOCK_MONOTONIC))
        async with self._working:
            due = await self._plane.call(self._calls.flows_of, owners, choice)
        pause = max(LOOK_SECONDS, min(LOOK_MOST, LOOK_REST * (time.monotonic() - start)))
        for bite in _bites(due):
            start = time.monotonic()
            async with self._working:
                await asyncio.to_thread(self._preparation.prepare, bite, self._lifetimes())
            await asyncio.sleep(REST * (time.monotonic() - start))
        return pause


class _Taking:
    """One take-over under way."""

    def __init__(self, preparation: Preparation, lifetimes: Mapping[int, int]) -> None:
        self._preparation, self._lifetimes = preparation, lifetimes
        self._made = Made()
        self._before = self._ended = 0
        self._going = np.zeros(0, int)

    def first(self, found: Owned) -> None:
        """What is not ready is made so. In a worker thread."""
        self._ended = int(np.count_nonzero(found.one_sided))
        self._before = int(np.count_nonzero(self._work(found)))

    def again(self, found: Owned) -> None:
        """What has changed since, what could not be had, and what has gone missing. In a worker thread."""
        self._made = replace(self._made, lost=0, errors="")
        ready = self._work(found)
        self._made += self._preparation.mend(_of(found, ready), self._lifetimes)

    def _work(self, found: Owned) -> np.ndarray:
        """Gives which were ready. The entry of a session that has ended is not made anew."""
        ready = self._preparation.ready(found.numbers, found.rows["created_ns"], found.rows["state"])
        ready &= ~found.one_sided
        waiting = ~ready & ~found.one_sided
        over = found.rows["state"] == CLOSED
        self._going = np.union1d(self._going, found.numbers[~found.one_sided & ~over])
        self._made += self._preparation.complete(_of(found, waiting & ~over), self._lifetimes)
        self._preparation.prepare(_of(found, waiting & over), self._lifetimes)
        out: np.ndarray = ready & ~over
        return out

    def result(self, seconds: float, whole: float) -> Taken:
        made = self._made
        return Taken(
            flows=len(self._going),
            prepared_before=self._before,
            updated=made.updated,
            missing_created=made.created,
            lost=made.lost,
            ended=self._ended,
            seconds=seconds,
            whole_seconds=whole,
            errors=made.errors,
        )


def _bites(due: Owned) -> list[Owned]:
    """Established ones first: they are what a take-over would break."""
    order = np.argsort(due.rows["state"] != ESTABLISHED, kind="stable")
    return [_of(due, order[start : start + BITE]) for start in range(0, len(order), BITE)]


def _of(found: Owned, chosen: np.ndarray) -> Owned:
    return Owned(found.numbers[chosen], found.rows[chosen], found.one_sided[chosen])


def _say(node_id: int, taken: Taken) -> None:
    write = _log.warning if taken.lost else _log.info
    write(
        "taken over",
        node=node_id,
        flows=taken.flows,
        prepared_before=taken.prepared_before,
        updated=taken.updated,
        created=taken.missing_created,
        lost=taken.lost,
        errors=taken.errors,
        ended=taken.ended,
        ms=round(1000 * taken.seconds, 1),
        whole_ms=round(1000 * taken.whole_seconds, 1),
    )
