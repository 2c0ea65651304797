# SPDX-License-Identifier: GPL-2.0-or-later
"""Many FTP clients at once: ``ADDRESS --sessions N [--active]``; on standard input ``{file: SHA-256}``.

Each opens a control session; when all are logged in, each fetches every file and stores it again as
``incoming/SESSION-FILE``. Prints one line of JSON, the fields of ``aa_cluster.topology.ftp.Report``.
"""

from __future__ import annotations

import argparse
import ftplib
import hashlib
import io
import json
import socket
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

SECONDS = 30.0
"""A session that hears nothing for so long has failed."""


class Told:
    """What all sessions have to say; appending needs no lock."""

    def __init__(self) -> None:
        self.controls: list[int] = []
        self.transfers: list[dict[str, object]] = []
        self.stored: dict[str, str] = {}
        self.wrong: list[str] = []
        self.failed: list[str] = []


class Client(ftplib.FTP):
    """Notes the addresses of every data session.

    ``told``: where to; ``moving``: the file on its way; ``passive``: where the server listens, or did last.
    """

    told: Told
    moving = ""
    passive: tuple[str, int] | None = None

    def makepasv(self) -> tuple[str, int]:
        self.passive = super().makepasv()
        return self.passive

    def ntransfercmd(self, cmd: str, rest: int | str | None = None) -> tuple[socket.socket, int | None]:
        connection, size = super().ntransfercmd(cmd, rest)
        self.told.transfers.append(
            {
                "control": self.sock.getsockname()[1],  # type: ignore[union-attr]
                "file": self.moving,
                "local": connection.getsockname()[:2],
                "peer": connection.getpeername()[:2],
            }
        )
        return connection, size


def session(
    number: int, address: str, active: bool, files: Mapping[str, str], gate: threading.Barrier, told: Told
) -> None:
    client = Client(timeout=SECONDS)
    client.told = told
    try:
        client.connect(address, 21)
        client.login()
        client.set_pasv(not active)
        told.controls.append(client.sock.getsockname()[1])  # type: ignore[union-attr]
        gate.wait(SECONDS)
        for file, digest in files.items():
            move(client, number, file, digest, told)
        client.quit()
    except (OSError, EOFError, ftplib.Error, threading.BrokenBarrierError) as error:
        own = client.sock.getsockname()[1] if client.sock else "none"
        why = f"{type(error).__name__}: {error}; control port {own}, passive {client.passive}"
        told.failed.append(f"session {number}, {client.moving}: {why}")
        gate.abort()
    finally:
        client.close()


def move(client: Client, number: int, file: str, digest: str, told: Told) -> None:
    """There and back."""
    content = io.BytesIO()
    client.moving = file
    client.retrbinary(f"RETR {file}", content.write)
    if hashlib.sha256(content.getvalue()).hexdigest() != digest:
        told.wrong.append(f"{number}-{file}: {len(content.getvalue())} bytes")
    name = f"{number}-{file}"
    content.seek(0)
    client.storbinary(f"STOR incoming/{name}", content)
    told.stored[name] = digest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("--sessions", type=int, default=1)
    parser.add_argument("--active", action="store_true", help="the server opens the data sessions")
    given = parser.parse_args()
    files: dict[str, str] = json.load(sys.stdin)
    told, gate, start = Told(), threading.Barrier(given.sessions), time.monotonic()
    with ThreadPoolExecutor(given.sessions) as pool:
        all_of_them = [
            pool.submit(session, number, given.address, given.active, files, gate, told)
            for number in range(given.sessions)
        ]
    for one in all_of_them:
        one.result()
    print(json.dumps(vars(told) | {"seconds": time.monotonic() - start}), flush=True)


if __name__ == "__main__":
    main()
