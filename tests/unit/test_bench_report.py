# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports of the bench: kept and read again, compared, as tables, pages and plots."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tools.bench import compare, machine, report, results, svg, tables

MACHINE = machine.Machine("CPU", 2, ["L2 2048K"], True, "6.18", "1", {"retbleed": "Vulnerable"}, "0.26", "14", "3.11")


def _report(*figures: results.Figure, missing: tuple[results.Missing, ...] = ()) -> results.Report:
    return results.Report(results.VERSION, "2026-01-01", False, 1.0, MACHINE, list(figures), list(missing), ["a note"])


def _figure(samples: list[float], case: str = "steer: hit", group: str = "packet", flows: int = 1) -> results.Figure:
    size = 60 if group == "live" else 0
    return results.figure(group, case, samples, "ns", flows=flows, size=size, net_of="empty program")


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = _report(_figure([1, 2, 3]), missing=(results.Missing("packet", "x", 1, "why"),))
    results.save(made, tmp_path / "deep" / "bench.json")
    assert results.read(tmp_path / "deep" / "bench.json") == made


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": "one"}'])
def test_what_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match="no bench report"):
        results.read(tmp_path / "x.json")


def test_another_version_is_refused(tmp_path: Path) -> None:
    made = _report()
    results.save(results.Report(99, *(getattr(made, name) for name in made.__struct_fields__[1:])), tmp_path / "x.json")
    with pytest.raises(ValueError, match="version 99"):
        results.read(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [([10, 11, 12], [20, 21, 22], "higher"), ([20, 21], [10, 11], "lower"), ([10, 20], [15, 30], "same")],
)
def test_a_difference_counts_only_beyond_the_ranges(old: list[float], new: list[float], verdict: str) -> None:
    (found,) = compare.compare(_report(_figure(old)), _report(_figure(new)))
    assert found.verdict == verdict
    assert found.change == pytest.approx(
        _figure(new).value / _figure(old).value - 1,
    )


def test_figures_of_one_side_only_are_told() -> None:
    old, new = _report(_figure([1], "was")), _report(_figure([1], "is"))
    assert [each.verdict for each in compare.compare(old, new)] == ["added", "gone"]


def test_a_figure_of_zero_has_no_change() -> None:
    (found,) = compare.compare(_report(_figure([0])), _report(_figure([1])))
    assert found.change is None


def test_a_table_has_a_column_for_each_flow_count_and_dashes_for_what_is_missing() -> None:
    made = _report(
        _figure([25, 26, 30]),
        _figure([400], flows=1 << 20),
        _figure([5], "guard", flows=1 << 20),
        missing=(results.Missing("packet", "lost", 1, "why"),),
    )
    (table,) = tables.tables(made)
    assert table.columns == ("case", "unit", "1 flow", "1M flows")
    assert table.rows == (
        ("steer: hit", "ns", "26.0 (25.0–30.0)", "400"),
        ("guard", "ns", "–", "5.00"),
        ("lost", "", "–", "–"),
    )
    assert tables.notes(made)[-2:] == ("no figure for packet: lost at 1 flows: why", "a note")


def test_other_kinds_have_a_table_of_their_own() -> None:
    """Beside TCP over IPv4, and what IPv6 costs more of TCP."""
    made = _report(
        _figure([20]),
        _figure([24], "steer: hit, TCP/IPv6"),
        _figure([21], "steer: hit, UDP/IPv4"),
        _figure([700], "handoff: new datagram, UDP/IPv6"),
        _figure([5], "guard", flows=4096),
        missing=(results.Missing("packet", "adopt: new SYN, TCP/IPv6", 1, "why"),),
    )
    plain, kinds = tables.tables(made)
    assert [row[0] for row in plain.rows] == ["steer: hit", "guard"]
    assert kinds.title.endswith("1 flow")
    assert kinds.columns[2:] == ("TCP/IPv4", "UDP/IPv4", "TCP/IPv6", "UDP/IPv6", "TCP/IPv6 ÷ TCP/IPv4")
    rows = {row[0]: row[2:] for row in kinds.rows}
    assert rows["steer: hit"] == ("20.0", "21.0", "24.0", "–", "1.20")
    assert rows["handoff: new SYN"] == ("–", "–", "–", "700", "–")
    assert rows["adopt: new SYN"] == ("–",) * 5
    assert "no figure for packet: adopt: new SYN, TCP/IPv6 at 1 flows: why" in tables.notes(made)
    (only,) = tables.tables(_report(_figure([700], "handoff: new datagram, UDP/IPv6")))
    assert only.title.startswith("By family and protocol")


def test_every_case_of_another_kind_is_in_that_table() -> None:
    from tools.bench.frames import KINDS, TCP4
    from tools.bench.packets import CASES

    names = {case.name for case in CASES}
    expected = {kind.named(case) for case in tables.KIND_CASES for kind in KINDS}
    assert expected <= names
    assert {case.name for case in CASES if case.kind != TCP4} == {one for one in expected if "/IPv" in one}


def test_the_page_has_machine_tables_and_plots(tmp_path: Path) -> None:
    made = _report(_figure([1]), _figure([2], flows=4096), _figure([3], "ours", "live"), _figure([4], "a|b", "live"))
    paths = {path.name for path in report.write(made, tmp_path)}
    assert paths == {"bench.json", "README.md", "live.svg", "steering.svg"}
    text = (tmp_path / "README.md").read_text()
    assert "6.18" in text
    assert "![live](live.svg)" in text
    assert "a\\|b" in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize(("top", "last"), [(7, 7), (100, 100), (1514, 1600), (0.3, 0.3), (0, 1)])
def test_ticks_are_round_and_reach_the_top(top: float, last: float) -> None:
    found = svg.ticks(top)
    assert found[0] == 0
    assert found[-1] == pytest.approx(last)
    assert len(found) <= 10


def test_plots_are_well_formed_and_escaped() -> None:
    value = svg.Value(5, 4, 7)
    bars = svg.bars("a < b", "ns", ["1 flow", "1M flows"], [("ours & theirs", [value, None])])
    lines = svg.lines("t", "ns", "flows", [svg.Line("steer", ((1, 10), (4096, 30)))], logarithmic=True)
    for text in (bars, lines, svg.bars("t", "ns", [], []), svg.lines("t", "ns", "x", [])):
        ElementTree.fromstring(text)
    assert "ours &amp; theirs" in bars
    assert ">4k<" in lines


@pytest.mark.parametrize(("count", "text"), [(1, "1"), (4096, "4k"), (65536, "64k"), (1 << 20, "1M"), (512, "512")])
def test_counts_are_said_short(count: int, text: str) -> None:
    assert svg.short(count) == text


def test_the_cpu_is_named_with_its_model() -> None:
    info = "processor\t: 0\ncpu family\t: 6\nmodel\t\t: 207\nmodel name\t: Some Processor\nstepping\t: 2\n"
    assert machine.cpu_model(info) == "Some Processor (family 6, model 207, stepping 2)"
    assert machine.cpu_model("") != ""
