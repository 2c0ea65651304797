# SPDX-License-Identifier: GPL-2.0-or-later
"""Much data one way over QUIC with SHA-256 at both ends: ``serve PORT`` and ``send|take ADDRESS PORT --bytes N``.

By aioquic, the only one of these programs that needs more than the standard library. ``send``: the client sends;
``take``: the server does. The receiver answers each chunk with a byte, so that the sender never has more than a few of
them waiting; the digests are compared as in ``bulk``.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import hashlib
import json
import random
import ssl
import time

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

CHUNK = 1 << 18
AHEAD = 16
"""Chunks that are under way or wait to be sent."""
WINDOW = 8 << 20
REQUEST, DIGEST = 64, 64
GOT = b"."


def configuration(client: bool) -> QuicConfiguration:
    made = QuicConfiguration(is_client=client, alpn_protocols=["aa-bulk"], max_data=WINDOW, max_stream_data=WINDOW)
    if client:
        made.verify_mode = ssl.CERT_NONE
    else:
        made.certificate, made.private_key = identity()
    return made


def identity() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate for nobody in particular, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lab")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now - day).not_valid_after(now + day)
    return made.sign(key, hashes.SHA256()), key


async def give(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int, seed: int) -> str:
    """Send ``size`` bytes, no two chunks alike; their digest."""
    base, digest, ahead = random.Random(seed).randbytes(CHUNK), hashlib.sha256(), 0
    for number, start in enumerate(range(0, size, CHUNK)):
        chunk = (number.to_bytes(8, "big") + base[8:])[: size - start]
        digest.update(chunk)
        writer.write(chunk)
        ahead += 1
        if ahead == AHEAD:
            await reader.readexactly(1)
            ahead -= 1
    await reader.readexactly(ahead)
    return digest.hexdigest()


async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int) -> str:
    """Receive ``size`` bytes; their digest."""
    digest = hashlib.sha256()
    while size:
        chunk = await reader.readexactly(min(size, CHUNK))
        digest.update(chunk)
        size -= len(chunk)
        writer.write(GOT)
    return digest.hexdigest()


async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The server's side of one transfer: a request, the data, and the digest of what it saw."""
    way, size, seed = (await reader.readexactly(REQUEST)).split()
    work = give(reader, writer, int(size), int(seed)) if way == b"take" else take(reader, writer, int(size))
    writer.write((await work).encode())
    writer.write_eof()


async def run(way: str, address: str, port: int, size: int, seed: int) -> dict[str, object]:
    """The client's side of one transfer."""
    async with connect(address, port, configuration=configuration(client=True)) as connection:
        reader, writer = await connection.create_stream()
        start = time.monotonic()
        writer.write(f"{way} {size} {seed}".encode().ljust(REQUEST))
        own = await (give(reader, writer, size, seed) if way == "send" else take(reader, writer, size))
        other = (await reader.readexactly(DIGEST)).decode()
        seconds = time.monotonic() - start
        port = port_of(connection)
    sent, received = (own, other) if way == "send" else (other, own)
    return {"bytes": size, "seconds": seconds, "sent": sent, "received": received, "port": port}


def port_of(connection: QuicConnectionProtocol) -> int:
    """aioquic tells nobody where it sends from."""
    transport = connection._transport
    return int(transport.get_extra_info("sockname")[1]) if transport is not None else 0


async def serving(port: int) -> None:
    tasks: set[asyncio.Task[None]] = set()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(session(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    await serve("::", port, configuration=configuration(client=False), stream_handler=begin)
    print("ready", flush=True)
    await asyncio.Future()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("serve", "send", "take"))
    parser.add_argument("address", nargs="?", default="")
    parser.add_argument("port", type=int)
    parser.add_argument("--bytes", type=int, default=100 << 20)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    if given.what == "serve":
        asyncio.run(serving(given.port))
        return
    print(json.dumps(asyncio.run(run(given.what, given.address, given.port, given.bytes, given.seed))), flush=True)


if __name__ == "__main__":
    main()
