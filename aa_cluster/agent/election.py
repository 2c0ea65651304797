# SPDX-License-Identifier: GPL-2.0-or-later
"""A node's part in the election: keepalived told what it is, its word weighed, the role taken when it is due."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal

from aa_cluster import log
from aa_cluster.agent.context import Context
from aa_cluster.agent.keepalived import CHOSEN, ORDINARY, RESIGNED, Ballot, Keepalived, ahead, behind
from aa_cluster.core import election
from aa_cluster.core.election import PathState
from aa_cluster.errors import StateError

AGAIN_SECONDS = 0.05

_log = log.get("election")


class Candidate:
    """``on_stand`` is called when every path says that the primary is gone; false when it shall be asked again. Without
    an election nothing is done."""

    def __init__(self, context: Context, on_stand: Callable[[], Awaitable[bool]]) -> None:
        self._context = context
        self._on_stand = on_stand
        self._section = context.config.election
        self._state = election.begin(self._section.settle_ms / 1000)
        self._keepalived = Keepalived(context.config.paths.run, self._told, context.host.keepalived)
        self._task: asyncio.Task[None] | None = None
        self._trouble = ""
        self._behind = False

    @property
    def enabled(self) -> bool:
        return self._section.kind == "keepalived"

    @property
    def paths(self) -> dict[str, PathState]:
        return dict(self._state.paths)

    @property
    def trouble(self) -> str:
        if self._state.out:
            return f"this node is out of the election: {self._state.out}"
        return self._trouble or self._keepalived.trouble

    async def run_as(
        self, role: Literal["primary", "auxiliary"], node_id: int, ha_address: str, complete: bool
    ) -> None:
        """Take part from now on; what keeps it from that is a trouble, not an error: sessions go on without.

        ``complete``: it has the flow table; until it ``has_caught_up`` it wins only where nobody stands that has.
        """
        if not self.enabled or self._state.out:
            return
        config, section = self._context.config, self._section
        ballot = Ballot(
            name=self._context.name,
            node_id=node_id,
            ha=config.ha.interface,
            data=section.interface or config.data.interfaces[0],
            source=ha_address,
            router=section.router_id or config.cluster.id % 255 + 1,
            interval=section.advert_ms / 1000,
        )
        try:
            ordinary = ORDINARY if complete else behind(node_id)
            self._play(CHOSEN if role == "primary" else ordinary)
            self._behind = role == "auxiliary" and not complete
            await self._keepalived.run_for(ballot)
            self._trouble = ""
        except (StateError, OSError) as error:
            self._trouble = f"this node takes no part in the election: {error}"
            _log.error("no election", why=str(error))

    def has_caught_up(self) -> None:
        """An auxiliary has the flow table now."""
        if self._behind:
            self._play(ORDINARY)

    def come_next(self, node_id: int) -> None:
        """The primary hands over to this node, which shall win as soon as that lets go."""
        self._play(ahead(node_id))

    def favour(self) -> None:
        """This node is the primary: it shall win."""
        self._play(CHOSEN)

    def step_aside(self) -> None:
        """This node may not be the primary any more: whoever is shall win."""
        self._play(ORDINARY)

    def resign(self) -> None:
        """Say on every path that this node is primary no more; ``run_as`` stands in line again."""
        self._play(RESIGNED)

    def _play(self, part: int) -> None:
        self._behind = False
        if self.enabled:
            self._keepalived.play(part)

    async def leave(self, why: str = "") -> None:
        """Say goodbye on every path. ``why`` bars the node until ``readmit``."""
        self._step(election.Barred(why))
        await self._keepalived.stop()
        self._state = election.Election(self._state.settle, dict.fromkeys(election.PATHS, "unknown"), out=why)

    def readmit(self) -> None:
        self._step(election.Barred(""))

    def close(self) -> None:
        """The agent ends; keepalived goes on."""
        if self._task is not None:
            self._task.cancel()
        self._keepalived.forget()

    def _told(self, path: str, state: PathState) -> None:
        self._step(election.Told(path, state, self._context.clock()))

    def _step(self, event: election.Event) -> None:
        self._state, commands = election.step(self._state, event)
        for command in commands:
            match command:
                case election.WaitUntil():
                    loop = asyncio.get_running_loop()
                    loop.call_later(
                        max(0.0, command.at - self._context.clock()), self._step, election.Waited(command.at)
                    )
                case election.Stand():
                    self._task = asyncio.get_running_loop().create_task(self._stand(), name="stand")

    @property
    def won(self) -> bool:
        """At this moment every path says so, and nothing bars the node."""
        return self._state.won and not self._state.out

    async def _stand(self) -> None:
        """Again and again, as long as every path says that there is no primary."""
        while self.won and not await self._on_stand():
            await asyncio.sleep(AGAIN_SECONDS)
