# SPDX-License-Identifier: GPL-2.0-or-later
"""keepalived as a child: its configuration written, its process started and found again, its word read from its FIFO.

It moves no address: an instance must have one, so each gets one of TEST-NET-1 (RFC 5737) on the loopback interface.
Like the dataplane it outlives the agent; what it says meanwhile waits in the FIFO. Its configuration never changes
while it runs, for a reload shakes the election: what changes is a file it watches, whose number is added to its
priority.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aa_cluster import log
from aa_cluster.agent.tasks import pause
from aa_cluster.core.election import PathState
from aa_cluster.errors import StateError

PROGRAM = "keepalived"
END_SECONDS = 2.0
WATCH_SECONDS = 1.0
RANKS = 12
"""Priorities that differ; nodes whose ids differ by so many share one, and VRRP decides by address."""

CHOSEN, ORDINARY, RESIGNED = 150, 0, -254
"""What is added to the priority: of the primary; of an auxiliary; of who lets go."""

HIGHEST, STEP = 100, 8
"""The priorities of auxiliaries that have the whole flow table, by rank."""

_STATES: dict[str, PathState] = {"BACKUP": "backup", "MASTER": "master", "FAULT": "fault", "STOP": "unknown"}
_WORD = re.compile(r'^INSTANCE "(?P<path>[a-z]+)" (?P<state>[A-Z]+) \d+$')

_CONFIGURATION = """\
global_defs {{
    router_id {name}
    vrrp_version 3
    vrrp_notify_fifo {fifo}
    vrrp_rt_priority 20
    vrrp_rlimit_rttime 1000000
    script_user root
}}
track_file part {{
    file {part}
    weight 1
    init_file {ordinary}
}}
{instances}"""

_INSTANCE = """\
vrrp_instance {path} {{
    state BACKUP
    interface {interface}
    mcast_src_ip {source}
    virtual_router_id {router}
    priority {priority}
    advert_int {interval}
    track_file {{
        part
    }}
    virtual_ipaddress {{
        192.0.2.{number}/32 dev lo scope host
    }}
}}
"""

_log = log.get("election")


@dataclass(frozen=True, slots=True)
class Ballot:
    """What a node's keepalived is told. ``source``: the node's address on the HA link, on every path the source of its
    advertisements, since the data networks' address is the same on all nodes. ``interval`` in s."""

    name: str
    node_id: int
    ha: str
    data: str
    source: str
    router: int
    interval: float


def ahead(node_id: int) -> int:
    """What is added to the priority of the one that the primary hands over to: above all auxiliaries, below a primary
    that has not let go."""
    return (HIGHEST + CHOSEN) // 2 - _priority(node_id)


def behind(node_id: int) -> int:
    """What is added to the priority of an auxiliary that does not have the flow table yet: below all that have it, and
    among such nodes the order stays."""
    return max(1, RANKS - 1 - _rank(node_id)) - _priority(node_id)


def _rank(node_id: int) -> int:
    return (node_id - 1) % RANKS


def _priority(node_id: int) -> int:
    return HIGHEST - STEP * _rank(node_id)


def configuration(ballot: Ballot, fifo: Path, part: Path) -> str:
    """keepalived.conf. Whoever has the higher priority wins, on every path the same one, and the primary's is above all
    others': nobody takes the role from who lives."""
    instances = "".join(
        _INSTANCE.format(
            path=path,
            interface=interface,
            source=ballot.source,
            router=ballot.router,
            priority=_priority(ballot.node_id),
            interval=f"{ballot.interval:.2f}",
            number=number,
        )
        for number, (path, interface) in enumerate((("ha", ballot.ha), ("data", ballot.data)), 1)
    )
    return _CONFIGURATION.format(name=ballot.name, fifo=fifo, part=part, ordinary=ORDINARY, instances=instances)


def heard(line: str) -> tuple[str, PathState] | None:
    """(path, state) of one line of the FIFO; None for what is not about a state."""
    word = _WORD.match(line.strip())
    if word is None or word["state"] not in _STATES:
        return None
    return word["path"], _STATES[word["state"]]


