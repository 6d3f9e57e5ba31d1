"""What a user can say about time, and which occurrences follow (6.8)."""

import json
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_core.errors import AgentError, InvalidSchedule
from agent_core.proactive.recurrence import MAX_OCCURRENCES, Recurrence

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
PARIS = "Europe/Paris"


def _utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _wall(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _texts(recurrence: Recurrence, begin: str, limit: int) -> list[str]:
    return [f"{due:%m-%d %H:%M}" for due in recurrence.occurrences(_utc(begin), limit)]


def _paris(every: str, **further: Any) -> Recurrence:
    return Recurrence(every=every, zone=PARIS, start=NOON, **further)


# The table of docs/promises.md: what comes on 29 March and on 25 October 2026 in Paris, in UTC.
CHANGES = [
    ("30 2 * * *", ["01:00"], ["00:30"]),
    ("0,30 2 * * *", ["01:00"], ["00:00", "00:30"]),
    ("*/30 2,3 * * *", ["01:00", "01:30"], ["00:00", "00:30", "02:00", "02:30"]),
    ("0 */2 * * 0", ["23:00", "01:00", "02:00", "04:00"], ["22:00", "00:00", "03:00", "05:00"]),
    ("0 8 * * *", ["06:00"], ["07:00"]),
    ("30 * * * *", ["23:30", "00:30", "01:30", "02:30"], ["22:30", "23:30", "00:30", "01:30", "02:30"]),
    (
        "*/30 * * * *",
        ["23:00", "23:30", "00:00", "00:30", "01:00", "01:30", "02:00"],
        ["22:00", "22:30", "23:00", "23:30", "00:00", "00:30", "01:00", "01:30", "02:00"],
    ),
]


@pytest.mark.parametrize(("every", "spring", "autumn"), CHANGES)
def test_the_published_table_of_clock_changes_is_true(every: str, spring: list[str], autumn: list[str]) -> None:
    """R10. Ecosystem 3.4, and the two rows in which cronsim would skip or repeat a named hour."""
    recurrence = _paris(every)
    assert [text[6:] for text in _texts(recurrence, "2026-03-28T23:00", len(spring))] == spring
    assert [text[6:] for text in _texts(recurrence, "2026-10-24T22:00", len(autumn))] == autumn


def test_in_an_hour_that_is_shown_twice_what_comes_next_is_later_than_the_time_asked_for() -> None:
    """R10. cronsim itself gives 00:30 UTC here, which has passed."""
    recurrence = _paris("30 2 * * *")
    assert recurrence.next_after(_utc("2026-10-25T01:10")) == _utc("2026-10-26T01:30")


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (_wall("2026-03-29T02:30"), "2026-03-29T01:00"),
        (_wall("2026-10-25T02:30"), "2026-10-25T00:30"),
        (_wall("2026-10-25T02:30").replace(fold=1), "2026-10-25T00:30"),
        (_wall("2026-07-01T08:00"), "2026-07-01T06:00"),
        (datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo(PARIS)), "2026-10-25T01:30"),
    ],
)
def test_one_time_of_a_wall_clock_obeys_the_same_rules_and_an_aware_one_is_itself(at: datetime, expected: str) -> None:
    """6.8"""
    recurrence = Recurrence(at=at, zone=PARIS)
    assert recurrence.occurrences(NOON, 5) == [_utc(expected)]
    assert recurrence.first_due(_utc("2027-01-01")) == _utc(expected)  # it has passed: due at once
    assert recurrence.next_after(_utc(expected)) is None


def test_what_recurs_is_first_due_after_what_has_passed() -> None:
    recurrence = _paris("0 8 * * *")
    assert recurrence.first_due(_utc("2026-05-01T06:00")) == _utc("2026-05-01T06:00")
    assert recurrence.first_due(_utc("2026-05-01T06:01")) == _utc("2026-05-02T06:00")
    assert recurrence.first_due(_utc("2020-01-01")) == _utc("2026-03-03T07:00")


