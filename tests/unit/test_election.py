# SPDX-License-Identifier: GPL-2.0-or-later
"""Who becomes primary: keepalived's words put together, its configuration, its FIFO's lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from aa_cluster.agent.keepalived import CHOSEN, Ballot, behind, configuration, heard
from aa_cluster.core import election
from aa_cluster.core.election import Barred, Election, Event, PathState, Stand, Told, Waited, WaitUntil

SETTLE = 0.04


def play(*events: Event) -> tuple[Election, list[election.Command]]:
    state, all_commands = election.begin(SETTLE), []
    for event in events:
        state, commands = election.step(state, event)
        all_commands += commands
    return state, all_commands


def test_a_node_stands_when_all_paths_agree_for_a_while() -> None:
    state, commands = play(Told("ha", "master", 1.0), Told("data", "master", 1.1), Waited(1.1 + SETTLE))
    assert commands == [WaitUntil(1.1 + SETTLE), Stand()]
    assert state.won


@pytest.mark.parametrize("other", ["backup", "fault", "unknown"])
def test_one_path_is_not_enough(other: PathState) -> None:
    """A cut HA link alone makes no second primary, a cut data segment neither."""
    for silent, heard_on in (("ha", "data"), ("data", "ha")):
        state, commands = play(Told(heard_on, other, 1.0), Told(silent, "master", 1.1), Waited(9.0))
        assert not state.won
        assert commands == []


def test_who_falls_back_before_the_time_is_over_does_not_stand() -> None:
    _, commands = play(
        Told("ha", "master", 1.0), Told("data", "master", 1.0), Told("data", "backup", 1.02), Waited(1.05)
    )
    assert Stand() not in commands


def test_the_time_begins_anew_when_they_agree_again() -> None:
    _, commands = play(
        Told("ha", "master", 1.0),
        Told("data", "master", 1.0),
        Told("data", "backup", 1.02),
        Told("data", "master", 1.03),
        Waited(1.05),
        Waited(1.07),
    )
    assert commands == [WaitUntil(1.04), WaitUntil(1.07), Stand()]


def test_a_node_stands_once() -> None:
    _, commands = play(Told("ha", "master", 1.0), Told("data", "master", 1.0), Waited(1.1), Waited(1.2))
    assert commands.count(Stand()) == 1


def test_a_barred_node_does_not_stand() -> None:
    _, commands = play(Barred("broken"), Told("ha", "master", 1.0), Told("data", "master", 1.0), Waited(1.1))
    assert Stand() not in commands


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ('INSTANCE "ha" MASTER 200', ("ha", "master")),
        ('INSTANCE "data" BACKUP 184\n', ("data", "backup")),
        ('INSTANCE "data" FAULT 184', ("data", "fault")),
        ('INSTANCE "data" MASTER_RX_LOWER_PRI 184', None),
        ('GROUP "x" MASTER 184', None),
        ("", None),
        ('INSTANCE "ha" MASTER', None),
    ],
)
def test_lines_of_the_fifo(line: str, word: tuple[str, str] | None) -> None:
    assert heard(line) == word


def ballot(node_id: int) -> Ballot:
    return Ballot("node", node_id, "ha", "int", "10.77.0.101", 78, 0.04)


def test_configuration_has_an_instance_a_path() -> None:
    text = configuration(ballot(1), Path("/run/x/fifo"), Path("/run/x/part"))
    assert text.count("vrrp_instance") == 2
    assert "vrrp_notify_fifo /run/x/fifo" in text
    assert "nopreempt" not in text, "of two nodes each could win one path, for ever"
    assert text.count("advert_int 0.04") == 2
    assert text.count("mcast_src_ip 10.77.0.101") == 2


def priority(node_id: int) -> int:
    text = configuration(ballot(node_id), Path("/f"), Path("/p"))
    return int(text.split("priority ")[2].split()[0])


def test_who_lacks_the_table_stands_behind_all_who_have_it() -> None:
    have = [priority(node_id) for node_id in range(1, 13)]
    lack = [priority(node_id) + behind(node_id) for node_id in range(1, 13)]
    assert max(lack) < min(have)
    assert min(lack) >= 1
    assert lack == sorted(lack, reverse=True), "the same order"


def test_priorities_differ_and_stay_in_range_with_everything_added() -> None:
    """1 to 254 (RFC 5798, 5.2.4); 255 is the owner of an address, which nobody is."""
    found = [priority(node_id) for node_id in range(1, 13)]
    assert len(set(found)) == 12
    assert min(found) >= 1
    assert max(found) < min(found) + CHOSEN, "the primary's is above all others'"
    assert max(found) + CHOSEN <= 254
