# SPDX-License-Identifier: GPL-2.0-or-later
"""The node whose turn it is cannot become primary: it says so and leaves the role to the next one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest

from aa_cluster.dataplane import syscall
from aa_cluster.dataplane.flows import ESTABLISHED
from aa_cluster.netlink import ct_bulk
from aa_cluster.topology import rulesets
from aa_cluster.topology.claims import Reign
from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.namespaces import inside
from aa_cluster.topology.shaping import DROP_ALL
from tests.failover.figures import Figures, Limits
from tests.failover.oracle import primary, restore, wait_whole
from tests.failover.scenario import FRESH, Round, go_on, under_load
from tools.bench import flowtable

pytestmark = pytest.mark.lab

SECOND_CHOICE = Limits(worst_ms=3000, median_ms=3000, again=5)
"""Two elections one after the other: no promise but that nothing is lost. A node without room for entries lets no new
session in, either, until it is relieved; they try each second."""
SENT = 0.05
SYSCTLS = Path("/proc/sys/net/netfilter")
STREAM_AFTER = 2.0
ROOM = 300
"""Entries that still fit: some seconds of the node's share of the new sessions, and fewer than there are streams."""
NOBODY = int.from_bytes(bytes((198, 19, 0, 1)), "big")

Spoilt = AbstractContextManager[Callable[[], None]]
"""Gives what makes it good again while sessions go on; the rest of that is done at its end."""


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab(3, ruleset=rulesets.text("failover"), election=True)


@contextmanager
def another_program(lab: Lab, node: str) -> Iterator[Callable[[], None]]:
    """Of the programs that wait for a node's promotion, ``steer`` is missing: what is pinned there is of another kind,
    which no kernel attaches to XDP."""
    waiting = until("the programs to wait", lambda: sorted(lab.site(node).pins.glob("programs-primary-*/steer")), 10)[
        -1
    ]
    waiting.unlink()
    handle = syscall.prog_load(syscall.PROG_SCHED_CLS, DROP_ALL, "no_steer")
    try:
        syscall.obj_pin(handle, str(waiting))
    finally:
        os.close(handle)
    yield lambda: None
    waiting.unlink(missing_ok=True)


@contextmanager
def full_conntrack(lab: Lab, node: str) -> Iterator[Callable[[], None]]:
    """The kernel has no room for the entries of the others' sessions: what it has is established, and stays.

    Of UDP, streams: before new entries it gives up answered ones that are none (``early_drop``), this node's own too.
    """
    here = lab.plan.path(node)

    def fill() -> np.ndarray:
        count, most = (int((SYSCTLS / f"nf_conntrack_{name}").read_text()) for name in ("count", "max"))
        columns = flowtable.columns(np.arange(most - count - ROOM, dtype=np.uint32), NOBODY)
        rows = flowtable.rows(columns, 1, ESTABLISHED)
        ct_bulk.create(rows, {ESTABLISHED: 3600}).require("fill the table")
        return rows

    rows = inside(here, fill)
    try:
        yield lambda: inside(here, lambda: ct_bulk.delete(rows).require("empty the table"))
    finally:
        inside(here, lambda: ct_bulk.delete(rows))


def let_all_last(run: Round) -> None:
    """Each stream has a line two seconds after its first: to conntrack, UDP's are streams from then on."""
    go_on(STREAM_AFTER)
    run.running.order("speak")
    go_on(0.5)


def told(lab: Lab, node: str) -> bool:
    return any("could not become primary" in problem for problem in lab.status(node).problems)


@pytest.mark.parametrize(
    ("what", "spoil", "fresh"),
    [("a program is missing", another_program, FRESH), ("conntrack is full", full_conntrack, 0.0)],
)
def test_the_next_one_takes_the_role(
    lab: Lab, what: str, spoil: Callable[[Lab, str], Spoilt], fresh: float, rounds: int, figures: Figures
) -> None:
    """``fresh``: streams that begin meanwhile, a second. Where conntrack is full none do: no UDP stream of the last two
    seconds can be one to conntrack, whatever it sends."""
    scenario = f"primary: killed, {what}"
    for _ in range(rounds):
        restore(lab)
        former = primary(lab)
        first, second = sorted(node for node in lab.plan.node_names if node != former)
        with under_load(lab, fresh=fresh) as run:
            let_all_last(run)
            with spoil(lab, first) as relieve:
                died = run.happen(lab.kill, former)
                successor = primary(lab, timeout=5)
                assert successor == second
                until("the failure to be told", lambda first=first: told(lab, first), 2)
                relieve()
                reigns = [Reign(former, until=died + SENT), Reign(second, since=died)]
                figures.add(scenario, run.end(reigns))
        lab.kill_agent(first)  # else it would sit out the next round, too
        lab.restart_agent(first)
        lab.revive(former)
        wait_whole(lab)
    figures.judge(scenario, SECOND_CHOICE)
