# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames between auxiliary and primary that announce a session, as scapy builds them."""

from __future__ import annotations

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from aa_cluster.wire import announcement as wire
from aa_cluster.wire.announcement import Announcement
from aa_cluster.wire.block import FlowTuple
from tests.bpf.harness import CLUSTER, EPOCH, GENERATION, KEY, OTHER, VIRTUAL, node_mac

NEXT_HOP = "02:00:00:00:0c:09"
SEQUENCE = 1000


def announced(session: FlowTuple, **changes: int) -> Announcement:
    """Of node ``OTHER``, on slot 0, its own."""
    values = {
        "kind": wire.KIND_FLOW,
        "cluster_id": CLUSTER,
        "node": OTHER,
        "slot": 0,
        "generation": GENERATION,
        "epoch": EPOCH,
        "connmark": 0x77,
        "flags": wire.OWN,
    } | changes
    return Announcement(**values, next_hop=bytes.fromhex(NEXT_HOP.replace(":", "")), session=session)


def plain(carrier: FlowTuple, flags: str = "S", payload: bytes = b"", checksum: bool = True) -> Packet:
    """The packet itself as it would leave the auxiliary for its next hop."""
    ports = {"sport": carrier.source_port, "dport": carrier.destination_port}
    if carrier.protocol == 6:
        transport = TCP(**ports, flags=flags, seq=SEQUENCE, options=[("MSS", 1460)] if "S" in flags else [])
    else:
        transport = UDP(**ports) if checksum else UDP(**ports, chksum=0)
    network = (IP if carrier.family == 4 else IPv6)(src=str(carrier.source), dst=str(carrier.destination))
    return Ether(bytes(Ether(src=node_mac(OTHER), dst=NEXT_HOP) / network / transport / payload))


def with_block(
    carrier: FlowTuple,
    block: Announcement,
    flags: str = "S",
    payload: bytes = b"",
    key: bytes = KEY,
    checksum: bool = True,
) -> Packet:
    """The same with the block behind its payload, on its way to the primary."""
    sequence = SEQUENCE if carrier.protocol == 6 else 0
    frame = plain(carrier, flags, payload + wire.encode(block, key, carrier, sequence), checksum)
    frame[Ether].dst, frame[Ether].type = VIRTUAL, wire.ETHERTYPE
    return frame


def right(raw: bytes) -> bool:
    """Lengths and checksums, computed anew, are those in the frame; a UDP checksum of zero is left out of it."""
    packet = Ether(raw[:12] + (b"\x08\x00" if raw[14] >> 4 == 4 else b"\x86\xdd") + raw[14:])
    again = packet.copy()
    layer = TCP if TCP in packet else UDP
    kept = packet[layer].chksum
    network = ((IP, "len"), (IP, "chksum")) if IP in packet else ((IPv6, "plen"),)
    for each, name in (*network, *(((UDP, "len"),) if layer is UDP else ())):
        delattr(again[each], name)
    if kept or layer is TCP:
        del again[layer].chksum
    return bytes(Ether(bytes(again))) == bytes(packet)
