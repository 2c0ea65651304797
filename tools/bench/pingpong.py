# SPDX-License-Identifier: GPL-2.0-or-later
"""One small message there and back over TCP, again and again: ``serve PORT`` and ``ask ADDRESS PORT ROUNDS``.

``serve`` prints ``ready``; ``ask`` prints the round trips as a JSON list of ns, those of the first tenth left out.
"""

from __future__ import annotations

import json
import socket
import sys
import time

MESSAGE = b"x" * 64


def serve(port: int) -> None:
    with socket.create_server(("", port)) as server:
        print("ready", flush=True)
        while True:
            connection, _ = server.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while data := connection.recv(4096):
                    connection.sendall(data)


def ask(address: str, port: int, rounds: int) -> list[int]:
    """ns of each round trip."""
    took = []
    with socket.create_connection((address, port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(rounds):
            start = time.perf_counter_ns()
            connection.sendall(MESSAGE)
            left = len(MESSAGE)
            while left:
                data = connection.recv(left)
                if not data:
                    raise ConnectionError("the server closed the connection")
                left -= len(data)
            took.append(time.perf_counter_ns() - start)
    return took[rounds // 10 :]


def main() -> None:
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        print(json.dumps(ask(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))


if __name__ == "__main__":
    main()
