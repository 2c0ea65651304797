# SPDX-License-Identifier: GPL-2.0-or-later
"""``aa-cluster sync status|resync``: what the other nodes have of the primary's flow table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from aa_cluster.cli.context import Invocation, json_option

if TYPE_CHECKING:
    from rich.console import RenderableType

    from aa_cluster import api


@click.group()
def sync() -> None:
    """What the other nodes have of the primary's flow table ([replication] of the configuration)."""


@sync.command()
@json_option
@click.pass_obj
def status(invocation: Invocation) -> None:
    """Show for each node how far it is behind, what was lost and sent again, and whether its table is the primary's.

    LAG is in entries of the journal, and for how long there were some. DIGEST tells of the last comparison.
    """
    from aa_cluster import api

    answer = invocation.ask("/v1/sync", api.Sync)
    invocation.show(answer, lambda: render(answer))


@sync.command()
@click.argument("node", required=False, default="")
@json_option
@click.pass_obj
def resync(invocation: Invocation, node: str) -> None:
    """Let NODE (name or id), or all auxiliaries, compare its whole table and have told again what differs.

    Sessions are not touched, and the node stays ready to take over meanwhile.
    """
    from aa_cluster import api

    answer = invocation.order("/v1/sync/resync", api.ResyncRequest(node=node), api.Resynced)
    invocation.show(answer, lambda: resynced(answer))


def render(answer: api.Sync) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from aa_cluster.cli.tables import table

    if answer.mode == "off":
        return Text("replication is off ([replication] mode)", style="dim")
    said = (
        f"mode: {answer.mode}; journal {answer.journal} entries, {answer.pending} pending; "
        f"{answer.records} records in {answer.frames} frames, {answer.resent} sent again"
    )
    if answer.skipped:
        said += f", {answer.skipped} too late to send"
    right = ("ID", "FLOWS", "LAG", "LOST", "RESENT", "REFUSED", "VERIFIED", "SYNCED")
    made = table("ID", "NODE", "STATE", *right[1:3], "DIGEST", *right[3:], right=right)
    for row in answer.nodes:
        made.add_row(
            str(row.id),
            row.name,
            row.state,
            str(row.flows),
            "-" if row.state == "source" else f"{row.lag} / {row.lag_ms} ms",
            digest(row),
            *(str(count) if row.state != "source" else "-" for count in (row.lost, row.resent, row.refused)),
            ago(row.verified),
            ago(row.synced) if row.took is None else f"{ago(row.synced)}, in {row.took:.1f} s",
        )
    return Group(Text(said), made)


def digest(row: api.SyncRow) -> str:
    if row.differing is None:
        return "-"
    return "equal" if not row.differing else f"{row.differing} blocks differ"


def ago(seconds: float | None) -> str:
    from aa_cluster.cli.tables import duration

    return "-" if seconds is None else f"{duration(seconds)} ago"


def resynced(answer: api.Resynced) -> RenderableType:
    from rich.text import Text

    said = [f"begins anew: {', '.join(answer.nodes)}"] if answer.nodes else []
    said += [f"does not answer: {', '.join(answer.silent)}"] if answer.silent else []
    return Text("\n".join(said) or "there is no auxiliary")
