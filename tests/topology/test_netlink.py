# SPDX-License-Identifier: GPL-2.0-or-later
"""Links, neighbours, announcements, conntrack and rules against the kernel, in two namespaces joined by a veth."""

import asyncio
import contextlib
import ipaddress
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from aa_cluster.dataplane import bpffs
from aa_cluster.doctor import drivers
from aa_cluster.errors import NetlinkError
from aa_cluster.netlink import (
    announce,
    conntrack,
    ethtool,
    host_probe,
    links,
    namespaces,
    neighbour_watch,
    neighbours,
    ruleset,
)
from aa_cluster.netlink.conntrack import Status, Tuple
from aa_cluster.topology import leftovers, wiring
from aa_cluster.topology.deadline import until

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces are root's to make"),
]

HERE, THERE = (Path(f"/run/netns/aa-test-{os.getpid()}-{side}") for side in ("here", "there"))
MAC, OLD = bytes.fromhex("02aa00010000"), bytes.fromhex("020000000001")
RULES = """
table ip nat {
    chain output { type nat hook output priority -100; tcp dport 81 dnat to 10.9.0.1:8099; }
}
table ip marking {
    chain output { type filter hook output priority -90; ct state new ct mark set 7; }
}
"""


def run(*argv, namespace=None, **more):
    enter = () if namespace is None else ("nsenter", f"--net={namespace}")
    return subprocess.run([*enter, *argv], check=True, capture_output=True, text=True, **more)


@pytest.fixture(scope="module")
def pair():
    """``v0`` in HERE (10.9.0.1/24, fd00:9::1/64) and ``v1`` in THERE (10.9.0.2/24)."""
    for namespace in (HERE, THERE):
        run("ip", "netns", "add", namespace.name)
    try:
        run("ip", "-n", HERE.name, "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", THERE.name)
        for namespace, name, address in ((HERE, "v0", "10.9.0.1/24"), (THERE, "v1", "10.9.0.2/24")):
            run("ip", "-n", namespace.name, "address", "add", address, "dev", name)
            run("ip", "-n", namespace.name, "link", "set", name, "up")
            run("ip", "-n", namespace.name, "link", "set", "lo", "up")
        run("ip", "-n", HERE.name, "address", "add", "fd00:9::1/64", "dev", "v0")
        run("nft", "-f", "-", namespace=HERE, input=RULES)
        yield
    finally:
        for namespace in (HERE, THERE):
            run("ip", "netns", "delete", namespace.name)


@pytest.fixture
def here(pair):
    """Runs a call inside HERE."""
    return lambda work: namespaces.inside(HERE, work)


def test_facts(here):
    facts = here(lambda: links.read("v0"))
    assert (facts.name, facts.kind, facts.up, facts.mtu) == ("v0", "veth", True, 1500)
    assert facts.addresses == ("10.9.0.1/24", "fd00:9::1/64")
    assert len(facts.mac) == 6
    assert [one[:6] for one in facts.link_locals] == ["fe80::"]
    assert here(lambda: links.name_of(facts.ifindex)) == "v0"


def test_a_missing_interface_names_those_that_exist(here):
    with pytest.raises(NetlinkError, match=r"no interface eth7 .* there are: lo, v0"):
        here(lambda: links.read("eth7"))


def test_set_mac_keeps_the_interface_up(here):
    before = here(lambda: links.read("v0"))
    here(lambda: links.set_mac("v0", MAC))
    after = here(lambda: links.read("v0"))
    assert here(lambda: links.read_mac("v0")) == MAC
    here(lambda: links.set_mac("v0", before.mac))
    assert (after.mac, after.up) == (MAC, True)
    assert here(lambda: links.read("v0")).mac == before.mac


def test_the_mac_of_a_missing_interface(here):
    with pytest.raises(NetlinkError, match="cannot read the MAC of eth7: No such device"):
        here(lambda: links.read_mac("eth7"))
    with pytest.raises(NetlinkError, match=r"cannot set the MAC of eth7 to .*: No such device"):
        here(lambda: links.set_mac("eth7", MAC))


