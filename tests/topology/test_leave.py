# SPDX-License-Identifier: GPL-2.0-or-later
"""Leaving: no new sessions, the old ones run out, and everything is as before the join."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import pytest

from aa_cluster.api import LeaveRequest, Leaving
from aa_cluster.errors import AaError
from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import held_sessions, run_sessions
from aa_cluster.topology.snapshot import of_node
from aa_cluster.topology.view import flows_of, owners, sessions

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def pair(make_lab: Callable[..., Lab]) -> Lab:
    """Two nodes whose agents run; neither has joined, all ports are up."""
    lab = make_lab(2, joined=0)
    for node in (1, 2):
        lab.connect(node)
    return lab


class Leave:
    """``leave`` on its way: its lines as they come, then ``None``."""

    def __init__(self, lab: Lab, node: int, timeout: float) -> None:
        self.lines: queue.Queue[Leaving | None] = queue.Queue()
        self.error: AaError | None = None
        self._request = LeaveRequest(timeout=timeout)
        self._lab, self._node = lab, node
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            for line in self._lab.client(self._node).stream("/v1/leave", self._request):
                assert isinstance(line, Leaving)
                self.lines.put(line)
        except AaError as error:
            self.error = error
        finally:
            self.lines.put(None)

    def rest(self) -> list[Leaving]:
        self._thread.join(30)
        return [line for line in iter(self.lines.get, None) if line is not None]


def test_everything_is_as_before(pair: Lab) -> None:
    before = {node: of_node(pair, f"node{node}") for node in (1, 2)}
    pair.join(1, primary=True)
    pair.join(2)
    ours = {"qdiscs", "filters", "pins", "programs"}
    for node, changed in ((1, ours | {"links"}), (2, ours)):  # only the primary changes MACs and carries XDP
        now = of_node(pair, f"node{node}")
        assert {aspect for aspect in now if now[aspect] != before[node][aspect]} >= changed
    assert run_sessions(pair, "client", "10.77.2.100", 80, 20).completed == 20
    for node in (2, 1):
        leave = Leave(pair, node, timeout=10)
        lines = leave.rest()
        assert leave.error is None
        assert lines[-1].done
        assert lines[-1].detached
        assert pair.status(node).role == "none"
        assert of_node(pair, f"node{node}") == before[node]


@pytest.fixture(scope="module")
def joined(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab(2)


def test_new_sessions_go_elsewhere_and_old_ones_run_out(joined: Lab) -> None:
    with held_sessions(joined, "client", "10.77.2.100", 80, 20):
        until("node2 to have its ten", lambda: sessions(joined)["node2"] == 10, 5)
        leave = Leave(joined, 2, timeout=30)
        first = leave.lines.get(timeout=5)
        assert first is not None
        assert (first.sessions, first.done) == (10, False)
        with held_sessions(joined, "client", "10.77.2.100", 80, 20) as report:
            assert report.completed == 20
            assert owners(flows_of(joined, "10.77.1.100", report.ports, ("10.77.2.100", 80))) == {"node1": 20}
    lines = leave.rest()
    assert leave.error is None
    assert lines[-1].done
    assert lines[-1].sessions == 0
    assert joined.status(2).role == "none"
    joined.join(2)


def test_after_the_timeout_it_leaves_with_sessions_left(joined: Lab) -> None:
    with held_sessions(joined, "client", "10.77.2.100", 80, 4):
        until("node2 to have its two", lambda: sessions(joined)["node2"] == 2, 5)
        leave = Leave(joined, 2, timeout=0.5)
        lines = leave.rest()
    assert leave.error is None
    assert (lines[-1].sessions, lines[-1].done) == (2, True)
    assert joined.status(2).role == "none"
