# SPDX-License-Identifier: GPL-2.0-or-later
"""Many real HTTP sessions, each a TCP connection of its own: ``ADDRESS PORT --count N [--hold [--every S]]``.

Prints one line of JSON when every session has had its answer; with ``--hold`` keeps all connections open until standard
input ends, so that somebody can look at them meanwhile. With ``--every`` each asks again so often while it is held, and
a second line says how that went. ``--source`` addresses are taken in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import time

from aa_cluster.topology.traffic.tcp import retransmits

REQUEST = b"GET / HTTP/1.1\r\nHost: lab\r\nUser-Agent: lab\r\n\r\n"


class Sessions:
    """``seen``: the server's own line for each session that completed; ``failed``: why others did not."""

    def __init__(self, address: str, port: int, timeout: float, sources: list[str]) -> None:
        self.address, self.port, self.timeout = address, port, timeout
        self.sources = itertools.cycle(sources or [""])
        self.seen: list[str] = []
        self.ports: list[int] = []
        self.failed: list[str] = []
        self.open: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.used: list[str] = []
        self.rounds = 0
        self.slowest = 0.0
        self.over = False

    async def one(self, gate: asyncio.Semaphore, hold: bool) -> None:
        async with gate:
            try:
                async with asyncio.timeout(self.timeout):
                    await self._converse(hold)
            except (OSError, ValueError, asyncio.IncompleteReadError) as error:
                self.failed.append(f"{type(error).__name__}: {error}")

    async def _converse(self, hold: bool) -> None:
        source = next(self.sources)
        local = (source, 0) if source else None
        reader, writer = await asyncio.open_connection(self.address, self.port, local_addr=local)
        try:
            address, port = writer.get_extra_info("sockname")[:2]
            self.used.append(address)
            self.ports.append(port)
            self.seen.append(await ask(reader, writer))
        finally:
            if hold:
                self.open.append((reader, writer))
            else:
                writer.close()
                await writer.wait_closed()

    async def again(self, index: int, every: float) -> None:
        """Session ``index`` asks again and again; a failure ends it."""
        reader, writer = self.open[index]
        await asyncio.sleep(every * index / len(self.open))
        while not self.over:
            start = time.monotonic()
            try:
                async with asyncio.timeout(self.timeout):
                    answer = await ask(reader, writer)
            except (OSError, ValueError, asyncio.IncompleteReadError) as error:
                self.failed.append(f"{type(error).__name__}: {error}")
                return
            if answer not in self.seen:
                self.failed.append(f"another answer: {answer}")
            self.rounds += 1
            self.slowest = max(self.slowest, time.monotonic() - start)
            await asyncio.sleep(every)


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    writer.write(REQUEST)
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise ValueError(f"answer begins {head[:40]!r}")
    length = next(int(part[15:]) for part in head.split(b"\r\n") if part.lower().startswith(b"content-length:"))
    return (await reader.readexactly(length)).decode().strip()


async def run(given: argparse.Namespace) -> None:
    work = Sessions(given.address, given.port, given.timeout, given.source)
    gate, start = asyncio.Semaphore(given.parallel), time.monotonic()
    await asyncio.gather(*(work.one(gate, given.hold) for _ in range(given.count)))
    told = {"asked": given.count, "completed": len(work.seen), "failed": work.failed, "seen": work.seen}
    print(
        json.dumps(told | {"ports": work.ports, "sources": work.used, "seconds": time.monotonic() - start}), flush=True
    )
    if not given.hold:
        return
    busy = (
        [asyncio.create_task(work.again(index, given.every)) for index in range(len(work.open))] if given.every else []
    )
    await asyncio.to_thread(sys.stdin.buffer.read)
    if busy:
        work.over = True
        await asyncio.gather(*busy)
        again = sum(retransmits(writer.get_extra_info("socket")) for _, writer in work.open)
        ended = {"rounds": work.rounds, "failed": work.failed, "slowest": work.slowest, "retransmits": again}
        print(json.dumps(ended), flush=True)
    for _, writer in work.open:
        writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--parallel", type=int, default=16)
    parser.add_argument("--timeout", type=float, default=15.0, help="seconds a session may take")
    parser.add_argument("--hold", action="store_true")
    parser.add_argument("--every", type=float, default=0.0, help="seconds between two requests of a held session")
    parser.add_argument("--source", action="append", default=[], help="local address; may be repeated")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
