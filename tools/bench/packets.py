# SPDX-License-Identifier: GPL-2.0-or-later
"""What a packet costs each program, by BPF_PROG_TEST_RUN, net of an empty program fed by the same feeder.

A later mechanism adds its case to ``CASES``. A case whose reason counter (or verdict) does not confirm the path it is
named after has no figure.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from aa_cluster.dataplane import reasons
from aa_cluster.dataplane.flows import ESTABLISHED, SYN_SENT
from aa_cluster.topology.namespaces import inside
from tools.bench import flowtable, place, world
from tools.bench.frames import SYN, TCP4, TCP6, UDP4, UDP6, Kind, Shape, Template, arp
from tools.bench.session import Run
from tools.bench.stats import median
from tools.bench.world import ARP_ASKING, ARP_FIRST, NEIGHBOURS, OTHER, SELF, World

GROUP = "packet"
XDP_PASS, XDP_TX = 2, 3
TC_OK, TC_REDIRECT = 0, 7
XDP_REPEAT, SKB_REPEAT, QUICK_REPEAT = 1 << 20, 1 << 18, 1 << 18
CHUNKS = 8
FRESH = 4096
SMALL = 4096
"""Up to so many flows a case that uses flows up starts each time with a conntrack that holds just those."""

_ZERO = bytes(6)


def _nothing(_world: World, _flows: int) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Case:
    """``reason``: counted once a run (``flowtable.LOST`` aside); empty: ``verdict`` tells.

    ``fresh``: each run uses up a flow that ``prepare_fresh(world, first, count)`` made ready and ``clean_fresh`` takes
    away again; otherwise flows repeat, in random order. ``first``: number of the first flow; ``sizes``: only these flow
    counts make sense (empty: all).
    """

    name: str
    program: str
    verdict: int
    template: Callable[[], Template]
    reason: str = ""
    prepare: Callable[[World, int], None] = _nothing
    fresh: bool = False
    prepare_fresh: Callable[[World, int, int], None] | None = None
    clean_fresh: Callable[[World, int, int], None] | None = None
    first: int = 0
    sizes: tuple[int, ...] = ()
    note: str = ""
    accounting: bool = False
    received: bool = True
    """Else the packets are this node's own."""
    kind: Kind = TCP4
    """What all flows are while it is measured."""

    @property
    def empty(self) -> str:
        return "empty_xdp" if world.is_xdp(self.program) else "empty_skb"


def _owned_by(owner: int, state: int) -> Callable[[World, int], None]:
    def prepare(made: World, flows: int) -> None:
        made.set_flows(flows, owner, state)

    return prepare


def _tracked(made: World, flows: int) -> None:
    made.track_all(flows)


def _tracked_syn(made: World, flows: int) -> None:
    made.track_all(flows)
    made.set_flows(flows, OTHER, SYN_SENT)
    made.schedule(OTHER)


def _tracked_own(made: World, flows: int) -> None:
    made.track_all(flows)
    made.set_flows(flows, SELF, SYN_SENT)
    made.schedule(SELF)


def _track_fresh(made: World, first: int, count: int) -> None:
    made.track(first, count)
    made.mark = flowtable.highest(made.plane.maps)


def _mark_flows(made: World, _first: int, _count: int) -> None:
    made.mark = flowtable.highest(made.plane.maps)


def _forget_flows(made: World, _first: int, _count: int) -> None:
    flowtable.forget(made.plane.maps, made.mark)


def _ask(made: World, _first: int, _count: int) -> None:
    made.ask_everything()


def _arp_question() -> Template:
    who = (world.PHYSICAL, ARP_ASKING)
    return arp(b"\xff" * 6, world.PHYSICAL, 1, who, (_ZERO, ARP_FIRST), Shape.ARP_TARGET)


