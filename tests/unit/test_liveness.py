# SPDX-License-Identifier: GPL-2.0-or-later
"""Who can carry sessions, as playbooks: pulses sent and answered in, verdicts out."""

from __future__ import annotations

from collections.abc import Collection

from hypothesis import given
from hypothesis import strategies as st

from aa_cluster.core import liveness
from aa_cluster.core.liveness import (
    AskHosts,
    Carrier,
    Count,
    Event,
    Fit,
    HostsSaid,
    Key,
    Liveness,
    Look,
    Own,
    Unfit,
    Verdict,
    Watch,
)

HA, INT, EXT = 16, 0, 1
LINKS = (INT, EXT, HA)
DEAD, BEAT, QUICK = 0.15, 0.06, 0.004


class Play:
    """A primary that sends a pulse on each link after each wait, and a cluster that answers but for ``cut``.

    ``hosts``: what those of a link say that are asked; nobody is known where it is not there.
    """

    def __init__(self, *nodes: int, proven: bool = True) -> None:
        self.state = Liveness(LINKS, HA, DEAD)
        self.nodes = nodes
        self.sent = 100
        self.answered = {(node, link): 100 for node in nodes for link in LINKS}
        self.cut: set[Key] = set()
        self.hosts: dict[int, bool] = {}
        self.asked: list[int] = []
        self.time = 0.0
        self.feed(Watch(frozenset(nodes)))
        if proven:
            assert self.run(0.2) == []

    def feed(self, event: Event) -> list[Verdict]:
        self.state, verdicts = liveness.step(self.state, event)
        said: list[Verdict] = []
        for verdict in verdicts:
            if isinstance(verdict, AskHosts):
                self.asked.append(verdict.link)
                said += self.feed(HostsSaid(verdict.link, self.hosts.get(verdict.link)))
            else:
                said.append(verdict)
        return said

    def lose(self, node: int, links: Collection[int] = LINKS) -> None:
        self.cut |= {(node, link) for link in links}

    def wait(self, planned: float | None = None, passed: float | None = None) -> list[Verdict]:
        """One wait: the pulse sent before it is answered, or not; then the look, and the next pulse."""
        if planned is None:
            planned = QUICK if self.state.doubtful() else BEAT
        self.time += planned if passed is None else passed
        for key in self.answered:
            if key not in self.cut:
                self.answered[key] = self.sent
        counts = {key: Count(self.sent, answered) for key, answered in self.answered.items()}
        self.sent += 1
        return self.feed(Look(planned, planned if passed is None else passed, counts))

    def run(self, seconds: float) -> list[Verdict]:
        """Verdicts of so many seconds."""
        said: list[Verdict] = []
        end = self.time + seconds
        while self.time < end:
            said += self.wait()
        return said

    def until_said(self, limit: float = 10.0) -> tuple[float, list[Verdict]]:
        """(seconds until there was a verdict, verdicts)."""
        start = self.time
        while self.time < start + limit:
            said = self.wait()
            if said:
                return self.time - start, said
        return limit, []


def test_a_node_that_answers_is_left_alone() -> None:
    play = Play(2, 3)
    assert play.run(10) == []
    assert play.state.calm()


def test_a_dead_node_is_found_in_time() -> None:
    play = Play(2, 3)
    play.lose(2)
    seconds, said = play.until_said()
    assert said == [Unfit(2, LINKS)]
    assert 0.085 <= seconds <= 0.16
    assert play.run(5) == []


def test_each_link_counts() -> None:
    for link in LINKS:
        play = Play(2, 3)
        play.lose(2, [link])
        seconds, said = play.until_said()
        assert said == [Unfit(2, (link,))]
        assert seconds <= 0.16
        assert play.state.lost(2) == (link,)


def test_two_lost_pulses_are_nothing() -> None:
    play = Play(2, 3)
    for _ in range(20):
        play.lose(2)
        assert play.wait() == play.wait() == []
        play.cut.clear()
        assert play.run(0.1) == []


def test_in_doubt_more_pulses_are_sent() -> None:
    play = Play(2)
    play.lose(2, [EXT])
    play.wait()
    assert play.state.doubtful()
    play.run(1)
    assert not play.state.doubtful(), "not for as long as it is dead"


def test_own_sleep_is_not_silence() -> None:
    """The agent was stopped: nobody is declared dead for what it did not ask."""
    play = Play(2, 3)
    assert play.wait(BEAT, 3600.0) == []
    assert play.run(1) == []
    play.lose(2)
    assert play.wait(BEAT, 3600.0) == []
    play.cut.clear()
    assert play.run(1) == []


