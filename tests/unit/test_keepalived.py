# SPDX-License-Identifier: GPL-2.0-or-later
"""keepalived as the agent's child: its configuration, its word, its end, and who finds it running."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aa_cluster.agent.keepalived import CHOSEN, ORDINARY, Ballot, Keepalived, ahead, behind, configuration
from aa_cluster.core.election import PathState
from aa_cluster.core.membership import MAX_NODE
from aa_cluster.errors import StateError
from tests.unit.fake_node import until

pytestmark = pytest.mark.slow  # real processes, in real time

SCRIPT = """\
#!/bin/sh
# As keepalived: --pid FILE is written, then nothing is said until it is ended.
run=$(dirname "$0")
while [ $# -gt 0 ]; do
    case $1 in --pid) pid=$2 ;; esac
    shift
done
echo $$ >> "$run/starts"
echo $$ > "$pid"
read -r word < "$run/hold"
"""


class Desk:
    """Where a script stands for keepalived: how often it was started, and where its word goes."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        self.program = directory / "keepalived"
        self.program.write_text(SCRIPT, "utf-8")
        self.program.chmod(0o700)
        os.mkfifo(directory / "hold")

    @property
    def pids(self) -> list[int]:
        """Of all that were started so far."""
        starts = self.directory / "starts"
        return [int(line) for line in starts.read_text("ascii").split()] if starts.exists() else []

    def alive(self) -> list[int]:
        """Also what has only just been started."""
        own = str(self.program).encode()
        return sorted(int(one.name) for one in Path("/proc").glob("[0-9]*") if own in _words(one))


def _words(process: Path) -> list[bytes]:
    """Of its command line; a zombie has none."""
    try:
        return (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def say(run: Path, *words: str) -> None:
    """As keepalived does on its notify FIFO."""
    with (run / "keepalived.fifo").open("w") as fifo:
        for word in words:
            path, _, state = word.partition(" ")
            fifo.write(f'INSTANCE "{path}" {state} 200\n')


BALLOT = Ballot("node2", 2, "ha", "int", "10.77.0.102", 1, 0.02)


@pytest.fixture
async def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "desk")


class Keeper:
    """A ``Keepalived`` with what it said."""

    def __init__(self, run: Path, program: Path) -> None:
        run.mkdir(exist_ok=True)
        self.heard: list[tuple[str, PathState]] = []
        self.run = run
        self.keepalived = Keepalived(run, lambda *word: self.heard.append(word), str(program), 0.05)


@pytest.fixture
async def keeper(desk: Desk, tmp_path: Path) -> AsyncIterator[Keeper]:
    made = Keeper(tmp_path / "run", desk.program)
    yield made
    await made.keepalived.stop()


async def test_it_is_started_once_and_its_word_is_heard(desk: Desk, keeper: Keeper) -> None:
    await keeper.keepalived.run_for(BALLOT)
    await keeper.keepalived.run_for(BALLOT)
    await until(lambda: len(desk.pids) == 1)
    say(keeper.run, "ha BACKUP", "data MASTER", "data MASTER_RX_LOWER_PRI")
    await until(lambda: keeper.heard == [("ha", "backup"), ("data", "master")])
    await keeper.keepalived.stop()
    assert len(desk.pids) == 1
    assert desk.alive() == []


async def test_a_stop_right_after_the_start_ends_it(desk: Desk, keeper: Keeper) -> None:
    """Its pid file need not be there yet."""
    await keeper.keepalived.run_for(BALLOT)
    await keeper.keepalived.stop()
    assert desk.alive() == []


async def test_what_is_added_to_its_priority_is_in_a_file(keeper: Keeper) -> None:
    part = keeper.run / "keepalived.part"
    keeper.keepalived.play(CHOSEN)
    assert part.read_text("ascii") == f"{CHOSEN}\n"
    keeper.keepalived.play(ORDINARY)
    assert part.read_text("ascii") == f"{ORDINARY}\n"


def test_priorities_keep_their_order() -> None:
    """Behind, ordinary, who is handed over to, the primary: whichever nodes they are; all from 1 to 254 (RFC 5798)."""
    own = {}
    for number in range(1, MAX_NODE + 1):
        ballot = dataclasses.replace(BALLOT, node_id=number)
        found = re.findall(r"\spriority (\d+)", configuration(ballot, Path("fifo"), Path("part")))
        assert len(set(found)) == 1, "the same on both paths"
        own[number] = int(found[0])
    ranks = [
        [value + added(number) for number, value in own.items()]
        for added in (behind, lambda _: ORDINARY, ahead, lambda _: CHOSEN)
    ]
    assert min(ranks[0]) >= 1
    assert max(ranks[-1]) <= 254
    for lower, higher in itertools.pairwise(ranks):
        assert max(lower) < min(higher)


async def test_a_dead_one_is_started_again_and_its_word_counts_no_more(desk: Desk, keeper: Keeper) -> None:
    await keeper.keepalived.run_for(BALLOT)
    await until(lambda: len(desk.pids) == 1)
    os.kill(desk.pids[0], signal.SIGKILL)
    await until(lambda: len(desk.pids) == 2)
    assert keeper.heard == [("ha", "unknown"), ("data", "unknown")]
    await until(lambda: not keeper.keepalived.trouble)
    assert desk.alive() == desk.pids[1:]


async def test_another_configuration_is_another_start(desk: Desk, keeper: Keeper) -> None:
    await keeper.keepalived.run_for(BALLOT)
    await until(lambda: len(desk.pids) == 1)
    await keeper.keepalived.run_for(Ballot("node2", 2, "ha", "ext", "10.77.0.102", 1, 0.02))
    await until(lambda: len(desk.pids) == 2)
    assert desk.alive() == desk.pids[1:]
    assert "interface ext" in (keeper.run / "keepalived.conf").read_text("utf-8")


async def test_the_next_agent_finds_it_running(desk: Desk, keeper: Keeper) -> None:
    await keeper.keepalived.run_for(BALLOT)
    await until(lambda: (keeper.run / "keepalived.pid").exists() and bool((keeper.run / "keepalived.pid").read_text()))
    keeper.keepalived.forget()
    following = Keeper(keeper.run, desk.program)
    await following.keepalived.run_for(BALLOT)
    say(keeper.run, "ha FAULT")
    await until(lambda: following.heard == [("ha", "fault")])
    assert keeper.heard == []
    assert len(desk.pids) == 1
    await following.keepalived.stop()
    assert desk.alive() == []


async def test_without_the_program_there_is_a_hint(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="not installed"):
        await Keeper(tmp_path / "run", tmp_path / "nothing").keepalived.run_for(BALLOT)
