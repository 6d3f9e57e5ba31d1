"""Cron expressions: which local times they name. When a clock shows those is decided by `recurrence`.

cronsim reads the expression and says which days match (https://github.com/cuu508/cronsim). It is not asked for the next
time: it walks there second by second and hour by hour, which takes ten times as long.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

from agent_core.errors import InvalidSchedule

if TYPE_CHECKING:
    from cronsim import CronSim

_MAX_LENGTH = 200
_DAY = timedelta(days=1)
# The rarest day there is, a Monday 29 February, comes every 28 years, or 40 where a leap year is left out.
_PATIENCE = timedelta(days=50 * 366)


class Cron:
    """An expression of five fields that was read.

    Attributes:
        every_hour: it names all 24 hours.
    """

    def __init__(self, days: CronSim) -> None:
        self._days = days
        self._hours = sorted(days.hours)
        self._minutes = sorted(days.minutes)
        self.every_hour = len(self._hours) == 24

    def after(self, local: datetime) -> Iterator[datetime]:
        """The naive times later than that one, ascending; it ends where fifty years have none."""
        day = self._day_from(local.date())
        while day is not None:
            # Of the first day only what is left of it.
            begin = local.hour if day == local.date() else 0
            for hour in self._hours:
                if hour < begin:
                    continue
                for minute in self._minutes:
                    moment = datetime(day.year, day.month, day.day, hour, minute)  # noqa: DTZ001  # shown by any clock
                    if moment > local:
                        yield moment
            day = self._day_from(day + _DAY)

    def _day_from(self, day: date) -> date | None:
        end = day + _PATIENCE
        while day < end:
            if day.month not in self._days.months:
                day = (day.replace(day=1) + 32 * _DAY).replace(day=1)
            elif self._days.match_day(day):
                return day
            else:
                day += _DAY
        return None


@lru_cache(maxsize=1024)
def parse_cron(expression: str) -> Cron:
    """Read an expression; InvalidSchedule for the field `every` if it is none."""
    from cronsim import CronSim, CronSimError

    fields = expression[: _MAX_LENGTH + 1].split()
    try:
        if len(fields) != 5 or len(expression) > _MAX_LENGTH:
            raise CronSimError(f"five fields, in {_MAX_LENGTH} characters at most")
        return Cron(CronSim(expression, datetime(1, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        raise InvalidSchedule(
            f"'every' is {expression!r:.80}, which {_what_is_wrong(fields, error)}. A cron expression has minute, "
            "hour, day, month and weekday, such as '0 8 * * 1-5'; a duration begins with P, such as 'PT15M'.",
            field="every",
        ) from error


def _what_is_wrong(fields: list[str], error: Exception) -> str:
    from cronsim import CronSim, CronSimError

    if str(error) == "Bad day-of-month":
        with suppress(CronSimError):
            CronSim(" ".join([*fields[:3], "*", fields[4]]), datetime(1, 1, 1, tzinfo=UTC))
            return "never fires: no such month has such a day"
    return f"is no cron expression ({str(error).lower()})"
