# SPDX-License-Identifier: GPL-2.0-or-later
"""The handoff block, version 1: 80 bytes at the tail of a SYN, big-endian, found from its end.

::

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +-------------------------------+---------------+---------------+
  0 |          cluster id           |     owner     | ingress slot  |
    +---------------+---------------+---------------+---------------+
  4 |    family     |   protocol    |    helper     | reserved (0)  |
    +---------------+---------------+---------------+---------------+
  8 |                          generation                           |
 12 |                             epoch                             |
 16 |                           connmark                            |
 20 |                          packet mark                          |
 24 |                       conntrack status                        |
    +-------------------------------+-------------------------------+
 28 |    translated source port     |  translated destination port  |
    +-------------------------------+-------------------------------+
 32 |                translated source (16 bytes)                   |
 48 |              translated destination (16 bytes)                |
    +---------------------------------------------------------------+
 64 |                        magic "AAHB"                           |
    +---------------+---------------+-------------------------------+
 68 |  version (1)  |     kind      |         length (80)           |
    +---------------+---------------+-------------------------------+
 72 |                  tag, SipHash-2-4 (8 bytes)                   |
    +---------------------------------------------------------------+

IPv4 addresses stand as ``::ffff:a.b.c.d``. The tag covers the original tuple, the TCP sequence number and the
first 72 bytes; see docs/handoff-block.md. The BPF twin is ``bpf/include/``.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from aa_cluster.errors import WireError
from aa_cluster.wire.siphash import siphash24

MAGIC = 0x41414842
VERSION = 1
KIND_SYN = 1
LENGTH = 80
TAG_AT = 72
MAX_NODE = 63

_BODY = struct.Struct("!HBBBBBBIIIIIHH16s16sIBBH")
_TUPLE = struct.Struct("!16s16sHHBBxx")
_SEQUENCE = struct.Struct("!I4x")
_MAPPED = bytes(10) + b"\xff\xff"

HELPERS: Mapping[int, str] = {1: "ftp"}
"""Conntrack helpers whose sessions can be shared, by their number on the wire. Append only; 0 is none."""

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class FlowTuple:
    """The original tuple as the SYN arrived at the primary. Both addresses are of one family."""

    source: Address
    destination: Address
    source_port: int
    destination_port: int
    protocol: int = 6

    @property
    def family(self) -> int:
        return self.source.version


@dataclass(frozen=True, slots=True)
class HandoffBlock:
    """The primary's decision about one session. Ports 0..65535, marks and numbers u32, ``family`` 4 or 6."""

    cluster_id: int
    owner: int
    ingress_slot: int
    family: int
    protocol: int
    generation: int
    epoch: int
    connmark: int
    mark: int
    ct_status: int
    source_port: int
    destination_port: int
    source: Address
    destination: Address
    helper: int = 0
    """A number of ``HELPERS``; 0: the session has none."""


def pack_address(address: Address) -> bytes:
    return address.packed if address.version == 6 else _MAPPED + address.packed


def unpack_address(packed: bytes, family: int) -> Address:
    if family == 6:
        return IPv6Address(packed)
    if not packed.startswith(_MAPPED):
        raise WireError(f"IPv4 block holds the address {packed.hex()}, expected ::ffff:a.b.c.d")
    return IPv4Address(packed[12:])


def tag(body: bytes, key: bytes, flow: FlowTuple, sequence: int) -> bytes:
    """8 bytes over tuple (40), sequence (8) and the block's first 72 bytes: 120 bytes in all."""
    head = _TUPLE.pack(
        pack_address(flow.source),
        pack_address(flow.destination),
        flow.source_port,
        flow.destination_port,
        flow.protocol,
        flow.family,
    )
    return siphash24(key, head + _SEQUENCE.pack(sequence) + body[:TAG_AT])


def encode(block: HandoffBlock, key: bytes, flow: FlowTuple, sequence: int) -> bytes:
    """The 80 bytes. ``key``: 16 bytes. A field out of its range is a ``WireError``."""
    try:
        body = _BODY.pack(
            block.cluster_id,
            block.owner,
            block.ingress_slot,
            block.family,
            block.protocol,
            block.helper,
            0,
            block.generation,
            block.epoch,
            block.connmark,
            block.mark,
            block.ct_status,
            block.source_port,
            block.destination_port,
            pack_address(block.source),
            pack_address(block.destination),
            MAGIC,
            VERSION,
            KIND_SYN,
            LENGTH,
        )
        return body + tag(body, key, flow, sequence)
    except struct.error as error:
        raise WireError(f"a field of the handoff block is out of range: {error}") from None


def decode(data: bytes, key: bytes, flow: FlowTuple, sequence: int) -> HandoffBlock:
    """Check the trailer first, then the tag, then the fields; ``WireError`` says which of them is wrong."""
    if len(data) != LENGTH:
        raise WireError(f"handoff block has {len(data)} bytes, expected {LENGTH}")
    fields = _BODY.unpack(data[:TAG_AT])
    _check_trailer(*fields[16:])
    try:
        expected = tag(data, key, flow, sequence)
    except struct.error as error:
        raise WireError(f"a field of the original tuple is out of range: {error}") from None
    if not hmac.compare_digest(data[TAG_AT:], expected):
        raise WireError("handoff block: the tag does not match its tuple, sequence number and content")
    return _from_fields(fields)


def _check_trailer(magic: int, version: int, kind: int, length: int) -> None:
    for what, found, expected in (
        ("magic", magic, MAGIC),
        ("version", version, VERSION),
        ("kind", kind, KIND_SYN),
        ("length", length, LENGTH),
    ):
        if found != expected:
            raise WireError(f"handoff block: {what} is {found}, expected {expected}")


def _from_fields(fields: tuple[int | bytes, ...]) -> HandoffBlock:
    numbers = [int.from_bytes(field, "big") if isinstance(field, bytes) else field for field in fields[:14]]
    cluster_id, owner, slot, family, protocol, helper, reserved = numbers[:7]
    generation, epoch, connmark, mark, status, sport, dport = numbers[7:]
    if family not in (4, 6):
        raise WireError(f"handoff block: family is {family}, expected 4 or 6")
    if reserved:
        raise WireError(f"handoff block: the reserved field is {reserved}, expected 0")
    if helper and helper not in HELPERS:
        raise WireError(f"handoff block: helper is {helper}, expected 0 or one of {sorted(HELPERS)}")
    if not 1 <= owner <= MAX_NODE:
        raise WireError(f"handoff block: owner is {owner}, expected 1 to {MAX_NODE}")
    source, destination = (
        unpack_address(field if isinstance(field, bytes) else b"", family) for field in fields[14:16]
    )
    return HandoffBlock(
        cluster_id=cluster_id,
        owner=owner,
        ingress_slot=slot,
        family=family,
        protocol=protocol,
        generation=generation,
        epoch=epoch,
        connmark=connmark,
        mark=mark,
        ct_status=status,
        source_port=sport,
        destination_port=dport,
        source=source,
        destination=destination,
        helper=helper,
    )
