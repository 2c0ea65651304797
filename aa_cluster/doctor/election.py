# SPDX-License-Identifier: GPL-2.0-or-later
"""The election: keepalived is there, and its advertisements can come in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from aa_cluster.agent.keepalived import PROGRAM
from aa_cluster.api import Check
from aa_cluster.config import Config
from aa_cluster.doctor.interfaces import STRICT
from aa_cluster.doctor.proc import PROC, number_of
from aa_cluster.doctor.verdict import failed, passed


def checks(config: Config) -> Iterator[Check]:
    if config.election.kind == "static":
        yield passed("election", "static: a primary that dies is not replaced")
        return
    yield installed(shutil.which(PROGRAM))
    name = config.election.interface or config.data.interfaces[0]
    strict = max(number_of(PROC / f"sys/net/ipv4/conf/{one}/rp_filter") or 0 for one in ("all", name))
    yield path_filter(name, strict)


def installed(where: str | None) -> Check:
    if where is None:
        return failed("keepalived", "not installed", fix="apt-get install keepalived")
    return passed("keepalived", where)


def path_filter(name: str, rp_filter: int) -> Check:
    """Advertisements on the data path have an address of the HA link as source: strict filtering drops them."""
    if rp_filter == STRICT:
        return failed(
            "election path",
            f"{name} filters by reverse path strictly (rp_filter 1): advertisements cannot come in",
            fix=f"sysctl -w net.ipv4.conf.{name}.rp_filter=2 and net.ipv4.conf.all.rp_filter=0 (or 2)",
        )
    return passed("election path", f"{name}, rp_filter {rp_filter}")
