# SPDX-License-Identifier: GPL-2.0-or-later
"""The descriptor by which the dataplane's programs wake the agent: one batch at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aa_cluster.agent.tasks import TaskSet


class Wakeup:
    """``at_once`` runs on the event loop when the descriptor is readable; then ``work``, as a task of ``tasks``. The
    descriptor is looked at again when ``work`` has come back, and no more when it has failed.
    """

    def __init__(self, tasks: TaskSet, at_once: Callable[[], None], work: Callable[[], Awaitable[None]]) -> None:
        self._tasks = tasks
        self._at_once = at_once
        self._work = work
        self._descriptor = -1

    def start(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._listen()

    def stop(self) -> None:
        """Idempotent; a batch that is worked on is ended by ``tasks``."""
        self._ignore()
        self._descriptor = -1

    def _listen(self) -> None:
        if self._descriptor >= 0:
            asyncio.get_running_loop().add_reader(self._descriptor, self._on_readable)

    def _ignore(self) -> None:
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)

    def _on_readable(self) -> None:
        self._at_once()
        self._ignore()
        self._tasks.start(self._take_batch(), "events")

    async def _take_batch(self) -> None:
        await self._work()
        self._listen()
