# SPDX-License-Identifier: GPL-2.0-or-later
"""Each schedule with 600 real sessions, and clients that keep their node."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator

import pytest

from aa_cluster.api import Persist, PersistRequest
from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import SessionReport, held_sessions, run_sessions
from aa_cluster.topology.view import drain, flows, owners, sessions, set_schedule, set_weights, undrain

pytestmark = pytest.mark.lab

SERVER = "10.77.2.100"
CLIENTS = [f"10.77.1.{last}" for last in range(101, 161)]
COUNT = 600


def add_clients(lab: Lab) -> None:
    """Sixty more addresses for the client."""
    for address in CLIENTS:
        lab.exec("client", ["ip", "addr", "replace", f"{address}/24", "dev", "eth0"], check=True)


@pytest.fixture(scope="module")
def own_lab(make_lab: Callable[..., Lab]) -> Lab:
    """Thousands of sessions leave their entries behind: not in the lab that others share."""
    lab = make_lab(3)
    add_clients(lab)
    return lab


@pytest.fixture
def live(own_lab: Lab) -> Iterator[Lab]:
    """No session from before counts, weights are 1:1:1; afterwards nobody is drained and the schedule is weighted."""
    until("sessions of before to end", lambda: not any(sessions(own_lab).values()), 20)
    set_weights(own_lab, {1: 1, 2: 1, 3: 1})
    yield own_lab
    for node in (1, 2, 3):
        undrain(own_lab, node)
    set_schedule(own_lab, "weighted")


def share(lab: Lab) -> Counter[str]:
    with held_sessions(lab, "client", SERVER, 80, COUNT) as report:
        assert report.completed == COUNT, report.failed
        return owners(by_client(lab, report).values())


def by_client(lab: Lab, report: SessionReport):
    """(address, port) of the client → its flow."""
    wanted = set(zip(report.sources, report.ports, strict=True))
    return {
        (row.source, row.source_port): row
        for row in flows(lab)
        if (row.source, row.source_port) in wanted and row.destination == SERVER
    }


def test_round_robin_ignores_weights(live: Lab) -> None:
    set_weights(live, {1: 1, 2: 2, 3: 3})
    set_schedule(live, "round-robin")
    assert share(live) == {"node1": 200, "node2": 200, "node3": 200}


def test_weighted_is_exact(live: Lab) -> None:
    set_weights(live, {1: 1, 2: 2, 3: 3})
    assert share(live) == {"node1": 100, "node2": 200, "node3": 300}


def test_least_connections_levels_what_others_left_uneven(live: Lab) -> None:
    """60 sessions sit on node3 before; 600 more make it 220 each. Equal weights, then 1:1:2."""
    set_weights(live, {1: 0, 2: 0, 3: 1})
    with held_sessions(live, "client", SERVER, 80, 60) as before:
        assert before.completed == 60
        set_weights(live, {1: 1, 2: 1, 3: 1})
        set_schedule(live, "least-connections")
        found = share(live)
    assert found.total() == COUNT
    for node, expected in {"node1": 220, "node2": 220, "node3": 160}.items():
        assert abs(found[node] - expected) <= 3, found


def test_random_is_even_enough(live: Lab) -> None:
    """Each share within four standard deviations of a binomial of 600 and 1/3 (46)."""
    set_schedule(live, "random")
    found = share(live)
    assert found.total() == COUNT
    assert all(154 <= found[node] <= 246 for node in ("node1", "node2", "node3")), found


def nodes_of_clients(lab: Lab) -> dict[str, str]:
    """600 sessions from 60 addresses: client → node. Every session of a client is on one node."""
    with held_sessions(lab, "client", SERVER, 80, COUNT, sources=CLIENTS) as report:
        assert report.completed == COUNT, report.failed
        rows = by_client(lab, report)
    return one_each((client, row.owner_name) for (client, _), row in rows.items())


def one_each(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    found = defaultdict(set)
    for client, node in pairs:
        found[client].add(node)
    assert all(len(nodes) == 1 for nodes in found.values()), found
    assert set(found) == set(CLIENTS)
    return {client: next(iter(nodes)) for client, nodes in found.items()}


def test_source_hash_moves_only_the_clients_of_a_node_that_goes(live: Lab) -> None:
    set_schedule(live, "source-hash")
    before = nodes_of_clients(live)
    assert set(before.values()) == {"node1", "node2", "node3"}
    drain(live, 3)
    after = nodes_of_clients(live)
    assert {client: node for client, node in after.items() if before[client] != "node3"} == {
        client: node for client, node in before.items() if node != "node3"
    }
    assert set(after.values()) == {"node1", "node2"}
    undrain(live, 3)
    assert nodes_of_clients(live) == before


# Persistence: its own lab, because it is on or off from the start.

IDLE = 4


@pytest.fixture(scope="module")
def persistent(make_lab: Callable[..., Lab]) -> Lab:
    lab = make_lab(3, extra=f"\n[persistence]\nenabled = true\nidle_s = {IDLE}\n")
    add_clients(lab)
    return lab


def order(lab: Lab, by: int = 1, **request: object) -> Persist:
    answer = lab.client(by).post("/v1/persist", PersistRequest(**request))  # type: ignore[arg-type]
    assert isinstance(answer, Persist)
    return answer


def node_of(lab: Lab, count: int = 1) -> set[str]:
    """Who gets new sessions of the client's own address."""
    report = run_sessions(lab, "client", SERVER, 80, count)
    assert report.completed == count
    return set(owners(by_client(lab, report).values()))


