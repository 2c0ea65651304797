# SPDX-License-Identifier: GPL-2.0-or-later
"""Changes while it runs: sessions that are open are not disturbed, each new one follows the rule of its moment."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import pytest

from aa_cluster.api import (
    DrainRequest,
    Policy,
    PolicyChecked,
    PolicyCheckRequest,
    PolicyReload,
    PolicyReloaded,
    Schedule,
)
from aa_cluster.core import schedule
from aa_cluster.errors import ConfigError, StateError, UsageError
from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import SessionReport, busy_sessions, held_sessions, program, run_sessions
from aa_cluster.topology.view import (
    ask,
    drain,
    flows,
    flows_of,
    only,
    owners,
    sessions,
    set_schedule,
    set_weights,
    undrain,
)

pytestmark = pytest.mark.lab

CLIENT, SERVER = "10.77.1.100", "10.77.2.100"
KEEP_80 = '[policy]\nrules = [{ action = "keep", ports = "80" }]\n'
KEEP_OTHERS = '[policy]\nrules = [{ action = "keep", ports = "81-90" }, { action = "keep", source = "10.9.0.0/16" }]\n'


@pytest.fixture(scope="module")
def own_lab(make_lab: Callable[..., Lab]) -> Lab:
    """Thousands of sessions leave their entries behind: not in the lab that others share."""
    return make_lab(3)


@pytest.fixture
def live(own_lab: Lab) -> Iterator[Lab]:
    """Weights 1:1:1; afterwards nobody is drained, the schedule is weighted, and there is no policy."""
    set_weights(own_lab, {1: 1, 2: 1, 3: 1})
    yield own_lab
    for node in (1, 2, 3):
        undrain(own_lab, node)
    set_schedule(own_lab, "weighted")
    set_policy(own_lab, "")


def set_policy(lab: Lab, section: str, by: int = 1) -> PolicyReloaded:
    """Put the section at the end of the primary's configuration file, and reload it through node ``by``."""
    path = lab.site("node1").config
    path.write_text(re.sub(r"\[policy\].*", "", path.read_text(), flags=re.DOTALL) + section)
    answer = lab.client(by).post("/v1/policy/reload", PolicyReload())
    assert isinstance(answer, PolicyReloaded)
    return answer


def states(lab: Lab, node: int) -> dict[str, str]:
    return {row.name: row.state for row in lab.status(node).nodes}


def new_owners(lab: Lab, count: int) -> Counter[str]:
    """Who gets ``count`` new sessions, all of which complete; those that have no flow are the primary's own."""
    report = run_sessions(lab, "client", SERVER, 80, count)
    assert report.completed == count, report.failed
    found = owners(flows_of(lab, CLIENT, report.ports, (SERVER, 80)))
    return found + Counter({"kept": count - found.total()})


def test_drain_under_load(live: Lab) -> None:
    """New sessions all the time: after the answer to `drain` none begins on the node, and its own run on."""
    lab = live
    argv = program("sessions", SERVER, 80, "--count", 1500, "--parallel", 8)
    with busy_sessions(lab, "client", SERVER, 80, 30, every=0.1) as busy:
        assert busy.begun.completed == 30
        load = lab.popen("client", argv, stdout=-1)
        until("the load to reach node2", lambda: owners(flows(lab))["node2"] > 50, 5)
        drain(lab, 2, by=3)
        drained = time.monotonic()
        assert lab.status(1).nodes[1].state == "draining"
        told, _ = load.communicate(timeout=60)
        after = time.monotonic() - drained - 0.05
        table = flows_of(lab, CLIENT, {row.source_port for row in flows(lab)}, (SERVER, 80))
        report = busy.stop()
    assert '"completed": 1500' in told, told[:200]
    assert report.failed == ()
    assert report.retransmits <= report.rounds // 500, "more than TCP's own impatience on a busy machine"
    young = owners(row for row in table if row.age < after)
    assert set(young) == {"node1", "node3"}, f"{young} in the {after:.1f} s after the drain"
    assert young.total() > 50


def test_a_drained_node_stays_drained(live: Lab) -> None:
    """Over restarts of both agents; `status` counts down as its sessions end; undrain gives it work again."""
    lab = live
    with held_sessions(lab, "client", SERVER, 80, 30) as report:
        assert report.completed == 30
        drain(lab, 2)
        for node in (1, 2):
            lab.site(f"node{node}").kill()
            lab.restart_agent(node)
        until("node2 to hear the primary", lambda: states(lab, 2).get("node2") == "draining", 5)
        until("all to be heard", lambda: "silent" not in states(lab, 1).values(), 5)
        assert states(lab, 1)["node2"] == "draining"
        assert next(row for row in lab.status(1).nodes if row.id == 2).drained
        assert sessions(lab)["node2"] >= 10
        assert set(new_owners(lab, 12)) == {"node1", "node3"}
    until("node2's sessions to end", lambda: sessions(lab)["node2"] == 0, 10)
    undrain(lab, 2, by=2)
    assert new_owners(lab, 12) == {"node1": 4, "node2": 4, "node3": 4}


def test_the_primary_can_be_drained(live: Lab) -> None:
    drain(live, 1)
    assert new_owners(live, 12) == {"node2": 6, "node3": 6}
    with pytest.raises(StateError, match="nobody"):
        live.client(2).post("/v1/drain", DrainRequest(node="nobody"))


