"""R10: every IANA zone from 2024 to 2030 against the brute-force oracle of `zone_oracle`.

A sample of zones with all that is odd is always checked; with AGENT_TESTS_ALL_ZONES=1 it is every zone there is, once
for all that show the same times in these years.
"""

import os
from collections.abc import Iterable
from datetime import date, time, timedelta
from zoneinfo import available_timezones

import pytest

from agent_core.proactive.quiet_hours import WEEKDAYS, QuietHours
from agent_core.proactive.recurrence import Recurrence
from tests.proactive.zone_oracle import DAY, EPOCH, FIRST, LAST, Clock, Stretch, minutes, moment, stretches

ODD = (
    "Africa/Casablanca",  # back for Ramadan
    "Africa/El_Aaiun",
    "America/Havana",  # midnight twice
    "America/Nuuk",  # 23:00 to midnight does not exist
    "America/Santiago",  # midnight does not exist
    "America/St_Johns",  # half an hour off
    "Antarctica/Troll",  # two hours at once
    "Asia/Beirut",
    "Asia/Gaza",
    "Asia/Kathmandu",  # a quarter off
    "Australia/Lord_Howe",  # half an hour at once
    "Europe/Dublin",  # winter time is the summer time less one
    "Europe/Paris",
    "Pacific/Chatham",
    "UTC",
)
ALL = os.environ.get("AGENT_TESTS_ALL_ZONES") == "1"


def _different(zones: Iterable[str]) -> list[str]:
    """One for all that show the same times in these years, which the oracle finds out hour by hour."""
    first: dict[tuple[Stretch, ...], str] = {}
    for zone in sorted(zones):
        first.setdefault(stretches(zone), zone)
    return sorted(first.values())


ZONES = _different(available_timezones()) if ALL else ODD

# Local times of day: each hour in which some zone changes its clocks, and both sides of midnight.
TIMES = (0, 30, 60, 90, 120, 150, 180, 195, 720, 1380, 1410, 1439)
# Of these, on each day of the seven years.
DAILY = (30, 150, 1410) if ALL else (150,)


def _between(recurrence: Recurrence, first: int, last: int) -> list[int]:
    found = []
    for due in recurrence.after(moment(first - 1)):
        if due >= moment(last):
            break
        found.append(minutes(due))
    return found


def _changes(clock: Clock) -> list[int]:
    return clock.changes() if ALL else clock.changes()[:5]


def _midnights() -> range:
    """By the clock."""
    return range(minutes(FIRST), minutes(LAST), DAY)


