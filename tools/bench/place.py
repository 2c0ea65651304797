# SPDX-License-Identifier: GPL-2.0-or-later
"""Namespaces of the bench's own (``bn…``), removed afterwards whatever happens; conntrack's size for the time of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aa_cluster.topology.namespaces import DIRECTORY, batch, checked, enter, existing, write_sysctls

CONNTRACK = Path("/proc/sys/net/netfilter/nf_conntrack_max")
BUCKETS = Path("/sys/module/nf_conntrack/parameters/hashsize")
ENTRIES = 4 << 20
HASH = 1 << 20

_OURS = re.compile(r"bn(\d+)-\w+")

QUIET = {"net/ipv6/conf/all/disable_ipv6": "1", "net/ipv6/conf/default/disable_ipv6": "1"}
ROUTER = QUIET | {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/netfilter/nf_conntrack_tcp_be_liberal": "1",
}


def name_of(role: str) -> str:
    """A namespace no other run has."""
    return f"bn{os.getpid()}-{role}"


def remove_leftovers() -> None:
    """Namespaces of runs that were killed outright."""
    for name in existing():
        found = _OURS.fullmatch(name)
        if found and not Path(f"/proc/{found[1]}").exists():
            batch([f"netns del {name}"])


@contextmanager
def namespace(role: str, sysctls: dict[str, str] | None = None) -> Iterator[Path]:
    """A fresh one with ``lo`` up; its path."""
    name = name_of(role)
    batch([f"netns add {name}"])
    try:
        write_sysctls(DIRECTORY / name, QUIET if sysctls is None else sysctls)
        batch(["link set lo up"], name)
        yield DIRECTORY / name
    finally:
        batch([f"netns del {name}"])


def rules(path: Path, text: str) -> None:
    """Replaces the namespace's nftables rules."""
    checked([*enter(path), "nft", "-f", "-"], f"flush ruleset\n{text}")


def forget_connections(path: Path) -> None:
    checked([*enter(path), "conntrack", "-F"])


def connections(path: Path) -> int:
    return int(checked([*enter(path), "conntrack", "-C"]))


@contextmanager
def roomy_conntrack() -> Iterator[None]:
    """A machine-wide conntrack that holds the largest case, its hash sized for it, as a busy gateway would have it."""
    kept = CONNTRACK.read_text(), BUCKETS.read_text()
    try:
        if int(kept[1]) < HASH:
            BUCKETS.write_text(str(HASH))
        CONNTRACK.write_text(str(max(ENTRIES, int(kept[0]))))
        yield
    finally:
        BUCKETS.write_text(kept[1])
        CONNTRACK.write_text(kept[0])
