# SPDX-License-Identifier: GPL-2.0-or-later
"""The primary's view of the nodes: who is there, who gets new sessions, and what must be done when that changes.

``step(state, event)`` gives the new state and the commands, in the order in which they must be carried out.
Times are seconds of any monotonic clock; the caller reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from aa_cluster.core import schedule
from aa_cluster.errors import StateError

MAX_NODE = 63
JOINING_PATIENCE = 5
"""Times ``silence`` that a joining node may be silent before it is forgotten: it has no work that could suffer."""
State = Literal["joining", "active", "draining", "silent", "dead"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a node said about itself. ``macs`` by slot."""

    name: str
    ha_mac: bytes
    ha_address: str
    macs: tuple[bytes, ...]
    kernel: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """``ready``: its dataplane is attached. ``heard``: when it was heard last, s.

    ``draining``: it leaves; ``drained``: the operator wants no new sessions on it. ``dead``: its sessions were taken
    over, so that it works only after it has joined again; ``fit``: it answers again and may do so. ``died``: when, s.
    """

    id: int
    facts: Facts
    weight: int
    heard: float
    ready: bool = False
    draining: bool = False
    silent: bool = False
    drained: bool = False
    dead: bool = False
    fit: bool = False
    died: float = 0.0

    @property
    def state(self) -> State:
        if self.dead:
            return "dead"
        if not self.ready:
            return "joining"
        if self.silent:
            return "silent"
        return "draining" if self.draining or self.drained else "active"


@dataclass(frozen=True, slots=True)
class Membership:
    """``ids`` never forgets a name; ``weights`` holds what the operator set, by name, ``drained`` whom they drained.

    ``silence``: s after which a node whose agent is not heard gets no new sessions; ``forget``: s after which one that
    stays dead is no member any more.
    """

    self_id: int
    generation: int
    epoch: int
    kind: schedule.Kind
    silence: float
    beat: float
    nodes: Mapping[int, Node]
    ids: Mapping[str, int]
    weights: Mapping[str, int]
    checked: float
    drained: frozenset[str] = frozenset()
    forget: float = 3600.0

    def by_name(self, name: str) -> Node | None:
        return next((node for node in self.nodes.values() if node.facts.name == name), None)

    def called(self, text: str) -> Node:
        """The node of this name or, when no node is called so, of this id; ``StateError`` when there is none."""
        node = self.by_name(text)
        if node is None and text.isdecimal():
            node = self.nodes.get(int(text))
        if node is None:
            names = ", ".join(sorted(one.facts.name for one in self.nodes.values()))
            raise StateError(f"no node is called {text!r}", f"the nodes are: {names}")
        return node

    def reachable(self) -> tuple[Node, ...]:
        """Nodes in the node map: also the silent and the draining, whose sessions go on, and the dead, whose sessions
        go on here."""
        return tuple(node for _, node in sorted(self.nodes.items()) if node.ready)

    def working(self) -> dict[int, int]:
        """id → weight of the nodes that get new sessions."""
        return {node.id: node.weight for node in self.reachable() if node.state == "active"}

    def withdrawn(self) -> frozenset[int]:
        """Ids of nodes that get no new session by any way, whatever their weight: draining, silent, dead."""
        return frozenset(node.id for node in self.reachable() if node.state != "active")

    def sequence(self) -> tuple[int, ...]:
        """The schedule; when no node has a weight above 0 the primary takes what comes."""
        return schedule.sequence(self.working(), self.kind) or (self.self_id,)

    def shares(self) -> dict[int, float]:
        """id → fraction of new sessions, for every node."""
        working = schedule.shares(self.working(), self.kind)
        if not any(working.values()):
            working = {self.self_id: 1.0}
        return {node: working.get(node, 0.0) for node in self.nodes}


@dataclass(frozen=True, slots=True)
class Join:
    """A node was found fit (see admission.py). ``weight`` from its configuration."""

    facts: Facts
    weight: int
    now: float


@dataclass(frozen=True, slots=True)
class Ready:
    node_id: int
    now: float


@dataclass(frozen=True, slots=True)
class Heard:
    """A heartbeat. One of another generation tells only that the node lives, not that it can work."""

    node_id: int
    generation: int
    ready: bool
    now: float


@dataclass(frozen=True, slots=True)
class Unfit:
    """It does not answer pulses on some link. ``why``: in words."""

    node_id: int
    why: str
    now: float


@dataclass(frozen=True, slots=True)
class Fit:
    """It answers on all links again."""

    node_id: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Once per heartbeat interval."""

    now: float


@dataclass(frozen=True, slots=True)
class Drain:
    node_id: int


@dataclass(frozen=True, slots=True)
class Leave:
    node_id: int


@dataclass(frozen=True, slots=True)
class SetWeight:
    name: str
    weight: int


@dataclass(frozen=True, slots=True)
class SetDrained:
    """The operator's ``drain`` and ``undrain``: stays with the name, also when the node leaves and comes back."""

    name: str
    drained: bool


