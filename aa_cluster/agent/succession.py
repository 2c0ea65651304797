# SPDX-License-Identifier: GPL-2.0-or-later
"""When a node changes its role, and what its neighbours are told: the steps themselves are in promotion.py.

Three ways lead there: the election finds the primary gone (``_stand``); the primary hands over (``hand_over``, and
``obey`` on the other node); a primary meets one of a later generation (``outranked``).
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal

import numpy as np

from aa_cluster import api, log
from aa_cluster.agent import own_links, promotion
from aa_cluster.agent.auxiliary import Auxiliary
from aa_cluster.agent.election import Candidate
from aa_cluster.agent.own_links import OwnLinks
from aa_cluster.agent.primary import Primary
from aa_cluster.agent.tasks import TaskSet
from aa_cluster.core import membership
from aa_cluster.core.membership import Facts
from aa_cluster.dataplane.flows import FLOW_ROW
from aa_cluster.errors import BY_EXIT_CODE, AaError, StateError
from aa_cluster.wire import control
from aa_cluster.wire.control import AnyMessage

if TYPE_CHECKING:
    from aa_cluster.agent.link import Peer
    from aa_cluster.agent.node import Node
    from aa_cluster.dataplane.pulses import Question

PENANCE_SECONDS = 30.0
"""A node that failed to become primary stands again after this long."""
SILENT_PULSES = 1.75
ANSWER_SECONDS = 0.003
"""A kernel that lives answers within this, or while the entries are made."""
LIVES_SECONDS = 1.0
"""Found again within this, it is the same that was said before."""
PREPARE_SECONDS = 15.0
GO_SECONDS = 2.0
TAKE_SECONDS = 2.0
"""A successor that is not told that the virtual MACs are free takes them after this long."""
GONE_SECONDS = 0.15
"""Or when every path has said for so long that nobody else is primary: who was handing over has died."""
UNUSED_SECONDS = 5.0
"""A node that was asked to be ready, and then was not asked to go, lets go of what it has prepared after this long."""
CATCH_UP_SECONDS, CATCH_UP_STEP = 0.5, 0.002
HEIR_SECONDS = 2.0
"""So long a former primary sends on what still comes to the virtual MACs."""

ANSWERS_KEPT = 16
"""Requests are repeated until the answer has come."""

_log = log.get("succession")


class Succession:
    """Of one node; all changes of role happen under ``node.changing``."""

    def __init__(self, node: Node, penance: float = PENANCE_SECONDS) -> None:
        self._node = node
        self._penance = penance
        self._context = node.context
        self._tasks = TaskSet()
        self._asked: dict[bytes, asyncio.Task[AnyMessage]] = {}
        self._taken: asyncio.Event | None = None
        self._lived = -math.inf
        self.candidate = Candidate(node.context, self._stand)
        self.own_links = OwnLinks(node, self.candidate, self.hand_over)

    async def close(self) -> None:
        """The agent ends; keepalived and the dataplane go on."""
        await self.own_links.close()
        await self._tasks.cancel()
        self.candidate.close()

    def prepare(self, role: Primary | Auxiliary) -> None:
        """In the background: the other role's programs, then this node counts in the election."""
        if self.candidate.enabled:
            self._tasks.start(self._prepare(role), "standby")

    async def _prepare(self, role: Primary | Auxiliary) -> None:
        try:
            await role.plane.call(role.plane.plane.prepare_standby)
            await asyncio.to_thread(self._context.host.make_entries, np.zeros(0, FLOW_ROW))  # loads what it imports
        except AaError as error:
            if isinstance(role, Auxiliary) and self._node.role is role:
                await self._sit_out(f"it cannot prepare for the primary's role: {error.message}")
                return
            _log.error("not prepared for the other role", why=str(error))
        if self._node.role is role:
            await self._run_for(role)

    async def _run_for(self, role: Primary | Auxiliary) -> None:
        kind: Literal["primary", "auxiliary"] = "primary" if isinstance(role, Primary) else "auxiliary"
        complete = not isinstance(role, Auxiliary) or role.sync.complete
        await self.candidate.run_as(kind, role.settings.node_id, role.survey.ha_address, complete)

    # The primary is gone.

    async def _stand(self) -> bool:
        """False: not this time."""
        role = self._node.role
        if isinstance(role, Primary):
            await self._go_without_the_former()
        if not isinstance(role, Auxiliary):
            return True
        if not role.ready:
            _log.warning("the primary is gone, but this node is not ready to follow it")
            return False
        async with self._moving(role):
            if self._node.role is not role:
                return False
            watch, began = promotion.Stopwatch(self._context.clock), self._context.clock()
            gone = frozenset({role.primary.id})
            question = await role.plane.call(role.plane.plane.ask_primary)
            entries = promotion.Entries(self._context, role)
            try:
                if not await self._is_gone(role, question, entries, watch):
                    return False
                primary = await self._arm(role, gone, None, watch, entries)
            except AaError as error:
                await entries.over()
                await self._stay_auxiliary(role, error, began)
                return True
            finally:
                question.close()
            await self._wear(primary)
            watch.lap("macs")
            _log.info("taken", **watch.steps)
            await self._now_primary(primary, gone)
        return True

    @asynccontextmanager
    async def _moving(self, role: Primary | Auxiliary) -> AsyncIterator[None]:
        """One change of role at a time, and before all other work of this machine."""
        async with self._node.changing:
            with role.plane.urgent():
                yield

    async def _is_gone(
        self, role: Auxiliary, question: Question, entries: promotion.Entries, watch: promotion.Stopwatch
    ) -> bool:
        """The primary says nothing, and its kernel does not answer, also not while the most urgent entries are made."""
        began = self._context.clock()
        await asyncio.sleep(ANSWER_SECONDS)
        if question.answered():
            self._say_it_lives()
            return False
        watch.lap("answer")
        entries.begin()
        made = await entries.vital()
        watch.lap("entries")
        if not await self._is_silent(role) or question.answered():
            self._say_it_lives(made)
            await entries.over()
            await promotion.drop_entries(self._context, role, began)
            return False
        watch.lap("silence")
        return True

    def _say_it_lives(self, entries: int = 0) -> None:
        """Once, however often it is found again without a pause."""
        before, self._lived = self._lived, self._context.clock()
        if self._lived - before > LIVES_SECONDS:
            _log.warning("keepalived calls the primary gone, but it lives", entries=entries)

    async def _is_silent(self, role: Auxiliary) -> bool:
        """No pulse of the primary has come for longer than there may be between two, on any link; and all paths still
        say that it is gone. A keepalived that has died alone makes no second primary."""
        enough = SILENT_PULSES * self._context.config.ha.pulse_ms / 1000
        deadline = self._context.clock() + 10 * enough
        while self.candidate.won and self._context.clock() < deadline:
            heard = await role.plane.call(role.plane.plane.primary_heard)
            if heard >= enough:
                return True
            await asyncio.sleep(enough - heard)
        return False

    async def _arm(
        self,
        role: Auxiliary,
        gone: frozenset[int],
        former: Facts | None,
        watch: promotion.Stopwatch,
        entries: promotion.Entries | None = None,
    ) -> Primary:
        virtual = tuple(port.virtual_mac for port in role.settings.ports)
        own = self._node.facts(role.survey, virtual)
        primary = await promotion.arm(self._context, role, self._node.primary_role, own, gone, former, watch, entries)
        self._node.role = primary
        return primary

    async def _wear(self, primary: Primary) -> None:
        """The others follow already: an interface that does not take its MAC is a trouble, and no way back."""
        try:
            await promotion.take(self._context, primary)
        except AaError as error:
            primary.troubles["virtual MACs"] = f"not every data interface has its virtual MAC: {error.message}"
            _log.error("virtual MACs not taken", why=str(error))

    async def _now_primary(self, primary: Primary, gone: frozenset[int]) -> None:
        primary.begin()
        self._node.on_change()
        _log.warning("promoted", id=primary.settings.node_id, generation=primary.settings.generation)
        name = self._context.name
        self._context.events.say("promote", f"{name} is the primary now", node=name)
        self.candidate.readmit()
        await self._run_for(primary)
        for node_id in gone:
            primary.carry_out_again(membership.TakeOver(node_id))

    async def _stay_auxiliary(self, role: Auxiliary, error: AaError, began: float) -> None:
        """Out of the election, so that another one takes the role. ``began``: before the first entry was made."""
        why = f"it could not become primary: {error.message}"
        name = self._context.name
        _log.error("not promoted", why=str(error))
        self._context.events.say("promote", f"{name} stays an auxiliary: {why}", node=name)
        await self._sit_out(why)
        self._tasks.start(self._drop_entries(role, began), "entries")

    async def _sit_out(self, why: str) -> None:
        await self.candidate.leave(why)
        self._tasks.start(self._stand_again(), "penance")

    async def _drop_entries(self, role: Auxiliary, since: float) -> None:
        dropped = await promotion.drop_entries(self._context, role, since)
        _log.info("the entries of others' sessions are let go of", entries=dropped)

    async def _stand_again(self) -> None:
        await asyncio.sleep(self._penance)
        self.candidate.readmit()
        if self._node.role is not None:
            await self._prepare(self._node.role)

    # The primary hands over: its side.

    async def hand_over(self, role: Primary, name: str) -> api.Promoted:
        """``StateError`` when that node cannot take the role; then everything is as before."""
        heir = role.members.called(name)
        if heir.id == role.members.self_id:
            raise StateError(f"{heir.facts.name} is the primary already")
        if heir.state != "active":
            raise StateError(f"{heir.facts.name} is {heir.state}, expected active", "see `aa-cluster nodes`")
        address = heir.facts.ha_address
        watch = promotion.Stopwatch(self._context.clock)
        async with self._moving(role):
            if self._node.role is not role:
                raise StateError("this node is not the primary any more")
            others = frozenset(role.members.nodes) - {role.members.self_id}
            role.heir = heir.id
            role.lookout.watch(())
            try:
                await role.plane.call(role.plane.plane.set_draining, others)
                hosts = tuple(control.SlotHosts(*one) for one in role.lookout.unheard().items())
                ask = control.PromoteAsk(_nonce(), hosts)
                await self._unless_outranked(role, self._ask(ask, address, PREPARE_SECONDS))
                watch.lap("ask")
                await role.plane.call(role.plane.plane.set_heir, heir.id)
                head = await role.plane.call(role.plane.plane.sent_up_to)
                go = control.PromoteGo(_nonce(), role.survey.physical, head, role.lookout.unplugged())
                armed = await self._ask(go, address, GO_SECONDS)
                watch.lap("go")
            except AaError:
                role.heir = 0
                role.lookout.watch(role.members.reachable())
                await role.plane.call(role.plane.plane.set_heir, 0)
                role.carry_out_again(membership.SetDraining(role.members.withdrawn()))
                raise
            try:
                auxiliary = await self._let_go(role, _beat_of(heir, armed), address, heir=True, watch=watch)
            except AaError:
                role.heir = 0  # so that the successor's next word makes this node stand down
                raise
            watch.lap("role")
            self._tasks.start(self._forget_heir(auxiliary), "heir")
            await auxiliary.plane.call(auxiliary.plane.plane.forget_journal)
            auxiliary.ready = True
            await self._set_free(address)
            watch.lap("take")
        _log.info("handed over", to=name, **watch.steps)
        self._tasks.start(self._drop_entries(auxiliary, self._context.clock()), "entries")
        return api.Promoted(primary=heir.facts.name, generation=armed.generation)

    async def _set_free(self, address: str) -> None:
        """Unanswered it is no failure: the successor does not wait for ever."""
        try:
            await self._ask(control.PromoteTake(_nonce()), address, TAKE_SECONDS)
        except AaError as error:
            _log.warning("the successor does not confirm that it has the virtual MACs", why=error.message)

    async def _ask(self, request: control.Request, address: str, timeout: float) -> control.PromoteAck:
        answer = await self._context.link.ask(request, address, timeout)
        if isinstance(answer, control.Refused):
            raise BY_EXIT_CODE.get(answer.code, AaError)(answer.message, answer.hint)
        if not isinstance(answer, control.PromoteAck):
            raise StateError(f"{address} answered {type(answer).__name__}", "try again")
        return answer

    async def _unless_outranked(self, role: Primary, asking: Coroutine[None, None, control.PromoteAck]) -> None:
        """``StateError`` as soon as a primary of a later generation is heard: this node is to stand down."""
        tasks = (asyncio.create_task(asking), asyncio.create_task(role.outranked.wait()))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not tasks[0].done():
                raise StateError("another node has become primary")
            await tasks[0]
        finally:
            for task in tasks:
                task.cancel()

    async def _forget_heir(self, auxiliary: Auxiliary) -> None:
        await asyncio.sleep(HEIR_SECONDS)
        if self._node.role is auxiliary:
            await auxiliary.plane.call(auxiliary.plane.plane.forget_heir)

    async def _let_go(
        self, role: Primary, beat: control.PrimaryBeat, address: str, heir: bool, watch: promotion.Stopwatch
    ) -> Auxiliary:
        settings = await promotion.let_go(self._context, role, beat, address, heir, self.candidate.resign, watch)
        virtual = tuple(port.virtual_mac for port in settings.ports)
        primary = promotion.primary_state(beat, address, virtual)
        auxiliary = self._node.auxiliary_role(role.plane, settings, primary, role.survey)
        self._node.role = auxiliary
        auxiliary.start()
        auxiliary.dataplane_runs()
        self._node.on_change()
        await self._run_for(auxiliary)
        return auxiliary

    # The primary hands over: the successor's side.

    async def obey(self, request: control.Request) -> AnyMessage:
        """Each request is worked on once, however often it is repeated, and whichever role this node has by then."""
        task = self._asked.get(request.nonce)
        if task is None:
            task = self._asked[request.nonce] = asyncio.get_running_loop().create_task(self._work(request))
            while len(self._asked) > ANSWERS_KEPT:
                self._asked.pop(next(iter(self._asked)))
        return await asyncio.shield(task)

    async def _work(self, request: control.Request) -> AnyMessage:
        role = self._node.role
        if isinstance(request, control.PromoteTake):
            if self._taken is not None:
                self._taken.set()
            state = self._context.state
            return control.PromoteAck(request.nonce, state.generation, state.epoch)
        if not isinstance(role, Auxiliary):
            raise StateError(f"{self._context.name} is no auxiliary")
        if self._node.changing.locked():
            raise StateError(f"a join, leave or change of role is under way on {self._context.name}", "try again")
        if isinstance(request, control.PromoteGo):
            return await self._go(role, request)
        await own_links.must_be_plugged(self._context, role)
        if isinstance(request, control.PromoteAsk):
            await own_links.must_hear(self._context, role, request.hosts)
        await role.plane.call(role.plane.plane.prepare_standby)
        began = self._context.clock()
        await promotion.make_entries(self._context, role)
        self._tasks.start(self._drop_unless_promoted(role, began), "entries")
        return control.PromoteAck(request.nonce, role.settings.generation, role.epoch)

    async def _drop_unless_promoted(self, role: Auxiliary, began: float) -> None:
        await asyncio.sleep(UNUSED_SECONDS)
        if self._node.role is role:
            await self._drop_entries(role, began)

    async def _go(self, role: Auxiliary, request: control.PromoteGo) -> AnyMessage:
        former = next((one for one in role.table if one.id == role.primary.id), None)
        if former is None:
            raise StateError(f"{self._context.name} has not heard the primary's table yet", "try again")
        facts = Facts(former.name, former.ha_mac, role.primary.ha_address, request.macs, former.kernel)
        watch = promotion.Stopwatch(self._context.clock)
        async with self._moving(role):
            await self._catch_up(role, request.head)
            watch.lap("journal")
            gone = frozenset({role.primary.id}) if request.unplugged else frozenset[int]()
            primary = await self._arm(role, gone, facts, watch)
        _log.info("armed", **watch.steps)
        self.candidate.come_next(primary.settings.node_id)
        self._taken = asyncio.Event()
        self._tasks.start(self._take(primary, gone, self._taken), "take")
        answer = control.PromoteAck(request.nonce, primary.settings.generation, primary.settings.epoch)
        # The task that would answer has ended with the old role; the primary should not have to ask again.
        self._context.link.send(answer, role.primary.ha_address)
        return answer

    async def _catch_up(self, role: Auxiliary, head: int) -> None:
        deadline = self._context.clock() + CATCH_UP_SECONDS
        while not await role.plane.call(role.plane.plane.mirrors_up_to, head):
            if self._context.clock() > deadline:
                raise StateError(
                    f"{self._context.name} has not got all flows within {CATCH_UP_SECONDS:g} s",
                    "look at the HA link and at `aa-cluster sync status`",
                )
            await asyncio.sleep(CATCH_UP_STEP)

    async def _take(self, primary: Primary, gone: frozenset[int], freed: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(TAKE_SECONDS):
                await freed.wait()
        except TimeoutError:
            _log.error("the former primary has not let go: the virtual MACs are taken all the same")
        self.candidate.favour()
        async with self._moving(primary):
            await primary.plane.call(primary.plane.plane.set_heir, 0)
            await self._wear(primary)
            primary.lookout.release()
            await self._now_primary(primary, gone)

    async def _go_without_the_former(self) -> None:
        """A primary that dies while it hands over says no more; one that lives is on its paths until its MACs are
        free."""
        await asyncio.sleep(GONE_SECONDS)
        if self._taken is not None and self.candidate.won:
            self._taken.set()

    # Somebody else is primary.

    def outranked(self, role: Primary, beat: control.PrimaryBeat, peer: Peer) -> None:
        self._tasks.start(self._stand_down(role, beat, peer.address), "stand down")

    async def _stand_down(self, role: Primary, beat: control.PrimaryBeat, address: str) -> None:
        async with self._moving(role):
            if self._node.role is not role:
                return
            text = f"{self._context.name} stands down: {beat.name} has generation {beat.generation}"
            _log.warning("standing down", primary=beat.name, generation=beat.generation)
            watch = promotion.Stopwatch(self._context.clock)
            auxiliary = await self._let_go(role, beat, address, heir=False, watch=watch)
            self._context.events.say("stand-down", text, node=self._context.name)
            # It joins when ``changing`` is free again, also if its table could not be emptied.
            auxiliary.come_back(f"generation {beat.generation} has begun under {beat.name}")
            await auxiliary.plane.call(auxiliary.plane.plane.clear_flows)


def _beat_of(heir: membership.Node, armed: control.PromoteAck) -> control.PrimaryBeat:
    """What the heir will say of itself."""
    return control.PrimaryBeat(
        node_id=heir.id,
        name=heir.facts.name,
        generation=armed.generation,
        epoch=armed.epoch,
        schedule="",
        ruleset="",
        ha_mac=heir.facts.ha_mac,
        nodes=(),
    )


def _nonce() -> bytes:
    return secrets.token_bytes(8)
