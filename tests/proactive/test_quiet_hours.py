"""When people want to hear from an agent (6.9)."""

import json
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_core.errors import InvalidSchedule
from agent_core.proactive.quiet_hours import WEEKDAYS, Decision, QuietHours, decide, first_allowed

PARIS = "Europe/Paris"
NIGHT = QuietHours(PARIS, time(20, 0), time(8, 0))
OFFICE = QuietHours(PARIS, time(18, 0), time(9, 0), days=WEEKDAYS[:5], holidays={date(2026, 5, 25)})


def _utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("rule", "now", "expected"),
    [
        (NIGHT, "2026-03-02T12:00", "2026-03-02T12:00"),
        (NIGHT, "2026-03-02T18:59:59", "2026-03-02T18:59:59"),
        (NIGHT, "2026-03-02T19:00", "2026-03-03T07:00"),
        (NIGHT, "2026-03-03T02:00", "2026-03-03T07:00"),
        (NIGHT, "2026-03-03T07:00", "2026-03-03T07:00"),
        (NIGHT, "2026-03-28T22:00", "2026-03-29T06:00"),  # the night that is an hour shorter
        (OFFICE, "2026-05-22T16:30", "2026-05-26T07:00"),  # over a weekend and a holiday
        (QuietHours(PARIS, time(12, 0), time(14, 0)), "2026-03-02T11:30", "2026-03-02T13:00"),
        (QuietHours(PARIS, time(22, 0), time(2, 30)), "2026-03-29T00:30", "2026-03-29T01:00"),  # ends in the gap
        (QuietHours(PARIS, time(2, 40), time(3, 30)), "2026-10-25T00:50", "2026-10-25T01:00"),  # the clock goes back
        (QuietHours(PARIS, time(22, 0), time(2, 30)), "2026-10-25T01:10", "2026-10-25T01:30"),  # quiet again
        (QuietHours(PARIS), "2026-03-02T03:00", "2026-03-02T03:00"),
    ],
)
def test_a_message_waits_for_the_first_moment_that_is_not_quiet(rule: QuietHours, now: str, expected: str) -> None:
    """6.9"""
    assert rule.allowed_at(_utc(now)) == _utc(expected)


def test_an_app_and_a_recipient_must_both_allow_it() -> None:
    """The office opens at 09:00 in Paris; the recipient sleeps until 08:00 in New York."""
    recipient = QuietHours("America/New_York", time(22, 0), time(8, 0))
    assert first_allowed([OFFICE, recipient], _utc("2026-03-02T06:00")) == _utc("2026-03-02T13:00")


def test_rules_that_leave_no_moment_end_in_a_reason_and_not_in_a_search_for_ever() -> None:
    rules = [QuietHours(PARIS, time(8, 0), time(20, 0)), NIGHT]
    assert first_allowed(rules, _utc("2026-03-02T12:00")) is None
    decision = decide(_utc("2026-03-02T12:00"), rules)
    assert (decision.outcome, decision.at) == ("drop", None)
    assert decision.reason == (
        "dropped because the rules allow no moment in 400 days; now: quiet hours 08:00-20:00 Europe/Paris"
    )


NOW = _utc("2026-03-02T19:30")  # 20:30 in Paris
DAYTIME = _utc("2026-03-02T12:00")
YESTERDAY = _utc("2026-03-01T22:59")
BUSY = QuietHours(PARIS, time(20, 0), time(8, 0), a_day=3)


@pytest.mark.parametrize(
    ("decision", "expected"),
    [
        (decide(DAYTIME, [NIGHT]), Decision("send", "sent: nothing was in its way")),
        (decide(NOW, []), Decision("send", "sent: nothing was in its way")),
        (
            decide(NOW, [NIGHT]),
            Decision(
                "hold",
                "held until 2026-03-03 07:00 UTC because quiet hours 20:00-08:00 Europe/Paris",
                _utc("2026-03-03T07:00"),
            ),
        ),
        (
            decide(NOW, [NIGHT], urgent=True),
            Decision("send", "sent because it is urgent, in spite of quiet hours 20:00-08:00 Europe/Paris"),
        ),
        (decide(DAYTIME, [], urgent=True, opted_out=True), Decision("drop", "dropped because the recipient opted out")),
        (
            decide(DAYTIME, [], urgent=True, expires_at=DAYTIME),
            Decision("drop", "dropped because it expired at 2026-03-02 12:00 UTC"),
        ),
        (
            decide(NOW, [NIGHT], expires_at=_utc("2026-03-03T07:00")),
            Decision(
                "drop",
                "dropped because it expires at 2026-03-03 07:00 UTC: it would be held until 2026-03-03 07:00 UTC "
                "because quiet hours 20:00-08:00 Europe/Paris",
            ),
        ),
        (decide(DAYTIME, [BUSY], sent=[YESTERDAY, DAYTIME, DAYTIME]), Decision("send", "sent: nothing was in its way")),
        (
            decide(DAYTIME, [BUSY], sent=[DAYTIME] * 3),
            Decision(
                "hold",
                "held until 2026-03-03 07:00 UTC because 3 came on 2026-03-02, and 3 a day is the limit",
                _utc("2026-03-03T07:00"),
            ),
        ),
        (
            decide(DAYTIME, [BUSY], sent=[DAYTIME] * 3, urgent=True),
            Decision("send", "sent because it is urgent, in spite of 3 came on 2026-03-02, and 3 a day is the limit"),
        ),
        (
            decide(_utc("2026-05-23T12:00"), [OFFICE]),
            Decision(
                "hold",
                "held until 2026-05-26 07:00 UTC because Saturday is no working day in Europe/Paris",
                _utc("2026-05-26T07:00"),
            ),
        ),
        (
            decide(_utc("2026-05-25T12:00"), [OFFICE]),
            Decision(
                "hold",
                "held until 2026-05-26 07:00 UTC because 2026-05-25 is a holiday in Europe/Paris",
                _utc("2026-05-26T07:00"),
            ),
        ),
    ],
)
def test_a_decision_says_why(decision: Decision, expected: Decision) -> None:
    """6.9: an opt-out before everything, then expiry, then quiet hours and the number a day, which urgent ones pass."""
    assert decision == expected


