# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames out of nowhere: send any bytes from an interface of any namespace."""

from __future__ import annotations

import socket
from pathlib import Path

from aa_cluster.topology.namespaces import inside

BROADCAST = "ff:ff:ff:ff:ff:ff"


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def arp_frame(
    opcode: int,
    sender: tuple[str, str],
    target: tuple[str, str],
    source: str | None = None,
    destination: str = BROADCAST,
) -> bytes:
    """An ARP frame; ``sender`` and ``target`` are (MAC, IPv4 address), ``source`` defaults to the sender's MAC."""
    head = mac(destination) + mac(source or sender[0]) + b"\x08\x06"
    fixed = bytes((0, 1, 8, 0, 6, 4, 0, opcode))
    return head + fixed + b"".join(mac(hardware) + socket.inet_aton(address) for hardware, address in (sender, target))


def send(namespace: Path, interface: str, *frames: bytes) -> None:
    """Out of ``interface``, as they are."""

    def work() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
            out.bind((interface, 0))
            for frame in frames:
                out.send(frame)

    inside(namespace, work)
