# SPDX-License-Identifier: GPL-2.0-or-later
"""CPU of a short session (connect, one request, close: nine packets) on one gateway, on a primary, on an owner.

Live frames play both hosts, so nothing but the gateways' work, the generator and the wires is on the core; the latter
two are measured with a gateway that drops in XDP, and taken away. The primary's share is measured with what it gives
the owner cut off at the switch, the owner's is the rest (with the switch between them).

Likewise a question by UDP and its answer, DNS for example: kept on the primary, shared with the primary, handed off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tools.bench import place, wire
from tools.bench.duet import AUXILIARY, PHASES, PRIMARY, QUESTION, Duet, Phases, duet, to_client
from tools.bench.session import Run
from tools.bench.stats import median

GROUP = "session"
SESSIONS, QUICK_SESSIONS = 16384, 4096
LOST = 0.001
GATEWAY = "one gateway"
CLUSTER = "cluster, session on an auxiliary"
ON_PRIMARY = "… the primary's share"
ON_OWNER = "… the owner's share"
OWN = "cluster, session on the primary"
ADDED = "handoff + adopt, of one gateway's session"
PROGRAMS = "programs of one session, added up"
AT = 4096
"""Flows in the table for the sums of test-runs."""


@dataclass(frozen=True, slots=True)
class Mode:
    name: str
    enter: Callable[[Duet], None]
    delivered: bool = True
    phases: Phases = PHASES


def _gateway(made: Duet) -> None:
    made.receive("primary", "pass_all")


def _cluster(made: Duet) -> None:
    made.to_auxiliary(cut=False)
    made.give_all_to(AUXILIARY)


def _primary_only(made: Duet) -> None:
    made.to_auxiliary(cut=True)
    made.give_all_to(AUXILIARY)


def _own(made: Duet) -> None:
    made.give_all_to(PRIMARY)


def _kept(made: Duet) -> None:
    made.to_auxiliary(cut=False)
    made.share(share=False)


def _shared(made: Duet) -> None:
    made.share(share=True)
    _cluster(made)


def _shared_own(made: Duet) -> None:
    made.share(share=True)
    _own(made)


def _shared_primary_only(made: Duet) -> None:
    made.share(share=True)
    _primary_only(made)


ASKING_GATEWAY = "question and answer by UDP, one gateway"
ASKING = [
    Mode("question and answer by UDP, kept on the primary by policy", _kept, phases=QUESTION),
    Mode("question and answer by UDP, shared, the primary's turn", _shared_own, phases=QUESTION),
    Mode("question and answer by UDP, shared, handed off", _shared, phases=QUESTION),
    Mode("question and answer by UDP, handed off, the primary's share", _shared_primary_only, False, QUESTION),
]
CLUSTERED = [Mode(CLUSTER, _cluster), Mode(ON_PRIMARY, _primary_only, delivered=False), Mode(OWN, _own)]


def measure(run: Run) -> None:
    if not run.wanted(GROUP):
        return
    with place.roomy_conntrack(), duet(run.cache) as made:
        took = _compared(run, made, Mode(GATEWAY, _gateway), CLUSTERED)
        if took is not None:
            _report(run, took)
        asked = _compared(run, made, Mode(ASKING_GATEWAY, _gateway, phases=QUESTION), ASKING)
        for name, samples in (asked or {}).items():
            run.note(GROUP, name, samples, "ns an exchange", net_of="generator and wire")


def _compared(run: Run, made: Duet, gateway: Mode, cluster: Sequence[Mode]) -> dict[str, list[float]] | None:
    """ns a session in each mode, net; ``None``, and noted, when something went wrong."""
    base = _base(run, made, gateway.phases)
    if isinstance(base, str):
        run.miss(GROUP, gateway.name, base)
        return None
    took: dict[str, list[float]] = {gateway.name: []}
    wrong = _mode(run, made, gateway, base, took[gateway.name])
    if not wrong:
        made.start()
        try:
            for mode in cluster:
                took[mode.name] = []
                wrong = wrong or _mode(run, made, mode, base, took[mode.name])
        finally:
            made.stop()
    if wrong:
        run.miss(GROUP, cluster[0].name, wrong)
        return None
    _mode(run, made, gateway, base, took[gateway.name])  # again: the machine may have changed
    return took


def _count(run: Run) -> int:
    return QUICK_SESSIONS if run.quick else SESSIONS


def _base(run: Run, made: Duet, phases: Phases) -> float | str:
    """ns a session of generator and wire."""
    made.receive("primary", "drop_all")
    samples = []
    for _ in run.turns():
        burst = made.sessions(_count(run), run.cpu, phases)
        if int(burst.arrived[wire.DROPPED]) != burst.sent:
            return f"{int(burst.arrived[wire.DROPPED])} of {burst.sent} frames reached the gateway"
        samples.append(burst.ns * len(phases))
    return median(samples)


def _mode(run: Run, made: Duet, mode: Mode, base: float, samples: list[float]) -> str:
    """Adds ns a session, net, one a repetition; gives what went wrong, empty when nothing did."""
    mode.enter(made)
    made.forget()
    phases, twice = mode.phases, mode.enter is _gateway
    there, back = _packets(run, phases)
    for turn in run.turns((run.repetitions + 1) // 2 + 1 if twice else run.repetitions + 1):
        count = _count(run)
        burst = made.sessions(count, run.cpu, phases)
        if mode.delivered:
            client, server = int(burst.arrived[wire.DELIVERED]), int(burst.arrived[wire.SECOND])
            if there + back - client - server > LOST * burst.sent or client > back or server > there:
                return (
                    f"{mode.name}: {client} packets to the client, {server} to the server in {count} sessions, "
                    f"expected {back} and {there}"
                )
        elif int(burst.arrived[wire.CUT]) < (1 - LOST) * burst.sent:
            return f"{mode.name}: the primary gave on {int(burst.arrived[wire.CUT])} of {burst.sent} packets"
        if turn:  # the first warms up
            samples.append(burst.ns * len(phases) - base)
    return ""


def _packets(run: Run, phases: Phases) -> tuple[int, int]:
    """Packets of a burst to the server and to the client."""
    back = to_client(phases)
    return _count(run) * (len(phases) - back), _count(run) * back


def _report(run: Run, took: dict[str, list[float]]) -> None:
    for name in (GATEWAY, CLUSTER, ON_PRIMARY, OWN):
        if took[name]:
            run.note(GROUP, name, took[name], "ns a session", net_of="generator and wire")
    if not all(took[name] for name in (GATEWAY, CLUSTER, ON_PRIMARY)):
        run.miss(GROUP, ON_OWNER, "too few repetitions in the time given")
        return
    primary, one = median(took[ON_PRIMARY]), median(took[GATEWAY])
    owner = [each - primary for each in took[CLUSTER]]
    run.note(GROUP, ON_OWNER, owner, "ns a session", net_of="the primary's share", note="with the hop between them")
    for name, samples in ((GATEWAY, took[GATEWAY]), (ON_PRIMARY, took[ON_PRIMARY]), (ON_OWNER, owner)):
        run.note(
            GROUP, f"sessions a second, one core: {name.removeprefix('… ')}", [1e9 / s for s in samples if s > 0], "/s"
        )
    run.note(GROUP, "cluster, of one gateway's session", [100 * each / one for each in took[CLUSTER]], "%")
    _programs(run, one)


def _programs(run: Run, one: float) -> None:
    """What our programs take of that, from the test-runs."""
    cost = {
        name: run.value("packet", name, AT)
        for name in ("handoff: new SYN", "adopt: new SYN", "steer: hit", "guard: pass", "steer: SYN")
    }
    known = {name: value for name, value in cost.items() if value is not None}
    if len(known) != len(cost):
        run.miss(GROUP, PROGRAMS, "needs the per-packet figures of the same run")
        return
    rest = len(PHASES) - 1
    whole = known["handoff: new SYN"] + known["adopt: new SYN"] + known["steer: SYN"]
    whole += rest * (known["steer: hit"] + known["guard: pass"])
    run.note(GROUP, PROGRAMS, [whole], "ns a session", note=f"test-runs at {AT} flows")
    added = known["handoff: new SYN"] + known["adopt: new SYN"]
    run.note(GROUP, ADDED, [100 * added / one], "%", note="handoff: new SYN + adopt: new SYN, by test-run")
    for name in ("handoff: new SYN", "adopt: new SYN"):
        run.note(GROUP, f"{name}, of one gateway's session", [100 * known[name] / one], "%")
