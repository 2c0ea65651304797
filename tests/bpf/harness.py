# SPDX-License-Identifier: GPL-2.0-or-later
"""One network namespace, every program loaded into it unpinned, and BPF_PROG_TEST_RUN to feed them.

A test-run packet arrives on the loopback device (ifindex 1), so that is the data interface of slot 0 here.
"""

from __future__ import annotations

import os
import random
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import numpy as np
from pyroute2 import netns
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from aa_cluster.core.policy import Policy
from aa_cluster.dataplane import decisions, flows, kfuncs, programs, reasons, source, syscall
from aa_cluster.dataplane import object as objects
from aa_cluster.dataplane.events import Event, Ring
from aa_cluster.dataplane.flow_fill import Hasher, recount
from aa_cluster.dataplane.flows import (
    ESTABLISHED,
    FINGERPRINT_SHIFT,
    HASH_KEY_BYTES,
    OWNER_SHIFT,
    RECORD_MASK,
    RECORD_SHIFT,
    REPLY,
    SETTLED,
)
from aa_cluster.dataplane.maps import BINDINGS, EVENT_BYTES, Map, open_all
from aa_cluster.wire.block import FlowTuple, HandoffBlock, encode, pack_address

XDP_DROP, XDP_PASS, XDP_TX = 1, 2, 3
UDP_PROTOCOL = 17
TC_OK, TC_SHOT, TC_REDIRECT = 0, 2, 7

KEY = bytes(range(16))
TABLE_KEY = random.Random(6).randbytes(HASH_KEY_BYTES)
REPLICA_KEY = random.Random(8).randbytes(16)
SOURCE_KEY = random.Random(7).randbytes(16)
TIMEOUTS = {0: 30, 7: 120, 1: 120, 2: 60, 3: 432_000, 4: 120, 5: 120}
CLUSTER, GENERATION, EPOCH = 7, 3, 5
SELF, OTHER, THIRD = 1, 2, 3
LOOPBACK = 1
HA_IFINDEX = 77

VIRTUAL = "02:aa:00:07:00:00"
PHYSICAL = "02:00:00:01:00:01"
HA_MAC = "02:00:00:00:00:01"
CLIENT_MAC = "02:00:00:00:0c:01"
CLIENT, SERVER, PUBLIC = "10.77.1.100", "10.77.2.100", "10.77.2.1"

ALL = source.programs()


def raw_mac(text: str) -> list[int]:
    return list(bytes.fromhex(text.replace(":", "")))


def node_mac(node: int, slot: int = 0) -> str:
    return f"02:00:00:{slot + 1:02x}:00:{node:02x}"


def node_ha_mac(node: int) -> str:
    return f"02:00:00:00:00:{node:02x}"


def mapped(address: str) -> bytes:
    """16 bytes; of IPv4 the v4-mapped form."""
    return pack_address(ip_address(address))


@dataclass(frozen=True, slots=True)
class Ran:
    """What a program did: verdict, the packet it left, the reasons it counted."""

    verdict: int
    raw: bytes
    why: dict[str, int]
    context: bytes

    @property
    def packet(self) -> Packet:
        return Ether(self.raw)

    @property
    def mark(self) -> int:
        return int(struct.unpack_from("=I", self.context, 8)[0])


