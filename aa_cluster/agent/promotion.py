# SPDX-License-Identifier: GPL-2.0-or-later
"""From auxiliary to primary and back: what is done, and in which order (docs/promotion.md).

A successor has the flow table already. It gets the conntrack entries of TCP sessions first; then the primary's programs
are on the hooks, with members and schedule, while UDP's entries are made and its new state is written; the virtual MACs
move last.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import numpy as np

from aa_cluster import log
from aa_cluster.agent import attachment, memory
from aa_cluster.agent.attachment import Seat
from aa_cluster.agent.context import Context, mac_text
from aa_cluster.agent.state import NodeState, PrimaryState
from aa_cluster.agent.threads import urgently
from aa_cluster.dataplane.flows import CLOSED, TCP, UDP
from aa_cluster.dataplane.maps import MAX_NODES
from aa_cluster.errors import AaError
from aa_cluster.wire import control

if TYPE_CHECKING:
    from aa_cluster.agent.auxiliary import Auxiliary
    from aa_cluster.agent.primary import Primary
    from aa_cluster.agent.survey import Survey
    from aa_cluster.agent.threads import PlaneThread
    from aa_cluster.core.membership import Membership
    from aa_cluster.dataplane.settings import Settings

    MakePrimary = Callable[[PlaneThread, Settings, Membership, Survey], Primary]

SEEN_LATE = 2.0
"""Seconds by which the time a flow was last seen may lag: the sweep moves it."""

_log = log.get("promotion")


class Stopwatch:
    """How long each step took, for the log."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = clock()
        self.steps: dict[str, int] = {}

    def lap(self, step: str) -> None:
        """The step ends now."""
        now = self._clock()
        self.steps[f"{step}_ms"] = round(1000 * (now - self._last))
        self._last = now


async def make_entries(context: Context, role: Auxiliary) -> int:
    """All ``Entries``, at once; gives how many were made. Done again, those of flows that have begun since."""
    entries = Entries(context, role)
    entries.begin()
    return await entries.vital() + await entries.reserved()


class Entries:
    """The conntrack entries of all flows that this node does not own, made in two parts while the role changes: it is
    to go on with them, or must not use their tuples. Not of those that have closed, which are most where sessions are
    short: their tuples are free for new ones.

    ``vital``: TCP's, before anything else. ``reserved``: UDP's, of which there are many, since nobody ends them; in the
    kernel, while members and hooks change. They are there before the virtual MACs are taken. Where conntrack may have
    no room for them all they are vital, too: what fails does so before a hook has changed.
    """

    def __init__(self, context: Context, role: Auxiliary) -> None:
        self._context, self._role = context, role
        self._tight = False
        self._parts: list[asyncio.Task[int]] = []

    def begin(self) -> None:
        vital = asyncio.create_task(self._make_vital())
        self._parts = [vital, asyncio.create_task(self._make_others(vital))]

    async def vital(self) -> int:
        """Gives how many were made."""
        return await self._parts[0]

    async def reserved(self) -> int:
        """Gives how many were made."""
        return await self._parts[1]

    async def over(self) -> None:
        """Whatever came of it: nothing is made any more."""
        await asyncio.gather(*self._parts, return_exceptions=True)

    async def _make_vital(self) -> int:
        rows, others = await _open_flows(self._role, TCP)
        made = await urgently(self._context.host.make_entries, rows)
        self._tight = others > await urgently(self._context.host.room_for_entries)
        return made + (await self._reserve() if self._tight else 0)

    async def _make_others(self, vital: asyncio.Task[int]) -> int:
        await vital
        return 0 if self._tight else await self._reserve()

    async def _reserve(self) -> int:
        done = await urgently(self._role.plane.plane.reserve, _others(self._role))
        if not done.refused:
            return done.made
        rows, _ = await _open_flows(self._role, UDP, done.which if len(done.which) == done.refused else None)
        return done.made + await urgently(self._context.host.make_entries, rows)


def _others(role: Auxiliary) -> frozenset[int]:
    return frozenset(range(1, MAX_NODES)) - {role.settings.node_id}


async def _open_flows(role: Auxiliary, protocol: int, only: Collection[int] | None = None) -> tuple[np.ndarray, int]:
    """Those of that protocol, ``only`` those record numbers; and how many others."""
    others = 0

    def chosen(records: np.ndarray, at: np.ndarray) -> np.ndarray:
        nonlocal others
        is_open = records["state"][at] < CLOSED
        out: np.ndarray = is_open & (records["original_protocol"][at] == protocol)
        if only is not None:
            out &= np.isin(at + 1, list(only))
        others += int(np.count_nonzero(is_open)) - int(np.count_nonzero(out))
        return out

    found = await role.plane.call(role.plane.plane.flows_of, _others(role), chosen)
    return found.rows, others


async def drop_entries(context: Context, role: Auxiliary, since: float) -> int:
    """They go again, also those of flows that have closed ``since`` (CLOCK_MONOTONIC, s) they were made: this node is
    not the primary, or no more, and they would outlive their sessions by days.

    Not those of flows that had closed before: they run out by themselves, and a new session of this node may be about
    to have that tuple.
    """
    rows: np.ndarray = await role.plane.call(role.plane.plane.flows)
    others = rows[rows["owner"] != role.settings.node_id]
    late = others["seen_ns"] >= np.uint64(max(0.0, since - SEEN_LATE) * 1e9)
    return await asyncio.to_thread(context.host.drop_entries, others[(others["state"] < CLOSED) | late])