def test_a_sleepy_prober_finds_the_dead_too() -> None:
    play = Play(2, 3)
    play.lose(3)
    said: list[Verdict] = []
    while not said and play.time < 2:
        planned = QUICK if play.state.doubtful() else BEAT
        said = play.wait(planned, planned + 0.015)
    assert said == [Unfit(3, LINKS)]
    assert play.time <= 0.2 + 0.2


def test_silence_alone_is_not_enough() -> None:
    """One very long wait with one pulse in it."""
    play = Play(2)
    play.lose(2)
    assert play.wait(1.0, 1.0) == []
    assert play.wait(1.0, 1.0) == []
    assert play.wait(1.0, 1.0) == [Unfit(2, LINKS)]


def test_a_data_link_on_which_nobody_answers_is_our_own() -> None:
    play = Play(2, 3)
    play.lose(2, [EXT])
    play.lose(3, [EXT])
    _, said = play.until_said()
    assert said == [Own(EXT, True), Unfit(2, (EXT,)), Unfit(3, (EXT,))], "and packets are not sent there"
    assert play.run(5) == []
    play.cut.clear()
    assert play.run(1) == [Own(EXT, False), Fit(2), Fit(3)]
    assert play.state.calm()


def test_not_all_come_back_in_one_instant() -> None:
    play = Play(2, 3)
    for node in (2, 3):
        play.lose(node, [EXT])
    play.run(1)
    play.cut.remove((2, EXT))
    assert play.run(0.06) == [Own(EXT, False)]
    play.cut.clear()
    assert play.run(1) == [Fit(2), Fit(3)]


def test_of_two_nodes_one_cannot_tell_whose_link_it_is() -> None:
    play = Play(2)
    play.lose(2, [EXT])
    assert play.until_said()[1] == [Unfit(2, (EXT,))]


def test_without_carrier_it_is_our_own() -> None:
    play = Play(2)
    assert play.feed(Carrier(EXT, False)) == [Own(EXT, True)]
    play.lose(2, [EXT])
    assert play.run(2) == []
    assert play.feed(Carrier(EXT, True)) == [Own(EXT, False)], "and the silence until now says nothing"
    play.cut.clear()
    assert play.run(1) == []


def test_own_trouble_on_one_link_does_not_hide_a_death() -> None:
    play = Play(2, 3, 4)
    for node in (2, 3, 4):
        play.lose(node, [EXT])
    assert play.feed(Carrier(EXT, False)) == [Own(EXT, True)]
    assert play.run(1) == []
    play.lose(3)
    assert play.until_said()[1] == [Unfit(3, (INT, HA))]


def test_without_the_ha_link_all_are_cut_off() -> None:
    """They forward, but cannot be led: sessions go on through the primary alone."""
    play = Play(2, 3)
    for node in (2, 3):
        play.lose(node, [HA])
    said = play.run(1)
    assert said[0] == Own(HA, True)
    assert set(said[1:]) == {Unfit(2, (HA,)), Unfit(3, (HA,))}
    play.cut.clear()
    assert play.run(1) == [Own(HA, False), Fit(2), Fit(3)]


def test_when_all_fall_silent_at_once_it_takes_longer() -> None:
    play = Play(2, 3)
    play.lose(2)
    play.lose(3)
    seconds, said = play.until_said()
    assert set(said) <= {Unfit(2, LINKS), Unfit(3, LINKS)}
    assert 0.23 <= seconds <= 0.32
    one = Play(2)
    one.lose(2)
    assert one.until_said()[0] <= 0.16


def test_the_next_death_is_found_as_quickly() -> None:
    play = Play(2, 3, 4)
    for node in (2, 3, 4):
        play.run(1)
        play.lose(node)
        seconds, said = play.until_said()
        assert said == [Unfit(node, LINKS)]
        assert seconds <= 0.16


def test_two_at_once_out_of_four() -> None:
    play = Play(2, 3, 4)
    play.lose(2)
    play.lose(4)
    seconds, said = play.until_said()
    assert said == [Unfit(2, LINKS), Unfit(4, LINKS)]
    assert seconds <= 0.16


