# SPDX-License-Identifier: GPL-2.0-or-later
"""When the primary's agent sends what pends of the journal, and when it leaves that to new sessions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from aa_cluster.agent.sync_source import FRAMES_A_TURN, LINGER_SECONDS, QUIET_AGAIN, SyncSource
from aa_cluster.config import Replication

SYN_TAKES = 15
INTERVAL_MS = 5


class FakeSender:
    """A journal of which SYNs take a frame each; ``flushed``: frames that the agent was asked for."""

    def __init__(self) -> None:
        self.written = self.sent = 0
        self.flushed: list[int] = []

    def head(self) -> int:
        return self.written

    def cursor(self) -> int:
        return self.sent

    def pending(self) -> int:
        return self.written - self.sent

    def flush(self, frames: int) -> int:
        self.flushed.append(frames)
        self.sent = min(self.written, self.sent + frames * SYN_TAKES)
        return self.pending()

    def arm(self) -> bool:
        return not self.pending()

    def syn(self) -> None:
        self.written += 1
        self.sent = min(self.written, self.sent + SYN_TAKES)


@pytest.fixture
def sender() -> FakeSender:
    return FakeSender()


@pytest.fixture(autouse=True)
async def source(sender: FakeSender) -> AsyncIterator[SyncSource]:
    context = SimpleNamespace(config=SimpleNamespace(replication=Replication(interval_ms=INTERVAL_MS)))
    plane = SimpleNamespace(plane=SimpleNamespace(sender=sender))
    made = SyncSource(cast(Any, context), cast(Any, plane), cast(Any, lambda: None))
    made.start()
    yield made
    await made.stop()


async def syns(sender: FakeSender, seconds: float) -> None:
    """One in each interval."""
    async with asyncio.timeout(5):
        for _ in range(round(1000 * seconds / INTERVAL_MS)):
            sender.syn()
            await asyncio.sleep(INTERVAL_MS / 1000)


async def test_what_sessions_take_along_is_left_to_them(sender: FakeSender) -> None:
    await syns(sender, 0.1)
    assert sender.flushed == []


async def test_thousands_at_once_do_not_wait_for_sessions(sender: FakeSender) -> None:
    """As a sweep writes them. The SYNs alone would need two seconds for it."""
    sender.written = 6000
    await syns(sender, 0.1)
    assert set(sender.flushed) == {FRAMES_A_TURN}
    assert sender.pending() == 0


async def test_the_last_entry_is_sent_though_no_session_follows(sender: FakeSender) -> None:
    sender.written = 1
    await asyncio.sleep(10 * INTERVAL_MS / 1000)
    assert (sender.pending(), len(sender.flushed)) == (0, 1)


async def test_that_the_journal_rests_is_said_again(source: SyncSource) -> None:
    """A heartbeat may be lost as the last frames were. Then nothing more until the journal moves."""
    told: list[float] = []
    source.on_quiet = lambda: told.append(asyncio.get_running_loop().time())
    await asyncio.sleep(LINGER_SECONDS + sum(QUIET_AGAIN) + 0.2)
    assert len(told) == 1 + len(QUIET_AGAIN)


async def test_who_is_rung_says_no_more_that_the_journal_rests(source: SyncSource, sender: FakeSender) -> None:
    told: list[int] = []
    source.on_quiet = lambda: told.append(sender.written)
    async with asyncio.timeout(5):
        while not told:
            await asyncio.sleep(0.001)
        sender.written = 1
        source.ring()
        while told[-1] == 0:
            await asyncio.sleep(0.001)
    assert told.count(0) == 1
