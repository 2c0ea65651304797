# SPDX-License-Identifier: GPL-2.0-or-later
"""What the agent shows: a node and its role turned into the structs of ``aa_cluster.api``."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Literal

from aa_cluster import api
from aa_cluster.agent.auxiliary import Auxiliary
from aa_cluster.agent.context import mac_text
from aa_cluster.agent.lookout import link_names, link_rows
from aa_cluster.agent.primary import Primary
from aa_cluster.core import schedule
from aa_cluster.core.membership import Membership
from aa_cluster.errors import AaError, NetlinkError, StateError

if TYPE_CHECKING:
    from aa_cluster.agent.node import Node
    from aa_cluster.agent.takeover import Taken
    from aa_cluster.netlink.links import LinkFacts
    from aa_cluster.wire.control import NodeEntry

NEARLY_FULL = 0.9
FRESH_SECONDS = 1.0
RIVAL_SECONDS = 5.0

XdpModes = dict[str, str]
LinkRows = dict[int, tuple[api.LinkRow, ...]]


def taken(of: Taken) -> api.TakenRow:
    return api.TakenRow(
        flows=of.flows,
        prepared=of.prepared_before,
        updated=of.updated,
        created=of.missing_created,
        lost=of.lost,
        ended=of.ended,
        seconds=of.seconds,
        whole_seconds=of.whole_seconds,
    )


async def status(node: Node) -> api.Status:
    """Reads the interfaces anew, counts flows at most once a second."""
    role, context = node.role, node.context
    links = await asyncio.to_thread(_links, node)
    modes = await _xdp_modes(node)
    rows = await nodes(node)
    own_id = context.state.node_id
    flows = sum(row.sessions for row in rows if isinstance(role, Primary) or row.id == own_id)
    problems = tuple(_problems(node, links, await _detached(node), rows, flows))
    return api.Status(
        health=_health(node, problems),
        problems=problems,
        name=context.name,
        node_id=context.state.node_id if context.state.role != "none" else 0,
        role=_role(node),
        state=_own_state(node, rows),
        cluster_id=context.config.cluster.id,
        generation=context.state.generation,
        epoch=_epoch(node),
        schedule=_kind(node),
        election=context.config.election.kind,
        paths=node.succession.candidate.paths if node.succession.candidate.enabled else {},
        uptime=context.clock() - node.started,
        interfaces=tuple(_interface(node, slot, link, modes) for slot, link in enumerate(links) if link is not None),
        nodes=rows,
        flows=flows,
        flow_capacity=context.config.data.flow_table_size,
    )


async def nodes(node: Node) -> tuple[api.NodeRow, ...]:
    """The primary's table, or on an auxiliary what the primary said last."""
    role = node.role
    if isinstance(role, Primary):
        await role.upkeep.count_sessions(FRESH_SECONDS)
        asked = tuple(one.id for one in role.members.reachable() if one.id != role.members.self_id)
        return _rows(node, role.table(), role.members.shares(), 0.0, await _links_of(role, asked))
    if isinstance(role, Auxiliary):
        pulses = await _links_of(role, (role.primary.id,))
        return _rows(node, role.table, _shares(role), node.context.clock() - role.table_at, pulses)
    return ()


async def _links_of(role: Primary | Auxiliary, node_ids: tuple[int, ...]) -> LinkRows:
    """By node id, what pulses tell of these nodes' links; empty while there is no dataplane."""
    try:
        pulses = await role.plane.call(role.plane.plane.pulse_rows, node_ids)
    except AaError:
        return {}
    names, now = link_names(role.settings), time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    return {one: link_rows(pulses, one, names, now) for one in node_ids}


async def schedule_of(node: Node, role: Primary) -> api.Schedule:
    """On the primary."""
    rows = await nodes(node)
    return api.Schedule(
        schedule=role.members.kind,
        configured=node.context.config.schedule.kind,
        nodes=tuple(
            api.ScheduleRow(
                id=row.id, name=row.name, state=row.state, weight=row.weight, share=row.share, sessions=row.sessions
            )
            for row in rows
        ),
    )


def _role(node: Node) -> api.Role:
    """The one it plays. On disk there may be another: while a change is under way, and until an agent has resumed."""
    match node.role:
        case Primary():
            return "primary"
        case Auxiliary():
            return "auxiliary"
    return node.context.state.role


