# SPDX-License-Identifier: GPL-2.0-or-later
"""What the agent touches outside itself: links, neighbours, the ruleset, the dataplane. Tests pass in their own."""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aa_cluster.agent.lookout import Carriers
    from aa_cluster.agent.neighbourhood import Watch
    from aa_cluster.dataplane.plane import Dataplane, Settings
    from aa_cluster.netlink.links import LinkFacts
    from aa_cluster.netlink.traffic import Received

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
    read_neighbours: Callable[[int], Mapping[str, bytes]]
    correct_neighbours: Callable[[int, dict[str, bytes]], Sequence[str]]
    watch_neighbours: Callable[[Mapping[int, str]], Watch]
    watch_carriers: Callable[[Collection[int]], Carriers]
    received: Callable[[Collection[str]], Received]
    ruleset_digest: Callable[[], str]
    ruleset_text: Callable[[], str]
    dataplane: Callable[[Settings], Dataplane]
    pinned: Callable[[Path], bool]
    kernel: str
    cache: Path = CACHE


def this_machine() -> Host:
    """The network namespace the process is in."""
    from aa_cluster.dataplane.plane import Dataplane
    from aa_cluster.netlink import announce, links, neighbours, ruleset, traffic
    from aa_cluster.netlink.carrier_watch import CarrierWatch
    from aa_cluster.netlink.neighbour_watch import NeighbourWatch

    return Host(
        read_link=links.read,
        link_names=links.names,
        set_mac=links.set_mac,
        announce=announce.gratuitous_arp,
        put_neighbour=neighbours.put,
        read_neighbours=neighbours.read,
        correct_neighbours=neighbours.correct,
        watch_neighbours=NeighbourWatch,
        watch_carriers=CarrierWatch,
        received=traffic.received,
        ruleset_digest=lambda: ruleset.read().digest,
        ruleset_text=lambda: ruleset.read().text,
        dataplane=Dataplane,
        pinned=Dataplane.pinned,
        kernel=platform.release(),
    )
