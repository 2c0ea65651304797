# SPDX-License-Identifier: GPL-2.0-or-later
"""One short netlink conversation, from wherever the caller stands."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError as KernelRefused

from aa_cluster.errors import NetlinkError

T = TypeVar("T")


def converse(what: str, work: Callable[[IPRoute], T]) -> T:
    """Open an rtnetlink socket, do ``work`` on it, close it; ``what`` names the deed in the error."""

    def run() -> T:
        with IPRoute() as socket:
            return work(socket)

    return translated(what, lambda: off_loop(run))


def off_loop(work: Callable[[], T]) -> T:
    """Call ``work``; in a thread of its own when this thread runs an event loop.

    pyroute2's blocking sockets drive a private event loop (0.9 and later), which cannot be nested in a running one.
    The thread is in the caller's network namespace: a new thread inherits it.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    return in_thread(work)


def in_thread(work: Callable[[], T]) -> T:
    """Call ``work`` in a new thread and give what it gives, or raise what it raises."""
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - carried over to the caller's thread, whatever it is
            failures.append(error)

    thread = threading.Thread(target=run, name="netlink", daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def translated(what: str, work: Callable[[], T]) -> T:
    """Call ``work``; a refusal of the kernel becomes a ``NetlinkError`` that starts with ``what``."""
    try:
        return work()
    except KernelRefused as error:
        raise refused(what, error.code) from error
    except OSError as error:
        raise refused(what, error.errno or 0) from error


def refused(what: str, code: int) -> NetlinkError:
    hint = "run as root (CAP_NET_ADMIN and CAP_NET_RAW)" if code in (errno.EPERM, errno.EACCES) else ""
    return NetlinkError(f"cannot {what}: {os.strerror(code)}", hint)


def attribute(message: Any, name: str) -> Any:
    """The attribute of a pyroute2 message, ``None`` when absent (pyroute2 carries no types)."""
    return message.get_attr(name)
