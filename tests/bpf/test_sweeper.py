# SPDX-License-Identifier: GPL-2.0-or-later
"""The sweep as the agent runs it."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest

from aa_cluster.dataplane import flows
from aa_cluster.dataplane.sweeper import Sweeper
from tests.bpf.harness import OTHER, Plane, tuple_of

pytestmark = pytest.mark.bpf


@pytest.fixture
def sweeper(plane: Plane) -> Sweeper:
    return Sweeper(os.dup(plane.fds["sweep"]), plane.maps["swept"], plane.maps["watermark"])


def test_a_round_is_finished_whatever_signals_come(plane: Plane, sweeper: Sweeper) -> None:
    """The kernel breaks a test-run off when a signal waits for its thread (EINTR): a stopped agent that goes on."""
    plane.add_flow(
        tuple_of("10.0.0.1", 1, "10.0.0.2", 2), tuple_of("10.0.0.2", 2, "10.0.0.1", 1), OTHER, flows.CLOSED, 1
    )
    plane.maps["watermark"].put(0, np.array(1 << 26, "<u8"))  # a long round; beyond the limit nothing is looked at
    before = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    gone = sweeper.expired()
    worker = threading.Thread(target=sweeper.round)
    try:
        worker.start()
        while worker.is_alive():
            assert worker.ident is not None
            signal.pthread_kill(worker.ident, signal.SIGUSR1)
            worker.join(0.001)
    finally:
        worker.join()
        signal.signal(signal.SIGUSR1, before)
    assert sweeper.expired() == gone + 1
    sweeper.close()
