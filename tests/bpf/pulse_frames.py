# SPDX-License-Identifier: GPL-2.0-or-later
"""Pulses and their answers as they are on the wire (docs/liveness.md), made and read without the programs."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from aa_cluster.wire.siphash import siphash24
from tests.bpf.harness import CLUSTER, EPOCH, GENERATION, OTHER, REPLICA_KEY, SELF

ETHERTYPE = 0x88B6
PULSE, ANSWER = 2, 3
HA_LINK = 16
_FRAME = struct.Struct("!4sBBHIIBBHB3xQQQ")


@dataclass(frozen=True, slots=True)
class Frame:
    """The fields of struct pulse_frame; the defaults are what node ``OTHER`` answers ``SELF``."""

    kind: int = ANSWER
    sequence: int = 1
    link: int = 0
    sender: int = OTHER
    target: int = SELF
    generation: int = GENERATION
    epoch: int = EPOCH
    cluster_id: int = CLUSTER
    sent_ns: int = 0
    journal_head: int = 0
    magic: bytes = b"AAHL"
    version: int = 1
    length: int = 56

    def encode(self, key: bytes = REPLICA_KEY) -> bytes:
        raw = _FRAME.pack(
            self.magic,
            self.version,
            self.kind,
            self.cluster_id,
            self.generation,
            self.epoch,
            self.sender,
            self.target,
            self.length,
            self.link,
            self.sequence,
            self.sent_ns,
            self.journal_head,
        )
        return raw + siphash24(key, raw)

    def packet(self, destination: str, source: str, key: bytes = REPLICA_KEY) -> Packet:
        return Ether(dst=destination, src=source, type=ETHERTYPE) / Raw(self.encode(key))


def decode(raw: bytes, key: bytes = REPLICA_KEY) -> Frame:
    """From a whole Ethernet frame; its tag must be right."""
    body, tag = raw[14 : 14 + _FRAME.size], raw[14 + _FRAME.size : 14 + _FRAME.size + 8]
    assert tag == siphash24(key, body)
    magic, version, kind, cluster, generation, epoch, sender, target, length, link, *rest = _FRAME.unpack(body)
    sequence, sent_ns, head = rest
    return Frame(
        kind, sequence, link, sender, target, generation, epoch, cluster, sent_ns, head, magic, version, length
    )
