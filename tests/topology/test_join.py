# SPDX-License-Identifier: GPL-2.0-or-later
"""Refused joins: the message names difference, finding and remedy; both nodes stay as they were."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from aa_cluster.api import Nodes
from aa_cluster.errors import AaError, JoinRefused
from aa_cluster.topology import rulesets, wiring
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.snapshot import of_node
from aa_cluster.topology.view import ask

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


def refusal(lab: Lab, primary: bool = False) -> str:
    """The whole message of a join that must be refused; checks that nothing changed on either node."""
    before = _state(lab)
    with pytest.raises(AaError) as caught:
        lab.join(2, primary=primary)
    assert _state(lab) == before
    if isinstance(caught.value, JoinRefused):
        return str(caught.value)
    return f"{caught.value}\n{caught.value.hint}"


def _state(lab: Lab) -> dict[str, object]:
    # data ports are raised by a primary's join, in the lab, before it is asked
    lab.connect("node2")
    rows = [(row.id, row.name, row.role, row.state, row.weight) for row in ask(lab, 1, "nodes", Nodes).nodes]
    role = lab.status(2).role
    return {"node1": of_node(lab, "node1"), "node2": of_node(lab, "node2"), "nodes": rows, "role": role}


def test_a_missing_interface(pair: Lab) -> None:
    with other_config(pair, '"int", "ext"', '"int"'):
        said = refusal(pair)
    assert "ext" in said


def test_another_address(pair: Lab) -> None:
    pair.exec("node2", ["ip", "addr", "add", "10.77.1.2/24", "dev", "int"])
    try:
        said = refusal(pair)
    finally:
        pair.exec("node2", ["ip", "addr", "del", "10.77.1.2/24", "dev", "int"])
    assert "int" in said
    assert "10.77.1.2/24" in said
    assert "10.77.1.1/24" in said


def test_another_ruleset(pair: Lab) -> None:
    wiring.load_ruleset(pair.plan, "node2", rulesets.text("no-nat"))
    try:
        said = refusal(pair)
    finally:
        wiring.load_ruleset(pair.plan, "node2", pair.ruleset)
    assert "ruleset" in said


def test_another_key(pair: Lab) -> None:
    key = pair.plan.run / "other.key"
    key.touch(mode=0o600)
    key.write_text("7c" * 32 + "\n")
    with other_config(pair, "cluster.key", "other.key"):
        said = refusal(pair)
    assert "key" in said


OTHER_VERSION = """
import asyncio, os, sys
from pathlib import Path
from aa_cluster import config
from aa_cluster.agent import service
from aa_cluster.agent.host import this_machine
path = Path(sys.argv[1])
asyncio.run(service.serve(config.load(path), path, this_machine(), os.environ, wire_version=99))
"""


def test_another_wire_version(pair: Lab) -> None:
    site = pair.site("node2")
    site.kill()
    log = site.log.open("a")
    with log, pair.popen("node2", [sys.executable, "-c", OTHER_VERSION, str(site.config)], stderr=log) as agent:
        site.pid_file.write_text(str(agent.pid))
        site.wait_ready(10)
        said = refusal(pair)
        site.kill()
    pair.restart_agent(2)
    assert "version" in said
    assert "99" in said


def test_a_second_primary(pair: Lab) -> None:
    said = refusal(pair, primary=True)
    assert "primary" in said
    assert "node1" in said


def test_a_name_that_is_active(pair: Lab) -> None:
    with other_config(pair, 'name = "node2"', 'name = "node1"'):
        said = refusal(pair)
    assert "node1" in said


def test_after_all_that_the_node_can_join(pair: Lab) -> None:
    assert pair.join(2).role == "auxiliary"
