"""When something is due: what a user can say about time, and the occurrences that follow from it.

A nominal due time is part of a delivery's key, so it follows from what was said alone, never from when it is asked for.
What happens when clocks change is published in docs/promises.md.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Any, NoReturn
from zoneinfo import ZoneInfo

from agent_core.errors import InvalidSchedule
from agent_core.proactive.cron import Cron, parse_cron
from agent_core.proactive.wall_clock import (
    DAY,
    LAST_YEAR,
    checked_time,
    find_zone,
    local_time,
    moment_of,
    next_change,
    offset,
    parse_time,
)

# How many occurrences can be counted, or asked for at once.
MAX_OCCURRENCES = 10_000
_MAX_EXCLUDED = 366
_SHORTEST, _LONGEST = timedelta(minutes=1), timedelta(days=3660)
_RESOLUTION = timedelta(microseconds=1)
_SECOND = timedelta(seconds=1)
# Later than anything that passes `checked_time`; occurrences end there.
_END = datetime(3001, 1, 1, tzinfo=UTC)
_DURATION = re.compile(
    r"P(?=.)(?:(?P<weeks>\d{1,5})W)?(?:(?P<days>\d{1,5})D)?"
    r"(?:T(?=.)(?:(?P<hours>\d{1,6})H)?(?:(?P<minutes>\d{1,8})M)?(?:(?P<seconds>\d{1,9})S)?)?",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Recurrence:
    """A time, or times that recur.

    Attributes:
        at: the one time: aware, or naive for what the clock shows in `zone`.
        every: instead of `at`, how it recurs. A cron expression of five fields goes by the clock in `zone`
            (https://man7.org/linux/man-pages/man5/crontab.5.html, with `L` for the last day and `MON#2` for the second
            Monday). A timedelta, or an ISO 8601 duration such as `PT15M`, is counted from `start` in UTC; whole
            seconds, a minute at least and ten years at most.
        zone: an IANA name; needed for a cron expression and for naive times.
        start: what recurs has no occurrence before it; an interval has its first one then. Aware, or naive.
        until: nor one after it. Aware, or naive.
        count: how many there are, 10,000 at most, excluded ones included (as in RFC 5545).
        excluding: local dates without an occurrence, 366 at most; in UTC if there is no zone.
        last: worked out from `count`, once, so that no timer has to count. Leave it out.

    Raises:
        InvalidSchedule: with the `field` to mend.
    """

    at: datetime | None = None
    every: str | timedelta | None = None
    zone: str | None = None
    start: datetime | None = None
    until: datetime | None = None
    count: int | None = None
    excluding: Collection[date] = frozenset()
    last: datetime | None = None

    def __post_init__(self) -> None:
        if (self.at is None) == (self.every is None):
            raise InvalidSchedule("Give either 'at', for one time, or 'every'.", field="at")
        if self.zone is not None:
            find_zone(self.zone, "zone")
        for name in ("at", "start", "until", "last"):
            if (value := getattr(self, name)) is not None:
                self._set(name, self._checked(value, name))
        self._set("excluding", _checked_dates(self.excluding))
        if self.every is None:
            self._check_one_time()
        else:
            self._check_every(self.every)
            self._check_end()

    def next_after(self, moment: datetime) -> datetime | None:
        """The first nominal time later than that, in UTC; None if there is none."""
        return next(self.after(moment), None)

    def first_due(self, now: datetime) -> datetime | None:
        """When a schedule that is made now is first due: what recurs skips what has passed, one time does not."""
        return self.next_after(self._earliest if self.at else now - _RESOLUTION)

    def occurrences(self, begin: datetime, limit: int) -> list[datetime]:
        """The next nominal times from `begin` on, itself included, in UTC.

        Raises:
            InvalidSchedule: `limit` is below 1 or above 10,000.
        """
        return list(islice(self.after(begin - _RESOLUTION), checked_limit(limit)))

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Every nominal time later than that, ascending, in UTC; it may go on for centuries."""
        if moment >= _END:
            return
        end = self._moment(stop) if (stop := self.last or self.until) else _END
        for due, day in self._unbounded(max(moment.astimezone(UTC), self._earliest)):
            if due > end:
                return
            if day not in self.excluding:
                yield due

    def to_dict(self) -> dict[str, Any]:
        """A JSON object with what was given, times as ISO 8601."""
        found: dict[str, Any] = {}
        for name in ("at", "start", "until", "last"):
            if (value := getattr(self, name)) is not None:
                found[name] = value.isoformat().replace("+00:00", "Z")
        if self.every is not None:
            found["every"] = self.every if isinstance(self.every, str) else duration_text(self.every)
        if self.zone is not None:
            found["zone"] = self.zone
        if self.count is not None:
            found["count"] = self.count
        if self.excluding:
            found["excluding"] = [day.isoformat() for day in sorted(self.excluding)]
        return found

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Recurrence:
        """What `to_dict` wrote, or somebody else by the same rules.

        Raises:
            InvalidSchedule: with the `field` to mend, an unknown one included.
        """
        values = dict(data)
        for name in values:
            if name not in cls.__slots__:
                raise InvalidSchedule(f"{name!r:.80} is unknown; known are {', '.join(cls.__slots__)}.", field=name)
        for name in ("at", "start", "until", "last"):
            if values.get(name) is not None:
                values[name] = parse_time(values[name], name)
        values["excluding"] = _parse_dates(values.get("excluding") or ())
        return cls(**values)

    @property
    def _earliest(self) -> datetime:
        """Just before the first moment that may be an occurrence."""
        begin = self.at or self.start
        assert begin is not None  # checked when it was made
        return self._moment(begin) - _RESOLUTION

    @property
    def _zone(self) -> ZoneInfo:
        return ZoneInfo(self.zone or "UTC")

    def _moment(self, time: datetime) -> datetime:
        return time if time.tzinfo else moment_of(time, self._zone)

    def _unbounded(self, after: datetime) -> Iterator[tuple[datetime, date]]:
        """Nominal times later than that, and the local dates they belong to, until the last year."""
        if self.at is not None:
            moment = self._moment(self.at)
            found = iter([(moment, moment.date())] if moment > after else [])
        elif isinstance(self.every, timedelta):
            found = self._intervals(after, self.every)
        else:
            cron = parse_cron(str(self.every))
            found = self._whenever_shown(after, cron) if cron.every_hour else self._once(after, cron)
        for due, day in found:
            if due >= _END:
                return
            yield due, day

    def _intervals(self, after: datetime, step: timedelta) -> Iterator[tuple[datetime, date]]:
        begin = self._earliest + _RESOLUTION
        due = begin + ((after - begin) // step + 1) * step
        while True:
            yield due, local_time(due, self._zone).date()
            due += step

    def _once(self, after: datetime, cron: Cron) -> Iterator[tuple[datetime, date]]:
        """An expression that names its hours: each local time once."""
        zone = self._zone
        for local in cron.after(local_time(after, zone)):
            due = moment_of(local, zone)
            # Not later: another time in the same gap, or one that the clock is showing for the second time.
            if due > after:
                after = due
                yield due, local.date()

    def _whenever_shown(self, after: datetime, cron: Cron) -> Iterator[tuple[datetime, date]]:
        """An expression for every hour: whenever the clock shows a match, so that it goes on through a change."""
        zone = self._zone
        ahead = offset(zone, after)
        local = next(matches := cron.after(local_time(after, zone)), None)
        while local is not None:
            due = local.replace(tzinfo=UTC) - ahead
            known = min(due, after + DAY)
            if change := next_change(zone, after, known):
                after, ahead = change, offset(zone, change)
                local = next(matches := cron.after(local_time(change, zone) - _SECOND), None)
            else:
                after = known
                if known == due:
                    yield due, local.date()
                    local = next(matches, None)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _checked(self, value: object, name: str) -> datetime:
        time = checked_time(value, name)
        if time.tzinfo is None and self.zone is None:
            raise InvalidSchedule(
                f"{name!r} has no time zone: pass an aware time, as in datetime.now(UTC) + timedelta(minutes=5), or "
                "'zone' for what the clock shows there.",
                field=name,
            )
        return time

    def _check_one_time(self) -> None:
        for name in ("start", "until", "count", "last", "excluding"):
            if getattr(self, name) not in (None, frozenset()):
                raise InvalidSchedule(f"{name!r} goes with 'every'; leave it out of one time.", field=name)

    def _check_every(self, every: str | timedelta) -> None:
        if isinstance(every, str) and every[:1] in ("P", "p"):
            every = parse_duration(every, "every")
        if isinstance(every, timedelta):
            if not _SHORTEST <= every <= _LONGEST or every % _SECOND:
                raise InvalidSchedule(
                    f"'every' is {every}; an interval is at least a minute and at most {_LONGEST.days:,} days, in "
                    "whole seconds.",
                    field="every",
                )
        elif isinstance(every, str):
            every = " ".join(every.split())
            parse_cron(every)
            if self.zone is None:
                raise InvalidSchedule(
                    "A cron expression needs a 'zone', such as 'Europe/Paris' or 'UTC'.", field="zone"
                )
        else:
            raise InvalidSchedule("'every' must be a cron expression or a timedelta.", field="every")
        self._set("every", every)
        if self.start is None:
            raise InvalidSchedule("'every' needs a 'start': the first time, or the present one.", field="start")

    def _check_end(self) -> None:
        if self.count is None:
            if self.last is not None:
                raise InvalidSchedule("'last' is worked out from 'count'; say 'until' instead.", field="last")
        elif self.until is not None:
            raise InvalidSchedule("Give 'count' or 'until', not both: one of them would never matter.", field="count")
        elif type(self.count) is not int or not 1 <= self.count <= MAX_OCCURRENCES:
            raise InvalidSchedule(
                f"'count' is {self.count!r:.80}; it must be a number from 1 to {MAX_OCCURRENCES:,}.", field="count"
            )
        if self.count is not None and self.last is None:
            self._set("last", self._last_of(self.count))
        if next(self.after(self._earliest), None) is None:
            self._explain_why_never()

    def _explain_why_never(self) -> NoReturn:
        first = next(self._unbounded(self._earliest), None)
        if first is None:
            raise InvalidSchedule(f"'every' is {self.every!r}, which never fires.", field="every")
        if self.until is not None and self._moment(self.until) < first[0]:
            raise InvalidSchedule(
                f"'until' is before the first occurrence, which would be {first[0]:%Y-%m-%d %H:%M} UTC.", field="until"
            )
        raise InvalidSchedule("'excluding' leaves no occurrence at all.", field="excluding")

    def _last_of(self, count: int) -> datetime:
        dues = [due for due, _ in islice(self._unbounded(self._earliest), count)]
        if not dues:
            self._explain_why_never()
        if len(dues) < count or dues[-1].year > LAST_YEAR:
            raise InvalidSchedule(f"'count' is {count:,}, which would go on after the year {LAST_YEAR}.", field="count")
        if isinstance(self.every, timedelta):
            return dues[-1]
        # By the clock if it can be told so: it stays the last one should the zone's rules change before it comes.
        local = local_time(dues[-1], self._zone)
        return local if moment_of(local, self._zone) == dues[-1] else dues[-1]


def checked_limit(limit: object) -> int:
    """How many occurrences are asked for; InvalidSchedule if it is below 1 or above 10,000."""
    if type(limit) is not int or not 1 <= limit <= MAX_OCCURRENCES:
        raise InvalidSchedule(f"'limit' is {limit!r:.80}; ask for 1 to {MAX_OCCURRENCES:,} occurrences.", field="limit")
    return limit


def _checked_dates(values: Collection[object]) -> frozenset[date]:
    days = frozenset(day for day in values if isinstance(day, date) and not isinstance(day, datetime))
    if len(values) > _MAX_EXCLUDED or any(day not in days for day in values):
        raise InvalidSchedule(f"'excluding' takes dates without a time, {_MAX_EXCLUDED} at most.", field="excluding")
    return days


def _parse_dates(texts: Collection[Any]) -> frozenset[date]:
    try:
        return frozenset(date.fromisoformat(text) for text in texts)
    except (ValueError, TypeError) as error:
        raise InvalidSchedule(
            "'excluding' has something that is no date; write a list such as ['2026-12-25'].", field="excluding"
        ) from error


def parse_duration(text: str, field: str) -> timedelta:
    """A duration as ISO 8601 writes it, in units of which each has one length; InvalidSchedule naming `field`."""
    if not (match := _DURATION.fullmatch(text)):
        raise InvalidSchedule(
            f"{field!r} is {text!r:.80}, which is no duration of weeks, days, hours, minutes and seconds; write one "
            "such as 'PT15M' or 'P1D', and months and years as a cron expression.",
            field=field,
        )
    return timedelta(**{unit: int(number) for unit, number in match.groupdict().items() if number})


def duration_text(span: timedelta) -> str:
    """What `parse_duration` reads; in whole seconds."""
    hours, rest = divmod(span.seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    days = f"{span.days}D" if span.days else ""
    times = "".join(f"{number}{unit}" for number, unit in ((hours, "H"), (minutes, "M"), (seconds, "S")) if number)
    times = times or ("" if days else "0S")
    return f"P{days}T{times}" if times else f"P{days}"
