"""Which local times a cron expression names: what cronsim itself would walk to, found faster."""

from datetime import datetime, timedelta
from itertools import islice

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from agent_core.proactive.cron import parse_cron


def _field(low: int, high: int, *special: str) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    span = st.tuples(number, number).map(lambda ends: f"{min(ends)}-{max(ends)}")
    term = number.map(str) | span | st.sampled_from(["*", "*/2", "*/7", f"{low}/5", *special])
    return st.lists(term, min_size=1, max_size=3).map(",".join)


EXPRESSIONS = st.tuples(
    _field(0, 59),
    _field(0, 23),
    _field(1, 28, "L", "LW", "31"),
    st.just("*") | _field(1, 12),
    _field(0, 7, "MON#2", "5L"),
).map(" ".join)


@given(EXPRESSIONS, st.timedeltas(timedelta(0), timedelta(days=2500)))
def test_the_times_are_those_that_cronsim_gives(expression: str, passed: timedelta) -> None:
    begin = datetime.fromisoformat("2024-01-01") + passed
    assert list(islice(parse_cron(expression).after(begin), 50)) == list(islice(CronSim(expression, begin), 50))


@pytest.mark.parametrize(
    ("expression", "expected"),
    [("0 8 29 2 *", "2028-02-29T08:00"), ("0 8 * 2 1#5", "2044-02-29T08:00"), ("59 23 31 12 *", "2026-12-31T23:59")],
)
def test_a_rare_day_is_found(expression: str, expected: str) -> None:
    found = next(parse_cron(expression).after(datetime.fromisoformat("2026-01-01")))
    assert found == datetime.fromisoformat(expected)
