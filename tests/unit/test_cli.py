# SPDX-License-Identifier: GPL-2.0-or-later
"""Every verb against an agent that answers from a table: what it asks, what it prints, how it ends."""

import json
import subprocess
import sys

import msgspec
import pytest
from click.testing import CliRunner

from aa_cluster import api
from aa_cluster.cli import aa_cluster
from aa_cluster.cli.group import VERBS
from aa_cluster.config import load
from aa_cluster.errors import BY_EXIT_CODE
from tests.unit import agent_stub

NODES = tuple(
    api.NodeRow(
        id=number,
        name=f"gw{number}",
        role="primary" if number == 1 else "auxiliary",
        state=state,
        weight=weight,
        share=share,
        sessions=100 * number,
        last_heard=0.1 * (number - 1),
        ha_mac=f"02:00:00:00:00:0{number}",
        ha_address=f"10.77.0.10{number}",
        macs={"int": f"02:00:00:00:01:0{number}"},
        kernel="6.18",
    )
    for number, state, weight, share in ((1, "active", 1, 0.25), (2, "silent", 3, 0.75))
)
STATUS = api.Status(
    health="degraded",
    problems=("node gw2 is silent for 1.2 s",),
    name="gw1",
    node_id=1,
    role="primary",
    state="active",
    cluster_id=7,
    generation=3,
    epoch=5,
    schedule="weighted",
    uptime=3700,
    interfaces=(
        api.Interface(
            name="int",
            slot=0,
            mac="02:aa:00:07:00:00",
            physical_mac="02:00:00:00:01:01",
            virtual_mac="02:aa:00:07:00:00",
            addresses=("10.77.1.1/24",),
            xdp="native",
        ),
    ),
    nodes=NODES,
    flows=12,
    flow_capacity=262144,
)
FLOWS = api.Flows(
    total=40,
    flows=(
        api.FlowRow(
            family="ipv4",
            protocol="tcp",
            source="10.77.1.100",
            source_port=40000,
            destination="10.77.2.100",
            destination_port=80,
            reply_source="10.77.2.100",
            reply_source_port=80,
            reply_destination="10.77.2.1",
            reply_destination_port=1024,
            owner=2,
            owner_name="gw2",
            state="established",
            mark=255,
            age=75,
            idle=0.5,
        ),
    ),
)
STATS = api.Stats(
    reasons=(
        api.ReasonRow(name="steered", program="steer", verdict="steer", packets=9000, text="to its owner"),
        api.ReasonRow(name="bad_tag", program="adopt", verdict="drop", packets=0, text="the tag is wrong"),
    )
)
ARP = api.Arp(
    open=(api.ArpQuestion(interface="ext", target="10.77.2.100", asked_by=(2, 3), age=0.2),),
    answered_from_cache=5,
    answered_from_wire=6,
    relayed=11,
    refused=0,
)
SICK = api.Doctor(
    checks=(
        api.Check(name="kernel", result="pass", found="Linux 6.18"),
        api.Check(name="ip_forward", result="fail", found="forwarding is off", fix="sysctl net.ipv4.ip_forward=1"),
    )
)
JOINED = api.Joined(node_id=2, role="auxiliary", primary="gw1", generation=3)
ANSWERS = {
    "/v1/status": STATUS,
    "/v1/nodes": api.Nodes(nodes=NODES),
    "/v1/flows": FLOWS,
    "/v1/stats": STATS,
    "/v1/arp": ARP,
    "/v1/doctor": SICK,
    "/v1/join": JOINED,
    "/v1/leave": [
        api.Leaving(sessions=2, done=False),
        api.Leaving(sessions=2, done=False),
        api.Leaving(sessions=0, done=True, detached=("int", "ext")),
    ],
    "/v1/weight": api.WeightSet(nodes=NODES),
    "/v1/drain": api.Drained(nodes=NODES),
    "/v1/undrain": api.Drained(nodes=NODES),
    "/v1/schedule": api.Schedule(
        schedule="random",
        configured="weighted",
        nodes=(api.ScheduleRow(id=1, name="gw1", state="draining", weight=1, share=0.25, sessions=40),),
    ),
    "/v1/policy": api.Policy(
        rules=(api.PolicyRow(number=1, action="keep", text="keep ports 80", hits=12),),
        built_in=(api.PolicyRow(number=1, action="keep", text="keep protocol udp, ports 53", hits=21),),
        default="share",
        default_hits=34,
        keep_mark="0x1/0x1",
        keep_mark_in_use=True,
        keep_mark_hits=56,
    ),
    "/v1/policy/check": api.PolicyChecked(
        action="keep",
        interface="int",
        rule=2,
        why="rule 2 matches: keep ports 80",
        mismatches=("rule 1 does not match: port 80 is not in ports",),
        notes=("a session with a conntrack helper stays",),
    ),
    "/v1/policy/reload": api.PolicyReloaded(path="/etc/x", changes=("- rule 1: keep everything",), not_taken=("ha",)),
    "/v1/persist": api.Persist(
        enabled=True,
        idle=300,
        size=65536,
        hits=7,
        misses=8,
        removed=1,
        total=3,
        entries=(api.PersistRow(address="10.0.0.1", node=2, node_name="gw2", idle=61),),
    ),
    "/v1/events": [
        api.Event(time=1.5, event="drain", node="gw2", text="gw2 gets no new sessions, by order"),
        api.Event(time=2.25, event="dropped", text="3 events were left out here", detail={"count": "3"}),
    ],
    "/v1/top": api.Top(
        interval=1.0,
        kinds={"tcp/ipv4": 80, "udp/ipv6": 27},
        nodes=(
            api.LoadRow(
                id=1,
                name="gw1",
                role="primary",
                state="active",
                sessions=100,
                begun=2.5,
                packets=123456.0,
                octets=7.5e7,
                reasons={"STEER_TX": 100000.0, "A": 3.0, "B": 2.0, "C": 1.0},
            ),
            api.LoadRow(id=2, name="gw2", role="auxiliary", state="silent", sessions=7, begun=0.0),
        ),
        flows=107,
        flow_capacity=262144,
    ),
}
CONFIG = """
[cluster]
id = 7
key_file = "{directory}/cluster.key"
[node]
name = "gw1"
[ha]
interface = "ha"
[data]
interfaces = ["int", "ext"]
virtual_macs = {{ int = "02:00:00:00:00:01" }}
[paths]
run = "{directory}"
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "aa-cluster.toml"
    path.write_text(CONFIG.format(directory=tmp_path))
    return path


@pytest.fixture
def call(config):
    """Runs the command line with the test's configuration."""
    return lambda *argv: CliRunner().invoke(aa_cluster, ["--config", str(config), *argv])