async def arm(
    context: Context,
    role: Auxiliary,
    make: MakePrimary,
    own: memory.Facts,
    gone: frozenset[int],
    former: memory.Facts | None,
    watch: Stopwatch,
    entries: Entries | None = None,
) -> Primary:
    """The role is this node's, but for the virtual MACs. On an ``AaError`` it is an auxiliary as before.

    ``entries``: the rest of them is being made meanwhile; what fails there fails here. So does what cannot be written.

    No session begins between the first hook and the last: what `steer` lets in and `handoff` does not see has no flow.
    Nor before all entries are there; and no datagram of a node that is gone is let in, which could be a new session.
    ``gone``: nodes whose flows become this node's. ``former``: the primary that hands over, by its physical MACs. Some
    of its hooks are still the primary's, and would take the answers to a session that began here: none does, until
    ``set_heir(0)``. Nor is anybody asked for a pulse, until ``lookout.release``.
    """
    before, old = context.state, role.settings
    generation = max(before.generation, old.generation) + 1
    virtual = tuple(port.virtual_mac for port in old.ports)
    seat = Seat("primary", before.node_id, generation, role.epoch + 1)
    settings = attachment.settings(context, seat, role.survey, virtual, role.survey.ha.mac)
    members = memory.inherited(context.config, before, role, own, former, seat, gone, context.clock())
    saved = asyncio.create_task(
        context.remember(
            role="primary",
            generation=generation,
            epoch=seat.epoch,
            ids=dict(members.ids),
            physical_macs=role.survey.physical_by_name(),
            members=memory.members_state(members),
            applied={},
            primary=None,
        )
    )
    try:
        await role.plane.call(role.plane.plane.become_source)
        primary = make(role.plane, settings, members, role.survey)
        if former is not None:
            primary.lookout.hold()
        await primary.open_up()
        watch.lap("members")
        await role.plane.call(role.plane.plane.set_heir, settings.node_id)
        await role.plane.call(role.plane.plane.change_role, settings)
        watch.lap("hooks")
        if entries is not None:
            await entries.reserved()
            watch.lap("reserved")
        await saved
        watch.lap("state")
        if former is None:
            await role.plane.call(role.plane.plane.set_heir, 0)
        await role.stop()
        primary.start()
    except AaError:
        await asyncio.gather(saved, return_exceptions=True)
        await _step_back(context, role, before, old)
        raise
    return primary


async def _step_back(context: Context, role: Auxiliary, before: NodeState, old: Settings) -> None:
    _log.error("not promoted: this node is an auxiliary again")
    try:
        await role.plane.call(role.plane.plane.change_role, old)
        await role.plane.call(role.plane.plane.speak_again)
    except AaError as error:
        _log.error("the auxiliary's programs cannot be put back", why=str(error))
    await context.remember(
        role="auxiliary",
        generation=before.generation,
        epoch=before.epoch,
        ids=before.ids,
        physical_macs=before.physical_macs,
        members=before.members,
        applied=before.applied,
        primary=role.primary,
    )


async def take(context: Context, primary: Primary) -> None:
    """The virtual MACs, on all interfaces at a time."""
    virtual = tuple(port.virtual_mac for port in primary.settings.ports)
    await attachment.wear(context, primary.survey, virtual)


async def let_go(
    context: Context,
    role: Primary,
    successor: control.PrimaryBeat,
    address: str,
    heir: bool,
    resign: Callable[[], None],
    watch: Stopwatch,
) -> Settings:
    """A primary becomes an auxiliary of ``successor``, for the moment one without work; its settings from now on.

    First nothing more is said as the primary, then the virtual MACs go, then it speaks as an auxiliary. ``heir``: see
    ``Hooks.change``. ``resign``: called when the MACs are free.
    """
    old = role.settings
    virtual = tuple(port.virtual_mac for port in old.ports)
    seat = Seat("auxiliary", old.node_id, successor.generation, successor.epoch, successor.node_id)
    settings = attachment.settings(context, seat, role.survey, virtual, successor.ha_mac)
    await role.stop()
    watch.lap("stop")
    await role.plane.call(role.plane.plane.change_role, settings, heir)
    watch.lap("hooks")
    await attachment.restore(context, role.survey, announced=False)
    resign()
    watch.lap("macs")
    await role.plane.call(role.plane.plane.speak_again)
    watch.lap("speak")
    await context.remember(
        role="auxiliary",
        generation=successor.generation,
        epoch=successor.epoch,
        physical_macs={},
        members=(),
        applied={},
        primary=primary_state(successor, address, virtual),
    )
    watch.lap("state")
    return settings


def primary_state(beat: control.PrimaryBeat, address: str, virtual: tuple[bytes, ...]) -> PrimaryState:
    return PrimaryState(
        id=beat.node_id,
        name=beat.name,
        ha_mac=mac_text(beat.ha_mac),
        ha_address=address,
        virtual_macs=tuple(map(mac_text, virtual)),
    )


def followed(settings: Settings, beat: control.PrimaryBeat) -> Settings:
    """An auxiliary's settings under another primary."""
    return dataclasses.replace(
        settings,
        generation=beat.generation,
        epoch=beat.epoch,
        primary_id=beat.node_id,
        primary_ha_mac=beat.ha_mac,
    )


def outranks(beat: control.PrimaryBeat, generation: int, node_id: int) -> bool:
    """Two primaries: the later generation stays; of the same, the lower id."""
    return (beat.generation, -beat.node_id) > (generation, -node_id)
