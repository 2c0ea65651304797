# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``make demo`` shows: three gateways as one, hundreds of real sessions, who did what, and two deaths. Needs root.

Everything it claims it has checked; it ends with exit code 1 when something does not hold, and leaves nothing behind.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from aa_cluster.errors import AaError
from aa_cluster.topology import rulesets
from aa_cluster.topology.agreement import Agreement, compare, tables
from aa_cluster.topology.capture import ArpFrame, Capture, by_kind
from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import SessionReport, held_sessions
from aa_cluster.topology.plan import CLUSTER_HOST, DATA, HOST, Plan
from aa_cluster.topology.streams import Newcomers, Verdict, judge, load, newcomers
from aa_cluster.topology.traffic.ends import EVERY_WAY
from aa_cluster.topology.view import flows_of, owners, reasons, set_weights

NODES = 3
FAMILIES = {"IPv4": 4, "IPv6": 6}
EACH_WAY = 150
"""Sessions in each direction; half of them over IPv6."""
STREAMS, ARRIVALS = 300, 100.0
OUTWARD, INWARD = "client → server", "server → published"
GOES_ON = 1.5
"""Seconds the load runs on after a death."""
CLIENT, SERVER, PUBLISHED = (
    {name: DATA[net].address(last, family) for name, family in FAMILIES.items()}
    for net, last in (("int", HOST), ("ext", HOST), ("ext", CLUSTER_HOST))
)


