"""Timer triggers: runs a function at the times of its schedule, as the host's timer listener does."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise

from azure.functions.meta import Datum
from azure.functions.timer import TimerRequestConverter

from agent_core.hosting.clock import Clock
from agent_core.local.bindings import TimerFunction
from agent_core.local.invoker import Invoker
from agent_core.local.ncrontab import occurrences

logger = logging.getLogger(__name__)

_NEVER_RAN = datetime(1, 1, 1, tzinfo=UTC)
# Sleeping in pieces keeps to the clock when the machine was suspended or its time was set.
_LONGEST_SLEEP = timedelta(minutes=1)


class TimerTrigger:
    """One function's timer. Runs never overlap, and a failed one waits for the next occurrence.

    An occurrence that passes while the function still runs is made up for at once; several of them by one run.
    """

    def __init__(self, timer: TimerFunction, invoker: Invoker, clock: Clock) -> None:
        """Raises InvalidTimerSchedule if the schedule is none."""
        self._timer = timer
        self._invoker = invoker
        self._clock = clock
        self._sleeper: asyncio.Task[None] | None = None
        self._stopping = False
        # As in the host there is no status for what runs more often than once a minute.
        first_times = pairwise(islice(occurrences(timer.schedule, clock.now()), 5))
        often = any(later - earlier < timedelta(minutes=1) for earlier, later in first_times)
        self._monitored = timer.use_monitor and not often

    async def run(self) -> None:
        """Run until `stop`, which lets a running function end."""
        last, following = _NEVER_RAN, self._after(self._clock.now())
        if self._timer.run_on_startup:
            last, following = await self._fire(last, following)
        while not self._stopping:
            await self._sleep_until(following)
            last, following = await self._fire(last, following)

    def stop(self) -> None:
        """Fire no more."""
        self._stopping = True
        if self._sleeper is not None:
            self._sleeper.cancel()

    async def _sleep_until(self, moment: datetime) -> None:
        self._sleeper = asyncio.current_task()
        while (wait := moment - self._clock.now()) > timedelta(0):
            await self._clock.sleep(min(wait, _LONGEST_SLEEP))
        self._sleeper = None

    async def _fire(self, last: datetime, following: datetime) -> tuple[datetime, datetime]:
        """Call the function; returns when it was called, and the next time from there."""
        invoked = self._clock.now()
        await self._invoke(last, following)
        return invoked, self._after(invoked)

    def _after(self, moment: datetime) -> datetime:
        return next(occurrences(self._timer.schedule, moment))

    async def _invoke(self, last: datetime, following: datetime) -> None:
        status = {"Last": last.isoformat(), "Next": following.isoformat(), "LastUpdated": last.isoformat()}
        request = {
            "Schedule": {"AdjustForDST": True},
            "ScheduleStatus": status if self._monitored else None,
            "IsPastDue": False,
        }
        function = self._timer.function
        try:
            argument = TimerRequestConverter.decode(Datum(json.dumps(request), "json"), trigger_metadata={})
            await self._invoker.call_returning_nothing(function, argument)
        except Exception:
            logger.exception("Function %s failed", function.name)
