# SPDX-License-Identifier: GPL-2.0-or-later
"""What is asked of the agent, and what is told of how it went."""

import json

import msgspec
import pytest

from aa_cluster import api
from tests.unit.cli.answers import ANSWERS, NODES


def test_join_asks_and_tells(call, agent):
    result = call("join", "--timeout", "3")
    assert result.stdout == "joined as auxiliary of gw1, id 2, generation 3\n"
    assert agent.asked == [("POST", "/v1/join", {"primary": False, "timeout": 3.0})]


def test_join_as_primary(call, agent):
    agent.answers["/v1/join"] = api.Joined(node_id=1, role="primary", primary="gw1", generation=1)
    assert call("join", "--primary").stdout == "joined as primary, id 1, generation 1\n"
    assert agent.asked[0][2]["primary"] is True


def test_refusal_shows_every_finding(call, agent):
    findings = ("interface ext: not there, expected ext; create it", "ruleset: 12ab, expected 34cd; load the same")
    agent.answers["/v1/join"] = api.Error(
        code=5, message="gw1 refuses this node", hint="nothing was changed", findings=findings
    )
    result = call("join")
    assert result.exit_code == 5
    assert result.stdout == ""
    assert [line.strip() for line in result.stderr.splitlines()] == [
        "error: gw1 refuses this node",
        *findings,
        "nothing was changed",
    ]


def test_leave_reports_progress_once_a_change(call, agent):
    result = call("leave", "--timeout", "5", "--force")
    assert result.stdout.splitlines() == ["draining: 2 sessions left", "left the cluster; detached: int, ext"]
    assert agent.asked[0][2] == {"timeout": 5.0, "force": True, "now": False}


def test_leave_in_json_is_one_line_a_report(call, agent):
    lines = call("leave", "-j").stdout.splitlines()
    assert [json.loads(line)["done"] for line in lines] == [False, False, True]


def test_leave_that_breaks_off_is_an_error(call, agent):
    agent.answers["/v1/leave"] = [api.Leaving(sessions=2, done=False)]
    assert call("leave").exit_code == 4


def test_weight(call, agent):
    assert call("weight", "gw2", "3").exit_code == 0
    assert agent.asked == [("POST", "/v1/weight", {"node": "gw2", "weight": 3})]
    assert call("weight", "gw2", "101").exit_code == 2


def test_drain_now_says_what_came_of_it(call, agent):
    row = api.TakenRow(flows=40, prepared=38, updated=1, created=1, lost=2, ended=3, seconds=0.012, whole_seconds=0.02)
    agent.answers["/v1/drain"] = api.Drained(nodes=NODES, taken=row)
    shown = call("drain", "gw2", "--now").stdout
    assert agent.asked == [("POST", "/v1/drain", {"node": "gw2", "now": True})]
    assert "40 sessions go on at the primary, 2 cannot (no conntrack entry), 3 of its own ended; 12 ms" in shown
    assert json.loads(call("drain", "gw2", "--now", "-j").stdout)["taken"]["flows"] == 40


def test_leave_now_is_asked_for(call, agent):
    call("leave", "--now")
    assert agent.asked[0][2]["now"] is True


@pytest.mark.parametrize("verb", ["drain", "undrain"])
def test_drain_and_undrain(call, agent, verb):
    assert "gw2" in call(verb, "gw2").stdout
    assert agent.asked == [("POST", f"/v1/{verb}", {"node": "gw2", "now": False})]


def test_schedule_shows_and_sets(call, agent):
    shown = call("schedule").stdout
    assert "schedule: random (the configuration says weighted)" in shown
    assert "draining" in shown
    assert call("schedule", "source-hash").exit_code == 0
    assert agent.asked == [("GET", "/v1/schedule", None), ("POST", "/v1/schedule", {"schedule": "source-hash"})]


def test_policy(call, agent):
    shown = call("policy", "show").stdout.splitlines()
    assert [line.split()[:3] for line in shown[1:]] == [
        ["keep_mark", "keep", "56"],
        ["1", "keep", "12"],
        ["built", "in", "keep"],
        ["default", "share", "34"],
    ]
    told = call("policy", "check", "10.0.0.1", "10.0.0.2", "80", "--mark", "0x11", "--interface", "int")
    assert told.stdout.splitlines() == [
        "stays on the primary: rule 2 matches: keep ports 80",
        "  rule 1 does not match: port 80 is not in ports",
        "  note: a session with a conntrack helper stays",
    ]
    assert agent.asked[-1][2] == {
        "source": "10.0.0.1",
        "source_port": 40000,
        "destination": "10.0.0.2",
        "destination_port": 80,
        "protocol": "tcp",
        "interface": "int",
        "connmark": 0,
        "mark": 17,
    }
    assert call("policy", "check", "10.0.0.1", "10.0.0.2", "80", "--mark", "x").exit_code == 2
    told = call("policy", "reload").stdout
    assert told == "- rule 1: keep everything\nnot taken while the agent runs: [ha]\n"


def test_persist(call, agent):
    assert "10.0.0.1  gw2 (2)  1 min 1 s" in call("persist", "show", "--limit", "1").stdout
    assert "and 2 more" in call("persist", "set", "10.0.0.1", "gw2").stdout
    assert call("persist", "delete", "10.0.0.1").stdout.startswith("removed: 1\n3 clients of 65536 at most; hits 7")
    assert json.loads(call("persist", "flush", "-j").stdout)["kind"] == "persist"
    assert [body["action"] for _, _, body in agent.asked] == ["show", "set", "delete", "flush"]
    agent.answers["/v1/persist"] = msgspec.structs.replace(ANSWERS["/v1/persist"], enabled=False)
    assert "persistence is off" in call("persist", "show").stdout