def test_second_link_of_another_node_is_not_our_own() -> None:
    play = Play(2, 3)
    play.lose(2, [EXT])
    assert play.run(1) == [Unfit(2, (EXT,))]
    play.lose(3, [EXT])
    assert play.run(1) == [Unfit(3, (EXT,))]


def test_a_machine_that_loses_frames_is_patient() -> None:
    """A flood: answers are lost here. A node that answers none at all for long is dead all the same."""
    play = Play(2, 3)
    play.lose(2)
    end = liveness.STRAINED * DEAD
    while play.time < 0.2 + 0.9 * end:
        counts = {
            key: Count(play.sent, answered if key[0] == 2 else play.sent) for key, answered in play.answered.items()
        }
        play.sent += 1
        play.time += QUICK
        assert play.feed(Look(QUICK, QUICK, counts, overrun=True)) == []
    assert play.until_said()[1] == [Unfit(2, LINKS)]
    calm = Play(2, 3)
    calm.feed(Look(BEAT, BEAT, {}, overrun=True))
    calm.run(liveness.STRAIN + BEAT)
    calm.lose(2)
    assert calm.until_said()[0] <= 0.16, "what was lost some time ago excuses nothing"


def test_fit_again_when_all_links_answer_for_a_while() -> None:
    play = Play(2, 3)
    play.lose(2, [INT])
    play.run(1)
    play.cut.clear()
    seconds, said = play.until_said()
    assert said == [Fit(2)]
    assert liveness.STEADY <= seconds <= liveness.STEADY + 2 * BEAT


def test_a_link_that_comes_and_goes_does_not_make_it_fit() -> None:
    play = Play(2, 3)
    play.lose(2, [INT])
    play.run(1)
    for _ in range(10):
        play.cut.clear()
        assert play.run(0.4) == []
        play.lose(2, [INT])
        assert play.run(0.05) == []


def test_a_new_node_has_time_to_its_first_answer() -> None:
    play = Play(2, proven=False)
    play.lose(2, [EXT])
    assert play.run(liveness.FIRST_PATIENCE - 0.2) == []
    play.cut.clear()
    assert play.run(1) == []
    play.lose(2, [EXT])
    assert play.until_said()[1] == [Unfit(2, (EXT,))]


def test_one_that_never_answers_on_a_link_is_unfit() -> None:
    play = Play(2, proven=False)
    play.lose(2, [EXT])
    seconds, said = play.until_said()
    assert said == [Unfit(2, (EXT,))]
    assert liveness.FIRST_PATIENCE - 0.1 <= seconds <= liveness.FIRST_PATIENCE + 0.1


def test_answers_from_before_prove_nothing() -> None:
    """The map outlives the agent."""
    state = Liveness(LINKS, HA, DEAD)
    state, _ = liveness.step(state, Watch(frozenset({2})))
    for _ in range(3):
        state, _ = liveness.step(state, Look(BEAT, BEAT, {(2, link): Count(500, 500) for link in LINKS}))
    assert not any(track.proven for track in state.tracks.values())
    assert not state.calm()


def test_who_is_watched_again_begins_anew() -> None:
    play = Play(2, 3)
    play.lose(2)
    play.run(1)
    play.feed(Watch(frozenset({3})))
    assert play.state.unfit == frozenset()
    play.feed(Watch(frozenset({2, 3})))
    assert play.run(liveness.FIRST_PATIENCE - 0.2) == []


def test_those_who_are_known_to_be_dead_are_not_told_again() -> None:
    play = Play(2, 3, proven=False)
    play.feed(Watch(frozenset({2, 3}), frozenset({2})))
    play.lose(2)
    assert play.run(5) == []
    play.cut.clear()
    assert play.run(1) == [Fit(2)]


def test_all_answered_needs_no_counts() -> None:
    play = Play(2, 3)
    for _ in range(5):
        assert play.feed(Look(BEAT, BEAT, {})) == []
    assert play.state.calm()
    play.lose(2)
    assert play.until_said()[1] == [Unfit(2, LINKS)]


@given(st.lists(st.tuples(st.booleans(), st.floats(0.001, 1.0)), max_size=60))
def test_no_node_that_answers_the_newest_pulse_is_ever_unfit(waits: list[tuple[bool, float]]) -> None:
    """Whatever the prober's own delays, and whichever single pulse is lost."""
    play = Play(2, 3)
    for lost, passed in waits:
        if lost:
            play.lose(2)
        assert play.wait(QUICK, passed) == []
        play.cut.clear()
        assert play.wait(QUICK, passed) == []
