# SPDX-License-Identifier: GPL-2.0-or-later
"""A thousand streams and new sessions beside them, on the hosts of a lab: drives ``traffic.mix`` and
``traffic.arrivals``, and judges what they counted about the time after a fault.

Times are CLOCK_MONOTONIC in s, which all processes of the machine share; gaps come in ms.
"""

from __future__ import annotations

import math
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec

from aa_cluster.errors import LabError
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import Absence, program
from aa_cluster.topology.namespaces import batch
from aa_cluster.topology.traffic.ends import PLAIN, PLAIN6, TRANSLATIONS, by_udp

YOUNG = 0.1
"""Seconds a stream must have been established before a fault to count among those that may not be lost."""
TOLD = 5
"""Streams that did not open and are told about one by one."""
LOSSES = 3
"""Lost streams that are told about one by one."""
RESOLUTION_MS = 30
"""Gaps below this are not kept; a probe's gap is known to its pace of 20 ms."""


class StreamRow(msgspec.Struct, frozen=True, array_like=True):
    """One stream. ``state``: ``open`` at the end, or refused, reset, closed, stuck, moved (a UDP session's answers came
    to have another address or port), or the error that ended it. ``gaps``: (when it began, s) pairs from 30 ms on.
    ``port``: of the host that opened it. ``lost``: datagrams."""

    number: int
    kind: str
    way: str
    probe: bool
    established: float
    state: str
    sent: int
    right: int
    wrong: int
    retransmits: int
    gaps: tuple[tuple[float, float], ...]
    port: int = 0
    ended: float = 0.0
    lost: int = 0


class Opening(msgspec.Struct, frozen=True):
    """How many streams are open, and what was wrong with the others."""

    open: int
    trouble: tuple[str, ...]


class MixReport(msgspec.Struct, frozen=True):
    """``late``: (when, s) the generator itself was late with a line by 10 ms or more, once a turn; it is part of no
    gap."""

    streams: tuple[StreamRow, ...]
    late: tuple[tuple[float, float], ...]


class UncleanSession(msgspec.Struct, frozen=True, array_like=True):
    """``again``: SYNs sent again; ``trouble`` is empty when the session completed all the same; ``port``: its
    client's."""

    began: float
    way: str
    took_ms: float
    again: int
    trouble: str
    port: int = 0


