# SPDX-License-Identifier: GPL-2.0-or-later
"""What a primary does when its own data links lose their carrier, or have it again; also when a port is dead though
it has a carrier. And what the node it would hand over to must have.

One without a network serves nobody there; an auxiliary that has all of them is a better one. One without any network
can hand nothing over and will be replaced: it falls silent, and when it is back it asks before it says anything. Where
roles are static nobody changes them but the operator.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from aa_cluster import log
from aa_cluster.agent.primary import Primary
from aa_cluster.agent.tasks import TaskSet
from aa_cluster.agent.threads import urgently
from aa_cluster.errors import AaError, StateError
from aa_cluster.wire import control

if TYPE_CHECKING:
    from aa_cluster.agent.auxiliary import Auxiliary
    from aa_cluster.agent.context import Context
    from aa_cluster.agent.election import Candidate
    from aa_cluster.agent.node import Node

UNPLUGGED_SECONDS = 0.05
"""A primary's data link may be without carrier for so long, before its role goes to another node."""
UNPLUGGED_AGAIN = 10.0
"""Seconds until that is tried again, where nobody could take it."""
QUESTIONS, QUESTION_SECONDS = 12, 0.05
"""How long a primary that was cut off asks for a later one."""

_log = log.get("succession")


class OwnLinks:
    """Of one node. ``hand_over`` gives a primary's role to the node of that name, or raises an ``AaError``."""

    def __init__(
        self, node: Node, candidate: Candidate, hand_over: Callable[[Primary, str], Awaitable[object]]
    ) -> None:
        self._node = node
        self._candidate = candidate
        self._hand_over = hand_over
        self._silence = asyncio.Lock()
        self._flees = self._tries_again = False
        self._tasks = TaskSet()

    async def close(self) -> None:
        await self._tasks.cancel()

    def changed(self, role: Primary) -> None:
        """As ``role.lookout`` has it now."""
        if not self._candidate.enabled:
            return
        if role.lookout.isolated() != role.silent:
            role.silent = not role.silent
            self._tasks.start(self._be_silent(role) if role.silent else self._speak_again(role), "cut off")
        elif self._should_flee(role) and not self._flees:
            self._tasks.start(self._flee(role), "own link")

    # Some are dead.

    def _should_flee(self, role: Primary) -> bool:
        lookout = role.lookout
        return self._node.role is role and lookout.unplugged() and not lookout.isolated() and not role.muted

    async def _flee(self, role: Primary) -> None:
        self._flees = True
        try:
            if not role.lookout.unheard():  # who has asked hosts has waited for them
                await asyncio.sleep(UNPLUGGED_SECONDS)
            await self._hand_over_to_any(role)
        finally:
            self._flees = False
        if self._should_flee(role) and not self._tries_again:
            self._tries_again = True
            self._tasks.start(self._try_again(), "own link")

    async def _hand_over_to_any(self, role: Primary) -> None:
        for node in role.members.reachable():
            if node.id == role.members.self_id or node.state != "active":
                continue
            if not self._should_flee(role):
                return
            try:
                await self._hand_over(role, node.facts.name)
            except AaError as error:
                _log.warning("not handed over", node=node.facts.name, why=error.message)

    async def _try_again(self) -> None:
        """What a carrier does meanwhile is heard all the same."""
        try:
            await asyncio.sleep(UNPLUGGED_AGAIN)
        finally:
            self._tries_again = False
        if isinstance(self._node.role, Primary):
            self.changed(self._node.role)

    # None has a carrier.

    async def _be_silent(self, role: Primary) -> None:
        _log.warning("cut off from all networks: silent until somebody has been asked")
        async with self._silence:
            if role.silent and self._node.role is role:
                self._candidate.step_aside()
                role.muted = True
                await role.plane.call(role.plane.plane.be_silent)

    async def _speak_again(self, role: Primary) -> None:
        """Whoever became primary meanwhile answers on the HA link; on the data path its advertisements are heard."""
        context, asked = self._node.context, 0
        while asked < QUESTIONS or self._candidate.paths["data"] == "backup":
            context.link.send(control.Probe(context.name, False))
            await asyncio.sleep(QUESTION_SECONDS)
            asked += 1
            if role.silent or self._node.role is not role:
                return
        async with self._node.changing, self._silence:
            if not role.silent and self._node.role is role:
                await role.plane.call(role.plane.plane.speak_again)
                role.muted = False
                self._candidate.favour()
                _log.warning("still the primary")
                self.changed(role)


async def must_be_plugged(context: Context, role: Auxiliary) -> None:
    """``StateError`` where a data interface of this node has no carrier."""
    ports = {port.ifindex: port.name for port in role.settings.ports}
    watch = await asyncio.to_thread(context.host.watch_carriers, tuple(ports))
    try:
        carriers = await asyncio.to_thread(watch.now)
    finally:
        watch.close()
    lost = [name for ifindex, name in ports.items() if not carriers.get(ifindex)]
    if lost:
        raise StateError(f"{context.name} has no carrier on {', '.join(lost)}", "look at its cables")


async def must_hear(context: Context, role: Auxiliary, hosts: Iterable[control.SlotHosts]) -> None:
    """``StateError`` where none of those answers this node either."""
    ports = {port.slot: port for port in role.settings.ports}
    for one in hosts:
        port = ports.get(one.slot)
        if port is None or not one.addresses:
            continue
        if not await urgently(context.host.host_answers, port.name, port.physical_mac, one.addresses):
            raise StateError(f"no host answers {context.name} on {port.name} either", "look at that network's switch")