def test_an_interval_is_counted_from_its_start_through_a_change_of_clocks() -> None:
    """6.8: it follows UTC, so what was 08:00 in Paris is 09:00 in summer."""
    recurrence = Recurrence(every=timedelta(days=1), zone=PARIS, start=_wall("2026-03-28T08:00"))
    assert _texts(recurrence, "2026-01-01", 2) == ["03-28 07:00", "03-29 07:00"]
    autumn = Recurrence(every=timedelta(days=1), zone=PARIS, start=_wall("2026-10-24T08:00"))
    assert _texts(autumn, "2026-10-25", 1) == ["10-25 06:00"]


def test_start_and_until_are_both_included() -> None:
    until = NOON + timedelta(days=2)
    interval = Recurrence(every=timedelta(days=1), start=NOON, until=until)
    assert _texts(interval, "2026-01-01", 9) == ["03-02 12:00", "03-03 12:00", "03-04 12:00"]
    assert _texts(_paris("0 13 * * *", until=until), "2026-01-01", 9) == ["03-02 12:00", "03-03 12:00", "03-04 12:00"]


def test_excluded_dates_are_local_ones_and_count_as_in_rfc_5545() -> None:
    """6.8: Auckland's 4 March begins on 3 March in UTC."""
    recurrence = Recurrence(
        every="0 8 * * *", zone="Pacific/Auckland", start=NOON, count=3, excluding=[date(2026, 3, 4)]
    )
    assert _texts(recurrence, "2026-01-01", 9) == ["03-02 19:00", "03-04 19:00"]


def test_a_date_that_is_excluded_takes_along_what_a_gap_moved_to_the_next_day() -> None:
    """In Nuuk 23:30 on 28 March 2026 is midnight, at 01:00 UTC on the 29th."""
    given_to: dict[str, Any] = {"every": "30 23 * * *", "zone": "America/Nuuk", "start": NOON}
    assert _utc("2026-03-29T01:00") in Recurrence(**given_to).occurrences(_utc("2026-03-28"), 3)
    without = Recurrence(**given_to, excluding={date(2026, 3, 28)}).occurrences(_utc("2026-03-28"), 3)
    assert _utc("2026-03-29T01:00") not in without


@pytest.mark.parametrize("every", ["0 8 * * 1-5", "30 * * * *", "PT90M"])
def test_a_count_ends_where_it_would_by_counting_whenever_one_asks(every: str) -> None:
    """Through the fold of October: the last one can be in the second pass."""
    begin = datetime(2026, 10, 24, 20, 0, tzinfo=UTC)
    endless = Recurrence(every=every, zone=PARIS, start=begin).occurrences(begin, 20)
    for count in range(1, 20):
        counted = Recurrence.from_dict(Recurrence(every=every, zone=PARIS, start=begin, count=count).to_dict())
        assert counted.occurrences(begin, 20) == endless[:count]
        assert counted.next_after(endless[count - 1]) is None


def test_what_follows_does_not_depend_on_when_one_asks() -> None:
    """Nominal times are parts of keys."""
    recurrence = _paris("*/7 1-3 * * *")
    every = recurrence.occurrences(_utc("2026-10-24"), 200)
    for asked in range(0, 3 * 24 * 60, 13):
        moment = _utc("2026-10-24") + timedelta(minutes=asked, microseconds=1)
        assert recurrence.next_after(moment) == next(due for due in every if due > moment)


def test_ten_thousand_occurrences_can_be_previewed_and_no_more() -> None:
    recurrence = _paris("*/15 * * * *")
    assert len(recurrence.occurrences(NOON, MAX_OCCURRENCES)) == 10_000
    for limit in (0, 10_001):
        with pytest.raises(InvalidSchedule, match="10,000") as error:
            recurrence.occurrences(NOON, limit)
        assert error.value.field == "limit"


START = {"start": "2026-03-02T12:00:00Z"}
CRON = {"zone": PARIS, **START}

REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({}, "at", "one time, or 'every'"),
    ({"at": "2026-03-02T12:00Z", "every": "P1D"}, "at", "either"),
    ({"at": "2026-03-02T12:00"}, "at", "no time zone"),
    ({"at": "2026-02-30T12:00Z"}, "at", "no date and time"),
    ({"at": "tomorrow"}, "at", "no date and time"),
    ({"at": 5}, "at", "no date and time"),
    ({"at": "1492-10-12T12:00Z"}, "at", "year 1492"),
    ({"at": "9999-12-31T23:59:59-12:00"}, "at", "year 9999"),
    ({"at": "2026-03-02T12:00Z", **START}, "start", "goes with 'every'"),
    ({"at": "2026-03-02T12:00Z", "count": 3}, "count", "goes with 'every'"),
    ({"at": "2026-03-02T12:00Z", "count": 0}, "count", "goes with 'every'"),
    ({"at": "2026-03-02T12:00Z", "excluding": ["2026-03-02"]}, "excluding", "goes with 'every'"),
    ({"at": "2026-03-02T12:00", "zone": "Europe/Atlantis"}, "zone", "no IANA time zone"),
    ({"at": "2026-03-02T12:00", "zone": "Europe"}, "zone", "no IANA time zone"),
    ({"at": "2026-03-02T12:00", "zone": "../../etc/passwd"}, "zone", "no IANA time zone"),
    ({"at": "2026-03-02T12:00", "zone": "x" * 5000}, "zone", "no IANA time zone"),
    ({"at": "2026-03-02T12:00", "zone": ["UTC"]}, "zone", "no IANA time zone"),
    ({"every": "0 8 * * *", **START}, "zone", "needs a 'zone'"),
    ({"every": "0 8 * * *", "zone": PARIS}, "start", "needs a 'start'"),
    ({"every": "0 8 30 2 *", **CRON}, "every", "never fires"),
    ({"every": "0 8 31 2,4,6 *", **CRON}, "every", "never fires"),
    ({"every": "0 8 31 13 *", **CRON}, "every", "bad month"),
    ({"every": "60 8 * * *", **CRON}, "every", "bad minute"),
    ({"every": "0 0 8 * * *", **CRON}, "every", "five fields"),
    ({"every": "@daily", **CRON}, "every", "five fields"),
    ({"every": "", **CRON}, "every", "five fields"),
    ({"every": "0," * 200 + "0 8 * * *", **CRON}, "every", "200 characters"),
    ({"every": 5, **CRON}, "every", "cron expression or a timedelta"),
    ({"every": "PT59S", **START}, "every", "at least a minute"),
    ({"every": "P99999D", **START}, "every", "at most 3,660 days"),
    ({"every": "P1M", **START}, "every", "no duration"),
    ({"every": "PT", **START}, "every", "no duration"),
    ({"every": "P1D", "start": "2026-03-02T12:00"}, "start", "no time zone"),
    ({"every": "P1D", **START, "until": "2026-03-02T11:59Z"}, "until", "before the first occurrence"),
    ({"every": "0 8 1 1 *", **CRON, "until": "2026-12-31T23:59"}, "until", "2027-01-01 07:00 UTC"),
    ({"every": "P1D", **START, "until": "2026-05-02T11:59Z", "count": 3}, "count", "not both"),
    ({"every": "P1D", **START, "count": 0}, "count", "1 to 10,000"),
    ({"every": "P1D", **START, "count": 10_001}, "count", "1 to 10,000"),
    ({"every": "P1D", **START, "count": True}, "count", "1 to 10,000"),
    ({"every": "P1D", **START, "count": "3"}, "count", "1 to 10,000"),
    ({"every": "P3000D", **START, "count": 10_000}, "count", "after the year 2999"),
    ({"every": "P1D", **START, "last": "2026-03-02T12:00Z"}, "last", "'until' instead"),
    ({"every": "P1D", **START, "count": 2, "excluding": ["2026-03-02", "2026-03-03"]}, "excluding", "no occurrence"),
    ({"every": "P1D", **START, "excluding": ["2026-02-30"]}, "excluding", "no date"),
    ({"every": "P1D", **START, "excluding": 5}, "excluding", "no date"),
    ({"every": "P1D", **START, "untill": "2026-05-02T11:59Z"}, "untill", "unknown"),
]


