# SPDX-License-Identifier: GPL-2.0-or-later
"""The agents' part in replication: what is asked for again, what is repaired, when nothing is done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from aa_cluster.agent.sync_mirror import SyncMirror
from aa_cluster.config import Replication
from aa_cluster.dataplane.replication import MirrorState
from aa_cluster.wire import control
from aa_cluster.wire.control import AnyMessage

GENERATION = 4


@dataclass
class FakeMirror:
    """Of a journal of ``head`` entries, of which ``gone`` have not come."""

    head: int = 0
    gone: list[tuple[int, int]] = field(default_factory=list)
    generation: int = 0
    armed: int = 0

    def state(self) -> MirrorState:
        low = self.gone[0][0] if self.gone else self.head
        return MirrorState(low, self.head, 0, 0, 0, 0, 0, 0, self.generation)

    def note_head(self, head: int) -> None:
        if head > self.head:
            self.gone.append((self.head, head))
            self.head = head

    def missing(self, most: int = 64) -> list[tuple[int, int]]:
        return self.gone[:most]

    def beyond(self) -> bool:
        return False

    def arm(self) -> None:
        self.armed += 1

    def forget(self, position: int, generation: int) -> None:
        self.head, self.gone, self.generation = position, [], generation


@dataclass
class FakePlane:
    mirror: FakeMirror = field(default_factory=FakeMirror)
    table: np.ndarray = field(default_factory=lambda: np.zeros(4, "<u8"))
    pipe: int = -1

    def digests(self) -> np.ndarray:
        return self.table

    def flow_count(self) -> int:
        return 7

    def event_fd(self) -> int:
        return self.pipe


@dataclass
class Primary:
    """Answers; ``asked`` and ``sent`` are what it got."""

    plane: FakePlane
    digests: np.ndarray = field(default_factory=lambda: np.zeros(4, "<u8"))
    position: int = 0
    asked: list[control.Request] = field(default_factory=list)
    sent: list[AnyMessage] = field(default_factory=list)
    heals: bool = True
    still: list[int] = field(default_factory=list)
    """What waits to be told, by question."""

    async def ask(self, request: control.Request, timeout: float | None) -> AnyMessage:
        self.asked.append(request)
        match request:
            case control.SyncAsk():
                return control.SyncAnswer(request.nonce, GENERATION, self.position)
            case control.DigestAsk():
                return control.DigestAnswer(request.nonce, self.position, self.digests.tobytes())
            case control.RepairAsk():
                if self.heals:
                    self.plane.table = self.digests.copy()
                return control.RepairAck(request.nonce, self.still.pop(0) if self.still else 0)
        raise AssertionError(request)

    def send(self, message: AnyMessage) -> None:
        self.sent.append(message)
        if self.heals and isinstance(message, control.ResendAsk):
            self.plane.mirror.gone.clear()

    def repairs(self) -> list[tuple[int, ...]]:
        return [one.blocks for one in self.asked if isinstance(one, control.RepairAsk)]


class Thread:
    def __init__(self, plane: FakePlane) -> None:
        self.plane = plane

    async def call(self, function: Callable[..., Any], *args: object) -> Any:
        return function(*args)


def beat(journal: int) -> control.PrimaryBeat:
    return control.PrimaryBeat(1, "gw1", GENERATION, 1, "weighted", "", bytes(6), (), journal)


async def nothing() -> None:
    pass


def made(primary: Primary, mode: str = "all") -> SyncMirror:
    section = Replication(mode=cast(Any, mode), interval_ms=1, verify_s=3600)
    context = SimpleNamespace(config=SimpleNamespace(replication=section), clock=time.monotonic)
    settings = SimpleNamespace(node_id=2, generation=GENERATION)
    return SyncMirror(
        cast(Any, context),
        cast(Any, Thread(primary.plane)),
        cast(Any, lambda: settings),
        primary.ask,
        primary.send,
        nothing,
    )


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not done():
            await asyncio.sleep(0.005)


async def test_a_fresh_node_has_all_that_differs_told_at_once() -> None:
    primary = Primary(FakePlane(), np.array([1, 0, 2, 0], "<u8"), position=70)
    sync = made(primary)
    sync.start()
    sync.heard(beat(70))
    await until(lambda: sync._synced is not None)
    assert primary.repairs() == [(0, 2)]
    assert primary.plane.mirror.generation == GENERATION
    status = await sync.answer(control.SyncStatusAsk(bytes(8)))
    assert isinstance(status, control.SyncStatusAnswer)
    assert (status.differing, status.lag, status.flows) == (0, 0, 7)
    await sync.stop()


async def test_a_restarted_agent_soon_knows_whether_it_has_all() -> None:
    """The same journal goes on: nothing begins, and the next comparison by the clock would be an hour away."""
    primary = Primary(FakePlane(), np.zeros(4, "<u8"), position=70)
    primary.plane.mirror.generation = GENERATION
    sync = made(primary)
    sync.start()
    sync.heard(beat(70))
    await until(lambda: sync.complete)
    assert not any(isinstance(one, control.SyncAsk) for one in primary.asked)
    await sync.stop()


async def test_it_has_all_when_all_was_told_though_much_changes() -> None:
    """Where sessions come and go all the time some block differs at every comparison."""
    primary = Primary(FakePlane(), np.array([1, 0, 2, 0], "<u8"), position=70, heals=False, still=[2, 1, 0])
    primary.plane.mirror.gone.clear()
    sync = made(primary)
    called: list[int] = []
    sync.on_complete = lambda: called.append(len(primary.repairs()))
    assert not sync.complete
    sync.start()
    sync.heard(beat(70))
    await until(lambda: sync.complete)
    assert primary.repairs()[:3] == [(0, 2), (), ()]
    assert called == [3]
    assert sync._differing
    await sync.stop()


async def test_a_primary_that_is_gone_is_not_waited_for() -> None:
    """A repair is under way when another node becomes primary: its answer never comes."""
    primary = Primary(FakePlane(), np.array([1, 0, 2, 0], "<u8"), position=70, heals=False, still=[1] * 100)
    primary.plane.mirror.gone.clear()
    sync = made(primary)
    sync.start()
    sync.heard(beat(70))
    await until(lambda: len(primary.repairs()) > 2)
    primary.still.clear()
    primary.heals = True
    never = asyncio.get_running_loop().create_future()
    answer, primary.ask = primary.ask, lambda request, timeout: never  # type: ignore[method-assign]
    sync._ask = primary.ask
    await asyncio.sleep(0.1)
    sync._ask = answer
    assert isinstance(await sync.answer(control.ResyncTell(bytes(8))), control.ResyncAck)
    await until(lambda: sync.complete)
    await sync.stop()


async def test_it_has_all_when_nothing_differs() -> None:
    primary = Primary(FakePlane(), position=70)
    sync = made(primary)
    sync.start()
    sync.heard(beat(70))
    await until(lambda: sync.complete)
    assert primary.repairs() == []
    await sync.stop()


async def test_what_is_missing_is_asked_for_until_it_comes() -> None:
    primary = Primary(FakePlane(FakeMirror(generation=GENERATION)), heals=False)
    sync = made(primary)
    sync.start()
    sync.heard(beat(50))
    await until(lambda: len(primary.sent) >= 3)
    assert primary.sent[0] == control.ResendAsk(2, ((0, 50),))
    primary.plane.mirror.gone.clear()
    await asyncio.sleep(0.05)
    count = len(primary.sent)
    await asyncio.sleep(0.05)
    assert len(primary.sent) == count
    status = await sync.answer(control.SyncStatusAsk(bytes(8)))
    assert isinstance(status, control.SyncStatusAnswer)
    assert status.lost == 50, "asked for three times, lost once"
    await sync.stop()


async def test_what_comes_in_time_is_not_asked_for() -> None:
    primary = Primary(FakePlane(FakeMirror(generation=GENERATION)))
    sync = made(primary)
    sync.start()
    sync.heard(beat(50))
    primary.plane.mirror.gone.clear()
    await asyncio.sleep(0.05)
    assert primary.sent == []
    await sync.stop()


async def test_a_block_is_repaired_only_when_it_differs_twice() -> None:
    """Later than at the begin, a difference may be a session that has just begun."""
    primary = Primary(FakePlane(FakeMirror(generation=GENERATION)), np.array([1, 2, 0, 0], "<u8"))
    primary.plane.table = np.array([1, 0, 0, 5], "<u8")
    sync = made(primary)
    assert not await sync._verify()
    assert primary.repairs() == []
    primary.plane.table = np.array([1, 0, 0, 0], "<u8")
    assert not await sync._verify()
    assert primary.repairs() == [(1,)]
    assert await sync._verify()


async def test_told_to_begin_anew() -> None:
    primary = Primary(FakePlane(FakeMirror(head=9, generation=GENERATION)), position=30)
    sync = made(primary)
    sync.start()
    assert isinstance(await sync.answer(control.ResyncTell(bytes(8))), control.ResyncAck)
    await until(lambda: sync._synced is not None)
    assert primary.plane.mirror.head == 30
    await sync.stop()


async def test_off_nothing_is_asked() -> None:
    primary = Primary(FakePlane())
    sync = made(primary, "off")
    sync.start()
    sync.heard(beat(50))
    await asyncio.sleep(0.02)
    assert primary.asked == primary.sent == []
    await sync.stop()
