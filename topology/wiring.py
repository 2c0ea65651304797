# SPDX-License-Identifier: GPL-2.0-or-later
"""Namespaces, bridges and veth pairs of a plan.

A switch port towards a node behaves like a real NIC: it finishes checksums and writes VLAN tags before it sends (``tx
off txvlan off tx-vlan-stag-hw-insert off``; XDP on the node sees the bytes as they lie there, and so hosts have ``tx
off`` too), and it polls its receive ring: it carries an
XDP program that passes everything. GRO alone does not do: veth then takes what the node's XDP sends back with XDP_TX,
but wakes the poller only for a port that has a program (``veth_xdp_flush``), so packets lie in the ring.

Every other end of a cable polls its ring, too (``gro on``), so packets stay in order as they do in one queue of a real
NIC. Without, veth puts a packet into the backlog of the core that sends it: what a host's softirq sends (SYN-ACK) and
what its application sends next from another core overtake each other, and to conntrack a FIN before the SYN-ACK is
invalid. (Labs with several rings a cable keep no order anyway.)

Nobody takes an address or a route from what he hears, and nobody looks whether an address is a neighbour's (duplicate
address detection): every node has the cluster's, and a link-local address must serve as soon as the link is up, since a
node asks for its neighbours from there.

The switch ports of a node's data links start down. They are raised once the node's guard is attached (or for the
primary, before it joins): every node carries the cluster's address, and until then it would answer ARP for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from aa_cluster.dataplane import syscall
from aa_cluster.topology.namespaces import batch, checked, enter, write_sysctls
from aa_cluster.topology.plan import CLUSTER_HOST, DATA, FAR, FAR_MTU, HA, HOST, ROUTER, Network, Plan

QUIET = {"net/ipv6/conf/all/disable_ipv6": "1", "net/ipv6/conf/default/disable_ipv6": "1"}
UNTOLD = {"accept_ra": "0", "autoconf": "0", "router_solicitations": "0", "accept_dad": "0"}
"""Of each interface: addresses and routes are those it is given, and they serve at once."""
STATED = {f"net/ipv6/conf/default/{name}": value for name, value in UNTOLD.items()}
"""For a namespace whose interfaces are still to be made."""
ONE_CLOCK = {"net/ipv4/tcp_timestamps": "2"}
"""TCP timestamps without an offset for each connection. One server here meets thousands of sessions from one
address, by translated ports that are random; a socket in TIME_WAIT lets a SYN with a later timestamp have its port, and
refuses one in two of all others."""
PLAIN_BRIDGE = {f"net/bridge/bridge-nf-call-{table}": "0" for table in ("iptables", "ip6tables", "arptables")}
PASS_EVERYTHING = bytes.fromhex("b7000000020000009500000000000000")
"""``r0 = XDP_PASS; exit``"""
FORWARD = {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"}


def build_switch(plan: Plan) -> None:
    """The switch namespace and its bridges: no STP, no forward delay, no multicast snooping, ageing as it comes."""
    name = plan.namespace("switch")
    batch([f"netns add {name}"])
    write_sysctls(plan.path("switch"), QUIET | PLAIN_BRIDGE)
    lines = ["link set lo up"]
    for net in plan.all_networks:
        lines += [
            f"link add {net.bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            f"link set {net.bridge} up",
        ]
    batch(lines, name)


def build_host(plan: Plan, host: str) -> None:
    """A host with ``eth0`` at .100 and the cluster as its default route; its switch port is up."""
    net = plan.host_networks[host]
    _namespace(plan, host, STATED | ONE_CLOCK)
    _cable(plan, host, "eth0", net, HOST)
    batch(
        ["link set lo up", *addressed("eth0", net, HOST), "link set eth0 up", *default_routes(net, CLUSTER_HOST)],
        plan.namespace(host),
    )
    offload(plan.path(host), ["eth0"], "tx off")
    _keep_order(plan, host, "eth0")
    _keep_order(plan, "switch", plan.port(host, net))
    _plug(plan, host, (net,), up=(net,))


def build_beyond(plan: Plan) -> None:
    """The router on ext, and the host ``far`` behind it. The way between is narrow by its routes' MTU: packets of 1500
    bytes reach the router, which refuses those with DF and says so."""
    ext, router = DATA["ext"], plan.namespace("router")
    _namespace(plan, "router", STATED | FORWARD)
    _namespace(plan, "far", STATED)
    _cable(plan, "router", "eth0", ext, ROUTER)
    far = plan.namespace("far")
    near_end = f"eth1 netns {router} address {FAR.mac(CLUSTER_HOST)}"
    batch([f"link add name {near_end} type veth peer name eth0 netns {far} address {FAR.mac(HOST)}"])
    batch(
        [
            "link set lo up",
            *addressed("eth0", ext, ROUTER),
            *addressed("eth1", FAR, CLUSTER_HOST),
            "link set eth0 up",
            "link set eth1 up",
            *(
                f"route replace {_narrow(net, six)} dev {eth}"
                for net, eth in ((ext, "eth0"), (FAR, "eth1"))
                for six in (0, 1)
            ),
            *(f"{route} mtu lock {FAR_MTU}" for route in default_routes(ext, CLUSTER_HOST)),
        ],
        router,
    )
    lines = [*addressed("eth0", FAR, HOST), "link set eth0 up", "link set lo up"]
    batch([*lines, *default_routes(FAR, CLUSTER_HOST)], far)
    for member, interfaces in (("router", ("eth0", "eth1")), ("far", ("eth0",))):
        offload(plan.path(member), interfaces, "tx off")
        _keep_order(plan, member, *interfaces)
    _keep_order(plan, "switch", plan.port("router", ext))
    _plug(plan, "router", (ext,), up=(ext,))


def _narrow(net: Network, six: int) -> str:
    """A prefix by an interface, in place of the kernel's own route, which over IPv6 has a metric. Only a locked MTU
    counts for what is forwarded over IPv6."""
    return f"{net.prefix6} metric 256 mtu lock {FAR_MTU}" if six else f"{net.prefix} mtu lock {FAR_MTU}"


def build_node(plan: Plan, index: int) -> None:
    """A node with all its links; the HA port is up, data ports wait for ``set_port``."""
    node = f"node{index}"
    _namespace(plan, node, STATED | FORWARD | ONE_CLOCK)
    lines = ["link set lo up"]
    for net in plan.all_networks:
        _cable(plan, node, net.name, net, index)
        lines += [*addressed(net.name, net, HOST + index if net is HA else CLUSTER_HOST), f"link set {net.name} up"]
    if plan.far:
        lines.append(f"route add {FAR.prefix} via {DATA['ext'].address(ROUTER)}")
        lines.append(f"route add {FAR.prefix6} via {DATA['ext'].address(ROUTER, 6)}")
    batch(lines, plan.namespace(node))
    _keep_order(plan, node, *(net.name for net in plan.all_networks))
    poll(plan.path("switch"), [plan.port(node, net) for net in plan.all_networks], plan.pins / "pass")
    _plug(plan, node, plan.all_networks, up=(HA,))


def addressed(interface: str, net: Network, last: int) -> list[str]:
    """Lines for ``ip`` that give it its addresses on the network."""
    lines = [f"addr add {net.address(last)}/24 dev {interface}"]
    return lines if net is HA else [*lines, f"addr add {net.address(last, 6)}/64 dev {interface} nodad"]


def default_routes(net: Network, last: int) -> list[str]:
    """Lines for ``ip``: by the neighbour with that last part."""
    return [f"route add default via {net.address(last, family)}" for family in (4, 6)]


def set_port(plan: Plan, member: str, net: Network, up: bool) -> None:
    """Raise or cut the switch's port towards ``member``: both ends lose their carrier."""
    batch([f"link set {plan.port(member, net)} {'up' if up else 'down'}"], plan.namespace("switch"))


