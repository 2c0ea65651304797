# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent's part in adopting a session with a helper: entry first, then the frame; trouble is told, once."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from aa_cluster.agent.adoption import Adoption
from aa_cluster.dataplane.punts import Punt
from aa_cluster.errors import DataplaneError, NetlinkError
from aa_cluster.netlink.ct_create import NewEntry
from tests.wire.test_block import KEY
from tests.wire.test_frame import syn

NAMELESS = "cannot create conntrack entry 6 10.0.0.1:1 → 10.0.0.2:21: no buffer space"


class Plane:
    """``waiting`` is what the ring holds; a byte in the pipe wakes the reader."""

    def __init__(self) -> None:
        self.pipe = os.pipe()
        os.set_blocking(self.pipe[0], False)
        self.waiting: list[Punt] = []
        self.done: list[NewEntry | Punt] = []
        self.broken = False

    def punt_fd(self) -> int:
        return self.pipe[0]

    def read_punts(self) -> list[Punt]:
        with contextlib.suppress(BlockingIOError):
            os.read(self.pipe[0], 100)
        if self.broken:
            raise DataplaneError("the ring is gone")
        found, self.waiting = self.waiting, []
        return found

    def deliver(self, punt: Punt) -> None:
        self.done.append(punt)

    def put(self, *frames: bytes) -> None:
        self.waiting += [Punt(7, frame) for frame in frames]
        os.write(self.pipe[1], b"!")


class World:
    def __init__(self) -> None:
        self.plane = Plane()
        self.events: list[tuple[str, str]] = []
        self.now = 0.0
        self.refuse = ""
        self.there = False
        self.worked = asyncio.Event()
        say = SimpleNamespace(say=lambda kind, text, **_: self.events.append((kind, text)))
        keys = SimpleNamespace(handoff=KEY)
        self.context: Any = SimpleNamespace(keys=keys, clock=lambda: self.now, events=say, name="node2")
        thread: Any = SimpleNamespace(plane=self.plane, call=self.call)
        self.adoption = Adoption(self.context, thread, self.create)

    async def call(self, work: Any) -> Any:
        try:
            return work()
        finally:
            self.worked.set()

    def create(self, entry: NewEntry) -> bool:
        if self.refuse:
            raise NetlinkError(self.refuse)
        self.plane.done.append(entry)
        return not self.there

    async def batch(self, *frames: bytes) -> None:
        self.worked.clear()
        self.plane.put(*frames)
        await asyncio.wait_for(self.worked.wait(), 5)
        await asyncio.sleep(0)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.adoption.stop()
    for end in world.plane.pipe:
        os.close(end)


async def started(world: World) -> World:
    world.adoption.start()
    await asyncio.wait_for(world.worked.wait(), 5)
    return world


@pytest.mark.parametrize("there", [False, True], ids=["new", "there already"])
async def test_the_entry_comes_before_the_frame(world: World, there: bool) -> None:
    await started(world)
    world.there = there
    await world.batch(syn(b"data"))
    entry, punt = world.plane.done
    assert isinstance(entry, NewEntry)
    assert str(entry.original) == "6 10.77.1.100:33000 → 10.77.2.100:80"
    assert str(entry.translated) == "6 10.77.2.1:40000 → 10.77.2.100:80"
    assert (entry.helper, entry.mark) == ("ftp", 0x11223344)
    assert punt == Punt(7, syn(b"data"))
    assert world.adoption.trouble == ""


async def test_what_waits_when_the_agent_starts_is_taken(world: World) -> None:
    world.plane.waiting = [Punt(7, syn())]
    await started(world)
    assert len(world.plane.done) == 2


async def test_trouble_is_told_once_and_goes_away(world: World) -> None:
    await started(world)
    world.refuse = NAMELESS
    await world.batch(syn(), syn())
    world.now = 30.0
    await world.batch(syn())
    assert world.plane.done == []
    assert world.events == [
        ("refused-helper", "2 sessions with a conntrack helper were not adopted: no buffer space"),
    ]
    assert world.adoption.trouble == "sessions with a conntrack helper are refused: no buffer space"
    world.now = 100.0
    await world.batch(syn())
    assert len(world.events) == 2
    world.refuse = ""
    await world.batch(syn())
    assert world.adoption.trouble == ""


async def test_a_frame_with_a_wrong_tag_makes_no_entry(world: World) -> None:
    await started(world)
    await world.batch(syn()[:-1] + b"?", syn())
    assert len(world.plane.done) == 2
    assert "tag does not match" in world.events[0][1]


async def test_a_ring_that_cannot_be_read_is_said(world: World) -> None:
    await started(world)
    world.plane.broken = True
    await world.batch(syn())
    assert world.adoption.trouble == "sessions with a conntrack helper cannot be adopted: the ring is gone"
