# SPDX-License-Identifier: GPL-2.0-or-later
"""What the agent touches outside itself: links, neighbours, the ruleset, the dataplane. Tests pass in their own."""

from __future__ import annotations

import errno
import platform
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aa_cluster import log

if TYPE_CHECKING:
    import numpy as np

    from aa_cluster.agent.lookout import Carriers
    from aa_cluster.agent.neighbourhood import Watch
    from aa_cluster.agent.survey import Survey
    from aa_cluster.dataplane.plane import Dataplane
    from aa_cluster.dataplane.settings import Settings
    from aa_cluster.netlink.announce import Claim
    from aa_cluster.netlink.links import LinkFacts
    from aa_cluster.netlink.traffic import Received

_log = log.get("host")

KEEPALIVED = "keepalived"
CACHE = Path("/var/lib/aa-cluster/objects")
"""Compiled programs; shared by all instances of a machine, so only the first one compiles."""


@dataclass(frozen=True, slots=True)
class Host:
    """Every function but ``forget_sessions`` blocks; call it off the event loop. Failures are ``NetlinkError`` and
    ``DataplaneError``."""

    read_link: Callable[[str], LinkFacts]
    link_names: Callable[[], Sequence[str]]
    read_mac: Callable[[str], bytes]
    set_mac: Callable[[str, bytes], None]
    announce: Callable[[Sequence[Claim]], None]
    host_answers: Callable[[str, bytes, Collection[str]], bool]
    put_neighbour: Callable[[int, str, bytes], None]
    read_neighbours: Callable[[int], Mapping[str, bytes]]
    correct_neighbours: Callable[[int, dict[str, bytes]], Sequence[str]]
    watch_neighbours: Callable[[Mapping[int, str]], Watch]
    watch_carriers: Callable[[Collection[int]], Carriers]
    lost_frames: Callable[[], int]
    received: Callable[[Collection[str]], Received]
    make_entries: Callable[[np.ndarray], int]
    drop_entries: Callable[[np.ndarray], int]
    room_for_entries: Callable[[], int]
    forget_sessions: Callable[[Survey], Awaitable[int]]
    ruleset_digest: Callable[[], str]
    ruleset_text: Callable[[], str]
    dataplane: Callable[[Settings], Dataplane]
    pinned: Callable[[Path], bool]
    kernel: str
    cache: Path = CACHE
    keepalived: str = KEEPALIVED


def _make_entries(rows: np.ndarray) -> int:
    """How many were not there. Another entry that has one of their tuples is of a session that has ended: it goes. A
    full table is a ``NetlinkError``."""
    from aa_cluster.dataplane.flows import Timeouts
    from aa_cluster.netlink import ct_bulk

    outcome = ct_bulk.create(rows, Timeouts.of_this_namespace(), "replace")
    if (outcome.codes == errno.ENOMEM).any():
        outcome.require("make the conntrack entries of all flows")
    if outcome.failed.any():
        _log.error("flows without a conntrack entry", errors=outcome.errors)
    return outcome.done - outcome.existing


def _drop_entries(rows: np.ndarray) -> int:
    """How many were there."""
    from aa_cluster.netlink import ct_bulk

    return ct_bulk.delete(rows).done


def _room_for_entries() -> int:
    """So many more conntrack takes, without dropping any."""
    from aa_cluster.netlink import ct_bulk

    return ct_bulk.room()


def this_machine() -> Host:
    """The network namespace the process is in."""
    from aa_cluster.agent import forgetting
    from aa_cluster.dataplane.plane import Dataplane
    from aa_cluster.netlink import announce, host_probe, links, neighbours, overrun, ruleset, traffic
    from aa_cluster.netlink.carrier_watch import CarrierWatch
    from aa_cluster.netlink.neighbour_watch import NeighbourWatch

    return Host(
        read_link=links.read,
        link_names=links.names,
        read_mac=links.read_mac,
        set_mac=links.set_mac,
        announce=announce.moved,
        host_answers=host_probe.answers,
        put_neighbour=neighbours.put,
        read_neighbours=neighbours.read,
        correct_neighbours=neighbours.correct,
        watch_neighbours=NeighbourWatch,
        watch_carriers=CarrierWatch,
        lost_frames=overrun.lost_frames,
        received=traffic.received,
        make_entries=_make_entries,
        drop_entries=_drop_entries,
        room_for_entries=_room_for_entries,
        forget_sessions=forgetting.forget,
        ruleset_digest=lambda: ruleset.read().digest,
        ruleset_text=lambda: ruleset.read().text,
        dataplane=Dataplane,
        pinned=Dataplane.pinned,
        kernel=platform.release(),
    )
