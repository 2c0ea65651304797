# SPDX-License-Identifier: GPL-2.0-or-later
"""What the agent touches outside itself: links, neighbours, the ruleset, the dataplane. Tests pass in their own."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aa_cluster.dataplane.plane import Dataplane, Settings
    from aa_cluster.netlink.links import LinkFacts

CACHE = Path("/var/lib/aa-cluster/objects")
"""Compiled programs; shared by all instances of a machine, so only the first one compiles."""


@dataclass(frozen=True, slots=True)
class Host:
    """Every function blocks; call it off the event loop. Failures are ``NetlinkError`` and ``DataplaneError``."""

    read_link: Callable[[str], LinkFacts]
    link_names: Callable[[], Sequence[str]]
    set_mac: Callable[[str, bytes], None]
    announce: Callable[[str, bytes, Sequence[str]], None]
    put_neighbour: Callable[[int, str, bytes], None]
    ruleset_digest: Callable[[], str]
    dataplane: Callable[[Settings], Dataplane]
    pinned: Callable[[Path], bool]
    kernel: str
    cache: Path = CACHE


def this_machine() -> Host:
    """The network namespace the process is in."""
    from aa_cluster.dataplane.plane import Dataplane
    from aa_cluster.netlink import announce, links, neighbours, ruleset

    return Host(
        read_link=links.read,
        link_names=links.names,
        set_mac=links.set_mac,
        announce=announce.gratuitous_arp,
        put_neighbour=neighbours.put,
        ruleset_digest=lambda: ruleset.read().digest,
        dataplane=Dataplane,
        pinned=Dataplane.pinned,
        kernel=platform.release(),
    )
