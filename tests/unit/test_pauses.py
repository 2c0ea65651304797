# SPDX-License-Identifier: GPL-2.0-or-later
"""The moments at which an agent's regular work is done."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aa_cluster.agent.tasks import MOMENTS, last_moment, next_moment, pause

NOW = st.floats(0, 1e8)


@pytest.mark.parametrize(
    ("now", "seconds", "moment"),
    [(10, 1, 11), (10.003, 1, 11), (10.2, 1, 11.25), (10, 0.25, 10.25), (10.01, 0.05, 10.25), (10, 0, 10.25)],
)
def test_the_next_moment(now: float, seconds: float, moment: float) -> None:
    assert next_moment(now, seconds) == moment


@given(NOW, st.floats(0, 100))
def test_it_is_to_come_and_near(now: float, seconds: float) -> None:
    moment = next_moment(now, seconds)
    assert moment % MOMENTS == 0
    assert now < moment
    assert moment <= now + MOMENTS or abs(moment - now - seconds) <= MOMENTS / 2


@given(NOW)
def test_the_last_is_not_past_and_near(now: float) -> None:
    assert last_moment(now) <= now < last_moment(now) + MOMENTS


async def test_pauses_end_together() -> None:
    """Those that begin a little apart."""
    ended: list[float] = []

    async def one(after: float) -> None:
        await asyncio.sleep(after)
        await pause(0.5)
        ended.append(asyncio.get_running_loop().time())

    start = asyncio.get_running_loop().time()
    await asyncio.sleep(last_moment(start) + MOMENTS - start)
    await asyncio.gather(*map(one, (0, 0.02, 0.05)))
    assert max(ended) - min(ended) < 0.01
