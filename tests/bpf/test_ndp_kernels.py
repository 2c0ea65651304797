# SPDX-License-Identifier: GPL-2.0-or-later
"""The relay between real kernels: a primary, two auxiliaries and a host, without agents, the dataplane alone."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from aa_cluster.dataplane import programs as loader
from aa_cluster.dataplane.bpffs import mount_bpffs
from aa_cluster.dataplane.flows import HASH_KEY_BYTES
from aa_cluster.dataplane.plane import Dataplane
from aa_cluster.dataplane.settings import Member, Port, Settings
from aa_cluster.netlink import links, neighbours
from aa_cluster.topology.capture import Capture
from aa_cluster.topology.deadline import until
from aa_cluster.topology.namespaces import inside, write_sysctls
from aa_cluster.topology.ndpframe import ETH_P_IPV6, neighbour_frames

pytestmark = [pytest.mark.bpf, pytest.mark.netns]

CLUSTER6, HOST6 = "fd77:1::1", "fd77:1::100"
VIRTUAL, HOST_MAC = "02:aa:00:07:00:00", "02:00:00:01:00:64"
HOST_LOCAL = "fe80::ff:fe01:64"
PREFIX = f"ndpk{os.getpid()}"
PRIMARY, AUXILIARIES = 1, (2, 3)


def path(member: str) -> Path:
    return Path("/run/netns") / f"{PREFIX}{member}"


def run(member: str, command: str, check: bool = True) -> str:
    argv = ["nsenter", f"--net={path(member)}", *command.split()]
    return subprocess.run(argv, check=check, capture_output=True, text=True).stdout


def data_mac(node: int) -> str:
    return f"02:00:00:01:00:{node:02x}"


def ha_mac(node: int) -> str:
    return f"02:00:00:00:00:{node:02x}"


def raw(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def add_namespace(stack: ExitStack, member: str) -> None:
    subprocess.run(["ip", "netns", "add", path(member).name], check=True)
    stack.callback(subprocess.run, ["ip", "netns", "delete", path(member).name], check=False)


def plug(member: str, interface: str, mac: str, bridge: str) -> None:
    """Its switch port stays down."""
    port = f"{member}-{interface}"
    run("sw", f"ip link add {port} type veth peer name {interface} address {mac} netns {path(member).name}")
    run("sw", f"ip link set {port} master {bridge}")
    run(member, f"ip link set {interface} up")


def raise_port(member: str, interface: str) -> None:
    run("sw", f"ip link set {member}-{interface} up")


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    plane: Dataplane
    ifindex: int

    def counted(self, reason: str) -> int:
        return self.plane.counters()[reason]

    def known(self, address: str) -> str:
        """The MAC its kernel has for a host; empty when none that is good."""
        text = run(self.name, f"ip -j -6 neigh show {address} dev d0")
        return "".join(one.get("lladdr", "") for one in json.loads(text or "[]") if "FAILED" not in one["state"])

    def ping(self, address: str) -> None:
        """Answers come to the primary, which knows of no such session: what counts is that somebody must be asked."""
        run(self.name, f"ping -6 -c1 -W1 {address}", check=False)

    def forget(self) -> None:
        run(self.name, "ip -6 neigh flush dev d0 nud all")


def start_node(stack: ExitStack, node: int, settings: Settings) -> Node:
    name = f"n{node}"
    add_namespace(stack, name)
    write_sysctls(path(name), {"net/ipv6/conf/all/forwarding": "1", "net/ipv6/conf/all/accept_ra": "0"})
    own = VIRTUAL if node == PRIMARY else data_mac(node)
    plug(name, "d0", own, "br-d")
    plug(name, "h0", ha_mac(node), "br-h")
    raise_port(name, "h0")
    run(name, f"ip address add {CLUSTER6}/64 dev d0 nodad")
    d0, h0 = (inside(path(name), lambda one=one: links.read(one).ifindex) for one in ("d0", "h0"))
    port = Port(0, "d0", d0, raw(data_mac(node)), raw(VIRTUAL), 1500, b"\xfe\x80" + bytes(13) + bytes((node,)))
    role = "primary" if node == PRIMARY else "auxiliary"
    pins = Path("/sys/fs/bpf/aa-cluster") / f"{PREFIX}{node}"
    mine = replace(settings, role=role, node_id=node, ports=(port,), ha_ifindex=h0, ha_mac=raw(ha_mac(node)), pins=pins)
    plane = Dataplane(mine)
    stack.callback(loader.remove, pins)
    stack.callback(plane.close)
    inside(path(name), plane.start)
    raise_port(name, "d0")
    return Node(name, plane, d0)


@pytest.fixture(scope="module")
def nodes(root: None, object_cache: Path) -> Iterator[dict[int, Node]]:
    mount_bpffs()
    keys = {"block_key": bytes(16), "table_key": bytes(range(HASH_KEY_BYTES))}
    settings = Settings(
        role="primary",
        cluster_id=7,
        node_id=0,
        primary_id=PRIMARY,
        generation=1,
        epoch=1,
        **keys,
        ports=(),
        ha_ifindex=0,
        ha_mac=bytes(6),
        primary_ha_mac=raw(ha_mac(PRIMARY)),
        xdp="generic",
        flow_entries=1024,
        pins=Path(),
        cache=object_cache,
    )
    with ExitStack() as stack:
        for member in ("sw", "host"):
            add_namespace(stack, member)
        for bridge in ("br-d", "br-h"):
            run("sw", f"ip link add {bridge} type bridge mcast_snooping 0")
            run("sw", f"ip link set {bridge} up")
        plug("host", "eth0", HOST_MAC, "br-d")
        run("host", f"ip address add {HOST6}/64 dev eth0 nodad")
        raise_port("host", "eth0")
        made = {node: start_node(stack, node, settings) for node in (PRIMARY, *AUXILIARIES)}
        for node in made:
            run(f"n{node}", f"ip address add fe80::{node:x}/64 dev d0 nodad")
        made[PRIMARY].plane.set_members(
            [Member(node, raw(ha_mac(node)), (raw(data_mac(node)),)) for node in (PRIMARY, *AUXILIARIES)]
        )
        yield made


@pytest.fixture(autouse=True)
def silence(nodes: dict[int, Node]) -> Iterator[None]:
    """Watches the data segment; at the end nothing on it may have told of an auxiliary, by switch port or by MAC."""
    with Capture(path("sw"), ETH_P_IPV6) as capture:
        yield
    macs = {data_mac(node) for node in AUXILIARIES}
    ports = {f"n{node}-d0" for node in AUXILIARIES}
    theirs = [frame for frame in capture.frames() if frame.port in ports]
    assert [frame for frame in theirs if int(frame.destination[:2], 16) & 1] == [], "multicast"
    assert neighbour_frames(theirs) == []
    assert [frame for frame in neighbour_frames(capture.frames()) if {frame.source, frame.mac} & macs] == []


@pytest.mark.parametrize("target", [HOST6, HOST_LOCAL], ids=["the cluster's network", "link-local"])
def test_an_auxiliarys_kernel_learns_a_host(nodes: dict[int, Node], target: str) -> None:
    auxiliary, primary = nodes[2], nodes[PRIMARY]
    for node in nodes.values():
        node.forget()
    before, asked = auxiliary.counted("NDP_TAKEN"), primary.counted("NDP_ON_WIRE")
    auxiliary.ping(f"{target}%d0" if target == HOST_LOCAL else target)
    until("the auxiliary to know the host", lambda: auxiliary.known(target) == HOST_MAC, 3)
    assert auxiliary.counted("NDP_TAKEN") == before + 1
    assert primary.counted("NDP_ON_WIRE") == asked + 1
    assert auxiliary.counted("NDP_UNASKED") == 0


def test_the_answer_goes_into_the_primarys_table_and_comes_from_there(nodes: dict[int, Node]) -> None:
    """What the agent does with the event, done here."""
    auxiliary, primary = nodes[2], nodes[PRIMARY]
    primary.plane.read_events()
    auxiliary.forget()
    primary.forget()
    auxiliary.ping(HOST6)
    (event,) = [one for one in primary.plane.read_events() if one.kind == "neighbour"]
    assert (event.address, event.mac) == (HOST6, raw(HOST_MAC))
    inside(path("n1"), lambda: neighbours.put(primary.ifindex, event.address, event.mac))
    auxiliary.forget()
    cached, asked = primary.counted("NDP_FROM_CACHE"), primary.counted("NDP_ON_WIRE")
    auxiliary.ping(HOST6)
    until("the auxiliary to know the host", lambda: auxiliary.known(HOST6) == HOST_MAC, 3)
    assert primary.counted("NDP_FROM_CACHE") == cached + 2, "each of the two that are sent"
    assert primary.counted("NDP_ON_WIRE") == asked


def test_two_asking_at_once_are_both_served(nodes: dict[int, Node]) -> None:
    """The host is unplugged until both have asked, so that one answer from the wire serves two questions."""
    for node in nodes.values():
        node.forget()
    run("sw", "ip link set host-eth0 down")
    pings = [
        subprocess.Popen(
            ["nsenter", f"--net={path(f'n{node}')}", "ping", "-6", "-c3", HOST6], stdout=subprocess.DEVNULL
        )
        for node in AUXILIARIES
    ]
    try:
        primary = nodes[PRIMARY].plane
        until("both to have asked", lambda: any(one.asked_by == AUXILIARIES for one in primary.questions()), 3)
        raise_port("host", "eth0")
        for node in AUXILIARIES:
            until(f"n{node} to know the host", lambda: nodes[node].known(HOST6) == HOST_MAC, 5)  # noqa: B023
    finally:
        raise_port("host", "eth0")
        for ping in pings:
            ping.kill()
            ping.wait()


def test_a_probe_of_a_stale_entry_is_answered(nodes: dict[int, Node]) -> None:
    """The kernel asks the host itself, by unicast, before it trusts an old entry again."""
    auxiliary = nodes[3]
    before = auxiliary.counted("NDP_TAKEN")
    run("n3", f"ip neigh replace {HOST6} lladdr {HOST_MAC} dev d0 nud probe")
    until("the answer", lambda: auxiliary.counted("NDP_TAKEN") > before, 3)
    until("it to be good", lambda: "REACHABLE" in run("n3", f"ip -6 neigh show {HOST6}"), 3)


def test_a_host_hears_of_the_primary_alone(nodes: dict[int, Node]) -> None:
    before = nodes[2].counted("GUARD_NDP")
    run("host", "ip -6 neigh flush dev eth0 nud all")
    run("host", f"ping -6 -c1 -W2 {CLUSTER6}")
    assert VIRTUAL in run("host", f"ip -6 neigh show {CLUSTER6}")
    assert nodes[2].counted("GUARD_NDP") > before


def test_an_interface_that_comes_up_says_nothing(nodes: dict[int, Node]) -> None:
    """Duplicate address detection, MLD reports and, of one that does not forward, router solicitations."""
    auxiliary = nodes[3]
    before = auxiliary.counted("NDP_KEPT")
    write_sysctls(path("n3"), {"net/ipv6/conf/d0/forwarding": "0", "net/ipv6/conf/d0/accept_ra": "1"})
    run("n3", "ip link set d0 down")
    run("n3", "ip link set d0 up")
    run(
        "n3", f"ip address add {CLUSTER6}/64 dev d0"
    )  # with duplicate address detection, which the primary must not hear
    run("n3", "ip address add fd77:1::77/64 dev d0")
    until("its kernel to have spoken", lambda: auxiliary.counted("NDP_KEPT") >= before + 4, 5)
    deadline = time.monotonic() + 3
    while "tentative" in run("n3", "ip -6 address show dev d0") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "dadfailed" not in run("n3", "ip -6 address show dev d0")
    assert "dadfailed" not in run("n1", "ip -6 address show dev d0")
