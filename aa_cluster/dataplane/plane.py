# SPDX-License-Identifier: GPL-2.0-or-later
"""The dataplane of one node, as the agent sees it: start, feed, read, stop."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pyroute2 import IPRoute

from aa_cluster.core import persistence
from aa_cluster.core.policy import NO_MARK, Action, Mark, Policy, Rule
from aa_cluster.dataplane import accounts, decisions, flows, kfuncs, programs, pulses, reasons, roles, small
from aa_cluster.dataplane import object as objects
from aa_cluster.dataplane.attach import Attacher, Point, XdpMode
from aa_cluster.dataplane.decisions import Binding, PolicyHits
from aa_cluster.dataplane.events import Event, Ring, address_text
from aa_cluster.dataplane.flows import Choice, Owned
from aa_cluster.dataplane.maps import BINDINGS, EVENT_BYTES, MAX_NODES, PUNT_BYTES, Map, open_all
from aa_cluster.dataplane.pulses import Pulse
from aa_cluster.dataplane.punts import Courier, Punt, PuntRing
from aa_cluster.dataplane.reassigner import Reassigner
from aa_cluster.dataplane.replication import FEATURES as REPLICATION
from aa_cluster.dataplane.replication import Mirror, Sender, digests
from aa_cluster.dataplane.sweeper import Sweeper
from aa_cluster.errors import DataplaneError

__all__ = ["Binding", "Dataplane", "Event", "Member", "PolicyHits", "Port", "Pulse", "Punt", "Question", "Settings"]

MAX_PORTS = 16
TIMEOUTS_SECONDS = 10.0
"""The node's conntrack timeouts are read so often; the shortest is a minute."""
PORT_TABLE = 256
"""AA_PORT_TABLE of bpf/include/types.h."""

LONGEST_TIMEOUT_S = 0xFFFFFFFF // 1000
"""conntrack takes milliseconds in 32 bits: 49 days."""

SHARE_HELPERS = 2
"""AA_FEATURE_SHARE_HELPERS of bpf/include/types.h."""

QUESTION_OPEN_S = 3.0
"""As AA_QUESTION_OPEN_NS in bpf/include/arp.h."""

EXPECTATION_NS = 300_000_000_000
"""AA_EXPECTATION_NS of bpf/include/expectation.h."""

HOP_NONE, HOP_LOCAL, HOP_STEER = 0, 1, 2

ECHO_ORDER = 5
"""On the HA link's ingress: behind all others, which pass on what is not theirs."""

BPFFS = Path("/sys/fs/bpf")


@dataclass(frozen=True, slots=True)
class Port:
    """One data interface. ``slot`` is its index in the configuration, the same on every node."""

    slot: int
    name: str
    ifindex: int
    physical_mac: bytes
    virtual_mac: bytes
    mtu: int


@dataclass(frozen=True, slots=True)
class Member:
    """Where a node is reached: its MAC on the HA link and, by slot, on each data interface.

    ``local``: its flows were taken over, their packets stay on this node.
    """

    id: int
    ha_mac: bytes
    macs: tuple[bytes, ...]
    local: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """What the programs are told. ``block_key``: 16 bytes of SipHash key. ``primary_id`` is 0 when unknown.

    ``table_key``: ``flows.HASH_KEY_BYTES`` bytes, the same as long as the pinned table lives.
    """

    role: Literal["primary", "auxiliary"]
    cluster_id: int
    node_id: int
    primary_id: int
    generation: int
    epoch: int
    block_key: bytes
    table_key: bytes
    ports: tuple[Port, ...]
    ha_ifindex: int
    ha_mac: bytes
    primary_ha_mac: bytes
    xdp: Literal["auto", "native", "generic"]
    flow_entries: int
    pins: Path
    cache: Path
    half_open_share: float = 1.0
    """Of the table, for flows whose handshake is not complete."""

    persistence: persistence.Settings | None = None
    bindings: int = BINDINGS
    """Clients that persistence remembers; taken when the maps are made."""

    accounting: bool = False
    """Packets and bytes are counted for each flow."""

    replication: Literal["all", "takeover", "periodic", "off"] = "off"
    """What the other nodes are told of the flow table, and when (docs/replication.md)."""

    replica_key: bytes = bytes(16)
    """SipHash key of replicas and pulses."""

    share_helpers: bool = False
    """Sessions with a conntrack helper are shared too, where the helper has a number on the wire."""


