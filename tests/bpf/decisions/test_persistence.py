# SPDX-License-Identifier: GPL-2.0-or-later
"""A client keeps its node."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address, IPv6Address

import numpy as np
import pytest

from aa_cluster.core import persistence
from aa_cluster.dataplane import decisions
from tests.bpf.decisions.sessions import (
    FIVE,
    SENT,
    UNEQUAL,
    fresh,
    opening,
    owners,
    run,
    use,
)
from tests.bpf.harness import Plane

pytestmark = pytest.mark.bpf


class TestPersistence:
    IDLE_S = 300.0

    @pytest.fixture(autouse=True)
    def enabled(self, plane: Plane) -> None:
        self.enable(plane, persistence.Settings(self.IDLE_S))

    def enable(self, plane: Plane, settings: persistence.Settings | None) -> None:
        record = plane.maps["config"].record()
        decisions.fill_persistence(record, settings)
        names = ("persist_idle_ns", "persist_v4", "persist_v6")
        plane.configure(**{name: record[name] for name in names})

    def age(self, plane: Plane, seconds: float) -> None:
        """As if so much time had passed for every client."""
        bindings = plane.maps["bindings"]
        for key, value in zip(*bindings.read(), strict=True):
            older = value.copy()
            older["seen_ns"] -= np.uint64(seconds * 1e9)
            bindings.put(key.tobytes(), older)

    def test_twenty_reconnects(self, plane: Plane) -> None:
        use(plane, "round-robin", FIVE)
        got = np.array(owners(plane, 200 * 20, clients_=200)).reshape(20, 200)
        assert (got == got[0]).all()
        assert Counter(got[0].tolist()) == dict.fromkeys(FIVE, 40)
        assert decisions.read_persistence_counts(plane.maps) == (200 * 19, 200)
        assert int(plane.maps["turns"].get(0)) == 200, "a client that is known takes no turn"

    def test_it_expires_when_it_says(self, plane: Plane) -> None:
        use(plane, "weighted", {2: 1})
        owners(plane, 50)
        use(plane, "weighted", {2: 1, 3: 100})
        self.age(plane, self.IDLE_S - 5)
        assert set(owners(plane, 50, first=1 << 20)) == {2}
        self.age(plane, self.IDLE_S - 5)
        assert set(owners(plane, 50, first=2 << 20)) == {2}, "each session renews it"
        self.age(plane, self.IDLE_S)
        assert set(owners(plane, 50, first=3 << 20)) == {3}

    def test_a_prefix_is_one_client(self, plane: Plane) -> None:
        self.enable(plane, persistence.Settings(prefix_v4=24))
        use(plane, "round-robin", FIVE)
        got = np.array(owners(plane, 256 * 10)).reshape(10, 256)
        assert (got == got[:, :1]).all()
        assert Counter(got[:, 0].tolist()) == dict.fromkeys(FIVE, 2)

    @pytest.mark.parametrize("protocol", [6, 17])
    @pytest.mark.parametrize("length", [32, 40, 48, 56, 63, 64])
    def test_an_ipv6_prefix_is_one_client(self, plane: Plane, length: int, protocol: int) -> None:
        """Clients in 2001:db8::/32, 256 hosts in each of 16 networks whose numbers differ from bit 32 on."""
        settings = persistence.Settings(self.IDLE_S, prefix_v6=length)
        self.enable(plane, settings)
        use(plane, "round-robin", FIVE)
        networks = [(one << 28 | one << 20 | one << 12 | one << 4 | one & 1) for one in range(16)]
        owner: dict[str, set[int]] = {}
        for network in networks:
            done = run(plane, opening(plane, *fresh(256), 6, protocol, network))
            assert set(done["why"].tolist()) == {SENT}
            for row in done:
                client = str(persistence.client(IPv6Address(row["original_saddr"].tobytes()), settings))
                owner.setdefault(client, set()).add(int(row["owner"]))
        assert len(owner) == len({network >> (64 - length) for network in networks})
        assert all(len(one) == 1 for one in owner.values()), "a client keeps its node"
        assert decisions.read_persistence_counts(plane.maps) == (16 * 256 - len(owner), len(owner))
        shown = {row.address: row.node for row in decisions.read_bindings(plane.maps, self.IDLE_S)}
        assert shown == {client: nodes.pop() for client, nodes in owner.items()}

    def test_one_client_has_one_node_for_both_protocols_and_one_for_each_family(self, plane: Plane) -> None:
        use(plane, "round-robin", FIVE)
        who = np.arange(100), np.full(100, 1024)
        tcp, udp = (run(plane, opening(plane, *who, 6, protocol))["owner"].tolist() for protocol in (6, 17))
        assert tcp == udp
        assert int(plane.maps["turns"].get(0)) == 100
        run(plane, opening(plane, *who, 4, 17))
        assert int(plane.maps["turns"].get(0)) == 200

    def test_the_operator_may_say_of_ipv6(self, plane: Plane) -> None:
        settings = persistence.Settings(self.IDLE_S, prefix_v6=64)
        self.enable(plane, settings)
        use(plane, "weighted", {2: 1, 4: 0})
        decisions.bind(plane.maps, settings, "2001:db8:0:7::1", 4)
        inside = run(plane, opening(plane, *fresh(8), 6, 17, prefix=7))
        assert set(inside["owner"].tolist()) == {4}
        outside = run(plane, opening(plane, *fresh(8), 6, 17, prefix=8))
        assert set(outside["owner"].tolist()) == {2}
        assert decisions.unbind(plane.maps, settings, "2001:db8:0:7:ffff::")

    @pytest.mark.parametrize("why", ["drains", "left", "not a member"])
    def test_a_node_that_cannot_take_it(self, plane: Plane, why: str) -> None:
        use(plane, "weighted", {2: 1})
        owners(plane, 50)
        use(plane, "weighted", {3: 1} if why == "not a member" else {2: 1, 3: 100})
        if why == "drains":
            decisions.write_draining(plane.maps, {2})
        elif why == "left":
            plane.nodes(n1=1, n3=2)
        assert set(owners(plane, 50, first=1 << 20)) == {3}
        assert decisions.read_persistence_counts(plane.maps) == (0, 100)

    def test_weight_0_takes_no_new_clients_and_keeps_the_old(self, plane: Plane) -> None:
        use(plane, "weighted", {2: 1, 3: 0})
        owners(plane, 50)
        use(plane, "weighted", {2: 0, 3: 1})
        assert set(owners(plane, 50, first=1 << 20)) == {2}
        assert set(owners(plane, 50, first=50)) == {3}

    def test_the_operator_may_say(self, plane: Plane) -> None:
        settings = persistence.Settings(self.IDLE_S)
        use(plane, "weighted", {2: 1, 3: 1, 4: 0})
        decisions.bind(plane.maps, settings, "10.0.0.7", 4)
        assert owners(plane, 8)[7] == 4
        rows = decisions.read_bindings(plane.maps, self.IDLE_S)
        assert {(row.address, row.node) for row in rows} >= {("10.0.0.7", 4)}
        assert all(0 <= row.idle_s < 5 for row in rows)
        assert decisions.unbind(plane.maps, settings, "10.0.0.7")
        assert not decisions.unbind(plane.maps, settings, "10.0.0.7")
        assert decisions.unbind_all(plane.maps) == 7
        assert decisions.read_bindings(plane.maps, self.IDLE_S) == []

    def test_its_size_is_bounded(self, plane: Plane) -> None:
        use(plane, "round-robin", FIVE)
        owners(plane, 5000)
        assert len(plane.maps["bindings"].read()[0]) <= 1024

    def test_off_nothing_is_remembered(self, plane: Plane) -> None:
        self.enable(plane, None)
        use(plane, "round-robin", FIVE)
        owners(plane, 500, clients_=10)
        assert len(plane.maps["bindings"].read()[0]) == 0
        assert decisions.read_persistence_counts(plane.maps) == (0, 0)

    def test_random_clients_and_times_agree_with_the_oracle(self, plane: Plane) -> None:
        sequence = use(plane, "weighted", UNEQUAL)
        oracle = persistence.Bindings(persistence.Settings(self.IDLE_S))
        dice = np.random.default_rng(3)
        now, turn = 0.0, 0
        for round_ in range(40):
            who = dice.integers(0, 100, 60)
            done = run(plane, opening(plane, who, np.arange(1024 + 60 * round_, 1084 + 60 * round_)))
            for client, owner in zip(who.tolist(), done["owner"].tolist(), strict=True):
                address = str(IPv4Address(0x0A000000 + client))
                expected = oracle.recall(address, now, UNEQUAL)
                if expected is None:
                    expected = sequence[turn % len(sequence)]
                    turn += 1
                    oracle.remember(address, expected, now)
                assert owner == expected
            passed = float(dice.choice([1, 40, 120]))
            self.age(plane, passed)
            now += passed
        assert decisions.read_persistence_counts(plane.maps) == (oracle.hits, oracle.misses)
        assert oracle.hits > 500
        assert oracle.misses > 200
