# SPDX-License-Identifier: GPL-2.0-or-later
"""An FTP server on a host of the lab (vsftpd), and many clients of it on another."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from aa_cluster.errors import LabError
from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab

PORT = 21
USER = "ftp"  # Debian's package makes it
CONFIG = """\
listen=YES
background=NO
anonymous_enable=YES
no_anon_password=YES
local_enable=NO
write_enable=YES
anon_upload_enable=YES
anon_umask=022
anon_root={root}
secure_chroot_dir={empty}
connect_from_port_20=YES
pasv_enable=YES
use_localtime=NO
xferlog_enable=NO
seccomp_sandbox=NO
"""


@dataclass(frozen=True, slots=True)
class Site:
    """What a server offers. ``files``: name → SHA-256 of what can be fetched; clients store in ``incoming``."""

    files: Mapping[str, str]
    incoming: Path

    def stored(self) -> dict[str, str]:
        """Name → SHA-256 of what clients have stored."""
        return {path.name: _digest(path) for path in self.incoming.iterdir()}


class Transfer(msgspec.Struct, frozen=True):
    """One file's data session, as the client's socket had it; ``control``: the local port of its control session."""

    control: int
    file: str
    local: tuple[str, int]
    peer: tuple[str, int]


class Report(msgspec.Struct, frozen=True):
    """``stored``: name → SHA-256 of what was sent; ``wrong``: files that came with other bytes."""

    controls: list[int]
    transfers: list[Transfer]
    stored: dict[str, str]
    wrong: list[str]
    failed: list[str]
    seconds: float


@contextmanager
def serving(lab: Lab, host: str, sizes: Sequence[int], passive: tuple[int, int] | None = None) -> Iterator[Site]:
    """vsftpd in the host's namespace, with one file of each size (bytes), until the block ends.

    ``passive``: first and last of the ports it listens on for data sessions; else any above 1023.
    """
    if shutil.which("vsftpd") is None:
        raise LabError("an FTP server is needed: vsftpd is not installed", "apt-get install vsftpd, or `make setup`")
    run = lab.plan.run / f"ftp-{host}"
    site = _furnish(run, sizes)
    config = run / "vsftpd.conf"
    ports = "" if passive is None else f"pasv_min_port={passive[0]}\npasv_max_port={passive[1]}\n"
    config.write_text(CONFIG.format(root=run / "root", empty=run / "empty") + ports)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = lab.popen(host, ["vsftpd", str(config)], start_new_session=True, **quiet)
    try:
        until(f"vsftpd on {host}", lambda: _listens(lab, host), 10)
        yield site
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # with the processes it has for its sessions
        server.wait(10)
        shutil.rmtree(run, ignore_errors=True)


def _furnish(run: Path, sizes: Sequence[int]) -> Site:
    chance = random.Random(21)
    root, incoming = run / "root", run / "root" / "incoming"
    (run / "empty").mkdir(parents=True)
    incoming.mkdir(parents=True)
    account = pwd.getpwnam(USER)
    os.chown(incoming, account.pw_uid, account.pw_gid)
    files = {}
    for number, size in enumerate(sizes):
        content = chance.randbytes(size)
        (root / f"file{number}").write_bytes(content)
        files[f"file{number}"] = hashlib.sha256(content).hexdigest()
    return Site(files, incoming)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _listens(lab: Lab, host: str) -> bool:
    done = lab.exec(host, ["ss", "-Htln", f"sport = :{PORT}"])
    return bool(done.stdout.strip())


def sessions(lab: Lab, host: str, address: str, site: Site, count: int, *, active: bool, timeout: float = 60) -> Report:
    """``count`` control sessions at once from the host, each fetching all files and storing them again."""
    command = [sys.executable, "-m", "aa_cluster.topology.traffic.ftp", address, "--sessions", str(count)]
    command += ["--active"] if active else []
    given = json.dumps(dict(site.files))
    done = lab.exec(host, command, input=given, timeout=timeout)
    if done.returncode:
        raise LabError(f"the FTP clients on {host} failed: {done.stderr.strip()[-400:]}")
    return msgspec.json.decode(done.stdout, type=Report)


__all__ = ["PORT", "Report", "Site", "Transfer", "serving", "sessions"]