def _kind(node: Node) -> str:
    """The schedule in force, or what the configuration says when there is no cluster to tell."""
    role = node.role
    if isinstance(role, Primary):
        return role.members.kind
    told = role.schedule if isinstance(role, Auxiliary) else ""
    return told or node.context.config.schedule.kind


async def stats(node: Node) -> api.Stats:
    from aa_cluster.dataplane.reasons import all_reasons

    role = _in_cluster(node)
    counted = await role.plane.call(role.plane.plane.counters)
    return api.Stats(
        reasons=tuple(
            api.ReasonRow(
                name=reason.name,
                program=reason.program,
                verdict=reason.verdict,
                packets=counted.get(reason.name, 0),
                text=reason.text,
            )
            for reason in all_reasons()
        )
    )


RELAY_REFUSALS = (
    *("ARP_UNASKED", "ARP_STRANGER", "ARP_ON_DATA", "ARP_NO_ROUTE", "ARP_MALFORMED", "ARP_MISPLACED", "ARP_FAILED"),
    *("NDP_UNASKED", "NDP_NO_ROUTE"),
)


async def arp(node: Node) -> api.Arp:
    role = _in_cluster(node)
    plane = role.plane
    questions = await plane.call(plane.plane.questions)
    counted = await plane.call(plane.plane.counters)

    def total(*names: str) -> int:
        return sum(counted.get(name, 0) for name in names)

    interfaces = node.context.config.data.interfaces
    return api.Arp(
        open=tuple(
            api.ArpQuestion(interface=interfaces[one.slot], target=one.target, asked_by=one.asked_by, age=one.age)
            for one in questions
            if one.slot < len(interfaces)
        ),
        answered_from_cache=total("ARP_FROM_CACHE", "NDP_FROM_CACHE"),
        answered_from_wire=total("ARP_ANSWERED", "ARP_TAKEN", "NDP_ANSWERED", "NDP_TAKEN"),
        relayed=total("ARP_ASKED", "ARP_FROM_CACHE", "ARP_ON_WIRE", "NDP_ASKED", "NDP_FROM_CACHE", "NDP_ON_WIRE"),
        refused=total(*RELAY_REFUSALS),
    )


def _in_cluster(node: Node) -> Primary | Auxiliary:
    if node.role is None:
        raise StateError("this node is in no cluster, so there is no dataplane to read", "`aa-cluster join` first")
    return node.role


def _links(node: Node) -> tuple[LinkFacts | None, ...]:
    found: list[LinkFacts | None] = []
    for name in node.context.config.data.interfaces:
        try:
            found.append(node.context.host.read_link(name))
        except NetlinkError:
            found.append(None)
    return tuple(found)


async def _xdp_modes(node: Node) -> XdpModes:
    role = node.role
    if role is None or node.joining:
        return {}
    try:
        return dict(await role.plane.call(role.plane.plane.xdp_modes))
    except AaError:
        return {}


async def _detached(node: Node) -> tuple[str, ...]:
    """Hooks that lost their program, in words."""
    role = node.role
    if role is None or node.joining or node.leaving:
        return ()
    names = {port.ifindex: port.name for port in role.settings.ports}
    try:
        points = await role.plane.call(role.plane.plane.detached_hooks)
    except AaError as error:
        return (f"some interface: {error.message}",)
    return tuple(f"{names.get(one.ifindex, 'the HA link')} ({one.hook}, {one.program})" for one in points)


def _interface(node: Node, slot: int, link: LinkFacts, modes: XdpModes) -> api.Interface:
    role = node.role
    physical = role.survey.physical[slot] if role is not None else link.mac
    virtual = role.settings.ports[slot].virtual_mac if role is not None else node.context.virtual_macs()[slot]
    mode = modes.get(link.name, "none")
    return api.Interface(
        name=link.name,
        slot=slot,
        mac=mac_text(link.mac),
        physical_mac=mac_text(physical),
        virtual_mac=mac_text(virtual),
        addresses=link.addresses,
        xdp="native" if mode == "native" else "generic" if mode == "generic" else "none",
    )


