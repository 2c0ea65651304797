# SPDX-License-Identifier: GPL-2.0-or-later
"""``top``: what each node does, as the difference of two looks. Costs nothing while nobody asks."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from aa_cluster import api
from aa_cluster.agent.flows_view import kind_name
from aa_cluster.errors import AaError, UsageError
from aa_cluster.wire import control

if TYPE_CHECKING:
    from aa_cluster.agent.auxiliary import Auxiliary
    from aa_cluster.agent.primary import Primary
    from aa_cluster.core.membership import Node

LOOK_SECONDS = 1.0
"""A node that does not answer for so long is shown without its load."""
SHORTEST, LONGEST = 0.1, 60.0


@dataclass(frozen=True, slots=True)
class Load:
    """Counters of one node at ``at`` s of its own clock. ``octets`` and ``packets``: received on data interfaces."""

    at: float
    packets: int
    octets: int
    reasons: Mapping[str, int]


async def own(role: Primary | Auxiliary) -> Load:
    context = role.context
    reasons = await role.plane.call(role.plane.plane.counters)
    got = await asyncio.to_thread(context.host.received, context.config.data.interfaces)
    return Load(context.clock(), got.packets, got.octets, {name: count for name, count in reasons.items() if count})


async def answer(role: Auxiliary, ask: control.LoadAsk) -> control.LoadAnswer:
    load = await own(role)
    return control.LoadAnswer(ask.nonce, int(load.at * 1000), load.packets, load.octets, dict(load.reasons))


async def top(role: Primary, request: api.TopRequest) -> api.Top:
    """Two looks at every node, ``interval`` s apart."""
    if not SHORTEST <= request.interval <= LONGEST:
        raise UsageError(f"interval is {request.interval:g} s, expected {SHORTEST:g} to {LONGEST:g}")
    before = await _all(role)
    account = await role.plane.call(role.plane.plane.account_look)
    start = role.context.clock()
    await asyncio.sleep(request.interval)
    after = await _all(role)
    carried = None if account is None else await role.plane.call(role.plane.plane.carried_since, account)
    span = role.context.clock() - start
    begun = await role.plane.call(role.plane.plane.begun_since, request.interval)
    sessions = await role.upkeep.count_sessions(0.0)
    kinds = await role.plane.call(role.plane.plane.live_by_kind)
    rows = [
        _row(role, node, before.get(node.id), after.get(node.id), begun, sessions, request.interval)
        for _, node in sorted(role.members.nodes.items())
    ]
    return api.Top(
        interval=request.interval,
        kinds={kind_name(*kind): count for kind, count in sorted(kinds.items())},
        nodes=tuple(rows if carried is None else (accounted(row, carried, span) for row in rows)),
        flows=sum(sessions.values()),
        flow_capacity=role.context.config.data.flow_table_size,
        accounted=carried is not None,
    )


def accounted(row: api.LoadRow, carried: Mapping[int, tuple[int, int]], span: float) -> api.LoadRow:
    """``carried``: (packets, octets) by owner over ``span`` s; known also of a node that does not answer."""
    packets, octets = carried.get(row.id, (0, 0))
    return msgspec.structs.replace(row, packets=packets / span, octets=octets / span)


async def _all(role: Primary) -> dict[int, Load]:
    nodes = [node for node in role.members.nodes.values() if node.ready and not node.silent]
    loads = await asyncio.gather(*(_one(role, node) for node in nodes))
    return {node.id: load for node, load in zip(nodes, loads, strict=True) if load is not None}


async def _one(role: Primary, node: Node) -> Load | None:
    if node.id == role.members.self_id:
        return await own(role)
    try:
        ask = control.LoadAsk(secrets.token_bytes(8))
        said = await role.context.link.ask(ask, node.facts.ha_address, LOOK_SECONDS)
    except AaError:
        return None
    if not isinstance(said, control.LoadAnswer):
        return None
    return Load(said.at_ms / 1000, said.packets, said.octets, said.reasons)


def _row(
    role: Primary,
    node: Node,
    before: Load | None,
    after: Load | None,
    begun: Mapping[int, int],
    sessions: Mapping[int, int],
    interval: float,
) -> api.LoadRow:
    row = api.LoadRow(
        id=node.id,
        name=node.facts.name,
        role="primary" if node.id == role.members.self_id else "auxiliary",
        state=node.state,
        sessions=sessions.get(node.id, 0),
        begun=begun.get(node.id, 0) / interval,
    )
    if before is None or after is None or after.at <= before.at:
        return row
    span = after.at - before.at
    return msgspec.structs.replace(
        row,
        packets=max(0, after.packets - before.packets) / span,
        octets=max(0, after.octets - before.octets) / span,
        reasons=rates(before.reasons, after.reasons, span),
    )


def rates(before: Mapping[str, int], after: Mapping[str, int], span: float) -> dict[str, float]:
    """Per s over ``span`` s, what rose, most first; a counter that fell (the maps are new) counts from 0."""
    risen = {name: count - (was if (was := before.get(name, 0)) <= count else 0) for name, count in after.items()}
    return {name: risen[name] / span for name in sorted(risen, key=lambda one: -risen[one]) if risen[name] > 0}