@dataclass
class Plane:
    """The loaded programs and their maps."""

    maps: dict[str, Map]
    fds: dict[str, int]
    ring: Ring
    before: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def run(self, program: str, packet: Packet | bytes, ingress: int = LOOPBACK, mark: int = 0, cb: int = 0) -> Ran:
        before = self.maps["reasons"].per_cpu_sum()
        raw = bytes(packet)
        if program in ("steer", "relinquish"):
            result = syscall.run_program(self.fds[program], raw)
        else:
            context = skb_context(ingress, mark, cb)
            result = syscall.run_program(self.fds[program], raw, context=context)
        delta = self.maps["reasons"].per_cpu_sum() - before
        why = {reason.name: int(delta[reason.number]) for reason in reasons.all_reasons() if delta[reason.number]}
        return Ran(result.verdict, result.packet, why, result.context)

    def configure(self, /, **changes: int | np.ndarray) -> None:
        record = self.maps["config"].record()
        record["key"] = np.frombuffer(KEY, "<u8")
        record["replica_key"] = np.frombuffer(REPLICA_KEY, "<u8")
        values: dict[str, int | np.ndarray] = {
            "generation": GENERATION,
            "epoch": EPOCH,
            "cluster_id": CLUSTER,
            "self": SELF,
            "primary": SELF,
            "ha_ifindex": HA_IFINDEX,
            "bucket_mask": self.maps["buckets"].info.entries - 1,
            "flow_limit": self.maps["records"].info.entries - 1,
            "half_open_limit": self.maps["records"].info.entries - 1,
            "ha_mac": raw_mac(HA_MAC),
            "primary_ha_mac": raw_mac(HA_MAC),
        } | changes
        for name, value in values.items():
            record[name] = value
        record["hash_key"] = np.frombuffer(TABLE_KEY, "<u8")
        record["source_key"] = np.frombuffer(SOURCE_KEY, "<u8")
        for state, seconds in TIMEOUTS.items():
            record["timeout_s"][state] = seconds
        self.maps["config"].put(0, record)

    def port(self, ifindex: int = LOOPBACK, slot: int = 0, mtu: int = 1500) -> None:
        record = self.maps["ports"].record()
        record["ifindex"], record["mtu"], record["slot"] = ifindex, mtu, slot
        record["physical_mac"], record["virtual_mac"] = raw_mac(PHYSICAL), raw_mac(VIRTUAL)
        self.maps["ports"].put(ifindex % 256, record)
        self.maps["slots"].put(slot, record)

    def nodes(self, **hops: int) -> None:
        """``nodes(n1=1, n2=2)``: hop kinds by node id (0 none, 1 local, 2 steer)."""
        for identifier in range(1, 64):
            record = self.maps["nodes"].record()
            record["hop"] = hops.get(f"n{identifier}", 0)
            record["ha_mac"] = raw_mac(node_ha_mac(identifier))
            flat = [byte for slot in range(16) for byte in raw_mac(node_mac(identifier, slot))]
            record["macs"] = flat
            self.maps["nodes"].put(identifier, record)

    def schedule(self, *turns: int) -> None:
        record = self.maps["sequences"].record()
        record["length"] = len(turns)
        record["node"][: len(turns)] = turns
        self.maps["sequences"].put(0, record)
        self.maps["bank"].put(0, np.array(0, "<u4"))
        self.maps["turns"].put(0, np.array(0, "<u8"))

    def add_flow(self, flow: FlowTuple, reply: FlowTuple, owner: int, state: int, seen_ns: int | None = None) -> int:
        """As ``handoff`` leaves it; gives the record's number. Never used with a table near full."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) if seen_ns is None else seen_ns
        index = int(self.maps["watermark"].get(0)) + 1
        self.maps["watermark"].put(0, np.array(index, "<u8"))
        record = self.maps["records"].view()[index]
        for which, end in ((flow, "original"), (reply, "reply")):
            for name, value in tuple_fields(which).items():
                record[f"{end}_{name}"] = value
        record["owner"], record["state"], record["ended"] = owner, state, 0
        record["created_ns"] = record["seen_ns"] = now
        flags = SETTLED if state >= ESTABLISHED else 0
        for direction, which in enumerate((flow, reply)):
            record["place"][direction] = self.put_entry(which, index, owner, flags | (REPLY if direction else 0))
        recount(self.maps)
        return index

    def hashes(self, which: FlowTuple) -> tuple[int, int]:
        """(fingerprint, bucket)."""
        row = np.zeros(1, flows.FLOW_ROW)
        for name, value in tuple_fields(which).items():
            row[name] = value
        row["sport"], row["dport"] = which.source_port, which.destination_port
        fingerprint, bucket = Hasher(TABLE_KEY)(row)
        return int(fingerprint[0]), int(bucket[0]) & (self.maps["buckets"].info.entries - 1)

    def put_entry(self, which: FlowTuple, index: int, owner: int, flags: int) -> int:
        fingerprint, bucket = self.hashes(which)
        line = self.maps["buckets"].view()["word"][bucket]
        free = int(np.flatnonzero(line == 0)[0])
        line[free] = fingerprint << FINGERPRINT_SHIFT | index << RECORD_SHIFT | owner << OWNER_SHIFT | flags
        return bucket * 8 + free

    def word(self, which: FlowTuple) -> int:
        """The entry of that tuple's fingerprint, in either bucket; 0 when there is none."""
        fingerprint, bucket = self.hashes(which)
        table = self.maps["buckets"].view()["word"]
        for line in (table[bucket], table[(bucket ^ (fingerprint | 1)) & (len(table) - 1)]):
            for word in line:
                if int(word) >> FINGERPRINT_SHIFT == fingerprint and int(word):
                    return int(word)
        return 0

    def flow(self, which: FlowTuple) -> np.ndarray | None:
        """The record behind that tuple."""
        word = self.word(which)
        return self.maps["records"].view()[word >> RECORD_SHIFT & RECORD_MASK] if word else None

    def owner(self, which: FlowTuple) -> int:
        """As the hot entry has it."""
        return self.word(which) >> OWNER_SHIFT & 63

    def entry_count(self) -> int:
        return int(np.count_nonzero(self.maps["buckets"].view()["word"]))

    def flow_count(self) -> int:
        return flows.count(self.maps["records"], self.maps["watermark"])

    def sweep(self) -> None:
        """One look at every record."""
        runs = int(self.maps["watermark"].get(0)) // 32 + 1
        self.maps["swept"].put(0, self.maps["swept"].record())
        syscall.run_program(self.fds["sweep"], bytes(64), repeat=runs)

    def reset(self) -> None:
        self.maps["buckets"].view()["word"][:] = 0
        self.maps["records"].view()["state"][:] = 0
        self.maps["accounts"].view()[:] = np.zeros((), self.maps["accounts"].value)
        self.maps["watermark"].put(0, np.array(0, "<u8"))
        self.maps["tallies"].view()["persist_hits"][:] = self.maps["tallies"].view()["persist_misses"][:] = 0
        recount(self.maps)
        self.maps["pulses"].view()[:] = np.zeros((), self.maps["pulses"].value)
        decisions.write_policy(self.maps, Policy(), {})
        decisions.write_draining(self.maps, ())
        decisions.unbind_all(self.maps)
        while syscall.map_pop(self.maps["released"].fd, 4) is not None:
            pass
        for name in ("questions", "fragments", "expected", "expecting", "controls", "announced"):
            for key in self.maps[name].read()[0]:
                self.maps[name].delete(key.tobytes())
        self.ring.read()
        self.configure()
        self.port()
        self.nodes(n1=1, n2=2, n3=2)
        self.schedule(OTHER)
        subprocess.run(["conntrack", "-F"], capture_output=True, check=True)

    def events(self) -> list[Event]:
        return self.ring.read()


