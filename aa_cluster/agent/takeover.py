# SPDX-License-Identifier: GPL-2.0-or-later
"""Taking over another node's flows."""

from __future__ import annotations

from dataclasses import dataclass

from aa_cluster.agent.context import Context
from aa_cluster.agent.threads import PlaneThread


@dataclass(frozen=True, slots=True)
class Taken:
    """``flows``: how many have another owner now."""

    flows: int


class TakeOver:
    """On the primary."""

    def __init__(self, context: Context, plane: PlaneThread) -> None:
        self._context = context
        self._plane = plane

    async def take_over(self, node_id: int) -> Taken:
        """The flows of that node are this node's; ``DataplaneError`` when they cannot be."""
        await self._plane.call(self._plane.plane.set_hop, node_id, True)
        return Taken(0)