def test_inside_a_running_event_loop(here):
    async def read():
        return links.read("v0"), conntrack.dump(), links.names()

    facts, _, names = here(lambda: asyncio.run(read()))
    assert facts.name == "v0"
    assert set(names) == {"lo", "v0"}


def test_put_neighbour(here):
    def put():
        index = links.read("v0").ifindex
        for mac in (MAC, MAC[::-1][:5] + b"\x04"):
            neighbours.put(index, "10.9.0.77", mac)
        return neighbours.read(index)

    assert here(put)["10.9.0.77"] == MAC[::-1][:5] + b"\x04"
    assert "REACHABLE" in run("ip", "-n", HERE.name, "neighbour", "show", "10.9.0.77").stdout


def test_put_neighbour_over_ipv6(here):
    def put():
        index = links.read("v0").ifindex
        for address in ("fd00:9::77", "fe80::77"):
            neighbours.put(index, address, OLD)
        changed = neighbours.correct(index, {"fd00:9::77": MAC, "fe80::77": OLD, "fd00:9::78": MAC})
        return changed, neighbours.read(index)

    changed, known = here(put)
    assert changed == ("fd00:9::77",)
    assert (known["fd00:9::77"], known["fe80::77"]) == (MAC, OLD)
    assert not [address for address in known if ipaddress.ip_address(address).is_multicast]
    assert "REACHABLE" in neighbour_at(HERE, "fd00:9::77")


def test_announcement_arrives(here):
    def receiver():
        packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(announce.ETH_P_ARP))
        packet.bind(("v1", announce.ETH_P_ARP))
        packet.settimeout(5)
        return packet

    with namespaces.inside(THERE, receiver) as packet:
        claim = announce.Claim("v0", MAC, ["10.9.0.1/24", "fd00:9::1/64"])
        with pytest.raises(NetlinkError, match=r"cannot announce .* on eth7: No such device"):  # and goes on
            here(lambda: announce.moved([announce.Claim("eth7", MAC, ["10.9.0.1"]), claim], times=2))
        frames = [packet.recv(2048)[:42] for _ in range(2)]
    assert {frame[6:12] for frame in frames} == {MAC}
    assert {frame[28:32] for frame in frames} == {socket.inet_aton("10.9.0.1")}


@pytest.mark.parametrize(
    ("addresses", "there"),
    [
        (["10.9.0.2"], True),
        (["10.9.0.77", "fd00:9::2"], True),
        (["10.9.0.77", "fd00:9::77"], False),
        (["10.9.0.1", "fd00:9::1"], False),
    ],
    ids=["ARP", "one of two, NDP", "nobody", "this machine itself"],
)
def test_whether_hosts_are_there(here, addresses, there):
    """Asking moves no entry of theirs, and takes no longer than it must."""
    run("ip", "-n", THERE.name, "address", "replace", "fd00:9::2/64", "dev", "v1", "nodad")
    for family in ("-4", "-6"):
        run("ip", "-n", THERE.name, family, "neighbour", "flush", "dev", "v1")
    mac = here(lambda: links.read("v0")).mac
    start = time.monotonic()
    assert here(lambda: host_probe.answers("v0", mac, addresses)) is there
    took = time.monotonic() - start
    assert there or took >= host_probe.TIMES * host_probe.APART_SECONDS
    known = run("ip", "-n", THERE.name, "neighbour", "show", "dev", "v1").stdout
    assert mac.hex(":") not in known


def test_hosts_behind_a_dead_link_cannot_be_asked(here):
    with pytest.raises(NetlinkError, match=r"cannot ask hosts on eth7: No such device"):
        here(lambda: host_probe.answers("eth7", MAC, ["10.9.0.2"]))


def test_a_kernel_believes_the_announcement_over_ipv6(here):
    """It had another MAC for that address until then."""
    entry = ("fd00:9::1", "lladdr", OLD.hex(":"), "dev", "v1")
    run("ip", "-n", THERE.name, "neighbour", "replace", *entry, "nud", "reachable")
    watch = namespaces.inside(THERE, lambda: neighbour_watch.NeighbourWatch({links.read("v1").ifindex: "v1"}))
    with contextlib.closing(watch):
        here(lambda: announce.moved([announce.Claim("v0", MAC, ["fd00:9::1/64"])], times=1))
        until("v1's kernel to know", lambda: f"lladdr {MAC.hex(':')}" in neighbour_at(THERE, "fd00:9::1"), 5)
        seen = watch.read()
    assert {(one.address, one.mac) for one in seen} == {("fd00:9::1", MAC)}
    assert len(seen) >= 2, "the frame, and what the kernel made of it"


