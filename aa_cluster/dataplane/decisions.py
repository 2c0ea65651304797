# SPDX-License-Identifier: GPL-2.0-or-later
"""What decides about new sessions, written into and read from the maps: schedule, policy, persistence, live counters.

Schedule and policy have two banks: the one that is not in force is written whole, then one word makes it so. A program
sees the old or the new, never a mixture; sessions that have an owner are not asked again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import product

import numpy as np

from aa_cluster.core import persistence
from aa_cluster.core.policy import ANY_PORT, MAX_LINES, MAX_RULES, Network, Policy, Rule
from aa_cluster.dataplane import syscall
from aa_cluster.dataplane.events import address_text
from aa_cluster.dataplane.maps import MAX_NODES, RULE_COUNTERS, RULE_LINES, Map
from aa_cluster.errors import DataplaneError

Maps = Mapping[str, Map]

SEQUENCE_CAPACITY = 8192
MOST_WEIGHT = 255
KINDS = {"round-robin": 0, "weighted": 0, "least-connections": 1, "source-hash": 2, "random": 3}
"""enum schedule_kind of bpf/include/types.h."""

HITS_DEFAULT, HITS_KEEP_MARK, HITS_BUILT_IN = 64, 65, 66
"""AA_HITS_* of bpf/include/types.h: counters behind those of the operator's rules."""
ALL_SLOTS = 0xFFFF


@dataclass(frozen=True, slots=True)
class Binding:
    """``address``: the first of the client's prefix. ``idle_s``: since its last session began."""

    address: str
    node: int
    idle_s: float


@dataclass(frozen=True, slots=True)
class PolicyHits:
    """New sessions each part of the policy in force has decided; a kept one counts with every SYN or datagram asked
    about."""

    rules: tuple[int, ...]
    default: int
    keep_mark: int
    built_in: tuple[int, ...] = ()


def source_key(table_key: bytes) -> bytes:
    """The 16-byte SipHash key of the source-hash schedule, of the flow table's key: the same on every node."""
    return hashlib.blake2b(table_key, digest_size=16, person=b"aa source-hash").digest()


def write_schedule(maps: Maps, kind: str, sequence: Sequence[int], weights: Mapping[int, int]) -> None:
    """``weights`` names the nodes that may get new sessions, also those with weight 0; empty: those in ``sequence``."""
    if kind not in KINDS:
        raise DataplaneError(f"a schedule of kind {kind!r}, expected one of {', '.join(KINDS)}")
    if not 0 < len(sequence) <= SEQUENCE_CAPACITY:
        raise DataplaneError(f"a schedule of {len(sequence)} turns, expected 1 to {SEQUENCE_CAPACITY}")
    if kind == "least-connections" and len(set(sequence)) != len(sequence):
        raise DataplaneError("a least-connections schedule names a node twice")
    if any(not 0 <= weight <= MOST_WEIGHT for weight in weights.values()):
        raise DataplaneError(f"weights {dict(weights)}, expected 0 to {MOST_WEIGHT}")
    members = set(weights) | set(sequence)
    _check_ids(members)
    active = _number(maps["bank"])
    _wait_since_switched("bank")
    record = maps["sequences"].record()
    record["length"], record["kind"], record["members"] = len(sequence), KINDS[kind], _bits(members)
    for node in set(sequence):
        record["weight"][node] = weights.get(node, 1) or 1
    record["node"][: len(sequence)] = sequence
    aside = 1 - (active & 1)
    maps["sequences"].put(aside, record)
    _switch(maps, "bank", aside)


def write_draining(maps: Maps, ids: Collection[int]) -> None:
    _check_ids(ids)
    maps["draining"].put(0, np.array(_bits(ids), "<u8"))


def write_policy(maps: Maps, policy: Policy, slots: Mapping[str, int]) -> bool:
    """``slots``: data interface → slot. False: that very policy is in force already, and its counters go on."""
    if len(policy.rules) > MAX_RULES:
        raise DataplaneError(f"a policy of {len(policy.rules)} rules, expected {MAX_RULES} at most")
    lines = compile_policy(policy, slots, maps["rules"].value)
    if len(lines) > MAX_LINES:
        raise DataplaneError(f"a policy of {len(lines)} lines, expected {MAX_LINES} at most")
    header = maps["policies"].record()
    header["lines"], header["keep"] = len(lines), policy.default == "keep"
    header["keep_mark"], header["keep_mask"] = policy.keep_mark.value, policy.keep_mark.mask
    table, hits = maps["rules"].view(), maps["rule_hits"].view()
    active = _number(maps["policy_bank"]) & 1
    now = table[active * RULE_LINES :][: len(lines)]
    if _get(maps["policies"], active) == header.tobytes() and now.tobytes() == lines.tobytes():
        return False
    _wait_since_switched("policy_bank")
    aside = 1 - active
    table[aside * RULE_LINES :][: len(lines)] = lines
    hits[aside * RULE_COUNTERS :][:RULE_COUNTERS] = 0
    maps["policies"].put(aside, header)
    _switch(maps, "policy_bank", aside)
    return True


_STARTED = time.monotonic()
_switched: dict[str, float] = {}


def _wait_since_switched(bank: str) -> None:
    """Until nobody uses what was in force before the last switch. This process may not have made that one."""
    syscall.wait_for_programs(_switched.get(bank, _STARTED))


def _switch(maps: Maps, bank: str, active: int) -> None:
    maps[bank].put(0, np.array(active, "<u4"))
    _switched[bank] = time.monotonic()


def compile_policy(policy: Policy, slots: Mapping[str, int], dtype: np.dtype) -> np.ndarray:
    """Lines of the operator's rules, then of the built-in ones."""
    built_in = compile_rules(policy.built_in, slots, dtype, HITS_BUILT_IN)
    return np.concatenate([compile_rules(policy.rules, slots, dtype), built_in])


