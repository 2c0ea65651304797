# SPDX-License-Identifier: GPL-2.0-or-later
"""The primary's side: heartbeats with the table of nodes, admission, drains, the schedule, ageing of flows."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aa_cluster import api, log
from aa_cluster.agent import promotion
from aa_cluster.agent.context import Context
from aa_cluster.agent.event_relay import EventRelay, event_of
from aa_cluster.agent.flow_watch import FlowWatch
from aa_cluster.agent.lookout import Lookout
from aa_cluster.agent.memory import members_state
from aa_cluster.agent.neighbourhood import Neighbourhood
from aa_cluster.agent.requests import Requests
from aa_cluster.agent.sync_source import SyncSource
from aa_cluster.agent.takeover import Taken, TakeOver
from aa_cluster.agent.tasks import TaskSet, last_moment
from aa_cluster.agent.threads import PlaneThread
from aa_cluster.agent.upkeep import Upkeep
from aa_cluster.core import membership, policy, schedule
from aa_cluster.core.membership import Command, Event, Membership
from aa_cluster.core.policy import Policy
from aa_cluster.errors import AaError, DataplaneError, NetlinkError, StateError
from aa_cluster.wire import control
from aa_cluster.wire.control import AnyMessage, NodeEntry

if TYPE_CHECKING:
    from aa_cluster.agent.link import Peer
    from aa_cluster.agent.survey import Survey
    from aa_cluster.dataplane.settings import Settings

TABLE_SECONDS = 1.0
FORGET_SECONDS = 3.0

_NEWS: dict[str, tuple[api.EventKind, str]] = {
    "ready": ("join", "{name} has joined"),
    "left": ("leave", "{name} has left"),
    "draining": ("drain", "{name} leaves: it gets no new sessions"),
    "drained": ("drain", "{name} gets no new sessions, by order"),
    "undrained": ("undrain", "{name} gets new sessions again, by order"),
    "silent": ("silent", "{name} has fallen silent: it gets no new sessions"),
    "heard again": ("heard", "{name} is heard again"),
    "dead": ("dead", "{name} is dead, {text}: this node has taken its sessions over"),
    "returns": ("returns", "{name} answers on all links again: it is told to join again"),
    "forgotten": ("forgotten", "{name} has been dead for so long that it is forgotten"),
    "weight": ("weight", "{name} has weight {weight}"),
    "schedule": ("schedule", "new sessions are given out by {kind}"),
}
"""What of the membership's notes is an event, and its words."""

_log = log.get("primary")


@dataclass(frozen=True, slots=True)
class SetPolicy:
    """A command beside those of the membership."""

    policy: Policy


