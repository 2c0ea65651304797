# SPDX-License-Identifier: GPL-2.0-or-later
"""No node answers on a data link: whose port is dead? Its hosts are asked, and judge."""

from __future__ import annotations

import pytest

from aa_cluster.core import liveness
from aa_cluster.core.liveness import AskHosts, Carrier, Count, Fit, HostsSaid, Liveness, Look, Own, Unfit, Watch
from tests.unit.test_liveness import BEAT, DEAD, EXT, HA, INT, LINKS, QUICK, Play

NODES = [(2,), (2, 3)]


def muted(*nodes: int, hosts: bool | None) -> Play:
    """From now on none of them answers on EXT."""
    play = Play(*nodes)
    if hosts is not None:
        play.hosts[EXT] = hosts
    for node in nodes:
        play.lose(node, [EXT])
    return play


@pytest.mark.parametrize("nodes", NODES)
def test_where_no_host_answers_either_it_is_our_own(nodes: tuple[int, ...]) -> None:
    """And nobody is declared dead for it."""
    play = muted(*nodes, hosts=False)
    seconds, said = play.until_said()
    assert said == [Own(EXT, True)]
    assert seconds <= 0.16
    assert play.state.deaf() == {EXT}
    assert play.run(5) == []
    assert play.asked == [EXT]


@pytest.mark.parametrize("nodes", NODES)
def test_where_hosts_answer_the_nodes_are_cut_off(nodes: tuple[int, ...]) -> None:
    """However many they are."""
    play = muted(*nodes, hosts=True)
    seconds, said = play.until_said()
    assert said == [Unfit(node, (EXT,)) for node in nodes]
    assert seconds <= 0.16
    assert play.run(5) == []


def test_where_nobody_can_be_asked_two_nodes_are_the_witnesses() -> None:
    assert muted(2, 3, hosts=None).until_said()[1] == [Own(EXT, True), Unfit(2, (EXT,)), Unfit(3, (EXT,))]
    assert muted(2, hosts=None).until_said()[1] == [Unfit(2, (EXT,))]


def test_one_that_answers_is_witness_enough() -> None:
    play = Play(2, 3)
    play.lose(2, [EXT])
    assert play.until_said()[1] == [Unfit(2, (EXT,))]
    assert play.asked == []


def test_on_the_ha_link_there_are_no_hosts() -> None:
    play = Play(2, 3)
    for node in (2, 3):
        play.lose(node, [HA])
    play.run(1)
    assert play.asked == []


def test_a_lost_pulse_asks_and_is_forgotten() -> None:
    play = muted(2, hosts=True)
    play.wait()
    play.wait()
    assert play.asked == [EXT]
    play.cut.clear()
    assert play.run(1) == []
    assert play.state.hosts == {}
    assert play.state.calm()


def test_hosts_that_are_slow_are_not_waited_for_ever() -> None:
    state = Liveness(LINKS, HA, DEAD)
    state, _ = liveness.step(state, Watch(frozenset({2}), proven=frozenset({2})))
    sent, seconds, said = 100, 0.0, []
    while not said and seconds < 1:
        sent, seconds = sent + 1, seconds + QUICK
        counts = {(2, link): Count(sent, 100 if link == EXT else sent) for link in LINKS}
        state, verdicts = liveness.step(state, Look(QUICK, QUICK, counts))
        said = [verdict for verdict in verdicts if verdict != AskHosts(EXT)]
    assert said == [Unfit(2, (EXT,))]
    assert liveness.ALONE * DEAD - 0.02 <= seconds <= liveness.ALONE * DEAD + 0.02


def test_an_answer_that_nobody_waits_for_changes_nothing() -> None:
    play = Play(2)
    assert play.feed(HostsSaid(EXT, False)) == []
    assert play.state.deaf() == frozenset()


def test_it_works_again_when_a_node_answers() -> None:
    play = muted(2, 3, hosts=False)
    play.run(1)
    play.cut.remove((2, EXT))
    assert play.run(BEAT) == [Own(EXT, False)]
    play.cut.clear()
    assert play.run(1) == []
    assert play.state.calm()


def test_it_works_again_when_a_host_answers() -> None:
    """The nodes are judged anew then."""
    play = muted(2, 3, hosts=False)
    play.run(1)
    assert play.feed(HostsSaid(EXT, True)) == [Own(EXT, False)]
    play.hosts[EXT] = True
    seconds, said = play.until_said()
    assert set(said) == {Unfit(2, (EXT,)), Unfit(3, (EXT,))}
    assert 0.08 <= seconds <= 0.3
    play.cut.clear()
    assert play.run(1) == [Fit(2), Fit(3)]


def test_a_death_is_seen_all_the_same() -> None:
    play = muted(2, 3, hosts=False)
    play.run(1)
    play.lose(3)
    assert play.until_said()[1] == [Unfit(3, (INT, HA))]
    assert play.run(1) == []


def test_a_port_that_loses_its_carrier_too() -> None:
    play = muted(2, hosts=False)
    play.run(1)
    assert play.feed(Carrier(EXT, False)) == []
    assert play.state.deaf() == frozenset()
    play.cut.clear()
    assert play.feed(Carrier(EXT, True)) == [Own(EXT, False)]
    assert play.run(1) == []


def test_each_link_by_itself() -> None:
    play = Play(2, 3)
    play.hosts.update({EXT: False, INT: True})
    for node in (2, 3):
        play.lose(node, [EXT, INT])
    said = play.run(0.5)
    assert Own(EXT, True) in said
    assert {verdict for verdict in said if isinstance(verdict, Unfit)} == {Unfit(2, (INT,)), Unfit(3, (INT,))}


def test_a_machine_that_loses_frames_does_not_trust_its_ears() -> None:
    """A flood: the hosts' answers may be lost, too."""
    play = muted(2, hosts=False)
    for _ in range(10):
        play.sent, play.time = play.sent + 1, play.time + QUICK
        counts = {key: Count(play.sent, 100 if key == (2, EXT) else play.sent) for key in play.answered}
        assert play.feed(Look(QUICK, QUICK, counts, overrun=True)) == []
    play.run(0.1)
    assert play.asked == [EXT]
    assert play.state.deaf() == frozenset()
