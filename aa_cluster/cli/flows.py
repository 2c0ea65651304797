# SPDX-License-Identifier: GPL-2.0-or-later
"""``aa-cluster flows``: the primary's flow table, filtered."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import click

from aa_cluster.cli.context import Invocation, json_option

if TYPE_CHECKING:
    from rich.console import RenderableType

    from aa_cluster import api


def _address(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """An IPv4 or IPv6 address in its shortest spelling."""
    try:
        return None if value is None else str(ipaddress.ip_address(value))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not an IP address", ctx, param) from None


@click.command()
@click.option("--node", metavar="NODE", help="Flows of one owner, by name or id.")
@click.option("--address", callback=_address, metavar="ADDRESS", help="Flows with this address in either tuple.")
@click.option("--port", type=click.IntRange(0, 65535), help="Flows with this port in either tuple.")
@click.option("--family", type=click.Choice(("ipv4", "ipv6")), help="Flows of this address family.")
@click.option("--protocol", type=click.Choice(("tcp", "udp")), help="Flows of this protocol.")
@click.option("--state", metavar="STATE", help="Flows in this state; of UDP: unreplied, answered, stream.")
@click.option(
    "--sort",
    type=click.Choice(("newest", "packets", "bytes")),
    default="newest",
    show_default=True,
    help="What comes first; packets and bytes of both directions, where accounting is on.",
)
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many.")
@json_option
@click.pass_obj
def flows(
    invocation: Invocation,
    node: str | None,
    address: str | None,
    port: int | None,
    family: str | None,
    protocol: str | None,
    state: str | None,
    sort: str,
    limit: int,
) -> None:
    """Show the flows: both tuples as they arrive on the wire, owner, state, age, and what each direction carried.

    Packets and bytes (of IP, headers included) are counted where [flows] accounting is on at the primary.
    """
    from aa_cluster import api

    asked = {"node": node, "address": address, "port": port, "family": family, "protocol": protocol}
    asked |= {"state": state, "limit": limit}
    asked["sort"] = None if sort == "newest" else sort
    params = {key: str(value) for key, value in asked.items() if value is not None}
    answer = invocation.ask("/v1/flows", api.Flows, params)
    invocation.show(answer, lambda: render(answer))


def render(answer: api.Flows) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from aa_cluster.cli.tables import duration, table

    made = table(
        *(
            "PROTO",
            "ORIGINAL",
            "PACKETS",
            "BYTES",
            "REPLY",
            "PACKETS",
            "BYTES",
            "OWNER",
            "STATE",
            "MARK",
            "AGE",
            "IDLE",
        ),
        right=("PACKETS", "BYTES", "MARK", "AGE", "IDLE"),
    )
    for flow in answer.flows:
        made.add_row(
            f"{flow.protocol}/{flow.family}",
            f"{endpoint(flow.source, flow.source_port)} → {endpoint(flow.destination, flow.destination_port)}",
            counted(flow.packets),
            counted(flow.octets),
            f"{endpoint(flow.reply_source, flow.reply_source_port)} → "
            f"{endpoint(flow.reply_destination, flow.reply_destination_port)}",
            counted(flow.reply_packets),
            counted(flow.reply_octets),
            f"{flow.owner_name or '?'} ({flow.owner})",
            flow.phase or flow.state,
            f"{flow.mark:#x}" if flow.mark else "0",
            duration(flow.age),
            duration(flow.idle),
        )
    count = Text(f"{len(answer.flows)} of {answer.total} flows", style="dim")
    return Group(made, count) if answer.flows else count


def counted(value: int | None) -> str:
    return "—" if value is None else str(value)


def endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