@dataclass(frozen=True, slots=True)
class SetKind:
    kind: schedule.Kind


Event = Join | Ready | Heard | Unfit | Fit | Tick | Drain | Leave | SetWeight | SetDrained | SetKind


@dataclass(frozen=True, slots=True)
class Persist:
    """Write the state to disk before anything that relies on it."""


@dataclass(frozen=True, slots=True)
class SetEpoch:
    epoch: int


@dataclass(frozen=True, slots=True)
class SetMembers:
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class SetDraining:
    """These get no new session, whatever the schedule or persistence says."""

    ids: frozenset[int]


@dataclass(frozen=True, slots=True)
class TakeOver:
    """This node becomes the owner of that node's flows."""

    node_id: int


@dataclass(frozen=True, slots=True)
class SetSchedule:
    """``weights``: the nodes that may get new sessions, those with weight 0 by persistence only."""

    kind: schedule.Kind
    sequence: tuple[int, ...]
    weights: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Announce:
    """Send a heartbeat with the whole table now."""


@dataclass(frozen=True, slots=True)
class ProbeNode:
    """Ask a node that has been quiet for a while to speak up."""

    node_id: int


@dataclass(frozen=True, slots=True)
class Note:
    """For the log, and for those who watch. ``text``: more about it."""

    event: str
    node_id: int
    text: str = ""


Command = Persist | SetEpoch | SetMembers | SetDraining | TakeOver | SetSchedule | Announce | ProbeNode | Note
Step = tuple[Membership, tuple[Command, ...]]


def step(state: Membership, event: Event) -> Step:
    """``StateError`` when the event names a node that is not there, or no id is free."""
    match event:
        case Heard():
            return _heard(state, event)
        case Tick():
            return _tick(state, event.now)
        case Unfit():
            return _unfit(state, event)
        case Fit():
            return _fit(state, event.node_id)
        case Join():
            return _join(state, event)
        case Ready():
            node = _known(state, event.node_id)
            return _change(state, replace(node, ready=True, draining=False, silent=False, heard=event.now), "ready")
        case Drain():
            return _change(state, replace(_known(state, event.node_id), draining=True), "draining")
        case Leave():
            return _remove(state, event.node_id, "left")
        case SetWeight():
            return _weight(state, event)
        case SetDrained():
            return _drained(state, event)
        case SetKind():
            return _kind(state, event.kind)


def first(state: Membership) -> tuple[Command, ...]:
    """What a primary does once at its start (not when it resumes a running dataplane)."""
    return _spread(state)


def assign_id(ids: Mapping[str, int], name: str) -> int:
    """The id the name had, else the lowest that no name ever had."""
    known = ids.get(name)
    if known is not None:
        return known
    taken = set(ids.values())
    free = next((number for number in range(1, MAX_NODE + 1) if number not in taken), None)
    if free is None:
        raise StateError(
            f"all {MAX_NODE} node ids are taken by names seen so far",
            "give the node a name that was in the cluster before",
        )
    return free


def _known(state: Membership, node_id: int) -> Node:
    node = state.nodes.get(node_id)
    if node is None:
        raise StateError(f"node {node_id} is not in the cluster", "let it join first")
    return node


def _spread(state: Membership) -> tuple[Command, ...]:
    return (
        Persist(),
        SetEpoch(state.epoch),
        SetMembers(state.reachable()),
        SetDraining(state.withdrawn()),
        SetSchedule(state.kind, state.sequence(), state.working()),
        Announce(),
    )


def _change(state: Membership, node: Node, event: str) -> Step:
    """Put ``node`` in; when that moves the schedule or the members, a new epoch begins."""
    changed = replace(state, nodes={**state.nodes, node.id: node})
    if changed.working() == state.working() and _routes(changed) == _routes(state):
        return changed, ()
    changed = replace(changed, epoch=state.epoch + 1)
    return changed, (Note(event, node.id), *_spread(changed))


def _routes(state: Membership) -> list[tuple[int, Facts, bool]]:
    return [(node.id, node.facts, node.dead) for node in state.reachable()]


def _join(state: Membership, event: Join) -> Step:
    name = event.facts.name
    node_id = assign_id(state.ids, name)
    weight = state.weights.get(name, event.weight)
    joining = Node(id=node_id, facts=event.facts, weight=weight, heard=event.now, drained=name in state.drained)
    granted = replace(state, ids={**state.ids, name: node_id})
    changed, commands = _change(granted, joining, "joining")
    return changed, commands or (Note("joining", node_id), Persist(), Announce())