@pytest.fixture
def agent(tmp_path):
    with agent_stub.serving(tmp_path / "agent.sock", dict(ANSWERS)) as stub:
        yield stub


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


@pytest.mark.parametrize("code", sorted(set(BY_EXIT_CODE) - {5}))
def test_every_error_keeps_its_exit_code(call, agent, code):
    agent.answers["/v1/status"] = api.Error(code=code, message="what was found", hint="what to do")
    result = call("status")
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr == "error: what was found\n  what to do\n"


def test_an_answer_of_another_kind_is_refused(call, agent):
    agent.answers["/v1/status"] = JOINED
    result = call("status")
    assert result.exit_code == 4
    assert "the agent answered with Joined, expected Status" in result.stderr


def test_no_agent(call):
    result = call("nodes")
    assert result.exit_code == 4
    assert "no agent answers at" in result.stderr


def test_no_configuration(tmp_path):
    result = CliRunner().invoke(aa_cluster, [], env={"AA_CLUSTER_CONFIG": str(tmp_path / "none.toml")})
    assert result.exit_code == 3
    assert f"no configuration file at {tmp_path}/none.toml" in result.stderr


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ('id = "x"', "$.cluster.id"),
        ("id = 0", "$.cluster.id"),
        ("id = 7\ncolour = 1", "colour"),
        ("id = ", "is not TOML"),
        ("id = 7\nkey_file = 3", "$.cluster.key_file"),
    ],
)
def test_configuration_errors_name_file_and_key(call, config, broken, said):
    config.write_text(config.read_text().replace("id = 7", broken).replace("key_file = 3\nkey_file", "key_file = 3\n#"))
    result = call("config", "check")
    assert result.exit_code == 3
    assert str(config) in result.stderr
    assert said in result.stderr


