# SPDX-License-Identifier: GPL-2.0-or-later
"""Take-over: sessions of every temper go on at the primary when their node is drained, leaves or dies."""

from __future__ import annotations

import itertools
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import msgspec
import numpy as np
import pytest

from aa_cluster import api
from aa_cluster.api import FlowRow
from aa_cluster.dataplane import flow_fill
from aa_cluster.dataplane.flows import ESTABLISHED, SYN_SENT
from aa_cluster.errors import StateError, UsageError
from aa_cluster.netlink import ct_bulk
from aa_cluster.netlink.conntrack import Tuple
from aa_cluster.topology import rulesets
from aa_cluster.topology.agreement import original, table
from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import ChurnReport, TalkReport, Talks, program, run_sessions, talks
from aa_cluster.topology.namespaces import inside, write_sysctls
from aa_cluster.topology.pinned import primary_maps
from aa_cluster.topology.streams import net_ms
from aa_cluster.topology.view import counters, flows, only, sessions, set_weights, undrain
from tools.bench import flowtable

pytestmark = pytest.mark.lab

EACH = 12
KINDS = dict.fromkeys(("pull", "push", "echo", "late-server", "late-client"), EACH)
PACED = ("pull", "push", "echo")
STRICT = {"net/netfilter/nf_conntrack_tcp_loose": "0", "net/netfilter/nf_conntrack_tcp_be_liberal": "0"}
MANY = 100_000
SHORT = 20_000
PLANNED_MS = 100
MISSING_SHARE = 5
"""All entries made anew at the take-over (asked for, not found, made), to making them in one go in the same run. Seen:
2.6 to 3.1 times."""

_ports = itertools.count(7100)


@pytest.fixture(scope="module")
def three(make_lab: Callable[..., Lab]) -> Lab:
    lab = make_lab(3)
    for node in lab.plan.node_names:
        write_sysctls(lab.plan.path(node), STRICT)
    return lab


@pytest.fixture
def trio(three: Lab) -> Iterator[Lab]:
    """Three nodes whose conntrack takes nothing up in the middle and is strict about windows; whatever a test that
    failed leaves is put right for the next."""
    yield three
    if not three.powered("node2"):
        three.revive(2)
        write_sysctls(three.plan.path("node2"), STRICT)
    undrain(three, 2)


def drain_now(lab: Lab, index: int, by: int = 1) -> api.TakenRow:
    answer = lab.client(by).post("/v1/drain", api.DrainRequest(node=lab.node_name(index), now=True))
    assert isinstance(answer, api.Drained)
    assert answer.taken is not None
    return answer.taken


@contextmanager
def under(lab: Lab, ruleset: str, published: bool = False) -> Iterator[Talks]:
    """Sessions of every temper, a third on each node."""
    port = next(_ports)
    lab.ruleset = rulesets.text(ruleset).replace("10.77.2.100:80", f"10.77.2.100:{port}")  # of a node that returns too
    lab.load_ruleset(lab.ruleset)
    set_weights(lab, {1: 1, 2: 1, 3: 1})
    where = ("10.77.1.1", 8080) if published else ("10.77.2.100", port)
    with talks(lab, ("client", "server"), where, KINDS, port) as running:
        yield running


def all_went_on(running: Talks, longest: int, what: str) -> None:
    """Nothing lost, nothing wrong; gaps printed, and at most ``longest`` ms and what the machine stood still."""
    client, server = running.stop()
    for side in (client, server):
        assert not any(one.broken or one.wrong for one in side.values()), side
    assert client["late-server"].lines == server["late-client"].lines == EACH
    assert client["pull"].lines == server["pull"].sent
    assert server["push"].lines == client["push"].sent
    assert client["echo"].lines == client["echo"].sent
    gaps = gaps_of(client, server)
    again = sum(one.repeated for side in (client, server) for one in side.values())
    still = running.stood_still_ms
    print(
        f"{what}: gaps in ms: median {gaps[len(gaps) // 2]}, largest {gaps[-1]}; {again} segments sent again", end="; "
    )
    print(f"the machine stood still for {still:.0f} ms", end="; ")
    assert net_ms(gaps[-1], still) <= longest


def gaps_of(client: Mapping[str, TalkReport], server: Mapping[str, TalkReport]) -> list[int]:
    return sorted(itertools.chain(client["pull"].gaps_ms, client["echo"].gaps_ms, server["push"].gaps_ms))


