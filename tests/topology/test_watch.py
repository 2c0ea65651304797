# SPDX-License-Identifier: GPL-2.0-or-later
"""``monitor`` and ``top`` on a running cluster, asked of any node."""

from __future__ import annotations

import contextlib
import json
import queue
import threading

import pytest

from aa_cluster.api import DrainRequest, Event, Top, TopRequest
from aa_cluster.errors import AgentUnreachable, StateError
from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import busy_sessions, run_sessions
from aa_cluster.topology.view import drain, only, set_weights, undrain

pytestmark = pytest.mark.lab


class Watcher:
    """``monitor`` of node ``at`` in the background; ``heard`` as they come."""

    def __init__(self, lab: Lab, at: int, **params: str) -> None:
        self.heard: queue.Queue[Event] = queue.Queue()
        self.over = False
        self._events = lab.client(at).events(params)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(AgentUnreachable):
            for event in self._events:
                self.heard.put(event)
        self.over = True

    def next(self, seconds: float = 3) -> Event:
        return self.heard.get(timeout=seconds)


def test_every_node_hears_what_happens_anywhere(lab: Lab) -> None:
    watchers = [Watcher(lab, node, kind="drain,undrain,weight") for node in (1, 2, 3)]
    drain(lab, 3, by=2)
    undrain(lab, 3, by=2)
    set_weights(lab, {2: 5})
    for watcher in watchers:
        first = watcher.next()
        while first.event != "drain":  # what the fixture set is still on its way
            first = watcher.next()
        told = [first, watcher.next(), watcher.next()]
        assert [(event.event, event.node) for event in told] == [
            ("drain", "node3"),
            ("undrain", "node3"),
            ("weight", "node2"),
        ]
        assert "5" in told[2].text


def test_silence_is_told_and_its_end(lab: Lab) -> None:
    watcher = Watcher(lab, 3, kind="silent,heard", node="node2")
    lab.pause(2)
    try:
        assert watcher.next(5).event == "silent"
    finally:
        lab.heal("node2")
    assert watcher.next(5).event == "heard"


def test_flow_events_begin_and_end(lab: Lab) -> None:
    only(lab, 2)
    watcher = Watcher(lab, 1, kind="flow-begin,flow-end", address="10.77.1.100")
    report = run_sessions(lab, "client", "10.77.2.100", 80, 3)
    begun, ended = set(), set()
    while len(ended) < 3:
        event = watcher.next()
        port = int(event.detail["source_port"])
        if port not in report.ports:
            continue  # an earlier test's, of age
        assert (event.node, event.detail["destination_port"]) == ("node2", "80")
        (begun if event.event == "flow-begin" else ended).add(port)
    assert begun <= ended
    with pytest.raises(StateError, match="only the primary"):
        lab.client(2).events({"flows": "1"})


def test_a_watcher_ends_with_the_agent(lab: Lab) -> None:
    watcher = Watcher(lab, 3)
    lab.site("node3").kill()
    lab.restart_agent(3)
    until("the stream to end", lambda: watcher.over, 5)


@pytest.mark.parametrize("asked", [1, 2])
def test_top_says_what_each_node_does(lab: Lab, asked: int) -> None:
    only(lab, 2)
    with busy_sessions(lab, "client", "10.77.2.100", 80, 20, every=0.05) as busy:
        answer = lab.client(asked).post("/v1/top", TopRequest(interval=1.0))
        assert isinstance(answer, Top)
        busy.stop()
    rows = {row.name: row for row in answer.nodes}
    assert rows["node2"].sessions >= 20
    assert rows["node3"].packets is not None
    assert rows["node2"].packets is not None
    assert rows["node2"].packets > 10 * (rows["node3"].packets + 1)
    assert rows["node2"].octets is not None
    assert rows["node2"].octets > 60 * rows["node2"].packets * 0.5
    assert "GUARD_PASS" in rows["node2"].reasons
    assert "STEER_TX" in rows["node1"].reasons


def test_the_commands_print_lines(lab: Lab) -> None:
    config = str(lab.site("node2").config)
    done = lab.exec("node2", ["aa-cluster", "--config", config, "top", "--interval", "0.2", "-j"])
    assert json.loads(done.stdout)["kind"] == "top"
    assert "node3" in lab.exec("node2", ["aa-cluster", "--config", config, "top", "--interval", "0.2"]).stdout
    watching = lab.popen("node2", ["aa-cluster", "--config", config, "monitor", "-j", "--count", "1"], stdout=-1)

    def told() -> bool:
        lab.client(1).post("/v1/drain", DrainRequest(node="node3"))
        undrain(lab, 3)
        return watching.poll() is not None

    until("the monitor to print one event", told, 10, every=0.3)
    out, _ = watching.communicate()
    assert json.loads(out)["event"] in ("drain", "undrain")
