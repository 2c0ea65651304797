# SPDX-License-Identifier: GPL-2.0-or-later
"""``aa-cluster monitor``: events as they happen."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click
import msgspec

from aa_cluster.cli.context import Invocation, json_option

if TYPE_CHECKING:
    from aa_cluster import api

STYLES = {
    "silent": "red",
    "table-full": "red",
    "refused-block": "red",
    "refused-helper": "red",
    "dropped": "red",
    "drain": "yellow",
}


@click.command()
@click.option("--flows", is_flag=True, help="Also when flows begin and end (on the primary; there may be many).")
@click.option("--kind", "kinds", multiple=True, metavar="KIND", help="Only events of this kind; may be repeated.")
@click.option("--node", "nodes", multiple=True, metavar="NODE", help="Only events about this node; may be repeated.")
@click.option(
    "--address", "addresses", multiple=True, metavar="ADDRESS", help="Only events about this address; may be repeated."
)
@click.option("--protocol", type=click.Choice(("tcp", "udp")), help="Of flows: only this protocol.")
@click.option("--family", type=click.Choice(("ipv4", "ipv6")), help="Of flows: only this address family.")
@click.option("--count", type=click.IntRange(1), help="End after so many.")
@json_option
@click.pass_obj
def monitor(
    invocation: Invocation,
    flows: bool,
    kinds: tuple[str, ...],
    nodes: tuple[str, ...],
    addresses: tuple[str, ...],
    protocol: str | None,
    family: str | None,
    count: int | None,
) -> None:
    """Print events as they happen, until interrupted; with -j one JSON object a line.

    \b
    Kinds: join, leave, drain, undrain, silent, heard, weight, schedule, policy, persistence,
           table-full, refused-block, refused-helper, neighbour; with --flows flow-begin, flow-end.

    Every node tells what happens anywhere in the cluster. A reader that is too slow loses events, and is told how many.
    """
    asked = {"kind": ",".join(kinds), "node": ",".join(nodes), "address": ",".join(addresses)}
    asked |= {"protocol": protocol or "", "family": family or ""}
    params = {key: value for key, value in asked.items() if value}
    if flows:
        params["flows"] = "1"
    events = invocation.client().events(params)
    try:
        follow(events, invocation.json, count)
    except KeyboardInterrupt:
        return


def follow(events: Iterable[api.Event], as_json: bool, count: int | None) -> None:
    for number, event in enumerate(events, 1):
        click.echo(msgspec.json.encode(event) if as_json else line(event))
        if number == count:
            return


def line(event: api.Event) -> str:
    """``12:34:56.789  join           node2 has joined``, in local time."""
    clock = time.strftime("%H:%M:%S", time.localtime(event.time))
    kind = click.style(f"{event.event:<13}", fg=STYLES.get(event.event))
    return f"{clock}.{int(event.time * 1000) % 1000:03d}  {kind}  {event.text}"
