"""When a timer fires: NCRONTAB expressions as the Functions timer reads them.

    second minute hour day month weekday        such as 0 */5 9-17 * * MON-FRI

A port of NCrontab's rules onto cronsim, which is laxer and joins the two day fields with OR.
https://github.com/atifaziz/NCrontab/wiki/Crontab-Expression
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from heapq import merge
from itertools import pairwise

from cronsim import CronSim, CronSimError

from agent_core.errors import SettingsError

_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_WEEKDAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)


class InvalidTimerSchedule(SettingsError):
    """The text is no NCRONTAB expression, or one that never fires."""


@dataclass(frozen=True)
class _Field:
    name: str
    first: int
    last: int
    names: tuple[str, ...] = ()

    def values(self, text: str) -> set[int]:
        found: set[int] = set()
        for term in text.split(","):
            found |= self._term(term)
        return found

    def _term(self, term: str) -> set[int]:
        term, slash, step_text = term.partition("/")
        if slash and not (step_text.isascii() and step_text.isdecimal() and int(step_text) > 0):
            raise ValueError(f"{step_text!r} is no step of the {self.name}")
        step = int(step_text) if slash else 1
        if term == "*":
            return set(range(self.first, self.last + 1, step))
        start, dash, end = term.partition("-")
        # `5/15` means from 5 on; `MON-FRI` and `FRI-MON` mean the same, as in NCrontab.
        low = self._value(start)
        high = self._value(end) if dash else self.last if slash else low
        return set(range(min(low, high), max(low, high) + 1, step))

    def _value(self, text: str) -> int:
        if text.isascii() and text.isdecimal() and self.first <= int(text) <= self.last:
            return int(text)
        for index, name in enumerate(self.names):
            if text and name.startswith(text.lower()):
                return self.first + index
        names = f" or {self.names[0][:3].upper()} to {self.names[-1][:3].upper()}" if self.names else ""
        raise ValueError(f"{text!r} is no {self.name}: {self.first} to {self.last}{names}")


_FIELDS = (
    _Field("second", 0, 59),
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("weekday", 0, 6, _WEEKDAYS),
)


def occurrences(expression: str, after: datetime) -> Iterator[datetime]:
    """The times at which a timer with that schedule fires, in UTC, each later than `after` (an aware time).

    A day must match the day field and the weekday field.

    Raises:
        InvalidTimerSchedule: at once, not with the first occurrence.
    """
    second, minute, hour, day, month, weekday = _normalised(expression)
    after = after.astimezone(UTC)
    midnight = after.replace(hour=0, minute=0, second=0, microsecond=0)
    try:
        # With a star in one of them cronsim asks for both day fields, so each of these goes by one field alone.
        by_date = CronSim(f"0 0 0 {day} {month} *", midnight - _SECOND)
        by_weekday = CronSim(f"0 0 0 * {month} {weekday}", midnight - _SECOND)
    except CronSimError as error:
        raise InvalidTimerSchedule(f"The schedule {expression!r} never fires: no such month has such a day.") from error
    times = f"{second} {minute} {hour} * * *"

    def fires() -> Iterator[datetime]:
        for date in _common(by_date, by_weekday):
            for moment in CronSim(times, max(after, date - _SECOND)):
                if moment >= date + _DAY:
                    break
                yield moment

    return fires()


def _normalised(expression: str) -> list[str]:
    """The six fields as lists of numbers, which every crontab reads alike."""
    texts = expression.split()
    if len(texts) == 1 and ":" in expression:
        raise InvalidTimerSchedule(
            f"The schedule {expression!r} is a time span, which only App Service plans take. Write an NCRONTAB "
            "expression of six fields, such as '0 */5 * * * *'."
        )
    if len(texts) != len(_FIELDS):
        raise InvalidTimerSchedule(
            f"The schedule {expression!r} has {len(texts)} fields; NCRONTAB has six: second minute hour day month "
            "weekday. A crontab line of five fields needs a '0' in front for the second."
        )
    try:
        values = [field.values(text) for field, text in zip(_FIELDS, texts, strict=True)]
    except ValueError as error:
        raise InvalidTimerSchedule(f"The schedule {expression!r} is no NCRONTAB expression: {error}.") from error
    return [
        "*" if len(numbers) == field.last - field.first + 1 else ",".join(map(str, sorted(numbers)))
        for field, numbers in zip(_FIELDS, values, strict=True)
    ]


def _common(left: Iterator[datetime], right: Iterator[datetime]) -> Iterator[datetime]:
    """What two ascending iterators both give."""
    return (moment for moment, following in pairwise(merge(left, right)) if moment == following)
