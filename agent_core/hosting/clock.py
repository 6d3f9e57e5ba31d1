"""What time it is, asked in one place, so that an engine or a test can say."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Tells the time and waits for it."""

    def now(self) -> datetime:
        """The current time, aware, in UTC."""

    async def sleep(self, delay: timedelta) -> None:
        """Return when `delay` has passed on this clock."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, delay: timedelta) -> None:
        await asyncio.sleep(delay.total_seconds())


_clock: ContextVar[Clock] = ContextVar("clock", default=SystemClock())  # noqa: B039  # it has no state


def now() -> datetime:
    """The time on the clock this code runs on: the machine's, unless `running_on` says otherwise."""
    return _clock.get().now()


async def sleep(delay: timedelta) -> None:
    """Return when `delay` has passed on the clock this code runs on."""
    await _clock.get().sleep(delay)


@contextmanager
def running_on(clock: Clock) -> Iterator[None]:
    """Everything called inside, and every task started inside, asks this clock."""
    token = _clock.set(clock)
    try:
        yield
    finally:
        _clock.reset(token)
