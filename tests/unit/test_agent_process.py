# SPDX-License-Identifier: GPL-2.0-or-later
"""What the agent keeps on disk, and what it tells systemd."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from aa_cluster.agent.notify import Notifier
from aa_cluster.agent.state import NodeState, PrimaryState, StateFile
from aa_cluster.errors import StateError


def test_state_goes_round(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "deep" / "state")
    assert file.load() == NodeState()
    primary = PrimaryState(id=1, name="a", ha_mac="02:00:00:00:00:01", ha_address="10.0.0.1", virtual_macs=("x",))
    state = NodeState(role="auxiliary", node_id=2, generation=3, epoch=4, ids={"a": 1}, applied={1: 2}, primary=primary)
    file.save(state)
    assert file.load() == state
    assert [one.name for one in file.path.parent.iterdir()] == ["state.json"]


@pytest.mark.parametrize("text", [b"", b"{", b'{"role": "king"}', b'{"version": 2}', b'{"unknown": 1}'])
def test_a_damaged_state_is_said_not_guessed(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "state.json").write_bytes(text)
    with pytest.raises(StateError, match=r"state\.json"):
        StateFile(tmp_path).load()


def test_a_state_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot write"):
        StateFile(tmp_path / "file").save(NodeState())


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(tmp_path: Path, abstract: bool) -> None:
    name = f"@aa-cluster-test-{tmp_path.name}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + name[1:] if abstract else name)
        systemd.settimeout(2.0)
        notifier = Notifier({"NOTIFY_SOCKET": name}, 1)
        notifier.ready("node1: primary")
        notifier.alive()
        notifier.status("busy")
        notifier.stopping()
        told = [systemd.recv(200).decode() for _ in range(4)]
    assert told == ["READY=1\nSTATUS=node1: primary", "WATCHDOG=1", "STATUS=busy", "STOPPING=1"]


def test_without_systemd_nothing_happens(tmp_path: Path) -> None:
    Notifier({}, 1).ready("x")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}, 1).ready("x")


@pytest.mark.parametrize(
    ("environment", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_twice_as_often_as_asked(environment: dict[str, str], interval: float | None) -> None:
    assert Notifier(environment, 7).watchdog_interval == interval