@pytest.mark.parametrize("zone", ZONES)
def test_a_time_of_the_wall_clock_comes_once_on_each_local_day(zone: str) -> None:
    """R10. `DAILY` on every day, and all of `TIMES` around the changes, whenever one asks."""
    clock = Clock(zone)
    first, last = minutes(FIRST) - DAY, minutes(LAST) + DAY
    for at in DAILY:
        every = f"{at % 60} {at // 60} * * *"
        expected = [clock.first(midnight + at) for midnight in _midnights()]
        recurrence = Recurrence(every=every, zone=zone, start=moment(expected[0]), until=moment(expected[-1]))
        assert _between(recurrence, first, last) == expected, every
    for change in _changes(clock):
        around = [clock.shown(change) // DAY * DAY + days * DAY for days in range(-2, 4)]
        for at in TIMES:
            recurrence = Recurrence(every=f"{at % 60} {at // 60} * * *", zone=zone, start=moment(first))
            expected = [clock.first(midnight + at) for midnight in around]
            # Whenever it is asked: between the two passes of an hour too.
            for asked in range(clock.first(around[1] + at), expected[-1], 75 if ALL else 195):
                following = next(each for each in expected if each > asked)
                assert recurrence.next_after(moment(asked)) == moment(following), (at, asked)


@pytest.mark.parametrize("zone", ZONES)
def test_several_times_a_day_come_in_order_and_those_of_one_gap_come_once(zone: str) -> None:
    """R10. Hours that are named, so each local time once."""
    clock = Clock(zone)
    hours = (0, 1, 2, 3, 4, 12, 22, 23)
    recurrence = Recurrence(every="*/20 0-4,12,22,23 * * *", zone=zone, start=FIRST - timedelta(days=3))
    for change in _changes(clock) or [minutes(FIRST) + 100 * DAY]:
        around = [clock.shown(change) // DAY * DAY + days * DAY for days in range(-2, 3)]
        expected = {clock.first(day + hour * 60 + at) for day in around for hour in hours for at in (0, 20, 40)}
        found = _between(recurrence, min(expected), max(expected) + 1)
        assert found == sorted(expected)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize(("every", "past"), [("*/30 * * * *", (0, 30)), ("15 * * * *", (15,))])
def test_every_hour_goes_on_through_a_change(zone: str, every: str, past: tuple[int, ...]) -> None:
    """R10. Whenever the clock shows a match: for a year, and around every change."""
    clock = Clock(zone)
    recurrence = Recurrence(every=every, zone=zone, start=FIRST - timedelta(days=3))
    stretches = [(change - 2 * DAY, change + 2 * DAY) for change in _changes(clock)]
    stretches.append((minutes(FIRST), minutes(FIRST) + (366 if ALL else 60) * DAY))
    for first, last in stretches:
        expected = [minute for minute in range(first, last, 15) if clock.shown(minute) % 60 in past]
        assert _between(recurrence, first, last) == expected


@pytest.mark.parametrize("zone", ZONES)
def test_an_interval_follows_utc_whatever_the_clock_shows(zone: str) -> None:
    """R10. It begins at a local time, and leaves out local days."""
    clock = Clock(zone)
    excluded = {date(year, month, 29) for year in range(2024, 2031) for month in (3, 10)}
    for local in (FIRST.replace(month=3, day=10, hour=2, minute=30), FIRST.replace(hour=9)):
        begin = clock.first(minutes(local))
        recurrence = Recurrence(
            every=timedelta(hours=25), zone=zone, start=local.replace(tzinfo=None), excluding=excluded
        )
        expected = [
            minute
            for minute in range(begin, minutes(LAST), 25 * 60)
            if (EPOCH + timedelta(minutes=clock.shown(minute))).date() not in excluded
        ]
        assert _between(recurrence, begin, minutes(LAST)) == expected


QUIET = (
    QuietHours("UTC", time(20, 0), time(8, 0), days=WEEKDAYS[:5], holidays={date(2026, 1, 1), date(2026, 5, 25)}),
    QuietHours("UTC", time(2, 30), time(3, 15)),
    QuietHours("UTC", time(1, 15), time(0, 15)),
)


def _is_quiet(rule: QuietHours, local: int) -> bool:
    shown = EPOCH + timedelta(minutes=local)
    if shown.date() in rule.holidays or WEEKDAYS[shown.weekday()] not in rule.days:
        return True
    assert rule.begin
    assert rule.end
    begin = rule.begin.hour * 60 + rule.begin.minute
    # Minutes of the day from `begin` on: quiet are those until `end`, over midnight or not.
    length = (rule.end.hour * 60 + rule.end.minute - begin) % DAY
    return (local - begin) % DAY < length


@pytest.mark.parametrize("zone", ZONES)
def test_quiet_hours_end_at_the_first_moment_whose_clock_says_so(zone: str) -> None:
    """R10, 6.9. Asked around every change, and for two years (in the sample for two months)."""
    clock = Clock(zone)
    for pattern in QUIET:
        rule = QuietHours(zone, pattern.begin, pattern.end, pattern.days, pattern.holidays)
        stretches = [(change - 36 * 60, change + 36 * 60, 15 if ALL else 75) for change in _changes(clock)]
        stretches.append((minutes(FIRST), minutes(FIRST) + (731 if ALL else 62) * DAY, 60 if ALL else 45))
        for first, last, step in stretches:
            # Long enough for what is quiet at the end of it.
            allowed = None
            for minute in range(last + 6 * DAY, first - 1, -15):
                if not _is_quiet(rule, clock.shown(minute)):
                    allowed = minute
                if minute < last and (minute - first) % step == 0:
                    assert allowed is not None
                    assert rule.allowed_at(moment(minute)) == moment(allowed), (rule, moment(minute))
