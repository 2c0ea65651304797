# SPDX-License-Identifier: GPL-2.0-or-later
"""The dataplane of one node, as the agent sees it: start, feed, read, stop."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aa_cluster.core import persistence
from aa_cluster.core.policy import NO_MARK, Action, Mark, Policy, Rule
from aa_cluster.dataplane import (
    accounts,
    configuration,
    decisions,
    flows,
    kfuncs,
    programs,
    pulses,
    reasons,
    roles,
    small,
)
from aa_cluster.dataplane import object as objects
from aa_cluster.dataplane.attach import Point, XdpMode
from aa_cluster.dataplane.bpffs import mount_bpffs
from aa_cluster.dataplane.decisions import Binding, PolicyHits
from aa_cluster.dataplane.events import Event, Ring, address_text
from aa_cluster.dataplane.flows import Choice, Owned
from aa_cluster.dataplane.hooks import Hooks
from aa_cluster.dataplane.maps import EVENT_BYTES, MAX_NODES, PUNT_BYTES, Map, open_all
from aa_cluster.dataplane.pulses import Pulse
from aa_cluster.dataplane.punts import Courier, Punt, PuntRing
from aa_cluster.dataplane.reassigner import Reassigner
from aa_cluster.dataplane.replication import Mirror, Sender, digests
from aa_cluster.dataplane.reserver import Reserved, Reserver
from aa_cluster.dataplane.settings import MAX_PORTS, Member, Settings
from aa_cluster.dataplane.sweeper import Sweeper
from aa_cluster.errors import DataplaneError

FLOOD_REST = 2.0
"""Seconds in which a sweep sees what has just become old."""

QUESTION_OPEN_S = 3.0
ANSWERED = 0
"""As in bpf/include/arp.h."""
"""As AA_QUESTION_OPEN_NS in bpf/include/arp.h."""

HOP_NONE, HOP_LOCAL, HOP_STEER = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Question:
    """An open ARP or NDP question (docs/arp-relay.md). ``asked_by``: node ids, empty on an auxiliary. ``age`` in s."""

    slot: int
    target: str
    asked_by: tuple[int, ...]
    age: float


class Dataplane:
    """Programs and maps of one node. Blocking calls: run ``start``/``stop``/``sweep`` off the event loop.

    A second object with the same ``Settings.pins`` finds what the first left (the agent restarted): programs keep
    running meanwhile, counters, flows and the scheduling cursor continue. All failures are ``DataplaneError``.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sets = roles.ProgramSets(settings.pins)
        self._hooks = Hooks(settings, self._sets)
        self._objects: dict[roles.Role, dict[str, objects.Object]] = {}
        self._maps: dict[str, Map] = {}
        self._ring: Ring | None = None
        self._sweeper: Sweeper | None = None
        self._flooded_until = 0.0
        self._reassigner: Reassigner | None = None
        self._reserver: Reserver | None = None
        self._punts: PuntRing | None = None
        self._courier: Courier | None = None
        self._pulse: int | None = None
        self._sender: Sender | None = None
        self._mirror: Mirror | None = None
        self._heir = 0

    @staticmethod
    def pinned(pins: Path) -> bool:
        """True when a dataplane is pinned there (so a restart picks it up rather than starts anew)."""
        return (pins / "maps" / "config").exists()

    def start(self) -> None:
        """Compile (in a child process, cached), create or open the pinned maps, load, attach; idempotent.

        Programs of another version that are attached are replaced hook by hook, each in one step, on the same maps.
        """
        mount_bpffs()
        compiled = self._compiled()
        self._ring = Ring(self._maps["events"].fd, EVENT_BYTES)
        self._punts = PuntRing(self._maps["punts"].fd, PUNT_BYTES)
        self._mirror = Mirror(self._maps)
        configuration.write(self._maps, self._settings)
        self._activate(compiled, None)
        self._sets.remove_older(self._settings.role, compiled, self._maps)

    def prepare_standby(self) -> None:
        """Compile, load and pin the programs of the other role, so that ``change_role`` has only to attach them."""
        other = roles.OTHER[self._settings.role]
        compiled = self._compiled(other)
        self._sets.load_ahead(other, compiled, self._maps)
        self._sets.remove_older(other, compiled, self._maps)

    def change_role(self, settings: Settings, heir: bool = False) -> None:
        """Be in the other role, with the same maps; ``heir`` and the order of things: see ``Hooks.change``. No session
        begins before the last hook has changed, if none did before; at a new primary not before ``set_heir`` says so.
        """
        before = self._settings
        compiled = self._compiled(settings.role)
        self._sets.load_ahead(settings.role, compiled, self._maps)
        self.update(settings)
        self._activate(compiled, before, heir)
        if settings.role == "auxiliary":
            self.set_heir(0)
        self._sets.remove_older(settings.role, compiled, self._maps)

    def be_silent(self) -> None:
        """Primary: from now on nothing leaves the data interfaces, until ``speak_again``, in whichever role."""
        self._hooks.be_silent()

    def speak_again(self) -> None:
        """As before ``be_silent``, or before the end of a role without heir; nothing when it was not silent."""
        self._hooks.speak_again()

    def forget_heir(self) -> None:
        """A former primary: nothing comes to the virtual MACs any more."""
        self._hooks.forget_heir()

    def become_source(self) -> int:
        """What this node has of the flow table is the cluster's from now on: see ``Mirror.become_source``."""
        return self.mirror.become_source()

    def clear_flows(self) -> None:
        """A former primary: what it knew is void."""
        self.mirror.clear()

    def sent_up_to(self) -> int:
        """Primary: sends what pends of the journal; gives how far it goes."""
        while self.sender.flush():
            pass
        return self.sender.head()

    def mirrors_up_to(self, head: int) -> bool:
        """Auxiliary: all before that position has come."""
        self.mirror.note_head(head)
        return not self.mirror.missing(1)

    def primary_heard(self) -> float:
        """Auxiliary: s since a pulse of the primary came on any link; infinite before the first."""
        rows = self.pulse_rows([self._settings.primary_id]).values()
        latest = max((row.heard_ns for row in rows), default=0)
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        return (now - latest) / 1e9 if latest else float("inf")

    def forget_journal(self) -> None:
        """Another primary's journal begins; what this node has of the flow table stays."""
        self.mirror.forget()

    def set_heir(self, node_id: int) -> None:
        """Primary: no session begins here from now on, since that node (itself, where it is the one) is about to take
        over; 0: they do again."""
        self._heir = node_id
        self._maps["config"].view()["heir"][0] = node_id

    def _compiled(self, role: roles.Role | None = None) -> dict[str, objects.Object]:
        """The programs of a role, this node's without; the maps they use are open afterwards."""
        settings = self._settings
        role = role or settings.role
        compiled = self._objects.get(role)
        if compiled is None:
            compiled = self._objects[role] = roles.compiled(role, self._defines(), settings.cache)
        directory = settings.pins / "maps"
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        declarations = {name: item for entry in compiled.values() for name, item in entry.maps.items()}
        self._maps |= open_all(
            {name: item for name, item in declarations.items() if name not in self._maps},
            directory,
            settings.flow_entries,
            bindings=settings.bindings,
            accounting=settings.accounting,
        )
        return compiled

    def _defines(self) -> dict[str, int]:
        return kfuncs.offsets()

    def _activate(self, compiled: Mapping[str, objects.Object], before: Settings | None, heir: bool = False) -> None:
        """New programs are pinned aside and renamed into place before they take over the hooks: those of another role,
        or of an earlier start."""
        fds = self._sets.load(self._settings.role, compiled, self._maps)
        try:
            if before is None:
                self._hooks.take(fds)
            else:
                self._hooks.change(fds, before, heir)
            if "sweep" in fds and self._sweeper is None:
                self._sweeper = Sweeper(os.dup(fds["sweep"]), self._maps["swept"], self._maps["watermark"])
            if "pulse" in fds and self._pulse is None:
                self._pulse = os.dup(fds["pulse"])
            if "flush" in fds and self._sender is None:
                self._sender = Sender(os.dup(fds["flush"]), os.dup(fds["rejournal"]), self._maps)
            if "reassign" in fds and self._reassigner is None:
                self._reassigner = Reassigner(os.dup(fds["reassign"]), self._maps["moving"], self._maps["watermark"])
            if "reserve" in fds and self._reserver is None:
                self._reserver = Reserver(os.dup(fds["reserve"]), self._maps["reserving"], self._maps["watermark"])
            if "deliver" in fds and self._courier is None:
                self._courier = Courier(os.dup(fds["deliver"]))
        finally:
            for fd in fds.values():
                os.close(fd)

    def stop(self) -> None:
        """Detach programs, remove filters and the qdiscs we made, unpin. Idempotent."""
        self._hooks.leave()
        self.close()
        programs.remove(self._settings.pins)

    def close(self) -> None:
        """Lets go of maps and ring; what is attached stays."""
        parts = (
            self._ring,
            self._punts,
            self._sweeper,
            self._reassigner,
            self._reserver,
            self._courier,
            self._sender,
        )
        for part in parts:
            if part is not None:
                part.close()
        if self._pulse is not None:
            os.close(self._pulse)
        self._ring = self._punts = self._sweeper = self._pulse = None
        self._reassigner = self._reserver = self._courier = self._sender = None
        self._mirror = None
        for entry in self._maps.values():
            entry.close()
        self._maps = {}

    def detached_hooks(self) -> list[Point]:
        """Hooks that lost their program (somebody else took it off); empty when all is well."""
        return self._hooks.lost()

    def update(self, settings: Settings) -> None:
        """Change generation, epoch, primary HA MAC or virtual MACs of a running dataplane, in one map write."""
        self._settings = self._hooks.settings = settings
        configuration.write(self._maps, settings, self._heir)

    def set_members(self, members: Sequence[Member]) -> None:
        """Primary: the nodes packets can be steered to (itself included). Ids absent from it are cleared."""
        by_id = {member.id: member for member in members}
        if any(not 0 < identifier < MAX_NODES for identifier in by_id):
            raise DataplaneError(f"node ids {sorted(by_id)}, expected 1 to {MAX_NODES - 1}")
        for identifier in range(1, MAX_NODES):
            self._maps["nodes"].put(identifier, self._node(by_id.get(identifier)))
        if self._sender is not None:
            self._sender.set_listeners(len(by_id.keys() - {self._settings.node_id}))

    def _node(self, member: Member | None) -> np.ndarray:
        record = self._maps["nodes"].record()
        if member is None:
            return record
        record["hop"] = HOP_LOCAL if member.local or member.id == self._settings.node_id else HOP_STEER
        record["ha_mac"] = list(member.ha_mac)
        flat = b"".join(member.macs).ljust(6 * MAX_PORTS, b"\0")
        record["macs"] = list(flat)
        return record

    def set_hop(self, node_id: int, local: bool) -> None:
        """Primary: the packets of this node's flows stay here, or go there; the one switch of a take-over.

        ``DataplaneError`` when it is not in the node map.
        """
        nodes = self._maps["nodes"].view()
        if not 0 < node_id < MAX_NODES or nodes["hop"][node_id] == HOP_NONE:
            raise DataplaneError(f"node {node_id} is not in the node map", "see whether it has joined")
        nodes["hop"][node_id] = HOP_LOCAL if local else HOP_STEER

    def reassign(self, source: int, target: int, keep_own: bool = False) -> int:
        """Primary: the flows of one node become another's; gives how many. What ``source`` began itself ends, or with
        ``keep_own`` stays."""
        if self._reassigner is None:
            raise DataplaneError("flows are to change hands before the dataplane was started as primary")
        return self._reassigner.move(source, target, keep_own)

    def reserve(self, owners: Collection[int]) -> Reserved:
        """Auxiliary: conntrack entries here for the open UDP flows of these nodes. Any thread, one at a time."""
        if self._reserver is None:
            raise DataplaneError("entries are to be made before the dataplane was started as auxiliary")
        return self._reserver.reserve(owners, flows.Timeouts.of_this_namespace())

    def set_schedule(self, kind: str, sequence: Sequence[int], weights: Mapping[int, int]) -> None:
        """Primary: who gets new sessions, swapped atomically. ``sequence`` is ``core.schedule.sequence`` of ``weights``
        and kind, never empty. ``weights``: the nodes that may get new sessions; by persistence also those of weight 0.
        """
        decisions.write_schedule(self._maps, kind, sequence, weights)

    def set_sequence(self, sequence: Sequence[int]) -> None:
        """``set_schedule`` for nodes in turn."""
        self.set_schedule("weighted", sequence, {})

    def set_draining(self, ids: Collection[int]) -> None:
        """Primary: these nodes get no new session, neither by schedule nor by persistence; at once, for all together.

        A schedule that still names one gives its turn to the next that can take it.
        """
        decisions.write_draining(self._maps, ids)

    def set_policy(
        self,
        rules: Sequence[Rule],
        default: Action = "share",
        keep_mark: Mark = NO_MARK,
        built_in: Sequence[Rule] = (),
    ) -> bool:
        """Primary: which sessions are shared, swapped atomically. False: it was in force already, counters go on."""
        slots = {port.name: port.slot for port in self._settings.ports}
        return decisions.write_policy(self._maps, Policy(tuple(rules), default, keep_mark, tuple(built_in)), slots)

    def rule_hits(self) -> list[int]:
        """New sessions by the rule that decided them, since the policy in force was set."""
        return list(self.policy_hits().rules)

    def policy_hits(self) -> PolicyHits:
        """The same with what the default and the keep mark decided."""
        return decisions.read_hits(self._maps)

    def live_sessions(self) -> dict[int, int]:
        """As ``sessions_by_owner``, out of the counters that the programs keep: one read, whatever the table's size."""
        return decisions.read_live(self._maps)

    def half_open(self) -> int:
        """Flows whose handshake is not complete, out of the programs' counters."""
        return decisions.read_half_open(self._maps)

    def persist_counts(self) -> tuple[int, int]:
        """(hits, misses) since the maps were made."""
        return decisions.read_persistence_counts(self._maps)

    def persist_entries(self) -> list[Binding]:
        """Clients whose node is still remembered, the last seen first; empty without persistence."""
        wanted = self._settings.persistence
        return [] if wanted is None else decisions.read_bindings(self._maps, wanted.idle_s)

    def persist_set(self, address: str, node: int) -> None:
        """The client gets that node, as if it had just begun a session there."""
        decisions.bind(self._maps, self._persistence(), address, node)

    def persist_delete(self, address: str) -> bool:
        """False: there was no such client."""
        return decisions.unbind(self._maps, self._persistence(), address)

    def persist_flush(self) -> int:
        """How many clients were forgotten."""
        return decisions.unbind_all(self._maps)

    def _persistence(self) -> persistence.Settings:
        if self._settings.persistence is None:
            raise DataplaneError(
                "persistence is not enabled on this node", "set [persistence] enabled = true on every node and restart"
            )
        return self._settings.persistence

    def counters(self) -> dict[str, int]:
        """Packets by reason name, summed over CPUs."""
        sums = self._maps["reasons"].per_cpu_sum()
        return {reason.name: int(sums[reason.number]) for reason in reasons.all_reasons()}

    def scheduled(self) -> int:
        """Sessions that have taken a turn since the maps were made."""
        value = self._maps["turns"].get(0)
        return 0 if value is None else int(value)

    def flows(self) -> np.ndarray:
        """One row per flow, structured dtype: see ``FLOW_ROW`` and ``ACCOUNTED_ROW`` in dataplane/flows.py."""
        counted = self._maps["accounts"] if self._settings.accounting else None
        return flows.rows(self._maps["records"], self._maps["watermark"], counted)

    def flows_of(self, owners: Collection[int], wanted: Choice | None = None) -> Owned:
        """The flows of these nodes, by record, as they are at this moment; only those ``wanted``."""
        return flows.owned(self._maps["records"], self._maps["watermark"], owners, wanted)

    def unchanged(self, found: Owned) -> Owned:
        """Those that are still in the table, as they were. Any thread: it only looks."""
        return flows.unchanged(self._maps["records"], found)

    def account_look(self) -> accounts.Look | None:
        """What all flows carried until now; None when accounting is off."""
        return accounts.look(*self._accounted()) if self._settings.accounting else None

    def carried_since(self, before: accounts.Look) -> dict[int, tuple[int, int]]:
        """(packets, octets) of the flows of each owner id since that look."""
        return accounts.since(before, *self._accounted())

    def _accounted(self) -> tuple[Map, Map, Map]:
        return self._maps["records"], self._maps["watermark"], self._maps["accounts"]

    def flow_count(self) -> int:
        """Flows in the table, whatever their state."""
        return flows.count(self._maps["records"], self._maps["watermark"])

    def sessions_by_owner(self) -> dict[int, int]:
        """Live (not closing or closed) flows per owner id."""
        return flows.sessions_by_owner(self._maps["records"], self._maps["watermark"])

    def live_by_kind(self) -> dict[tuple[int, int], int]:
        """Live flows per (protocol, family)."""
        return flows.live_by_kind(self._maps["records"], self._maps["watermark"])

    def begun_since(self, seconds: float) -> dict[int, int]:
        """Flows that began in the last so many seconds and are still in the table, per owner id."""
        since = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - int(seconds * 1e9)
        return flows.begun_since(self._maps["records"], self._maps["watermark"], since)

    def sweep(self) -> bool:
        """Primary: one look at every record; flows idle past the timeout of their state go.

        True while ageing must keep up with a flood: when half-open flows had used more than half of their share, and
        then for as long as such a flow lives.
        """
        if self._sweeper is None:
            raise DataplaneError("the sweep was asked for before the dataplane was started as primary")
        timeouts = self._sweeper.timeouts.read()
        configuration.write_timeouts(self._maps, timeouts)
        if self.half_open() > int(self._maps["config"].view()["half_open_limit"][0]) / 2:
            longest = max(timeouts[flows.SYN_SENT], timeouts[flows.SYN_RECV])
            self._flooded_until = time.monotonic() + longest + FLOOD_REST
        self._sweeper.round()
        return time.monotonic() < self._flooded_until

    def prober(self) -> pulses.Prober:
        """A new one, for a thread of its own; ``close`` it before this dataplane."""
        if self._pulse is None:
            raise DataplaneError("pulses were asked for before the dataplane was started")
        return pulses.Prober(os.dup(self._pulse), self._maps["pulses"])

    def ask_primary(self) -> pulses.Question:
        """Auxiliary: a pulse to the primary on each link; ``close`` the question before this dataplane."""
        return pulses.Question(self.prober(), self._maps["pulses"], self._settings.primary_id)

    def pulse_rows(self, node_ids: Iterable[int]) -> dict[tuple[int, int], Pulse]:
        """What is known of each link to these nodes, by (node id, link); links are slots and ``pulses.HA_LINK``."""
        links = [*(port.slot for port in self._settings.ports), pulses.HA_LINK]
        return {(one, link): pulses.read(self._maps["pulses"], one, link) for one in node_ids for link in links}

    @property
    def sender(self) -> Sender:
        """Primary: its end of replication; ``DataplaneError`` before it was started as such."""
        if self._sender is None:
            raise DataplaneError("replication was asked for before the dataplane was started as primary")
        return self._sender

    @property
    def mirror(self) -> Mirror:
        """Auxiliary: what it has of the primary's flow table; ``DataplaneError`` before it was started."""
        if self._mirror is None:
            raise DataplaneError("the mirror was asked for before the dataplane was started")
        return self._mirror

    def digests(self) -> np.ndarray:
        """Of the flow table by blocks of records: see ``replication.digests``."""
        return digests(self._maps["records"], self._maps["watermark"])

    def small_since(self, since_ns: int) -> small.Small:
        """Bindings set after that time, and all expectations; those that are good."""
        wanted = self._settings.persistence
        return small.since(self._maps, since_ns, 0 if wanted is None else int(wanted.idle_s * 1e9))

    def take_bindings(self, rows: Iterable[small.BindingRow], whole: bool) -> None:
        """Auxiliary: what persistence keeps on the primary."""
        small.take_bindings(self._maps["bindings"], rows, whole)

    def take_expectations(self, rows: Iterable[small.ExpectationRow], whole: bool) -> None:
        """Auxiliary: what helpers expect, as the primary knows it."""
        small.take_expectations(self._maps["expected"], rows, whole)

    def questions(self) -> list[Question]:
        """Open ones only; the map also keeps those that were answered here, and some that nobody answered."""
        keys, values = self._maps["questions"].read()
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        out = []
        for key, value in zip(keys, values, strict=True):
            age = (now - int(value["asked_ns"])) / 1e9
            if age < QUESTION_OPEN_S and not value["asker"][ANSWERED]:
                askers = tuple(int(index) for index in np.flatnonzero(value["asker"]))
                out.append(Question(int(key["slot"]), address_text(key["target"].tobytes()), askers, age))
        return out

    def event_fd(self) -> int:
        """Readable when events wait; for ``loop.add_reader``."""
        return self._maps["events"].fd

    def events_wait(self) -> bool:
        """For any thread."""
        return self._ring is not None and self._ring.waits()

    def read_events(self) -> list[Event]:
        return [] if self._ring is None else self._ring.read()

    def punt_fd(self) -> int:
        """Auxiliary: readable when SYNs wait for an entry with a helper."""
        return self._maps["punts"].fd

    def read_punts(self) -> list[Punt]:
        return [] if self._punts is None else self._punts.read()

    def deliver(self, punt: Punt) -> None:
        """Auxiliary: the frame comes in again, after its entry was made; ``DataplaneError`` when it cannot."""
        if self._courier is None:
            raise DataplaneError("a frame is to be delivered before the dataplane was started as auxiliary")
        self._courier.deliver(punt)

    def xdp_modes(self) -> dict[str, XdpMode]:
        return self._hooks.xdp_modes()
