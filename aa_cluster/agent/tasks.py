# SPDX-License-Identifier: GPL-2.0-or-later
"""Background tasks of a role: kept referenced, their failures logged, all cancelled together."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from typing import Any

from aa_cluster import log
from aa_cluster.errors import AaError

MOMENTS = 0.25
"""Seconds from one to the next."""

_log = log.get("agent")


async def pause(seconds: float) -> None:
    """About so long: until one of the moments, a quarter of a second apart, at which all pauses of this process end.

    An idle agent is woken for all its regular work at once, and not for each by itself.
    """
    loop = asyncio.get_running_loop()
    now = loop.time()
    await asyncio.sleep(next_moment(now, seconds) - now)


def next_moment(now: float, seconds: float) -> float:
    """The nearest to ``now + seconds`` that is to come."""
    return max(round((now + seconds) / MOMENTS) * MOMENTS, last_moment(now) + MOMENTS)


def last_moment(now: float) -> float:
    return math.floor(now / MOMENTS) * MOMENTS


class TaskSet:
    """``start`` what runs beside; ``cancel`` ends all of it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(self._guard(work, name), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: work.close())  # for what is cancelled before its first step

    async def cancel(self) -> None:
        """Cancel and wait, except for the task that calls."""
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _guard(self, work: Coroutine[Any, Any, None], name: str) -> None:
        try:
            await work
        except AaError as error:
            _log.error("task failed", task=name, why=str(error))
        except Exception:
            _log.exception("task broke", task=name)
            raise
