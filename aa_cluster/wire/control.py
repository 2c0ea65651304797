# SPDX-License-Identifier: GPL-2.0-or-later
"""The messages of the control protocol, each a tagged msgpack array; envelope.py makes datagrams of them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from aa_cluster.errors import WireError

MAX_BODY = 56_000
"""Bytes of an operator's order, or of the answer to it."""
MAX_NEIGHBOURS = 128
MAX_ASKED = 16
"""Hosts of a segment; and segments."""
MAX_EVENTS = 48
"""In one message, so that it fits a datagram."""
MAX_NODE = 63
MAX_RANGES = 64
MAX_BLOCKS = 4096
MAX_BINDINGS = 1000
"""In one message: 27 bytes each at most."""

Mac = Annotated[bytes, Meta(min_length=6, max_length=6)]
Address = Annotated[bytes, Meta(min_length=16, max_length=16)]
ExpectationKey = Annotated[bytes, Meta(min_length=36, max_length=36)]
Nonce = Annotated[bytes, Meta(min_length=8, max_length=8)]
NodeId = Annotated[int, Meta(ge=1, le=MAX_NODE)]
U8 = Annotated[int, Meta(ge=0, le=0xFF)]
U32 = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
Count = Annotated[int, Meta(ge=0)]
Name = Annotated[str, Meta(min_length=1, max_length=32)]
Text = Annotated[str, Meta(max_length=1024)]
Weight = Annotated[int, Meta(ge=0, le=100)]
Digest = Annotated[str, Meta(max_length=64)]


class Part(msgspec.Struct, frozen=True, array_like=True):
    """A piece of a message."""


class InterfaceFacts(Part, frozen=True, array_like=True):
    """One data interface. ``addresses`` as ``10.77.1.1/24``; ``mtu`` in bytes."""

    name: Name
    mac: Mac
    addresses: tuple[Text, ...]
    mtu: Annotated[int, Meta(ge=0, le=65_536)]


class Finding(Part, frozen=True, array_like=True):
    """One reason to refuse: what differs, what the joining node has, what the cluster has, what to do."""

    what: Text
    found: Text
    expected: Text
    remedy: Text

    def __str__(self) -> str:
        return f"{self.what}: found {self.found}, expected {self.expected}; {self.remedy}"


class NodeEntry(Part, frozen=True, array_like=True):
    """One row of the primary's table. ``silent_ms`` since the primary heard it; ``drained``: by the operator.

    ``rejoin``: its sessions were taken over, and it answers on all links again: it is to join again.
    """

    id: NodeId
    name: Name
    role: Literal["primary", "auxiliary"]
    state: Literal["joining", "active", "draining", "silent", "dead"]
    weight: Weight
    sessions: U32
    silent_ms: U32
    ha_mac: Mac
    ha_address: Text
    macs: tuple[Mac, ...]
    kernel: Text
    drained: bool = False
    rejoin: bool = False


class Neighbour(Part, frozen=True, array_like=True):
    """A host on the segment of data interface ``slot`` and the MAC it has now."""

    slot: U8
    address: Text
    mac: Mac


class SlotHosts(Part, frozen=True, array_like=True):
    """Addresses of hosts on the segment of data interface ``slot``."""

    slot: U8
    addresses: Annotated[tuple[Text, ...], Meta(max_length=MAX_ASKED)]


class EventEntry(Part, frozen=True, array_like=True):
    """One line of ``monitor``, as ``api.Event``; ``time`` in s since the epoch. ``origin``: who saw it."""

    origin: NodeId
    time: float
    event: Text
    node: Text
    address: Text
    text: Text
    detail: dict[Text, Text]


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A body. The tag is the class's name, the first element of the array."""


class Challenge(Message, frozen=True, array_like=True, tag=True):
    """To an instance never heard before: prove that you are alive, so that a recording cannot pass for you."""

    value: Nonce


class Response(Message, frozen=True, array_like=True, tag=True):
    value: Nonce


class Probe(Message, frozen=True, array_like=True, tag=True):
    """Is there a primary? ``candidate``: the sender is about to become one."""

    name: Name
    candidate: bool


class PrimaryBeat(Message, frozen=True, array_like=True, tag=True):
    """The primary's heartbeat. ``nodes`` is empty in most, full once a second and after each change."""

    node_id: NodeId
    name: Name
    generation: U32
    epoch: U32
    schedule: Text
    ruleset: Digest
    ha_mac: Mac
    nodes: tuple[NodeEntry, ...]
    journal: Count = 0
    """Entries ever written to the journal of the flow table."""


class AuxiliaryBeat(Message, frozen=True, array_like=True, tag=True):
    """An auxiliary's heartbeat, to the primary. ``ready``: its dataplane is attached and it wants work."""

    node_id: NodeId
    name: Name
    generation: U32
    ready: bool


class Request(Message, frozen=True, array_like=True, tag=True):
    """Asks again and again until answered; every answer echoes ``nonce``."""

    nonce: Nonce


class Reply(Message, frozen=True, array_like=True, tag=True):
    nonce: Nonce


