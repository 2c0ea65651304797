# SPDX-License-Identifier: GPL-2.0-or-later
"""What the agent says on its Unix socket: HTTP, JSON bodies, these structs. The CLI's ``-j`` prints the same.

Paths: ``GET /v1/{status,nodes,flows,stats,arp,doctor}``, ``POST /v1/{join,leave,weight}``. Every answer is an object
with ``"version": 1`` and ``"kind"``; a refusal is an ``Error`` with HTTP status 409 (or 400 for a bad request).
Times are seconds (float) unless the name says otherwise; counts are exact integers.
"""

from __future__ import annotations

from typing import Literal

import msgspec

VERSION = 1

Role = Literal["none", "primary", "auxiliary"]
Health = Literal["ok", "degraded", "down", "idle"]
NodeState = Literal["joining", "active", "draining", "silent", "dead"]
EventKind = Literal[
    "join",
    "leave",
    "drain",
    "undrain",
    "silent",
    "heard",
    "dead",
    "returns",
    "forgotten",
    "link",
    "weight",
    "schedule",
    "policy",
    "persistence",
    "table-full",
    "refused-block",
    "refused-helper",
    "neighbour",
    "flow-begin",
    "flow-end",
    "promote",
    "stand-down",
    "dropped",
]


class Answer(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    version: int = VERSION


class Error(Answer, frozen=True, kw_only=True, tag="error"):
    """``code`` is the exit code of errors.py; ``findings`` has one line per difference when a join is refused."""

    code: int
    message: str
    hint: str = ""
    findings: tuple[str, ...] = ()


class LinkRow(msgspec.Struct, frozen=True, kw_only=True):
    """One link of a node, ``ha`` or a data interface, by the pulses on it. Times in ms; None: never, or not known here.

    ``heard``: since the last answer (on an auxiliary: since the primary's last pulse); ``rtt``: how long that took;
    ``unanswered``: pulses sent since.
    """

    link: str
    heard: float | None = None
    rtt: float | None = None
    unanswered: int = 0


class NodeRow(msgspec.Struct, frozen=True, kw_only=True):
    """One node. ``last_heard`` s ago (0 for the node itself); sessions are the live flows it owns.

    ``drained``: the operator wants no new sessions on it (``state`` is draining then, unless it is silent, dead or
    joining). ``links``: the primary has them for every auxiliary, an auxiliary for its primary.
    """

    id: int
    name: str
    role: Role
    state: NodeState
    weight: int
    share: float
    sessions: int
    last_heard: float
    ha_mac: str
    ha_address: str
    macs: dict[str, str]
    kernel: str = ""
    drained: bool = False
    links: tuple[LinkRow, ...] = ()


class Interface(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    slot: int
    mac: str
    physical_mac: str
    virtual_mac: str
    addresses: tuple[str, ...]
    xdp: Literal["native", "generic", "none"]


class Status(Answer, frozen=True, kw_only=True, tag="status"):
    """``paths``: what keepalived says of each. ``problems``: one sentence each, empty when healthy.

    An auxiliary knows its peers by the primary's heartbeats."""

    health: Health
    problems: tuple[str, ...]
    name: str
    node_id: int
    role: Role
    state: NodeState | Literal["left"]
    cluster_id: int
    generation: int
    epoch: int
    schedule: str
    election: Literal["static", "keepalived"] = "static"
    paths: dict[str, Literal["unknown", "backup", "master", "fault"]] = {}
    uptime: float
    interfaces: tuple[Interface, ...]
    nodes: tuple[NodeRow, ...]
    flows: int
    flow_capacity: int


class Nodes(Answer, frozen=True, kw_only=True, tag="nodes"):
    nodes: tuple[NodeRow, ...]


class FlowRow(msgspec.Struct, frozen=True, kw_only=True):
    """Both tuples as they arrive on the wire; ``idle``/``age`` in s.

    ``state`` has the same words for every protocol (what is not answered is ``syn-sent``, what is ``established``);
    ``phase`` is that in the protocol's own words: for UDP ``unreplied``, ``answered``, ``stream``.
    What each direction carried (``octets`` of IP, headers included) is None where accounting is off.
    """

    family: Literal["ipv4", "ipv6"]
    protocol: str
    source: str
    source_port: int
    destination: str
    destination_port: int
    reply_source: str
    reply_source_port: int
    reply_destination: str
    reply_destination_port: int
    owner: int
    owner_name: str
    state: str
    phase: str = ""
    mark: int
    age: float
    idle: float
    packets: int | None = None
    octets: int | None = None
    reply_packets: int | None = None
    reply_octets: int | None = None


class Flows(Answer, frozen=True, kw_only=True, tag="flows"):
    """``total`` flows match; ``flows`` holds at most the asked ``limit``."""

    total: int
    flows: tuple[FlowRow, ...]


class ReasonRow(msgspec.Struct, frozen=True, kw_only=True):
    """One reason: what happened (``verdict``), how often, per CPU summed."""

    name: str
    program: str
    verdict: Literal["pass", "steer", "handoff", "adopt", "drop", "relay", "punt"]
    packets: int
    text: str


class Stats(Answer, frozen=True, kw_only=True, tag="stats"):
    reasons: tuple[ReasonRow, ...]


class ArpQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """An open question: on an auxiliary its own; on the primary those it asked on the wire, and for whom."""

    interface: str
    target: str
    asked_by: tuple[int, ...]
    age: float


class Arp(Answer, frozen=True, kw_only=True, tag="arp"):
    open: tuple[ArpQuestion, ...]
    answered_from_cache: int
    answered_from_wire: int
    relayed: int
    refused: int


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``doctor``."""

    name: str
    result: Literal["pass", "warn", "fail", "skip"]
    found: str
    fix: str = ""


class Doctor(Answer, frozen=True, kw_only=True, tag="doctor"):
    checks: tuple[Check, ...]


class JoinRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    primary: bool = False
    timeout: float = 15.0


class Joined(Answer, frozen=True, kw_only=True, tag="joined"):
    node_id: int
    role: Role
    primary: str
    generation: int


class LeaveRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``timeout`` s to wait for running sessions, then the node leaves all the same. ``force``: also when the primary
    does not answer, so that nobody can say what is left."""

    timeout: float = 60.0
    force: bool = False
    now: bool = False
    """The primary takes the running sessions over, nobody waits for their end."""


class Leaving(Answer, frozen=True, kw_only=True, tag="leaving"):
    """Streamed as JSON lines while sessions drain; the last line has ``done`` true."""

    sessions: int
    done: bool
    detached: tuple[str, ...] = ()


class WeightRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    node: str
    weight: int


class WeightSet(Answer, frozen=True, kw_only=True, tag="weight"):
    nodes: tuple[NodeRow, ...]


class DrainRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/drain`` and ``/v1/undrain``. ``node``: name or id. ``now``: the primary takes over what runs there."""

    node: str
    now: bool = False


class TakenRow(msgspec.Struct, frozen=True, kw_only=True):
    """``flows`` that go on at the primary. Their conntrack entries: ``prepared`` before, ``updated`` or ``created``
    now, ``lost``: not to be had. ``ended``: the node's own sessions. ``seconds`` until packets went to the primary."""

    flows: int
    prepared: int
    updated: int
    created: int
    lost: int
    ended: int
    seconds: float
    whole_seconds: float


class Drained(Answer, frozen=True, kw_only=True, tag="drained"):
    nodes: tuple[NodeRow, ...]
    taken: TakenRow | None = None


class PromoteRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/promote``. ``node``: name or id of the auxiliary that becomes primary."""

    node: str


class Promoted(Answer, frozen=True, kw_only=True, tag="promoted"):
    primary: str
    generation: int


class ScheduleRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/schedule``: ``schedule`` is one of the kinds of ``[schedule] kind``."""

    schedule: str


class ScheduleRow(msgspec.Struct, frozen=True, kw_only=True):
    """``share`` of the turns of the sequence (of the slots, where the kind is a hash), 0 to 1."""

    id: int
    name: str
    state: NodeState
    weight: int
    share: float
    sessions: int


class Schedule(Answer, frozen=True, kw_only=True, tag="schedule"):
    """``configured`` is what the configuration says; ``schedule`` is in force."""

    schedule: str
    configured: str
    nodes: tuple[ScheduleRow, ...]


class Event(Answer, frozen=True, kw_only=True, tag="event"):
    """A line of ``GET /v1/events``. ``time`` in s since the epoch. ``node``: the one it is about, "" when none.

    ``event`` "dropped": so many (``detail["count"]``) were left out here because the reader was too slow.
    """

    time: float
    event: EventKind
    node: str = ""
    address: str = ""
    text: str
    detail: dict[str, str] = {}


class LoadRow(msgspec.Struct, frozen=True, kw_only=True):
    """One node over the interval. ``packets``/``octets`` per s: see ``Top``; None: not known.

    ``begun``: sessions per s that it got; ``reasons``: packets per s by reason, those above 0.
    """

    id: int
    name: str
    role: Role
    state: NodeState
    sessions: int
    begun: float
    packets: float | None = None
    octets: float | None = None
    reasons: dict[str, float] = {}


class TopRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/top``: the answer comes after ``interval`` s (0.1 to 60), measured over them."""

    interval: float = 1.0


class Top(Answer, frozen=True, kw_only=True, tag="top"):
    """``accounted``: packets and octets of a node are those of the flows it owns, both directions, in bytes of IP. Else
    they are what arrived on its data interfaces, as the driver counts it (on the primary: all of the cluster's).
    ``kinds``: live sessions by what they are, like ``udp/ipv6``."""

    interval: float
    kinds: dict[str, int] = {}
    nodes: tuple[LoadRow, ...]
    flows: int
    flow_capacity: int
    accounted: bool = False


class PolicyRow(msgspec.Struct, frozen=True, kw_only=True):
    """``number`` from 1; ``hits``: new sessions it has decided since the policy was put in force."""

    number: int
    action: Literal["share", "keep"]
    text: str
    hits: int


class Policy(Answer, frozen=True, kw_only=True, tag="policy"):
    """The policy in force. ``keep_mark`` goes before all rules, ``built_in`` ones behind them, ``default`` last."""

    rules: tuple[PolicyRow, ...]
    built_in: tuple[PolicyRow, ...] = ()
    default: Literal["share", "keep"]
    default_hits: int
    keep_mark: str
    keep_mark_in_use: bool
    keep_mark_hits: int


class PolicyCheckRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A session as its client begins it, before NAT. ``interface`` "" for the one on whose network the source is.
    ``protocol``: a name like ``udp``, or the IP protocol number."""

    source: str
    source_port: int
    destination: str
    destination_port: int
    protocol: str = "tcp"
    interface: str = ""
    connmark: int = 0
    mark: int = 0


class PolicyChecked(Answer, frozen=True, kw_only=True, tag="policy-check"):
    """``rule`` from 1, None when none of the operator's decided; ``built_in`` the same of the built-in ones.
    ``mismatches``: why those before it did not. ``notes``: what else matters: helpers, who would get the session."""

    action: Literal["share", "keep"]
    interface: str
    rule: int | None
    built_in: int | None = None
    why: str
    mismatches: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class PolicyReload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/policy/reload``."""


class PolicyReloaded(Answer, frozen=True, kw_only=True, tag="policy-reload"):
    """``changes``: one line each, empty when nothing changed. ``not_taken``: sections that a restart would take."""

    path: str
    changes: tuple[str, ...]
    not_taken: tuple[str, ...] = ()


class SyncRow(msgspec.Struct, frozen=True, kw_only=True):
    """What a node has of the primary's flow table. ``lag``: entries of the journal that have not come, for ``lag_ms``.

    ``lost``: entries that were asked for again, ``resent``: that were sent again. ``refused``: records without room in
    its table. ``differing``: blocks of 1,024 records at the last comparison, ``verified`` s ago. ``synced``: s since it
    had the whole table after it joined or was told to begin anew, which took ``took`` s. None: not known.
    """

    id: int
    name: str
    state: Literal["source", "equal", "differing", "behind", "synchronising", "unknown"]
    flows: int = 0
    lag: int = 0
    lag_ms: int = 0
    lost: int = 0
    resent: int = 0
    refused: int = 0
    differing: int | None = None
    verified: float | None = None
    synced: float | None = None
    took: float | None = None


class Sync(Answer, frozen=True, kw_only=True, tag="sync"):
    """Of the primary: ``journal`` entries ever written, ``pending`` not sent yet; ``skipped``: written over unsent."""

    mode: Literal["all", "takeover", "periodic", "off"]
    journal: int
    pending: int
    frames: int
    records: int
    resent: int
    skipped: int
    nodes: tuple[SyncRow, ...]


class ResyncRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/sync/resync``: that node (name or id), or all auxiliaries, begin anew."""

    node: str = ""


class Resynced(Answer, frozen=True, kw_only=True, tag="resynced"):
    """Names of the nodes that begin anew, and of those that did not answer."""

    nodes: tuple[str, ...]
    silent: tuple[str, ...] = ()


class PersistRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/persist``. ``address`` for set and delete, ``node`` (name or id) for set."""

    action: Literal["show", "set", "delete", "flush"] = "show"
    address: str = ""
    node: str = ""
    limit: int = 100


class PersistRow(msgspec.Struct, frozen=True, kw_only=True):
    """A client (the first address of its prefix); ``idle`` s since its last session began."""

    address: str
    node: int
    node_name: str
    idle: float


class Persist(Answer, frozen=True, kw_only=True, tag="persist"):
    """``hits``/``misses``: new sessions whose client had a node or had none. ``idle`` s is how long one is kept."""

    enabled: bool
    idle: float
    size: int
    hits: int
    misses: int
    removed: int
    total: int
    entries: tuple[PersistRow, ...]
