# SPDX-License-Identifier: GPL-2.0-or-later
"""What the failover tests make of given reports: which streams count, which gaps, whose claims."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from aa_cluster.topology.claims import Claim, Reign, learned, strays
from aa_cluster.topology.load import Absence
from aa_cluster.topology.shaping import Shape, program
from aa_cluster.topology.streams import (
    ArrivalReport,
    MixReport,
    Newcomers,
    StreamRow,
    UncleanSession,
    Verdict,
    judge,
    net_ms,
    newcomers,
)
from tests.failover.figures import Figures, Limits, Outcome, complaints

FAULT = 100.0
LIMITS = Limits(worst_ms=500, median_ms=300)


def row(
    number: int = 0, state: str = "open", established: float = 90.0, gaps: tuple[tuple[float, float], ...] = ()
) -> StreamRow:
    return StreamRow(number, "push", "plain", True, established, state, 10, 10, 0, 0, gaps)


def verdict(*rows: StreamRow, late: tuple[tuple[float, float], ...] = ()) -> Verdict:
    return judge(MixReport(rows, late), FAULT)


@pytest.mark.parametrize(("established", "counts"), [(99.9, 1), (99.901, 0), (100.5, 0), (0.0, 0)])
def test_only_streams_that_were_established_count(established: float, counts: int) -> None:
    assert verdict(row(established=established, state="reset")).lost == counts


@pytest.mark.parametrize("state", ["stuck", "reset", "closed", "refused", "etimedout"])
def test_whatever_is_not_open_is_lost(state: str) -> None:
    found = verdict(row(0), row(1, state))
    assert (found.counted, found.lost) == (2, 1)
    assert (found.stuck, found.reset) == (state == "stuck", state == "reset")


def test_wrong_bytes_count_of_young_streams_too() -> None:
    young = StreamRow(1, "ask", "plain", False, 99.95, "open", 1, 1, 3, 0, ())
    assert verdict(row(), young).wrong == 3


@pytest.mark.parametrize(
    ("gap", "seen"), [((99.0, 0.9), 0), ((99.0, 1.2), 1200), ((100.1, 0.25), 250), ((250.0, 0.04), 40)]
)
def test_gaps_that_end_after_the_fault_count(gap: tuple[float, float], seen: float) -> None:
    assert verdict(row(7, gaps=(gap,))).gap_ms == pytest.approx(seen)


def test_the_largest_gap_and_whose_it_is() -> None:
    found = verdict(row(3, gaps=((100.0, 0.1), (101.0, 0.3))), row(4, gaps=((100.0, 0.2),)), late=((100.5, 0.05),))
    assert (found.gap_ms, found.late_ms) == (pytest.approx(300), pytest.approx(50))
    told = "stream 3: push plain, probe, 0 segments again, begun +1000 ms; half as long or more: 2 plain"
    assert (found.gap_told, found.before_told) == (told, "")
    assert found.by_kind == {"push": pytest.approx(300)}


@pytest.mark.parametrize(
    ("absence", "net"),
    [
        (Absence(0, 100.1, 150.0), 200),  # now the other gap is the largest
        (Absence(0, 100.1, 50.0), 250),
        (Absence(0, 99.9, 200.0), 250),  # begun before
        (Absence(0, 100.3, 100.0), 250),  # and ended after
        (Absence(0, 200.0, 900.0), 290),
    ],
)
def test_a_gap_is_net_of_what_a_core_stood_still_in_it(absence: Absence, net: float) -> None:
    report = MixReport((row(3, gaps=((100.05, 0.3),)), row(4, gaps=((100.4, 0.2),))), ())
    found = judge(report, FAULT, absences=(absence, Absence(1, 100.06, 10.0)))
    assert (found.gap_ms, round(found.net_ms)) == (pytest.approx(300), net)


@pytest.mark.parametrize(
    ("kind", "way", "began", "length", "seen"),
    [
        ("idle", "plain-udp", 100.2, 15.0, 200.0),  # one lost to each of two faults
        ("idle", "plain-udp", 100.2, 16.5, 16500.0),  # no fault explains the second
        ("idle", "plain-udp", 103.0, 12.2, 12200.0),  # … nor here the first
        ("idle", "plain-udp", 100.1, 0.7, 700.0),  # to the same one
        ("ask", "plain-udp", 100.2, 15.0, 15000.0),  # it speaks all the time
        ("idle", "plain", 100.2, 15.0, 15000.0),  # TCP loses nothing
    ],
)
def test_two_datagrams_lost_to_two_faults_are_no_gap_between_them(
    kind: str, way: str, began: float, length: float, seen: float
) -> None:
    stream = StreamRow(3, kind, way, False, 90.0, "open", 10, 10, 0, 0, ((began, length),))
    assert judge(MixReport((stream,), ()), FAULT, faults=(100.0, 107.5, 115.0)).gap_ms == pytest.approx(seen)


@pytest.mark.parametrize(
    ("gap", "still", "net"),
    [
        (90, 0, 90),
        (90, 30, 60),
        (590, 100, 490),  # one try, that came late
        (630, 0, 630),
        (630, 19, 611),
        (630, 20, 210),  # the one after 210 ms came too early by up to 20 ms
        (1470, 50, 630),
        (1470, 900, 570),
    ],
)
def test_what_a_gap_may_have_been(gap: float, still: float, net: float) -> None:
    assert net_ms(gap, still) == pytest.approx(net)


def session(began: float, again: int = 0, trouble: str = "") -> UncleanSession:
    return UncleanSession(began, "plain", 1200.0, again, trouble)


def test_new_sessions_are_those_after_the_fault() -> None:
    report = ArrivalReport(100, 98, 1.0, 0.0, (session(99.0, 3), session(99.9, 0, "timeout"), session(100.2, 1)))
    assert newcomers(report, FAULT) == Newcomers(failed=0, why="", again=1, slowest_ms=1200.0)
    worse = ArrivalReport(100, 98, 1.0, 0.0, (session(100.5, 2, "reset"), session(100.2, 1)))
    assert newcomers(worse, FAULT) == Newcomers(1, "reset, plain, begun 500 ms after", 1, 1200.0)


def outcome(**changes: object) -> Outcome:
    whole = Verdict(1000, 0, {"open": 1000}, 0, 200.0, 200.0, 0.0, {"push": 200.0}, gap_told="stream 5: idle")
    mine = {name: changes.pop(name) for name in list(changes) if name in Verdict.__slots__}
    mine.setdefault("net_ms", mine.get("gap_ms", whole.net_ms))
    made = Outcome(replace(whole, **mine), Newcomers(0, "", 1, 1000.0), ())  # type: ignore[arg-type]
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_clean_round_has_no_complaints() -> None:
    assert complaints([outcome()], LIMITS) == []
    assert complaints([outcome(gap_ms=540.0, net_ms=500.0)], LIMITS) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"states": {"open": 999, "stuck": 1}}, "1 stuck"),
        ({"counted": 0}, "no stream"),
        ({"wrong": 1}, "bytes wrong"),
        ({"gap_ms": 501.0}, "largest gap"),
        ({"gap_ms": 541.0, "stood_still_ms": 90.0}, "largest gap 541 ms (stream 5: idle), more than 500"),
        ({"gap_ms": 600.0, "net_ms": 501.0}, "(stream 5: idle), 501 while all cores ran, more than 500"),
        ({"gap_ms": 501.0, "late_ms": 90.0}, "generator itself was late by up to 90 ms"),
        ({"newcomers": Newcomers(1, "timeout", 0, 0.0)}, "1 new sessions failed: timeout"),
        ({"newcomers": Newcomers(0, "", 2, 0.0)}, "2 more SYNs"),
        ({"strays": (Claim(1.0, "int", "node3", "ARP"),)}, "node3 by ARP on int"),
        ({"differences": ("node2 lacks 5",)}, "node2 lacks 5"),
    ],
)
def test_each_thing_that_does_not_hold_is_named(changes: dict[str, object], says: str) -> None:
    assert says in "; ".join(complaints([outcome(**changes)], LIMITS))


def test_the_median_has_its_own_limit() -> None:
    gaps = [outcome(gap_ms=gap) for gap in (250.0, 310.0, 320.0)]
    assert ["median" in said for said in complaints(gaps, LIMITS)] == [True]
    assert complaints([*gaps[:2], outcome(gap_ms=100.0)], LIMITS) == []


def test_the_table_has_a_line_a_scenario_and_what_is_extra() -> None:
    figures = Figures()
    assert figures.table() == []
    for gap in (100.0, 300.0, 200.0):
        figures.add("it dies", outcome(gap_ms=gap, extra={"ms until seen": gap / 2}))
    head, line_, extra = figures.table()
    assert head.split()[:3] == ["scenario", "rounds", "streams"]
    assert line_.split()[2:] == ["3", "3000", "0", "0", "0", "0", "0", "200", "300", "0", "0", "0", "1", "0"]
    assert extra == "it dies: ms until seen 100 (worst 150)"
    with pytest.raises(AssertionError, match="no round"):
        figures.judge("another", LIMITS)


def test_claims_belong_to_a_reign() -> None:
    claims = [
        Claim(at, "int", member, "ARP") for at, member in ((1, "node1"), (5, "node2"), (6, "node1"), (7, "server"))
    ]
    assert strays(claims, [Reign("node1", until=5.5), Reign("node2", since=4)]) == claims[2:]
    assert strays(claims[:2], [Reign("node1")]) == [claims[1]]


def test_what_a_bridge_learns_is_read_from_its_notices() -> None:
    mac = bytes.fromhex("02aa004d0001")
    entry = struct.pack("=BxHiHBB", 7, 0, 12, 2, 0, 0) + struct.pack("=HH", 10, 2) + mac + b"\0\0"
    made = struct.pack("=IHHII", 16 + len(entry), 28, 0, 0, 0) + entry
    gone = struct.pack("=IHHII", 16 + len(entry), 29, 0, 0, 0) + entry
    assert learned(gone + made + made[:20]) == [(12, mac)]
    assert learned(b"") == []


def test_jumps_of_the_shaping_program_meet_their_branches() -> None:
    """Each jump lands on the first step of lose (TC_ACT_SHOT), double or hold back."""
    code = program(Shape(0.1, 0.1, 0.1), port=7, aside=9)
    steps = [struct.unpack_from("<BBhi", code, at) for at in range(0, len(code), 8)]
    landed = [at + 1 + off for at, (op, _, off, _) in enumerate(steps) if op in (0x15, 0xA5)]
    assert [steps[at][3] for at in landed] == [0, 2, 0x5AFE, 9]
    assert [steps[at][3] for at in (5, 6, 7)] == [6554, 13107, 19661]
    assert [steps[at + 1] for at in landed[:2]] == [(0x95, 0, 0, 0)] * 2