class JoinAsk(Request, frozen=True, array_like=True, tag=True):
    name: Name
    wire_version: Annotated[int, Meta(ge=0, le=255)]
    kernel: Text
    weight: Weight
    ha_mac: Mac
    ruleset: Digest
    interfaces: tuple[InterfaceFacts, ...]
    share_helpers: bool = False
    flow_table_size: Count = 0


class JoinRefusal(Reply, frozen=True, array_like=True, tag=True):
    findings: tuple[Finding, ...]


class JoinGranted(Reply, frozen=True, array_like=True, tag=True):
    """``virtual_macs`` and ``primary_macs`` by slot; ``ids`` holds every name that ever had an id."""

    node_id: NodeId
    generation: U32
    epoch: U32
    primary_id: NodeId
    primary_name: Name
    primary_ha_mac: Mac
    virtual_macs: tuple[Mac, ...]
    primary_macs: tuple[Mac, ...]
    ids: dict[Name, NodeId]
    nodes: tuple[NodeEntry, ...]


class Ready(Request, frozen=True, array_like=True, tag=True):
    """The dataplane of ``node_id`` is attached: give it work."""

    node_id: NodeId
    generation: U32


class ReadyAck(Reply, frozen=True, array_like=True, tag=True):
    epoch: U32


class LeaveAsk(Request, frozen=True, array_like=True, tag=True):
    """No new sessions for ``node_id`` from now on. Asked again, it says how many are left. ``now``: the primary takes
    the running ones over before it answers."""

    node_id: NodeId
    now: bool = False


class LeaveStatus(Reply, frozen=True, array_like=True, tag=True):
    sessions: U32


class LeaveDone(Request, frozen=True, array_like=True, tag=True):
    """``node_id`` is detached: forget it."""

    node_id: NodeId


class LeaveAck(Reply, frozen=True, array_like=True, tag=True):
    pass


class WeightAsk(Request, frozen=True, array_like=True, tag=True):
    node: Name
    weight: Weight


class WeightAck(Reply, frozen=True, array_like=True, tag=True):
    nodes: tuple[NodeEntry, ...]


class RulesetAsk(Request, frozen=True, array_like=True, tag=True):
    """What is your ruleset's digest now? (``doctor`` on an auxiliary.)"""


class RulesetAnswer(Reply, frozen=True, array_like=True, tag=True):
    ruleset: Digest


class OrderAsk(Request, frozen=True, array_like=True, tag=True):
    """An operator's order, given on another node: ``path`` and ``body`` (JSON) as on the agent's socket."""

    path: Text
    body: Annotated[bytes, Meta(max_length=MAX_BODY)]


class OrderAnswer(Reply, frozen=True, array_like=True, tag=True):
    """``body``: the answer as the primary's socket would give it (JSON)."""

    body: Annotated[bytes, Meta(max_length=MAX_BODY)]


class LoadAsk(Request, frozen=True, array_like=True, tag=True):
    """How much have you done so far? (``top``; primary → auxiliary.)"""


class LoadAnswer(Reply, frozen=True, array_like=True, tag=True):
    """Counted up to ``at_ms`` of the sender's own clock: received on its data interfaces, and packets by reason."""

    at_ms: Count
    packets: Count
    octets: Count
    reasons: dict[Text, Count]


class NeighbourTell(Request, frozen=True, array_like=True, tag=True):
    """These hosts have these MACs now (primary → auxiliary): correct what you know of them, learn nothing new."""

    neighbours: Annotated[tuple[Neighbour, ...], Meta(max_length=MAX_NEIGHBOURS)]


class NeighbourAck(Reply, frozen=True, array_like=True, tag=True):
    """``changed`` entries were wrong and are right now."""

    changed: U32


class ForgetAsk(Request, frozen=True, array_like=True, tag=True):
    """The primary goes on with all that it has handed to you: let go of the entries of those sessions."""


class ForgetAck(Reply, frozen=True, array_like=True, tag=True):
    entries: U32


class PromoteAsk(Request, frozen=True, array_like=True, tag=True):
    """Be ready to become primary (primary → auxiliary). ``hosts``: where the sender's port is dead; of each of these
    one must answer the receiver."""

    hosts: Annotated[tuple[SlotHosts, ...], Meta(max_length=MAX_ASKED)] = ()


class PromoteGo(Request, frozen=True, array_like=True, tag=True):
    """Become primary, but for the virtual MACs. ``macs``: the sender's physical ones by slot, where it is reached then.
    ``head``: how far the stream of records goes, nothing comes behind. ``unplugged``: a data link of the sender has no
    carrier or a dead port, so its sessions are to go on at the successor."""

    macs: tuple[Mac, ...]
    head: Count
    unplugged: bool


class PromoteTake(Request, frozen=True, array_like=True, tag=True):
    """The virtual MACs are free."""


class PromoteAck(Reply, frozen=True, array_like=True, tag=True):
    """To each of the three. The generation and epoch that begin with ``PromoteGo``."""

    generation: U32
    epoch: U32


class EventNote(Message, frozen=True, array_like=True, tag=True):
    """What happened, for everybody who watches (``monitor``). Not repeated: a lost one is lost."""

    events: Annotated[tuple[EventEntry, ...], Meta(max_length=MAX_EVENTS)]