@pytest.mark.parametrize(("data", "field", "reason"), REFUSED)
def test_what_cannot_be_is_refused_with_the_name_of_the_field(data: dict[str, Any], field: str, reason: str) -> None:
    """Issue 7, bad input."""
    with pytest.raises(InvalidSchedule, match=reason) as error:
        Recurrence.from_dict(data)
    assert error.value.field == field
    assert len(str(error.value)) < 400


def test_dates_with_a_time_and_too_many_dates_are_refused() -> None:
    for excluding in ([NOON], [date(2026, 1, 1) + timedelta(days=day) for day in range(367)]):
        with pytest.raises(InvalidSchedule) as error:
            Recurrence(every="P1D", start=NOON, excluding=excluding)
        assert error.value.field == "excluding"


def test_the_error_is_one_of_the_library_and_a_value_error() -> None:
    assert issubclass(InvalidSchedule, AgentError)
    assert issubclass(InvalidSchedule, ValueError)


def test_the_stored_form_is_stable() -> None:
    """Schedules are stored for years: what is written today must be readable then."""
    recurrence = Recurrence(
        every=" 0  8 * * mon-fri ",
        zone=PARIS,
        start=_wall("2026-03-02T08:00"),
        count=4,
        excluding={date(2026, 12, 25), date(2026, 5, 1)},
    )
    assert recurrence.to_dict() == {
        "start": "2026-03-02T08:00:00",
        "last": "2026-03-05T08:00:00",
        "every": "0 8 * * mon-fri",
        "zone": PARIS,
        "count": 4,
        "excluding": ["2026-05-01", "2026-12-25"],
    }
    assert Recurrence(every=timedelta(days=1, hours=2, minutes=3, seconds=4), start=NOON).to_dict() == {
        "start": "2026-03-02T12:00:00Z",
        "every": "P1DT2H3M4S",
    }


_moments = st.datetimes(_wall("2000-01-01"), _wall("2100-01-01"), timezones=st.sampled_from([UTC, ZoneInfo(PARIS)]))
_naive = st.datetimes(_wall("2000-01-01"), _wall("2100-01-01"))
_zones = st.sampled_from([PARIS, "UTC", "America/Havana", "Australia/Lord_Howe"])
_every = st.sampled_from(["0 8 * * *", "*/5 * * * *", "0 12 L * *", "15 2 * * MON#2", "30 1-3 29 2 *"]) | st.builds(
    timedelta, minutes=st.integers(1, 10_000), seconds=st.integers(0, 59)
)
_recurrences = st.builds(Recurrence, at=_moments | _naive, zone=_zones) | st.builds(
    Recurrence,
    every=_every,
    zone=_zones,
    start=_moments | _naive,
    count=st.none() | st.integers(12, 40),
    excluding=st.frozensets(st.dates(date(2000, 1, 1), date(2100, 1, 1)), max_size=9),
)


@given(_recurrences)
def test_what_is_stored_and_read_again_gives_the_same_occurrences(recurrence: Recurrence) -> None:
    text = json.dumps(recurrence.to_dict())
    read = Recurrence.from_dict(json.loads(text))
    assert read == recurrence
    begin = datetime(2000, 1, 1, tzinfo=UTC) - timedelta(days=2)
    assert read.occurrences(begin, 12) == recurrence.occurrences(begin, 12) != []
    assert json.dumps(read.to_dict()) == text
    assert len(text) < 400


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.sampled_from(["P1D", PARIS]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(Recurrence.__slots__) | st.text(max_size=5), _json, max_size=5))
def test_whatever_comes_in_is_a_recurrence_or_one_clear_error(data: dict[str, Any]) -> None:
    try:
        recurrence = Recurrence.from_dict(data)
    except InvalidSchedule as error:
        field = error.field
    else:
        field = "at"
        assert recurrence.occurrences(datetime(1970, 1, 1, tzinfo=UTC), 1)
    assert field in {*data, "at", "start", "zone"}


def test_importing_it_does_not_import_the_cron_library() -> None:
    """A cold start is what a user feels."""
    check = "import sys, agent_core.proactive.recurrence; sys.exit('cronsim' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