@dataclass(frozen=True, slots=True)
class Question:
    """An open ARP question (see docs/arp-relay.md). ``asked_by``: node ids, empty on an auxiliary. ``age`` in s."""

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
        self._objects: dict[roles.Role, dict[str, objects.Object]] = {}
        self._maps: dict[str, Map] = {}
        self._ring: Ring | None = None
        self._sweeper: Sweeper | None = None
        self._timeouts_due = 0.0
        self._reassigner: Reassigner | None = None
        self._punts: PuntRing | None = None
        self._courier: Courier | None = None
        self._pulse: int | None = None
        self._sender: Sender | None = None
        self._mirror: Mirror | None = None

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
        self._write_configuration()
        self._activate(compiled)
        self._sets.remove_older(self._settings.role, compiled, self._maps)

    def prepare_standby(self) -> None:
        """Compile, load and pin the programs of the other role, so that ``change_role`` has only to attach them."""
        other = roles.OTHER[self._settings.role]
        compiled = self._compiled(other)
        self._sets.load_ahead(other, compiled, self._maps)
        self._sets.remove_older(other, compiled, self._maps)

    def change_role(self, settings: Settings, heir: bool = False) -> None:
        """Be in the other role, with the same maps; the hooks change their programs one by one, each in one step.

        `steer` comes before all others: as long as a switch does not know where the virtual MAC is, every node gets
        what is for it, and a packet of another node's flow that this one's stack took would put that node's windows
        wrong.
        ``heir``: frames to the virtual MACs that still come are sent on to the new primary, until ``forget_heir``.
        """
        before = self._points()
        compiled = self._compiled(settings.role)
        self._sets.load_ahead(settings.role, compiled, self._maps)
        self._settings = settings
        self._write_configuration()
        if heir:
            self._relinquish()
        taken = {(point.hook, point.ifindex, point.priority) for point in self._points()}
        self._activate(compiled, careful=False)
        with self._attacher() as attacher:
            for point in reversed(before):
                if (point.hook, point.ifindex, point.priority) not in taken and not (heir and point.hook == "xdp"):
                    attacher.detach(point)
        self._sets.remove_older(settings.role, compiled, self._maps)

    def be_silent(self) -> None:
        """Primary: from now on nothing leaves the data interfaces, until ``speak_again`` or another role."""
        fd = self._sets.open("primary", "mute")
        try:
            with self._attacher() as attacher:
                for point in self._muted():
                    attacher.attach(point, fd, self._settings.xdp)
                for port in self._settings.ports:
                    attacher.detach(Point("xdp", port.ifindex, "steer"))
        finally:
            os.close(fd)

    def speak_again(self) -> None:
        """Primary: as before ``be_silent``; nothing when it was not."""
        fd = self._sets.open("primary", "steer")
        try:
            with self._attacher() as attacher:
                for port in self._settings.ports:
                    attacher.attach(Point("xdp", port.ifindex, "steer"), fd, self._settings.xdp)
                self._unmute(attacher)
        finally:
            os.close(fd)

    def _muted(self) -> list[Point]:
        """In front of all others."""
        return [Point("egress", port.ifindex, "mute", order=-1) for port in self._settings.ports]

    def _unmute(self, attacher: Attacher) -> None:
        for point in self._muted():
            attacher.detach(point)

    def _relinquish(self) -> None:
        fd = self._sets.open("primary", "relinquish")
        try:
            with self._attacher() as attacher:
                for point in self._relinquished():
                    attacher.attach(point, fd, self._settings.xdp)
        finally:
            os.close(fd)

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
        """Primary: no session begins here from now on, since that node is about to take over; 0: they do again."""
        self._maps["config"].view()["heir"][0] = node_id

    def forget_heir(self) -> None:
        """A former primary: nothing comes to the virtual MACs any more."""
        with self._attacher() as attacher:
            for point in self._relinquished():
                attacher.detach(point)

    def _relinquished(self) -> list[Point]:
        return [Point("xdp", port.ifindex, "relinquish") for port in self._settings.ports]

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

    def _activate(self, compiled: Mapping[str, objects.Object], careful: bool = True) -> None:
        """New programs are pinned aside and renamed into place before they take over the hooks. ``careful``: see first
        whether somebody else's XDP program is there."""
        fds = self._sets.load(self._settings.role, compiled, self._maps)
        try:
            with self._attacher() as attacher:
                for point in self._points() if careful else ():
                    attacher.refuse_others(point)
                for point in self._points() if careful else sorted(self._points(), key=_comes_later):
                    attacher.attach(point, fds[point.program], self._settings.xdp)
                self._unmute(attacher)
            if "sweep" in fds and self._sweeper is None:
                self._sweeper = Sweeper(os.dup(fds["sweep"]), self._maps["swept"], self._maps["watermark"])
            if "pulse" in fds and self._pulse is None:
                self._pulse = os.dup(fds["pulse"])
            if "flush" in fds and self._sender is None:
                self._sender = Sender(os.dup(fds["flush"]), os.dup(fds["rejournal"]), self._maps)
            if "reassign" in fds and self._reassigner is None:
                self._reassigner = Reassigner(os.dup(fds["reassign"]), self._maps["moving"], self._maps["watermark"])
            if "deliver" in fds and self._courier is None:
                self._courier = Courier(os.dup(fds["deliver"]))
        finally:
            for fd in fds.values():
                os.close(fd)

    @contextmanager
    def _attacher(self) -> Iterator[Attacher]:
        with IPRoute() as ipr:
            yield Attacher(ipr, self._settings.pins / "qdiscs")

    def _points(self) -> list[Point]:
        """Hooks in the order they are taken: what guards or answers first, what gives work last."""
        settings = self._settings
        data = [port.ifindex for port in settings.ports]
        if settings.role == "primary":
            return [
                *(Point("ingress", index, "arp_answer") for index in data),
                *(Point("ingress", index, "admit", order=1) for index in data),
                Point("ingress", settings.ha_ifindex, "arp_serve"),
                Point("ingress", settings.ha_ifindex, "echo", order=ECHO_ORDER),
                Point("egress", settings.ha_ifindex, "compose"),
                *(Point("xdp", index, "steer") for index in data),
                *(Point("egress", index, "handoff") for index in data),
            ]
        return [
            *(Point("ingress", index, "adopt") for index in data),
            *(Point("egress", index, "arp_ask") for index in data),
            *(Point("egress", index, "announce", order=1) for index in data),
            Point("ingress", settings.ha_ifindex, "arp_take"),
            Point("ingress", settings.ha_ifindex, "echo", order=ECHO_ORDER),
            Point("ingress", settings.ha_ifindex, "mirror", order=1),
        ]

    def stop(self) -> None:
        """Detach programs, remove filters and the qdiscs we made, unpin. Idempotent."""
        with self._attacher() as attacher:
            points = self._points()
            self._unmute(attacher)
            for point in reversed(points):
                attacher.detach(point)
            for ifindex in dict.fromkeys(point.ifindex for point in points):
                attacher.release_qdisc(ifindex)
        self.close()
        programs.remove(self._settings.pins)

    def close(self) -> None:
        """Lets go of maps and ring; what is attached stays."""
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        if self._sweeper is not None:
            self._sweeper.close()
            self._sweeper = None
        if self._reassigner is not None:
            self._reassigner.close()
            self._reassigner = None
        if self._punts is not None:
            self._punts.close()
            self._punts = None
        if self._pulse is not None:
            os.close(self._pulse)
            self._pulse = None
        if self._courier is not None:
            self._courier.close()
            self._courier = None
        if self._sender is not None:
            self._sender.close()
            self._sender = None
        self._mirror = None
        for entry in self._maps.values():
            entry.close()
        self._maps = {}

    def detached_hooks(self) -> list[Point]:
        """Hooks that lost their program (somebody else took it off); empty when all is well."""
        with self._attacher() as attacher:
            return [point for point in self._points() if not attacher.attached(point)]

    def update(self, settings: Settings) -> None:
        """Change generation, epoch, primary HA MAC or virtual MACs of a running dataplane, in one map write."""
        self._settings = settings
        self._write_configuration()

    def _write_configuration(self) -> None:
        settings = self._settings
        check_ports(settings.ports)
        for port in settings.ports:
            record = self._maps["ports"].record()
            record["ifindex"], record["mtu"], record["slot"] = port.ifindex, port.mtu, port.slot
            record["physical_mac"] = list(port.physical_mac)
            record["virtual_mac"] = list(port.virtual_mac)
            self._maps["slots"].put(port.slot, record)
            self._maps["ports"].put(port.ifindex % PORT_TABLE, record)
        record = self._maps["config"].record()
        record["key"] = np.frombuffer(settings.block_key, "<u8")
        record["replica_key"] = np.frombuffer(settings.replica_key, "<u8")
        for name in ("generation", "epoch", "ha_ifindex", "cluster_id"):
            record[name] = getattr(settings, name)
        for state, seconds in flows.Timeouts.of_this_namespace().by_state.items():
            record["timeout_s"][state] = min(seconds, LONGEST_TIMEOUT_S)
        record["hash_key"] = np.frombuffer(settings.table_key, "<u8")
        record["bucket_mask"] = self._maps["buckets"].info.entries - 1
        limit = self._maps["records"].info.entries - 1
        record["flow_limit"], record["half_open_limit"] = limit, max(1, int(limit * settings.half_open_share))
        record["features"] = (SHARE_HELPERS if settings.share_helpers else 0) | (
            accounts.FEATURE if settings.accounting else 0
        )
        if settings.role == "primary":
            record["features"] |= REPLICATION[settings.replication]
        record["source_key"] = np.frombuffer(decisions.source_key(settings.table_key), "<u8")
        decisions.fill_persistence(record, settings.persistence)
        record["self"], record["primary"] = settings.node_id, settings.primary_id
        record["ha_mac"] = list(settings.ha_mac)
        record["primary_ha_mac"] = list(settings.primary_ha_mac)
        self._maps["config"].put(0, record)

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

    def set_policy(self, rules: Sequence[Rule], default: Action = "share", keep_mark: Mark = NO_MARK) -> bool:
        """Primary: which sessions are shared, swapped atomically. False: it was in force already, counters go on."""
        slots = {port.name: port.slot for port in self._settings.ports}
        return decisions.write_policy(self._maps, Policy(tuple(rules), default, keep_mark), slots)

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

    def begun_since(self, seconds: float) -> dict[int, int]:
        """Flows that began in the last so many seconds and are still in the table, per owner id."""
        since = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - int(seconds * 1e9)
        return flows.begun_since(self._maps["records"], self._maps["watermark"], since)

    def sweep(self) -> bool:
        """Primary: one look at every record; flows idle past the timeout of their state go.

        True when half-open flows had used more than half of their share: a flood, which ageing must keep up with.
        """
        if self._sweeper is None:
            raise DataplaneError("the sweep was asked for before the dataplane was started as primary")
        if time.monotonic() >= self._timeouts_due:
            self._write_timeouts()
        crowded = self.half_open() > int(self._maps["config"].view()["half_open_limit"][0]) / 2
        self._sweeper.round()
        return crowded

    def _write_timeouts(self) -> None:
        """The node's own conntrack settings, as they are now."""
        self._timeouts_due = time.monotonic() + TIMEOUTS_SECONDS
        in_force = self._maps["config"].view()["timeout_s"][0]
        for state, seconds in flows.Timeouts.of_this_namespace().by_state.items():
            in_force[state] = min(seconds, LONGEST_TIMEOUT_S)

    def prober(self) -> pulses.Prober:
        """Primary: a new one, for a thread of its own; ``close`` it before this dataplane."""
        if self._pulse is None:
            raise DataplaneError("pulses were asked for before the dataplane was started as primary")
        return pulses.Prober(os.dup(self._pulse), self._maps["pulses"])

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
        settled = self._settings.replication == "takeover"
        return digests(self._maps["records"], self._maps["watermark"], settled)

    def small_since(self, since_ns: int) -> small.Small:
        """Bindings and expectations set after that time, those that are good."""
        wanted = self._settings.persistence
        return small.since(self._maps, since_ns, 0 if wanted is None else int(wanted.idle_s * 1e9), EXPECTATION_NS)

    def take_bindings(self, rows: Iterable[small.BindingRow], whole: bool) -> None:
        """Auxiliary: what persistence keeps on the primary."""
        small.take_bindings(self._maps["bindings"], rows, whole)

    def take_expectations(self, rows: Iterable[small.ExpectationRow]) -> None:
        """Auxiliary: what helpers expect."""
        small.take_expectations(self._maps["expected"], rows)

    def questions(self) -> list[Question]:
        """Open ones only; the map also keeps some that nobody answered."""
        keys, values = self._maps["questions"].read()
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        out = []
        for key, value in zip(keys, values, strict=True):
            age = (now - int(value["asked_ns"])) / 1e9
            if age < QUESTION_OPEN_S:
                askers = tuple(int(index) for index in np.flatnonzero(value["asker"]))
                out.append(Question(int(key["slot"]), address_text(key["target"].tobytes()), askers, age))
        return out

    def event_fd(self) -> int:
        """Readable when events wait; for ``loop.add_reader``."""
        return self._maps["events"].fd

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
        with self._attacher() as attacher:
            return {port.name: attacher.xdp_mode(port.ifindex) for port in self._settings.ports}


