# SPDX-License-Identifier: GPL-2.0-or-later
"""The operator's orders between whole agents: given anywhere, carried out by the primary, kept over restarts."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from aa_cluster import api
from aa_cluster.agent import orders, views
from aa_cluster.agent.events import Filter
from aa_cluster.agent.node import Node
from aa_cluster.agent.primary import Primary
from aa_cluster.api import JoinRequest
from aa_cluster.errors import AaError, ConfigError, StateError, UsageError
from aa_cluster.wire import control
from tests.unit.fake_node import Hub, Machine, kill, until

A = TypeVar("A")


class Pair:
    """A primary and an auxiliary."""

    def __init__(self, directory: Path) -> None:
        hub = Hub()
        self.hub = hub
        self.machines = [Machine(hub, number, directory / str(number)) for number in (1, 2)]
        self.nodes: list[Node] = []

    async def up(self) -> None:
        self.nodes = [machine.boot() for machine in self.machines]
        for node, machine in zip(self.nodes, self.machines, strict=True):
            machine.directory.mkdir(parents=True, exist_ok=True)
            node.context.config_path = machine.directory / "aa-cluster.toml"
        await self.nodes[0].join(JoinRequest(primary=True))
        await self.nodes[1].join(JoinRequest(timeout=3.0))

    async def restart(self, index: int) -> None:
        await kill(self.nodes[index])
        self.nodes[index] = self.machines[index].boot()
        await self.nodes[index].resume()

    def policy(self, section: str) -> None:
        path = self.nodes[0].context.config_path
        path.write_text(self.machines[0].config_text() + section)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    made = Pair(tmp_path)
    await made.up()
    yield made
    for node in made.nodes:
        await kill(node)


async def give(node: Node, path: str, order: msgspec.Struct | None, kind: type[A]) -> A:
    body = b"" if order is None else msgspec.json.encode(order)
    return msgspec.json.decode(await orders.give(node, path, body), type=kind)


@pytest.mark.parametrize("at", [0, 1])
async def test_drain_and_undrain(pair: Pair, at: int) -> None:
    plane, node = pair.machines[0].plane, pair.nodes[at]
    drained = await give(node, "/v1/drain", api.DrainRequest(node="node2"), api.Drained)
    assert {row.name: (row.state, row.drained) for row in drained.nodes}["node2"] == ("draining", True)
    assert set(plane.sequence) == {1}
    assert plane.draining == {2}
    assert set(plane.members) == {1, 2}, "its sessions are still steered to it"
    for index in (0, 1):
        await pair.restart(index)
    assert pair.machines[0].plane.draining == {2}
    await asyncio.sleep(0.1)
    rows = await views.nodes(pair.nodes[0])
    assert {row.name: row.state for row in rows}["node2"] == "draining", "an auxiliary does not end its drain"
    await give(pair.nodes[at], "/v1/undrain", api.DrainRequest(node="2"), api.Drained)
    plane = pair.machines[0].plane
    assert set(plane.sequence) == {1, 2}
    assert plane.draining == set()
    assert pair.nodes[0].context.state.drained == ()


async def test_a_drained_node_that_leaves_comes_back_drained(pair: Pair) -> None:
    await give(pair.nodes[0], "/v1/drain", api.DrainRequest(node="node2"), api.Drained)
    async for _ in pair.nodes[1].leave(api.LeaveRequest(timeout=1.0)):
        pass
    await pair.nodes[1].join(JoinRequest(timeout=3.0))
    assert set(pair.machines[0].plane.sequence) == {1}
    async for _ in pair.nodes[1].leave(api.LeaveRequest(timeout=1.0)):
        pass
    await give(pair.nodes[0], "/v1/undrain", api.DrainRequest(node="node2"), api.Drained)
    await pair.nodes[1].join(JoinRequest(timeout=3.0))
    assert set(pair.machines[0].plane.sequence) == {1, 2}


async def test_errors_are_those_of_the_primary(pair: Pair) -> None:
    with pytest.raises(StateError, match="nobody"):
        await give(pair.nodes[1], "/v1/drain", api.DrainRequest(node="nobody"), api.Drained)
    with pytest.raises(UsageError, match="alphabetical"):
        await give(pair.nodes[1], "/v1/schedule", api.ScheduleRequest(schedule="alphabetical"), api.Schedule)
    with pytest.raises(UsageError, match="not an order"):
        await orders.give(pair.nodes[1], "/v1/leave", b"")
    with pytest.raises(UsageError, match="cannot be read"):
        await orders.give(pair.nodes[1], "/v1/drain", b"{")
    with pytest.raises(UsageError, match="bytes"):
        await orders.give(pair.nodes[1], "/v1/drain", bytes(60_000))
    with pytest.raises(StateError, match="too many"):
        orders.fits(bytes(60_000))


@pytest.mark.parametrize("at", [0, 1])
async def test_schedule(pair: Pair, at: int) -> None:
    shown = await give(pair.nodes[at], "/v1/schedule", None, api.Schedule)
    assert (shown.schedule, shown.configured, [row.share for row in shown.nodes]) == (
        "weighted",
        "weighted",
        [0.5, 0.5],
    )
    shown = await give(pair.nodes[at], "/v1/schedule", api.ScheduleRequest(schedule="random"), api.Schedule)
    assert shown.schedule == pair.machines[0].plane.kind == "random"
    calls = len(pair.machines[0].planes)
    await pair.restart(0)
    assert len(pair.machines[0].planes) == calls + 1
    assert "set_schedule" not in pair.machines[0].plane.calls, "the running schedule is left alone"
    assert (await give(pair.nodes[0], "/v1/schedule", None, api.Schedule)).schedule == "random"


async def test_policy_reload_says_what_changed(pair: Pair) -> None:
    pair.policy('[policy]\nrules = [{ action = "keep", ports = "80" }, { action = "share", source = "10.0.0.0/8" }]\n')
    told = await give(pair.nodes[1], "/v1/policy/reload", None, api.PolicyReloaded)
    assert told.changes == ("+ rule 1: keep ports 80", "+ rule 2: share source 10.0.0.0/8")
    pair.policy(
        '[policy]\nrules = [{ action = "share", source = "10.0.0.0/8" }]\ndefault = "keep"\n[log]\nlevel = "debug"'
    )
    told = await give(pair.nodes[0], "/v1/policy/reload", None, api.PolicyReloaded)
    assert told.changes == ("- rule 1: keep ports 80", "default: share → keep")
    assert told.not_taken == ("log",)
    before = len(pair.machines[0].plane.policies)
    pair.policy('[policy]\nrules = [{ action = "keep", ports = "x" }]\n')
    with pytest.raises(ConfigError, match="rule 1"):
        await give(pair.nodes[1], "/v1/policy/reload", None, api.PolicyReloaded)
    assert len(pair.machines[0].plane.policies) == before
    shown = await give(pair.nodes[1], "/v1/policy", None, api.Policy)
    assert [(row.number, row.action, row.hits) for row in shown.rules] == [(1, "share", 7)]
    assert (shown.default, shown.default_hits, shown.keep_mark_in_use) == ("keep", 8, False)
    assert [(row.number, row.text, row.hits) for row in shown.built_in] == [
        (1, "keep protocol udp, ports 53", 5),
        (2, "keep protocol udp, ports 123", 6),
    ]
    pair.policy("[policy]\nkeep_short_exchanges = false\n")
    told = await give(pair.nodes[0], "/v1/policy/reload", None, api.PolicyReloaded)
    assert told.changes[1:3] == (
        "- built-in: keep protocol udp, ports 53",
        "- built-in: keep protocol udp, ports 123",
    )
    assert (await give(pair.nodes[0], "/v1/policy", None, api.Policy)).built_in == ()
    assert pair.machines[0].plane.policies[-1].built_in == ()


def asked(**changes: object) -> api.PolicyCheckRequest:
    usual = {"source": "10.77.1.5", "source_port": 40000, "destination": "10.77.2.9", "destination_port": 21}
    return api.PolicyCheckRequest(**(usual | changes))  # type: ignore[arg-type]


async def test_policy_check_explains(pair: Pair) -> None:
    pair.policy('[policy]\nrules = [{ action = "keep", ports = "80" }, { action = "share", interface = "int" }]\n')
    await give(pair.nodes[0], "/v1/policy/reload", None, api.PolicyReloaded)
    pair.machines[0].rules = (
        'chain {"family":"inet","hook":"prerouting","name":"p","table":"f"}\n'
        'rule {"chain":"p","expr":[{"match":{"left":{"payload":{"field":"dport","protocol":"tcp"}},"op":"==",'
        '"right":21}},{"ct helper":"ftp"}],"family":"inet","table":"f"}\n'
    )
    found = await give(pair.nodes[1], "/v1/policy/check", asked(), api.PolicyChecked)
    assert (found.action, found.rule, found.interface) == ("share", 2, "int")
    assert found.mismatches == ("rule 1 does not match: port 21 is not in ports",)
    assert (
        "the ruleset may give it one: a rule in inet f p sets ftp; then it stays on the primary because of it"
        in found.notes
    )
    assert "schedule weighted chooses among: node1, node2" in found.notes
    found = await give(pair.nodes[1], "/v1/policy/check", asked(destination_port=80), api.PolicyChecked)
    assert (found.action, found.rule) == ("keep", 1)
    assert not any("may give" in note or "chooses" in note for note in found.notes)
    udp = await give(pair.nodes[1], "/v1/policy/check", asked(protocol="udp"), api.PolicyChecked)
    assert (udp.action, udp.rule) == ("share", 2)
    assert not any("may give" in note for note in udp.notes), "that rule is for TCP"
    six = {"source": "fd77:1::5", "destination": "fd77:2::9", "interface": "int"}
    for protocol in ("tcp", "udp", "17"):
        found = await give(pair.nodes[1], "/v1/policy/check", asked(**six, protocol=protocol), api.PolicyChecked)
        assert (found.action, found.rule) == ("share", 2)
    for wrong in (
        {"source": "x"},
        {"interface": "eth9"},
        {"source": "192.0.2.1"},
        {"destination": "::1"},
        {"protocol": "quic"},
    ):
        with pytest.raises(UsageError):
            await give(pair.nodes[1], "/v1/policy/check", asked(**wrong), api.PolicyChecked)


@pytest.mark.parametrize("version", [4, 6])
async def test_policy_check_of_what_is_kept_by_itself(pair: Pair, version: int) -> None:
    """Short exchanges; and what conntrack's kernel functions make no entries for."""
    ends = {"source": "fd77:1::5", "destination": "fd77:2::9"} if version == 6 else {}
    dns = asked(**ends, interface="int", protocol="udp", destination_port=53)
    found = await give(pair.nodes[1], "/v1/policy/check", dns, api.PolicyChecked)
    assert (found.action, found.rule, found.built_in) == ("keep", None, 1)
    assert found.why == "a built-in rule matches: keep protocol udp, ports 53"
    for protocol in ("icmp", "icmpv6", "sctp", "gre", "esp", "41"):
        one = asked(**ends, interface="int", protocol=protocol)
        found = await give(pair.nodes[1], "/v1/policy/check", one, api.PolicyChecked)
        assert (found.action, found.rule, found.built_in) == ("keep", None, None)
        assert f"{protocol} stays on the primary, complete and counted" in found.why


