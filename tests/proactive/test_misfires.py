"""What becomes of occurrences that a timer missed (6.8, R9)."""

from bisect import bisect_left
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_core.errors import InvalidSchedule
from agent_core.proactive.misfires import MAX_AT_ONCE, MisfirePolicy, Misfires, Tick, tick
from agent_core.proactive.recurrence import Recurrence

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
HOURLY = Recurrence(every=HOUR, start=NOON)


def _hours(found: Tick) -> list[int]:
    return [(due - NOON) // HOUR for due in found.hand_over]


def _stretches(found: Tick) -> list[tuple[int, int, str]]:
    """From which hour to before which, and why."""
    return [((each.since - NOON) // HOUR, -((NOON - each.before) // HOUR), each.reason) for each in found.dropped]


def test_before_its_time_nothing_happens() -> None:
    assert tick(HOURLY, NOON, NOON - MINUTE, Misfires()) == Tick((), (), NOON)


def test_a_clock_that_went_back_does_not_bring_back_what_was_decided() -> None:
    """R9"""
    recurrence = Recurrence(every=MINUTE, start=NOON)
    for back in (timedelta(seconds=30), 10 * MINUTE):
        assert tick(recurrence, NOON + 11 * MINUTE, NOON + 10 * MINUTE - back, Misfires()).due == NOON + 11 * MINUTE


@pytest.mark.parametrize("policy", ["latest", "skip", "all"])
def test_on_time_every_policy_hands_over_the_one_that_is_due(policy: MisfirePolicy) -> None:
    assert tick(HOURLY, NOON, NOON + MINUTE, Misfires(policy)) == Tick((NOON,), (), NOON + HOUR)


@pytest.mark.parametrize(
    ("policy", "late", "handed", "dropped"),
    [
        ("latest", MINUTE, [0], []),
        ("latest", 6 * HOUR + 30 * MINUTE, [6], [(0, 6, "superseded")]),
        ("latest", 3 * DAY, [72], [(0, 72, "superseded")]),
        ("skip", 6 * HOUR + 30 * MINUTE, [], [(0, 7, "late")]),
        ("skip", 6 * HOUR + MINUTE, [6], [(0, 6, "late")]),
        ("all", 6 * HOUR, [0, 1, 2, 3, 4, 5, 6], []),
        ("all", 3 * DAY, list(range(73)), []),
        ("all", 5 * DAY, list(range(21, 121)), [(0, 21, "too many")]),
    ],
)
def test_a_missed_stretch_follows_the_policy(
    policy: MisfirePolicy, late: timedelta, handed: list[int], dropped: list[tuple[int, int, str]]
) -> None:
    """R9: missed for one minute, six hours and three days."""
    found = tick(HOURLY, NOON, NOON + late, Misfires(policy))
    assert (_hours(found), _stretches(found)) == (handed, dropped)
    assert found.due == NOON + (late // HOUR + 1) * HOUR


def test_what_has_expired_is_dropped_whatever_the_policy() -> None:
    expires = Misfires("all", expires=2 * HOUR)
    found = tick(HOURLY, NOON, NOON + 6 * HOUR, expires)
    assert (_hours(found), _stretches(found)) == ([5, 6], [(0, 5, "expired")])
    both = tick(HOURLY, NOON, NOON + 6 * HOUR + 30 * MINUTE, Misfires("skip", expires=2 * HOUR))
    assert (_hours(both), _stretches(both)) == ([], [(0, 5, "expired"), (5, 7, "late")])


def test_one_time_that_is_late_is_sent_or_dropped_and_then_it_is_done() -> None:
    once = Recurrence(at=NOON)
    for misfires, handed in ((Misfires(), (NOON,)), (Misfires("skip"), ()), (Misfires(expires=DAY), ())):
        found = tick(once, NOON, NOON + 3 * DAY, misfires)
        assert (found.hand_over, found.due) == (handed, None)
        assert len(found.dropped) == (not handed)


def test_a_schedule_for_every_minute_that_was_missed_for_years_costs_little() -> None:
    """Two million occurrences: walking through them would take longer than a tick has."""
    recurrence = Recurrence(every="* * * * *", zone="Europe/Paris", start=NOON)
    now = NOON + 4 * 365 * DAY
    found = tick(recurrence, NOON, now, Misfires("all"))
    assert found.hand_over == tuple(now - minute * MINUTE for minute in reversed(range(MAX_AT_ONCE)))
    assert [(each.since, each.before) for each in found.dropped] == [(NOON, now - 99 * MINUTE)]


def test_a_due_time_that_newer_zone_data_moved_is_only_asked_about_again() -> None:
    recurrence = Recurrence(every="0 8 * * *", zone="Europe/Paris", start=NOON)
    moved, right = datetime(2026, 3, 3, 6, 0, tzinfo=UTC), datetime(2026, 3, 3, 7, 0, tzinfo=UTC)
    assert tick(recurrence, moved, moved, Misfires()) == Tick((), (), right)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"policy": "some"}, "misfire"),
        ({"grace": -MINUTE}, "grace"),
        ({"expires": timedelta(0)}, "expires"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidSchedule) as error:
        Misfires(**values)  # type: ignore[arg-type]  # that is what is tested
    assert error.value.field == field


RECURRENCES = (
    Recurrence(every=timedelta(minutes=17), start=NOON),
    Recurrence(every="*/20 * * * *", zone="Europe/Paris", start=NOON),
    Recurrence(every="0,30 1-3 * * *", zone="Europe/Paris", start=datetime(2026, 10, 24, tzinfo=UTC)),
    Recurrence(every="15 2 * * *", zone="America/New_York", start=datetime(2026, 3, 7, tzinfo=UTC), count=5),
    Recurrence(at=NOON + 2 * HOUR),
)
# From one look to the next: ticks, missed ones, two at once, and another host's clock that is ten minutes behind.
PASSING = st.sampled_from([timedelta(0), MINUTE, 5 * MINUTE, HOUR, 6 * HOUR, 3 * DAY, -MINUTE, -10 * MINUTE])


@settings(max_examples=150)
@given(
    st.sampled_from(RECURRENCES),
    st.builds(
        Misfires,
        st.sampled_from(["latest", "skip", "all"]),
        st.sampled_from([timedelta(0), 5 * MINUTE, 2 * HOUR]),
        st.sampled_from([None, MINUTE, 3 * HOUR]),
    ),
    st.lists(st.tuples(PASSING, st.booleans()), min_size=1, max_size=12),
)
def test_whatever_the_ticks_each_occurrence_is_handed_over_once_or_dropped_once(
    recurrence: Recurrence, misfires: Misfires, ticks: list[tuple[timedelta, bool]]
) -> None:
    """R9. A timer that is killed after its claim leaves the claim, with its time, for the next one to repeat."""
    due = begin = recurrence.first_due(datetime(2026, 1, 1, tzinfo=UTC))
    now = begin or NOON
    claim: datetime | None = None
    decided: list[Tick] = []
    for passing, survives in ticks:
        now += passing
        if due is None:
            break
        claim = claim or now
        found = tick(recurrence, due, claim, misfires)
        assert found == tick(recurrence, due, claim, misfires)
        if not survives:
            continue
        assert found.due is None or found.due >= due
        assert len(found.hand_over) <= (1 if misfires.policy == "latest" else MAX_AT_ONCE)
        for nominal in found.hand_over:
            assert nominal <= claim
            assert misfires.expires is None or claim - nominal < misfires.expires
            assert misfires.policy != "skip" or claim - nominal <= misfires.grace
        decided.append(found)
        due, claim = found.due, None

    assert begin is not None
    every = recurrence.after(begin - timedelta(microseconds=1))
    nominals = list(takewhile(lambda nominal: due is None or nominal < due, every))
    fates = Counter(nominal for each in decided for nominal in each.hand_over)
    for drop in (drop for each in decided for drop in each.dropped):
        stretch = nominals[bisect_left(nominals, drop.since) : bisect_left(nominals, drop.before)]
        assert stretch[0] == drop.since
        fates.update(stretch)
    assert fates == Counter(nominals)
