# SPDX-License-Identifier: GPL-2.0-or-later
"""Tell systemd how we are: sd_notify(3), datagrams on a Unix socket. Without systemd nothing happens."""

from __future__ import annotations

import socket
from collections.abc import Mapping


class Notifier:
    """``environment``: where NOTIFY_SOCKET and WATCHDOG_USEC are looked up."""

    def __init__(self, environment: Mapping[str, str], pid: int) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._watchdog = _watchdog_seconds(environment, pid)

    @property
    def watchdog_interval(self) -> float | None:
        """Seconds between two ``alive()``: half of what systemd waits; None when it does not watch."""
        return self._watchdog / 2 if self._watchdog else None

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={status}")

    def status(self, text: str) -> None:
        self._send(f"STATUS={text}")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        name = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            try:
                sock.sendto(text.encode(), name)
            except OSError:
                return  # the supervisor is gone or full: nothing to tell it to, and no reason to stop


def _watchdog_seconds(environment: Mapping[str, str], pid: int) -> float:
    text = environment.get("WATCHDOG_USEC", "")
    meant = environment.get("WATCHDOG_PID", str(pid))
    return int(text) / 1e6 if text.isdigit() and meant == str(pid) else 0.0
