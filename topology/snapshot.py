# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything about a node that joining and leaving could change: to compare before with after."""

from __future__ import annotations

import json
import os
from pathlib import Path

from aa_cluster.topology.lab import Lab

VOLATILE = ("net.netfilter.nf_conntrack_count", "net.ipv4.tcp_mem", "net.ipv4.udp_mem")
WAYS = ("ingress", "egress")


def of_node(lab: Lab, node: str) -> dict[str, object]:
    """By aspect: links (with MACs and XDP), addresses, qdiscs, filters, ruleset, sysctls, pins, programs.

    ``programs``: how many BPF programs and maps the agent holds. With those on hooks and those pinned, that is all
    there are: the kernel frees the rest.
    """
    links = [net.name for net in lab.plan.all_networks]
    return {
        "links": json.loads(_said(lab, node, "ip", "-j", "-d", "link", "show")),
        "addresses": json.loads(_said(lab, node, "ip", "-j", "addr", "show")),
        "qdiscs": _said(lab, node, "tc", "qdisc", "show"),
        "filters": [_said(lab, node, "tc", "filter", "show", "dev", link, way) for link in links for way in WAYS],
        "ruleset": _said(lab, node, "nft", "--stateless", "list", "ruleset"),
        "sysctls": [line for line in _said(lab, node, "sysctl", "-e", "-a").splitlines() if _stays(line)],
        "pins": sorted(str(path) for path in lab.site(node).pins.rglob("*")),
        "programs": _held(lab.site(node).pid()),
    }


def _held(agent: int | None) -> int:
    """Each once, however many descriptors it has: a view of a map is one more, and made when it is first wanted."""
    if agent is None:
        return 0
    held = set()
    for descriptor in os.listdir(f"/proc/{agent}/fdinfo"):
        try:
            lines = Path(f"/proc/{agent}/fdinfo/{descriptor}").read_text().splitlines()
        except FileNotFoundError:
            continue  # closed meanwhile
        held |= {line for line in lines if line.startswith(("map_id:", "prog_id:"))}
    return len(held)


def _said(lab: Lab, node: str, *argv: str) -> str:
    return lab.exec(node, argv).stdout


def _stays(line: str) -> bool:
    return line.startswith("net.") and not line.startswith(VOLATILE)
