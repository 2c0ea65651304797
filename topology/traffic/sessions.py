# SPDX-License-Identifier: GPL-2.0-or-later
"""Many real HTTP sessions, each a TCP connection of its own: ``ADDRESS PORT --count N [--hold]``.

Prints one line of JSON when every session has had its answer; with ``--hold`` keeps all connections open until standard
input ends, so that somebody can look at them meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time

REQUEST = b"GET / HTTP/1.1\r\nHost: lab\r\nUser-Agent: lab\r\n\r\n"


class Sessions:
    """``seen``: the server's own line for each session that completed; ``failed``: why others did not."""

    def __init__(self, address: str, port: int, timeout: float) -> None:
        self.address, self.port, self.timeout = address, port, timeout
        self.seen: list[str] = []
        self.ports: list[int] = []
        self.failed: list[str] = []
        self.open: list[asyncio.StreamWriter] = []

    async def one(self, gate: asyncio.Semaphore, hold: bool) -> None:
        async with gate:
            try:
                async with asyncio.timeout(self.timeout):
                    await self._converse(hold)
            except (OSError, ValueError, asyncio.IncompleteReadError) as error:
                self.failed.append(f"{type(error).__name__}: {error}")

    async def _converse(self, hold: bool) -> None:
        reader, writer = await asyncio.open_connection(self.address, self.port)
        try:
            self.ports.append(writer.get_extra_info("sockname")[1])
            writer.write(REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                raise ValueError(f"answer begins {head[:40]!r}")
            length = next(int(part[15:]) for part in head.split(b"\r\n") if part.lower().startswith(b"content-length:"))
            self.seen.append((await reader.readexactly(length)).decode().strip())
        finally:
            if hold:
                self.open.append(writer)
            else:
                writer.close()
                await writer.wait_closed()


async def run(given: argparse.Namespace) -> None:
    work = Sessions(given.address, given.port, given.timeout)
    gate, start = asyncio.Semaphore(given.parallel), time.monotonic()
    await asyncio.gather(*(work.one(gate, given.hold) for _ in range(given.count)))
    told = {"asked": given.count, "completed": len(work.seen), "failed": work.failed, "seen": work.seen}
    print(json.dumps(told | {"ports": work.ports, "seconds": time.monotonic() - start}), flush=True)
    if given.hold:
        await asyncio.to_thread(sys.stdin.buffer.read)
        for writer in work.open:
            writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--parallel", type=int, default=16)
    parser.add_argument("--timeout", type=float, default=15.0, help="seconds a session may take")
    parser.add_argument("--hold", action="store_true")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
