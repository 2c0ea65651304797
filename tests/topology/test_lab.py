# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's own command: its verbs, and cleaning up after one that was killed half-way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aa_cluster.topology import namespaces, processes
from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.plan import Plan
from tests.topology.hosts import FAR_HOST, OUTSIDE, SERVER, at

pytestmark = pytest.mark.lab


class Command:
    """``aa-cluster lab VERB --name NAME …`` as a user runs it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def argv(self, verb: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "aa_cluster", "lab", verb, "--name", self.name, *arguments]

    def __call__(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.argv(verb, *arguments), capture_output=True, text=True, check=False, timeout=60)

    def members(self) -> dict[str, dict[str, object]]:
        return {row["host"]: row for row in json.loads(self("status", "-j").stdout)["hosts"]}


@pytest.fixture
def command(root: None, new_lab_name: str) -> Iterator[Command]:
    made = Command(new_lab_name)
    yield made
    Lab(made.name, 1).down()


def test_the_verbs(command: Command) -> None:
    done = command("up", "--nodes", "2")
    assert done.returncode == 0, done.stderr
    for server in ("10.77.2.100", "[fd77:2::100]"):
        page = command("exec", "client", "--", "curl", "-sS", "-m5", f"http://{server}/")
        assert page.stdout.startswith("server "), page.stderr
    assert command("exec", "client", "--", "sh", "-c", "exit 7").returncode == 7
    assert command("exec", f"{command.name}-node2", "--", "aa-cluster", "status").returncode == 0
    rows = command.members()
    assert [rows[host]["role"] for host in ("client", "node1", "node2", "server")] == ["", "primary", "auxiliary", ""]
    trouble(command)
    assert command("down").returncode == 0
    assert leftovers(command.name) == []


def trouble(command: Command) -> None:
    """Cut and heal a link, pause and heal an agent, kill and revive a node."""
    command("cut", "node2", "int")
    assert command.members()["node2"]["links"] == {"int": False, "ext": True, "ha": True}
    command("heal", "node2", "int")
    command("pause", "node2")
    assert command.members()["node2"]["agent"] == "paused"
    command("heal", "node2")
    assert command.members()["node2"]["agent"] == "running"
    command("kill", "node2")
    assert command.members()["node2"]["power"] is False
    revived = command("revive", "node2")
    assert revived.returncode == 0, revived.stderr
    assert command.members()["node2"]["state"] == "active"


def test_a_node_without_an_agent_is_a_gateway_of_both_families(root: None, new_lab_name: str) -> None:
    """The wires alone: what a node forwards and publishes by itself, as far as behind the router."""
    with Lab(new_lab_name, 1, agents=False, far=True) as bare:
        bare.connect(1)
        for family in (4, 6):
            said = [
                bare.exec(host, ["curl", "-sS", "-m5", f"http://{at(address, port)}/"]).stdout.split()
                for host, address, port in (
                    ("client", SERVER[family], 80),
                    ("server", OUTSIDE[family], 8080),
                    ("client", FAR_HOST[family], 80),
                    ("far", OUTSIDE[family], 8080),
                )
            ]
            assert [words[0] for words in said if words] == ["server", "client", "far", "client"]
            assert said[0][2].rpartition(":")[0] == OUTSIDE[family]


def test_up_twice_is_refused(command: Command) -> None:
    assert command("up", "--nodes", "1", "--bare").returncode == 0
    again = command("up", "--nodes", "1", "--bare")
    assert again.returncode == 10
    assert "lab down" in again.stderr


def test_unknown_hosts_and_labs_are_named(command: Command) -> None:
    assert command("status").returncode == 10
    assert command("up", "--nodes", "1", "--bare").returncode == 0
    unknown = command("exec", "node9", "--", "true")
    assert unknown.returncode == 10
    assert "client, server, node1, switch" in unknown.stderr


@pytest.mark.parametrize("at", ["switch", "client", "node2"])
def test_a_lab_killed_half_way_is_cleaned(command: Command, at: str) -> None:
    """SIGKILL as soon as that namespace exists; then ``down`` leaves nothing."""
    wanted = namespaces.DIRECTORY / Plan(command.name, 3).namespace(at)
    with subprocess.Popen(
        command.argv("up", "--nodes", "3"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as up:
        until(f"{wanted.name} to be there", wanted.exists, 30)
        up.send_signal(signal.SIGKILL)
    assert leftovers(command.name) != []
    done = command("down")
    assert done.returncode == 0, done.stderr
    assert leftovers(command.name) == []


def leftovers(name: str) -> list[str]:
    """Namespaces, processes, directories and pins of that lab."""
    plan = Plan(name, 1)
    paths = [plan.run, plan.state, plan.pins]
    found = [other for other in namespaces.existing() if plan.owns_namespace(other)]
    found += [str(pid) for pid in processes.of_lab(name)]
    return found + [str(path) for path in paths if Path(path).exists() and os.path.isdir(path)]