def compile_rules(rules: Sequence[Rule], slots: Mapping[str, int], dtype: np.dtype, first: int = 0) -> np.ndarray:
    """Lines of ``struct rule``, in order; one for each pair of port ranges. ``first``: number of the first rule."""
    lines = []
    for number, rule in enumerate(rules, first):
        for source_ports, ports in product(rule.source_ports or (ANY_PORT,), rule.ports or (ANY_PORT,)):
            line = np.zeros((), dtype)
            _fill(line, rule, slots)
            line["source_first"], line["source_last"] = source_ports.first, source_ports.last
            line["first"], line["last"] = ports.first, ports.last
            line["number"] = number
            lines.append(line)
    return np.array(lines, dtype)


def _fill(line: np.ndarray, rule: Rule, slots: Mapping[str, int]) -> None:
    if rule.interface is not None and rule.interface not in slots:
        raise DataplaneError(f"a policy rule names interface {rule.interface}, data interfaces are {', '.join(slots)}")
    line["slots"] = ALL_SLOTS if rule.interface is None else 1 << slots[rule.interface]
    line["protocol"] = rule.protocol or 0
    line["share"] = rule.action == "share"
    line["mark"], line["mark_mask"] = rule.mark.value, rule.mark.mask
    for name, network in (("source", rule.source), ("destination", rule.destination)):
        if network is not None:
            line["family"] = network.version
            line[name] = list(mapped(str(network.network_address)))
            line[f"{name}_mask"] = list(prefix_mask(network))


def prefix_mask(network: Network) -> bytes:
    return persistence.mask(network.prefixlen, network.max_prefixlen)


def read_hits(maps: Maps) -> PolicyHits:
    bank = _number(maps["policy_bank"]) & 1
    header = maps["policies"].get(bank)
    count = 0 if header is None else int(header["lines"])
    lines = maps["rules"].view()[bank * RULE_LINES :][:count]
    hits = maps["rule_hits"].view()[bank * RULE_COUNTERS :][:RULE_COUNTERS].tolist()
    numbers = lines["number"].astype(int)
    rules = int(numbers[numbers < MAX_RULES].max(initial=-1)) + 1
    built_in = int(numbers.max(initial=HITS_BUILT_IN - 1)) + 1
    return PolicyHits(
        tuple(hits[:rules]), hits[HITS_DEFAULT], hits[HITS_KEEP_MARK], tuple(hits[HITS_BUILT_IN:built_in])
    )


def read_live(maps: Maps) -> dict[int, int]:
    """Live flows by owner, as the programs count them; owners without any are left out."""
    live = maps["tallies"].view()["live"][0]
    return {owner: int(number) for owner, number in enumerate(live) if number}


def read_half_open(maps: Maps) -> int:
    return int(maps["tallies"].view()["half_open"][0])


def read_persistence_counts(maps: Maps) -> tuple[int, int]:
    """(hits, misses) since the maps were made."""
    tally = maps["tallies"].view()[0]
    return int(tally["persist_hits"]), int(tally["persist_misses"])


def read_bindings(maps: Maps, idle_s: float) -> list[Binding]:
    """Those that are still good; the longest idle last."""
    keys, values = maps["bindings"].read()
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    ages = np.maximum(now - values["seen_ns"].astype(np.int64), 0) / 1e9
    rows = zip(keys["address"], values["node"].tolist(), ages.tolist(), strict=True)
    found = [Binding(address_text(key.tobytes()), node, age) for key, node, age in rows if age < idle_s]
    return sorted(found, key=lambda binding: binding.idle_s)


def bind(maps: Maps, settings: persistence.Settings, address: str, node: int) -> None:
    """As if the client had just begun a session with that node."""
    _check_ids([node])
    value = maps["bindings"].record()
    value["seen_ns"], value["node"] = time.clock_gettime_ns(time.CLOCK_MONOTONIC), node
    maps["bindings"].put(client_key(address, settings), value)


def unbind(maps: Maps, settings: persistence.Settings, address: str) -> bool:
    return maps["bindings"].delete(client_key(address, settings))


def unbind_all(maps: Maps) -> int:
    """How many there were."""
    keys, _ = maps["bindings"].read()
    return maps["bindings"].delete_all(keys)


def fill_persistence(record: np.ndarray, settings: persistence.Settings | None) -> None:
    """Its part of a configuration record; None: off."""
    if settings is None:
        record["persist_idle_ns"] = 0
        return
    record["persist_idle_ns"] = int(settings.idle_s * 1e9)
    record["persist_v4"] = list(persistence.mask(settings.prefix_v4, 32))
    record["persist_v6"] = list(persistence.mask(settings.prefix_v6, 128))


def client_key(address: str, settings: persistence.Settings) -> bytes:
    return mapped(str(persistence.client(address, settings)))


def mapped(address: str) -> bytes:
    """``10.0.0.1`` → the 16 bytes of ::ffff:10.0.0.1, as the programs keep addresses."""
    parsed = ip_address(address)
    return parsed.packed if parsed.version == 6 else b"\0" * 10 + b"\xff\xff" + parsed.packed


def _check_ids(ids: Collection[int]) -> None:
    if any(not 0 < node < MAX_NODES for node in ids):
        raise DataplaneError(f"node ids {sorted(ids)}, expected 1 to {MAX_NODES - 1}")


def _bits(ids: Collection[int]) -> int:
    return sum(1 << node for node in set(ids))


def _number(which: Map) -> int:
    value = which.get(0)
    return 0 if value is None else int(value)


def _get(which: Map, index: int) -> bytes:
    value = which.get(index)
    return b"" if value is None else value.tobytes()
