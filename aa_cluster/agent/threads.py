# SPDX-License-Identifier: GPL-2.0-or-later
"""Threads beside the event loop: one for the dataplane's blocking calls, in order, and a few for the rest.

The event loop's own thread runs at a raised priority: a heartbeat that comes late looks like a dead node. Worker
threads, and the compiler they start, run at the normal one (priorities belong to threads, sched(7)). While sessions
wait for a node to take over, what it does is ``urgent``: before the machine's ordinary work, as the event loop is.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from pyroute2.netlink.exceptions import NetlinkError as KernelRefused

from aa_cluster.errors import DataplaneError

if TYPE_CHECKING:
    from aa_cluster.dataplane.plane import Dataplane

P = ParamSpec("P")
T = TypeVar("T")
LOOP_PRIORITY = -10
WORKERS = 4
URGENT_WORKERS = 2


def raise_priority() -> bool:
    """Of the calling thread; False where that is not allowed."""
    return _set_priority(LOOP_PRIORITY)


async def urgently(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Like ``asyncio.to_thread``, at the event loop's priority."""
    return await asyncio.get_running_loop().run_in_executor(_urgent_pool(), partial(function, *args, **kwargs))


@cache
def _urgent_pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(URGENT_WORKERS, thread_name_prefix="urgent", initializer=raise_priority)


def pool(workers: int = WORKERS, name: str = "worker") -> ThreadPoolExecutor:
    """Threads of normal priority."""
    return ThreadPoolExecutor(workers, thread_name_prefix=name, initializer=_set_priority, initargs=(0,))


def _set_priority(value: int, thread: int = 0) -> bool:
    """``thread``: as the kernel numbers them; 0 is the calling one."""
    try:
        os.setpriority(os.PRIO_PROCESS, thread, value)
    except PermissionError:
        return False
    return True


class PlaneThread:
    """The dataplane and the one thread that calls it."""

    def __init__(self, plane: Dataplane) -> None:
        self.plane = plane
        self._thread = 0
        self._urgent = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="dataplane", initializer=self._begin)

    def _begin(self) -> None:
        self._thread = threading.get_native_id()
        _set_priority(LOOP_PRIORITY if self._urgent else 0)

    @contextmanager
    def urgent(self) -> Iterator[None]:
        """Calls are, while the block runs, what ``urgently`` is."""
        self._urgent += 1
        self._weigh()
        try:
            yield
        finally:
            self._urgent -= 1
            self._weigh()

    def _weigh(self) -> None:
        if self._thread:
            _set_priority(LOOP_PRIORITY if self._urgent else 0, self._thread)

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
