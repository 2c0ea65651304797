# SPDX-License-Identifier: GPL-2.0-or-later
"""Flows are counted exactly, and half-open ones have their share of the table."""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pytest

from aa_cluster.dataplane import flow_fill, flows, syscall
from tests.bpf.decisions.sessions import (
    ACK,
    FIN,
    FIVE,
    HALF_OPEN,
    PACKET,
    ROOM,
    RST,
    SENT,
    SYN,
    TCP_SYN,
    UNEQUAL,
    counted,
    fresh,
    opening,
    packets,
    recounted,
    run,
    use,
)
from tests.bpf.harness import Plane

pytestmark = pytest.mark.bpf


class TestHalfOpen:
    def test_they_have_their_share_and_established_flows_keep_theirs(self, plane: Plane) -> None:
        use(plane, "round-robin", FIVE)
        plane.configure(half_open_limit=100)
        first = opening(plane, *fresh(100))
        assert set(run(plane, first)["why"].tolist()) == {SENT}
        run(plane, packets(first, TCP_SYN | ACK, reply=True))
        assert counted(plane)[1] == 100, "a SYN-ACK does not complete it"
        run(plane, packets(first[:60], ACK))
        assert counted(plane)[1] == 40
        flood = opening(plane, *fresh(5000, first=1000))
        why = Counter(run(plane, flood)["why"].tolist())
        assert why == {SENT: 60, HALF_OPEN: 4940}
        assert counted(plane)[1] == 100
        assert plane.flow_count() == 160, "nobody was pushed out"
        assert int(plane.maps["turns"].get(0)) == 160
        run(plane, packets(flood[:10], RST))
        assert Counter(run(plane, flood[100:])["why"].tolist())[SENT] == 10

    def test_the_sweep_gives_the_room_back(self, plane: Plane) -> None:
        use(plane, "round-robin", FIVE)
        plane.configure(half_open_limit=100)
        run(plane, opening(plane, *fresh(200)))
        plane.maps["records"].view()["seen_ns"][1:101] -= np.uint64(121e9)
        plane.sweep()
        assert counted(plane) == ({}, 0)
        assert Counter(run(plane, opening(plane, *fresh(200, first=500)))["why"].tolist())[SENT] == 100


class TestCounters:
    def operations(self, plane: Plane, seed: int, count: int, universe: int) -> np.ndarray:
        dice = np.random.default_rng(seed)
        ops = opening(plane, dice.integers(0, universe, count), np.full(count, 1024))
        ops["kind"] = dice.choice([SYN, PACKET], count, p=[0.3, 0.7])
        ops["reversed"] = dice.integers(0, 2, count)
        ops["flags"] = np.where(
            ops["reversed"] == 0,
            dice.choice([ACK, FIN | ACK, RST], count, p=[0.7, 0.2, 0.1]),
            dice.choice([TCP_SYN | ACK, ACK, FIN | ACK, RST], count, p=[0.5, 0.2, 0.2, 0.1]),
        )
        return ops

    def test_they_equal_the_records_after_random_operations(self, plane: Plane) -> None:
        use(plane, "weighted", UNEQUAL)
        states: Counter[int] = Counter()
        for batch in range(100):
            run(plane, self.operations(plane, batch, 5000, 2000))
            if batch % 10 == 9:
                plane.maps["records"].view()["seen_ns"][::3] -= np.uint64(500e9)
                plane.sweep()
            assert counted(plane) == recounted(plane)
            states.update(flows.rows(plane.maps["records"], plane.maps["watermark"])["state"].tolist())
        assert set(states) == {1, 2, 3, 4, 5}
        flow_fill.recount(plane.maps)
        assert counted(plane) == recounted(plane)

    def test_two_cpus_and_the_sweep_at_the_same_flows_lose_no_count(self, plane: Plane) -> None:
        use(plane, "weighted", UNEQUAL)
        record = plane.maps["config"].get(0).copy()
        record["timeout_s"][:] = 0
        plane.maps["config"].put(0, record)
        plane.maps["ops"].view()[:] = self.operations(plane, 9, ROOM, 12)
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                plane.maps["next_op"].put(0, np.array(0, "<u8"))
                syscall.run_program(plane.fds["decide_op"], bytes(64), repeat=ROOM)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(300):
            plane.sweep()
        stop.set()
        for thread in threads:
            thread.join()
        assert counted(plane) == recounted(plane)
        plane.sweep()
        plane.sweep()
        assert counted(plane) == ({}, 0)