class ArrivalReport(msgspec.Struct, frozen=True):
    """All zero where there were none. ``late_ms``: how late the generator began a session at most."""

    begun: int
    completed: int
    median_ms: float
    late_ms: float
    unclean: tuple[UncleanSession, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the streams. ``counted``: those established 100 ms or more before the fault; of them ``states``
    says how many ended how. ``gap_ms``: the largest gap that ended after the fault; ``gap_told``: whose it is, when it
    began, how many streams stood still for half of it or more.

    ``net_ms``: the largest when each is taken without the longest time that a core of this machine stood still during
    it (see ``net_ms``). ``before_ms``: the largest gap before
    the fault, by what else the machine does; ``before_told`` likewise. ``late_ms``: how late the generator was after
    it. ``losses``: the first few, in words. ``datagrams``: how many of them were lost in all.
    """

    counted: int
    young: int
    states: dict[str, int]
    wrong: int
    gap_ms: float
    net_ms: float
    late_ms: float
    by_kind: dict[str, float]
    losses: tuple[str, ...] = ()
    before_ms: float = 0.0
    datagrams: int = 0
    gap_told: str = ""
    before_told: str = ""

    @property
    def lost(self) -> int:
        return sum(count for state, count in self.states.items() if state != "open")

    @property
    def stuck(self) -> int:
        return self.states.get("stuck", 0)

    @property
    def reset(self) -> int:
        return self.states.get("reset", 0)


def lost(report: MixReport, fault: float) -> list[StreamRow]:
    """Those that may not have been lost and are."""
    return [row for row in report.streams if 0 < row.established <= fault - YOUNG and row.state != "open"]


def judge(
    report: MixReport,
    fault: float,
    until: float = float("inf"),
    absences: Sequence[Absence] = (),
    faults: Sequence[float] = (),
) -> Verdict:
    """The streams, around a fault at ``fault``; only gaps that lie at least partly between it and ``until`` count.
    ``faults``: all there were, where one came after the other."""
    old = [row for row in report.streams if 0 < row.established <= fault - YOUNG]
    gaps = [
        (row, *_one_outage(row, began, length, faults))
        for row in old
        for began, length in row.gaps
        if began + length >= fault and began <= until
    ]
    earlier = [(row, began, length) for row in old for began, length in row.gaps if began + length < fault]
    by_kind: dict[str, float] = {}
    for row, _, length in gaps:
        by_kind[row.kind] = max(1000 * length, by_kind.get(row.kind, 0.0))
    late = (length for began, length in report.late if began + length >= fault and began <= until)
    return Verdict(
        counted=len(old),
        young=len(report.streams) - len(old),
        states=dict(Counter(row.state for row in old)),
        wrong=sum(row.wrong for row in report.streams),
        gap_ms=max((1000 * length for _, _, length in gaps), default=0.0),
        net_ms=max((_net_ms(row, began, length, absences) for row, began, length in gaps), default=0.0),
        late_ms=1000 * max(late, default=0.0),
        by_kind=by_kind,
        before_ms=max((1000 * length for _, _, length in earlier), default=0.0),
        losses=tuple(_loss(row, fault) for row in lost(report, fault))[:LOSSES],
        datagrams=sum(row.lost for row in report.streams),
        gap_told=_told(gaps, fault),
        before_told=_told(earlier, fault),
    )


def _told(gaps: Sequence[tuple[StreamRow, float, float]], fault: float) -> str:
    """The largest of them; by way of how many streams others were at least half of it."""
    if not gaps:
        return ""
    row, began, length = max(gaps, key=lambda gap: gap[2])
    ways = Counter(way for _, way in {(one.number, one.way) for one, _, other in gaps if other >= length / 2})
    many = ", ".join(f"{count} {way}" for way, count in sorted(ways.items()))
    whose = f"{row.kind} {row.way}, {'probe' if row.probe else 'slow'}, {row.retransmits} segments again"
    return f"stream {row.number}: {whose}, begun {1000 * (began - fault):+.0f} ms; half as long or more: {many}"


OUTAGE = 1.0
"""Seconds after a fault in which a datagram may be lost to it."""


def _one_outage(row: StreamRow, began: float, length: float, faults: Sequence[float]) -> tuple[float, float]:
    """A UDP stream that hardly speaks loses one datagram to this fault and the next to another: that is no gap between
    them. What is known then is that the later outage lasted from its fault to the datagram at least."""
    end = began + length
    blamed = [max((at for at in faults if at <= lost < at + OUTAGE), default=0.0) for lost in (began, end)]
    if not by_udp(row.way) or row.kind != "idle" or not all(blamed) or blamed[0] == blamed[1]:
        return began, length
    return blamed[1], end - blamed[1]


def _net_ms(row: StreamRow, began: float, length: float, absences: Sequence[Absence]) -> float:
    still = max((one.within_ms(began, began + length) for one in absences), default=0.0)
    return 1000 * length - still if by_udp(row.way) else net_ms(1000 * length, still)


RTO_MS = 200.0
"""TCP_RTO_MIN of Linux. A segment that is lost is sent again after so long, then after twice as long, and so on."""
COUNTS_MS = 20.0
"""A core that is away for less is what a busy machine has all the time."""


def net_ms(gap_ms: float, still_ms: float) -> float:
    """What a gap may have been, had no core stood still for ``still_ms`` during it: shorter by that. If TCP had to try
    more than once, the try before the last may have missed the end of the outage by no more than that."""
    tries = int(math.log2(gap_ms / RTO_MS + 1)) if gap_ms > 0 else 0
    if tries < 2 or still_ms < COUNTS_MS:
        return gap_ms - still_ms
    before = gap_ms * ((1 << tries - 1) - 1) / ((1 << tries) - 1)
    return min(gap_ms - still_ms, before)


def _loss(row: StreamRow, fault: float) -> str:
    age = f"established {1000 * (fault - row.established):.0f} ms before"
    end = f", {1000 * (row.ended - fault):.0f} ms after" if row.ended else ""
    return f"{row.number} {row.kind} {row.way} {row.state}{end}, {age}, {row.right} of {row.sent} lines arrived"


@dataclass(frozen=True, slots=True)
class Newcomers:
    """Sessions begun at or after a fault. ``failed`` of them, ``why`` the first; the others needed ``again`` SYNs
    more at most, and the slowest took so long."""

    failed: int
    why: str
    again: int
    slowest_ms: float


def failed(report: ArrivalReport, fault: float, until: float = float("inf")) -> list[UncleanSession]:
    """Of those begun between ``fault`` and ``until``."""
    return [one for one in report.unclean if fault <= one.began <= until and one.trouble]


def newcomers(report: ArrivalReport, fault: float, until: float = float("inf")) -> Newcomers:
    """Of those begun between ``fault`` and ``until``."""
    after = [one for one in report.unclean if fault <= one.began <= until]
    whole, broken = [one for one in after if not one.trouble], failed(report, fault, until)
    return Newcomers(
        failed=len(broken),
        why=f"{broken[0].trouble}, {broken[0].way}, begun {1000 * (broken[0].began - fault):.0f} ms after"
        if broken
        else "",
        again=max((one.again for one in whole), default=0),
        slowest_ms=max((one.took_ms for one in whole), default=0.0),
    )


class Load:
    """What runs. ``opened`` streams are open; ``stop`` ends both programs and gives their reports."""

    def __init__(self, mix: subprocess.Popen[str], arrivals: subprocess.Popen[str] | None, opened: int) -> None:
        self._mix, self._arrivals, self.opened = mix, arrivals, opened
        self._came = ArrivalReport(0, 0, 0.0, 0.0, ())

    def order(self, words: str) -> None:
        """``speak``, ``pause``, ``resume``, ``spoil N``, ``close N``, ``abort N``, ``hush N``: see
        ``traffic.mix``."""
        if self._mix.stdin is None:
            return
        self._mix.stdin.write(words + "\n")
        self._mix.stdin.flush()

    def stall(self, seconds: float) -> None:
        """The generator stands still for so long: it neither sends nor reads."""
        self._mix.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self._mix.send_signal(signal.SIGCONT)

    def stop_arrivals(self, timeout: float = 60) -> ArrivalReport:
        """No new sessions any more; how those went that there were."""
        if self._arrivals is not None:
            self._came = msgspec.json.decode(_rest(self._arrivals, timeout), type=ArrivalReport)
            self._arrivals = None
        return self._came

    def stop(self, timeout: float = 60) -> tuple[MixReport, ArrivalReport]:
        for running in (self._mix, self._arrivals):
            if running is not None and running.stdin is not None:
                running.stdin.close()  # both at once, so that their last moments overlap
                running.stdin = None
        came = self.stop_arrivals(timeout)
        return msgspec.json.decode(_rest(self._mix, timeout), type=MixReport), came


@contextmanager
def load(
    lab: Lab,
    count: int = 1000,
    rate: float = 200,
    fresh: float = 0,
    probes: int = 72,
    patience: float = 6,
    ways: Sequence[str] = TRANSLATIONS,
) -> Iterator[Load]:
    """``count`` streams, all open when the block begins, ``fresh`` more each second, ``rate`` short sessions a
    second. ``ways``: how they cross the gateway (``traffic/ends.py``); over TCP and IPv4, unless told.

    ``patience``: s that a session may take, and what is under way when all else ends. The nodes must have one of the
    ``failover`` rulesets. ``LabError`` when not all streams open.
    """
    _second_addresses(lab)
    ends = [str(lab.plan.path(host)) for host in ("client", "server")] + ["--ways", ",".join(ways)]
    options = ("--count", count, "--fresh", fresh, "--probes", probes, "--patience", patience)
    with _program(lab, "mix", *ends, *options) as mix:
        begun = msgspec.json.decode(_line(mix), type=Opening)
        opened = begun.open
        if opened != count:
            trouble = "; ".join(begun.trouble[:TOLD])
            raise LabError(f"{opened} of {count} streams opened: {trouble}", "do the nodes have a failover ruleset?")
        if not rate:
            yield Load(mix, None, opened)
            return
        with _program(lab, "arrivals", *ends, "--rate", rate, "--patience", patience) as arrivals:
            _line(arrivals)
            yield Load(mix, arrivals, opened)


def _second_addresses(lab: Lab) -> None:
    """Only who names one has it as its source: that of IPv6 is not preferred."""
    lines = [f"addr replace {PLAIN}/24 dev eth0", f"addr replace {PLAIN6}/64 dev eth0 nodad preferred_lft 0"]
    batch(lines, lab.plan.namespace("client"))


@contextmanager
def _program(lab: Lab, tool: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    process = lab.popen(
        "client", program(tool, *arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def _line(process: subprocess.Popen[str]) -> str:
    text = process.stdout.readline() if process.stdout else ""
    if not text:
        complaint = process.stderr.read() if process.stderr else ""
        raise LabError(f"the load did not start: {complaint.strip()[-800:]}")
    return text


def _rest(process: subprocess.Popen[str], timeout: float) -> str:
    out, complaint = process.communicate(timeout=timeout)
    if not out:
        raise LabError(f"the load broke: {complaint.strip()[-800:]}")
    return out
