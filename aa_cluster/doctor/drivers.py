# SPDX-License-Identifier: GPL-2.0-or-later
"""What a data interface's driver can do for XDP, and what the other end of a veth has to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from aa_cluster.api import Check
from aa_cluster.doctor.verdict import failed, passed, skipped, warned
from aa_cluster.netlink import ethtool, links, namespaces
from aa_cluster.netlink.links import LinkFacts

Mode = Literal["auto", "native", "generic"]

# fmt: off
NATIVE = frozenset((
    "atlantic", "bnxt_en", "bonding", "cpsw", "dpaa2-eth", "ena", "fec", "fsl_dpa", "gve", "hv_netvsc", "i40e",
    "ice", "igb", "igc", "ixgbe", "ixgbevf", "lan966x", "mana", "mlx4_en", "mlx5_core", "mvneta", "mvpp2", "nfp",
    "octeontx2-nicpf", "qede", "sfc", "st_gmac", "stmmac", "ti-am65-cpsw", "tsnep", "tun", "veth", "virtio_net",
    "vmxnet3",
))
# fmt: on
"""Drivers with XDP_TX of their own in Linux 6.x; the attachment has the last word."""
LARGE_RECEIVE = "rx-lro"
BUNDLING = ("rx-udp-gro-forwarding", "rx-gro-list")
"""Off unless somebody asks for them: datagrams of one flow, forwarded or not, in one (``ethtool -K``)."""


def checks(facts: LinkFacts, mode: Mode) -> Iterator[Check]:
    name = facts.name
    driver = ethtool.driver(name) or facts.kind or ""
    yield xdp_mode(name, driver, mode, links.xdp_attached(name))
    yield receive_offloads(name, ethtool.features(name))
    if facts.kind == "veth":
        yield peer(name, mode)
        yield transmit_errors(name, ethtool.statistics(name))


def xdp_mode(name: str, driver: str, mode: Mode, attached: str | None) -> Check:
    """``attached``: how a program is attached now; when none is, the driver's name tells what to expect."""
    label, shown = f"xdp {name}", driver or "no driver name"
    if attached not in (None, "generic"):
        return passed(label, f"{shown}: attached {attached}")
    if attached is None and driver in NATIVE and mode != "generic":
        return passed(label, f"{shown}: will be native")
    if mode == "native":
        return warned(
            label,
            f"{shown} is not known for native XDP, and data.xdp asks for it",
            fix='data.xdp = "auto" falls back to generic',
        )
    state = "attached generic" if attached else "will be generic"
    reason = ", as data.xdp asks" if mode == "generic" else ""
    return warned(
        label,
        f"{shown}: {state}{reason}; steering costs several times as much",
        fix="use a network card whose driver has native XDP" if mode == "auto" else 'data.xdp = "auto"',
    )


def receive_offloads(name: str, features: Mapping[str, bool]) -> Check:
    """LRO glues segments together that forwarding cannot take apart again; native XDP is refused with it. In a bundle
    of datagrams a first one's handoff block is not at the end."""
    if not features:
        return skipped(f"offloads {name}", "the driver does not tell")
    if features.get(LARGE_RECEIVE):
        return failed(
            f"offloads {name}",
            "large receive offload is on",
            fix=f"ethtool -K {name} lro off",
        )
    bundling = [feature for feature in BUNDLING if features.get(feature)]
    if bundling:
        return failed(
            f"offloads {name}",
            f"datagrams are bundled on receipt ({', '.join(bundling)})",
            fix=f"ethtool -K {name} " + " ".join(f"{feature} off" for feature in bundling),
        )
    return passed(f"offloads {name}", "large receive offload is off, datagrams come one by one")


def peer(name: str, mode: Mode) -> Check:
    """A veth delivers what XDP sends back only to a peer with an XDP program of its own.

    With GRO alone the peer takes the packets into its ring, but nobody wakes it to read them (``veth_xdp_flush`` in
    drivers/net/veth.c asks for a program): they wait until other traffic does. Measured on 6.18.
    """
    label = f"veth peer {name}"
    if mode == "generic":
        return skipped(label, "generic XDP asks nothing of the other end")
    other = links.veth_peer(name)
    if other is None:
        return skipped(label, "the other end is not told")
    namespace = None if other.nsid is None else namespaces.find(other.nsid)
    if other.nsid is not None and namespace is None:
        return skipped(
            label,
            "the other end is in a network namespace that has no name in /run/netns",
            fix="there, look for a program in `ip link show PEER`: it needs one, that passes everything",
        )

    def look() -> tuple[str, bool]:
        its_name = links.name_of(other.ifindex)
        return its_name, links.xdp_attached(its_name) == "native"

    its_name, delivers = look() if namespace is None else namespaces.inside(namespace, look)
    return judge_peer(name, its_name, namespace, delivers)


def judge_peer(name: str, its_name: str, namespace: Path | None, delivers: bool) -> Check:
    """``namespace``: the file of the peer's, ``None`` for our own; ``delivers``: XDP is attached there."""
    place = its_name
    if namespace is not None:
        place += " in the initial namespace" if namespace == namespaces.INITIAL else f" in namespace {namespace.name}"
    if delivers:
        return passed(f"veth peer {name}", f"{place} takes what XDP sends back")
    enter = "" if namespace is None else f"nsenter --net={namespace} "
    return failed(
        f"veth peer {name}",
        f"no XDP program on {place}: steered packets vanish there, or wait in its ring when GRO is on",
        fix=f"attach one that passes everything: {enter}ip link set {its_name} xdp pinned PROGRAM",
    )


def transmit_errors(name: str, statistics: Mapping[str, int]) -> Check:
    lost = sum(count for key, count in statistics.items() if key.endswith("xdp_tx_errors"))
    if lost:
        return warned(
            f"xdp_tx_errors {name}",
            f"{lost} steered packets did not get out of {name}",
            fix="see the line of its veth peer; when that passes, the other end was overrun or had no program before",
        )
    return passed(f"xdp_tx_errors {name}", "no steered packet was lost")