def skb_context(ingress: int, mark: int, cb: int) -> bytes:
    """struct __sk_buff with the fields a test-run may set: mark, ingress_ifindex, cb[0]."""
    raw = bytearray(192)
    struct.pack_into("=I", raw, 8, mark)
    struct.pack_into("=I", raw, 36, ingress)
    struct.pack_into("=I", raw, 48, cb)
    return bytes(raw)


def tuple_fields(which: FlowTuple) -> dict[str, object]:
    return {
        "saddr": list(mapped(str(which.source))),
        "daddr": list(mapped(str(which.destination))),
        "sport": struct.unpack("<H", struct.pack(">H", which.source_port))[0],
        "dport": struct.unpack("<H", struct.pack(">H", which.destination_port))[0],
        "protocol": which.protocol,
        "family": which.family,
    }


def tuple_bytes(which: FlowTuple) -> bytes:
    ports = struct.pack("!HHBBxx", which.source_port, which.destination_port, which.protocol, which.family)
    return mapped(str(which.source)) + mapped(str(which.destination)) + ports


def tuple_of(source_: str, sport: int, destination: str, dport: int, protocol: int = 6) -> FlowTuple:
    return FlowTuple(ip_address(source_), ip_address(destination), sport, dport, protocol)


def reversed_tuple(which: FlowTuple) -> FlowTuple:
    return FlowTuple(which.destination, which.source, which.destination_port, which.source_port, which.protocol)


