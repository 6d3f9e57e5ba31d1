"""Doubles that ship: what a user's tests need to run an agent without a channel, a clock or Azure."""

from __future__ import annotations

import asyncio
import heapq
from datetime import UTC, datetime, timedelta


class ManualClock:
    """A clock that moves only when told to; sleepers wake in the order of their times.

        clock = ManualClock()
        await clock.advance(timedelta(minutes=1))
    """

    def __init__(self, start: datetime = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)) -> None:
        self._now = start
        self._sleepers: list[tuple[datetime, int, asyncio.Future[None]]] = []
        self._order = 0

    def now(self) -> datetime:
        return self._now

    async def sleep(self, delay: timedelta) -> None:
        if delay <= timedelta(0):
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._order += 1
        heapq.heappush(self._sleepers, (self._now + delay, self._order, woken))
        await woken

    async def advance(self, delta: timedelta) -> None:
        """Move the time forward, waking every sleeper at its own time on the way."""
        end = self._now + delta
        while self._sleepers and self._sleepers[0][0] <= end:
            self._now, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                woken.set_result(None)
            # Let what was woken run, and sleep again before `end`, before the next one is.
            for _ in range(3):
                await asyncio.sleep(0)
        self._now = end