async def test_persist(pair: Pair) -> None:
    def request(**what: object) -> api.PersistRequest:
        return api.PersistRequest(**what)  # type: ignore[arg-type]

    shown = await give(
        pair.nodes[1], "/v1/persist", request(action="set", address="10.0.0.1", node="node2"), api.Persist
    )
    assert [(row.address, row.node_name) for row in shown.entries] == [("10.0.0.1", "node2")]
    assert (shown.enabled, shown.hits, shown.misses, shown.total) == (False, 3, 2, 1)
    assert (
        await give(pair.nodes[1], "/v1/persist", request(action="delete", address="10.0.0.2"), api.Persist)
    ).removed == 0
    assert (await give(pair.nodes[1], "/v1/persist", request(action="flush"), api.Persist)).removed == 1
    with pytest.raises(UsageError):
        await give(pair.nodes[1], "/v1/persist", request(action="delete", address="x"), api.Persist)


@pytest.mark.parametrize("at", [0, 1])
async def test_top(pair: Pair, at: int) -> None:
    answer = await give(pair.nodes[at], "/v1/top", api.TopRequest(interval=0.1), api.Top)
    assert [(row.name, row.packets, row.begun) for row in answer.nodes] == [("node1", 0.0, 100.0), ("node2", 0.0, 0.0)]
    with pytest.raises(UsageError, match="interval"):
        await give(pair.nodes[at], "/v1/top", api.TopRequest(interval=0.01), api.Top)


