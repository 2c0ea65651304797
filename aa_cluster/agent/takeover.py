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
from aa_cluster.agent.tasks import TaskSet, pause
from aa_cluster.agent.threads import PlaneThread, urgently
from aa_cluster.dataplane.flows import CLOSED, ESTABLISHED, ONE_SIDED, Owned, Timeouts
from aa_cluster.errors import AaError
from aa_cluster.netlink.ct_messages import needs

if TYPE_CHECKING:
    from aa_cluster.dataplane.plane import Dataplane

LOOK_SECONDS = 0.25
LOOK_CALM = 2.0
"""Looks are as seldom as this when the last ones have found nothing."""
BITE = 2048
"""Entries prepared at a time: some ms, which is what a take-over may have to wait for."""

REST = 19
"""Times as long as it took that preparation rests after each piece of work: a twentieth of a core, and no more."""

LOOK_REST = 100
"""The same after a look through the table that has found all there was; there is one in ``LOOK_MOST`` s at least."""
LOOK_MOST = 5.0

ROUNDS = 4
"""Looks for flows that changed while they were taken over."""

_log = log.get("takeover")


@dataclass(frozen=True, slots=True)
class Taken:
    """``flows`` that go on here; those that had ended have come along. Their entries: ``prepared_before`` long since,
    ``updated`` or made since they were missing just now, ``lost``: not to be had (``errors`` says why). ``ended``: the
    node's own sessions. ``seconds`` until packets came here, ``whole_seconds`` until all was done.
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
        lifetimes: Callable[[], Mapping[int, int]] = Timeouts.of_this_namespace,
    ) -> None:
        self.trouble = ""
        self._plane = plane
        self._self_id = self_id
        self._others = others
        self._lifetimes = lifetimes
        self._preparation = Preparation()
        self._working = asyncio.Lock()
        self._calm = 0.0
        self._tasks = TaskSet()

    @property
    def _calls(self) -> Dataplane:
        return self._plane.plane

    def start(self) -> None:
        self._tasks.start(self._prepare(), "prepare take-overs")

    async def stop(self) -> None:
        await self._tasks.cancel()

    async def take_over(self, node_id: int, *, lives: bool = False, keep_own: bool = False) -> Taken:
        """All flows of that node continue here; those it began itself end, or with ``keep_own`` stay with it.

        A node that ``lives`` goes on with each flow until that very flow changes hands. One that is gone has no part in
        it any more at the switch: what is addressed to it stays here until the node map is written again.

        New sessions must be off it before (``set_draining``), and the caller keeps it so until this is back.
        ``AaError``: it did not come to the switch, and nothing has changed but conntrack; or the switch is made, and
        the flows' owner is not: then they go on here, and it can be tried again.
        """
        begun = time.monotonic()
        with self._plane.urgent():
            async with self._working:
                taking, switched = await self._switch(node_id, lives, keep_own)
        taken = taking.result(switched - begun, time.monotonic() - begun, keep_own)
        _say(node_id, taken)
        return taken

    async def _switch(self, node_id: int, lives: bool, keep_own: bool) -> tuple[_Taking, float]:
        """And when it was made (CLOCK_MONOTONIC, s)."""
        taking = _Taking(self._preparation, self._lifetimes(), self._calls.unchanged)
        found = await self._plane.call(self._calls.flows_of, (node_id,), taking.look)
        await urgently(taking.first, found)
        if not lives:
            await self._plane.call(self._calls.set_hop, node_id, True)
        switched = time.monotonic()
        for turn in range(ROUNDS):
            moved = await self._move(node_id, taking, keep_own)
            if lives and turn == 0:
                switched = time.monotonic()
            if not moved:
                break
        return taking, switched

    async def _move(self, node_id: int, taking: _Taking, keep_own: bool) -> int:
        """Gives how many flows changed hands. A handshake may have gone on, a SYN may have been on its way to the node,
        while its flows were prepared; an entry made ready long ago may be gone."""
        found = await self._plane.call(self._calls.flows_of, (node_id,))
        await urgently(taking.again, found)
        return await self._plane.call(self._calls.reassign, node_id, self._self_id, keep_own)

    # Preparation, in the background.

    async def _prepare(self) -> None:
        while True:
            try:
                rest = await self._prepare_all()
                self.trouble = ""
            except AaError as error:
                if not self.trouble:
                    _log.error("take-overs cannot be prepared", why=str(error))
                self.trouble = f"take-overs cannot be prepared: {error.message}"
                rest = LOOK_MOST
            await pause(rest)

    async def _prepare_all(self) -> float:
        """One look, and all it has found, in bites; gives how long to rest."""
        owners = tuple(self._others())
        if not owners:
            return LOOK_SECONDS
        start = time.monotonic()
        choice = self._preparation.due(time.clock_gettime_ns(time.CLOCK_MONOTONIC))
        async with self._working:
            due = await self._plane.call(self._calls.flows_of, owners, choice)
        self._calm = 0.0 if len(due.numbers) else min(LOOK_CALM, 2 * max(self._calm, LOOK_SECONDS))
        looked = time.monotonic() - start
        rest = max(LOOK_SECONDS, self._calm, min(LOOK_MOST, (REST if choice.full else LOOK_REST) * looked))
        for bite in _bites(due):
            start = time.monotonic()
            async with self._working:
                await asyncio.to_thread(self._prepare_bite, bite)
            await asyncio.sleep(REST * (time.monotonic() - start))
        return rest

    def _prepare_bite(self, bite: Owned) -> None:
        """A flow that has ended may have made room for another of its tuple since it was looked at: that one's entry is
        the same, and not to be touched."""
        self._preparation.prepare(self._calls.unchanged(bite), self._lifetimes())


class _Taking:
    """One take-over under way."""

    def __init__(
        self, preparation: Preparation, lifetimes: Mapping[int, int], unchanged: Callable[[Owned], Owned]
    ) -> None:
        self._preparation, self._lifetimes, self._unchanged = preparation, lifetimes, unchanged
        self._made = Made()
        self._before = self._ended = 0
        self._seen = np.zeros(0, bool)
        self._long_since = np.zeros(0, bool)

    def look(self, records: np.ndarray, at: np.ndarray) -> np.ndarray:
        """As ``flows.Choice``: those that are not ready; the others, mostly all, need not be copied."""
        state, ended = records["state"][at], records["ended"][at]
        own = ended & ONE_SIDED != 0
        needed = needs(records["original_protocol"][at], state, ended)
        ready = self._preparation.ready(at + 1, records["created_ns"][at], needed) & ~own
        going = ~own & (state != CLOSED)
        self._ended += int(np.count_nonzero(own))
        self._before += int(np.count_nonzero(ready & going))
        self._count(at[going] + 1)
        waiting: np.ndarray = ~ready & ~own
        return waiting

    def first(self, waiting: Owned) -> None:
        """They are made ready. In a worker thread."""
        self._long_since = self._seen.copy()
        self._long_since[waiting.numbers[waiting.numbers < len(self._seen)]] = False
        self._work(waiting)

    def again(self, found: Owned) -> None:
        """What has changed since, what could not be had, and what has gone missing. In a worker thread."""
        self._made = replace(self._made, lost=0, errors="")
        going = ~found.one_sided & (found.rows["state"] != CLOSED)
        ready = self._preparation.all_ready(found)
        self._count(found.numbers[going])
        self._work(_of(found, ~ready & ~found.one_sided))
        old = ready & going & (found.numbers < len(self._long_since))
        old[old] = self._long_since[found.numbers[old]]
        self._made += self._preparation.mend(_of(found, old), self._lifetimes)

    def _work(self, waiting: Owned) -> None:
        """The entry of a session that has ended is not made anew, and may be another's by now."""
        over = waiting.rows["state"] == CLOSED
        self._made += self._preparation.complete(_of(waiting, ~over), self._lifetimes)
        self._preparation.prepare(self._unchanged(_of(waiting, over)), self._lifetimes)

    def _count(self, numbers: np.ndarray) -> None:
        if len(numbers):
            more = int(numbers.max()) + 1 - len(self._seen)
            if more > 0:
                self._seen = np.concatenate([self._seen, np.zeros(max(more, len(self._seen)), bool)])
            self._seen[numbers] = True

    def result(self, seconds: float, whole: float, keep_own: bool) -> Taken:
        made = self._made
        return Taken(
            flows=int(np.count_nonzero(self._seen)),
            prepared_before=self._before,
            updated=made.updated,
            missing_created=made.created,
            lost=made.lost,
            ended=0 if keep_own else self._ended,
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