class Keepalived:
    """One process below ``run``. ``on_word(path, state)`` is called on the event loop.

    ``run_for`` starts it unless it runs; ``play`` says what is added to its priority; ``stop`` ends it: it says goodbye
    on every path. Every ``interval`` s it is looked after.
    """

    def __init__(
        self,
        run: Path,
        on_word: Callable[[str, PathState], None],
        program: str = PROGRAM,
        interval: float = WATCH_SECONDS,
    ) -> None:
        self._run = run
        self._on_word = on_word
        self._program = program
        self._interval = interval
        self._fifo = run / "keepalived.fifo"
        self._conf = run / "keepalived.conf"
        self._part = run / "keepalived.part"
        self._reader = -1
        self._rest = b""
        self._ballot: Ballot | None = None
        self._watch: asyncio.Task[None] | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self.trouble = ""

    async def run_for(self, ballot: Ballot) -> None:
        """``StateError`` when it is not installed."""
        if shutil.which(self._program) is None:
            raise StateError(
                "keepalived is not installed", 'apt-get install keepalived, or set [election] kind = "static"'
            )
        self._ballot = ballot
        self._listen()
        changed = self._write(configuration(ballot, self._fifo, self._part))
        if changed:
            await self._end()
        if self._pid() is None:
            self._spawn()
        if self._watch is None:
            self._watch = asyncio.get_running_loop().create_task(self._supervise(), name="keepalived")

    def play(self, part: int) -> None:
        """In force at once."""
        aside = self._part.with_suffix(".new")
        aside.write_text(f"{part}\n", "ascii")
        aside.replace(self._part)

    async def stop(self) -> None:
        """Its last advertisement has priority 0, so that others need not wait for its silence."""
        self._ballot = None
        self.forget()
        await self._end()

    async def _end(self) -> None:
        pid = self._pid()
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = asyncio.get_running_loop().time() + END_SECONDS
        while self._pid() is not None and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)
        left = self._pid()
        if left is not None:
            os.kill(left, signal.SIGKILL)

    def forget(self) -> None:
        """The agent ends; keepalived goes on."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._reader >= 0:
            asyncio.get_running_loop().remove_reader(self._reader)
            os.close(self._reader)
            self._reader = -1

    def _write(self, text: str) -> bool:
        """False: it stood there already."""
        if self._conf.exists() and self._conf.read_text("utf-8") == text:
            return False
        aside = self._conf.with_suffix(".new")
        aside.write_text(text, "utf-8")
        aside.chmod(0o600)
        aside.replace(self._conf)
        return True

    def _listen(self) -> None:
        if self._reader >= 0:
            return
        if not self._fifo.is_fifo():
            self._fifo.unlink(missing_ok=True)
            os.mkfifo(self._fifo, 0o600)
        self._reader = os.open(self._fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        asyncio.get_running_loop().add_reader(self._reader, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._reader, 65536)
        except BlockingIOError:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            word = heard(line.decode("utf-8", "replace"))
            if word is not None:
                _log.info("keepalived", path=word[0], state=word[1])
                self._on_word(*word)

    def _pid(self) -> int | None:
        """Of the running one that has our configuration; our own child has not written its file yet at first."""
        if self._child is not None and self._child.poll() is None:
            return self._child.pid
        try:
            pid = int((self._run / "keepalived.pid").read_text("ascii"))
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if str(self._conf).encode() in words and not _is_zombie(pid) else None

    def _spawn(self) -> None:
        """In a session of its own, so that what ends the agent does not end it."""
        command = [self._program, "--dont-fork", "--log-console", "--vrrp", "--use-file", str(self._conf)]
        command += ["--pid", str(self._run / "keepalived.pid"), "--vrrp_pid", str(self._run / "vrrp.pid")]
        with (self._run / "keepalived.log").open("ab") as output:
            try:
                self._child = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
                )
            except OSError as error:
                raise StateError(
                    f"keepalived does not start: {error.strerror}", "see whether it is installed"
                ) from None

    async def _supervise(self) -> None:
        """Starts it again when it has ended; reaps it."""
        while True:
            await pause(self._interval)
            if self._pid() is not None or self._ballot is None:
                self.trouble = ""
                continue
            self.trouble = "keepalived has ended: it is started again"
            _log.error("keepalived has ended")
            for path in ("ha", "data"):
                self._on_word(path, "unknown")
            try:
                self._spawn()
            except StateError as error:
                self.trouble = error.message


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return True
