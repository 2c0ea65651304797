# SPDX-License-Identifier: GPL-2.0-or-later
"""The keys of a cluster, each derived from the cluster key with HKDF-SHA256 (RFC 5869) and a label of its own."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass


def hkdf(key: bytes, label: str, length: int) -> bytes:
    """HKDF-SHA256 with an empty salt; ``length`` up to 8160 bytes, else ``ValueError``."""
    if not 0 < length <= 255 * 32:
        raise ValueError(f"HKDF gives 1 to 8160 bytes, {length} asked")
    pseudo_random_key = hmac.digest(bytes(32), key, hashlib.sha256)
    output = block = b""
    counter = 1
    while len(output) < length:
        block = hmac.digest(pseudo_random_key, block + label.encode() + bytes((counter,)), hashlib.sha256)
        output += block
        counter += 1
    return output[:length]


@dataclass(frozen=True, slots=True, repr=False)
class KeyRing:
    """``control``: HMAC key of the control protocol; ``handoff``: SipHash key of the block; ``table``: of the flow
    table's hash (176 bytes); ``replica``: SipHash key of replicas and pulses; ``fingerprint``: public."""

    control: bytes
    handoff: bytes
    table: bytes
    replica: bytes
    fingerprint: bytes

    @classmethod
    def derive(cls, cluster_key: bytes) -> KeyRing:
        return cls(
            control=hkdf(cluster_key, "aa-cluster control", 32),
            handoff=hkdf(cluster_key, "aa-cluster handoff", 16),
            table=hkdf(cluster_key, "aa-cluster flow table", 176),
            replica=hkdf(cluster_key, "aa-cluster replica", 16),
            fingerprint=hkdf(cluster_key, "aa-cluster fingerprint", 4),
        )
