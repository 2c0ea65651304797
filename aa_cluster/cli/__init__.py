# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: nouns show, verbs change; one module per verb, imported when it is asked for."""

from __future__ import annotations

from aa_cluster.cli.group import aa_cluster


def main() -> None:
    """Run the command line of this process; ends it with one of the exit codes of errors.py."""
    aa_cluster(prog_name="aa-cluster")


__all__ = ["aa_cluster", "main"]
