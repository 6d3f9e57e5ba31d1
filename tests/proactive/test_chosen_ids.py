"""Whoever names a schedule himself can say it again: it is there once, whoever is first."""

import asyncio
from datetime import timedelta

import pytest

from agent_core.activity.conversation_reference import ChannelAccount, ConversationParameters
from agent_core.errors import ConversationNotFound, InvalidSchedule, NotAllowed, ScheduleConflict
from agent_core.proactive.recipients import ConversationRecipient, NewConversation, UserRecipient
from agent_core.store.document_store import SCHEDULES
from tests.proactive.setting import Setting


@pytest.fixture
async def setting() -> Setting:
    found = Setting()
    await found.adapter.say(found.agent, "hello")
    return found


async def stored(setting: Setting) -> int:
    return len((await setting.store.query(SCHEDULES)).documents)


async def test_r10_two_at_once_with_one_id_make_one_schedule_and_send_it_once(setting: Setting) -> None:
    schedule = setting.agent.notifications.schedule
    at = setting.clock.now() + timedelta(minutes=1)
    made = await asyncio.gather(*(schedule("c1", at=at, activity="Tea!", id="tea") for _ in range(5)))
    assert (len(set(made)), await stored(setting)) == (1, 1)
    await setting.later(timedelta(minutes=1))
    await schedule("c1", at=at, activity="Tea!", id="tea")
    await setting.later(timedelta(minutes=1))
    assert setting.adapter.texts == ["Tea!"]


async def test_r10_of_two_at_once_with_one_id_and_other_content_the_second_is_refused(setting: Setting) -> None:
    schedule = setting.agent.notifications.schedule
    at = setting.clock.now() + timedelta(days=1)
    ended = await asyncio.gather(
        *(schedule("c1", at=at, activity=text, id="drink") for text in ("Tea!", "Coffee!")), return_exceptions=True
    )
    (refused,) = [each for each in ended if not isinstance(each, str)]
    assert isinstance(refused, ScheduleConflict)
    assert (refused.code, await stored(setting)) == ("IdTaken", 1)


async def test_what_was_valid_once_is_found_again_when_its_time_is_over(setting: Setting) -> None:
    """A retry that is late must not be told that it is too late for what was done."""
    until = setting.clock.now() + timedelta(hours=3)
    said = {"every": timedelta(hours=1), "until": until, "activity": "x", "id": "hourly"}
    made = await setting.agent.notifications.schedule("c1", **said)  # type: ignore[arg-type]  # the names are its own
    await setting.later(timedelta(hours=4))
    assert await setting.agent.notifications.schedule("c1", **said) == made  # type: ignore[arg-type]  # likewise


async def test_a_name_is_the_callers_own_for_each_recipient(setting: Setting) -> None:
    """Many recipients share a shard, and must not meet there."""
    at = setting.clock.now() + timedelta(days=1)
    names = [f"user{number}" for number in range(50)]
    made = [
        await setting.agent.notifications.schedule(UserRecipient(name), at=at, activity=name, id="campaign")
        for name in names
    ]
    assert len(set(made)) == 50
    assert len({each.partition("-")[0] for each in made}) > 4


async def test_a_conversation_that_is_named_must_be_known_however_it_is_named(setting: Setting) -> None:
    at = setting.clock.now() + timedelta(days=1)
    for to in ("unknown", ConversationRecipient("unknown"), ConversationRecipient("c1", "slack")):
        with pytest.raises(ConversationNotFound):
            await setting.agent.notifications.schedule(to, at=at, activity="x")
    assert await stored(setting) == 0


async def test_where_nothing_may_be_created_nothing_is_scheduled(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(service_url: str) -> None:
        raise NotAllowed("The serviceUrl is none of ours", code="ServiceUrlNotAllowed")

    monkeypatch.setattr("agent_core.testing.TestAdapter.check_service_url", lambda self, url: check(url))
    setting = Setting()
    to = NewConversation(
        "msteams", "https://evil.example/", ConversationParameters(members=[ChannelAccount(id="29:1")])
    )
    with pytest.raises(InvalidSchedule, match="none of ours") as refused:
        await setting.agent.notifications.schedule(to, at=setting.clock.now(), activity="x")
    assert (refused.value.field, await stored(setting)) == ("to", 0)
