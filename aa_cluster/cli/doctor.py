# SPDX-License-Identifier: GPL-2.0-or-later
"""``aa-cluster doctor``: what stands between this machine and a working node."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from aa_cluster.cli.context import Invocation, json_option
from aa_cluster.errors import AgentUnreachable, DoctorFailed

if TYPE_CHECKING:
    from rich.console import RenderableType

    from aa_cluster import api


@click.command()
@json_option
@click.pass_obj
def doctor(invocation: Invocation) -> None:
    """Check kernel, tools, interfaces and rules; each line passes, warns or fails, with its fix.

    The agent answers when it runs, and compares the rules with the primary's; without an agent the checks run here.
    Exit code 12 when a check fails.
    """
    answer = examine(invocation)
    invocation.show(answer, lambda: render(answer))
    failed = [check.name for check in answer.checks if check.result == "fail"]
    if failed:
        word = "check" if len(failed) == 1 else "checks"
        raise DoctorFailed(f"{len(failed)} {word} failed: {', '.join(failed)}", "each has its fix beside it")


def examine(invocation: Invocation) -> api.Doctor:
    from aa_cluster import api

    config = invocation.config()
    try:
        return invocation.ask("/v1/doctor", api.Doctor)
    except AgentUnreachable:
        from aa_cluster.doctor import run

        return api.Doctor(checks=run(config, None))


def render(answer: api.Doctor) -> RenderableType:
    from rich.text import Text

    from aa_cluster.cli.tables import state, table

    made = table("", "CHECK", "FOUND")
    for check in answer.checks:
        found = Text(check.found)
        if check.fix:
            found.append(f"\n→ {check.fix}", style="yellow")
        made.add_row(state(check.result), check.name, found)
    return made