def _comes_later(point: Point) -> bool:
    return point.hook != "xdp"


def check_ports(ports: Iterable[Port]) -> None:
    """The programs find an interface by the low bits of its ifindex: two that share them are a ``DataplaneError``."""
    seen: dict[int, Port] = {}
    for port in ports:
        other = seen.setdefault(port.ifindex % PORT_TABLE, port)
        if other is not port:
            raise DataplaneError(
                f"interfaces {other.name} ({other.ifindex}) and {port.name} ({port.ifindex}) have numbers that differ "
                f"by a multiple of {PORT_TABLE}",
                f"recreate {port.name} to give it another number",
            )


def mount_bpffs(where: Path = BPFFS) -> None:
    """Mounts the BPF file system if it is not; ``DataplaneError`` when it can't be."""
    if _is_bpffs(where, Path("/proc/mounts").read_text("utf-8").splitlines()):
        return
    done = subprocess.run(["mount", "-t", "bpf", "bpf", str(where)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DataplaneError(
            f"{where} is not a BPF file system and cannot be mounted: {done.stderr.strip()}",
            f"run as root in the initial mount namespace: mount -t bpf bpf {where}",
        )


def _is_bpffs(where: Path, mounts: Iterable[str]) -> bool:
    return any(line.split()[1:3] == [str(where), "bpf"] for line in mounts)
