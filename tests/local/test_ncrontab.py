"""NCRONTAB: when a timer fires, by the rules of the library that the Functions host uses."""

from datetime import UTC, datetime, timedelta, timezone
from itertools import islice

import pytest

from agent_core.local.ncrontab import InvalidTimerSchedule, occurrences

# A Monday.
NOON = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)

TABLE = [
    ("0 */5 * * * *", ["01-05 12:05:00", "01-05 12:10:00", "01-05 12:15:00"]),
    ("*/20 * * * * *", ["01-05 12:00:20", "01-05 12:00:40", "01-05 12:01:00"]),
    ("0 0 * * * *", ["01-05 13:00:00", "01-05 14:00:00"]),
    ("0 30 9 * * *", ["01-06 09:30:00", "01-07 09:30:00"]),
    ("0 30 9 * * MON-FRI", ["01-06 09:30:00", "01-07 09:30:00", "01-08 09:30:00", "01-09 09:30:00", "01-12 09:30:00"]),
    ("0 30 9 * * 1-5", ["01-06 09:30:00"]),
    ("0 30 9 * * fri-mon", ["01-06 09:30:00"]),
    ("0 0 0 * * Sunday", ["01-11 00:00:00", "01-18 00:00:00"]),
    ("0 0 0 1 JUL *", ["07-01 00:00:00"]),
    ("0 0 0 1 3,September *", ["03-01 00:00:00", "09-01 00:00:00"]),
    ("0 5/15 13 * * *", ["01-05 13:05:00", "01-05 13:20:00", "01-05 13:35:00", "01-05 13:50:00", "01-06 13:05:00"]),
    ("0 0 8-18/4 * * *", ["01-05 16:00:00", "01-06 08:00:00", "01-06 12:00:00"]),
    ("5,8,10 * 13 * * *", ["01-05 13:00:05", "01-05 13:00:08", "01-05 13:00:10", "01-05 13:01:05"]),
    ("0 0 0 31 * *", ["01-31 00:00:00", "03-31 00:00:00", "05-31 00:00:00"]),
]


@pytest.mark.parametrize(("expression", "expected"), TABLE)
def test_a_schedule_fires_at_its_times(expression: str, expected: list[str]) -> None:
    found = [f"{moment:%m-%d %H:%M:%S}" for moment in islice(occurrences(expression, NOON), len(expected))]
    assert found == expected


def test_the_day_and_the_weekday_must_both_match() -> None:
    """NCrontab's rule; crontab itself would fire on each 13th and on each Friday."""
    found = list(islice(occurrences("0 0 12 13 * FRI", NOON), 3))
    assert [(each.year, each.month, each.day) for each in found] == [(2026, 2, 13), (2026, 3, 13), (2026, 11, 13)]


def test_a_leap_day_on_a_monday_is_found_years_ahead() -> None:
    assert next(occurrences("0 0 0 29 2 MON", NOON)) == datetime(2044, 2, 29, tzinfo=UTC)


def test_an_occurrence_is_later_than_the_time_given() -> None:
    assert next(occurrences("0 0 12 * * *", NOON)) == NOON + timedelta(days=1)
    assert next(occurrences("0 0 12 * * *", NOON - timedelta(microseconds=1))) == NOON


def test_times_are_in_utc_whatever_zone_the_start_is_in() -> None:
    in_tokyo = NOON.astimezone(timezone(timedelta(hours=9)))
    found = next(occurrences("0 0 21 * * *", in_tokyo))
    assert found == datetime(2026, 1, 5, 21, 0, tzinfo=UTC)
    assert found.tzinfo is UTC


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("*/5 * * * *", "has 5 fields"),
        ("0 0 0 1 1 * 2026", "has 7 fields"),
        ("", "has 0 fields"),
        ("00:05:00", "App Service plans"),
        ("0 0 0 30 2 *", "never fires"),
        ("0 0 0 31 2,4,6 *", "never fires"),
        ("0 0 0 * * 7", "'7' is no weekday"),
        ("60 * * * * *", "'60' is no second"),
        ("0 0 24 * * *", "'24' is no hour"),
        ("0 0 0 0 * *", "'0' is no day"),
        ("0 0 0 * 13 *", "'13' is no month"),
        ("0 0 0 * * FRY", "'FRY' is no weekday"),
        ("0 0 0 L * *", "'L' is no day"),
        ("0 0 0 * * 5#2", "'5#2' is no weekday"),
        ("0 */0 * * * *", "'0' is no step"),
        ("0 */x * * * *", "'x' is no step"),
        ("0 1,,2 * * * *", "'' is no minute"),
        ("0 -5 * * * *", "'' is no minute"),
    ],
)
def test_what_the_timer_would_refuse_is_refused_at_once(expression: str, reason: str) -> None:
    with pytest.raises(InvalidTimerSchedule, match=reason):
        occurrences(expression, NOON)
