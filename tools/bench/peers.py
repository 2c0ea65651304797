# SPDX-License-Identifier: GPL-2.0-or-later
"""What a user would pick instead, set up on the bench's gateway. Each is given what makes it fast here."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import numpy as np

from aa_cluster.dataplane import syscall
from aa_cluster.topology.namespaces import batch, checked, enter, write_sysctls
from tools.bench import flowtable, place, wire
from tools.bench.loader import Loaded

GATEWAY_MAC = "02:00:00:00:00:01"
GENERATOR_MAC = "02:00:00:00:00:10"
NEXT_MAC = "02:00:00:00:00:20"
OWN_ADDRESS, NEXT_ADDRESS, CLIENT_ADDRESS = "10.3.0.1", "10.3.0.2", "10.3.0.3"
PUBLIC = int(IPv4Address(OWN_ADDRESS))
MASQUERADE = "table ip bench {\n chain out {\n  type nat hook postrouting priority srcnat; masquerade\n }\n}\n"


@dataclass(frozen=True, slots=True)
class Gateway:
    """A namespace with one interface. ``live``: the bench's programs; ``ours``: the product's."""

    path: Path
    interface: str
    live: Loaded
    ours: Loaded


def send_back(gateway: Gateway, _flows: int) -> None:
    wire.attach(gateway.path, "xdp", gateway.interface, gateway.live.fds["send_back"])


def _table(gateway: Gateway, flows: int) -> None:
    """The plain programs' hash with these flows; preallocated for a million."""
    keys = flowtable.plain_keys(range(flows))
    table = gateway.live.maps["bench_table"].fd
    syscall.map_update_batch(table, keys.tobytes(), np.ones(len(keys), "<u8").tobytes(), len(keys))


def plain_xdp(gateway: Gateway, flows: int) -> None:
    _table(gateway, flows)
    wire.attach(gateway.path, "xdp", gateway.interface, gateway.live.fds["plain_xdp"])


def plain_tc(gateway: Gateway, flows: int) -> None:
    _table(gateway, flows)
    _receive(gateway)
    wire.attach(gateway.path, "ingress", gateway.interface, gateway.live.fds["plain_tc"])


def _receive(gateway: Gateway) -> None:
    """Frames come into the stack without GRO's work, which finds nothing to join here."""
    wire.attach(gateway.path, "xdp", gateway.interface, gateway.live.fds["pass_all"])


def nft_numgen(gateway: Gateway, _flows: int) -> None:
    _receive(gateway)
    choice = f"numgen inc mod 2 map {{ 0 : {NEXT_MAC}, 1 : {NEXT_MAC} }}"
    place.rules(gateway.path, _netdev(gateway.interface, "", choice))


def nft_map(gateway: Gateway, flows: int) -> None:
    _receive(gateway)
    elements = ",\n".join(
        f"10.1.{n >> 8 & 255}.{n & 255} . {flowtable.FIRST_PORT + n % flowtable.PORTS} . "
        f"{IPv4Address(flowtable.SERVERS + n // flowtable.PORTS)} . {flowtable.SERVER_PORT} : {NEXT_MAC}"
        for n in range(flows)
    )
    kind = "ipv4_addr . inet_service . ipv4_addr . inet_service : ether_addr"
    owners = f"map owners {{ type {kind}; size {flows}; elements = {{ {elements} }}\n}}\n"
    choice = "ip saddr . tcp sport . ip daddr . tcp dport map @owners"
    place.rules(gateway.path, _netdev(gateway.interface, owners, choice))


def _netdev(interface: str, before: str, choice: str) -> str:
    return (
        f"table netdev bench {{\n{before}chain in {{\ntype filter hook ingress device {interface} priority 0;\n"
        f'ether saddr set {GATEWAY_MAC} ether daddr set {choice} fwd to "{interface}"\n}}\n}}\n'
    )


def forwarding(gateway: Gateway, _flows: int) -> None:
    """Addresses, routes and neighbours, so that the kernel forwards to ``NEXT_MAC`` and never asks."""
    _receive(gateway)
    name = gateway.interface
    batch(
        [
            f"addr add {OWN_ADDRESS}/24 dev {name}",
            f"neigh add {NEXT_ADDRESS} lladdr {NEXT_MAC} nud permanent dev {name}",
            f"neigh add {CLIENT_ADDRESS} lladdr {GENERATOR_MAC} nud permanent dev {name}",
            f"route add 10.2.0.0/16 via {NEXT_ADDRESS}",
            f"route add 10.1.0.0/16 via {CLIENT_ADDRESS}",
        ],
        gateway.path.name,
    )
    write_sysctls(gateway.path, {f"net/ipv4/conf/{name}/send_redirects": "0"})


def masquerade(gateway: Gateway, flows: int) -> None:
    forwarding(gateway, flows)
    place.rules(gateway.path, MASQUERADE)


def xt_cluster(gateway: Gateway, flows: int) -> None:
    """One node of two as its manual page sets it up; the generator stands in for the multicast MAC."""
    forwarding(gateway, flows)
    match = "-m cluster --cluster-total-nodes 2 --cluster-local-node 1 --cluster-hash-seed 0xdeadbeef"
    script = "\n".join(
        (
            "*mangle",
            f"-A PREROUTING -i {gateway.interface} {match} -j MARK --set-mark 0xffff",
            f"-A PREROUTING -i {gateway.interface} -m mark ! --mark 0xffff -j DROP",
            "COMMIT",
            "*nat",
            "-A POSTROUTING -j MASQUERADE",
            "COMMIT\n",
        )
    )
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(script)
        file.flush()
        checked([*enter(gateway.path), "iptables-restore", file.name])