def test_a_day_is_counted_by_the_clock_of_the_recipient() -> None:
    rule = QuietHours("Pacific/Auckland", a_day=1)
    assert rule.local_day(_utc("2026-03-02T12:00")) == date(2026, 3, 3)
    assert decide(_utc("2026-03-02T12:00"), [rule], sent=[_utc("2026-03-02T11:00")]).at == _utc("2026-03-03T11:00")


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({}, "zone"),
        ({"zone": "Europe/Atlantis"}, "zone"),
        ({"zone": PARIS, "begin": "20:00"}, "end"),
        ({"zone": PARIS, "end": "20:00"}, "begin"),
        ({"zone": PARIS, "begin": "25:00", "end": "08:00"}, "begin"),
        ({"zone": PARIS, "begin": "20:00Z", "end": "08:00"}, "begin"),
        ({"zone": PARIS, "begin": "20:00", "end": "08:00:30"}, "end"),
        ({"zone": PARIS, "begin": 20, "end": "08:00"}, "begin"),
        ({"zone": PARIS, "begin": "20:00", "end": "20:00"}, "end"),
        ({"zone": PARIS, "days": []}, "days"),
        ({"zone": PARIS, "days": ["monday"]}, "days"),
        ({"zone": PARIS, "days": [["mon"]]}, "days"),
        ({"zone": PARIS, "holidays": ["2026-02-30"]}, "holidays"),
        ({"zone": PARIS, "holidays": [f"{year}-01-01" for year in range(2000, 2400)]}, "holidays"),
        ({"zone": PARIS, "a_day": 0}, "a_day"),
        ({"zone": PARIS, "a_day": "3"}, "a_day"),
        ({"zone": PARIS, "quiet": "20:00"}, "quiet"),
    ],
)
def test_what_cannot_be_is_refused_with_the_name_of_the_field(data: dict[str, Any], field: str) -> None:
    """Issue 7, bad input."""
    with pytest.raises(InvalidSchedule) as error:
        QuietHours.from_dict(data)
    assert error.value.field == field


_times = st.times().map(lambda at: at.replace(second=0, microsecond=0))
_rules = st.builds(
    QuietHours,
    st.sampled_from([PARIS, "America/Havana", "Asia/Kathmandu"]),
    days=st.sets(st.sampled_from(WEEKDAYS), min_size=1),
    holidays=st.sets(st.dates(date(2026, 1, 1), date(2026, 12, 31)), max_size=5),
    a_day=st.none() | st.integers(1, 9),
) | st.builds(lambda times: QuietHours(PARIS, *times), st.lists(_times, min_size=2, max_size=2, unique=True).map(tuple))


@given(_rules)
def test_what_is_stored_and_read_again_is_the_same(rule: QuietHours) -> None:
    assert QuietHours.from_dict(json.loads(json.dumps(rule.to_dict()))) == rule


_passed = st.timedeltas(timedelta(0), timedelta(days=365))


@given(st.lists(_rules, max_size=3), _passed.map(lambda passed: datetime(2026, 1, 1, tzinfo=UTC) + passed))
def test_a_held_message_is_sent_when_it_is_asked_about_again_and_never_earlier(
    rules: list[QuietHours], now: datetime
) -> None:
    """6.9: held ones keep their order, because what comes later is never allowed earlier."""
    decision = decide(now, rules)
    if decision.at is not None:
        assert decision.at > now
        assert decide(decision.at, rules).outcome == "send"
        assert decide(decision.at - timedelta(microseconds=1), rules).at == decision.at
    assert decision.outcome != "send" or first_allowed(rules, now) == now
