# SPDX-License-Identifier: GPL-2.0-or-later
"""An auxiliary's part in sharing sessions with a conntrack helper (docs/helpers.md): it makes their entries.

``adopt`` gives the agent the SYN; here its block becomes an entry with its helper, and the frame goes back to the
interface it came in on. What is lost on the way the client repeats.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from aa_cluster import log
from aa_cluster.agent.context import Context
from aa_cluster.agent.tasks import TaskSet
from aa_cluster.errors import AaError
from aa_cluster.netlink import ct_create
from aa_cluster.netlink.conntrack import Tuple
from aa_cluster.netlink.ct_create import NewEntry
from aa_cluster.wire import block as wire
from aa_cluster.wire import frame as frames
from aa_cluster.wire.block import FlowTuple, HandoffBlock

if TYPE_CHECKING:
    from aa_cluster.agent.threads import PlaneThread
    from aa_cluster.dataplane.punts import Punt

ENTRY_SECONDS = 120
"""As AA_ADOPTED_TIMEOUT_MS in bpf/adopt.bpf.c: until the SYN itself sets conntrack's own timeout, a moment later."""
TELL_SECONDS = 60.0
"""The same trouble is told again after so long."""

Create = Callable[[NewEntry], bool]

_log = log.get("adoption")


class Adoption:
    """``trouble``: why sessions with a helper are refused here, "" when they are not. ``create`` makes an entry."""

    def __init__(self, context: Context, plane: PlaneThread, create: Create = ct_create.create) -> None:
        self.trouble = ""
        self._context = context
        self._plane = plane
        self._create = create
        self._tasks = TaskSet()
        self._descriptor = -1
        self._told: dict[str, float] = {}

    def start(self) -> None:
        """Call it when the dataplane runs; again does nothing."""
        if self._descriptor < 0:
            self._descriptor = self._plane.plane.punt_fd()
            self._on_punts()  # some may wait since before

    async def stop(self) -> None:
        self._ignore()
        self._descriptor = -1
        await self._tasks.cancel()

    def _listen(self) -> None:
        if self._descriptor >= 0:
            asyncio.get_running_loop().add_reader(self._descriptor, self._on_punts)

    def _ignore(self) -> None:
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)

    def _on_punts(self) -> None:
        """One batch at a time; nothing is read while a batch is worked on."""
        self._ignore()
        self._tasks.start(self._take(), "adoption")

    async def _take(self) -> None:
        try:
            failures = await self._plane.call(self._adopt_all)
        except AaError as error:
            _log.error("sessions with a helper cannot be adopted any more", why=str(error))
            self.trouble = f"sessions with a conntrack helper cannot be adopted: {error.message}"
            return
        for why, count in failures.items():
            self._tell(why, count)
        self._listen()

    def _adopt_all(self) -> Counter[str]:
        """In the dataplane's thread. What went wrong, and how often."""
        plane = self._plane.plane
        failures: Counter[str] = Counter()
        punts: Sequence[Punt] = plane.read_punts()
        for punt in punts:
            try:
                self._adopt(punt)
            except AaError as error:
                failures[_general(error)] += 1
            else:
                self.trouble = ""
        return failures

    def _adopt(self, punt: Punt) -> None:
        """An entry that is there already is no failure: the SYN was repeated meanwhile, or `adopt` finds that the entry
        differs, drops both, and the next SYN comes here again.
        """
        syn = frames.parse(punt.frame)
        block = wire.decode(syn.block, self._context.keys.handoff, syn.flow, syn.sequence)
        self._create(entry_of(block, syn.flow))
        whole = frames.with_whole_checksum(punt.frame)
        self._plane.plane.deliver(type(punt)(punt.ifindex, whole))

    def _tell(self, why: str, count: int) -> None:
        self.trouble = f"sessions with a conntrack helper are refused: {why}"
        now = self._context.clock()
        if now - self._told.get(why, float("-inf")) < TELL_SECONDS:
            return
        self._told[why] = now
        _log.error("session with a helper not adopted", why=why, times=count)
        self._context.events.say(
            "refused-helper",
            f"{count} sessions with a conntrack helper were not adopted: {why}",
            node=self._context.name,
        )


def entry_of(block: HandoffBlock, flow: FlowTuple) -> NewEntry:
    """The entry the block describes, for the session of that original tuple."""
    after = FlowTuple(block.source, block.destination, block.source_port, block.destination_port, flow.protocol)
    return NewEntry(
        original=_tuple(flow),
        translated=_tuple(after),
        mark=block.connmark,
        helper=wire.HELPERS.get(block.helper, ""),
        timeout=ENTRY_SECONDS,
    )


def _tuple(flow: FlowTuple) -> Tuple:
    source, destination = str(flow.source), str(flow.destination)
    return Tuple(flow.family, flow.protocol, source, flow.source_port, destination, flow.destination_port)


def _general(error: AaError) -> str:
    """Without the session, which is another each time."""
    return error.message.rpartition(": ")[2]
