# SPDX-License-Identifier: GPL-2.0-or-later
"""``aa-cluster config check`` and ``aa-cluster config show``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from aa_cluster.cli.context import Invocation, json_option

if TYPE_CHECKING:
    from aa_cluster.config import Config

EXAMPLE = """\
# aa-cluster configuration, the same on every node except [node]. Values shown commented are the defaults.

[cluster]
id = 1                                          # 1-65535: keeps clusters apart that share a segment
# key_file = "/etc/aa-cluster/cluster.key"      # aa-cluster keygen; the same file on every node

[node]
name = "gw1"                                    # unique in the cluster; its id stays with the name
# weight = 1                                    # 0-100: share of new sessions, until `aa-cluster weight`

[ha]
interface = "eth2"                              # the dedicated link between the nodes, with an IPv4 address of its own
# port = 4201                                   # UDP
# heartbeat_ms = 500                            # between two words of each agent
# silent_ms = 1500                              # agent silent for so long: no new sessions; at least three heartbeats
# pulse_ms = 60                                 # every link of every node is asked so often
# dead_ms = 150                                 # no answer for so long: its sessions are taken over
# forget_s = 3600                               # a node that stays dead for so long is no member any more

[data]
interfaces = ["eth0", "eth1"]                   # carry user traffic; same names, order and addresses on every node
# virtual_macs = { eth0 = "02:aa:00:01:00:00" } # when the derived ones (02:aa:<cluster id>:00:<slot>) do not suit
# xdp = "auto"                                  # auto | native | generic
# flow_table_size = 262144                      # flows; preallocated

[schedule]
# kind = "weighted"                             # weighted | round-robin (ignores weights except 0) |
                                                # least-connections | source-hash | random

[persistence]
# enabled = false                               # a client keeps its node …
# idle_s = 300                                  # … until none of its sessions has begun for so long
# prefix_v4 = 32                                # what one client is
# prefix_v6 = 128
# size = 65536                                  # clients remembered; preallocated

[policy]
# rules = []                                    # which sessions are shared: the first rule that matches decides, like
#                                               #   { action = "keep", protocol = "udp", ports = "5060-5061" }
# default = "share"                             # share | keep
# keep_mark = "0x0/0x0"                         # connmark or packet mark with which the ruleset keeps a session
# keep_short_exchanges = true                   # UDP to ports 53 and 123 stays on the primary, unless a rule says else
# share_helpers = false                         # also sessions with a conntrack helper (ftp); the same on every node

[flows]
# half_open_share = 0.25                        # of the table, for flows whose handshake is not complete
# accounting = false                            # count packets and bytes of each flow

[election]                                      # the same on every node
# kind = "static"                               # static: a dead primary is not replaced | keepalived
# interface = ""                                # data interface of the second VRRP path; "": the first
# advert_ms = 20                                # silent for three of these and a little: gone on that path
# settle_ms = 20                                # so long all paths must agree
# router_id = 0                                 # VRRP's; 0: follows from cluster.id

[replication]                                   # the same on every node
# mode = "all"                                  # all | takeover (established only) | periodic | off
# interval_ms = 20                              # what no new session takes along is sent after so long
# verify_s = 10                                 # digests are compared so often

[paths]
# run = "/run/aa-cluster"                       # the agent's socket
# state = "/var/lib/aa-cluster"                 # role, ids, generation: what a restart needs
# pins = "/sys/fs/bpf/aa-cluster"               # pinned programs and maps

[log]
# level = "info"                                # debug | info | warning | error
# format = "text"                               # text | json
"""


@click.group()
def config() -> None:
    """Check or show the configuration."""


@config.command()
@json_option
@click.pass_obj
def check(invocation: Invocation) -> None:
    """Read the configuration and the cluster key; say what is wrong, if anything.

    Looks at the files only; `aa-cluster doctor` looks at the machine.
    """
    from aa_cluster.config import load_key

    read = invocation.config()
    load_key(read.cluster.key_file)
    click.echo(_json(read) if invocation.json else f"{invocation.config_path}: fine, and so is {read.cluster.key_file}")


@config.command()
@click.option("--example", is_flag=True, help="An annotated example instead, to start from.")
@json_option
@click.pass_obj
def show(invocation: Invocation, example: bool) -> None:
    """Print the effective configuration, defaults included, as TOML (or JSON)."""
    if example:
        click.echo(EXAMPLE, nl=False)
        return
    read = invocation.config()
    click.echo(_json(read) if invocation.json else toml(read), nl=invocation.json)


def _json(read: Config) -> bytes:
    """``{"version": 1, "kind": "config", …}``: the sections as in the file."""
    return msgspec.json.encode({"version": 1, "kind": "config", **builtins(read)})


def toml(read: Config) -> str:
    """The configuration as a file that ``load`` reads back as equal."""
    parts = []
    for section, values in builtins(read).items():
        lines = [f"{key} = {_value(value)}" for key, value in values.items() if value != {}]
        parts.append("\n".join([f"[{section}]", *lines, ""]))
    return "\n".join(parts)


def builtins(read: Config) -> dict[str, dict[str, object]]:
    """Sections, keys and plain values."""
    made: dict[str, dict[str, object]] = msgspec.to_builtins(read, enc_hook=str)
    return made


def _value(value: object) -> str:
    """One TOML value. TOML's basic strings, arrays and numbers are written as JSON's."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_value(key)} = {_value(one)}" for key, one in value.items()) + " }"
    return msgspec.json.encode(value).decode()