def segment(which: FlowTuple, flags: str, payload: bytes = b"", **fields: object) -> Packet:
    """A whole frame of that tuple's family and protocol for the virtual MAC, checksums right, as scapy builds it.
    ``flags`` and ``options`` are TCP's, and of no account in a datagram."""
    ttl = int(str(fields.pop("ttl", 64)))
    return Ether(
        bytes(Ether(src=CLIENT_MAC, dst=VIRTUAL) / network(which, ttl) / transport(which, flags, fields) / payload)
    )


def network(which: FlowTuple, ttl: int = 64) -> Packet:
    if which.family == 6:
        return IPv6(src=str(which.source), dst=str(which.destination), hlim=ttl)
    return IP(src=str(which.source), dst=str(which.destination), ttl=ttl, flags="DF")


def transport(which: FlowTuple, flags: str, fields: dict[str, object]) -> Packet:
    ports = {"sport": which.source_port, "dport": which.destination_port}
    if which.protocol == UDP_PROTOCOL:
        fields.pop("options", None)
        return UDP(**ports, **fields)
    return TCP(**ports, flags=flags, seq=1000, **fields)


def sequence_of(which: FlowTuple) -> int:
    """What the tag has of ``segment``'s frames."""
    return 0 if which.protocol == UDP_PROTOCOL else 1000


def block_for(which: FlowTuple, translated: FlowTuple | None = None, **changes: int) -> HandoffBlock:
    """A block that verifies at node ``SELF``; ``translated`` is the tuple after NAT."""
    after = translated or which
    values: dict[str, int] = {
        "cluster_id": CLUSTER,
        "owner": SELF,
        "ingress_slot": 0,
        "family": which.family,
        "protocol": which.protocol,
        "generation": GENERATION,
        "epoch": EPOCH,
        "connmark": 0x1234,
        "mark": 0x42,
        "ct_status": 0x18A,
    } | changes
    return HandoffBlock(
        **values,
        source=after.source,
        destination=after.destination,
        source_port=after.source_port,
        destination_port=after.destination_port,
    )


def handed(which: FlowTuple, block: bytes, payload: bytes = b"", flags: str = "S") -> Packet:
    """The frame an auxiliary gets: from the virtual MAC, block behind the payload, checksums over all of it."""
    frame = segment(which, flags, payload + block, options=[("MSS", 1460)])
    frame[Ether].src, frame[Ether].dst = VIRTUAL, PHYSICAL
    return frame


def sealed(which: FlowTuple, translated: FlowTuple | None = None, **changes: int) -> bytes:
    return encode(block_for(which, translated, **changes), KEY, which, sequence_of(which))


def checksums_right(raw: bytes) -> bool:
    """Scapy computes all checksums there are anew; they must equal the ones the program left."""
    packet = Ether(raw)
    again = packet.copy()
    layers = [layer for layer in (IP, TCP, UDP) if layer in packet]
    for layer in layers:
        del again[layer].chksum
    again = Ether(bytes(again))
    return all(packet[layer].chksum == again[layer].chksum for layer in layers)


