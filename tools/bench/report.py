# SPDX-License-Identifier: GPL-2.0-or-later
"""A report on the terminal, and as docs/bench: bench.json, a page with its tables, plots."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable

from tools.bench import results, svg
from tools.bench.machine import Machine
from tools.bench.results import Figure, Report
from tools.bench.tables import Table, notes, tables

PEERS_AT = (1, 4096, 1 << 20)
STEERING = ("floor: MAC rewrite, no lookup", "plain BPF hash, MAC rewrite", "steer: hit", "steer: miss")
HEAD = """\
<!-- written by `make bench`; do not edit -->
# What it costs

{machine}

{when}. Medians of several runs, with their range. How each figure is made: [../bench.md](../bench.md); as data:
[bench.json](bench.json). `python -m tools.bench compare OLD.json NEW.json` compares two runs.
"""


def show(report: Report, console: Console) -> None:
    console.print(describe(report.machine))
    for table in tables(report):
        made = RichTable(title=table.title, title_justify="left")
        for number, column in enumerate(table.columns):
            made.add_column(column, justify="left" if number < 2 or column == "note" else "right")
        for row in table.rows:
            made.add_row(*row)
        console.print(made)
    for note in notes(report):
        console.print(f"· {note}")


def write(report: Report, directory: Path) -> list[Path]:
    """All files; their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    results.save(report, directory / "bench.json")
    plots = {name: text for name, text in _plots(report).items() if text}
    for name, text in plots.items():
        (directory / name).write_text(text, "utf-8")
    (directory / "README.md").write_text(page(report, list(plots)), "utf-8")
    return [directory / name for name in ("bench.json", "README.md", *plots)]


def describe(machine: Machine) -> str:
    """One paragraph."""
    where = "virtual machine" if machine.virtual else "machine"
    mitigations = "; ".join(f"{name}: {text}" for name, text in machine.mitigations.items())
    return (
        f"Measured on a {where} with {machine.cores} cores, {machine.cpu}, {', '.join(machine.caches)}; "
        f"Linux {machine.kernel}, BPF JIT {machine.jit}, bcc {machine.bcc}, clang library {machine.clang}, "
        f"Python {machine.python}. Mitigations: {mitigations or 'none needed'}."
    )


def page(report: Report, plots: list[str]) -> str:
    """docs/bench/README.md."""
    when = f"{report.made}, {report.seconds:.0f} s{', a quick run: indicative only' if report.quick else ''}"
    out = [HEAD.format(machine=describe(report.machine), when=when)]
    out.extend(f"![{name.removesuffix('.svg')}]({name})\n" for name in plots)
    for table in tables(report):
        out.append(f"## {table.title}\n\n{markdown(table)}\n")
    said = notes(report)
    if said:
        out.append("## Notes\n\n" + "\n".join(f"- {line}" for line in said) + "\n")
    return "\n".join(out)


def markdown(table: Table) -> str:
    right = ["---" if number < 2 or name == "note" else "---:" for number, name in enumerate(table.columns)]
    lines = [table.columns, tuple(right), *table.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _plots(report: Report) -> dict[str, str]:
    return {
        "live.svg": _live(report.figures),
        "steering.svg": _steering(report.figures),
        "session.svg": _session(report.figures),
        "efficiency.svg": _efficiency(report.figures),
    }


def _value(figure: Figure | None) -> svg.Value | None:
    return None if figure is None else svg.Value(figure.value, figure.low, figure.high)


def _live(figures: list[Figure]) -> str:
    here = [each for each in figures if each.group == "live" and each.size == 60 and each.net_of]
    at = [flows for flows in PEERS_AT if any(each.flows == flows for each in here)]
    cases = dict.fromkeys(each.case for each in here)
    rows = [(case, [_value(results.find(here, "live", case, flows, 60)) for flows in at]) for case in cases]
    names = [f"{svg.short(flows)} flow{'s' if flows > 1 else ''}" for flows in at]
    return svg.bars("A packet through one gateway, one core", "ns, net of XDP drop", names, rows) if rows else ""


def _steering(figures: list[Figure]) -> str:
    series = []
    for case in STEERING:
        points = sorted((each.flows, each.value) for each in figures if each.group == "packet" and each.case == case)
        if len(points) > 1:
            series.append(svg.Line(case, tuple((float(flows), value) for flows, value in points)))
    title, unit = "Steering a packet, by test-run", "ns, net of an empty program"
    return svg.lines(title, unit, "flows in the table", series, logarithmic=True) if series else ""


def _session(figures: list[Figure]) -> str:
    here = [each for each in figures if each.group == "session" and each.unit == "ns a session"]
    rows = [(each.case, [_value(each)]) for each in here]
    return svg.bars("CPU of a short session", "ns, net of generator and wire", ["a session"], rows) if rows else ""


def _efficiency(figures: list[Figure]) -> str:
    """The node count is the end of the case's name."""
    series: dict[str, list[tuple[float, float]]] = {}
    for each in figures:
        if each.group == "scale" and each.case.startswith("efficiency a node, "):
            what, nodes = each.case.removeprefix("efficiency a node, ").rsplit(", ", 1)
            series.setdefault(what, []).append((float(nodes.split()[0]), each.value))
    drawn = [svg.Line(what, tuple(points)) for what, points in series.items()]
    title = "Efficiency a node, modelled from measured costs"
    return svg.lines(title, "% of a gateway by itself", "nodes", drawn) if drawn else ""
