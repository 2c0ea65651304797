# SPDX-License-Identifier: GPL-2.0-or-later
"""What is shown of the cluster."""

import json

import msgspec
import pytest

from aa_cluster import api
from tests.unit.cli.answers import ARP, FLOWS, NODES, SICK, STATS, STATUS

SHOWING = {"status": STATUS, "nodes": api.Nodes(nodes=NODES), "flows": FLOWS, "stats": STATS, "arp": ARP}


@pytest.mark.parametrize("verb", SHOWING)
@pytest.mark.parametrize("before", [True, False])
def test_json_is_the_api(call, agent, verb, before):
    result = call("-j", verb) if before else call(verb, "-j")
    assert result.exit_code == 0
    assert msgspec.json.decode(result.stdout, type=type(SHOWING[verb])) == SHOWING[verb]
    assert json.loads(result.stdout)["version"] == 1


def test_status_begins_with_health(call, agent):
    lines = [line.strip() for line in call("status").stdout.splitlines()]
    assert lines[0] == "degraded  works, with problems"
    assert lines[1] == "! node gw2 is silent for 1.2 s"
    assert lines[2] == "node gw1, id 1: primary, active, agent up 1 h 1 min"
    assert (
        "cluster 7: generation 3, epoch 5, schedule weighted, election static: a primary that dies is not replaced"
        in lines
    )
    assert "flows: 12 of 262144" in lines


def test_bare_command_is_status(call, agent):
    assert call().stdout == call("status").stdout
    assert [asked[1] for asked in agent.asked] == ["/v1/status"] * 2


def test_nodes(call, agent):
    rows = call("nodes").stdout.splitlines()
    assert rows[0].split()[:6] == ["ID", "NODE", "ROLE", "STATE", "WEIGHT", "SHARE"]
    assert rows[2].split() == [
        "2",
        "gw2",
        "auxiliary",
        "silent",
        "3",
        "75.0",
        "%",
        "200",
        "0.1",
        "s",
        "-",
        "10.77.0.102",
        "6.18",
    ]


def test_flows_pass_the_filters_on(call, agent):
    result = call(
        "flows", "--node", "gw2", "--address", "FD00::0:1", "--port", "80", "--state", "established", "--limit", "1"
    )
    assert result.exit_code == 0
    assert agent.asked[0][1] == "/v1/flows?node=gw2&address=fd00%3A%3A1&port=80&state=established&limit=1"
    assert "10.77.1.100:40000 → 10.77.2.100:80" in result.stdout
    assert "gw2 (2)" in result.stdout
    assert "0xff" in result.stdout
    assert "1 of 40 flows" in result.stdout


def test_flows_of_one_kind(call, agent):
    row = msgspec.structs.replace(
        FLOWS.flows[0], family="ipv6", protocol="udp", source="fd77:a::100", state="established", phase="stream"
    )
    agent.answers["/v1/flows"] = msgspec.structs.replace(FLOWS, flows=(row,))
    result = call("flows", "--family", "ipv6", "--protocol", "udp", "--state", "stream")
    assert agent.asked[0][1] == "/v1/flows?family=ipv6&protocol=udp&state=stream&limit=100"
    words = result.stdout.splitlines()[1].split()
    assert words[:2] == ["udp/ipv6", "[fd77:a::100]:40000"]
    assert "stream" in words
    assert "established" not in words
    told = json.loads(call("flows", "-j").stdout)["flows"][0]
    assert (told["state"], told["phase"]) == ("established", "stream")
    assert call("flows", "--family", "4").exit_code == 2
    assert call("flows", "--protocol", "icmp").exit_code == 2


def test_flows_without_accounting_have_no_figures(call, agent):
    heads, row = call("flows").stdout.splitlines()[:2]
    assert heads.split()[1:7] == ["ORIGINAL", "PACKETS", "BYTES", "REPLY", "PACKETS", "BYTES"]
    assert row.split().count("—") == 4
    told = json.loads(call("flows", "-j").stdout)["flows"][0]
    assert [told[name] for name in ("packets", "octets", "reply_packets", "reply_octets")] == [None] * 4


def test_flows_with_accounting(call, agent):
    flow = msgspec.structs.replace(FLOWS.flows[0], packets=3, octets=180, reply_packets=12345, reply_octets=18_000_000)
    agent.answers["/v1/flows"] = msgspec.structs.replace(FLOWS, flows=(flow,))
    result = call("flows", "--sort", "bytes")
    assert agent.asked[0][1] == "/v1/flows?limit=100&sort=bytes"
    words = result.stdout.splitlines()[1].split()
    assert [word for word in words if word.isdigit()][:4] == ["3", "180", "12345", "18000000"]
    assert call("flows", "--sort", "colour").exit_code == 2


def test_stats_hide_what_never_happened(call, agent):
    assert "bad_tag" not in call("stats").stdout
    assert "bad_tag" in call("stats", "--all").stdout
    assert "bad_tag" in call("stats", "-j").stdout


def test_arp(call, agent):
    shown = call("arp").stdout
    assert "answered from the table 5, from the wire 6; relayed 11; refused 0" in shown
    assert "2, 3" in shown


def test_monitor_prints_a_line_an_event(call, agent):
    lines = call("monitor", "--flows", "--kind", "drain", "--kind", "join", "--node", "gw2").stdout.splitlines()
    assert [line.split(None, 1)[1] for line in lines] == [
        "drain          gw2 gets no new sessions, by order",
        "dropped        3 events were left out here",
    ]
    assert agent.asked[0][1] == "/v1/events?kind=drain%2Cjoin&node=gw2&flows=1"
    call("monitor", "--flows", "--protocol", "udp", "--family", "ipv6", "--count", "1")
    assert agent.asked[1][1] == "/v1/events?protocol=udp&family=ipv6&flows=1"
    (line,) = call("monitor", "-j", "--count", "1").stdout.splitlines()
    assert json.loads(line)["event"] == "drain"


def test_top_shows_what_is_known(call, agent):
    lines = call("top", "--interval", "2", "--count", "2").stdout.splitlines()
    assert len(lines) == 8
    assert "; 80 tcp/ipv4, 27 udp/ipv6" in lines[0]
    assert lines[2].split()[:7] == ["gw1", "primary", "active", "100", "2.5", "123.5k", "75M"]
    assert "STEER_TX 100k, A 3.0, B 2.0" in lines[2]
    assert "C 1.0" not in lines[2]
    assert lines[3].split() == ["gw2", "auxiliary", "silent", "7", "0", "?", "?", "-"]
    assert agent.asked == [("POST", "/v1/top", {"interval": 2.0})] * 2


def test_doctor_ends_with_12_when_a_check_fails(call, agent):
    result = call("doctor")
    assert result.exit_code == 12
    assert "→ sysctl net.ipv4.ip_forward=1" in result.stdout
    assert "1 check failed: ip_forward" in result.stderr
    agent.answers["/v1/doctor"] = api.Doctor(checks=SICK.checks[:1])
    assert call("doctor", "-j").exit_code == 0