def unplug(plan: Plan, member: str) -> None:
    """Remove the switch's ports towards ``member``, and its interfaces with them: at once, not when the kernel gets
    round to taking its namespace down."""
    ports = [plan.port(member, net) for net in plan.links(member)]
    lines = [f"link set {port} down" for port in ports] + [f"link del {port}" for port in ports]
    batch(lines, plan.namespace("switch"))


def split(plan: Plan, members: Sequence[str], nets: Sequence[Network]) -> None:
    """Members' ports go to another bridge of their own: the segment falls in two, and nobody loses his carrier."""
    lines = []
    for net in nets:
        lines += [f"link add {net.bridge}-b type bridge stp_state 0 forward_delay 0 mcast_snooping 0"]
        lines += [
            f"link set {net.bridge}-b up",
            *(f"link set {plan.port(one, net)} master {net.bridge}-b" for one in members),
        ]
    batch(lines, plan.namespace("switch"))


def unite(plan: Plan, members: Sequence[str], nets: Sequence[Network]) -> None:
    """What ``split`` parted."""
    lines = []
    for net in nets:
        lines += [f"link set {plan.port(one, net)} master {net.bridge}" for one in members]
        lines += [f"link del {net.bridge}-b"]
    batch(lines, plan.namespace("switch"))


