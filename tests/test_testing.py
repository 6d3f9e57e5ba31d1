"""The doubles that ship do what they promise."""

import asyncio
from datetime import timedelta

import pytest

from agent_core.testing import ManualClock


async def test_a_clock_that_runs_work_moves_to_each_sleeper_in_turn() -> None:
    clock = ManualClock()
    began = clock.now()
    woken = []

    async def sleeper(seconds: int) -> None:
        await clock.sleep(timedelta(seconds=seconds))
        woken.append((clock.now() - began).total_seconds())

    async def work() -> str:
        await asyncio.gather(sleeper(30), sleeper(10), sleeper(20))
        await sleeper(5)
        return "done"

    assert await clock.run(work()) == "done"
    assert woken == [10, 20, 30, 35]


async def test_work_that_does_not_wait_for_the_clock_is_not_waited_for() -> None:
    with pytest.raises(RuntimeError, match="not for this clock"):
        await ManualClock().run(asyncio.Event().wait())


async def test_what_the_work_raises_comes_out() -> None:
    async def work() -> None:
        raise ValueError("of the work")

    with pytest.raises(ValueError, match="of the work"):
        await ManualClock().run(work())