def _rows(
    node: Node, table: tuple[NodeEntry, ...], shares: dict[int, float], age: float, links: LinkRows
) -> tuple[api.NodeRow, ...]:
    interfaces = node.context.config.data.interfaces
    own = node.context.state.node_id
    return tuple(
        api.NodeRow(
            id=entry.id,
            name=entry.name,
            role=entry.role,
            state=entry.state,
            weight=entry.weight,
            share=shares.get(entry.id, 0.0),
            sessions=entry.sessions,
            last_heard=0.0 if entry.id == own else entry.silent_ms / 1000 + age,
            ha_mac=mac_text(entry.ha_mac),
            ha_address=entry.ha_address,
            macs=dict(zip(interfaces, map(mac_text, entry.macs), strict=False)),
            kernel=entry.kernel,
            drained=entry.drained,
            links=links.get(entry.id, ()),
        )
        for entry in table
    )


def _shares(role: Auxiliary) -> dict[int, float]:
    working = {entry.id: entry.weight for entry in role.table if entry.state == "active"}
    kind: schedule.Kind = next((one for one in schedule.KINDS if one == role.schedule), "weighted")
    shares = schedule.shares(working, kind)
    return shares if any(shares.values()) else {role.primary.id: 1.0}


def _epoch(node: Node) -> int:
    role = node.role
    if isinstance(role, Primary):
        return role.members.epoch
    return role.epoch if isinstance(role, Auxiliary) else node.context.state.epoch


def _own_state(node: Node, rows: tuple[api.NodeRow, ...]) -> api.NodeState | Literal["left"]:
    if node.leaving:
        return "draining"
    if node.joining:
        return "joining"
    if node.context.state.role == "none":
        return "left"
    own = next((row for row in rows if row.id == node.context.state.node_id), None)
    return own.state if own is not None else "joining"


def _health(node: Node, problems: tuple[str, ...]) -> api.Health:
    if node.context.state.role == "none":
        return "idle" if not problems else "degraded"
    if node.role is None or (isinstance(node.role, Auxiliary) and _primary_silence(node, node.role) is not None):
        return "down"
    return "degraded" if problems else "ok"


def _primary_silence(node: Node, role: Auxiliary) -> float | None:
    silence = node.context.clock() - role.heard
    return silence if silence > node.context.silence else None


def _problems(
    node: Node,
    links: tuple[LinkFacts | None, ...],
    detached: tuple[str, ...],
    rows: tuple[api.NodeRow, ...],
    flows: int,
) -> list[str]:
    """One sentence each."""
    problems = [one for one in (node.trouble, node.succession.candidate.trouble) if one]
    names = node.context.config.data.interfaces
    for name, link in zip(names, links, strict=True):
        if link is None:
            problems.append(f"interface {name} is missing")
        elif not link.up:
            problems.append(f"interface {name} is down")
    problems += [f"the dataplane is detached from {hook}" for hook in detached]
    for row in rows:
        if row.state == "silent":
            problems.append(f"node {row.name} has been silent for {row.last_heard:.1f} s: it gets no new sessions")
        if row.state == "dead":
            problems.append(_dead(node, row))
    if isinstance(node.role, Primary):
        problems += _primary_problems(node, node.role, flows)
    elif isinstance(node.role, Auxiliary):
        problems += filter(None, (node.role.adoption.trouble,))
        silence = _primary_silence(node, node.role)
        if silence is not None:
            problems.append(f"the primary {node.role.primary.name} has not been heard for {silence:.1f} s")
    return problems


def _dead(node: Node, row: api.NodeRow) -> str:
    why = node.role.lookout.why(row.id) if isinstance(node.role, Primary) else ""
    return f"node {row.name} is dead{', ' + why if why else ''}: the primary has taken its sessions over"


def _primary_problems(node: Node, role: Primary, flows: int) -> list[str]:
    problems = ["this node was cut off from all networks: it is silent until it has asked"] if role.silent else []
    problems += [*role.troubles.values(), *filter(None, (role.upkeep.trouble,)), *role.lookout.problems()]
    if role.rival is not None and node.context.clock() - role.rival[1] < RIVAL_SECONDS:
        problems.append(f"another primary is on the HA link: {role.rival[0]}")
    capacity = node.context.config.data.flow_table_size
    if flows > NEARLY_FULL * capacity:
        problems.append(f"the flow table is nearly full: {flows} of {capacity}; raise [data] flow_table_size")
    if not _anybody_works(role.members):
        problems.append(
            "no node takes new sessions (weight 0, draining or silent): the primary serves all of them itself"
        )
    return problems


def _anybody_works(members: Membership) -> bool:
    return any(members.working().values())
