# SPDX-License-Identifier: GPL-2.0-or-later
"""The auxiliary's side: heartbeats to the primary, what it says about the others, coming back after it changed."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING

from aa_cluster import log
from aa_cluster.agent import load, neighbourhood, promotion
from aa_cluster.agent.adoption import Adoption
from aa_cluster.agent.context import Context, mac_text
from aa_cluster.agent.event_relay import EventRelay, event_of
from aa_cluster.agent.state import PrimaryState
from aa_cluster.agent.sync_mirror import SyncMirror
from aa_cluster.agent.tasks import TaskSet, pause
from aa_cluster.agent.threads import PlaneThread
from aa_cluster.agent.told import say_all
from aa_cluster.errors import BY_EXIT_CODE, AaError, StateError, TimeoutReached, UsageError
from aa_cluster.wire import control
from aa_cluster.wire.control import AnyMessage, NodeEntry

if TYPE_CHECKING:
    from aa_cluster.agent.link import Peer
    from aa_cluster.agent.survey import Survey
    from aa_cluster.dataplane.settings import Settings

ASK_BEATS = 10
"""Heartbeats that the primary may take to answer (5 s by default)."""
ABSENT_TABLES = 2
"""Tables of the primary without this node in a row, after which it joins again."""
DRAIN_STEP = 0.5
OWN_BEAT = 1.5
"""Heartbeat intervals after which a node speaks although the primary was not heard."""
REJOIN_PAUSE = 2.0
ORDER_SECONDS = 70.0
"""`top` may measure for a minute."""
EVENT_SECONDS = 1.0
MOVE_SECONDS = 30.0
"""A primary may take so long to take over a million flows for which nothing is prepared."""

_log = log.get("auxiliary")


class Auxiliary:
    """``rejoin`` is called (once at a time) when the primary does not know this node any more."""

    def __init__(
        self,
        context: Context,
        plane: PlaneThread,
        settings: Settings,
        primary: PrimaryState,
        survey: Survey,
        rejoin: Callable[[], Awaitable[None]],
    ) -> None:
        self.context = context
        self.plane = plane
        self.settings = settings
        self.primary = primary
        self.survey = survey
        self.table: tuple[NodeEntry, ...] = ()
        self.schedule = ""
        self.ruleset = ""
        self.epoch = settings.epoch
        self.heard = context.clock()
        self.table_at = self.heard
        self.ready = False
        self._rejoin = rejoin
        self._tasks = TaskSet()
        self._timer: asyncio.TimerHandle | None = None
        self._absent = 0
        self._leaving = False
        self._rejoining = False
        self.outdated = False
        self._mute = False
        self.on_promotion: Callable[[control.Request], Awaitable[AnyMessage]] | None = None
        self.adoption = Adoption(context, plane)
        self.sync = SyncMirror(context, plane, lambda: self.settings, self.ask, self._tell_primary, self._take_events)
        self._relay = EventRelay(settings.node_id, self._tell_primary)

    def start(self) -> None:
        self.context.events.relay = self._relay.put
        self._send_beat()
        self._tasks.start(self._read_events(), "events")

    def dataplane_runs(self) -> None:
        """What needs the dataplane begins."""
        if self.settings.share_helpers:
            self.adoption.start()
        self.sync.start()

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.context.events.relay = lambda event: None
        self._relay.close()
        await self.adoption.stop()
        await self.sync.stop()
        await self._tasks.cancel()

    async def report_ready(self) -> None:
        """Tell the primary that the dataplane is attached; ``TimeoutReached`` when it does not answer."""
        await self.ask(control.Ready(_nonce(), self.settings.node_id, self.settings.generation))
        self.ready = True

    async def ask(self, request: control.Request, timeout: float | None = None) -> AnyMessage:
        """The primary's answer; a refusal is raised as the error it stands for. ``timeout`` in s."""
        patience = ASK_BEATS * self.context.beat if timeout is None else timeout
        answer = await self.context.link.ask(request, self.primary.ha_address, patience)
        if isinstance(answer, control.Refused):
            raise BY_EXIT_CODE.get(answer.code, AaError)(answer.message, answer.hint)
        return answer

    async def set_weight(self, name: str, weight: int) -> None:
        answer = await self.ask(control.WeightAsk(_nonce(), name, weight))
        if isinstance(answer, control.WeightAck):
            self._take_table(answer.nodes)

    async def pass_on(self, path: str, body: bytes) -> bytes:
        """An operator's order to the primary; its answer (JSON)."""
        if len(body) > control.MAX_BODY:
            raise UsageError(f"an order of {len(body)} bytes, at most {control.MAX_BODY} fit the HA link")
        answer = await self.ask(control.OrderAsk(_nonce(), path, body), ORDER_SECONDS)
        if not isinstance(answer, control.OrderAnswer):
            raise StateError(f"the primary answered {type(answer).__name__}", "try again")
        return answer.body

    async def primary_digest(self) -> str:
        """The primary's ruleset digest now, or the one of its last heartbeat when it does not answer."""
        try:
            answer = await self.ask(control.RulesetAsk(_nonce()))
        except AaError:
            return self.ruleset
        return answer.ruleset if isinstance(answer, control.RulesetAnswer) else self.ruleset

    async def drain(self, timeout: float, force: bool, now: bool = False) -> AsyncGenerator[int, None]:
        """Sessions left here, now and again, until there are none or ``timeout`` s are over. ``now``: the primary takes
        them over; back when what was on its way here has been through.

        ``TimeoutReached`` when the primary does not answer; with ``force`` that ends the wait instead.
        """
        self._leaving = True
        self.ready = False
        deadline = self.context.clock() + timeout
        try:
            while True:
                left = await self._sessions_left(now)
                if now:
                    await self.context.host.forget_sessions(self.survey)
                yield left
                pause = min(DRAIN_STEP, deadline - self.context.clock())
                if not left or pause <= 0:
                    return
                await asyncio.sleep(pause)
        except (TimeoutReached, StateError) as error:
            if not force and isinstance(error, TimeoutReached):
                self._stay()
                raise TimeoutReached(
                    f"the primary {self.primary.name} does not answer, so nobody can say what is left",
                    "look at the HA link, or leave with --force",
                ) from None
            yield 0
        except (GeneratorExit, asyncio.CancelledError):
            self._stay()
            raise

    async def say_goodbye(self) -> None:
        """Let the primary forget this node. Best effort: a primary that is gone needs no goodbye."""
        try:
            await self.ask(control.LeaveDone(_nonce(), self.settings.node_id))
        except AaError as error:
            _log.warning("the primary does not know that this node has left", why=error.message)

    def on_message(self, message: AnyMessage, peer: Peer) -> None:
        if isinstance(message, control.PrimaryBeat):
            self._hear(message, peer)
        elif peer.address != self.primary.ha_address:
            return
        elif isinstance(message, control.Probe):
            self._send_beat()
        elif isinstance(message, control.EventNote):
            self._show(message)
        elif isinstance(message, control.Request):
            self._tasks.start(self._answer(message, peer), type(message).__name__)
        else:
            self.sync.on_message(message)

    async def _answer(self, request: control.Request, peer: Peer) -> None:
        """A repetition is worked on again: what the primary asks may be asked twice."""
        answer: AnyMessage
        try:
            match request:
                case control.LoadAsk():
                    answer = await load.answer(self, request)
                case control.NeighbourTell():
                    changed = await neighbourhood.correct(self.context, self.settings.ports, request)
                    answer = control.NeighbourAck(request.nonce, changed)
                case control.ForgetAsk():
                    answer = control.ForgetAck(request.nonce, await self.context.host.forget_sessions(self.survey))
                case control.PromoteAsk() | control.PromoteGo() if self.on_promotion is not None:
                    answer = await self.on_promotion(request)
                case _:
                    answer = await self.sync.answer(request) or control.Refused(
                        request.nonce, 13, f"{type(request).__name__} is not for an auxiliary", ""
                    )
        except AaError as error:
            answer = control.Refused(request.nonce, error.exit_code, error.message[:1024], error.hint[:1024])
        self.context.link.send(answer, peer.address)

    def _show(self, note: control.EventNote) -> None:
        """What happened elsewhere; its own events come back and have been shown."""
        for entry in note.events:
            event = event_of(entry)
            if event is not None and entry.origin != self.settings.node_id:
                self.context.events.pass_on(event)

    def _tell_primary(self, message: AnyMessage) -> None:
        self.context.link.send(message, self.primary.ha_address)

    async def _read_events(self) -> None:
        """Refused blocks do not wake the agent, so that nobody can: they are looked for once a second."""
        while True:
            await pause(EVENT_SECONDS)
            if self.plane.plane.events_wait():
                await self._take_events()

    async def _take_events(self) -> None:
        say_all(self.context, self.settings.ports, await self.plane.call(self.plane.plane.read_events))

    async def _sessions_left(self, now: bool) -> int:
        answer = await self.ask(control.LeaveAsk(_nonce(), self.settings.node_id, now), MOVE_SECONDS if now else None)
        return answer.sessions if isinstance(answer, control.LeaveStatus) else 0

    def _stay(self) -> None:
        """The leave was broken off: work again."""
        self._leaving = False
        self.ready = True
        self._tasks.start(self.report_ready(), "ready")

    def _hear(self, beat: control.PrimaryBeat, peer: Peer) -> None:
        mine = self.settings.generation
        if beat.generation < mine or (beat.generation == mine and beat.node_id != self.primary.id):
            return
        if beat.generation > mine:
            self._meet_successor(beat, peer)
            return
        self.heard = self.context.clock()
        if self._mute:
            self._mute = False
            self.context.events.say("heard", f"the primary {beat.name} is heard again", node=beat.name)
        self._send_beat()
        self.schedule, self.ruleset, self.epoch = beat.schedule, beat.ruleset, beat.epoch
        self.sync.heard(beat)
        self._follow(peer.address, beat.ha_mac)
        if beat.nodes:
            self._take_table(beat.nodes)

    def _meet_successor(self, beat: control.PrimaryBeat, peer: Peer) -> None:
        """Another node is the primary now. One that knows this node is followed, sessions and all."""
        if not beat.nodes:
            self.context.link.send(control.Probe(self.context.name, False), peer.address)
        elif any(one.id == self.settings.node_id and one.name == self.context.name for one in beat.nodes):
            self._tasks.start(self._follow_successor(beat, peer), "follow")
        else:
            self.come_back(f"generation {beat.generation} has begun under {beat.name}")

    async def _follow_successor(self, beat: control.PrimaryBeat, peer: Peer) -> None:
        if beat.generation <= self.settings.generation:
            return
        self.settings = promotion.followed(self.settings, beat)
        virtual = tuple(port.virtual_mac for port in self.settings.ports)
        self.primary = promotion.primary_state(beat, peer.address, virtual)
        await self.plane.call(self.plane.plane.update, self.settings)
        await self.plane.call(self.plane.plane.forget_journal)
        await self.context.remember(generation=beat.generation, epoch=beat.epoch, primary=self.primary)
        _log.warning("following", primary=beat.name, generation=beat.generation)
        self.context.events.say("promote", f"{beat.name} is the primary now", node=beat.name)
        self._hear(beat, peer)

    def _follow(self, address: str, ha_mac: bytes) -> None:
        """The primary has another address or MAC on the HA link: only the agent needs to know, until it joins again."""
        if address != self.primary.ha_address:
            self.primary = _moved(self.primary, address)
            self._tasks.start(self.context.remember(primary=self.primary), "remember")
        if mac_text(ha_mac) != self.primary.ha_mac:
            self.come_back("the primary's HA MAC has changed", outdated=False)

    def _take_table(self, nodes: tuple[NodeEntry, ...]) -> None:
        self.table = nodes
        self.table_at = self.context.clock()
        own = next((node for node in nodes if node.name == self.context.name), None)
        self._absent = 0 if own is not None else self._absent + 1
        if own is not None and own.state == "draining" and not own.drained and self.ready:
            self._tasks.start(self.report_ready(), "ready")
        if own is not None and own.rejoin and self.ready:
            self.come_back("the primary has taken this node's sessions over")
        if self._absent >= ABSENT_TABLES and self.ready:
            self.come_back("the primary does not know this node")

    def come_back(self, why: str, outdated: bool = True) -> None:
        """Join again, in the background, until it works. ``outdated``: the sessions this node had go on elsewhere."""
        if self._rejoining or self._leaving:
            return
        self._rejoining = True
        self.outdated = outdated
        _log.warning("joining again", why=why)
        self._tasks.start(self._call_rejoin(), "rejoin")

    async def _call_rejoin(self) -> None:
        try:
            while not await self._try_rejoin():
                await asyncio.sleep(REJOIN_PAUSE)
        finally:
            self._rejoining = False

    async def _try_rejoin(self) -> bool:
        try:
            await self._rejoin()
        except AaError as error:
            _log.error("cannot join again", why=str(error))
            return False
        return True

    def _send_beat(self) -> None:
        """Answers the primary's heartbeat; without one, sent by the node's own clock, a little later."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(OWN_BEAT * self.context.beat, self._send_beat)
        silence = self.context.clock() - self.heard
        if silence > self.context.silence and self.ready and not self._mute:
            self._mute = True
            name = self.primary.name
            self.context.events.say("silent", f"the primary {name} has fallen silent", node=name)
        beat = control.AuxiliaryBeat(
            self.settings.node_id, self.context.name, self.settings.generation, self.ready and not self._leaving
        )
        self.context.link.send(beat, self.primary.ha_address)


def _moved(primary: PrimaryState, address: str) -> PrimaryState:
    return PrimaryState(
        id=primary.id,
        name=primary.name,
        ha_mac=primary.ha_mac,
        ha_address=address,
        virtual_macs=primary.virtual_macs,
    )


def _nonce() -> bytes:
    return secrets.token_bytes(8)