async def test_top_with_accounting(pair: Pair) -> None:
    role = pair.nodes[0].role
    assert isinstance(role, Primary)
    plane = role.plane.plane
    plane.update(dataclasses.replace(role.settings, accounting=True))
    answer = await give(pair.nodes[1], "/v1/top", api.TopRequest(interval=0.1), api.Top)
    assert answer.accounted
    first, second = answer.nodes
    assert (first.packets or 0) > 0
    assert (first.octets or 0) == pytest.approx(100 * (first.packets or 0))
    assert (second.packets, second.octets) == (0.0, 0.0)


async def test_a_node_that_does_not_answer_is_shown_without_its_load(pair: Pair) -> None:
    pair.hub.lost = lambda sender, datagram: sender == pair.machines[1].address and b"LoadAnswer" in datagram
    answer = await give(pair.nodes[0], "/v1/top", api.TopRequest(interval=0.1), api.Top)
    assert [row.packets for row in answer.nodes] == [0.0, None]


async def test_neighbours_are_told(pair: Pair) -> None:
    first, second = pair.machines
    old, new = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
    second.table[3] = {"10.77.2.9": old}
    first.watch.see(3, "10.77.2.9", new)
    first.watch.see(3, "10.77.2.10", new)
    await until(lambda: second.table[3] == {"10.77.2.9": new})
    first.watch.see(3, "10.77.2.9", first.macs["ext"])
    first.watch.see(99, "10.77.2.9", old)
    with pair.nodes[1].context.events.reading(Filter(kinds=frozenset({"neighbour"}))) as reader:
        first.watch.see(3, "10.77.2.9", old)
        await until(lambda: second.table[3] == {"10.77.2.9": old})
        (event,) = await reader.take(2)
    assert (event.event, event.address, event.detail["before"]) == ("neighbour", "10.77.2.9", "02:00:00:00:00:02")


