# SPDX-License-Identifier: GPL-2.0-or-later
"""Other network namespaces, as far as this process can reach them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from pyroute2 import IPRoute, netns

from aa_cluster.netlink.rtnl import converse, in_thread, translated

T = TypeVar("T")

NAMED = Path("/run/netns")
INITIAL = Path("/proc/1/ns/net")


def find(nsid: int) -> Path | None:
    """The file of the namespace that this one knows as ``nsid``; ``None`` when no name leads to it."""
    return converse("look for a network namespace", lambda socket: _find(socket, nsid))


def inside(namespace: Path, work: Callable[[], T]) -> T:
    """Do ``work`` in that namespace, in a thread that ends with it."""

    def run() -> T:
        descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            netns.setns(descriptor)
        finally:
            os.close(descriptor)
        return work()

    return translated(f"enter {namespace}", lambda: in_thread(run))


def _find(socket: IPRoute, nsid: int) -> Path | None:
    for path in _candidates():
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # removed meanwhile, or not ours to open
            continue
        try:
            if socket.get_netnsid(fd=descriptor)["nsid"] == nsid:
                return path
        finally:
            os.close(descriptor)
    return None


def _candidates() -> Iterator[Path]:
    yield INITIAL
    if NAMED.is_dir():
        yield from sorted(NAMED.iterdir())
