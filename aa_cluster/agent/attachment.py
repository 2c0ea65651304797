# SPDX-License-Identifier: GPL-2.0-or-later
"""Putting the dataplane on the interfaces and the virtual MACs with it, and taking both off again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from aa_cluster import log
from aa_cluster.agent.context import Context
from aa_cluster.agent.threads import PlaneThread, urgently
from aa_cluster.core import persistence
from aa_cluster.errors import AaError

if TYPE_CHECKING:
    from aa_cluster.agent.host import Host
    from aa_cluster.agent.survey import Survey
    from aa_cluster.config import Persistence as PersistenceSection
    from aa_cluster.dataplane.settings import Settings
    from aa_cluster.netlink.links import LinkFacts

_log = log.get("attachment")


@dataclass(frozen=True, slots=True)
class Seat:
    """This node's place in the cluster. ``primary_id`` 0 means the node itself."""

    role: Literal["primary", "auxiliary"]
    node_id: int
    generation: int
    epoch: int
    primary_id: int = 0


def settings(context: Context, seat: Seat, survey: Survey, virtual: tuple[bytes, ...], primary_mac: bytes) -> Settings:
    """``virtual``: virtual MACs by slot; ``primary_mac``: the primary's on the HA link."""
    from aa_cluster.dataplane.settings import Settings

    return Settings(
        role=seat.role,
        cluster_id=context.config.cluster.id,
        node_id=seat.node_id,
        primary_id=seat.primary_id or seat.node_id,
        generation=seat.generation,
        epoch=seat.epoch,
        block_key=context.keys.handoff,
        table_key=context.keys.table,
        ports=survey.ports(virtual),
        ha_ifindex=survey.ha.ifindex,
        ha_mac=survey.ha.mac,
        primary_ha_mac=primary_mac,
        xdp=context.config.data.xdp,
        flow_entries=context.config.data.flow_table_size,
        pins=context.config.paths.pins,
        cache=context.host.cache,
        half_open_share=context.config.flows.half_open_share,
        persistence=_persistence(context.config.persistence),
        bindings=context.config.persistence.size,
        accounting=context.config.flows.accounting,
        replication=context.config.replication.mode,
        replica_key=context.keys.replica,
        share_helpers=context.config.policy.share_helpers,
    )


def _persistence(section: PersistenceSection) -> persistence.Settings | None:
    if not section.enabled:
        return None
    return persistence.Settings(section.idle_s, section.prefix_v4, section.prefix_v6)


async def attach(context: Context, what: Settings, fresh: bool) -> PlaneThread:
    """A started dataplane. When that fails a ``fresh`` one is taken off again, one that is resumed stays."""
    plane = PlaneThread(context.host.dataplane(what))
    try:
        await plane.call(plane.plane.start)
    except AaError:
        await (clear(plane) if fresh else plane.call(plane.plane.close))
        plane.close()
        raise
    return plane


async def clear(plane: PlaneThread) -> None:
    """Take the dataplane off; a failure is logged, because another error is on its way already."""
    try:
        await plane.call(plane.plane.stop)
    except AaError as error:
        _log.error("the dataplane cannot be taken off", why=str(error))


async def wear(context: Context, survey: Survey, virtual: tuple[bytes, ...]) -> None:
    """Give each data interface its virtual MAC, and say so on its segment. The dataplane is attached before. What one
    interface refuses keeps no other from it."""
    await urgently(_change, context.host, list(zip(survey.data, virtual, strict=True)), True)


async def restore(context: Context, survey: Survey, announced: bool = True) -> None:
    """The physical MACs again, where they are not; an interface that is gone has none.

    ``announced``: the cluster's addresses are this node's alone from now on.
    """
    await urgently(_restore, context.host, survey, announced)


def _restore(host: Host, survey: Survey, announced: bool) -> None:
    there = host.link_names()
    pairs = zip(survey.data, survey.physical, strict=True)
    _change(host, [(link, mac) for link, mac in pairs if link.name in there], announced)


def _change(host: Host, wanted: list[tuple[LinkFacts, bytes]], announced: bool) -> None:
    """All MACs first, where they differ (what the survey saw may have changed since); then they are said. The first
    error is raised when all has been tried."""
    from aa_cluster.netlink.announce import Claim

    errors, changed = [], []
    for link, mac in wanted:
        try:
            if host.read_mac(link.name) != mac:
                host.set_mac(link.name, mac)
                changed.append(Claim(link.name, mac, (*link.addresses, *link.link_locals)))
        except AaError as error:
            errors.append(error)
    if announced:
        try:
            host.announce(changed)
        except AaError as error:
            errors.append(error)
    if errors:
        raise errors[0]
