"""The brute-force oracle for all that goes by a clock: it asks what each zone shows hour by hour, and nothing else.

It only converts from UTC to local time, never back, and knows neither fold nor gap: a clock that goes back shows some
times in two stretches, one that goes forward shows some in none. It computes with minutes since 1970.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST = datetime(2024, 1, 1, tzinfo=UTC)
LAST = datetime(2031, 1, 1, tzinfo=UTC)
DAY = 24 * 60


def minutes(moment: datetime) -> int:
    return round((moment - EPOCH).total_seconds()) // 60


def moment(minute: int) -> datetime:
    return EPOCH + timedelta(minutes=minute)


@dataclass(frozen=True)
class Stretch:
    """From `begin` to before `end` the clock is `ahead` minutes ahead of UTC."""

    begin: int
    end: int
    ahead: int


@cache
def stretches(zone: str) -> tuple[Stretch, ...]:
    """From two days before 2024 to two days after 2030."""
    tz = ZoneInfo(zone)

    def ahead(minute: int) -> int:
        shown = moment(minute).astimezone(tz).replace(tzinfo=UTC)
        return minutes(shown) - minute

    begin, end = minutes(FIRST) - 2 * DAY, minutes(LAST) + 2 * DAY
    found, since, current = [], begin, ahead(begin)
    for hour in range(begin, end, 60):
        if ahead(hour) != current:
            change = next(minute for minute in range(hour - 59, hour + 1) if ahead(minute) != current)
            found.append(Stretch(since, change, current))
            since, current = change, ahead(hour)
    return (*found, Stretch(since, end, current))


class Clock:
    """What a clock in a zone shows."""

    def __init__(self, zone: str) -> None:
        self.stretches = stretches(zone)
        self._begins = [each.begin for each in self.stretches]

    def shown(self, minute: int) -> int:
        """The local time at a moment."""
        return minute + self.stretches[bisect_right(self._begins, minute) - 1].ahead

    def moments(self, local: int) -> list[int]:
        """When it shows that local time: once, twice, or never."""
        found = [local - each.ahead for each in self._near(local) if each.begin <= local - each.ahead < each.end]
        return sorted(found)

    def first(self, local: int) -> int:
        """When it shows that local time for the first time or, if it skips it, when it has just skipped it."""
        if found := self.moments(local):
            return found[0]
        return min(each.begin for each in self._near(local) if each.begin + each.ahead > local)

    def _near(self, local: int) -> Iterator[Stretch]:
        position = bisect_right(self._begins, local - DAY) - 1
        for each in self.stretches[max(0, position) :]:
            if each.begin > local + DAY:
                return
            yield each

    def changes(self) -> list[int]:
        """When it was put forward or back."""
        return self._begins[1:]