def test_a_client_keeps_its_node_over_twenty_reconnects(persistent: Lab) -> None:
    order(persistent, action="flush")
    before = order(persistent)
    nodes = nodes_after_reconnects(persistent, 20)
    assert Counter(nodes.values()) == {"node1": 20, "node2": 20, "node3": 20}
    after = order(persistent, by=2, limit=5)
    assert (after.total, len(after.entries)) == (len(CLIENTS), 5)
    assert after.misses - before.misses == len(CLIENTS)
    assert after.hits - before.hits == 19 * len(CLIENTS)


def nodes_after_reconnects(lab: Lab, times: int) -> dict[str, str]:
    """The first session of each client one after the other, so that no two of a client begin at once."""
    pairs = []
    for _ in range(times):
        with held_sessions(lab, "client", SERVER, 80, len(CLIENTS), sources=CLIENTS) as report:
            assert report.completed == len(CLIENTS), report.failed
            pairs += [(client, row.owner_name) for (client, _), row in by_client(lab, report).items()]
    return one_each(pairs)


def test_a_binding_set_removed_and_expired(persistent: Lab) -> None:
    lab = persistent
    order(lab, action="flush")
    order(lab, by=3, action="set", address="10.77.1.100", node="node3")
    assert node_of(lab, 4) == {"node3"}
    assert [(row.address, row.node_name) for row in order(lab).entries] == [("10.77.1.100", "node3")]
    assert order(lab, action="delete", address="10.77.1.100").removed == 1
    assert order(lab, action="delete", address="10.77.1.100").removed == 0
    order(lab, action="set", address="10.77.1.100", node="2")
    assert node_of(lab, 4) == {"node2"}
    until("the binding to expire", lambda: order(lab).total == 0, IDLE + 2)
    assert len({frozenset(node_of(lab)) for _ in range(1)}) == 1
    assert order(lab).total == 1


def test_a_draining_node_loses_its_clients(persistent: Lab) -> None:
    lab = persistent
    order(lab, action="flush")
    order(lab, action="set", address="10.77.1.100", node="node2")
    drain(lab, 2)
    try:
        found = node_of(lab, 4)
        assert len(found) == 1
        assert "node2" not in found
    finally:
        undrain(lab, 2)
    assert order(lab, action="flush").removed == 1