def _heard(state: Membership, event: Heard) -> Step:
    node = state.nodes.get(event.node_id)
    if node is None or event.node_id == state.self_id:
        return state, ()
    works = event.generation == state.generation and event.ready
    if works and (node.silent or not node.ready) and not node.dead:
        heard = replace(node, heard=event.now, ready=True, silent=False)
        return _change(state, heard, "heard again" if node.ready else "ready")
    # Nearly every heartbeat ends here: nothing but the time is new.
    return replace(state, nodes={**state.nodes, node.id: replace(node, heard=event.now)}), ()


def _unfit(state: Membership, event: Unfit) -> Step:
    """First nothing new for it, then what it has; then its members and the schedule without it."""
    node = state.nodes.get(event.node_id)
    if node is None or node.id == state.self_id or not node.ready:
        return state, ()
    if node.dead:
        changed = replace(state, nodes={**state.nodes, node.id: replace(node, fit=False)})
        return changed, (Announce(),) if node.fit else ()
    gone = replace(node, dead=True, fit=False, silent=False, died=event.now)
    changed = replace(state, nodes={**state.nodes, node.id: gone}, epoch=state.epoch + 1)
    return changed, (
        SetDraining(changed.withdrawn()),
        TakeOver(node.id),
        Note("dead", node.id, event.why),
        *_spread(changed),
    )


def _fit(state: Membership, node_id: int) -> Step:
    """Nothing of what it had is left here, and what it knows is old: it is told to join again."""
    node = state.nodes.get(node_id)
    if node is None or not node.dead or node.fit:
        return state, ()
    changed = replace(state, nodes={**state.nodes, node_id: replace(node, fit=True)})
    return changed, (Note("returns", node_id), Announce())


def _tick(state: Membership, now: float) -> Step:
    """Silence is judged by this node's own wakefulness: time in which the primary itself did not run is not counted."""
    asleep = max(0.0, now - state.checked - 2 * state.beat)
    state = replace(state, checked=now, nodes=_forgive(state, asleep, now) if asleep else state.nodes)
    commands: tuple[Command, ...] = ()
    for node in tuple(state.nodes.values()):
        if node.dead and now - node.died > state.forget:
            state, more = _remove(state, node.id, "forgotten")
            commands += more
        if node.id == state.self_id or node.silent or node.dead:
            continue
        quiet = now - node.heard
        if quiet > (state.silence if node.ready else JOINING_PATIENCE * state.silence):
            state, more = _fall_silent(state, node)
            commands += more
        elif quiet > state.silence / 2:
            commands += (ProbeNode(node.id),)
    return state, commands


def _forgive(state: Membership, asleep: float, now: float) -> dict[int, Node]:
    return {key: replace(node, heard=min(now, node.heard + asleep)) for key, node in state.nodes.items()}


def _fall_silent(state: Membership, node: Node) -> Step:
    if not node.ready:
        return _remove(state, node.id, "gone while joining")
    return _change(state, replace(node, silent=True), "silent")


def _remove(state: Membership, node_id: int, event: str) -> Step:
    if node_id == state.self_id:
        raise StateError("the primary cannot be taken out of its own cluster", "let it `leave`")
    node = state.nodes.get(node_id)
    if node is None:
        return state, ()
    nodes = {key: value for key, value in state.nodes.items() if key != node_id}
    removed = replace(state, nodes=nodes, epoch=state.epoch + 1)
    return removed, (Note(event, node_id), *_spread(removed))


def _weight(state: Membership, event: SetWeight) -> Step:
    node = state.called(event.name)
    weighted = replace(state, weights={**state.weights, node.facts.name: event.weight})
    changed, commands = _change(weighted, replace(node, weight=event.weight), "weight")
    return changed, commands or (Persist(), Announce())


def _drained(state: Membership, event: SetDrained) -> Step:
    """A node that has left can be undrained too, so that it comes back with work."""
    if not event.drained and event.name in state.drained and state.by_name(event.name) is None:
        return replace(state, drained=state.drained - {event.name}), (Persist(),)
    node = state.called(event.name)
    name = frozenset((node.facts.name,))
    kept = replace(state, drained=state.drained | name if event.drained else state.drained - name)
    if node.drained == event.drained:
        return kept, ()
    word = "drained" if event.drained else "undrained"
    changed, commands = _change(kept, replace(node, drained=event.drained), word)
    return changed, commands or (Note(word, node.id), Persist(), Announce())


def _kind(state: Membership, kind: schedule.Kind) -> Step:
    if kind == state.kind:
        return state, ()
    changed = replace(state, kind=kind, epoch=state.epoch + 1)
    return changed, (Note("schedule", state.self_id), *_spread(changed))
