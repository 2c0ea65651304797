# SPDX-License-Identifier: GPL-2.0-or-later
"""The primary's membership to and from the state file."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from aa_cluster.agent.context import mac_bytes, mac_text
from aa_cluster.agent.state import MemberState, NodeState
from aa_cluster.config import Config
from aa_cluster.core import schedule
from aa_cluster.core.membership import Facts, Membership, Node

if TYPE_CHECKING:
    from aa_cluster.agent.attachment import Seat
    from aa_cluster.agent.auxiliary import Auxiliary

__all__ = ["Facts", "founding", "inherited", "members_state", "recalled"]


def members_state(members: Membership) -> tuple[MemberState, ...]:
    return tuple(_to_state(node) for _, node in sorted(members.nodes.items()))


def _to_state(node: Node) -> MemberState:
    return MemberState(
        id=node.id,
        name=node.facts.name,
        weight=node.weight,
        ha_mac=mac_text(node.facts.ha_mac),
        ha_address=node.facts.ha_address,
        macs=tuple(map(mac_text, node.facts.macs)),
        kernel=node.facts.kernel,
        ready=node.ready,
        draining=node.draining,
        silent=node.silent,
        dead=node.dead,
    )


def founding(config: Config, state: NodeState, own: Facts, now: float) -> Membership:
    """A new generation: this node alone."""
    weight = state.weights.get(own.name, config.node.weight)
    drained = own.name in state.drained
    node = Node(id=state.node_id, facts=own, weight=weight, heard=now, ready=True, drained=drained)
    return _membership(config, state, {node.id: node}, now)


def recalled(config: Config, state: NodeState, own: Facts, now: float) -> Membership:
    """As the last agent of this node left it; everybody counts as heard just now."""
    nodes = {member.id: _from_state(member, member.name in state.drained, now) for member in state.members}
    if state.node_id not in nodes:
        return founding(config, state, own, now)
    nodes[state.node_id] = replace(
        nodes[state.node_id], facts=own, ready=True, silent=False, draining=False, dead=False
    )
    return _membership(config, state, nodes, now)


def inherited(
    config: Config,
    state: NodeState,
    role: Auxiliary,
    own: Facts,
    former: Facts | None,
    seat: Seat,
    gone: frozenset[int],
    now: float,
) -> Membership:
    """As the last primary told this node. The others are reached, but get new sessions only when they have followed.

    ``former``: the last primary, which goes on as an auxiliary; without, it is among the ``gone``.
    """
    ids = dict(state.ids) | {entry.name: entry.id for entry in role.table}
    mine = next((entry for entry in role.table if entry.id == seat.node_id), None)
    weight = state.weights.get(own.name, config.node.weight) if mine is None else mine.weight
    drained = mine is not None and mine.drained
    nodes = {seat.node_id: Node(seat.node_id, own, weight, now, ready=True, drained=drained)}
    for entry in role.table:
        if entry.id == seat.node_id or entry.state == "joining":
            continue
        facts = Facts(entry.name, entry.ha_mac, entry.ha_address, entry.macs, entry.kernel)
        if former is not None and entry.name == former.name:
            facts = former
        if entry.id in gone or entry.state == "dead":
            nodes[entry.id] = Node(
                entry.id, facts, entry.weight, now, ready=True, drained=entry.drained, dead=True, fit=False, died=now
            )
            continue
        nodes[entry.id] = Node(entry.id, facts, entry.weight, now, ready=True, silent=True, drained=entry.drained)
    names = frozenset(entry.name for entry in role.table if entry.drained)
    elsewhere = frozenset(state.drained) - {entry.name for entry in role.table}
    weights = dict(state.weights) | {entry.name: entry.weight for entry in role.table}
    before = msgspec.structs.replace(
        state,
        ids=ids,
        weights=weights,
        generation=seat.generation,
        epoch=seat.epoch,
        drained=tuple(sorted(names | elsewhere)),
        schedule=role.schedule or state.schedule,
    )
    return _membership(config, before, nodes, now)


def _membership(config: Config, state: NodeState, nodes: dict[int, Node], now: float) -> Membership:
    return Membership(
        self_id=state.node_id,
        generation=state.generation,
        epoch=state.epoch,
        kind=_kind(config, state),
        silence=config.ha.silent_ms / 1000,
        beat=config.ha.heartbeat_ms / 1000,
        nodes=nodes,
        ids=state.ids,
        weights=state.weights,
        checked=now,
        drained=frozenset(state.drained),
        forget=config.ha.forget_s,
    )


def _kind(config: Config, state: NodeState) -> schedule.Kind:
    """What the operator chose while it ran, else the configuration's."""
    return next((kind for kind in schedule.KINDS if kind == state.schedule), config.schedule.kind)


def _from_state(member: MemberState, drained: bool, now: float) -> Node:
    facts = Facts(
        member.name,
        mac_bytes(member.ha_mac),
        member.ha_address,
        tuple(map(mac_bytes, member.macs)),
        member.kernel,
    )
    return Node(
        id=member.id,
        facts=facts,
        weight=member.weight,
        heard=now,
        ready=member.ready,
        draining=member.draining,
        silent=member.silent,
        drained=drained,
        dead=member.dead,
        died=now,
    )