def ports_up(plan: Plan) -> dict[str, bool]:
    """Switch port → whether it is up."""
    text = checked(["ip", "-n", plan.namespace("switch"), "-j", "link", "show", "type", "veth"])
    return {link["ifname"]: "UP" in link["flags"] for link in json.loads(text)}


def guarded(plan: Plan, index: int) -> bool:
    """Whether something is attached at TC ingress of each of the node's data links."""
    namespace = plan.namespace(f"node{index}")
    return all(
        json.loads(checked(["tc", "-n", namespace, "-j", "filter", "show", "dev", net.name, "ingress"]) or "[]")
        for net in plan.data
    )


def load_ruleset(plan: Plan, node: str, text: str) -> None:
    """Replace the node's whole nftables ruleset in one transaction."""
    checked([*enter(plan.path(node)), "nft", "-f", "-"], f"flush ruleset\n{text}")


def _namespace(plan: Plan, member: str, sysctls: dict[str, str]) -> None:
    batch([f"netns add {plan.namespace(member)}"])
    write_sysctls(plan.path(member), sysctls)


def _cable(plan: Plan, member: str, interface: str, net: Network, last: int) -> None:
    """A veth pair straight between the two namespaces, so no name is ever taken outside."""
    rings = f"numtxqueues {plan.rings} numrxqueues {plan.rings}"
    batch(
        [
            f"link add name {interface} netns {plan.namespace(member)} address {net.mac(last)} {rings} type veth "
            f"peer name {plan.port(member, net)} netns {plan.namespace('switch')} {rings}"
        ]
    )


def _plug(plan: Plan, member: str, nets: tuple[Network, ...], up: tuple[Network, ...]) -> None:
    lines = []
    for net in nets:
        port = plan.port(member, net)
        lines.append(f"link set {port} master {net.bridge}")
        if net in up:
            lines.append(f"link set {port} up")
    batch(lines, plan.namespace("switch"))


def _keep_order(plan: Plan, member: str, *interfaces: str) -> None:
    if plan.rings == 1:
        offload(plan.path(member), interfaces, "gro on")


def offload(namespace: Path, interfaces: Sequence[str], settings: str) -> None:
    """``ethtool -K`` for each of them. ``settings``: as ethtool takes them, for example ``tx off gro on``."""
    checked([*enter(namespace), "sh", "-ec", "; ".join(f"ethtool -K {one} {settings}" for one in interfaces)])


def poll(namespace: Path, ports: list[str], pin: Path) -> None:
    """Make switch ports what a node's XDP needs at the other end (see above). ``pin``: where the program is kept."""
    if not pin.exists():
        pin.parent.mkdir(parents=True, exist_ok=True)
        handle = syscall.prog_load(syscall.PROG_XDP, PASS_EVERYTHING, "switch_port")
        syscall.obj_pin(handle, str(pin))
        os.close(handle)
    offload(namespace, ports, "gro off tx off txvlan off tx-vlan-stag-hw-insert off")
    attach = "\n".join(f"link set {port} xdp pinned {pin}" for port in ports)
    checked([*enter(namespace), "ip", "-batch", "-"], attach + "\n")
