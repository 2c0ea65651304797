# SPDX-License-Identifier: GPL-2.0-or-later
"""Two FTP clients with two addresses and one port: ``SERVER FILE FIRST SECOND PORT CONTROL``.

Both say PORT before either fetches, so two helpers expect one translated tuple at once. Prints the sizes that came.
"""

from __future__ import annotations

import ftplib
import json
import socket
import sys

SECONDS = 10.0


def fetch(client: ftplib.FTP, listener: socket.socket, file: str) -> int:
    client.putcmd(f"RETR {file}")
    connection, _ = listener.accept()
    with connection:
        size = 0
        while data := connection.recv(65536):
            size += len(data)
    client.getresp()
    client.voidresp()
    return size


def main() -> None:
    server, file, first, second, port, control = sys.argv[1:]
    pairs = []
    for source in (first, second):
        client = ftplib.FTP(timeout=SECONDS)
        client.connect(server, 21, source_address=(source, int(control)))
        client.login()
        listener = socket.create_server((source, int(port)))
        listener.settimeout(SECONDS)
        client.sendport(source, int(port))
        pairs.append((client, listener))
    print(json.dumps([fetch(*pair, file) for pair in pairs]), flush=True)
    for client, listener in pairs:
        client.quit()
        listener.close()


if __name__ == "__main__":
    main()