def _arp_201() -> Template:
    where = (bytes((0, 0, 0, 0, OTHER, world.ARP_SLOT)), ARP_FIRST)
    return arp(world.HA_SELF, world.HA_OTHER, 201, (world.PHYSICAL, ARP_ASKING), where, Shape.ARP_TARGET)


def _arp_202() -> Template:
    answer = (world.HOST, ARP_FIRST)
    return arp(world.HA_OTHER, world.HA_SELF, 202, answer, (world.PHYSICAL, ARP_ASKING), Shape.ARP_SENDER)


def _steered_syn() -> Template:
    return world.from_client(SYN)


def _both_ways() -> Template:
    return world.from_client(shape=Shape.BOTH)


_GROWS = "with growing the frame by a block, and the feeder's shrinking it again (see `grow alone`)"

CASES: list[Case] = [
    Case("floor: MAC rewrite, no lookup", "send_back", XDP_TX, world.from_client),
    Case("plain BPF hash, MAC rewrite", "plain_xdp", XDP_TX, world.from_client),
    Case("steer: hit", "steer", XDP_TX, world.from_client, "STEER_TX", _owned_by(OTHER, ESTABLISHED)),
    Case(
        "steer: hit, accounting",
        "steer",
        XDP_TX,
        world.from_client,
        "STEER_TX",
        _owned_by(OTHER, ESTABLISHED),
        accounting=True,
    ),
    Case("steer: hit, both directions", "steer", XDP_TX, _both_ways, "STEER_TX", _owned_by(OTHER, ESTABLISHED)),
    Case("steer: own flow", "steer", XDP_PASS, world.from_client, "STEER_LOCAL", _owned_by(SELF, ESTABLISHED)),
    Case("steer: miss", "steer", XDP_PASS, world.from_client, "STEER_MISS", first=1 << 23),
    Case("steer: SYN", "steer", XDP_PASS, _steered_syn, "STEER_SYN", first=1 << 23),
    Case("steer: SYN again", "steer", XDP_PASS, _steered_syn, "STEER_SYN"),
    Case("grow alone", "grow_skb", TC_OK, world.leaving_primary, sizes=(1,)),
    Case(
        "handoff: new SYN",
        "handoff",
        TC_REDIRECT,
        world.leaving_primary,
        "HANDOFF_SENT",
        _tracked_syn,
        fresh=True,
        prepare_fresh=_track_fresh,
        clean_fresh=_forget_flows,
        note=_GROWS,
    ),
    Case(
        "handoff: SYN again", "handoff", TC_REDIRECT, world.leaving_primary, "HANDOFF_AGAIN", _tracked_syn, note=_GROWS
    ),
    Case(
        "handoff: new SYN, own",
        "handoff",
        TC_OK,
        world.leaving_primary,
        "HANDOFF_LOCAL",
        _tracked_own,
        fresh=True,
        prepare_fresh=_track_fresh,
        clean_fresh=_forget_flows,
    ),
    Case("adopt: new SYN", "adopt", TC_OK, world.block_template, "ADOPT_NEW", _tracked, fresh=True),
    Case("adopt: SYN again", "adopt", TC_OK, world.block_template, "ADOPT_AGAIN", _tracked),
    Case("guard: pass", "adopt", TC_OK, world.from_primary, "GUARD_PASS", _tracked),
    Case("announce: forwarded", "announce", TC_OK, world.from_primary, "ANNOUNCE_OUT"),
    Case(
        "announce: own SYN",
        "announce",
        TC_OK,
        world.leaving_primary,
        "ANNOUNCE_FLOW",
        _tracked,
        received=False,
        note=_GROWS,
    ),
    Case("admit: no announcement", "admit", TC_OK, world.from_client, "ADMIT_OTHER"),
    Case(
        "admit: new session",
        "admit",
        TC_REDIRECT,
        world.announced_template,
        "ADMIT_NEW",
        fresh=True,
        prepare_fresh=_mark_flows,
        clean_fresh=_forget_flows,
    ),
    Case("arp_ask: not ARP", "arp_ask", TC_OK, world.from_primary, "ARP_OUT", sizes=(1,)),
    Case("arp_answer: not ARP", "arp_answer", TC_OK, world.from_client, "ARP_OTHER", sizes=(1,)),
    Case("arp_ask", "arp_ask", TC_REDIRECT, _arp_question, "ARP_ASKED", sizes=(1, NEIGHBOURS)),
    Case("arp_serve: from the cache", "arp_serve", TC_REDIRECT, _arp_201, "ARP_FROM_CACHE", sizes=(1, NEIGHBOURS)),
    Case("arp_take", "arp_take", TC_REDIRECT, _arp_202, fresh=True, prepare_fresh=_ask, sizes=(NEIGHBOURS,)),
]