class Change:
    """One change of the cluster, and what it means for the sessions that begin then."""

    def __init__(self, lab: Lab, seed: int) -> None:
        self.lab = lab
        self.dice = random.Random(seed)
        self.weights: dict[int, int] = {1: 1, 2: 1, 3: 1}
        self.kind: schedule.Kind = "weighted"
        self.kept = False
        self.drained: set[int] = set()

    def make(self, number: int) -> str:
        """Through any of the nodes. What was done."""
        by = self.dice.choice((1, 2, 3))
        what = number % 3
        if number == 25:
            self.drained = {2}
            drain(self.lab, 2, by)
            return "drain node2"
        if what == 0:
            self.weights = {node: self.dice.choice((0, 1, 2)) for node in (1, 2, 3)} | {3: 1}
            set_weights(self.lab, self.weights)
            return f"weights {self.weights}"
        if what == 1:
            self.kind = self.dice.choice(schedule.KINDS)
            set_schedule(self.lab, self.kind, by)
            return f"schedule {self.kind}"
        self.kept = not self.kept
        set_policy(self.lab, KEEP_80 if self.kept else KEEP_OTHERS, by)
        return f"policy: port 80 is {'kept' if self.kept else 'shared'}"

    def working(self) -> dict[int, int]:
        return {node: weight for node, weight in self.weights.items() if weight and node not in self.drained}

    def check(self) -> None:
        """As many new sessions as the schedule has turns in a cycle; exact where the kind is."""
        working = self.working()
        if self.kept:
            assert new_owners(self.lab, 3) == {"kept": 3}
            return
        turns = dict.fromkeys(working, 1) if self.kind == "round-robin" else _lowest(working)
        found = new_owners(self.lab, sum(turns.values()))
        assert set(found) <= {f"node{node}" for node in working}
        if self.kind in ("round-robin", "weighted"):
            assert found == {f"node{node}": share for node, share in turns.items()}
        elif self.kind == "source-hash":
            assert len(found) == 1


def _lowest(weights: Mapping[int, int]) -> dict[int, int]:
    """One cycle of the schedule: how often each node is in it."""
    return dict(Counter(schedule.sequence(weights, capacity=sum(weights.values()))))


@pytest.mark.slow
def test_fifty_changes_under_two_hundred_sessions(live: Lab) -> None:
    change = Change(live, seed=4)
    with busy_sessions(live, "client", SERVER, 80, 200, every=0.5) as busy:
        assert busy.begun.completed == 200, busy.begun.failed
        before = where(live, busy.begun)
        for number in range(50):
            done = change.make(number)
            try:
                change.check()
            except AssertionError as error:
                raise AssertionError(f"after change {number}, {done}: {error}") from error
        assert where(live, busy.begun) == before
        report = busy.stop()
    assert report.failed == ()
    assert report.retransmits <= report.rounds // 500, "more than TCP's own impatience on a busy machine"
    assert report.rounds > 50 * 200 * 0.2
    assert report.slowest < 1


def where(lab: Lab, report: SessionReport) -> dict[int, str]:
    """Client port → owner of sessions."""
    return {row.source_port: row.owner_name for row in flows_of(lab, CLIENT, report.ports, (SERVER, 80))}


def test_schedule_is_shown_and_refused(live: Lab) -> None:
    set_schedule(live, "round-robin", by=2)
    for node in (1, 3):
        shown = ask(live, node, "schedule", Schedule)
        assert (shown.schedule, shown.configured) == ("round-robin", "weighted")
        assert {row.name: round(row.share, 2) for row in shown.nodes} == {"node1": 0.33, "node2": 0.33, "node3": 0.33}
    with pytest.raises(UsageError, match="alphabetical"):
        set_schedule(live, "alphabetical")
    live.site("node1").kill()
    live.restart_agent(1)
    assert ask(live, 1, "schedule", Schedule).schedule == "round-robin"


def test_policy_is_reloaded_shown_and_explained(live: Lab) -> None:
    lab = live
    only(lab, 2)
    told = set_policy(lab, KEEP_80, by=2)
    assert told.changes == ("+ rule 1: keep ports 80",)
    assert new_owners(lab, 3) == {"kept": 3}
    shown = ask(lab, 3, "policy", Policy)
    assert [(row.action, row.text) for row in shown.rules] == [("keep", "keep ports 80")]
    assert shown.rules[0].hits >= 3
    asked = PolicyCheckRequest(source=CLIENT, source_port=40000, destination=SERVER, destination_port=80)
    checked = lab.client(2).post("/v1/policy/check", asked)
    assert isinstance(checked, PolicyChecked)
    assert (checked.action, checked.rule, checked.interface) == ("keep", 1, "int")
    assert any("helper" in note for note in checked.notes)
    assert set_policy(lab, KEEP_80).changes == ()
    with pytest.raises(ConfigError, match="rule 1"):
        set_policy(lab, '[policy]\nrules = [{ action = "keep", ports = "90-80" }]\n')
    assert new_owners(lab, 3) == {"kept": 3}, "a file that is not valid changes nothing"
    told = set_policy(lab, "")
    assert told.changes == ("- rule 1: keep ports 80",)
    assert new_owners(lab, 3) == {"node2": 3}
