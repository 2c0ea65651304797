# SPDX-License-Identifier: GPL-2.0-or-later
"""``aa-cluster policy show|check|reload``: which sessions are shared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from aa_cluster.cli.context import Invocation, json_option

if TYPE_CHECKING:
    from rich.console import RenderableType

    from aa_cluster import api


def _mark(ctx: click.Context, param: click.Parameter, value: str) -> int:
    """32 bits, decimal or hexadecimal with 0x."""
    try:
        number = int(value, 0)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a number like 17 or 0x11", ctx, param) from None
    if not 0 <= number <= 0xFFFF_FFFF:
        raise click.BadParameter(f"{value!r} does not fit 32 bits", ctx, param)
    return number


@click.group()
def policy() -> None:
    """Which sessions are shared and which stay on the primary: show, explain, reload."""


@policy.command()
@json_option
@click.pass_obj
def show(invocation: Invocation) -> None:
    """Show the rules in force, and how many new sessions each has decided."""
    from aa_cluster import api

    answer = invocation.ask("/v1/policy", api.Policy)
    invocation.show(answer, lambda: render(answer))


@policy.command()
@click.argument("source")
@click.argument("destination")
@click.argument("port", type=click.IntRange(0, 65535))
@click.option("--source-port", type=click.IntRange(0, 65535), default=40000, show_default=True)
@click.option("--protocol", default="tcp", show_default=True, help="Name or number; what is not TCP or UDP is kept.")
@click.option("--interface", default="", help="It comes in here; default: the one on whose network SOURCE is.")
@click.option("--connmark", callback=_mark, default="0", metavar="N", help="That the ruleset gives the connection.")
@click.option("--mark", callback=_mark, default="0", metavar="N", help="That the ruleset gives the packet.")
@json_option
@click.pass_obj
def check(
    invocation: Invocation,
    source: str,
    destination: str,
    port: int,
    source_port: int,
    protocol: str,
    interface: str,
    connmark: int,
    mark: int,
) -> None:
    """Explain what happens to a new session from SOURCE to DESTINATION PORT, as the client sends it (before NAT).

    Says which rule decides and why those before it do not match. Sends nothing.
    """
    from aa_cluster import api

    request = api.PolicyCheckRequest(
        source=source,
        source_port=source_port,
        destination=destination,
        destination_port=port,
        protocol=protocol,
        interface=interface,
        connmark=connmark,
        mark=mark,
    )
    answer = invocation.order("/v1/policy/check", request, api.PolicyChecked)
    invocation.show(answer, lambda: explain(answer))


@policy.command()
@json_option
@click.pass_obj
def reload(invocation: Invocation) -> None:
    """Read [policy] of the primary's configuration file again, and put it in force for new sessions, at once.

    A file that is not valid changes nothing. Works on every node of the cluster; it is the primary's file that counts.
    """
    from aa_cluster import api

    answer = invocation.order("/v1/policy/reload", api.PolicyReload(), api.PolicyReloaded)
    invocation.show(answer, lambda: changes(answer))


def render(answer: api.Policy) -> RenderableType:
    from aa_cluster.cli.tables import table

    made = table("RULE", "ACTION", "SESSIONS", "MATCHES", right=("SESSIONS",))
    if answer.keep_mark_in_use:
        made.add_row("keep_mark", "keep", str(answer.keep_mark_hits), f"mark {answer.keep_mark}")
    for row in answer.rules:
        made.add_row(str(row.number), row.action, str(row.hits), row.text.removeprefix(row.action).strip())
    for row in answer.built_in:
        made.add_row("built in", row.action, str(row.hits), row.text.removeprefix(row.action).strip())
    made.add_row("default", answer.default, str(answer.default_hits), "everything else")
    return made


def explain(answer: api.PolicyChecked) -> RenderableType:
    from rich.text import Text

    word = "shared" if answer.action == "share" else "stays on the primary"
    said = Text(word, style="bold").append(f": {answer.why}", style="not bold")
    for line in answer.mismatches:
        said.append(f"\n  {line}", style="not bold dim")
    for line in answer.notes:
        said.append(f"\n  note: {line}", style="not bold")
    return said


def changes(answer: api.PolicyReloaded) -> RenderableType:
    from rich.text import Text

    lines = [*answer.changes] or [f"nothing has changed in [policy] of {answer.path}"]
    if answer.not_taken:
        lines.append(f"not taken while the agent runs: {', '.join(f'[{one}]' for one in answer.not_taken)}")
    return Text("\n".join(lines))