class SyncAsk(Request, frozen=True, array_like=True, tag=True):
    """Where does your journal stand? I begin there (docs/replication.md)."""

    node_id: NodeId


class SyncAnswer(Reply, frozen=True, array_like=True, tag=True):
    """Entries from ``position`` on are told; what is older shows in the digests."""

    generation: U32
    position: Count


class ResendAsk(Message, frozen=True, array_like=True, tag=True):
    """These entries of the journal have not come, [first, end) each. Not answered but by frames."""

    node_id: NodeId
    ranges: Annotated[tuple[tuple[Count, Count], ...], Meta(max_length=MAX_RANGES)]


class DigestAsk(Request, frozen=True, array_like=True, tag=True):
    """What are your flow table's digests?"""

    node_id: NodeId


class DigestAnswer(Reply, frozen=True, array_like=True, tag=True):
    """As it was when the journal stood at ``position``: u64, little-endian, one for 1,024 record numbers."""

    position: Count
    digests: Annotated[bytes, Meta(max_length=MAX_BODY)]


class RepairAsk(Request, frozen=True, array_like=True, tag=True):
    """Tell all records of these blocks again."""

    node_id: NodeId
    blocks: Annotated[tuple[Count, ...], Meta(max_length=MAX_BLOCKS)]


class RepairAck(Reply, frozen=True, array_like=True, tag=True):
    waiting: Count
    """Blocks that are still to be told, those of other nodes too."""


class SyncStatusAsk(Request, frozen=True, array_like=True, tag=True):
    """How far are you? (``sync status``; primary → auxiliary.)"""


class SyncStatusAnswer(Reply, frozen=True, array_like=True, tag=True):
    """``lag``: entries that have not come, ``lag_ms``: for how long there were some. ``lost``: entries asked for again.

    ``differing``: blocks at the last comparison, ``verified_ms`` ago; ``synced_ms``: since a synchronisation was
    complete, which took ``took_ms``. All three are None before there was one.
    """

    generation: U32
    lag: Count
    lag_ms: Count
    lost: Count
    refused: Count
    flows: Count
    differing: Count | None
    verified_ms: Count | None
    synced_ms: Count | None
    took_ms: Count | None


class ResyncTell(Request, frozen=True, array_like=True, tag=True):
    """Begin anew (``sync resync``; primary → auxiliary)."""


class ResyncAck(Reply, frozen=True, array_like=True, tag=True):
    pass


class SmallState(Message, frozen=True, array_like=True, tag=True):
    """What the operator has ordered, for whoever is promoted. ``policy``: the section in force, JSON."""

    generation: U32
    schedule: Text
    policy: Annotated[bytes, Meta(max_length=MAX_BODY)]
    weights: dict[Name, Weight]
    drained: tuple[Name, ...]
    ids: dict[Name, NodeId]


class BindingNote(Message, frozen=True, array_like=True, tag=True):
    """Clients that persistence keeps: address (16 bytes), node, idle for so many ms. ``whole``: forget all others."""

    generation: U32
    whole: bool
    bindings: Annotated[tuple[tuple[Address, U8, Count], ...], Meta(max_length=MAX_BINDINGS)]


class ExpectationNote(Message, frozen=True, array_like=True, tag=True):
    """Sessions that helpers expect: key (36 bytes, bpf/include/types.h), node, good for so many ms. ``whole``: forget
    all others."""

    generation: U32
    whole: bool
    expectations: Annotated[tuple[tuple[ExpectationKey, U8, Count], ...], Meta(max_length=MAX_BINDINGS)]


class Refused(Reply, frozen=True, array_like=True, tag=True):
    """A request that cannot be met. ``code``: the exit code of errors.py."""

    code: Annotated[int, Meta(ge=1, le=255)]
    message: Text
    hint: Text


AnyMessage = (
    Challenge
    | Response
    | Probe
    | PrimaryBeat
    | AuxiliaryBeat
    | JoinAsk
    | JoinRefusal
    | JoinGranted
    | Ready
    | ReadyAck
    | LeaveAsk
    | LeaveStatus
    | LeaveDone
    | LeaveAck
    | WeightAsk
    | WeightAck
    | RulesetAsk
    | RulesetAnswer
    | OrderAsk
    | OrderAnswer
    | LoadAsk
    | LoadAnswer
    | NeighbourTell
    | NeighbourAck
    | ForgetAsk
    | ForgetAck
    | PromoteAsk
    | PromoteGo
    | PromoteTake
    | PromoteAck
    | EventNote
    | SyncAsk
    | SyncAnswer
    | ResendAsk
    | DigestAsk
    | DigestAnswer
    | RepairAsk
    | RepairAck
    | SyncStatusAsk
    | SyncStatusAnswer
    | ResyncTell
    | ResyncAck
    | SmallState
    | BindingNote
    | ExpectationNote
    | Refused
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)


def encode(message: AnyMessage) -> bytes:
    return _encoder.encode(message)


def decode(body: bytes) -> AnyMessage:
    """``WireError`` for what is no message."""
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"control message cannot be read: {error}") from None