def test_accounting_is_on_or_off(call, config):
    before = config.read_text()
    config.write_text(before + "[flows]\naccounting = true\n")
    assert load(config).flows.accounting
    config.write_text(before + "[flows]\naccounting = 1\n")
    assert "$.flows.accounting" in call("config", "check").stderr


def test_config_show_is_read_back_as_equal(call, config, tmp_path):
    again = tmp_path / "again.toml"
    again.write_text(call("config", "show").stdout)
    assert load(again) == load(config)


def test_config_show_in_json(call):
    shown = json.loads(call("config", "show", "-j").stdout)
    assert (shown["version"], shown["kind"]) == (1, "config")
    assert shown["flows"]["accounting"] is False
    assert shown["ha"] == {
        "interface": "ha",
        "port": 4201,
        "heartbeat_ms": 500,
        "silent_ms": 1500,
        "pulse_ms": 60,
        "dead_ms": 150,
        "forget_s": 3600,
    }


def test_the_example_is_valid_and_shows_the_defaults(call, tmp_path):
    example = call("config", "show", "--example").stdout
    commented, plain = tmp_path / "commented.toml", tmp_path / "plain.toml"
    plain.write_text(example)
    commented.write_text(
        "\n".join(
            line.removeprefix("# ") if line.startswith("# ") and " = " in line else line
            for line in example.splitlines()
        ).replace("virtual_macs = { eth0", "# virtual_macs = { eth0")
    )
    assert load(commented) == load(plain)


def test_config_check_looks_at_the_key(call, tmp_path):
    assert call("config", "check").exit_code == 3
    assert call("keygen").exit_code == 0
    assert call("config", "check").exit_code == 0
    (tmp_path / "cluster.key").chmod(0o644)
    result = call("config", "check")
    assert result.exit_code == 3
    assert f"chmod 600 {tmp_path}/cluster.key" in result.stderr


def test_keygen_makes_a_private_file_and_never_overwrites(call, tmp_path):
    path = tmp_path / "new.key"
    assert call("keygen", str(path)).exit_code == 0
    key = path.read_text()
    assert len(bytes.fromhex(key)) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    result = call("keygen", str(path))
    assert result.exit_code == 3
    assert "exists already" in result.stderr
    assert path.read_text() == key


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(call, shell):
    assert "_AA_CLUSTER_COMPLETE" in call("completion", shell).stdout


def test_wrong_use_is_2(call):
    assert call("no-such-verb").exit_code == 2
    assert call("flows", "--address", "10.0.0.x").exit_code == 2
    assert call("flows", "--limit", "0").exit_code == 2


def test_help_names_every_verb_and_every_exit_code(call):
    text = call("--help").stdout
    for verb in VERBS:
        assert f"  {verb} " in text
    for code in BY_EXIT_CODE:
        assert f"  {code:2}  " in text


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(call, verb):
    result = call(verb, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: aa-cluster {verb}")


def test_help_starts_without_heavy_modules():
    probe = "import sys, aa_cluster.cli; print(*{'aiohttp', 'numpy', 'pyroute2', 'rich', 'bcc'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_reader_that_leaves_is_no_error(config):
    with subprocess.Popen(
        [sys.executable, "-m", "aa_cluster", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
