"""A notification is sent when its time has come: once, and not at all if it was cancelled."""

from datetime import datetime, timedelta

import pytest

from agent_core import Activity, TurnContext, TurnState
from agent_core.errors import ContinuationNotFound, ConversationNotFound
from agent_core.store.document_store import SCHEDULES
from tests.proactive.setting import Setting


async def a_reminding_agent() -> Setting:
    setting = Setting()

    @setting.agent.message("remind")
    async def remind(context: TurnContext, state: TurnState) -> None:
        at = context.now + timedelta(minutes=1)
        await setting.agent.notifications.schedule(context.conversation, at=at, activity="It is time.")

    @setting.agent.continuation("look")
    async def look(context: TurnContext, state: TurnState) -> None:
        await context.send_activity(f"Looked at {context.activity.value}")

    return setting


async def test_a_notification_arrives_at_its_time_and_once() -> None:
    setting = await a_reminding_agent()
    await setting.adapter.say(setting.agent, "remind")
    await setting.later(timedelta(seconds=59))
    assert setting.adapter.texts == []
    await setting.later(timedelta(seconds=1))
    assert setting.adapter.texts == ["It is time."]
    await setting.later(timedelta(days=1))
    assert setting.adapter.texts == ["It is time."]


async def test_a_timer_that_fires_twice_sends_once() -> None:
    """A death between the hand-over and its mark hands over again; so do two hosts with one timer."""
    setting = await a_reminding_agent()
    await setting.adapter.say(setting.agent, "remind")
    await setting.clock.advance(timedelta(minutes=1))
    (schedule,) = (await setting.store.query(SCHEDULES)).documents
    await setting.agent.notifications.send_due(setting.clock.now())
    (message,) = setting.queue.take_due()
    stored = await setting.store.read(SCHEDULES, schedule.body["shard"], schedule.id)
    assert stored is not None
    await setting.store.replace(SCHEDULES, {**stored.body, "status": "scheduled"}, stored.etag)
    await setting.agent.notifications.send_due(setting.clock.now())
    assert setting.queue.take_due() == [], "the queue knows the message's id"
    await setting.agent.do_work(message)
    await setting.agent.do_work(message)
    assert setting.adapter.texts == ["It is time."]


async def test_a_cancelled_notification_is_not_sent_even_from_the_queue() -> None:
    setting = await a_reminding_agent()
    await setting.adapter.say(setting.agent, "hello")
    at = setting.clock.now() + timedelta(minutes=2)
    early = await setting.agent.notifications.schedule("c1", at=at, activity="no")
    late = await setting.agent.notifications.schedule("c1", at=at, activity="no")
    assert await setting.agent.notifications.cancel(early)
    await setting.clock.advance(timedelta(minutes=2))
    assert await setting.agent.notifications.send_due(setting.clock.now()) == 1
    assert await setting.agent.notifications.cancel(late)
    assert await setting.work() == 1
    assert setting.adapter.texts == []
    assert not await setting.agent.notifications.cancel(late)
    assert not await setting.agent.notifications.cancel("unknown")


async def test_what_was_delivered_cannot_be_cancelled() -> None:
    setting = await a_reminding_agent()
    await setting.adapter.say(setting.agent, "hello")
    schedule = await setting.agent.notifications.schedule("c1", at=setting.clock.now(), activity="now")
    await setting.later(timedelta(0))
    assert setting.adapter.texts == ["now"]
    assert not await setting.agent.notifications.cancel(schedule)


async def test_a_continuation_can_be_scheduled_with_a_value() -> None:
    setting = await a_reminding_agent()
    await setting.adapter.say(setting.agent, "hello")
    await setting.agent.notifications.schedule("c1", at=setting.clock.now(), continuation="look", value=[1, 2])
    await setting.later(timedelta(seconds=0))
    assert setting.adapter.texts == ["Looked at [1, 2]"]


async def test_many_due_at_once_are_all_sent_oldest_first() -> None:
    setting = await a_reminding_agent()
    await setting.adapter.say(setting.agent, "hello")
    for minute in reversed(range(250)):
        at = setting.clock.now() + timedelta(minutes=minute)
        await setting.agent.notifications.schedule("c1", at=at, activity=f"{minute}")
    await setting.later(timedelta(days=1))
    assert setting.adapter.texts == [str(minute) for minute in range(250)]


async def test_a_notification_for_a_conversation_that_was_forgotten_is_a_dead_letter() -> None:
    setting = await a_reminding_agent()
    await setting.adapter.say(setting.agent, "remind")
    await setting.agent.proactive.delete_conversation("c1")
    await setting.later(timedelta(minutes=1))
    await setting.later(timedelta(minutes=1))
    await setting.later(timedelta(minutes=1))
    await setting.later(timedelta(minutes=1))
    (letter,) = await setting.dead_letters()
    assert (letter.reason, letter.what) == ("ConversationNotFound", "occurrence 'notification'")


async def test_what_cannot_be_scheduled_is_refused_and_nothing_is_stored() -> None:
    setting = await a_reminding_agent()
    await setting.adapter.say(setting.agent, "hello")
    now = setting.clock.now()
    schedule = setting.agent.notifications.schedule
    with pytest.raises(ValueError, match="time zone"):
        await schedule("c1", at=datetime(2026, 1, 1), activity="x")  # noqa: DTZ001  # naive is the point
    with pytest.raises(ValueError, match="either"):
        await schedule("c1", at=now)
    with pytest.raises(ValueError, match="either"):
        await schedule("c1", at=now, activity=Activity(type="message", text="x"), continuation="look")
    with pytest.raises(ContinuationNotFound):
        await schedule("c1", at=now, continuation="unknown")
    with pytest.raises(ConversationNotFound):
        await schedule("unknown", at=now, activity="x")
    assert (await setting.store.query(SCHEDULES)).documents == []
