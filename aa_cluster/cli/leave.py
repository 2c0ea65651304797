# SPDX-License-Identifier: GPL-2.0-or-later
"""``aa-cluster leave``: out of the cluster without cutting a session."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click
import msgspec

from aa_cluster.cli.context import Invocation, json_option, of_kind
from aa_cluster.errors import AgentUnreachable

if TYPE_CHECKING:
    from aa_cluster import api


@click.command()
@click.option(
    "--timeout", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Seconds for sessions to end."
)
@click.option("--force", is_flag=True, help="Leave even when the primary does not answer.")
@click.option("--now", is_flag=True, help="The primary takes over the running sessions: nobody waits for their end.")
@json_option
@click.pass_obj
def leave(invocation: Invocation, timeout: float, force: bool, now: bool) -> None:
    """Leave the cluster: no new sessions at once, out when the running ones have ended.

    Afterwards MACs, filters, programs and pins are as they were before `aa-cluster join`. With -j, one line of JSON for
    each report.
    """
    from aa_cluster import api

    answers = invocation.client().stream("/v1/leave", api.LeaveRequest(timeout=timeout, force=force, now=now))
    follow(invocation, (of_kind(answer, api.Leaving) for answer in answers))


def follow(invocation: Invocation, reports: Iterable[api.Leaving]) -> None:
    """Print the reports as they come; ``AgentUnreachable`` when they end before the node is out."""
    shown = None
    last = None
    for last in reports:
        if invocation.json:
            click.echo(msgspec.json.encode(last))
        elif last.done:
            click.echo(f"left the cluster; detached: {', '.join(last.detached) or 'nothing'}")
        elif last.sessions != shown:
            shown = last.sessions
            click.echo(f"draining: {shown} sessions left")
    if last is None or not last.done:
        raise AgentUnreachable(
            "the agent stopped answering before the node was out", "see its log, then `aa-cluster status`"
        )