KIND_SIZES = (1, 4096, 1 << 20)
"""Flow counts at which the other kinds are measured: each has to fill table and conntrack anew."""


def _cases_of(kind: Kind) -> list[Case]:
    """What sessions of the kind cost `steer`, `handoff` and `adopt`, as of TCP over IPv4 above."""
    tcp = kind.protocol == TCP4.protocol
    hit, inside = ("STEER_TX", "GUARD_PASS") if tcp else ("STEER_DATAGRAM", "GUARD_DATAGRAM")
    client, leaving = partial(world.from_client, kind=kind), partial(world.leaving_primary, kind)
    block, steered = partial(world.block_template, kind), partial(world.from_primary, kind)
    both = partial(world.from_client, shape=Shape.BOTH, kind=kind)
    ours, theirs = _owned_by(SELF, ESTABLISHED), _owned_by(OTHER, ESTABLISHED)
    called = kind.named
    fresh = partial(
        Case, prepare_fresh=_track_fresh, clean_fresh=_forget_flows, fresh=True, kind=kind, sizes=KIND_SIZES
    )
    case = partial(Case, kind=kind, sizes=KIND_SIZES)
    return [
        case(called("steer: hit"), "steer", XDP_TX, client, hit, theirs),
        case(called("steer: hit, both directions"), "steer", XDP_TX, both, hit, theirs),
        case(called("steer: own flow"), "steer", XDP_PASS, client, "STEER_LOCAL", ours),
        case(called("steer: miss"), "steer", XDP_PASS, client, "STEER_MISS", first=1 << 23),
        fresh(called("handoff: new SYN"), "handoff", TC_REDIRECT, leaving, "HANDOFF_SENT", _tracked_syn, note=_GROWS),
        case(called("handoff: SYN again"), "handoff", TC_REDIRECT, leaving, "HANDOFF_AGAIN", _tracked_syn, note=_GROWS),
        fresh(called("handoff: new SYN, own"), "handoff", TC_OK, leaving, "HANDOFF_LOCAL", _tracked_own),
        case(called("adopt: new SYN"), "adopt", TC_OK, block, "ADOPT_NEW", _tracked, fresh=True),
        case(called("adopt: SYN again"), "adopt", TC_OK, block, "ADOPT_AGAIN", _tracked),
        case(called("guard: pass"), "adopt", TC_OK, steered, inside, _tracked),
    ]


CASES += [case for kind in (UDP4, TCP6, UDP6) for case in _cases_of(kind)]


def measure(run: Run) -> None:
    """All wanted cases at all sizes."""
    cases = [case for case in CASES if run.wanted(case.name)]
    if not cases:
        return
    with place.roomy_conntrack(), place.namespace("run", place.ROUTER) as path:
        inside(path, lambda: _all(run, cases, path))


def _all(run: Run, cases: list[Case], path: Path) -> None:
    os.sched_setaffinity(0, {run.cpu})
    with world.world(run.cache, path) as made:
        left = sum(len(_sizes(run, case)) for case in cases)
        for kind in dict.fromkeys(case.kind for case in cases):
            made.change_kind(kind)
            left = _kind(run, made, [case for case in cases if case.kind == kind], left)
        if made.lost:
            run.notes.append(f"{made.lost} flows in all found both their buckets full in the test-runs")


