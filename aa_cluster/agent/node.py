# SPDX-License-Identifier: GPL-2.0-or-later
"""One node: becomes primary or auxiliary, resumes what it was, leaves. One such change at a time."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING

from aa_cluster import api, log
from aa_cluster.agent import attachment, memory, orders
from aa_cluster.agent.attachment import Seat
from aa_cluster.agent.auxiliary import Auxiliary
from aa_cluster.agent.context import Context, mac_bytes, mac_text
from aa_cluster.agent.discovery import Discovery
from aa_cluster.agent.primary import Primary
from aa_cluster.agent.state import NodeState, PrimaryState
from aa_cluster.agent.succession import Succession
from aa_cluster.agent.survey import Survey, refusal
from aa_cluster.agent.threads import PlaneThread
from aa_cluster.core.membership import Facts, Membership, assign_id
from aa_cluster.errors import AaError, StateError
from aa_cluster.wire import control
from aa_cluster.wire.control import AnyMessage

if TYPE_CHECKING:
    from aa_cluster.agent.link import Peer
    from aa_cluster.dataplane.settings import Settings

RESUME_PAUSE = 2.0
LOOK_SECONDS = 1.0
"""How long a former primary looks for a later one before it is primary again."""

_log = log.get("node")


class Node:
    """``role`` is None while the node is in no cluster. ``trouble``: why it could not resume, else empty.

    ``on_change`` is called after each change of role.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.role: Primary | Auxiliary | None = None
        self.joining = False
        self.leaving = False
        self.trouble = ""
        self.started = context.clock()
        self.on_change: Callable[[], None] = lambda: None
        self._discovery: Discovery | None = None
        self.changing = asyncio.Lock()
        self.succession = Succession(self)
        context.link.on_message = self._on_message

    def _on_message(self, message: AnyMessage, peer: Peer) -> None:
        if self._discovery is not None:
            self._discovery.on_message(message, peer)
        elif self.role is not None:
            self.role.on_message(message, peer)

    # Joining.

    async def join(self, request: api.JoinRequest) -> api.Joined:
        """``StateError`` when the node is in a cluster; ``JoinRefused`` with what differs, and nothing changed."""
        if self.role is not None or self.context.state.role != "none":
            raise StateError(f"this node is in the cluster already, as {self.context.state.role}", "`leave` first")
        if self.changing.locked():
            raise StateError("a join or leave is under way", "wait for its end")
        async with self.changing:
            self.joining = True
            try:
                if request.primary:
                    await self._found()
                else:
                    await self._enter(request.timeout)
            finally:
                self.joining = False
        return self.joined()

    def joined(self) -> api.Joined:
        state = self.context.state
        primary = state.primary.name if state.primary else self.context.name
        return api.Joined(node_id=state.node_id, role=state.role, primary=primary, generation=state.generation)

    async def _found(self) -> None:
        """Become the primary of a new generation."""
        context = self.context
        survey = await context.survey()
        discovery = self._discovery = Discovery(context)
        try:
            await discovery.find_none()
        finally:
            self._discovery = None
        before = context.state
        ids = {**before.ids, context.name: assign_id(before.ids, context.name)}
        virtual = context.virtual_macs()
        seat = Seat("primary", ids[context.name], before.generation + 1, 1)
        settings = attachment.settings(context, seat, survey, virtual, survey.ha.mac)
        plane = await attachment.attach(context, settings, fresh=True)
        try:
            await context.remember(
                role="primary",
                node_id=settings.node_id,
                generation=settings.generation,
                epoch=settings.epoch,
                ids=ids,
                physical_macs=survey.physical_by_name(),
                members=(),
                applied={},
                primary=None,
            )
            members = memory.founding(context.config, context.state, self.facts(survey, virtual), context.clock())
            role = self.primary_role(plane, settings, members, survey)
            self.role = role
            role.start()
            role.begin()
            await role.settled()
            role.must_be_well()
            await attachment.wear(context, survey, virtual)
        except AaError:
            await self._undo(plane, survey)
            await context.remember(role=before.role, physical_macs=before.physical_macs)
            raise
        self.succession.prepare(role)
        self.on_change()
        _log.info("primary", id=settings.node_id, generation=settings.generation)

    async def _enter(self, timeout: float) -> None:
        """Ask the primary in, attach, and report ready."""
        granted, address, survey = await self._ask_in(timeout)
        context, before = self.context, self.context.state
        seat = Seat("auxiliary", granted.node_id, granted.generation, granted.epoch, granted.primary_id)
        settings = attachment.settings(context, seat, survey, granted.virtual_macs, granted.primary_ha_mac)
        primary = PrimaryState(
            id=granted.primary_id,
            name=granted.primary_name,
            ha_mac=mac_text(granted.primary_ha_mac),
            ha_address=address,
            virtual_macs=tuple(map(mac_text, granted.virtual_macs)),
        )
        running = self.role if isinstance(self.role, Auxiliary) else None
        if running is None:
            role = await self._attach_auxiliary(settings, primary, survey)
        else:
            role = running
            await role.plane.call(role.plane.plane.update, settings)
            role.settings, role.primary, role.survey = settings, primary, survey
        await context.remember(
            role="auxiliary",
            node_id=settings.node_id,
            generation=settings.generation,
            epoch=settings.epoch,
            ids=dict(granted.ids),
            physical_macs={},
            primary=primary,
        )
        role.heard = context.clock()
        try:
            await role.report_ready()
        except AaError:
            if running is None:
                await self._withdraw(role, before)
            raise
        self.succession.prepare(role)
        self.on_change()
        _log.info("auxiliary", id=settings.node_id, primary=primary.name, generation=settings.generation)

    async def _attach_auxiliary(self, settings: Settings, primary: PrimaryState, survey: Survey) -> Auxiliary:
        """Heartbeats run from the start: compiling takes a while, and the primary must know that we are at it."""
        plane = PlaneThread(self.context.host.dataplane(settings))
        role = self.auxiliary_role(plane, settings, primary, survey)
        self.role = role
        role.start()
        try:
            await plane.call(plane.plane.start)
        except AaError:
            await self._withdraw(role, self.context.state)
            raise
        role.dataplane_runs()
        return role

    async def _withdraw(self, role: Auxiliary, before: NodeState) -> None:
        """The join broke off after the primary had agreed: nobody is to count on this node."""
        await role.say_goodbye()
        await self._undo(role.plane, None)
        await self.context.remember(role=before.role, primary=before.primary)

    async def _ask_in(self, timeout: float) -> tuple[control.JoinGranted, str, Survey]:
        context = self.context
        survey = await context.survey()
        ruleset = await context.ruleset()
        discovery = self._discovery = Discovery(context)
        try:
            address = (await discovery.find(timeout)).peer.address
        finally:
            self._discovery = None
        ask = control.JoinAsk(
            nonce=secrets.token_bytes(8),
            name=context.name,
            wire_version=context.wire_version,
            kernel=context.host.kernel,
            weight=context.config.node.weight,
            ha_mac=survey.ha.mac,
            ruleset=ruleset,
            interfaces=survey.interfaces(),
            share_helpers=context.config.policy.share_helpers,
            flow_table_size=context.config.data.flow_table_size,
        )
        answer = await context.link.ask(ask, address, timeout)
        if isinstance(answer, control.JoinRefusal):
            raise refusal("the cluster refuses this node", answer.findings)
        if not isinstance(answer, control.JoinGranted):
            raise StateError(f"the primary at {address} answered {type(answer).__name__}", "try again")
        if len(answer.virtual_macs) != len(survey.data):
            raise StateError("the primary gave another number of virtual MACs than there are interfaces", "try again")
        return answer, address, survey

    async def _rejoin(self) -> None:
        async with self.changing:
            if isinstance(self.role, Auxiliary):
                self.role.ready = False
                if self.role.outdated:
                    await self._forget(self.role)
                try:
                    await self._enter(10.0)
                except AaError as error:
                    self.trouble = f"cannot join again: {error.message}"
                    raise
                self.trouble = ""

    async def _forget(self, role: Auxiliary) -> None:
        """Whatever sessions this node had, they go on elsewhere or nowhere."""
        try:
            await self.context.host.forget_sessions(role.survey)
        except AaError as error:
            _log.warning("entries of sessions that are not this node's any more stay", why=error.message)

    # Resuming.

    async def resume(self) -> None:
        """Be again what the state file says; try until it works. Returns at once for a node that had left."""
        while self.context.state.role != "none" and self.role is None:
            try:
                async with self.changing:
                    await self._resume_once()
                self.trouble = ""
            except AaError as error:
                self.trouble = f"cannot resume as {self.context.state.role}: {error.message}"
                _log.error("cannot resume", role=self.context.state.role, why=str(error))
                await asyncio.sleep(RESUME_PAUSE)

    async def _resume_once(self) -> None:
        context = self.context
        attached = await asyncio.to_thread(context.host.pinned, context.config.paths.pins)
        superseded = context.state.role == "primary" and await self._superseded()
        if not attached:
            _log.info("no pinned dataplane: joining again", role=context.state.role, superseded=superseded)
            self.joining = True
            try:
                again = context.state.role == "primary" and not superseded
                await (self._found() if again else self._enter(10.0))
            finally:
                self.joining = False
        elif context.state.role == "primary":
            await self._resume_primary()
        else:
            await self._resume_auxiliary()

    async def _superseded(self) -> bool:
        """Another node is primary by now. Without an election nobody can have become that."""
        if not self.succession.candidate.enabled:
            return False
        discovery = self._discovery = Discovery(self.context)
        try:
            seen = await discovery.look(LOOK_SECONDS)
        finally:
            self._discovery = None
        return seen is not None and seen.beat.generation >= self.context.state.generation

    async def _resume_primary(self) -> None:
        context, state = self.context, self.context.state
        survey = await context.survey()
        virtual = context.virtual_macs()
        seat = Seat("primary", state.node_id, state.generation, state.epoch)
        settings = attachment.settings(context, seat, survey, virtual, survey.ha.mac)
        plane = await attachment.attach(context, settings, fresh=False)
        members = memory.recalled(context.config, state, self.facts(survey, virtual), context.clock())
        role = self.primary_role(plane, settings, members, survey)
        self.role = role
        role.start()
        role.go_on()
        await role.settled()
        await attachment.wear(context, survey, virtual)
        self.succession.prepare(role)
        _log.info("resumed", role="primary", id=state.node_id, generation=state.generation)

    async def _resume_auxiliary(self) -> None:
        context, state = self.context, self.context.state
        if state.primary is None:
            raise StateError(f"{context.file.path} does not say who the primary is", "remove it and join again")
        survey = await context.survey()
        virtual = tuple(map(mac_bytes, state.primary.virtual_macs))
        seat = Seat("auxiliary", state.node_id, state.generation, state.epoch, state.primary.id)
        settings = attachment.settings(context, seat, survey, virtual, mac_bytes(state.primary.ha_mac))
        plane = await attachment.attach(context, settings, fresh=False)
        role = self.auxiliary_role(plane, settings, state.primary, survey)
        role.ready = True
        self.role = role
        role.start()
        role.dataplane_runs()
        self.succession.prepare(role)
        _log.info("resumed", role="auxiliary", id=state.node_id, generation=state.generation)

    # Leaving.

    async def leave(self, request: api.LeaveRequest) -> AsyncGenerator[api.Leaving, None]:
        """Lines as sessions end; the last one is ``done``. ``StateError`` for a primary that is not alone."""
        role = self.role
        if role is None:
            if self.context.state.role == "none":
                raise StateError("this node is in no cluster", "`join` first")
            raise StateError(f"this node has not resumed yet: {self.trouble or 'starting'}", "try again")
        if self.changing.locked():
            raise StateError("a join or leave is under way", "wait for its end")
        async with self.changing:
            self.leaving = True
            try:
                if isinstance(role, Primary):
                    self._must_be_alone(role)
                    left = sum((await role.upkeep.count_sessions(0.0)).values())
                else:
                    left = 0
                    async with aclosing(role.drain(request.timeout, request.force, request.now)) as draining:
                        async for left in draining:
                            yield api.Leaving(sessions=left, done=False)
                    await role.say_goodbye()
                await self.succession.candidate.leave()
                detached = await self._detach(role)
            finally:
                self.leaving = False
        yield api.Leaving(sessions=left, done=True, detached=detached)

    def _must_be_alone(self, role: Primary) -> None:
        others = [node.facts.name for node in role.members.nodes.values() if node.id != role.members.self_id]
        if others:
            raise StateError(
                f"this node is the primary and {', '.join(sorted(others))} still in the cluster",
                "let the auxiliaries leave first, the primary last",
            )

    async def _detach(self, role: Primary | Auxiliary) -> tuple[str, ...]:
        """The names of the interfaces that are free now. When one cannot be freed, `leave` can be tried again."""
        survey = role.survey
        await role.stop()
        self.role = None
        try:
            await role.plane.call(role.plane.plane.stop)
        except AaError:
            self.role = role
            raise
        role.plane.close()
        await attachment.restore(self.context, survey)
        await self.context.remember(role="none", members=(), applied={}, primary=None, physical_macs={}, epoch=0)
        self.on_change()
        _log.info("left", id=self.context.state.node_id)
        return self.context.config.data.interfaces

    async def close(self) -> None:
        """The agent ends; the dataplane goes on."""
        await self.succession.close()
        if self.role is not None:
            await self.role.stop()
            self.role.plane.close()

    # Pieces.

    def primary_role(self, plane: PlaneThread, settings: Settings, members: Membership, survey: Survey) -> Primary:
        role = Primary(self.context, plane, settings, members, survey)

        async def order(ask: control.OrderAsk) -> AnyMessage:
            answer = await orders.obey(self, role, ask.path, ask.body)
            return control.OrderAnswer(ask.nonce, orders.fits(answer))

        role.on_order = order
        role.on_outranked = lambda beat, peer: self.succession.outranked(role, beat, peer)
        role.on_promotion = self.succession.obey
        role.lookout.on_own_links = lambda: self.succession.own_links.changed(role)
        return role

    def auxiliary_role(
        self, plane: PlaneThread, settings: Settings, primary: PrimaryState, survey: Survey
    ) -> Auxiliary:
        role = Auxiliary(self.context, plane, settings, primary, survey, self._rejoin)
        role.on_promotion = self.succession.obey
        role.sync.on_complete = self.succession.candidate.has_caught_up
        return role

    def facts(self, survey: Survey, macs: tuple[bytes, ...]) -> Facts:
        """About this node; ``macs``: where it is reached, by slot."""
        return Facts(self.context.name, survey.ha.mac, survey.ha_address, macs, self.context.host.kernel)

    async def _undo(self, plane: PlaneThread, survey: Survey | None) -> None:
        role, self.role = self.role, None
        if role is not None:
            await role.stop()
        await attachment.clear(plane)
        plane.close()
        try:
            if survey is not None:
                await attachment.restore(self.context, survey)
        except AaError as error:
            _log.error("the physical MACs cannot be restored", why=str(error))