class Primary:
    """Runs on the event loop; the dataplane is called in its own thread, commands are carried out in order."""

    def __init__(
        self, context: Context, plane: PlaneThread, settings: Settings, members: Membership, survey: Survey
    ) -> None:
        self.context = context
        self.plane = plane
        self.members = members
        self.survey = survey
        self.settings = settings
        self.ruleset = ""
        self.policy = policy.parse(context.config.policy, context.config.data.interfaces)
        self.upkeep = Upkeep(context, plane, settings.ports)
        self.sync = SyncSource(context, plane, lambda: self.members)
        self.upkeep.on_journal = self.sync.ring
        self.sync.on_quiet = self._send_beat
        self.on_order: Callable[[control.OrderAsk], Awaitable[AnyMessage]] | None = None
        self.on_outranked: Callable[[control.PrimaryBeat, Peer], None] = lambda beat, peer: None
        self.on_promotion: Callable[[control.Request], Awaitable[AnyMessage]] | None = None
        self.silent = False
        """It is cut off from all its networks."""
        self.muted = False
        """Its dataplane says nothing, until it has asked whether it is still the primary."""
        self.heir = 0
        """The node that this one hands its role over to."""
        self.rival: tuple[str, float] | None = None
        self.outranked = asyncio.Event()
        """A primary of a later generation was heard."""
        self.troubles: dict[str, str] = {}
        self._tasks = TaskSet()
        self._commands: asyncio.Queue[Command | SetPolicy | Callable[[], None]] = asyncio.Queue()
        self._requests = Requests(self, self._tasks)
        self._table_due = 0.0
        self._neighbourhood = Neighbourhood(context, settings.ports, self._auxiliary_addresses)
        self._flow_watch = FlowWatch(context, plane, self.names)
        self.moving = asyncio.Lock()
        """Held while flows move to another node, and by what must not come in between."""
        self._relay = EventRelay(members.self_id, context.link.send)
        self.lookout = Lookout(context, plane, settings, self.feed, self._neighbourhood.hosts)
        self.takeover = TakeOver(plane, members.self_id, self._auxiliaries)

    def start(self) -> None:
        self.context.link.is_primary = True
        self.context.events.relay = self._relay.put
        self.context.events.on_readers = self._flow_watch.follow_readers
        self._flow_watch.follow_readers()
        self._neighbourhood.start()
        self._tasks.start(self._carry_out(), "commands")
        self._tasks.start(self._beat(), "heartbeat")
        self._tasks.start(self.read_ruleset(), "ruleset")
        self.upkeep.start()
        self.sync.start()
        self.lookout.start()
        self.takeover.start()

    async def stop(self) -> None:
        """End the tasks; the dataplane stays as it is."""
        self.context.link.is_primary = False
        self.context.events.relay = lambda event: None
        self.context.events.on_readers = lambda: None
        self._relay.close()
        await self._flow_watch.stop()
        await self._neighbourhood.stop()
        await self.lookout.stop()
        await self.upkeep.stop()
        await self.takeover.stop()
        await self.sync.stop()
        await self._tasks.cancel()

    def feed(self, event: Event) -> None:
        """One event into the membership; its commands are queued. ``StateError`` as ``membership.step``.

        While this node hands its role over its pulses are of a generation that is past: no answer means nothing.
        """
        if self.heir and isinstance(event, membership.Unfit):
            return
        self.members, commands = membership.step(self.members, event)
        for command in commands:
            self._commands.put_nowait(command)

    def begin(self) -> None:
        """Give a new dataplane its policy, its members and its schedule."""
        self._commands.put_nowait(SetPolicy(self.policy))
        for command in membership.first(self.members):
            self._commands.put_nowait(command)

    async def open_up(self) -> None:
        """What packets need, at once, in a new dataplane; ``begin`` follows when there is time for it."""
        self.lookout.watch(self.members.reachable(), proven=True)
        await self._set_members(self.members.reachable())
        await self.set_policy(self.policy)
        await self.plane.call(self.plane.plane.set_draining, self.members.withdrawn())
        kind, working = self.members.kind, self.members.working()
        await self.plane.call(self.plane.plane.set_schedule, kind, self.members.sequence(), working)

    def go_on(self) -> None:
        """Pick up a running dataplane: members again, in case the last agent died between disk and map; the schedule
        only if it is not the one in force, so that it goes on where it was."""
        self._commands.put_nowait(SetPolicy(self.policy))
        self._commands.put_nowait(membership.SetMembers(self.members.reachable()))
        self._commands.put_nowait(membership.SetDraining(self.members.withdrawn()))
        state = self.context.state
        if (state.applied, state.applied_kind) != (self.members.working(), self.members.kind):
            self._commands.put_nowait(
                membership.SetSchedule(self.members.kind, self.members.sequence(), self.members.working())
            )

    def must_be_well(self) -> None:
        """``DataplaneError`` when a command has failed and nothing has made it good since."""
        if self.troubles:
            raise DataplaneError("; ".join(self.troubles.values()), "see the agent's log")

    async def settled(self) -> None:
        """Until everything queued so far has reached the dataplane."""
        done = asyncio.Event()
        self._commands.put_nowait(done.set)
        await done.wait()

    def table(self) -> tuple[NodeEntry, ...]:
        """The nodes as the heartbeat carries them."""
        now = self.context.clock()
        return tuple(self._entry(node, now) for _, node in sorted(self.members.nodes.items()))

    def on_message(self, message: AnyMessage, peer: Peer) -> None:
        if isinstance(message, control.AuxiliaryBeat):
            now = self.context.clock()
            if self._is(message.node_id, message.name):
                self.feed(membership.Heard(message.node_id, message.generation, message.ready, now))
        elif isinstance(message, control.Probe):
            self._send_beat(peer.address)
        elif isinstance(message, control.PrimaryBeat):
            self._meet_rival(message, peer)
        elif isinstance(message, control.EventNote):
            self._pass_events_on(message)
        elif isinstance(message, control.Request):
            self._requests.take(message, peer)
        else:
            self.sync.on_message(message, peer)

    async def set_weight(self, name: str, weight: int) -> None:
        self.feed(membership.SetWeight(name, weight))
        await self.settled()

    async def set_kind(self, kind: schedule.Kind) -> None:
        """The operator's choice, kept until the next one."""
        await self.context.remember(schedule=kind)
        self.feed(membership.SetKind(kind))
        await self.settled()

    async def set_policy(self, wanted: Policy) -> None:
        """In force from the next session on; ``DataplaneError`` when the dataplane does not take it."""
        await self.plane.call(
            self.plane.plane.set_policy, wanted.rules, wanted.default, wanted.keep_mark, wanted.built_in
        )
        self.policy = wanted

    def carry_out_again(self, command: Command) -> None:
        """A command that something else has undone."""
        self._commands.put_nowait(command)

    def names(self) -> dict[int, str]:
        """Node id → name, of all that were ever in the cluster."""
        return {number: name for name, number in self.members.ids.items()}

    async def take_flows_of(self, node_id: int, stays: bool = False) -> Taken:
        """All flows of that node go on here. One that ``stays`` in the cluster keeps the sessions it began itself, and
        is told to let go of the entries of the others. It gets no new sessions already, or this is a ``StateError``."""
        node = self.members.nodes.get(node_id)
        if node_id == self.members.self_id:
            raise StateError("the primary cannot take over its own flows", "name an auxiliary")
        if node is None or not node.ready:
            raise StateError(f"node {node_id} has no sessions: it has not joined", "see `aa-cluster nodes`")
        if node.state == "active":
            raise StateError(f"{node.facts.name} still gets new sessions", "`drain` it first")
        lives = not node.silent and not node.dead
        taken = await self.takeover.take_over(node_id, lives=lives, keep_own=lives and stays)
        if stays and lives:
            await self._let_forget(node)
        await self.upkeep.count_sessions(0.0)
        return taken

    async def _let_forget(self, node: membership.Node) -> None:
        try:
            await self.context.link.ask(
                control.ForgetAsk(secrets.token_bytes(8)), node.facts.ha_address, FORGET_SECONDS
            )
        except AaError as error:
            _log.warning("a node keeps entries of sessions that it has no more", node=node.id, why=error.message)

    def _auxiliaries(self) -> list[int]:
        return [number for number in self.members.nodes if number != self.members.self_id]

    def _auxiliary_addresses(self) -> list[str]:
        """On the HA link, of the nodes that have or may get work."""
        others = (node for node in self.members.nodes.values() if node.id != self.members.self_id)
        return [node.facts.ha_address for node in others if not node.silent and not node.dead]

    def _pass_events_on(self, note: control.EventNote) -> None:
        for entry in note.events:
            event = event_of(entry)
            if event is not None and entry.origin in self.members.nodes:
                self.context.events.pass_on(event)
                self._relay.forward(entry)

    def _is(self, node_id: int, name: str) -> bool:
        node = self.members.nodes.get(node_id)
        return node is not None and node.facts.name == name

    def _entry(self, node: membership.Node, now: float) -> NodeEntry:
        own = node.id == self.members.self_id
        return NodeEntry(
            id=node.id,
            name=node.facts.name,
            role="primary" if own else "auxiliary",
            state=node.state,
            weight=node.weight,
            sessions=self.upkeep.sessions.get(node.id, 0),
            silent_ms=0 if own else max(0, min(0xFFFF_FFFF, int((now - node.heard) * 1000))),
            ha_mac=node.facts.ha_mac,
            ha_address=node.facts.ha_address,
            macs=node.facts.macs,
            kernel=node.facts.kernel,
            drained=node.drained,
            rejoin=node.dead and node.fit,
        )

    async def read_ruleset(self) -> None:
        """Anew, since somebody compares it with his own."""
        try:
            self.ruleset = await self.context.ruleset()
        except NetlinkError as error:
            self.troubles["ruleset"] = f"the ruleset cannot be read: {error.message}"
            raise
        self.troubles.pop("ruleset", None)

    def _meet_rival(self, beat: control.PrimaryBeat, peer: Peer) -> None:
        if beat.node_id == self.heir or beat.generation < self.members.generation:
            return  # it is about to stand down, as this node is
        if self.rival is None:
            _log.error("another primary is on the HA link", node=beat.name, address=peer.address)
        self.rival = (f"{beat.name} at {peer.address}", self.context.clock())
        if promotion.outranks(beat, self.members.generation, self.members.self_id):
            self.outranked.set()
            self.on_outranked(beat, peer)

    # Heartbeats.

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        due = last_moment(loop.time())
        while True:
            self.feed(membership.Tick(self.context.clock()))
            self._send_beat()
            self.sync.beat()
            due += self.context.beat
            if due < loop.time():
                due = last_moment(loop.time())
            await asyncio.sleep(due - loop.time())

    def _send_beat(self, address: str | None = None, whole: bool = False) -> None:
        now = self.context.clock()
        whole = whole or address is not None or now >= self._table_due
        if whole and address is None:
            self._table_due = now + TABLE_SECONDS
        beat = control.PrimaryBeat(
            node_id=self.members.self_id,
            name=self.context.name,
            generation=self.members.generation,
            epoch=self.members.epoch,
            schedule=self.members.kind,
            ruleset=self.ruleset,
            ha_mac=self.survey.ha.mac,
            nodes=self.table() if whole else (),
            journal=self.sync.head(),
        )
        self.context.link.send(beat, address)

    # Commands.

    async def _carry_out(self) -> None:
        while True:
            command = await self._commands.get()
            if callable(command):
                command()
                continue
            kind = type(command).__name__
            try:
                await self._do(command)
                self.troubles.pop(kind, None)
            except AaError as error:
                self.troubles[kind] = error.message
                _log.error("command failed", command=kind, why=str(error))

    async def _do(self, command: Command | SetPolicy) -> None:
        match command:
            case membership.Persist():
                await self._persist()
            case membership.SetEpoch():
                self.settings = dataclasses.replace(self.settings, epoch=command.epoch)
                await self.plane.call(self.plane.plane.update, self.settings)
            case membership.SetMembers():
                await self._set_members(command.nodes)
            case membership.TakeOver():
                await self.takeover.take_over(command.node_id)
            case SetPolicy():
                await self.set_policy(command.policy)
            case membership.SetDraining():
                await self.plane.call(self.plane.plane.set_draining, command.ids)
            case membership.SetSchedule():
                kind, sequence, weights = command.kind, command.sequence, command.weights
                await self.plane.call(self.plane.plane.set_schedule, kind, sequence, weights)
                await self.context.remember(applied=self.members.working(), applied_kind=self.members.kind)
            case membership.Announce():
                self._send_beat(whole=True)
            case membership.ProbeNode():
                self._probe(command.node_id)
            case membership.Note():
                self._note(command)

    async def _set_members(self, nodes: tuple[membership.Node, ...]) -> None:
        from aa_cluster.dataplane.settings import Member

        members = [Member(node.id, node.facts.ha_mac, node.facts.macs, node.dead) for node in nodes]
        await self.plane.call(self.plane.plane.set_members, members)
        self.lookout.watch(nodes)

    async def _persist(self) -> None:
        await self.context.remember(
            epoch=self.members.epoch,
            ids=dict(self.members.ids),
            weights=dict(self.members.weights),
            drained=tuple(sorted(self.members.drained)),
            members=members_state(self.members),
        )

    def _probe(self, node_id: int) -> None:
        node = self.members.nodes.get(node_id)
        if node is not None:
            self.context.link.send(control.Probe(self.context.name, False), node.facts.ha_address)

    def _note(self, note: membership.Note) -> None:
        node = self.members.nodes.get(note.node_id)
        name = node.facts.name if node else next((k for k, v in self.members.ids.items() if v == note.node_id), "?")
        write = _log.warning if note.event in ("silent", "dead", "gone while joining") else _log.info
        write("node", name=name, id=note.node_id, change=note.event, why=note.text, epoch=self.members.epoch)
        said = _NEWS.get(note.event)
        if said is not None:
            weight = "" if node is None else node.weight
            values = {"name": name, "weight": weight, "kind": self.members.kind, "text": note.text}
            self.context.events.say(said[0], said[1].format(**values), node=name, epoch=self.members.epoch)
