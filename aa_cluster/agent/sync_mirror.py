# SPDX-License-Identifier: GPL-2.0-or-later
"""Replication on an auxiliary (docs/replication.md): asks for what is missing, compares, has repaired what differs.

Nothing here runs while nothing changes, but for the comparison every ``verify_s``.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import numpy as np

from aa_cluster import log
from aa_cluster.agent.context import Context
from aa_cluster.agent.small_state import SmallKeeper
from aa_cluster.agent.tasks import TaskSet
from aa_cluster.agent.threads import PlaneThread
from aa_cluster.agent.wakeup import Wakeup
from aa_cluster.errors import AaError, StateError, TimeoutReached
from aa_cluster.wire import control
from aa_cluster.wire.control import AnyMessage

if TYPE_CHECKING:
    from aa_cluster.dataplane.settings import Settings

ASK_SECONDS = 2.0
CATCH_UP_SECONDS = 1.0
VERIFY_FIRST = 0.2
"""After a comparison that found a difference; twice as long each time, up to ``verify_s``."""

TOLD_SECONDS = 0.05
"""Between two questions whether all has been told."""

BEGIN_PAUSE = 1.0
"""Not longer than this until the table was equal once."""

_log = log.get("sync")

Ask = Callable[[control.Request, float | None], Awaitable[AnyMessage]]


class SyncMirror:
    """An auxiliary's side. ``ask`` and ``send`` talk to the primary; ``settings``: those of the moment.

    ``small``: what the primary said beside the flow table. ``read_events`` takes in what the programs have told.
    ``complete``: since this began, and under whichever primary, the node has had all of the table at one moment and all
    changes since, as far as it knows; ``on_complete`` is called when it is so for the first time.
    """

    def __init__(
        self,
        context: Context,
        plane: PlaneThread,
        settings: Callable[[], Settings],
        ask: Ask,
        send: Callable[[AnyMessage], None],
        read_events: Callable[[], Awaitable[None]],
    ) -> None:
        self._context = context
        self._plane = plane
        self._settings = settings
        self._ask = ask
        self._send = send
        self._section = context.config.replication
        self._tasks = TaskSet()
        self._wake = asyncio.Event()  # `mirror` has seen a gap, or another program tells something
        self._wakeup = Wakeup(self._tasks, self._wake.set, read_events)
        self._check = asyncio.Event()
        self._running = False
        self._beginning = False
        self._behind_since: float | None = None
        self._asked_to = 0
        self._lost = 0
        self._suspects: frozenset[int] = frozenset()
        self._fresh = False
        self._told = False
        self._round: asyncio.Task[bool] | None = None
        self._differing: int | None = None
        self._verified = 0.0
        self._synced: float | None = None
        self._began = 0.0
        self._took = 0.0
        self.small = SmallKeeper(plane)
        self.complete = not self.on
        self.on_complete: Callable[[], None] = lambda: None

    @property
    def on(self) -> bool:
        return self._section.mode != "off"

    def start(self) -> None:
        """Call it when the dataplane runs."""
        if not self.on or self._running:
            return
        self._running = True
        self._began = self._context.clock()
        self._wakeup.start(self._plane.plane.event_fd())
        self._tasks.start(self._watch(), "missing")
        self._tasks.start(self._compare(), "digests")

    async def stop(self) -> None:
        self._wakeup.stop()
        self._running = False
        await self._tasks.cancel()

    def heard(self, beat: control.PrimaryBeat) -> None:
        """A heartbeat of this node's primary and generation."""
        if not self._running or self._beginning:
            return
        mirror = self._plane.plane.mirror
        if mirror.state().generation != beat.generation:
            self._beginning = True
            self._tasks.start(self._begin(), "begin")
            return
        mirror.note_head(beat.journal)
        if mirror.state().lag:
            self._wake.set()

    def on_message(self, message: AnyMessage) -> bool:
        """True when it was for replication."""
        return self.small.on_message(message, self._settings().generation)

    async def answer(self, request: control.Request) -> AnyMessage | None:
        """None when the request is not for replication."""
        match request:
            case control.SyncStatusAsk():
                return await self._status(request)
            case control.ResyncTell():
                if self._running and not self._beginning:
                    self._beginning = True
                    self._tasks.start(self._begin(), "begin")
                return control.ResyncAck(request.nonce)
        return None

    async def _status(self, request: control.SyncStatusAsk) -> control.SyncStatusAnswer:
        if not self._running:
            raise StateError("replication does not run here", "see [replication] mode, and the agent's log")
        plane, now = self._plane.plane, self._context.clock()
        plane.mirror.missing(1)
        state = plane.mirror.state()
        flows = await self._plane.call(plane.flow_count)
        known = self._differing is not None
        return control.SyncStatusAnswer(
            nonce=request.nonce,
            generation=state.generation,
            lag=state.lag,
            lag_ms=0 if not state.lag or self._behind_since is None else int((now - self._behind_since) * 1000),
            lost=self._lost,
            refused=state.refused,
            flows=flows,
            differing=self._differing,
            verified_ms=int((now - self._verified) * 1000) if known else None,
            synced_ms=None if self._synced is None else int((now - self._synced) * 1000),
            took_ms=None if self._synced is None else int(self._took * 1000),
        )

    # A journal begins.

    async def _begin(self) -> None:
        """The primary says where it stands; what was before shows in the digests, which are compared at once."""
        mirror = self._plane.plane.mirror
        self._synced, self._differing, self._began = None, None, self._context.clock()
        if self._round is not None:
            self._round.cancel()  # it may wait for the answer of a primary that is no more
        try:
            answer = await self._ask(control.SyncAsk(_nonce(), self._settings().node_id), None)
            if isinstance(answer, control.SyncAnswer) and answer.generation == self._settings().generation:
                await self._plane.call(mirror.forget, answer.position, answer.generation)
                self._asked_to, self._fresh, self._suspects = answer.position, True, frozenset()
                self._told = False
                self._check.set()
        finally:
            self._beginning = False  # when it failed, the next heartbeat begins again

    # What is missing.

    async def _watch(self) -> None:
        """What was known of a moment ago and is still missing has been lost."""
        moment = (2 * self._section.interval_ms + 10) / 1000
        mirror = self._plane.plane.mirror
        while True:
            mirror.arm()
            await self._wake.wait()
            self._wake.clear()
            self._behind_since = self._context.clock()
            await asyncio.sleep(moment)  # frames may overtake each other, and the last ones may be on their way
            while self._ask_again(mirror.state().head):
                await asyncio.sleep(moment)
            self._behind_since = None

    def _ask_again(self, head: int) -> bool:
        """Asks for what is missing of the entries before ``head``; False when nothing is."""
        mirror = self._plane.plane.mirror
        if mirror.beyond():
            self._lost += mirror.give_up(head)
            self._check.set()
        ranges = tuple((first, min(end, head)) for first, end in mirror.missing(control.MAX_RANGES) if first < head)
        if not ranges:
            return False
        self._lost += sum(max(0, end - max(first, self._asked_to)) for first, end in ranges)
        self._asked_to = max(self._asked_to, ranges[-1][1])
        self._send(control.ResendAsk(self._settings().node_id, ranges))
        return True

    # Digests.

    async def _compare(self) -> None:
        pause = min(BEGIN_PAUSE, self._section.verify_s)  # a former agent's table: nobody knows yet what it is worth
        while True:
            try:
                async with asyncio.timeout(pause):
                    await self._check.wait()
                pause = VERIFY_FIRST
            except TimeoutError:
                pause = 2 * pause
            self._check.clear()
            self._round = asyncio.create_task(self._verify(), name="verify")
            try:
                equal = await self._round
            except AaError as error:
                _log.debug("digests not compared", why=error.message)
                equal = True
            except asyncio.CancelledError:
                mine = asyncio.current_task()
                if mine is None or mine.cancelling():
                    raise
                equal = False  # a journal begins: that round is void
            most = self._section.verify_s if self._synced is not None else min(BEGIN_PAUSE, self._section.verify_s)
            pause = most if equal else min(pause, most)

    async def _verify(self) -> bool:
        """Compares with the primary's table; what differs twice in a row, or at the begin, is told again by it."""
        told = self._told
        answer = await self._ask(control.DigestAsk(_nonce(), self._settings().node_id), ASK_SECONDS)
        if not isinstance(answer, control.DigestAnswer) or self._beginning:
            return True
        await self._catch_up(answer.position)
        if told:
            self._have_all()
        differing = await self._plane.call(self._compare_with, np.frombuffer(answer.digests, "<u8"))
        self._differing, self._verified = len(differing), self._context.clock()
        wrong = differing if self._fresh else differing & self._suspects
        self._suspects, self._fresh = differing, False
        if wrong:
            await self._have_told(wrong)
        if not differing:
            self._have_all()
        return not differing

    async def _have_told(self, blocks: frozenset[int]) -> None:
        """The primary tells these again. A node that begins waits until it has told all: when the journal up to then
        has come, nothing is missing, however much changes meanwhile and so differs."""
        waiting = await self._repair(tuple(sorted(blocks)))
        while self._synced is None and waiting:
            await asyncio.sleep(TOLD_SECONDS)
            waiting = await self._repair(())
        if self._synced is None:
            self._told = True
            self._check.set()

    async def _repair(self, blocks: tuple[int, ...]) -> int:
        """How many the primary has still to tell."""
        answer = await self._ask(control.RepairAsk(_nonce(), self._settings().node_id, blocks), ASK_SECONDS)
        return answer.waiting if isinstance(answer, control.RepairAck) else 0

    def _have_all(self) -> None:
        if self._synced is None:
            self._synced = self._context.clock()
            self._took = self._synced - self._began
            _log.info("the flow table is the primary's", took=round(self._took, 3))
        if not self.complete:
            self.complete = True
            self.on_complete()

    def _compare_with(self, theirs: np.ndarray) -> frozenset[int]:
        """In the dataplane's thread."""
        from aa_cluster.dataplane.replication import differing

        return frozenset(differing(self._plane.plane.digests(), theirs))

    async def _catch_up(self, position: int) -> None:
        """Until all entries before that position have come, or for a second."""
        mirror = self._plane.plane.mirror
        mirror.note_head(position)
        try:
            async with asyncio.timeout(CATCH_UP_SECONDS):
                while mirror.missing(1) and mirror.state().low < position:
                    self._wake.set()
                    await asyncio.sleep(self._section.interval_ms / 1000)
        except TimeoutError:
            raise TimeoutReached("entries of the primary's journal do not come", "look at the HA link") from None


def _nonce() -> bytes:
    return secrets.token_bytes(8)