def conntrack_is_as_the_flows_are(lab: Lab, had: list[FlowRow]) -> None:
    """These are the primary's now, and its entries have their tuples, mark and state."""
    entries, theirs = table(lab, "node1"), {original(row) for row in had}
    own = [row for row in established(lab, 1) if original(row) in theirs]
    assert len(own) == len(had)
    for row in own:
        entry = entries[original(row)]
        reply = (row.reply_source, row.reply_source_port, row.reply_destination, row.reply_destination_port)
        assert entry.reply == Tuple(4, 6, *reply)
        assert (entry.mark, entry.tcp_state) == (row.mark, "ESTABLISHED")


def established(lab: Lab, node: int) -> list[FlowRow]:
    return [row for row in flows(lab) if row.owner == node and row.state == "established"]


def running_on(lab: Lab, node: int) -> int:
    return sum(row.owner == node and row.state not in ("closing", "closed") for row in flows(lab))


def show(taken: api.TakenRow) -> None:
    which = f"{taken.prepared} prepared before, {taken.updated} updated, {taken.created} created, {taken.lost} lost"
    times = f"switched after {1000 * taken.seconds:.0f} ms, done after {1000 * taken.whole_seconds:.0f} ms"
    print(f"{taken.flows} flows ({which}) {times}")


@pytest.mark.parametrize(
    ("ruleset", "published"),
    [("default", False), ("default", True), ("strict", False), ("open", False), ("no-nat", False)],
    ids=["default", "published", "invalid dropped", "invalid passed", "no NAT"],
)
def test_a_live_nodes_sessions_go_on(trio: Lab, ruleset: str, published: bool) -> None:
    lab = trio
    with under(lab, ruleset, published) as running:
        had = established(lab, 2)
        assert len(had) == EACH * len(KINDS) // 3
        taken = drain_now(lab, 2)
        running.speak()
        assert (taken.flows, taken.lost) == (len(had), 0)
        assert not established(lab, 2)
        conntrack_is_as_the_flows_are(lab, had)
        until("node2 to have let go", lambda: not table(lab, "node2"), 3)
        all_went_on(running, PLANNED_MS, f"drain --now, {ruleset}")
        show(taken)
    undrain(lab, 2)


def test_prepared_sessions_need_nothing_more(trio: Lab) -> None:
    lab = trio
    with under(lab, "strict") as running:
        theirs = established(lab, 2)
        until("the entries to be prepared", lambda: all(is_established(lab, original(row)) for row in theirs), 5)
        taken = drain_now(lab, 2, by=3)
        running.speak()
        assert (taken.flows, taken.prepared, taken.updated, taken.created) == (len(theirs), len(theirs), 0, 0)
        all_went_on(running, PLANNED_MS, "drain --now, prepared")
        show(taken)
    undrain(lab, 2)


def test_what_a_live_node_began_itself_stays_with_it(trio: Lab) -> None:
    lab, port = trio, next(_ports)
    lab.load_ruleset(rulesets.text("strict"))
    with talks(lab, ("node2", "server"), ("10.77.2.100", port), {"echo": 3, "late-server": 3}) as running:
        taken = drain_now(lab, 2)
        running.speak()
        client, server = running.stop()
    undrain(lab, 2)
    assert taken.ended == 0
    assert not any(one.broken or one.wrong for side in (client, server) for one in side.values())
    assert client["late-server"].lines == 3
    assert client["echo"].lines == client["echo"].sent


def test_sessions_may_be_silent_again(trio: Lab) -> None:
    """Conntrack gives a session 300 s whose windows it has not seen; the sweep gives it what it should have."""
    lab, port = trio, next(_ports)
    kinds = {"late-server": EACH, "late-client": EACH}
    with talks(lab, ("client", "server"), ("10.77.2.100", port), kinds) as running:
        keys = [original(row) for row in established(lab, 2)]
        drain_now(lab, 2)
        running.speak()
        until("conntrack to count 300 s", lambda: not any(has_time(lab, key) for key in keys), 3)
        start = time.monotonic()
        until("it to keep their time again", lambda: all(has_time(lab, key) for key in keys), 30)
        print(f"{len(keys)} entries have their time again after {time.monotonic() - start:.1f} s")
    undrain(lab, 2)


def has_time(lab: Lab, key: Tuple) -> bool:
    entry = table(lab, "node1").get(key)
    return entry is not None and entry.timeout > 400_000


def is_established(lab: Lab, key: Tuple) -> bool:
    entry = table(lab, "node1").get(key)
    return entry is not None and entry.tcp_state == "ESTABLISHED"


