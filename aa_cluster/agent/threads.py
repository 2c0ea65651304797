# SPDX-License-Identifier: GPL-2.0-or-later
"""Threads beside the event loop: one for the dataplane's blocking calls, in order, and a few for the rest.

The event loop's own thread runs at a raised priority: a heartbeat that comes late looks like a dead node. Worker
threads, and the compiler they start, run at the normal one (priorities belong to threads, sched(7)).
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from pyroute2.netlink.exceptions import NetlinkError as KernelRefused

from aa_cluster.errors import DataplaneError

if TYPE_CHECKING:
    from aa_cluster.dataplane.plane import Dataplane

P = ParamSpec("P")
T = TypeVar("T")
LOOP_PRIORITY = -10
WORKERS = 4


def raise_priority() -> bool:
    """Of the calling thread; False where that is not allowed."""
    return _set_priority(LOOP_PRIORITY)


def pool(workers: int = WORKERS, name: str = "worker") -> ThreadPoolExecutor:
    """Threads of normal priority."""
    return ThreadPoolExecutor(workers, thread_name_prefix=name, initializer=_set_priority, initargs=(0,))


def _set_priority(value: int) -> bool:
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), value)
    except PermissionError:
        return False
    return True


class PlaneThread:
    """The dataplane and the one thread that calls it."""

    def __init__(self, plane: Dataplane) -> None:
        self.plane = plane
        self._pool = pool(1, "dataplane")

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``function`` is a bound method of ``plane``; calls run one after the other.

        What the kernel refuses is a ``DataplaneError`` too, so that nobody above has to know system calls.
        """

        def work() -> T:
            try:
                return function(*args, **kwargs)
            except (OSError, KernelRefused) as error:
                raise DataplaneError(f"{function.__name__}: {error}", "see whether all interfaces are there") from error

        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        self._pool.shutdown(wait=False)
