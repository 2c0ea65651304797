# SPDX-License-Identifier: GPL-2.0-or-later
"""`flows`, `top` and `monitor` with accounting: what they tell is what the hosts sent, whoever owns the session."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from aa_cluster.api import FlowRow, Top, TopRequest
from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import bulk, busy_sessions, held_sessions, run_sessions, serving
from aa_cluster.topology.view import counters, flows, flows_of, only, owners
from tests.topology.raw_client import RawClient, Shape
from tests.topology.test_uncommon import PORTS, QUIET
from tests.topology.test_watch import Watcher

pytestmark = pytest.mark.lab

CLIENT, SERVER = "10.77.1.100", "10.77.2.100"
OWNERS = pytest.mark.parametrize("owner", [1, 2, 3], ids=["primary", "node2", "node3"])
METER = """
table ip metering {{
    set sent {{
        type inet_service
        size 65535
        flags dynamic
        counter
    }}
    chain leaving {{
        type filter hook output priority 300
        {match} update @sent {{ tcp {port} }}
    }}
}}
"""
HEADER = 20 + 32
"""IPv4, and TCP with timestamps."""
Carried = dict[int, tuple[int, int]]
"""Port of the client's end → (packets, bytes of IP)."""


@pytest.fixture(scope="module")
def counting(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab(3, extra="[flows]\naccounting = true\n")


@pytest.fixture
def metered(counting: Lab) -> Iterator[Lab]:
    """Each host's own kernel counts what it sends, by the client's port as that host sees it."""
    texts = {
        "client": METER.format(match=f"ip daddr {SERVER}", port="sport"),
        "server": METER.format(match=f"ip saddr {SERVER}", port="dport"),
    }
    for host, text in texts.items():
        done = counting.exec(host, ["nft", "-f", "-"], input=text)
        assert done.returncode == 0, done.stderr
    yield counting
    for host in texts:
        counting.exec(host, ["nft", "delete", "table", "ip", "metering"])


def sent(lab: Lab, host: str) -> Carried:
    told = json.loads(lab.exec(host, ["nft", "-j", "list", "set", "ip", "metering", "sent"]).stdout)
    (found,) = (item["set"] for item in told["nftables"] if "set" in item)
    lines = (line["elem"] for line in found.get("elem", ()))
    return {line["val"]: (line["counter"]["packets"], line["counter"]["bytes"]) for line in lines}


def told(rows: list[FlowRow]) -> tuple[Carried, Carried]:
    """What `flows` says of each direction."""
    return (
        {row.source_port: (row.packets or 0, row.octets or 0) for row in rows},
        {row.reply_destination_port: (row.reply_packets or 0, row.reply_octets or 0) for row in rows},
    )


def on_wire(host: Carried, counted: Carried) -> Carried:
    """What the host sent, cut into segments: its kernel does that behind the hook, and each one more has a header."""
    return {
        port: (packets, host[port][1] + HEADER * (packets - host[port][0])) for port, (packets, _) in counted.items()
    }


def agree(lab: Lab, ports: tuple[int, ...], port: int = 80) -> list[FlowRow]:
    """The flows of these sessions, once their figures are those of the hosts; the last packets may be on their way."""

    def equal() -> bool:
        original, reply = told(flows_of(lab, CLIENT, ports, (SERVER, port)))
        return original == on_wire(sent(lab, "client"), original) and reply == on_wire(sent(lab, "server"), reply)

    until("flows to agree with what the hosts sent", equal, 5)
    rows = flows_of(lab, CLIENT, ports, (SERVER, port))
    assert len(rows) == len(ports)
    return rows


@OWNERS
def test_sessions_from_syn_to_last_ack(metered: Lab, owner: int) -> None:
    only(metered, owner)
    report = run_sessions(metered, "client", SERVER, 80, 20)
    assert report.completed == 20
    rows = agree(metered, report.ports)
    assert [sent(metered, "client")[row.source_port][0] for row in rows] == [row.packets for row in rows]
    assert owners(rows) == {f"node{owner}": 20}
    assert all((row.packets or 0) >= 4 and (row.reply_octets or 0) > 200 for row in rows)


def test_sessions_that_are_open(metered: Lab) -> None:
    for node in (1, 2, 3):
        only(metered, node)
        with held_sessions(metered, "client", SERVER, 80, 5) as report:
            rows = agree(metered, report.ports)
            assert owners(rows) == {f"node{node}": 5}


@pytest.mark.parametrize("way", ["send", "take"])
@OWNERS
def test_a_transfer(metered: Lab, owner: int, way: str) -> None:
    """What was lost on the way to the primary was sent, but did not cross: then only what crossed is compared."""
    size = 4 << 20
    only(metered, owner)
    before = {row.source_port for row in flows(metered, port="7002")}
    steered = crossed(metered)
    with serving(metered, "server", "bulk", 7002):
        report = bulk(metered, "client", way, SERVER, 7002, size)  # type: ignore[arg-type]
    (row,) = (row for row in flows(metered, port="7002") if row.source_port not in before)
    if not report.retransmits:
        (row,) = agree(metered, (row.source_port,), 7002)
    until("the last packet to be counted", lambda: crossed(metered) - steered + 1 == packets_of(metered, row), 5)
    large, other = (row.octets, row.reply_octets) if way == "send" else (row.reply_octets, row.octets)
    assert large is not None
    assert other is not None
    assert size < large < 1.1 * size
    assert other < 0.1 * size
    assert row.owner_name == f"node{owner}"
    first = metered.client(1).get("/v1/flows", {"sort": "bytes", "limit": "1"}).flows[0]  # type: ignore[attr-defined]
    assert (first.octets or 0) + (first.reply_octets or 0) >= large


def crossed(lab: Lab) -> int:
    """Packets of known flows, by the primary's reasons; of a session all but its SYN."""
    counted = counters(lab, 1)
    return counted["STEER_TX"] + counted["STEER_LOCAL"]


def packets_of(lab: Lab, flow: FlowRow) -> int:
    (row,) = flows_of(lab, flow.source, {flow.source_port}, (flow.destination, flow.destination_port))
    return (row.packets or 0) + (row.reply_packets or 0)


@dataclass
class Tallied(RawClient):
    """Knows what it has put on the wire."""

    lengths: list[int] = field(default_factory=list)

    def _frame(self, payload: bytes, offset: int, more: bool) -> bytes:
        self.lengths.append(20 + len(self.shape.options) + len(payload))
        return super()._frame(payload, offset, more)


SHAPES = {
    "tagged": Shape(tags=((0x8100, 0x6000),)),
    "tagged twice": Shape(tags=((0x88A8, 0x2000), (0x8100, 0x6000))),
    "with options": Shape(options=b"\x94\x04\0\0"),
    "plain": Shape(),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("cuts", [(), (512, 1024)], ids=["whole", "in pieces"])
@OWNERS
def test_frames_of_any_shape(counting: Lab, shape: Shape, cuts: tuple[int, ...], owner: int) -> None:
    only(counting, owner)
    assert counting.exec("client", ["nft", "-f", "-"], input=QUIET).returncode == 0
    gateway, own = "02:aa:00:4d:00:00", counting.plan.host_networks["client"].mac(100)
    try:
        with Tallied(counting.plan.path("client"), CLIENT, next(PORTS), SERVER, gateway, own, shape) as client:
            client.connect()
            assert client.ask(cuts, size=1420)
    finally:
        counting.exec("client", ["nft", "delete", "table", "ip", "raw_client"])
    wanted = len(client.lengths), sum(client.lengths)

    def found() -> list[tuple[str, int | None, int | None]]:
        rows = flows_of(counting, CLIENT, {client.port}, (SERVER, 80))
        return [(row.owner_name, row.packets, row.octets) for row in rows]

    until("the last frame to be counted", lambda: found() == [(f"node{owner}", *wanted)], 5)


def test_top_tells_what_each_nodes_sessions_carry(metered: Lab) -> None:
    only(metered, 3)
    with busy_sessions(metered, "client", SERVER, 80, 20, every=0.05) as busy:
        before = [sent(metered, host) for host in ("client", "server")]
        answer = metered.client(2).post("/v1/top", TopRequest(interval=1.0))
        after = [sent(metered, host) for host in ("client", "server")]
        busy.stop()
    assert isinstance(answer, Top)
    assert answer.accounted
    rows = {row.name: row for row in answer.nodes}
    packets, octets = (
        sum(line[which] for host in after for line in host.values())
        - sum(line[which] for host in before for line in host.values())
        for which in (0, 1)
    )
    assert rows["node3"].packets is not None
    assert rows["node3"].octets is not None
    assert 500 < rows["node3"].packets <= packets, "counted over a longer time"
    assert 40 * rows["node3"].packets < rows["node3"].octets <= octets
    assert rows["node2"].packets == 0.0
    assert rows["node1"].packets is not None
    assert rows["node1"].packets < 100, "what it steers for others is not its own"


def test_a_flow_that_ends_says_what_it_carried(metered: Lab) -> None:
    only(metered, 2)
    watcher = Watcher(metered, 1, kind="flow-end", address=CLIENT)
    report = run_sessions(metered, "client", SERVER, 80, 1)
    event = watcher.next()
    while int(event.detail["source_port"]) not in report.ports:
        event = watcher.next()
    (row,) = agree(metered, report.ports)
    assert int(event.detail["reply_packets"]) >= 3
    assert 100 < int(event.detail["octets"]) <= (row.octets or 0)


def test_it_is_switched_over_a_restart_under_load(counting: Lab) -> None:
    """The agent of the primary restarts with accounting off, and on again: no session notices."""
    only(counting, 2)
    config = counting.site("node1").config
    text = config.read_text()
    with busy_sessions(counting, "client", SERVER, 80, 20, every=0.05) as busy:
        for on in (False, True):
            config.write_text(text.replace("accounting = true", f"accounting = {str(on).lower()}"))
            counting.site("node1").kill()
            counting.restart_agent(1)
            rows = flows_of(counting, CLIENT, busy.begun.ports, (SERVER, 80))
            assert len(rows) == 20
            assert {row.packets is not None for row in rows} == {on}
        until("the sessions to be counted anew", lambda: grown(counting, busy.begun.ports), 5)
        done = busy.stop()
    assert done.failed == ()
    assert done.retransmits <= done.rounds // 500


def grown(lab: Lab, ports: tuple[int, ...]) -> bool:
    rows = flows_of(lab, CLIENT, ports, (SERVER, 80))
    return all(row.packets and row.reply_packets for row in rows)