@dataclass
class Account:
    """The demo's claims, one after the other, each with whether it held."""

    console: Console
    claims: list[tuple[str, bool]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def claim(self, text: str, holds: bool, otherwise: str = "") -> None:
        self.claims.append((text if holds or not otherwise else f"{text}: {otherwise}", holds))

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        start = time.monotonic()
        with self.console.status(text):
            yield
        self.console.print(f"[green]✓[/] {text} [dim]({time.monotonic() - start:.1f} s)[/]")

    def close(self) -> bool:
        """The summary; whether everything held."""
        whole = all(holds for _, holds in self.claims)
        lines = [f"[{'green]✓' if holds else 'bold red]✗'}[/] {text}" for text, holds in self.claims]
        lines.append(f"[dim]{time.monotonic() - self.started:.1f} s in all[/]")
        title = "everything holds" if whole else "NOT everything holds"
        self.console.print(Panel("\n".join(lines), title=title, border_style="green" if whole else "red"))
        return whole


@dataclass(frozen=True)
class Round:
    """Sessions both ways at once, over both families, and what was found while they were open. ``reports``, ``owned``:
    by family and direction."""

    reports: dict[tuple[str, str], SessionReport]
    owned: dict[tuple[str, str], Counter[str]]
    agreement: Agreement
    entries: dict[str, int]

    @property
    def shares(self) -> list[int]:
        return [sum(by[f"node{index}"] for by in self.owned.values()) for index in range(1, NODES + 1)]


def run_round(lab: Lab, each_way: int) -> Round:
    """Client → server with masquerade, and server → published service with DNAT, all open at the same time."""
    reports, rows = {}, {}
    with ExitStack() as stack:
        for family in FAMILIES:
            for way, host, source, where in (
                (OUTWARD, "client", CLIENT[family], (SERVER[family], 80)),
                (INWARD, "server", SERVER[family], (PUBLISHED[family], 8080)),
            ):
                report = stack.enter_context(held_sessions(lab, host, *where, each_way // len(FAMILIES)))
                reports[family, way] = report
                rows[family, way] = flows_of(lab, source, report.ports, where)
        entries = {node: len(table) for node, table in tables(lab).items()}
        agreement = compare(lab, [row for found in rows.values() for row in found])
        return Round(reports, {key: owners(found) for key, found in rows.items()}, agreement, entries)


def judge_sessions(account: Account, done: Round, expected: list[int]) -> None:
    for (family, way), report in done.reports.items():
        failed = f"{report.completed} did; first failure: {next(iter(report.failed), '-')}"
        what = f"{report.asked} sessions {way}, {'masquerade' if way == OUTWARD else 'DNAT'}, {family}: all complete"
        account.claim(what, report.completed == report.asked, failed)
    account.claim(f"shares are exactly {'/'.join(map(str, expected))}", done.shares == expected, f"{done.shares}")
    agreement = done.agreement
    first = next(iter(agreement.differences), "no entries to compare")
    account.claim(
        f"{agreement.equal} of {agreement.compared} entries of auxiliaries equal the primary's (NAT, mark)",
        agreement.whole and agreement.compared == sum(expected[1:]),
        first,
    )


def show_sessions(console: Console, done: Round, title: str) -> None:
    table = Table(title=title, title_justify="left")
    ways = [f"{way}, {family}" for family, way in done.owned]
    for column in ("node", *ways, "sessions", "share", "conntrack entries"):
        table.add_column(column, justify="left" if column == "node" else "right")
    total = sum(done.shares) or 1
    for index, count in enumerate(done.shares, start=1):
        node = f"node{index}"
        table.add_row(
            node + (" (primary)" if index == 1 else ""),
            *(str(owned[node]) for owned in done.owned.values()),
            str(count),
            f"{count / total:.0%}",
            str(done.entries[node]),
        )
    console.print(table)


def show_arp(console: Console, frames: list[ArpFrame], plan: Plan) -> None:
    table = Table(title="ARP frames on each segment", title_justify="left")
    kinds, counted = sorted({frame.kind for frame in frames}), by_kind(frames)
    for column in ("segment", *kinds, "from auxiliaries"):
        table.add_column(column, justify="left" if column == "segment" else "right")
    for net in plan.all_networks:
        from_auxiliaries = sum(frame.segment == net.name for frame in frames if is_auxiliarys(frame))
        table.add_row(net.name, *(str(counted[net.name, kind]) for kind in kinds), str(from_auxiliaries))
    console.print(table)


def is_auxiliarys(frame: ArpFrame) -> bool:
    """By the switch port it came in at, or by any auxiliary's MAC in it."""
    auxiliaries = {f"{index:02x}" for index in range(2, NODES + 1)}
    by_mac = {mac[-2:] for mac in (frame.source, frame.sender_mac) if mac.startswith("02:00:00:")}
    return frame.member in {f"node{index}" for index in range(2, NODES + 1)} or bool(by_mac & auxiliaries)


def judge_arp(account: Account, frames: list[ArpFrame]) -> None:
    data = [frame for frame in frames if frame.segment != "ha"]
    account.claim("no ARP frame of an auxiliary on a data segment", not any(map(is_auxiliarys, data)))
    relayed = [frame for frame in frames if frame.opcode in (201, 202)]
    account.claim(
        f"{len(relayed)} relayed ARP frames (201/202), on the HA link only",
        bool(relayed) and all(frame.segment == "ha" for frame in relayed),
    )


def show_steering(console: Console, lab: Lab) -> int:
    table = Table(title="What XDP on the primary did", title_justify="left")
    table.add_column("reason")
    table.add_column("packets", justify="right")
    table.add_column("")
    rows = [row for row in reasons(lab, 1) if row.program == "steer" and row.packets]
    for row in sorted(rows, key=lambda row: -row.packets):
        table.add_row(row.name, str(row.packets), row.text)
    console.print(table)
    return sum(row.packets for row in rows if row.verdict == "steer")


def demo(account: Account, name: str) -> None:
    console, lab = account.console, Lab(name, NODES, election=True)
    lab.down()  # what a demo that was killed left behind
    with ExitStack() as stack:
        with account.step(f"{NODES} gateways up and joined, with a client, a server and a switch"):
            stack.enter_context(lab)
        capture = stack.enter_context(Capture(lab.plan.path("switch")))
        with account.step(f"{2 * EACH_WAY} HTTP sessions, {EACH_WAY} each way, half over IPv6, all open at once"):
            first = run_round(lab, EACH_WAY)
        show_sessions(console, first, "Weights 1:1:1")
        judge_sessions(account, first, [2 * EACH_WAY // NODES] * NODES)
        with account.step("weights set to 1:2:1, and 200 more sessions"):
            set_weights(lab, {1: 1, 2: 2, 3: 1})
            second = run_round(lab, 100)
        show_sessions(console, second, "Weights 1:2:1")
        judge_sessions(account, second, [50, 100, 50])
        show_arp(console, capture.arp(), lab.plan)
        judge_arp(account, capture.arp())
        steered = show_steering(console, lab)
        account.claim(f"{steered} packets steered by XDP, past the primary's stack", steered > 0)
        set_weights(lab, {1: 1, 2: 1, 3: 1})
        lab.load_ruleset(rulesets.text("failover"))
        for what, victim in (("an auxiliary", "node3"), ("the primary", "node1")):
            with account.step(
                f"{STREAMS} streams and {ARRIVALS:.0f} new sessions a second; {what} ({victim}) is killed"
            ):
                after = death(lab, victim)
            judge_death(account, what, after)


@dataclass(frozen=True)
class Aftermath:
    """Of a node's death: what became of the streams, and of the sessions that began afterwards."""

    streams: Verdict
    fresh: Newcomers
    completed: int
    primary: str


def judge_death(account: Account, what: str, after: Aftermath) -> None:
    streams = after.streams
    account.claim(
        f"{what} killed: none of {streams.counted} streams lost, largest gap {streams.gap_ms:.0f} ms; "
        f"{after.completed} sessions begun meanwhile, all complete; TCP and UDP, IPv4 and IPv6; "
        f"primary is {after.primary}",
        streams.counted > 0 and not (streams.lost or streams.wrong or after.fresh.failed) and after.completed > 0,
        f"{streams.lost} streams lost, {after.fresh.failed} new sessions failed {after.fresh.why}",
    )


def death(lab: Lab, victim: str) -> Aftermath:
    """What a node's end does to the streams of all nodes."""
    survivor = "node2"
    with load(lab, STREAMS, ARRIVALS, probes=50, ways=EVERY_WAY) as running:
        threading.Event().wait(GOES_ON / 2)
        died = time.monotonic()
        lab.kill(victim)
        primary = until("one primary", lambda: primary_of(lab, survivor), 5)
        threading.Event().wait(GOES_ON)  # a duration of the show
        running.order("speak")
        threading.Event().wait(0.3)
        mixed, arrived = running.stop()
    return Aftermath(judge(mixed, died), newcomers(arrived, died), arrived.completed, primary)


def primary_of(lab: Lab, survivor: str) -> str | None:
    rows = [row for row in lab.status(survivor).nodes if row.role == "primary" and row.state == "active"]
    return rows[0].name if len(rows) == 1 else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", default="demo", help="of the lab it makes")
    account = Account(Console(highlight=False))
    try:
        demo(account, parser.parse_args().name)
    except AaError as error:
        account.claim(f"the demo ran to its end: {error}", False)
    return 0 if account.close() else 1


if __name__ == "__main__":
    sys.exit(main())
