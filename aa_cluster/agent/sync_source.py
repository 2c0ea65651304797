# SPDX-License-Identifier: GPL-2.0-or-later
"""Replication on the primary (docs/replication.md): sends what no packet took along, and answers what is asked.

Nothing here runs while nothing changes.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from aa_cluster import api
from aa_cluster.agent.context import Context
from aa_cluster.agent.small_state import SmallTeller
from aa_cluster.agent.tasks import TaskSet
from aa_cluster.agent.threads import PlaneThread
from aa_cluster.errors import AaError, StateError
from aa_cluster.wire import control
from aa_cluster.wire.control import AnyMessage

if TYPE_CHECKING:
    from aa_cluster.agent.link import Peer
    from aa_cluster.core.membership import Membership, Node

State = Literal["source", "equal", "differing", "behind", "synchronising", "unknown"]
LINGER_SECONDS = 0.05
"""Nothing pends for so long: the agent sleeps until a program wakes it."""
QUIET_AGAIN = 0.05, 0.1
"""Seconds after which it is said again that the journal has come to rest."""
FRAMES_A_TURN = 64
"""Some hundred microseconds of the event loop."""
REPAIR_PAUSE = 0.004
"""Between two blocks of 1,024 records: 250,000 records a second, a quarter of what a receiver can take."""
ASK_SECONDS = 2.0
BEHIND_MS = 2000


class SyncSource:
    """The primary's side. ``members`` gives the nodes as they are now.

    ``on_quiet`` is called when the journal has come to rest, three times: a heartbeat then tells how long it is, so
    that the last frames are missed at once when they were lost.
    """

    def __init__(self, context: Context, plane: PlaneThread, members: Callable[[], Membership]) -> None:
        self.on_quiet: Callable[[], None] = lambda: None
        self._context = context
        self._plane = plane
        self._members = members
        self._section = context.config.replication
        self._tasks = TaskSet()
        self._rung = asyncio.Event()
        self._asked = asyncio.Event()
        self._blocks: dict[int, None] = {}
        self._resent: dict[int, int] = {}
        self._small = SmallTeller(context, plane, members)

    @property
    def on(self) -> bool:
        return self._section.mode != "off"

    def start(self) -> None:
        if self.on:
            self._tasks.start(self._pump(), "replicate")
            self._tasks.start(self._repair(), "repair")

    async def stop(self) -> None:
        await self._tasks.cancel()

    def ring(self) -> None:
        """The journal moves again."""
        self._rung.set()

    def head(self) -> int:
        return self._plane.plane.sender.head() if self.on else 0

    def beat(self) -> None:
        """With each heartbeat."""
        if not self.on:
            return
        sender, others = self._plane.plane.sender, len(self._others())
        if sender.listeners() != others:
            sender.set_listeners(others)
        if not others:
            return
        if sender.pending():
            self.ring()
        if self._small.tell():
            self._tasks.start(self._small.tell_news(), "small state")

    def on_message(self, message: AnyMessage, peer: Peer) -> bool:
        """True when it was for replication."""
        if not isinstance(message, control.ResendAsk):
            return False
        node = self._members().nodes.get(message.node_id)
        if self.on and node is not None and node.facts.ha_address == peer.address:
            for first, end in message.ranges:
                sent = self._plane.plane.sender.resend(node.id, first, end)
                self._resent[node.id] = self._resent.get(node.id, 0) + sent
        return True

    async def answer(self, request: control.Request) -> AnyMessage | None:
        """None when the request is not for replication."""
        if not self.on:
            return None
        sender = self._plane.plane.sender
        match request:
            case control.SyncAsk():
                self._small.begin_anew()
                return control.SyncAnswer(request.nonce, self._members().generation, sender.head())
            case control.DigestAsk():
                position = sender.head()  # before: what changes meanwhile differs, and is looked at again
                digests = await self._plane.call(self._plane.plane.digests)
                return control.DigestAnswer(request.nonce, position, digests.astype("<u8").tobytes())
            case control.RepairAsk():
                self._blocks.update(dict.fromkeys(request.blocks))
                self._asked.set()
                return control.RepairAck(request.nonce, len(self._blocks))
        return None

    async def _pump(self) -> None:
        """Sends what has pended for an ``interval_ms``: what new sessions have not taken along by then. They take a
        frame each, and a sweep, a repair or a take-over may write thousands of entries at once."""
        interval = self._section.interval_ms / 1000
        sender = self._plane.plane.sender
        loop = asyncio.get_running_loop()
        while True:
            quiet, seen = loop.time(), sender.cursor()
            while loop.time() - quiet < LINGER_SECONDS or not sender.arm():
                head = sender.head()
                if sender.pending() and sender.cursor() < seen:
                    sender.flush(FRAMES_A_TURN)
                if head != seen or sender.pending():
                    quiet = loop.time()
                seen = head
                await asyncio.sleep(interval)
            await self._rest()

    async def _rest(self) -> None:
        """Until the journal moves again. One beat may be lost as the last frames were, and the next is far off."""
        for pause in (*QUIET_AGAIN, None):
            self.on_quiet()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._rung.wait()
                break
        self._rung.clear()

    async def _repair(self) -> None:
        """One block after the other, for all nodes at once: who has it right loses nothing by it."""
        from aa_cluster.dataplane.replication import DIGEST_BLOCK

        sender = self._plane.plane.sender
        while True:
            await self._asked.wait()
            while self._blocks:
                block = next(iter(self._blocks))
                sender.rejournal(block * DIGEST_BLOCK, (block + 1) * DIGEST_BLOCK - 1, free=True)
                while sender.pending():
                    sender.flush(FRAMES_A_TURN)
                    await asyncio.sleep(REPAIR_PAUSE)
                del self._blocks[block]
            self._asked.clear()

    # What operators see.

    async def status(self) -> api.Sync:
        members = self._members()
        own = members.nodes[members.self_id]
        if not self.on:
            rows = tuple(
                api.SyncRow(id=node.id, name=node.facts.name, state="unknown") for node in members.nodes.values()
            )
            return api.Sync(mode="off", journal=0, pending=0, frames=0, records=0, resent=0, skipped=0, nodes=rows)
        state = self._plane.plane.sender.state()
        flows = await self._plane.call(self._plane.plane.flow_count)
        answers = await asyncio.gather(*(self._status_of(node) for node in self._others()))
        source = api.SyncRow(id=own.id, name=own.facts.name, state="source", flows=flows)
        return api.Sync(
            mode=self._section.mode,
            journal=state.head,
            pending=self._plane.plane.sender.pending(),
            frames=state.frames,
            records=state.records,
            resent=state.again,
            skipped=state.skipped,
            nodes=tuple(sorted((source, *answers), key=lambda row: row.id)),
        )

    async def _status_of(self, node: Node) -> api.SyncRow:
        row = api.SyncRow(id=node.id, name=node.facts.name, state="unknown", resent=self._resent.get(node.id, 0))
        try:
            said = await self._context.link.ask(control.SyncStatusAsk(_nonce()), node.facts.ha_address, ASK_SECONDS)
        except AaError:
            return row
        if not isinstance(said, control.SyncStatusAnswer):
            return row
        return api.SyncRow(
            id=node.id,
            name=node.facts.name,
            state=_state(said),
            flows=said.flows,
            lag=said.lag,
            lag_ms=said.lag_ms,
            lost=said.lost,
            resent=row.resent,
            refused=said.refused,
            differing=said.differing,
            verified=_seconds(said.verified_ms),
            synced=_seconds(said.synced_ms),
            took=_seconds(said.took_ms),
        )

    async def resync(self, name: str) -> api.Resynced:
        """``StateError`` when there is no such node, or it is the primary, or replication is off."""
        if not self.on:
            raise StateError("replication is off ([replication] mode)", "set another mode on every node and restart")
        nodes = self._others() if not name else [self._members().called(name)]
        if any(node.id == self._members().self_id for node in nodes):
            raise StateError(
                f"{name} is the primary: all others have what it has", "name an auxiliary, or none for all"
            )
        done = await asyncio.gather(*(self._tell(node) for node in nodes))
        named = [(node.facts.name, told) for node, told in zip(nodes, done, strict=True)]
        return api.Resynced(
            nodes=tuple(one for one, told in named if told), silent=tuple(one for one, told in named if not told)
        )

    async def _tell(self, node: Node) -> bool:
        try:
            await self._context.link.ask(control.ResyncTell(_nonce()), node.facts.ha_address, ASK_SECONDS)
        except AaError:
            return False
        return True

    def _others(self) -> list[Node]:
        members = self._members()
        return [node for node in members.nodes.values() if node.id != members.self_id and node.ready]


def _state(said: control.SyncStatusAnswer) -> State:
    if said.synced_ms is None:
        return "synchronising"
    if said.lag_ms > BEHIND_MS:
        return "behind"
    return "differing" if said.differing else "equal"


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _nonce() -> bytes:
    return secrets.token_bytes(8)