async def test_a_lost_message_is_said_again(pair: Pair) -> None:
    first, second = pair.machines
    second.table[3] = {"10.77.2.9": bytes(6)}
    lost = 0

    def lose(sender: str, datagram: bytes) -> bool:
        nonlocal lost
        lost += b"NeighbourTell" in datagram
        return b"NeighbourTell" in datagram and lost < 4

    pair.hub.lost = lose
    first.watch.see(3, "10.77.2.9", bytes(range(2, 8)))
    await until(lambda: second.table[3] == {"10.77.2.9": bytes(range(2, 8))})


async def test_only_the_primary_may_correct_neighbours(pair: Pair) -> None:
    second = pair.machines[1]
    second.table[3] = {"10.77.2.9": bytes(6)}
    tell = control.NeighbourTell(b"12345678", (control.Neighbour(1, "10.77.2.9", bytes(range(6))),))
    stranger = Machine(pair.hub, 9, pair.machines[0].directory.parent / "9")
    node = stranger.boot()
    with pytest.raises(AaError, match="did not answer"):
        await node.context.link.ask(tell, second.address, 0.3)
    assert second.table[3] == {"10.77.2.9": bytes(6)}
    await kill(node)


async def test_an_auxiliary_tells_what_it_saw(pair: Pair) -> None:
    from aa_cluster.dataplane.events import Event

    pair.machines[1].events = [Event(1, "refused_block", 0, f"10.0.0.{last}", bytes(6)) for last in range(40)] * 2
    with pair.nodes[0].context.events.reading(Filter(kinds=frozenset({"refused-block"}))) as reader:
        told = await reader.take(3)
    assert {event.event for event in told} == {"refused-block"}
    assert {event.node for event in told} == {"node2"}
    assert sum(int(event.detail["count"]) for event in told) == 80
    assert len(told) == 17
