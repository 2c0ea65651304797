# SPDX-License-Identifier: GPL-2.0-or-later
"""``aa-cluster keygen``: a new cluster key."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import click

from aa_cluster.cli.context import Invocation


@click.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.pass_obj
def keygen(invocation: Invocation, file: Path | None) -> None:
    """Write a new cluster key to FILE, for its owner's eyes only; copy it to every node.

    FILE is the configuration's cluster.key_file when not given. An existing file is never overwritten.
    """
    target = file or _configured(invocation)
    write(target, secrets.token_hex(32))
    click.echo(f"new cluster key in {target}: copy it to every node of the cluster")


def write(target: Path, key: str) -> None:
    """Create ``target`` with mode 0600 holding ``key``; ``ConfigError`` when it exists or cannot be made."""
    from aa_cluster.errors import ConfigError

    try:
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise ConfigError(
            f"{target} exists already", "keep it, or move it away first: nodes with different keys cannot talk"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"cannot write {target}: {error.strerror}", "name a file in a directory that exists"
        ) from None
    with os.fdopen(handle, "w", encoding="ascii") as stream:
        os.fchmod(stream.fileno(), 0o600)
        stream.write(f"{key}\n")


def _configured(invocation: Invocation) -> Path:
    """The key file of the configuration; the default one when there is no configuration yet."""
    from aa_cluster.config import Cluster

    if invocation.given is None and not invocation.config_path.exists():
        return Cluster(id=1).key_file
    return invocation.config().cluster.key_file