def neighbour_at(namespace, address):
    return run("ip", "-n", namespace.name, "-6", "neighbour", "show", address).stdout


def connect_to_port_81():
    """A TCP session that the rules translate to 10.9.0.1:8099; gives its client port."""
    with socket.create_server(("10.9.0.1", 8099)), socket.create_connection(("10.9.0.2", 81), timeout=5) as client:
        return client.getsockname()[1]


def test_dump_has_both_tuples_mark_status_and_state(here):
    port = here(connect_to_port_81)
    entry = next(e for e in here(lambda: conntrack.dump(mark=7)) if e.original.source_port == port)
    assert entry.original == Tuple(4, 6, "10.9.0.1", port, "10.9.0.2", 81)
    assert entry.reply == Tuple(4, 6, "10.9.0.1", 8099, "10.9.0.1", port)
    assert entry.mark == 7
    assert entry.status & (Status.DST_NAT | Status.SRC_NAT) == Status.DST_NAT
    assert entry.status & Status.CONFIRMED
    assert 0 < entry.timeout <= 432000
    assert entry.tcp_state in {"FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE"}


def test_find_and_delete(here):
    port = here(connect_to_port_81)
    original = Tuple(4, 6, "10.9.0.1", port, "10.9.0.2", 81)
    found = here(lambda: conntrack.find(original))
    assert found is not None
    assert found.original == original
    assert here(lambda: conntrack.delete(original)) is True
    assert here(lambda: conntrack.delete(original)) is False
    assert here(lambda: conntrack.find(original)) is None


def test_icmp_and_mark_filter(here):
    run("ping", "-c1", "-W2", "10.9.0.2", namespace=HERE)
    icmp = [entry for entry in here(conntrack.dump) if entry.original.protocol == socket.IPPROTO_ICMP]
    assert icmp
    assert icmp[0].original.destination_port == 8 << 8
    assert icmp[0].tcp_state is None
    assert here(lambda: conntrack.delete(icmp[0].original)) is True
    assert here(lambda: conntrack.dump(mark=4711)) == []


def test_digest_follows_the_rules_only(here):
    before = here(ruleset.read)
    here(connect_to_port_81)
    assert here(ruleset.read) == before
    run("nft", "add rule ip marking output counter", namespace=HERE)
    changed = here(ruleset.read)
    assert changed.digest != before.digest
    run("ping", "-c1", "-W2", "10.9.0.2", namespace=HERE)
    assert here(ruleset.read) == changed


def test_reading_rules_makes_no_legacy_tables(here):
    here(ruleset.read)
    names = here(lambda: (Path("/proc/thread-self/net/ip_tables_names")).read_text())
    assert names == ""


def test_ethtool(here):
    assert here(lambda: ethtool.driver("v0")) == "veth"
    assert "rx-gro" in here(lambda: ethtool.features("v0"))
    assert "rx_queue_0_xdp_tx_errors" in here(lambda: ethtool.statistics("v0"))
    assert here(lambda: ethtool.driver("eth7")) == ""


def test_doctor_finds_the_peer_in_its_namespace(here):
    run("ethtool", "-K", "v1", "gro", "on", namespace=THERE)  # which is not enough
    refused = here(lambda: drivers.peer("v0", "auto"))
    assert refused.result == "fail"
    leftovers.mount_bpffs()
    pin = bpffs.BPFFS / f"aa-test-{os.getpid()}"
    try:
        wiring.poll(THERE, [], pin)  # only pins the program
        run(*refused.fix.partition(": ")[2].replace("PROGRAM", str(pin)).split())
        assert here(lambda: drivers.peer("v0", "auto")).result == "pass"
        assert here(lambda: drivers.peer("v0", "generic")).result == "skip"
    finally:
        pin.unlink(missing_ok=True)
