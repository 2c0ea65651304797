# SPDX-License-Identifier: GPL-2.0-or-later
"""SYNs that carry data (TCP Fast Open, RFC 7413): ``serve PORT`` echoes, ``send ADDRESS PORT SIZE`` compares.

Without cookies: wants ``net.ipv4.tcp_fastopen`` 0x202 at the server and 0x5 at the client. The kernel keeps SYN data
under the MSS it remembers of the peer, so a large SYN wants a small one before it.
"""

from __future__ import annotations

import argparse
import json
import random
import socket

from aa_cluster.topology.traffic.bulk import exactly
from aa_cluster.topology.traffic.tcp import family_of, listening, retransmits


def serve(port: int) -> None:
    with listening(port) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            with connection:
                size = int.from_bytes(exactly(connection, 2), "big")
                connection.sendall(exactly(connection, size - 2))


def send(address: str, port: int, size: int) -> dict[str, object]:
    """``size`` bytes with the SYN, the first two of which say so; whether the rest came back the same."""
    data = size.to_bytes(2, "big") + random.Random(size).randbytes(size - 2)
    with socket.socket(family_of(address)) as connection:
        connection.settimeout(20)
        connection.sendto(data, socket.MSG_FASTOPEN, (address, port))
        echoed = exactly(connection, size - 2)
        own = connection.getsockname()[1]
        again = retransmits(connection)
    return {"data": data.hex(), "echoed": echoed == data[2:], "port": own, "retransmits": again}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("serve", "send"))
    parser.add_argument("address", nargs="?", default="")
    parser.add_argument("port", type=int)
    parser.add_argument("--size", type=int, default=100)
    given = parser.parse_args()
    if given.what == "serve":
        serve(given.port)
    print(json.dumps(send(given.address, given.port, given.size)), flush=True)


if __name__ == "__main__":
    main()
