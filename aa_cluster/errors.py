# SPDX-License-Identifier: GPL-2.0-or-later
"""Every error aa-cluster raises on purpose.

::

    AaError (1)
    ├── UsageError (2)          a command line that makes no sense
    ├── ConfigError (3)         the configuration file
    ├── AgentUnreachable (4)    no agent answers on the Unix socket
    ├── JoinRefused (5)         the cluster does not take this node, and why
    ├── StateError (6)          asked of a node that is not in the state for it
    ├── DataplaneError (7)      BPF programs, maps, attachments
    │   └── KernelTooOld (8)    a capability this kernel lacks
    ├── NetlinkError (9)        links, neighbours, conntrack
    ├── LabError (10)           the namespace lab
    ├── TimeoutReached (11)     a deadline passed before the thing asked for
    ├── DoctorFailed (12)       at least one check of ``doctor`` failed
    └── WireError (13)          bytes that are not what they claim to be

The number is the exit code of the CLI. A message says what was found and what was expected;
``hint`` says what to do.
"""

from __future__ import annotations


class AaError(Exception):
    """The root. ``message``: what was found and expected; ``hint``: what to do about it."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class UsageError(AaError):
    exit_code = 2


class ConfigError(AaError):
    exit_code = 3


class AgentUnreachable(AaError):
    exit_code = 4


class JoinRefused(AaError):
    """``findings``: one line per difference between this node and the cluster."""

    exit_code = 5

    def __init__(self, message: str, hint: str = "", findings: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint)
        self.findings = findings

    def __str__(self) -> str:
        return "\n  ".join(filter(None, (self.message, *(f"- {one}" for one in self.findings), self.hint)))


class StateError(AaError):
    exit_code = 6


class DataplaneError(AaError):
    exit_code = 7


class KernelTooOld(DataplaneError):
    exit_code = 8


class NetlinkError(AaError):
    exit_code = 9


class LabError(AaError):
    exit_code = 10


class TimeoutReached(AaError):
    exit_code = 11


class DoctorFailed(AaError):
    exit_code = 12


class WireError(AaError):
    exit_code = 13


BY_EXIT_CODE: dict[int, type[AaError]] = {
    cls.exit_code: cls
    for cls in (
        AaError,
        UsageError,
        ConfigError,
        AgentUnreachable,
        JoinRefused,
        StateError,
        DataplaneError,
        KernelTooOld,
        NetlinkError,
        LabError,
        TimeoutReached,
        DoctorFailed,
        WireError,
    )
}
