# SPDX-License-Identifier: GPL-2.0-or-later
"""The socket: every path with the real client, errors as the classes they were, and who may open it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import msgspec
import numpy as np
import pytest

from aa_cluster import api
from aa_cluster.agent import flows_view
from aa_cluster.agent.client import AgentClient
from aa_cluster.agent.node import Node
from aa_cluster.agent.server import Server
from aa_cluster.dataplane.flows import ACCOUNTED_ROW, CLOSED, ESTABLISHED, FLOW_ROW, LASTS, SYN_SENT
from aa_cluster.errors import AaError, AgentUnreachable, JoinRefused, StateError, UsageError
from tests.unit.fake_node import Hub, Machine, kill


@dataclass
class Served:
    machine: Machine
    node: Node
    client: AgentClient
    path: Path

    async def get(self, path: str, **params: str) -> api.Answer:
        return await asyncio.to_thread(self.client.get, path, params)

    async def post(self, path: str, body: msgspec.Struct) -> api.Answer:
        return await asyncio.to_thread(self.client.post, path, body)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    machine = Machine(Hub(), 1, tmp_path)
    node = machine.boot()
    path = tmp_path / "run" / "agent.sock"
    server = Server(node, path)
    await server.open()
    yield Served(machine, node, AgentClient(path, timeout=5.0), path)
    await kill(node)
    await server.close()
    assert not path.exists()


async def test_only_the_owner_may_open_the_socket(served: Served) -> None:
    assert served.path.stat().st_mode & 0o777 == 0o600


async def test_a_second_agent_is_refused_a_dead_one_replaced(served: Served, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="another agent"):
        await Server(served.node, served.path).open()
    stale = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(stale))
    server = Server(served.node, stale)
    await server.open()
    await server.close()


async def test_before_joining(served: Served) -> None:
    status = await served.get("/v1/status")
    assert isinstance(status, api.Status)
    assert (status.health, status.role, status.state, status.nodes) == ("idle", "none", "left", ())
    assert [one.name for one in status.interfaces] == ["int", "ext"]
    for path in ("/v1/flows", "/v1/stats", "/v1/arp"):
        with pytest.raises(StateError, match="no cluster"):
            await served.get(path)
    with pytest.raises(StateError, match="no cluster"):
        await served.post("/v1/weight", api.WeightRequest(node="node1", weight=1))
    with pytest.raises(StateError, match="no cluster"):
        await served.post("/v1/leave", api.LeaveRequest())


async def test_the_life_of_a_primary(served: Served) -> None:
    joined = await served.post("/v1/join", api.JoinRequest(primary=True))
    assert joined == api.Joined(node_id=1, role="primary", primary="node1", generation=1)
    status = await served.get("/v1/status")
    assert isinstance(status, api.Status)
    assert (status.health, status.problems, status.state) == ("ok", (), "active")
    assert {one.mac for one in status.interfaces} == {"02:aa:00:01:00:00", "02:aa:00:01:00:01"}
    stats = await served.get("/v1/stats")
    assert isinstance(stats, api.Stats)
    assert {row.name: row.packets for row in stats.reasons}["STEER_TX"] == 5
    arp = await served.get("/v1/arp")
    assert isinstance(arp, api.Arp)
    assert (arp.answered_from_cache, arp.refused) == (3, 0)
    weighted = await served.post("/v1/weight", api.WeightRequest(node="node1", weight=7))
    assert isinstance(weighted, api.WeightSet)
    assert weighted.nodes[0].weight == 7
    flows = await served.get("/v1/flows", node="node1")
    assert flows == api.Flows(total=0, flows=())
    lines = await asyncio.to_thread(lambda: list(served.client.stream("/v1/leave", api.LeaveRequest())))
    assert lines == [api.Leaving(sessions=0, done=True, detached=("int", "ext"))]


async def test_errors_keep_class_message_hint_and_findings(served: Served) -> None:
    del served.machine.links["ext"]
    with pytest.raises(JoinRefused) as caught:
        await served.post("/v1/join", api.JoinRequest())
    assert "interface ext" in caught.value.findings[0]
    assert "interface ext" in str(caught.value)
    with pytest.raises(UsageError, match="0 to 100"):
        await served.post("/v1/weight", api.WeightRequest(node="node1", weight=101))
    with pytest.raises(UsageError, match="force"):
        await served.post("/v1/join", api.LeaveRequest(force=True))
    with pytest.raises(UsageError, match="Not Found"):
        await served.get("/v1/nothing")


async def test_a_broken_request_does_not_end_the_agent(served: Served) -> None:
    def broken(name: str) -> None:
        raise ZeroDivisionError("oops")

    await served.post("/v1/join", api.JoinRequest(primary=True))
    served.machine.plane.counters = broken  # type: ignore[method-assign, assignment]
    with pytest.raises(AaError, match="TypeError"):
        await served.get("/v1/stats")
    assert isinstance(await served.get("/v1/nodes"), api.Nodes)


def test_nobody_answers(tmp_path: Path) -> None:
    client = AgentClient(tmp_path / "agent.sock")
    with pytest.raises(AgentUnreachable, match=r"agent\.sock"):
        client.get("/v1/status")
    with pytest.raises(AgentUnreachable):
        client.post("/v1/join", api.JoinRequest())


def _address(last: int) -> list[int]:
    return [0] * 10 + [255, 255, 10, 77, 1, last]


def table() -> np.ndarray:
    rows = np.zeros(3, FLOW_ROW)
    for number, row in enumerate(rows):
        row["saddr"], row["daddr"] = _address(100 + number), _address(200)
        row["reply_saddr"], row["reply_daddr"] = _address(200), _address(1)
        row["sport"], row["dport"], row["reply_sport"], row["reply_dport"] = 1000 + number, 80, 80, 2000 + number
        row["owner"], row["state"] = number + 1, ESTABLISHED if number else SYN_SENT
        row["protocol"], row["family"], row["created_ns"] = 6, 4, number + 1
    return rows


@pytest.mark.parametrize(
    ("query", "ports"),
    [
        ({}, [1002, 1001, 1000]),
        ({"limit": "1"}, [1002]),
        ({"node": "two"}, [1001]),
        ({"node": "3"}, [1002]),
        ({"address": "10.77.1.100"}, [1000]),
        ({"address": "10.77.1.1"}, [1002, 1001, 1000]),
        ({"address": "::1"}, []),
        ({"port": "2001"}, [1001]),
        ({"state": "established"}, [1002, 1001]),
        ({"state": "established", "node": "2"}, [1001]),
    ],
)
def test_flow_filters(query: dict[str, str], ports: list[int]) -> None:
    answer = flows_view.flows(table(), query, {1: "one", 2: "two"})
    assert [flow.source_port for flow in answer.flows] == ports
    assert answer.total >= len(ports)


def accounted() -> np.ndarray:
    rows = np.zeros(3, ACCOUNTED_ROW)
    for name in FLOW_ROW.names or ():
        rows[name] = table()[name]
    rows["packets"], rows["reply_packets"] = (5, 1, 2), (0, 2, 7)
    rows["octets"], rows["reply_octets"] = (500, 100, 80), (0, 1 << 60, 900)
    return rows


@pytest.mark.parametrize(
    ("sort", "ports"),
    [("newest", [1002, 1001, 1000]), ("packets", [1002, 1000, 1001]), ("bytes", [1001, 1002, 1000])],
)
def test_flows_in_order(sort: str, ports: list[int]) -> None:
    answer = flows_view.flows(accounted(), {"sort": sort}, {})
    assert [flow.source_port for flow in answer.flows] == ports
    assert [
        flow.source_port for flow in flows_view.flows(accounted(), {"sort": sort, "limit": "1"}, {}).flows
    ] == ports[:1]


def test_what_a_flow_carried() -> None:
    flow = flows_view.flows(accounted(), {"node": "2"}, {}).flows[0]
    assert (flow.packets, flow.octets, flow.reply_packets, flow.reply_octets) == (1, 100, 2, 1 << 60)
    flow = flows_view.flows(table(), {"node": "2"}, {}).flows[0]
    assert (flow.packets, flow.octets, flow.reply_packets, flow.reply_octets) == (None,) * 4


@pytest.mark.parametrize(("sort", "why"), [("bytes", "accounting is off"), ("colour", "newest, packets, bytes")])
def test_orders_that_make_no_sense(sort: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        flows_view.flows(table(), {"sort": sort}, {})
    assert why in caught.value.message + caught.value.hint


def kinds() -> np.ndarray:
    """TCP and UDP over both families, UDP in all its phases; ports tell which is which."""
    rows = np.zeros(6, FLOW_ROW)
    for number, (protocol, family, state, ended) in enumerate(
        (
            (6, 4, ESTABLISHED, LASTS),
            (6, 6, SYN_SENT, 0),
            (17, 4, SYN_SENT, 0),
            (17, 4, ESTABLISHED, 0),
            (17, 6, ESTABLISHED, LASTS),
            (6, 6, CLOSED, 3),
        )
    ):
        row = rows[number]
        row["protocol"], row["family"], row["state"], row["ended"] = protocol, family, state, ended
        row["sport"], row["created_ns"] = 1000 + number, 10 - number
        row["saddr"] = list(ip_address("fd77::7").packed) if family == 6 else _address(7)
    return rows


@pytest.mark.parametrize(
    ("query", "ports"),
    [
        ({"family": "ipv6"}, [1001, 1004, 1005]),
        ({"family": "ipv4", "protocol": "tcp"}, [1000]),
        ({"protocol": "udp"}, [1002, 1003, 1004]),
        ({"protocol": "17", "family": "ipv6"}, [1004]),
        ({"state": "established"}, [1000, 1003, 1004]),
        ({"state": "syn-sent"}, [1001, 1002]),
        ({"state": "unreplied"}, [1002]),
        ({"state": "answered"}, [1003]),
        ({"state": "stream"}, [1004]),
        ({"address": "fd77::7"}, [1001, 1004, 1005]),
    ],
)
def test_filters_by_kind(query: dict[str, str], ports: list[int]) -> None:
    answer = flows_view.flows(kinds(), query, {})
    assert [flow.source_port for flow in answer.flows] == ports


def test_a_udp_flow_has_its_own_words_and_the_old_state() -> None:
    found = flows_view.flows(kinds(), {}, {}).flows
    assert [(flow.protocol, flow.family, flow.state, flow.phase) for flow in found] == [
        ("tcp", "ipv4", "established", "established"),
        ("tcp", "ipv6", "syn-sent", "syn-sent"),
        ("udp", "ipv4", "syn-sent", "unreplied"),
        ("udp", "ipv4", "established", "answered"),
        ("udp", "ipv6", "established", "stream"),
        ("tcp", "ipv6", "closed", "closed"),
    ]


def test_a_flow_in_words() -> None:
    flow = flows_view.flows(table(), {"node": "two"}, {2: "two"}).flows[0]
    assert (flow.family, flow.protocol, flow.state, flow.owner_name) == ("ipv4", "tcp", "established", "two")
    assert (flow.source, flow.destination, flow.reply_destination) == ("10.77.1.101", "10.77.1.200", "10.77.1.1")


@pytest.mark.parametrize(
    "query",
    [
        {"node": "nobody"},
        {"address": "10.77"},
        {"port": "x"},
        {"state": "odd"},
        {"limit": "-1"},
        {"colour": "1"},
        {"family": "6"},
        {"protocol": "sctp"},
    ],
)
def test_filters_that_make_no_sense(query: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        flows_view.flows(table(), query, {})
