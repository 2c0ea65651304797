# SPDX-License-Identifier: GPL-2.0-or-later
"""The dataplane of a made-up machine (fake_node.py): it remembers what it was told, and answers for its nodes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from aa_cluster.core.policy import Mark, Policy, Rule
from aa_cluster.dataplane.accounts import Look
from aa_cluster.dataplane.decisions import Binding, PolicyHits
from aa_cluster.dataplane.flows import FLOW_ROW, Choice, Owned
from aa_cluster.dataplane.pulses import Pulse
from aa_cluster.dataplane.reserver import Reserved
from aa_cluster.dataplane.settings import Member, Settings
from aa_cluster.errors import DataplaneError

if TYPE_CHECKING:
    from tests.unit.fake_node import Machine


@dataclass
class FakeQuestion:
    machine: Machine

    def answered(self) -> bool:
        return self.machine.primary_answers

    def close(self) -> None:
        self.machine.log.append("asked")


@dataclass
class FakePlane:
    """Remembers what it was told. ``pins`` on the machine outlive it, as they do in bpffs."""

    machine: Machine
    settings: Settings
    calls: list[str] = field(default_factory=list)
    members: dict[int, Member] = field(default_factory=dict)
    sequence: tuple[int, ...] = ()
    kind: str = ""
    weights: dict[int, int] = field(default_factory=dict)
    draining: frozenset[int] = frozenset()
    policies: list[Policy] = field(default_factory=list)
    bindings: dict[str, int] = field(default_factory=dict)
    sessions: dict[int, int] = field(default_factory=dict)

    def start(self) -> None:
        self.calls.append("start")
        if self.machine.broken:
            raise DataplaneError("the verifier says no", "use a newer kernel")
        self.machine.pinned = True
        self.machine.log.append("attached")

    def stop(self) -> None:
        self.calls.append("stop")
        if self.machine.stuck:
            raise DataplaneError("the filter is stuck")
        self.machine.pinned = False
        self.machine.log.append("detached")

    def close(self) -> None:
        self.calls.append("close")

    def update(self, settings: Settings) -> None:
        self.calls.append("update")
        self.settings = settings

    def change_role(self, settings: Settings, heir: bool = False) -> None:
        self.calls.append(f"change_role {settings.role}")
        if self.machine.broken:
            raise DataplaneError("the verifier says no", "use a newer kernel")
        self.settings = settings
        self.machine.log.append(f"attached as {settings.role}")

    def prepare_standby(self) -> None:
        self.calls.append("prepare_standby")
        if self.machine.unprepared:
            raise DataplaneError("the verifier says no", "use a newer kernel")

    def sent_up_to(self) -> int:
        return 17

    def mirrors_up_to(self, head: int) -> bool:
        return True

    def primary_heard(self) -> float:
        self.calls.append("primary_heard")
        return self.machine.primary_heard

    def ask_primary(self) -> FakeQuestion:
        self.calls.append("ask_primary")
        return FakeQuestion(self.machine)

    def forget_journal(self) -> None:
        self.calls.append("forget_journal")

    def become_source(self) -> None:
        self.calls.append("become_source")

    def clear_flows(self) -> None:
        self.calls.append("clear_flows")

    def set_heir(self, node_id: int) -> None:
        self.calls.append(f"set_heir {node_id}")

    def be_silent(self) -> None:
        self.calls.append("be_silent")

    def speak_again(self) -> None:
        self.calls.append("speak_again")

    def forget_heir(self) -> None:
        self.calls.append("forget_heir")

    def reassign(self, source: int, target: int, keep_own: bool = False) -> int:
        self.calls.append(f"reassign {source} {target}")
        return 0

    def reserve(self, owners: Collection[int]) -> Reserved:
        return Reserved(0, 0, 0)

    def set_members(self, members: Sequence[Member]) -> None:
        self.calls.append("set_members")
        self.members = {member.id: member for member in members}

    def set_hop(self, node_id: int, local: bool) -> None:
        self.calls.append(f"set_hop {node_id} {local}")

    def flows_of(self, owners: Collection[int], wanted: Choice | None = None) -> Owned:
        none = np.zeros(0, int)
        return Owned(none, np.zeros(0, FLOW_ROW), none.astype(bool))

    def unchanged(self, found: Owned) -> Owned:
        return found

    def prober(self) -> FakeProber:
        if self.machine.voiceless:
            raise DataplaneError("the program is gone")
        self.machine.prober = FakeProber(self.machine)
        return self.machine.prober

    def pulse_rows(self, node_ids: Iterable[int]) -> dict[tuple[int, int], Pulse]:
        return {(one, link): Pulse(5, 1, 4, 1, 2_000_000, 0, 0) for one in node_ids for link in (0, 1, 16)}

    def set_schedule(self, kind: str, sequence: Sequence[int], weights: Mapping[int, int]) -> None:
        self.calls.append("set_schedule")
        assert set(sequence) <= set(self.members)
        self.kind, self.sequence, self.weights = kind, tuple(sequence), dict(weights)

    def set_draining(self, ids: Collection[int]) -> None:
        self.draining = frozenset(ids)

    def set_policy(self, rules: Sequence[Rule], default: str, keep_mark: Mark, built_in: Sequence[Rule]) -> bool:
        self.policies.append(Policy(tuple(rules), default, keep_mark, tuple(built_in)))  # type: ignore[arg-type]
        return True

    def policy_hits(self) -> PolicyHits:
        live = self.policies[-1]
        return PolicyHits((7,) * len(live.rules), 8, 9, tuple(range(5, 5 + len(live.built_in))))

    def persist_counts(self) -> tuple[int, int]:
        return 3, 2

    def persist_entries(self) -> list[Binding]:
        return [Binding(address, node, 1.5) for address, node in self.bindings.items()]

    def persist_set(self, address: str, node: int) -> None:
        self.bindings[address] = node

    def persist_delete(self, address: str) -> bool:
        return self.bindings.pop(address, None) is not None

    def persist_flush(self) -> int:
        count = len(self.bindings)
        self.bindings.clear()
        return count

    def counters(self) -> dict[str, int]:
        return {"ARP_FROM_CACHE": 3, "STEER_TX": 5}

    def flows(self) -> np.ndarray:
        from aa_cluster.dataplane.flows import FLOW_ROW

        return np.zeros(0, FLOW_ROW)

    def account_look(self) -> Look | None:
        return Look(*(np.zeros(0, "<u8"),) * 3) if self.settings.accounting else None

    def carried_since(self, before: Look) -> dict[int, tuple[int, int]]:
        return {1: (20, 2000)}

    def sessions_by_owner(self) -> dict[int, int]:
        return dict(self.sessions)

    def live_by_kind(self) -> dict[tuple[int, int], int]:
        return {(6, 4): 3, (17, 6): 2}

    def begun_since(self, seconds: float) -> dict[int, int]:
        return {1: 10}

    def sweep(self) -> bool:
        return False

    def questions(self) -> list[Any]:
        return []

    def detached_hooks(self) -> list[Any]:
        return []

    def event_fd(self) -> int:
        return self.machine.pipe[0]

    def events_wait(self) -> bool:
        return bool(self.machine.events)

    def read_events(self) -> list[Any]:
        with contextlib.suppress(BlockingIOError):
            os.read(self.machine.pipe[0], 100)
        events, self.machine.events = self.machine.events, []
        return events

    def xdp_modes(self) -> dict[str, str]:
        return {port.name: "native" for port in self.settings.ports}


class FakeProber:
    """Nodes answer but for what is in ``machine.deaf``: (node id, link)."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._sent: dict[int, int] = {}
        self._answered: dict[tuple[int, int], int] = {}

    def send(self, nodes: frozenset[int]) -> int:
        doubt = 0
        for node_id in nodes:
            doubt |= self._send(node_id)
        return doubt

    def _send(self, node_id: int) -> int:
        before = self._sent.get(node_id, 0)
        deaf = {link for node, link in self._machine.deaf if node == node_id}
        for link in {0, 1, 16} - deaf:
            self._answered[node_id, link] = before
        self._sent[node_id] = before + 1
        return sum(1 << link for link in deaf)

    def counts(self, node_id: int, link: int) -> tuple[int, int]:
        return self._sent.get(node_id, 0), self._answered.get((node_id, link), 0)

    def close(self) -> None:
        pass
