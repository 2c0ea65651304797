# SPDX-License-Identifier: GPL-2.0-or-later
"""An FTP client that says PASV again and again, and never comes: ``SERVER``.

Until it is told of a second port; prints the first and the last, and stays until standard input ends.
"""

from __future__ import annotations

import ftplib
import json
import sys

SECONDS = 10.0
MOST = 50


def main() -> None:
    (server,) = sys.argv[1:]
    with ftplib.FTP(server, timeout=SECONDS) as client:
        client.login()
        ports = [client.makepasv()[1]]
        while ports[-1] == ports[0] and len(ports) < MOST:
            ports.append(client.makepasv()[1])
        print(json.dumps([ports[0], ports[-1]]), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