def test_missing_entries_are_made(trio: Lab) -> None:
    """Somebody emptied the primary's conntrack."""
    lab = trio
    with under(lab, "strict") as running:
        lab.exec("node1", ["conntrack", "-D", "-m", "17"])
        had, start = (running_on(lab, 2), running_on(lab, 3)), time.monotonic()
        taken = drain_now(lab, 2)
        taken_3 = drain_now(lab, 3)
        assert (taken.created, taken_3.created) == (taken.flows, taken_3.flows) == had
        until("a second to pass", lambda: time.monotonic() > start + 1, 2)
        client, server = running.stop()
        mine = EACH * len(KINDS) // 3
        stuck = sum(gap > 900 for gap in gaps_of(client, server))
        print(f"{stuck} of the primary's own sessions stand still, none of the other two nodes'")
        assert stuck <= mine
    for node in (2, 3):
        undrain(lab, node)


def test_it_leaves_at_once(trio: Lab) -> None:
    lab = trio
    with under(lab, "strict") as running:
        start = time.monotonic()
        lines = list(lab.client(2).stream("/v1/leave", api.LeaveRequest(now=True)))
        took = time.monotonic() - start
        assert isinstance(lines[-1], api.Leaving)
        assert (lines[-1].done, lines[-1].sessions) == (True, 0)
        running.speak()
        all_went_on(running, PLANNED_MS, "leave --now")
        print(f"left after {took:.1f} s")
        assert took < 5
    lab.join(2)
    assert sessions(lab)["node2"] == 0


@pytest.mark.parametrize("ruleset", ["strict", "open"])
def test_a_dead_nodes_sessions_go_on(trio: Lab, ruleset: str) -> None:
    lab = trio
    with under(lab, ruleset) as running:
        had = established(lab, 2)
        for net in lab.plan.links("node2"):  # a namespace that is taken apart may send resets on its way out
            lab.cut("node2", net.name)
        lab.kill(2)
        until("the primary to have its sessions", lambda: not running_on(lab, 2), 2)
        running.speak()
        conntrack_is_as_the_flows_are(lab, had)
        assert drain_now(lab, 2).flows == 0
        undrain(lab, 2)
        all_went_on(running, 500, f"kill, {ruleset}")
        print(f"{len(had)} flows")
    lab.revive(2)
    write_sysctls(lab.plan.path("node2"), STRICT)
    only(lab, 2)
    before = counters(lab, 2)["ADOPT_NEW"]
    assert run_sessions(lab, "client", "10.77.2.100", 80, 20).completed == 20
    assert counters(lab, 2)["ADOPT_NEW"] == before + 20


