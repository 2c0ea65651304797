# SPDX-License-Identifier: GPL-2.0-or-later
"""Refused joins: the message names difference, finding and remedy; both nodes stay as they were."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from aa_cluster.api import Nodes
from aa_cluster.config import load_key
from aa_cluster.errors import JoinRefused
from aa_cluster.netlink import ruleset
from aa_cluster.topology import rulesets, wiring
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.namespaces import inside
from aa_cluster.topology.snapshot import of_node
from aa_cluster.topology.view import ask
from aa_cluster.wire import envelope
from aa_cluster.wire.keys import KeyRing

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def pair(make_lab: Callable[..., Lab]) -> Lab:
    """node1 is the primary, node2's agent runs and has not joined."""
    return make_lab(2, joined=1)


@contextmanager
def other_config(lab: Lab, old: str, new: str) -> Iterator[None]:
    """node2's agent runs with one thing changed in its configuration."""
    site = lab.site("node2")
    text = site.config.read_text()
    assert old in text
    site.config.write_text(text.replace(old, new))
    site.kill()
    lab.restart_agent(2)
    try:
        yield
    finally:
        site.config.write_text(text)
        site.kill()
        lab.restart_agent(2)


def refused(lab: Lab, primary: bool = False) -> tuple[str, ...]:
    """The findings of a join that must be refused; checks that nothing changed on either node, and the exit code."""
    before = _state(lab)
    with pytest.raises(JoinRefused) as caught:
        lab.join(2, primary=primary)
    assert _state(lab) == before
    assert caught.value.exit_code == 5
    assert "nothing was changed" in caught.value.hint
    return caught.value.findings


def _state(lab: Lab) -> dict[str, object]:
    # data ports are raised by a primary's join, in the lab, before it is asked
    lab.connect("node2")
    rows = [(row.id, row.name, row.role, row.state, row.weight) for row in ask(lab, 1, "nodes", Nodes).nodes]
    kept = {node: _kept(lab, node) for node in ("node1", "node2")}
    now = {node: of_node(lab, node) for node in ("node1", "node2")}
    return {"nodes": rows, "role": lab.status(2).role, "kept": kept, "now": now}


def _kept(lab: Lab, node: str) -> str:
    file = lab.site(node).state / "state.json"
    return file.read_text() if file.exists() else ""


def test_an_interface_that_is_not_configured(pair: Lab) -> None:
    with other_config(pair, '"int", "ext"', '"int"'):
        (finding,) = refused(pair)
    assert finding.startswith(
        "interface ext: found missing (there: int), expected a data interface of that name; create"
    )


def test_an_interface_that_is_not_there(pair: Lab) -> None:
    with other_config(pair, '"int", "ext"', '"int", "ext", "dmz"'):
        (finding,) = refused(pair)
    assert finding.startswith("interface dmz: found missing (there: ")
    assert "ext" in finding.partition("there: ")[2].partition(")")[0]
    assert "; create it, or correct [data] interfaces" in finding


def test_another_address(pair: Lab) -> None:
    pair.exec("node2", ["ip", "addr", "add", "10.77.1.2/24", "dev", "int"])
    try:
        (finding,) = refused(pair)
    finally:
        pair.exec("node2", ["ip", "addr", "del", "10.77.1.2/24", "dev", "int"])
    assert finding == (
        "addresses of int: found 10.77.1.1/24, 10.77.1.2/24, fd77:1::1/64, expected 10.77.1.1/24, fd77:1::1/64; "
        "give the interface the addresses it has on the primary"
    )


def test_another_ruleset(pair: Lab) -> None:
    wiring.load_ruleset(pair.plan, "node2", rulesets.text("no-nat"))
    try:
        theirs = inside(pair.plan.path("node2"), ruleset.read).digest
        (finding,) = refused(pair)
    finally:
        wiring.load_ruleset(pair.plan, "node2", pair.ruleset)
    ours = inside(pair.plan.path("node1"), ruleset.read).digest
    assert finding.startswith(f"ruleset: found digest {theirs[:16]}, expected digest {ours[:16]}; load the primary's")


def test_another_key(pair: Lab) -> None:
    key = pair.plan.run / "other.key"
    key.touch(mode=0o600)
    key.write_text("7c" * 32 + "\n")
    with other_config(pair, "cluster.key", "other.key"):
        (finding,) = refused(pair)
    theirs, ours = (KeyRing.derive(load_key(file)).fingerprint.hex() for file in (key, pair.site("node1").key))
    assert finding.startswith(
        f"cluster key: found fingerprint {theirs}, expected {ours}, which the primary at 10.77.0.101"
    )
    assert f"; copy the primary's key file to {key}" in finding


OTHER_VERSION = """
import asyncio, os, sys
from pathlib import Path
from aa_cluster import config
from aa_cluster.agent import service
from aa_cluster.agent.host import this_machine
path = Path(sys.argv[1])
asyncio.run(service.serve(config.load(path), path, this_machine(), os.environ, wire_version=99))
"""


@pytest.mark.parametrize("primary", [False, True])
def test_another_wire_version(pair: Lab, primary: bool) -> None:
    """A whole agent of another version: as an auxiliary, and as a second primary that cannot understand the first."""
    site = pair.site("node2")
    site.kill()
    log = site.log.open("a")
    with log, pair.popen("node2", [sys.executable, "-c", OTHER_VERSION, str(site.config)], stderr=log) as agent:
        try:
            site.pid_file.write_text(str(agent.pid))
            site.wait_ready(10)
            (finding,) = refused(pair, primary)
        finally:
            site.kill()
            agent.wait(10)
    pair.restart_agent(2)
    assert finding == (
        f"wire version of 10.77.0.101: found 99, expected {envelope.VERSION}; "
        "install the same release of aa-cluster on every node of the cluster"
    )


def test_a_second_primary(pair: Lab) -> None:
    (finding,) = refused(pair, primary=True)
    assert finding == (
        "primary: found node1 at 10.77.0.101 is primary already, expected no other primary; "
        "join without --primary, or let that node leave the cluster first"
    )


def test_a_name_that_is_active(pair: Lab) -> None:
    with other_config(pair, 'name = "node2"', 'name = "node1"'):
        (finding,) = refused(pair)
    assert finding == (
        "node name: found node1, which is active as node 1 at 10.77.0.101, expected a name no active node has; "
        "set [node] name to another one, or let that node leave first"
    )


def test_several_differences_are_named_at_once(pair: Lab) -> None:
    pair.exec("node2", ["ip", "link", "set", "ext", "mtu", "1400"])
    wiring.load_ruleset(pair.plan, "node2", rulesets.text("no-nat"))
    try:
        findings = refused(pair)
    finally:
        wiring.load_ruleset(pair.plan, "node2", pair.ruleset)
        pair.exec("node2", ["ip", "link", "set", "ext", "mtu", "1500"])
    assert [finding.partition(":")[0] for finding in findings] == ["MTU of ext", "ruleset"]


def test_the_command_shows_it_and_ends_with_5(pair: Lab) -> None:
    done = pair.exec("node2", ["aa-cluster", "join", "--primary"])
    assert done.returncode == 5
    assert "node1 at 10.77.0.101 is primary already" in " ".join(done.stderr.split())


def test_after_all_that_the_node_can_join(pair: Lab) -> None:
    assert pair.join(2).role == "auxiliary"
