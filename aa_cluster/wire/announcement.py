# SPDX-License-Identifier: GPL-2.0-or-later
"""The announcement block: the handoff block's layout for what an auxiliary tells the primary (docs/own-sessions.md).

Bytes 20 to 27 hold the MAC of the packet's next hop, a byte of flags and one that counts the ports refused before,
instead of packet mark and conntrack status; ports and addresses are those of the original tuple (kind FLOW) or of the
expected one (kind EXPECT). The tag covers the tuple in the packet's own headers, the TCP sequence number (0 for UDP)
and the first 72 bytes. Frames that carry it have EtherType 0x88b5. The BPF twin is ``bpf/include/block.h``.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass

from aa_cluster.errors import WireError
from aa_cluster.wire.block import LENGTH, MAGIC, MAX_NODE, TAG_AT, VERSION, FlowTuple, pack_address, tag, unpack_address

ETHERTYPE = 0x88B5
KIND_FLOW, KIND_EXPECT, KIND_REFUSED, KIND_UNKNOWN = 2, 3, 4, 5
KINDS = (KIND_FLOW, KIND_EXPECT, KIND_REFUSED, KIND_UNKNOWN)
OWN = 1
"""Flag: the auxiliary's own session, of which only the answers pass the primary."""

_BODY = struct.Struct("!HBBBBHIII6sBBHH16s16sIBBH")


@dataclass(frozen=True, slots=True)
class Announcement:
    """``node`` 1 to 63; ``next_hop`` 6 bytes; ``session``: the original tuple, or the expected one."""

    kind: int
    cluster_id: int
    node: int
    slot: int
    generation: int
    epoch: int
    connmark: int
    next_hop: bytes
    flags: int
    session: FlowTuple
    tries: int = 0
    """Ports that were refused before this one."""


def encode(announcement: Announcement, key: bytes, carrier: FlowTuple, sequence: int = 0) -> bytes:
    """The 80 bytes. ``carrier``: the tuple in the packet's headers. A field out of its range is a ``WireError``."""
    session = announcement.session
    try:
        body = _BODY.pack(
            announcement.cluster_id,
            announcement.node,
            announcement.slot,
            session.family,
            session.protocol,
            0,
            announcement.generation,
            announcement.epoch,
            announcement.connmark,
            announcement.next_hop,
            announcement.flags,
            announcement.tries,
            session.source_port,
            session.destination_port,
            pack_address(session.source),
            pack_address(session.destination),
            MAGIC,
            VERSION,
            announcement.kind,
            LENGTH,
        )
        return body + tag(body, key, carrier, sequence)
    except struct.error as error:
        raise WireError(f"a field of the announcement is out of range: {error}") from None


def decode(data: bytes, key: bytes, carrier: FlowTuple, sequence: int = 0) -> Announcement:
    """Checks trailer, tag, fields, in this order; ``WireError`` says which of them is wrong."""
    if len(data) != LENGTH:
        raise WireError(f"announcement has {len(data)} bytes, expected {LENGTH}")
    fields = _BODY.unpack(data[:TAG_AT])
    cluster_id, node, slot, family, protocol, zero, generation, epoch, connmark, next_hop, flags, tries = fields[:12]
    sport, dport, source, destination, magic, version, kind, length = fields[12:]
    if (magic, version, length) != (MAGIC, VERSION, LENGTH) or kind not in KINDS:
        raise WireError(f"announcement: magic {magic:#x}, version {version}, kind {kind}, length {length}, expected "
                        f"{MAGIC:#x}, {VERSION}, 2 to 5, {LENGTH}")  # fmt: skip
    if not hmac.compare_digest(data[TAG_AT:], tag(data, key, carrier, sequence)):
        raise WireError("announcement: the tag does not match its tuple, sequence number and content")
    if family not in (4, 6) or zero or not 1 <= node <= MAX_NODE:
        raise WireError(f"announcement: family {family}, node {node}, expected 4 or 6, 1 to {MAX_NODE}, zeros between")
    session = FlowTuple(unpack_address(source, family), unpack_address(destination, family), sport, dport, protocol)
    return Announcement(kind, cluster_id, node, slot, generation, epoch, connmark, next_hop, flags, session, tries)
