# SPDX-License-Identifier: GPL-2.0-or-later
"""Datagrams, asked and answered: ``serve PORT`` sends each back, ``ask ADDRESS PORT`` compares.

Every question has a socket of its own, as a resolver's has. ``--size`` 0: a length that differs from one to the next.
"""

from __future__ import annotations

import argparse
import json
import random
import socket

from aa_cluster.topology.traffic.tcp import family_of
from aa_cluster.topology.traffic.udp import Listener


def serve(port: int) -> None:
    with Listener(port) as listener:
        print("ready", flush=True)
        while (asked := listener.take()) is not None:
            listener.answer(asked, asked.payload)


def ask(address: str, port: int, count: int, size: int, timeout: float) -> dict[str, object]:
    """``failed``: what was wrong with each question that did not come back as it was."""
    dice, failed, ports = random.Random(count), [], []
    for number in range(count):
        data = dice.randbytes(size or 1 + number * 13 % 1300)
        with socket.socket(family_of(address), socket.SOCK_DGRAM) as asking:
            asking.settimeout(timeout)
            asking.connect((address, port))
            try:
                asking.send(data)
                answer = asking.recv(65535)
            except OSError as error:
                failed.append(f"question {number} ({len(data)} bytes): {error}")
                continue
            ports.append(asking.getsockname()[1])
            if answer != data:
                failed.append(f"question {number}: {len(answer)} bytes came back, not the {len(data)} that were sent")
    return {"asked": count, "answered": len(ports), "failed": failed, "ports": ports}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("serve", "ask"))
    parser.add_argument("address", nargs="?", default="")
    parser.add_argument("port", type=int)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--size", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=5)
    given = parser.parse_args()
    if given.what == "serve":
        serve(given.port)
    print(json.dumps(ask(given.address, given.port, given.count, given.size, given.timeout)), flush=True)


if __name__ == "__main__":
    main()
