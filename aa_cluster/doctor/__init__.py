# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands between this machine and a working node: one line per check, with its fix.

Nothing is changed. A check that cannot be made says ``skip`` and why; one that meets an error of ours fails with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aa_cluster.api import Check
from aa_cluster.config import Config
from aa_cluster.doctor import election, interfaces, ipv6, kernel, rules
from aa_cluster.doctor.verdict import failed
from aa_cluster.errors import AaError

Group = Callable[[], Iterable[Check]]


def run(config: Config, primary_digest: str | None) -> tuple[Check, ...]:
    """Every check, in this process's network namespace. Blocking, about a second.

    ``primary_digest``: the digest of the primary's rules, ``None`` when there is no primary to ask (or this is it).
    """
    return tuple(
        check
        for name, group in (
            ("kernel", lambda: kernel.checks(config)),
            ("interfaces", lambda: interfaces.checks(config)),
            ("ipv6", lambda: ipv6.checks(config)),
            ("election", lambda: election.checks(config)),
            ("rules", lambda: rules.checks(config, primary_digest)),
        )
        for check in guarded(name, group)
    )


def guarded(name: str, group: Group) -> list[Check]:
    """The checks of a group; when it raises an error of ours, those before it and that error as a failure."""
    done: list[Check] = []
    try:
        done.extend(group())
    except AaError as error:
        done.append(failed(name, error.message, fix=error.hint))
    return done
