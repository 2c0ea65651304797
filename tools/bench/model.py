# SPDX-License-Identifier: GPL-2.0-or-later
"""How a cluster grows, computed from measured costs: every node has one core, the primary feeds and works too. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Costs:
    """ns a unit of work (a packet, a session).

    ``alone``: one gateway without a cluster. ``feeding``: the primary, for a unit of an auxiliary's. ``owning``: the
    auxiliary, for its own unit. ``keeping``: the primary, for a unit it keeps to itself, all in.
    """

    alone: float
    feeding: float
    owning: float
    keeping: float


def throughput(costs: Costs, nodes: int) -> float:
    """Units a second of a cluster whose schedule is set best: auxiliaries first, the primary with what it has left."""
    if nodes < 1:
        raise ValueError(f"{nodes} nodes, expected at least one")
    if nodes == 1:
        return 1e9 / costs.alone
    fed = min((nodes - 1) / costs.owning, 1 / costs.feeding)
    left = max(0.0, 1 - fed * costs.feeding)
    return 1e9 * (fed + left / costs.keeping)


def efficiency(costs: Costs, nodes: int) -> float:
    """Share of what as many gateways, each by itself, would do."""
    return throughput(costs, nodes) * costs.alone / 1e9 / nodes


def feeds(full: float, steering: float) -> float:
    """Auxiliaries that one core's steering keeps busy."""
    return full / steering
