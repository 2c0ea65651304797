# SPDX-License-Identifier: GPL-2.0-or-later
"""The primary's pulses: a thread that asks all nodes, waits, looks, and wakes the event loop when a verdict changes.

It is a thread of its own, so that a busy event loop delays no detection, and it does next to nothing as long as all
answer: one system call for all nodes. In doubt it asks more often (docs/liveness.md).
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aa_cluster import log
from aa_cluster.agent.threads import raise_priority
from aa_cluster.core import liveness
from aa_cluster.core.liveness import Count, Event, Liveness, Look, Verdict

if TYPE_CHECKING:
    from aa_cluster.dataplane.pulses import Prober

DOUBT_SHARE = 15
"""In doubt a pulse is sent so many times as often."""
QUICKEST = 0.004
"""Seconds between two pulses, in doubt, at least."""

_log = log.get("pulse")


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds: between two pulses, and in doubt."""

    usual: float
    doubt: float

    @classmethod
    def of(cls, pulse_ms: int) -> Pace:
        usual = pulse_ms / 1000
        return cls(usual, min(usual, max(QUICKEST, usual / DOUBT_SHARE)))


class PulseThread:
    """``on_verdicts`` is called on the event loop that ``start`` was called on. All methods but ``work`` belong there.

    ``lost_frames`` counts what this machine received and could not keep. ``state`` is what is known now; read it from
    anywhere, it is replaced as a whole. ``trouble``: why no pulse leaves.
    """

    def __init__(
        self,
        open_prober: Callable[[], Prober],
        state: Liveness,
        pace: Pace,
        on_verdicts: Callable[[tuple[Verdict, ...]], None],
        lost_frames: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state = state
        self.trouble = ""
        self._open = open_prober
        self._pace = pace
        self._on_verdicts = on_verdicts
        self._lost_frames = lost_frames
        self._lost: int | None = None
        self._clock = clock
        self._waiting: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self.work, name="pulse", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Returns when the thread has let go of the dataplane."""
        self._stopped = True
        self._waiting.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
            self._thread = None

    def feed(self, event: Event) -> None:
        """Which nodes are judged, or a link's carrier: taken up at once."""
        self._waiting.put(event)

    def work(self) -> None:
        """In the thread, until ``stop``."""
        raise_priority()
        try:
            prober = self._open()
        except Exception as error:  # noqa: BLE001 - whatever it is, the cluster goes on without
            self.trouble = f"no pulses can be sent: {error}"
            _log.error("no pulses can be sent", why=str(error))
            return
        try:
            self._ask(prober)
        except OSError as error:
            self.trouble = f"no pulse leaves: {error.strerror}"
            _log.error("no pulse leaves", why=str(error))
        finally:
            prober.close()

    def _ask(self, prober: Prober) -> None:
        before, planned = self._clock(), self._pace.usual
        calm = False
        while not self._stopped:
            if not self.state.nodes:
                self._take_up(self._waiting.get())
                calm = self.state.calm()
                before = self._clock()
                continue
            doubt = prober.send(self.state.nodes)
            now = self._clock()
            if doubt or not calm:
                self._step(Look(planned, now - before, self._counts(prober), self._overrun()))
                calm = self.state.calm()
            else:
                self._lost = None
            before = now
            planned = self._pace.doubt if not calm and self.state.doubtful() else self._pace.usual
            try:
                event = self._waiting.get(timeout=planned)
            except queue.Empty:
                continue
            self._take_up(event)
            calm = self.state.calm()

    def _take_up(self, event: Event | None) -> None:
        """That one, and all that wait behind it."""
        while event is not None:
            self._step(event)
            event = None if self._waiting.empty() else self._waiting.get()

    def _counts(self, prober: Prober) -> dict[tuple[int, int], Count]:
        """The newest pulse has only just left."""
        counts = {}
        for key in self.state.tracks:
            sent, answered = prober.counts(*key)
            counts[key] = Count(sent - 1, min(answered, sent - 1))
        return counts

    def _overrun(self) -> bool:
        """Looked at only in doubt: the first time there is nothing to compare with."""
        before, self._lost = self._lost, self._lost_frames()
        return before is not None and self._lost > before

    def _step(self, event: Event) -> None:
        self.state, verdicts = liveness.step(self.state, event)
        if verdicts and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._on_verdicts, verdicts)