def arp(operation: int, sender: tuple[str, str], target: tuple[str, str], ether: tuple[str, str]) -> Packet:
    """``sender``/``target``: (MAC, IP); ``ether``: (destination, source)."""
    return Ether(dst=ether[0], src=ether[1], type=0x0806) / ARP(
        op=operation, hwsrc=sender[0], psrc=sender[1], hwdst=target[0], pdst=target[1]
    )


def entry(original: FlowTuple, reply: FlowTuple, mark: int = 0, state: str = "SYN_SENT") -> None:
    """A conntrack entry in this namespace, as the primary's netfilter would have made it. ``reply`` as on the wire.
    ``state``: TCP's; of UDP only whether it is ESTABLISHED counts, so answered."""
    udp = ["-p", "udp", *(["-u", "SEEN_REPLY"] if state == "ESTABLISHED" else [])]
    command = ["conntrack", "-I", *(udp if original.protocol == UDP_PROTOCOL else ["-p", "tcp", "--state", state])]
    command += ["--timeout", "120", "--mark", str(mark)]
    command += ["-s", str(original.source), "-d", str(original.destination)]
    command += ["--sport", str(original.source_port), "--dport", str(original.destination_port)]
    command += ["-r", str(reply.source), "-q", str(reply.destination)]
    command += ["--reply-port-src", str(reply.source_port), "--reply-port-dst", str(reply.destination_port)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")


@contextmanager
def namespace(name: str) -> Iterator[None]:
    """This process moves into a namespace of its own, with NAT and conntrack hooks, and back."""
    netns.create(name)
    try:
        netns.pushns(name)
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            rules = (
                "table inet t {\nchain n { type nat hook prerouting priority 0; }\n"
                "chain p { type nat hook postrouting priority 0; }\n"
                "chain f { type filter hook forward priority 0; ct state new accept; }\n}\n"
            )
            subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
            yield
        finally:
            netns.popns()
    finally:
        netns.remove(name)


@contextmanager
def loaded(cache: Path, flow_entries: int = 1024, names: tuple[str, ...] = ALL) -> Iterator[Plane]:
    """All programs on one set of maps, in the namespace the caller is in."""
    compiled = objects.load(names, kfuncs.offsets(), cache)
    declarations = {name: item for each in compiled.values() for name, item in each.maps.items()}
    maps = open_all(declarations, None, flow_entries, accounting=True)
    with _running(compiled, maps) as plane:
        yield plane


@contextmanager
def operated(
    cache: Path,
    program: str,
    room: int,
    flow_entries: int,
    defines: dict[str, int] | None = None,
    bindings: int = BINDINGS,
) -> Iterator[Plane]:
    """A program of bpf/tests that does ``room`` operations at most, from its map `ops`; and the sweep beside it."""
    compiled = objects.load((f"tests/{program}", "sweep"), kfuncs.offsets() | (defines or {}), cache)
    declarations = {name: item for each in compiled.values() for name, item in each.maps.items()}
    ops = declarations.pop("ops")
    maps = open_all(declarations, None, flow_entries, bindings=bindings)
    fd = syscall.map_create(syscall.MAP_ARRAY, 4, ops.value_size, room, syscall.MMAPABLE, "ops")
    maps["ops"] = Map("ops", fd, ops)
    with _running(compiled, maps) as plane:
        yield plane


@contextmanager
def _running(compiled: dict[str, objects.Object], maps: dict[str, Map]) -> Iterator[Plane]:
    """All is closed at its end."""
    fds = programs.load(compiled, maps)
    ring = Ring(maps["events"].fd, EVENT_BYTES)
    try:
        yield Plane(maps, fds, ring)
    finally:
        ring.close()
        for fd in fds.values():
            os.close(fd)
        for item in maps.values():
            item.close()