def _sizes(run: Run, case: Case) -> tuple[int, ...]:
    """Of a kind's sizes those that the run has; of others all."""
    if case.kind == TCP4:
        return case.sizes or run.sizes
    return tuple(size for size in case.sizes if size in run.sizes)


def _kind(run: Run, made: World, cases: list[Case], left: int) -> int:
    """All cases of one kind, size by size; ``left``: cases still to come, and after that."""
    for flows in sorted({size for case in cases for size in _sizes(run, case)}):
        here = [case for case in cases if flows in _sizes(run, case)]
        if run.left() <= 0:
            for case in here:
                run.miss(GROUP, case.name, "no time was left", flows)
            continue
        made.fill(flows, ESTABLISHED)
        for case in here:
            run.pace(left)
            left -= 1
            one(run, made, case, flows)
    return left


def one(run: Run, made: World, case: Case, flows: int, group: str = GROUP) -> None:
    """One case at one size, into the book."""
    made.account(case.accounting)
    case.prepare(made, flows)
    samples = []
    for _ in run.turns():
        took = (_fresh if case.fresh else _steady)(run, made, case, flows)
        if isinstance(took, str):
            return run.miss(group, case.name, took, flows)
        samples.append(took[0] - took[1])
    run.note(group, case.name, samples, "ns", flows=flows, net_of="empty program", note=case.note)
    return None


def _steady(run: Run, made: World, case: Case, flows: int) -> tuple[float, float] | str:
    """ns of the program and of the empty one, feeder included; or why there is no figure."""
    template = case.template()
    repeat = QUICK_REPEAT if run.quick else XDP_REPEAT if case.empty == "empty_xdp" else SKB_REPEAT
    made.plan(template, case.first, flows)
    made.run(case.program, template.length, min(flows, repeat), case.received)
    took, empty = [], []
    for _ in range(CHUNKS):  # side by side, so that what disturbs the machine for a moment is in neither median
        chunk = _confirmed(made, case, template.length, repeat // CHUNKS)
        if isinstance(chunk, str):
            return chunk
        took.append(chunk)
        empty.append(made.run(case.empty, template.length, repeat // CHUNKS).duration_ns)
    return median(took), median(empty)


def _fresh(_run: Run, made: World, case: Case, flows: int) -> tuple[float, float] | str:
    template = case.template()
    fixed = bool(case.sizes) and case.kind == TCP4  # an address of the neighbours', not a flow
    amount = NEIGHBOURS if fixed else FRESH
    first = 0 if fixed else made.take_fresh(amount)
    if flows <= SMALL and not fixed:
        made.retrack(flows)
    if case.prepare_fresh is not None:
        case.prepare_fresh(made, first, amount)
    made.plan(template, first, amount, linear=True)
    took = _confirmed(made, case, template.length, amount)
    if case.clean_fresh is not None:
        case.clean_fresh(made, first, amount)
    if isinstance(took, str):
        return took
    return took, made.run(case.empty, template.length, SKB_REPEAT // 4).duration_ns


def _confirmed(made: World, case: Case, length: int, repeat: int) -> int | str:
    before = made.plane.reasons()
    done = made.run(case.program, length, repeat, case.received)
    delta = made.plane.reasons() - before
    if case.reason and int(delta[reasons.by_name()[case.reason].number]) < repeat * (1 - flowtable.LOST):
        return f"{_told(delta)} in {repeat} runs, expected {case.reason} in all"
    if not case.reason and done.verdict != case.verdict:
        return f"verdict {done.verdict}, expected {case.verdict}"
    return done.duration_ns


def _told(delta: np.ndarray) -> str:
    counted = [f"{each.name} {int(delta[each.number])}" for each in reasons.all_reasons() if delta[each.number]]
    return ", ".join(counted) or "no reason counted"
