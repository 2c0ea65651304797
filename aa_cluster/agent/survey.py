# SPDX-License-Identifier: GPL-2.0-or-later
"""This node's interfaces as they are now, and what the dataplane is told about them."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aa_cluster.config import Config
from aa_cluster.core import admission
from aa_cluster.errors import JoinRefused, NetlinkError
from aa_cluster.wire.control import Finding, InterfaceFacts

if TYPE_CHECKING:
    from aa_cluster.agent.host import Host
    from aa_cluster.dataplane.settings import Port
    from aa_cluster.netlink.links import LinkFacts


@dataclass(frozen=True, slots=True)
class Survey:
    """``data`` by slot; ``physical`` holds the MAC each interface has outside the cluster, by slot."""

    data: tuple[LinkFacts, ...]
    physical: tuple[bytes, ...]
    ha: LinkFacts

    def interfaces(self) -> tuple[InterfaceFacts, ...]:
        """For the control protocol: with physical MACs, and without link-local addresses."""
        return tuple(
            InterfaceFacts(link.name, mac, admission.routable(link.addresses), link.mtu)
            for link, mac in zip(self.data, self.physical, strict=True)
        )

    @property
    def ha_address(self) -> str:
        """The IPv4 address on the HA link, without its prefix length."""
        return next(one for one in self.ha.addresses if "." in one).partition("/")[0]

    def physical_by_name(self) -> dict[str, str]:
        return {link.name: mac.hex(":") for link, mac in zip(self.data, self.physical, strict=True)}

    def ports(self, virtual_macs: Sequence[bytes]) -> tuple[Port, ...]:
        from aa_cluster.dataplane.settings import Port

        return tuple(
            Port(slot, link.name, link.ifindex, physical, virtual, link.mtu, solicitor(link))
            for slot, (link, physical, virtual) in enumerate(zip(self.data, self.physical, virtual_macs, strict=True))
        )


def solicitor(link: LinkFacts) -> bytes:
    """The IPv6 address that questions to the segment come from (16 bytes): a link-local one, as the kernel itself would
    take, else the cluster's there; all zero when the interface has neither."""
    candidates = (*link.link_locals, *(one for one in link.addresses if ":" in one))
    return ipaddress.ip_interface(candidates[0]).ip.packed if candidates else bytes(16)


def take(host: Host, config: Config, remembered: Mapping[str, str]) -> Survey:
    """Blocking. ``remembered``: physical MACs (text) by interface, of a node that wears virtual ones now.

    ``JoinRefused`` names every interface that is missing.
    """
    names = (*config.data.interfaces, config.ha.interface)
    links = {name: _read(host, name) for name in names}
    there = tuple(host.link_names()) if None in links.values() else ()
    findings = [admission.missing_interface(name, there) for name, link in links.items() if link is None]
    found = {name: link for name, link in links.items() if link is not None}
    ha = found.get(config.ha.interface)
    if ha is not None and not any("." in address for address in ha.addresses):
        findings.append(_no_address(ha.name))
    if findings or ha is None:
        raise refusal("this node is not fit to join", findings)
    data = tuple(found[name] for name in config.data.interfaces)
    return Survey(data, tuple(_physical(link, remembered) for link in data), ha)


def refusal(message: str, findings: Sequence[Finding]) -> JoinRefused:
    return JoinRefused(message, "correct this and join again; nothing was changed", tuple(str(one) for one in findings))


def _read(host: Host, name: str) -> LinkFacts | None:
    try:
        return host.read_link(name)
    except NetlinkError:
        if name in host.link_names():
            raise
        return None


def _physical(link: LinkFacts, remembered: Mapping[str, str]) -> bytes:
    known = remembered.get(link.name)
    return bytes.fromhex(known.replace(":", "")) if known else link.mac


def _no_address(name: str) -> Finding:
    return Finding(f"address of {name}", "no IPv4 address", "one on the HA link's network", f"ip addr add … dev {name}")
