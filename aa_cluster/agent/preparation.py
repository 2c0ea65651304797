# SPDX-License-Identifier: GPL-2.0-or-later
"""Which flows' conntrack entries are ready for this node to go on with: remembered by record, judged by column."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from aa_cluster.dataplane.flows import CLOSED, ESTABLISHED, ONE_SIDED, Owned
from aa_cluster.netlink import ct_bulk
from aa_cluster.netlink.ct_messages import needs

SETTLED_NS = 1_000_000_000
"""Age at which a flow is prepared: most sessions end before that, and cost nothing."""

AT_ONCE = 16_384
"""Flows taken up in one look: their rows are copied."""

STATE = np.uint64(7)
"""The bits of a stamp that hold what the entry was made as (``ct_messages.needs``), 0 for nothing; eight ns do not
matter to a coarse clock."""


@dataclass(frozen=True, slots=True)
class Made:
    """What became of some rows: entries brought up to date, made since they were missing, not to be had."""

    updated: int = 0
    created: int = 0
    lost: int = 0
    errors: str = ""

    def __add__(self, other: Made) -> Made:
        return Made(
            self.updated + other.updated,
            self.created + other.created,
            self.lost + other.lost,
            other.errors or self.errors,
        )


class Preparation:
    """``_stamps``: by record number, the flow's ``created_ns`` and in its lowest bits what its entry was made as. A
    number that is given out again has another time, so nothing need be forgotten.
    """

    def __init__(self) -> None:
        self._stamps = np.zeros(1024, "u8")

    def due(self, now_ns: int) -> DueChoice:
        """Flows that have been under way for a while and are not ready; ready ones that have ended since."""
        return DueChoice(self, now_ns)

    def ready(self, numbers: np.ndarray, created_ns: np.ndarray, needed: np.ndarray) -> np.ndarray:
        """True where the entry is what the flow needs (``ct_messages.needs``)."""
        out: np.ndarray = self._of(numbers) == _stamp(created_ns, needed)
        return out

    def all_ready(self, flows: Owned) -> np.ndarray:
        """The same of rows."""
        return self.ready(flows.numbers, flows.rows["created_ns"], _needs(flows))

    def wanting(self, numbers: np.ndarray, created_ns: np.ndarray, state: np.ndarray, needed: np.ndarray) -> np.ndarray:
        """Not ready; of ended flows only those that were, of none those for which it could not be done."""
        stamps, none = self._of(numbers), created_ns & ~STATE
        known = stamps & ~STATE == none
        out: np.ndarray = (stamps != _stamp(created_ns, needed)) & (stamps != none) & ((state < CLOSED) | known)
        return out

    def prepare(self, flows: Owned, lifetimes: Mapping[int, int]) -> Made:
        """Brings entries up to date that are there; one that is not is left to ``complete``. Blocks (netlink)."""
        outcome = ct_bulk.update(flows.rows, lifetimes)
        done = self._note(flows, outcome)
        return Made(outcome.done, 0, len(done) - outcome.done, _words(outcome))

    def complete(self, flows: Owned, lifetimes: Mapping[int, int]) -> Made:
        """The same, and makes those that are missing. Blocks (netlink)."""
        first = self.prepare(flows, lifetimes)
        missing = ~self.all_ready(flows)
        if not missing.any():
            return first
        return Made(first.updated) + self.create(_some(flows, missing), lifetimes)

    def create(self, flows: Owned, lifetimes: Mapping[int, int]) -> Made:
        """Makes the entries of these; one that is there after all is updated. Blocks (netlink)."""
        outcome = ct_bulk.create(flows.rows, lifetimes)
        done = self._note(flows, outcome)
        return Made(outcome.existing, outcome.done - outcome.existing, len(done) - outcome.done, _words(outcome))

    def mend(self, flows: Owned, lifetimes: Mapping[int, int]) -> Made:
        """Of entries that were prepared long ago, makes those anew that have gone since. Blocks (netlink)."""
        gone = ct_bulk.check(flows.rows).codes == errno.ENOENT
        return self.create(_some(flows, gone), lifetimes) if gone.any() else Made()

    def _note(self, flows: Owned, outcome: ct_bulk.Outcome) -> np.ndarray:
        """Gives which are done. The others get a stamp without a state."""
        done: np.ndarray = ~outcome.failed
        created = flows.rows["created_ns"]
        if len(done):
            self._reach(int(flows.numbers.max()))
            self._stamps[flows.numbers] = np.where(done, _stamp(created, _needs(flows)), created & ~STATE)
        return done

    def _of(self, numbers: np.ndarray) -> np.ndarray:
        if len(numbers):
            self._reach(int(numbers.max()))
        out: np.ndarray = self._stamps[numbers]
        return out

    def _reach(self, number: int) -> None:
        if number >= len(self._stamps):
            self._stamps = np.concatenate([self._stamps, np.zeros(number + 1, "u8")])


class DueChoice:
    """As ``flows.Choice``; ``AT_ONCE`` flows at most, and then it is ``full``."""

    def __init__(self, preparation: Preparation, now_ns: int) -> None:
        self._preparation, self._now = preparation, now_ns
        self._room = AT_ONCE

    @property
    def full(self) -> bool:
        return self._room == 0

    def __call__(self, records: np.ndarray, at: np.ndarray) -> np.ndarray:
        if self.full:
            return np.zeros(len(at), bool)
        state, created = records["state"][at], records["created_ns"][at]
        settled = (state >= ESTABLISHED) & (created + np.uint64(SETTLED_NS) < np.uint64(self._now))
        ended = records["ended"][at]
        settled &= ended & ONE_SIDED == 0
        needed = needs(records["original_protocol"][at], state, ended)
        out: np.ndarray = settled & self._preparation.wanting(at + 1, created, state, needed)
        out[np.flatnonzero(out)[self._room :]] = False
        self._room -= int(np.count_nonzero(out))
        return out


def _stamp(created_ns: np.ndarray, needed: np.ndarray) -> np.ndarray:
    out: np.ndarray = created_ns & ~STATE | needed.astype("u8")
    return out


def _needs(flows: Owned) -> np.ndarray:
    return needs(flows.rows["protocol"], flows.rows["state"], flows.rows["ended"])


def _some(flows: Owned, chosen: np.ndarray) -> Owned:
    return Owned(flows.numbers[chosen], flows.rows[chosen], flows.one_sided[chosen])


def _words(outcome: ct_bulk.Outcome) -> str:
    return ", ".join(f"{number} × {name}" for name, number in outcome.errors.items())
