# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting for something with an end to the patience."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from aa_cluster.errors import TimeoutReached

T = TypeVar("T")
EVERY = 0.02


def until(what: str, probe: Callable[[], T | None], timeout: float, every: float = EVERY) -> T:
    """The first truthy answer of ``probe``, asked every ``every`` s; ``TimeoutReached`` after ``timeout`` s.

    For what has no event to wait on from outside (another process's socket, a kernel table of another namespace).
    """
    end = time.monotonic() + timeout
    pause = threading.Event()
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() >= end:
            raise TimeoutReached(f"{what}: not within {timeout:g} s")
        pause.wait(every)
