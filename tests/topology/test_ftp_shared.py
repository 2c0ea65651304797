# SPDX-License-Identifier: GPL-2.0-or-later
"""FTP with share_helpers: control sessions on every node, each data session on its control session's node."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from aa_cluster.api import FlowRow
from aa_cluster.topology import ftp, rulesets
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.view import counters, flows, only, set_weights
from tests.topology.test_ftp import CLIENT, INSIDE, SERVER, SIZES, WAYS, transfer

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

TWINS, IN_VAIN = (Path(__file__).with_name(name) for name in ("ftp_twins.py", "ftp_in_vain.py"))
SHARE = "[policy]\nshare_helpers = true\n"


@pytest.fixture(scope="module")
def sharing(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab(3, ruleset=rulesets.text("ftp"), extra=SHARE)


@WAYS
def test_every_data_session_is_with_its_master(sharing: Lab, address: str, active: bool) -> None:
    before = [counters(sharing, node) for node in (2, 3)]
    report, _ = transfer(sharing, address, active)
    rows = sorted(flows(sharing), key=lambda row: -row.age)  # what began last counts
    control = {
        row.source_port: row.owner_name
        for row in rows
        if (row.destination, row.destination_port) == (address, ftp.PORT)
    }
    owners = Counter(control[port] for port in report.controls)
    assert set(owners) == {"node1", "node2", "node3"}
    assert max(owners.values()) - min(owners.values()) <= 1
    data = data_owners(rows, active)
    last = {(one.local[1], one.peer[1]): one for one in report.transfers}  # a port may have been used again
    strays = [one for ports, one in last.items() if data.get(ports, "node1") != control[one.control]]
    assert strays == []
    assert len(last) > 0.9 * len(report.transfers)
    for node, old in zip((2, 3), before, strict=True):
        done = counters(sharing, node) - old
        own = owners[f"node{node}"]
        assert done["ADOPT_BY_AGENT"] == own, "each control session once, none repeated"
        assert done["GUARD_EXPECTED"] >= 2 * own * len(SIZES)


def test_two_clients_with_one_port_on_two_nodes(sharing: Lab) -> None:
    """Their data sessions have one tuple on the server's side, one after the other."""
    other = "10.77.1.101"
    sharing.exec("client", ["ip", "address", "add", f"{other}/24", "dev", "eth0"])
    set_weights(sharing, {1: 0, 2: 1, 3: 1})
    with ftp.serving(sharing, "server", SIZES):
        command = [sys.executable, str(TWINS), SERVER, "file9", CLIENT, other, "26000", "25000"]
        done = sharing.exec("client", command, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [SIZES[9], SIZES[9]]
    owners = {row.owner_name for row in flows(sharing) if row.source_port == 25000}
    assert owners == {"node2", "node3"}


def test_what_another_node_expects_in_vain(sharing: Lab) -> None:
    """The server has two ports. One it told, through node 2, a client that did not come; now it waits at the other.

    The primary still has the first one as expected by node 2, whose helper has forgotten it.
    """
    only(sharing, 2)
    fetch = ["curl", "-sS", "--disable-epsv", "-m", "10", "-o", "/dev/null", "-w", "%{size_download}"]
    with ftp.serving(sharing, "server", SIZES, passive=(20_000, 20_001)):
        waiting = sharing.popen(
            "client", [sys.executable, str(IN_VAIN), INSIDE], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert waiting.stdout is not None
            assert sorted(json.loads(waiting.stdout.readline())) == [20_000, 20_001]
            only(sharing, 1)
            done = sharing.exec("client", [*fetch, f"ftp://{INSIDE}/file9"])
        finally:
            waiting.communicate(timeout=10)
    assert (done.stdout, done.stderr) == (str(SIZES[9]), "")


def test_ports_that_are_used_again_and_again(sharing: Lab) -> None:
    """Each of the server's few is expected now by one node, in the same second by the next."""
    rules = rulesets.text("ftp")
    set_weights(sharing, {1: 1, 2: 1, 3: 1})
    # With `random` netfilter, on a single gateway as well, now and then gives a data session a tuple that is taken.
    sharing.load_ruleset(rules.replace("masquerade random", "masquerade"))
    before = [counters(sharing, node) for node in (1, 2, 3)]
    used = Counter(port for _ in range(4) for port in few_ports(sharing))
    sharing.load_ruleset(rules)
    first, *others = (counters(sharing, node) - old for node, old in zip((1, 2, 3), before, strict=True))
    print(f"{used.total()} data sessions, {len(used)} ports")
    assert len(used) <= 150
    assert first["ADMIT_CLASH"] == sum(done["GUARD_NO_BLOCK"] for done in others) == 0
    assert first["STEER_EXPECTED"] == sum(done["GUARD_EXPECTED"] for done in others)


def few_ports(lab: Lab) -> list[int]:
    """The server's port of each data session."""
    report, _ = transfer(lab, INSIDE, active=False, passive=(30_000, 30_149))
    return [one.peer[1] for one in report.transfers]


def data_owners(rows: list[FlowRow], active: bool) -> dict[tuple[int, int], str]:
    """(the client's port, its peer's) → owner, of data sessions that have a flow: all but the primary's own."""
    if active:
        return {(row.reply_source_port, row.source_port): row.owner_name for row in rows if row.reply_source == CLIENT}
    return {(row.source_port, row.destination_port): row.owner_name for row in rows if row.source == CLIENT}
