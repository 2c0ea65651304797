# SPDX-License-Identifier: GPL-2.0-or-later
"""A control datagram: clear header, msgpack body (control.py), tag. See docs/control-protocol.md.

::

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +---------------------------------------------------------------+
  0 |                        magic "AACT"                           |
    +---------------+---------------+-------------------------------+
  4 |    version    |     flags     |          cluster id           |
    +---------------+---------------+-------------------------------+
  8 |                        key fingerprint                        |
    +---------------------------------------------------------------+
 12 |                 sender's instance (8 bytes)                   |
    +---------------------------------------------------------------+
 20 |                     sequence (8 bytes)                        |
    +---------------------------------------------------------------+
 28 |               body: a tagged msgpack array …                  |
    +---------------------------------------------------------------+
  … |      tag: HMAC-SHA256 over everything before, 16 bytes        |
    +---------------------------------------------------------------+

The first 12 bytes keep their place in every version: a node that cannot read a datagram can still say why.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass

from aa_cluster.errors import WireError
from aa_cluster.wire.control import AnyMessage, decode, encode

MAGIC = b"AACT"
VERSION = 1
FLAG_PRIMARY = 1
HEADER_BYTES = 28
TAG_BYTES = 16
INSTANCE_BYTES = 8
MAX_DATAGRAM = 60_000

_HEADER = struct.Struct("!4sBBH4s8sQ")


@dataclass(frozen=True, slots=True)
class Header:
    """What can be read without the key. ``instance`` is drawn anew at each agent start; ``sequence`` only rises."""

    version: int
    flags: int
    cluster_id: int
    fingerprint: bytes
    instance: bytes
    sequence: int


def seal(header: Header, message: AnyMessage, key: bytes) -> bytes:
    """The datagram. A field out of its range, or more than 60,000 bytes, is a ``WireError``."""
    try:
        head = _HEADER.pack(
            MAGIC,
            header.version,
            header.flags,
            header.cluster_id,
            header.fingerprint,
            header.instance,
            header.sequence,
        )
    except struct.error as error:
        raise WireError(f"a field of the control header is out of range: {error}") from None
    text = head + encode(message)
    if len(text) + TAG_BYTES > MAX_DATAGRAM:
        raise WireError(f"control message has {len(text)} bytes, at most {MAX_DATAGRAM - TAG_BYTES} fit a datagram")
    return text + _tag(text, key)


def peek(datagram: bytes) -> Header:
    """The clear header, not authenticated: good for saying why a datagram is not read, for nothing else."""
    if len(datagram) < HEADER_BYTES + TAG_BYTES:
        raise WireError(f"control datagram has {len(datagram)} bytes, expected at least {HEADER_BYTES + TAG_BYTES}")
    magic, version, flags, cluster_id, fingerprint, instance, sequence = _HEADER.unpack_from(datagram)
    if magic != MAGIC:
        raise WireError(f"control datagram starts with {magic.hex()}, expected {MAGIC.hex()}")
    return Header(version, flags, cluster_id, fingerprint, instance, sequence)


def unseal(datagram: bytes, key: bytes) -> AnyMessage:
    """Check the tag, then decode the body. The caller has compared version, cluster and fingerprint (``peek``)."""
    text, tag = datagram[:-TAG_BYTES], datagram[-TAG_BYTES:]
    if len(text) < HEADER_BYTES or not hmac.compare_digest(tag, _tag(text, key)):
        raise WireError("control datagram: the tag does not match, it was not made with this cluster's key")
    return decode(text[HEADER_BYTES:])


def _tag(text: bytes, key: bytes) -> bytes:
    return hmac.digest(key, text, hashlib.sha256)[:TAG_BYTES]
