# SPDX-License-Identifier: GPL-2.0-or-later
"""Much data one way with SHA-256 at both ends: ``serve PORT`` and ``send|take ADDRESS PORT BYTES``.

``send``: the client sends; ``take``: the server sends. The sender closes with the digest of what it sent, the receiver
compares it with the digest of what came, and the server's word goes back to the client.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import socket
import time

from aa_cluster.topology.traffic.tcp import retransmits, serve

CHUNK = 1 << 20


def give(connection: socket.socket, size: int, seed: int) -> str:
    """Send ``size`` bytes (no two chunks alike), then their digest; the digest."""
    base, digest = random.Random(seed).randbytes(CHUNK), hashlib.sha256()
    for number, start in enumerate(range(0, size, CHUNK)):
        chunk = (number.to_bytes(8, "big") + base[8:])[: size - start]
        digest.update(chunk)
        connection.sendall(chunk)
    connection.sendall(digest.hexdigest().encode())
    return digest.hexdigest()


def take(connection: socket.socket, size: int) -> tuple[str, str]:
    """Receive ``size`` bytes and the sender's digest: (what came, what was sent)."""
    buffer, digest = memoryview(bytearray(CHUNK)), hashlib.sha256()
    while size:
        count = connection.recv_into(buffer[: min(size, CHUNK)])
        if count == 0:
            raise ConnectionError(f"the connection ended with {size} bytes to come")
        digest.update(buffer[:count])
        size -= count
    return digest.hexdigest(), exactly(connection, 64).decode()


def exactly(connection: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        more = connection.recv(size - len(got))
        if not more:
            raise ConnectionError(f"the connection ended, {size - len(got)} bytes missing")
        got += more
    return got


def session(connection: socket.socket) -> None:
    """The server's side of one transfer: a request of 64 bytes, then the data, then 64 + 10 bytes of what it saw."""
    way, size, seed = exactly(connection, 64).split()
    seen = give(connection, int(size), int(seed)) if way == b"take" else take(connection, int(size))[0]
    connection.sendall(seen.encode() + b"%010d" % retransmits(connection))


def run(way: str, address: str, port: int, size: int, seed: int) -> dict[str, object]:
    """The client's side of one transfer; both digests, seconds, and segments sent again by either end."""
    with socket.create_connection((address, port), timeout=30) as connection:
        start = time.monotonic()
        connection.sendall(f"{way} {size} {seed}".encode().ljust(64))
        if way == "send":
            sent, received = give(connection, size, seed), ""
        else:
            received, sent = take(connection, size)
        server = exactly(connection, 64).decode()
        again = int(exactly(connection, 10)) + retransmits(connection)
        sent, received = (sent, server) if way == "send" else (server, received)
        seconds = time.monotonic() - start
        return {"bytes": size, "seconds": seconds, "sent": sent, "received": received, "retransmits": again}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("serve", "send", "take"))
    parser.add_argument("address", nargs="?", default="")
    parser.add_argument("port", type=int)
    parser.add_argument("--bytes", type=int, default=1 << 30)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    if given.what == "serve":
        serve(given.port, session)
    print(json.dumps(run(given.what, given.address, given.port, given.bytes, given.seed)), flush=True)


if __name__ == "__main__":
    main()
