# SPDX-License-Identifier: GPL-2.0-or-later
"""What is urgent goes before the machine's ordinary work; what is not leaves it alone."""

from __future__ import annotations

import os
import threading
from typing import cast

import pytest

from aa_cluster.agent.threads import LOOP_PRIORITY, PlaneThread, raise_priority, urgently
from aa_cluster.dataplane.plane import Dataplane

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="priorities are raised by root")


class Idle:
    def priority(self) -> int:
        return priority()


def priority() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.fixture
def plane() -> PlaneThread:
    return PlaneThread(cast(Dataplane, Idle()))


async def seen(plane: PlaneThread) -> int:
    return cast(int, await plane.call(cast(Idle, plane.plane).priority))


async def test_urgent_work_has_the_event_loops_priority() -> None:
    assert await urgently(priority) == LOOP_PRIORITY


async def test_the_dataplanes_thread_has_it_for_a_while(plane: PlaneThread) -> None:
    assert await seen(plane) == 0
    with plane.urgent():
        assert await seen(plane) == LOOP_PRIORITY
        with plane.urgent():
            pass
        assert await seen(plane) == LOOP_PRIORITY
    assert await seen(plane) == 0


async def test_also_one_that_has_not_begun(plane: PlaneThread) -> None:
    with plane.urgent():
        assert await seen(plane) == LOOP_PRIORITY
    assert await seen(plane) == 0


def test_a_thread_begins_with_its_makers_priority() -> None:
    """Why the dataplane's sets its own."""
    found = []

    def outer() -> None:
        raise_priority()
        inner = threading.Thread(target=lambda: found.append(priority()))
        inner.start()
        inner.join()

    thread = threading.Thread(target=outer)
    thread.start()
    thread.join()
    assert found == [LOOP_PRIORITY]
