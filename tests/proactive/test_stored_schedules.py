"""A schedule as it is stored and decided about, for whatever it may hold (6.8)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agent_core.proactive.misfires import MAX_AT_ONCE, Misfires
from agent_core.proactive.recipients import ConversationRecipient, Recipient, UserRecipient
from agent_core.proactive.recurrence import Recurrence
from agent_core.proactive.schedules import REMEMBERED, DroppedStretch, HandingOver, Schedule, new_id
from agent_core.proactive.timer import AHEAD, decide
from agent_core.store.document_rules import checked_body
from agent_core.store.document_store import SCHEDULES, Document

NOON = datetime(2026, 3, 28, 12, 0, tzinfo=UTC)
MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
SPANS = st.integers(1, 100_000).map(lambda minutes: timedelta(minutes=minutes))
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
ZONES = st.sampled_from(["Europe/Paris", "Australia/Lord_Howe", "America/Santiago", "UTC"])
RECURRENCES: st.SearchStrategy[Recurrence] = st.one_of(
    st.builds(Recurrence, at=MOMENTS),
    st.builds(Recurrence, every=SPANS, start=st.just(NOON), count=st.one_of(st.none(), st.integers(1, 50))),
    st.builds(
        Recurrence,
        every=st.sampled_from(["* * * * *", "*/20 * * * *", "30 2 * * *", "0 9 * * 1-5", "15 3 L * *"]),
        zone=ZONES,
        start=st.just(NOON),
        excluding=st.sets(st.dates(date(2026, 4, 1), date(2026, 4, 30)), max_size=3),
    ),
)
MISFIRES = st.builds(
    Misfires,
    st.sampled_from(["latest", "skip", "all"]),
    st.sampled_from([timedelta(0), timedelta(minutes=5), timedelta(hours=2)]),
    st.sampled_from([None, timedelta(minutes=1), timedelta(hours=3)]),
)
RECIPIENTS: st.SearchStrategy[Recipient] = st.one_of(
    st.builds(ConversationRecipient, TEXTS, TEXTS), st.builds(UserRecipient, TEXTS)
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Any that could be stored."""
    to = draw(RECIPIENTS)
    at = draw(MOMENTS)
    claim = draw(st.one_of(st.none(), st.just(HandingOver(at, at + AHEAD))))
    stretches = st.builds(DroppedStretch, MOMENTS, MOMENTS, st.sampled_from(["expired", "late", "superseded"]), MOMENTS)
    return Schedule(
        id=new_id(to, "x1"),
        to=to,
        recurrence=draw(RECURRENCES),
        next=draw(st.one_of(st.none(), MOMENTS)),
        activity=draw(st.one_of(st.none(), st.dictionaries(TEXTS, JSON, max_size=3))),
        continuation=draw(st.one_of(st.none(), TEXTS)),
        value=draw(JSON),
        misfires=draw(MISFIRES),
        is_notification=draw(st.booleans()),
        urgent=draw(st.booleans()),
        tag=draw(st.one_of(st.none(), TEXTS)),
        status=draw(st.sampled_from(["scheduled", "paused", "done", "cancelled", "unusable"])),
        generation=draw(st.integers(1, 10**6)),
        changed=draw(st.one_of(st.none(), MOMENTS)),
        claim=claim,
        handed_over=tuple(draw(st.lists(MOMENTS, max_size=REMEMBERED))),
        dropped=tuple(draw(st.lists(stretches, max_size=3))),
        created=draw(st.one_of(st.none(), MOMENTS)),
    )


@settings(max_examples=150)
@given(schedules())
def test_a_schedule_that_is_read_is_the_one_that_was_stored(schedule: Schedule) -> None:
    body = checked_body(SCHEDULES, schedule.to_document()).copy()
    read = Schedule.from_document(Document(body, "1"))
    assert read == schedule
    assert read.to_document() == schedule.to_document()


@settings(max_examples=150)
@given(schedules(), MOMENTS)
def test_with_a_claim_only_the_claim_and_the_next_look_are_written(schedule: Schedule, look: datetime) -> None:
    stored = Document(schedule.to_document(), "1")
    claimed = replace(schedule, stored=stored, claim=HandingOver(look, look + AHEAD))
    read = Schedule.from_document(Document(claimed.with_claim(look), "2"))
    assert read == claimed


@settings(max_examples=150)
@given(schedules(), st.timedeltas(timedelta(days=-2), timedelta(days=4)))
def test_a_decision_follows_from_the_claim_alone_and_never_goes_back(schedule: Schedule, late: timedelta) -> None:
    """R9. Whoever finds the claim after a death decides the same; each nominal time is decided about once."""
    due = schedule.recurrence.first_due(NOON)
    assume(due is not None)
    assert due is not None
    at = due + late
    claimed = replace(schedule, status="scheduled", next=due, claim=HandingOver(at, at + AHEAD))
    dues, after = decide(claimed)
    assert decide(claimed) == (dues, after)
    again = Schedule.from_document(Document(claimed.to_document(), "1"))
    assert decide(again)[0] == dues
    assert decide(again)[1].to_document() == after.to_document()

    assert after.claim is None
    assert (after.next is None) == (after.status == "done")
    assert after.next is None or after.next >= due
    assert after.next is None or after.next > at + AHEAD
    assert dues == sorted(set(dues))
    assert all(due <= each <= at + AHEAD for each in dues)
    assert sum(each <= at for each in dues) <= (1 if claimed.misfires.policy == "latest" else MAX_AT_ONCE)
    dropped = after.dropped[len(claimed.dropped) :]
    assert not any(each.since <= nominal < each.before for each in dropped for nominal in dues)
    # The next claim begins where this one ended, whatever the clock of whoever makes it says.
    if after.next is not None:
        earlier = replace(after, claim=HandingOver(at - timedelta(minutes=10), at - timedelta(minutes=10) + AHEAD))
        assert decide(earlier)[0] == []
        assert decide(earlier)[1].next == after.next