@pytest.mark.parametrize("ruleset", ["strict", "open"])
@pytest.mark.parametrize(
    ("host", "kept_back", "state"),
    [
        ("server", "tcp sport 80 tcp flags & (syn | ack) == syn | ack", "syn-sent"),
        ("client", "tcp dport 80 tcp flags & (syn | ack) == ack", "syn-recv"),
    ],
    ids=["SYN-ACK to come", "ACK to come"],
)
def test_handshakes_go_on(trio: Lab, host: str, kept_back: str, state: str, ruleset: str) -> None:
    lab = trio
    lab.load_ruleset(rulesets.text(ruleset))
    only(lab, 2)
    rules = f"table inet keep {{ chain out {{ type filter hook output priority 0; {kept_back} drop; }}; }}"
    lab.exec(host, ["nft", rules], check=True)
    argv = program("churn", "10.77.2.100", 80, "--count", EACH, "--at-once", EACH)
    with lab.popen("client", argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        try:
            until("handshakes to be under way", lambda: half_open(lab, state) == EACH, 5)
            taken = drain_now(lab, 2)
        finally:
            lab.exec(host, ["nft", "delete", "table", "inet", "keep"], check=True)
        report = msgspec.json.decode(process.communicate(timeout=30)[0], type=ChurnReport)
    undrain(lab, 2)
    assert (taken.flows, taken.lost) == (EACH, 0)
    assert (report.completed, report.failed) == (EACH, ())
    print(f"{EACH} handshakes at {state}, done after {report.seconds:.1f} s")
    set_weights(lab, {1: 1, 2: 1, 3: 1})


def half_open(lab: Lab, state: str) -> int:
    return sum(row.owner == 2 and row.state == state for row in flows(lab))


def test_short_sessions(trio: Lab) -> None:
    """Short sessions come and go all the time, while a node is drained at once again and again: each succeeds."""
    lab = trio
    lab.load_ruleset(rulesets.text("strict"))
    set_weights(lab, {1: 0, 2: 1, 3: 1})
    taken = []
    argv = program("churn", "10.77.2.100", 80, "--count", SHORT, "--at-once", 64)
    with lab.popen("client", argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        while process.poll() is None:
            taken.append(drain_now(lab, 2))
            undrain(lab, 2)
        report = msgspec.json.decode(process.communicate()[0], type=ChurnReport)
    print(f"{SHORT} sessions in {report.seconds:.1f} s, {len(taken)} take-overs meanwhile")
    assert (report.completed, report.failed, sum(one.lost for one in taken)) == (SHORT, (), 0)
    set_weights(lab, {1: 1, 2: 1, 3: 1})


def test_what_cannot_be_taken_over(trio: Lab) -> None:
    with pytest.raises(StateError, match="the primary's own sessions"):
        drain_now(trio, 1)
    with pytest.raises(UsageError, match="not given back"):
        trio.client(1).post("/v1/undrain", api.DrainRequest(node="node2", now=True))


@pytest.fixture(scope="module")
def roomy(make_lab: Callable[..., Lab]) -> Lab:
    lab = make_lab(2, joined=0)
    for node in lab.plan.node_names:
        site = lab.site(node)
        site.kill()
        site.config.write_text(site.config.read_text().replace("[data]\n", "[data]\nflow_table_size = 200000\n"))
        lab.restart_agent(node)
    for node in lab.plan.node_names:
        lab.join(node, primary=node == "node1")
    return lab


@pytest.mark.slow
@pytest.mark.parametrize("case", ["prepared", "unprepared", "missing"])
def test_a_hundred_thousand_flows(roomy: Lab, case: str) -> None:
    lab = roomy
    columns = flowtable.columns(np.arange(MANY, dtype=np.uint32), int.from_bytes(bytes((10, 77, 2, 1)), "big"))
    rows = flowtable.rows(columns, 2, ESTABLISHED)
    begun = rows.copy()
    begun["state"] = SYN_SENT
    path = lab.plan.path("node1")
    with primary_maps(lab) as maps:
        before = flowtable.highest(maps)
        placed = flow_fill.insert(maps, flowtable.hasher_of(maps), rows)
        start = time.monotonic()
        assert inside(path, lambda: ct_bulk.create(begun, {SYN_SENT: 300})).errors == {}
        created = time.monotonic() - start
        if case == "missing":  # somebody has emptied conntrack: no case of a death
            inside(path, lambda: ct_bulk.delete(begun))
        start, used = time.monotonic(), agent_ns(lab)
        if case == "prepared":
            until("all to be prepared", lambda: settled_entries(lab) >= placed.sum(), 90)
            spent = (agent_ns(lab) - used) / 1e9
            took = time.monotonic() - start
            print(f"prepared in {took:.1f} s with {spent:.2f} s of CPU ({spent / took:.0%} of a core)", end="; ")
            used, start = agent_ns(lab), time.monotonic()
            until("ten seconds to pass", lambda: time.monotonic() > start + 10, 12)
            print(f"then idle: {(agent_ns(lab) - used) / 1e8:.1f} % of a core", end="; ")
        used = agent_ns(lab)
        taken = drain_now(lab, 2)
        print(f"made in {created:.2f} s at once; CPU {(agent_ns(lab) - used) / 1e6:.0f} ms", end="; ")
        show(taken)
        assert (taken.flows, taken.lost) == (placed.sum(), 0)
        within = max(1.0, MISSING_SHARE * created) if case == "missing" else 1.0
        assert taken.seconds <= taken.whole_seconds <= within
        counts = {"prepared": taken.prepared, "unprepared": taken.updated, "missing": taken.created}
        assert counts[case] == taken.flows
        assert inside(path, lambda: ct_bulk.check(rows[placed])).done == placed.sum()
        flowtable.forget(maps, before)
    inside(path, lambda: ct_bulk.delete(rows))
    undrain(lab, 2)


def settled_entries(lab: Lab) -> int:
    text = lab.exec("node1", ["cat", "/proc/net/nf_conntrack"]).stdout
    return text.count("ESTABLISHED")


def agent_ns(lab: Lab) -> int:
    """CPU time of the primary's agent so far, all its threads (clock_getcpuclockid(3))."""
    pid = lab.site("node1").pid()
    assert pid is not None
    return time.clock_gettime_ns((~pid << 3) | 2)
