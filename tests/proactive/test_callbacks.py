"""An external system is done: once, in the right place, or with a reason why not."""

import asyncio
import json
import logging
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from agent_core import ConversationAccount, TurnContext, TurnState
from agent_core.errors import ChannelError, ContinuationNotFound, Decision, RouteError, StoreUnavailable
from agent_core.proactive.ledger import LEASE
from agent_core.proactive.queue import QueueMessage
from agent_core.proactive.work import LADDER, WorkItem
from agent_core.store.document_store import CONVERSATIONS, Where
from tests.proactive.setting import Setting

CALLBACK = {"conversationId": "c1", "continuation": "order_placed", "value": {"number": 1292}}


def an_ordering_agent(channel_id: str = "emulator") -> Setting:
    setting = Setting(channel_id)
    setting.tickets = []  # type: ignore[attr-defined]  # what this agent gave out

    @setting.agent.message("order")
    async def order(context: TurnContext, state: TurnState) -> None:
        placeholder = await context.send_activity("Working on it")
        ticket = await context.expect_callback("order_placed", replaces=placeholder)
        setting.tickets.append(ticket.to_dict())  # type: ignore[attr-defined]  # see above

    @setting.agent.continuation("order_placed")
    async def order_placed(context: TurnContext, state: TurnState) -> None:
        state.conversation["number"] = context.activity.value["number"]
        await context.send_activity(f"Order #{context.activity.value['number']}")

    return setting


async def test_the_answer_replaces_the_placeholder() -> None:
    setting = an_ordering_agent()
    await setting.adapter.say(setting.agent, "order")
    await setting.callback(CALLBACK)
    assert setting.adapter.texts == ["Order #1292"]
    conversation = await setting.agent.proactive.get_conversation("c1")
    assert conversation is not None
    assert conversation.state == {"number": 1292}


async def test_on_a_channel_that_cannot_edit_the_answer_is_a_new_message() -> None:
    setting = an_ordering_agent("webchat")
    await setting.adapter.say(setting.agent, "order")
    await setting.callback(CALLBACK)
    assert setting.adapter.texts == ["Working on it", "Order #1292"]


async def test_the_same_callback_twice_has_one_effect() -> None:
    setting = an_ordering_agent("webchat")
    await setting.adapter.say(setting.agent, "order")
    for message_id in ("m1", "m1", "m2"):
        await setting.callback({**CALLBACK, "id": "order-7"}, message_id)
    await setting.callback(CALLBACK, "m1")
    assert setting.adapter.texts == ["Working on it", "Order #1292", "Order #1292"]


async def test_without_a_ticket_the_oldest_placeholder_is_replaced_and_with_one_its_own() -> None:
    setting = an_ordering_agent()
    for _ in range(3):
        await setting.adapter.say(setting.agent, "order")
        await setting.clock.advance(timedelta(seconds=1))
    third = setting.tickets[2]  # type: ignore[attr-defined]  # see an_ordering_agent
    await setting.callback({**third, "value": {"number": 3}}, "m1")
    assert setting.adapter.texts == ["Working on it", "Working on it", "Order #3"]
    await setting.callback({**CALLBACK, "value": {"number": 1}}, "m2")
    assert setting.adapter.texts == ["Order #1", "Working on it", "Order #3"]


async def test_a_placeholder_that_the_user_deleted_is_answered_with_a_new_message() -> None:
    setting = an_ordering_agent()
    await setting.adapter.say(setting.agent, "order")
    setting.adapter.messages.clear()
    await setting.callback(CALLBACK)
    assert setting.adapter.texts == ["Order #1292"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"not json", "InvalidJson"),
        (b"\xff", "InvalidJson"),
        (b"[]", "NotAnObject"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "TooDeep"),
        ({"continuation": "order_placed"}, "MissingField"),
        ({"conversationId": 7, "continuation": "order_placed"}, "WrongType"),
        ({"conversationId": "c1"}, "MissingField"),
        ({**CALLBACK, "conversationId": "x" * 5000}, "InvalidConversation"),
        (b'{"conversationId": "\\ud800", "continuation": "order_placed"}', "InvalidConversation"),
        ({**CALLBACK, "ticket": 7}, "WrongType"),
        ({**CALLBACK, "continuation": "unknown"}, "ContinuationNotFound"),
    ],
)
async def test_what_can_never_succeed_is_a_dead_letter_at_once(body: object, reason: str) -> None:
    """It is settled, not raised: raising would deliver it ten times in a second."""
    setting = an_ordering_agent()
    await setting.adapter.say(setting.agent, "order")
    await setting.callback(body)
    (letter,) = await setting.dead_letters()
    assert letter.reason == reason
    assert letter.key == "callback:m1"
    assert letter.payload
    assert setting.queue.messages == []
    assert setting.adapter.texts == ["Working on it"]


async def test_a_handler_that_fails_is_tried_again_later_and_then_given_up() -> None:
    setting = an_ordering_agent()
    await setting.adapter.say(setting.agent, "order")
    await setting.callback({**CALLBACK, "value": {}})
    attempts = 1
    while setting.queue.messages:
        await setting.later(timedelta(hours=1))
        attempts += 1
    assert attempts == 1 + len(LADDER)
    (letter,) = await setting.dead_letters()
    assert (letter.reason, letter.attempts) == ("HandlerFailed", attempts)
    assert setting.adapter.texts == ["Working on it"]


async def test_each_attempt_waits_longer_up_to_an_hour_as_a_copy_under_a_deterministic_id() -> None:
    """P6.4"""
    setting = an_ordering_agent()
    await setting.adapter.say(setting.agent, "order")
    await setting.callback({**CALLBACK, "value": {}})
    for number, seconds in enumerate((1, 5, 30, 120, 600, 3600)):
        (copy,) = setting.queue.messages
        assert copy.scheduled_enqueue_time == setting.clock.now() + timedelta(seconds=seconds)
        item = WorkItem.from_message(copy)
        assert item.attempt == number + 2
        assert copy.message_id == replace(item, payload={}).to_message().message_id, "of the key and the attempt alone"
        await setting.later(timedelta(seconds=seconds) - timedelta(microseconds=1))
        assert setting.queue.messages == [copy]
        await setting.later(timedelta(microseconds=1))
    assert setting.queue.messages == []
    assert len(await setting.dead_letters()) == 1


@pytest.mark.parametrize(("minutes", "attempts"), [(0, 1), (1, 4), (100, 7)])
async def test_nothing_is_tried_again_after_the_messages_own_time_to_live(minutes: int, attempts: int) -> None:
    """P6.4: its last attempt is the last one before, so the error handler speaks, and an operator may replay it."""
    setting = an_ordering_agent()

    @setting.agent.error
    async def apologise(context: TurnContext, error: Exception) -> None:
        await context.send_activity("Sorry")

    await setting.adapter.say(setting.agent, "order")
    body = json.dumps({**CALLBACK, "value": {}}).encode()
    await setting.agent.receive_callback(QueueMessage(body, "m1", time_to_live=timedelta(minutes=minutes)))
    while setting.queue.messages:
        await setting.later(timedelta(seconds=1))
    (letter,) = await setting.dead_letters()
    assert (letter.reason, letter.attempts) == ("HandlerFailed", attempts)
    assert setting.adapter.texts == ["Sorry"]
    assert await setting.agent.dead_letters.replay(letter)
    (message,) = setting.queue.messages
    assert (WorkItem.from_message(message).attempt, WorkItem.from_message(message).expires) == (1, "")


async def test_a_channel_that_throttles_beyond_the_messages_own_time_to_live_is_not_waited_for() -> None:
    setting = an_ordering_agent("webchat")
    await setting.adapter.say(setting.agent, "order")
    busy = ChannelError("busy", decision="throttled", status=429, retry_after=timedelta(seconds=40))
    setting.adapter.failures = [busy, busy]
    message = QueueMessage(json.dumps(CALLBACK).encode(), "m1", time_to_live=timedelta(minutes=1))
    await setting.agent.receive_callback(message)
    await setting.later(timedelta(seconds=40))
    assert [letter.reason for letter in await setting.dead_letters()] == ["Throttled"]
    assert setting.queue.messages == []


async def test_a_handler_that_recovers_answers_once() -> None:
    setting = an_ordering_agent()
    failures = [RuntimeError("first"), RuntimeError("second")]

    @setting.agent.continuation("flaky")
    async def flaky(context: TurnContext, state: TurnState) -> None:
        if failures:
            raise failures.pop()
        await context.send_activity("Done")

    await setting.adapter.say(setting.agent, "order")
    await setting.callback({"conversationId": "c1", "continuation": "flaky"})
    await setting.later(timedelta(seconds=1))
    await setting.later(timedelta(seconds=5))
    assert setting.adapter.texts == ["Working on it", "Done"]
    assert await setting.dead_letters() == []


@pytest.mark.parametrize("channel_id", ["emulator", "webchat"])
async def test_the_error_handler_speaks_when_the_work_is_given_up_and_not_before(channel_id: str) -> None:
    """Each attempt but the last is followed by another, which may succeed: nothing is to be told yet."""
    setting = an_ordering_agent(channel_id)

    @setting.agent.error
    async def apologise(context: TurnContext, error: Exception) -> None:
        await context.send_activity("Sorry")

    await setting.adapter.say(setting.agent, "order")
    await setting.callback({**CALLBACK, "value": {}})
    for wait in LADDER:
        assert setting.adapter.texts == ["Working on it"]
        await setting.later(wait)
    assert setting.adapter.texts == (["Sorry"] if channel_id == "emulator" else ["Working on it", "Sorry"])
    assert [letter.reason for letter in await setting.dead_letters()] == ["HandlerFailed"]


async def test_the_error_handler_does_not_speak_about_a_channel_that_fails() -> None:
    setting = an_ordering_agent("webchat")

    @setting.agent.error
    async def apologise(context: TurnContext, error: Exception) -> None:
        await context.send_activity("Sorry")

    await setting.adapter.say(setting.agent, "order")
    setting.adapter.failures = [ChannelError("timeout", decision="ambiguous")]
    await setting.callback(CALLBACK)
    assert setting.adapter.texts == ["Working on it"]


async def test_a_handler_that_fails_after_it_spoke_is_tried_again_and_says_nothing_twice() -> None:
    """Each message is a step of its own: what was sent is not sent again, what was not is."""
    setting = an_ordering_agent("webchat")
    attempts = 0

    @setting.agent.continuation("three")
    async def three(context: TurnContext, state: TurnState) -> None:
        nonlocal attempts
        attempts += 1
        first = await context.send_activity("one")
        assert first.id is not None
        if attempts == 1:
            raise RuntimeError("not yet")
        await context.send_activity("two")
        if attempts == 2:
            raise RuntimeError("not yet")
        await context.send_activity("three")

    await setting.adapter.say(setting.agent, "order")
    await setting.callback({"conversationId": "c1", "continuation": "three"})
    for wait in LADDER:
        await setting.later(wait)
    assert setting.adapter.texts == ["Working on it", "one", "two", "three"]
    assert attempts == 3
    assert await setting.dead_letters() == []


async def test_a_throttled_answer_waits_as_long_as_the_channel_asks() -> None:
    setting = an_ordering_agent("webchat")
    await setting.adapter.say(setting.agent, "order")
    busy = ChannelError("busy", decision="throttled", status=429, retry_after=timedelta(seconds=40))
    setting.adapter.failures = [busy] * 10
    await setting.callback(CALLBACK)
    for _ in range(9):
        await setting.later(timedelta(seconds=39))
        assert setting.queue.take_due() == []
        await setting.later(timedelta(seconds=1))
    assert setting.adapter.texts == ["Working on it"]
    await setting.later(timedelta(seconds=40))
    assert setting.adapter.texts == ["Working on it", "Order #1292"]
    assert await setting.dead_letters() == []


async def test_a_new_message_whose_fate_is_unknown_is_parked_and_reported() -> None:
    setting = an_ordering_agent("webchat")
    await setting.adapter.say(setting.agent, "order")
    setting.adapter.failures = [ChannelError("timeout", decision="ambiguous")]
    await setting.callback(CALLBACK)
    await setting.callback(CALLBACK)
    await setting.later(timedelta(hours=2))
    assert setting.adapter.texts == ["Working on it"]
    (letter,) = await setting.dead_letters()
    assert letter.reason == "Unsure"


async def test_an_edit_whose_fate_is_unknown_is_repeated() -> None:
    setting = an_ordering_agent()
    await setting.adapter.say(setting.agent, "order")
    setting.adapter.failures = [ChannelError("timeout", decision="ambiguous")]
    await setting.callback(CALLBACK)
    await setting.later(timedelta(seconds=1))
    assert setting.adapter.texts == ["Order #1292"]
    assert await setting.dead_letters() == []


@pytest.mark.parametrize(
    ("decision", "reason"),
    [
        ("blocked", "Blocked"),
        ("gone", "ConversationGone"),
        ("misconfigured", "Misconfigured"),
        ("rejected", "Rejected"),
    ],
)
async def test_what_the_channel_refuses_for_good_is_a_dead_letter(decision: str, reason: str) -> None:
    setting = an_ordering_agent("webchat")
    await setting.adapter.say(setting.agent, "order")
    setting.adapter.failures = [ChannelError("no", decision=decision, status=403)]  # type: ignore[arg-type]  # a Decision
    await setting.callback(CALLBACK)
    assert [letter.reason for letter in await setting.dead_letters()] == [reason]
    assert setting.queue.messages == []


async def test_a_worker_that_died_before_it_sent_is_followed_by_another() -> None:
    """The process ends between the claim and the send: nothing but the ledger's record is left of it."""
    setting = an_ordering_agent("webchat")
    await setting.adapter.say(setting.agent, "order")
    setting.adapter.failures = [_Killed()]  # type: ignore[list-item]  # what no handler catches
    with pytest.raises(_Killed):
        await setting.callback({"conversationId": "c1", "continuation": "order_placed", "value": {"number": 1}})
    # ... it died after `sending`: a second worker cannot know, and reports it.
    await setting.clock.advance(LEASE + timedelta(seconds=1))
    await setting.callback({"conversationId": "c1", "continuation": "order_placed", "value": {"number": 1}})
    assert [letter.reason for letter in await setting.dead_letters()] == ["Unsure"]
    assert setting.adapter.texts == ["Working on it"]


class _Killed(BaseException):
    """The end of the process, as far as one can have it inside of one."""


async def test_a_worker_that_died_while_it_edited_is_followed_by_another_that_edits() -> None:
    setting = an_ordering_agent()
    await setting.adapter.say(setting.agent, "order")
    setting.adapter.failures = [_Killed()]  # type: ignore[list-item]  # what no handler catches
    with pytest.raises(_Killed):
        await setting.callback(CALLBACK)
    # Delivered again while the dead one's lease lasts: put off, not lost.
    await setting.callback(CALLBACK)
    assert setting.adapter.texts == ["Working on it"]
    await setting.later(LEASE + timedelta(seconds=1))
    assert setting.adapter.texts == ["Order #1292"]
    assert await setting.dead_letters() == []


async def test_a_store_that_is_away_delays_a_callback_and_loses_nothing() -> None:
    setting = an_ordering_agent()
    await setting.adapter.say(setting.agent, "order")
    batch, calls = setting.store.batch, 0

    async def away_twice(*arguments: Any, **named: Any) -> list[str]:
        nonlocal calls
        calls += 1
        if calls <= 2:
            raise StoreUnavailable("away")
        return await batch(*arguments, **named)

    setting.store.batch = away_twice  # type: ignore[method-assign]  # a fault of the store
    await setting.callback(CALLBACK)
    await setting.later(timedelta(seconds=1))
    await setting.later(timedelta(seconds=5))
    assert setting.adapter.texts == ["Order #1292"]


async def test_one_line_says_what_became_of_a_delivery_and_holds_no_value(caplog: pytest.LogCaptureFixture) -> None:
    setting = an_ordering_agent()
    await setting.adapter.say(setting.agent, "order")
    with caplog.at_level(logging.INFO, "agent_core"):
        await setting.callback({**CALLBACK, "value": {"number": "a secret"}})
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Delivery")]
    assert lines == ["Delivery: callback 'order_placed' sent in 0 ms, attempt 1, key 'callback:m1', conversation 'c1'"]
    assert "secret" not in caplog.text


async def test_a_callback_can_only_be_expected_by_a_name_that_exists() -> None:
    setting = Setting()

    @setting.agent.message()
    async def order(context: TurnContext, state: TurnState) -> None:
        await context.expect_callback("nobody")

    with pytest.raises(ContinuationNotFound, match="nobody"):
        await setting.adapter.say(setting.agent, "order")


def test_two_continuations_of_one_name_fail_at_import() -> None:
    setting = an_ordering_agent()
    with pytest.raises(RouteError, match="order_placed"):

        @setting.agent.continuation("order_placed")
        async def again(context: TurnContext, state: TurnState) -> None: ...


async def test_foreign_messages_on_the_work_queue_are_dead_letters() -> None:
    setting = Setting()
    bodies = [b"x", b"{}", json.dumps({"kind": "callback", "key": 1}).encode()]
    bodies += [
        json.dumps({"kind": kind, "key": "k", "payload": payload, "attempt": 1, "wait": 0}).encode()
        for kind in ("callback", "occurrence", "turn")
        for payload in ({}, {"body": 1, "schedule": 1, "activity": 1}, {"body": {}, "messageId": "m", "activity": {}})
    ]
    for number, body in enumerate(bodies):
        await setting.agent.do_work(QueueMessage(body, f"w{number}"))
    letters = await setting.dead_letters()
    assert {letter.reason for letter in letters} == {"InvalidJson", "MissingField", "NotWork"}
    assert len(letters) == len(bodies)


async def test_messages_sent_side_by_side_are_all_sent_once() -> None:
    """A handler may use asyncio.gather; the ledger's steps must not take the delivery away from each other."""
    setting = an_ordering_agent("webchat")

    @setting.agent.continuation("both")
    async def both(context: TurnContext, state: TurnState) -> None:
        await asyncio.gather(context.send_activity("A"), context.send_activity("B"))

    await setting.adapter.say(setting.agent, "order")
    await setting.callback({"conversationId": "c1", "continuation": "both"})
    assert setting.adapter.texts == ["Working on it", "A", "B"]
    assert await setting.dead_letters() == []


async def test_one_id_in_two_conversations_is_two_callbacks() -> None:
    setting = an_ordering_agent("webchat")
    failures = {"c1": 1, "c2": 1}

    @setting.agent.continuation("flaky")
    async def flaky(context: TurnContext, state: TurnState) -> None:
        conversation = context.activity.conversation_id
        if failures[conversation]:
            failures[conversation] -= 1
            raise RuntimeError("once")
        await context.send_activity(f"for {conversation}")

    for number, conversation in enumerate(("c1", "c2")):
        activity = setting.adapter.activity(text="order", conversation=ConversationAccount(id=conversation))
        await setting.adapter.process(setting.agent, activity)
        await setting.callback({"conversationId": conversation, "continuation": "flaky", "id": "same"}, f"m{number}")
    await setting.later(timedelta(seconds=1))
    assert setting.adapter.texts[2:] == ["for c1", "for c2"]


async def test_a_store_that_hiccups_while_a_delivery_is_parked_does_not_make_it_sent_again() -> None:
    setting = an_ordering_agent("webchat")
    await setting.adapter.say(setting.agent, "order")
    setting.adapter.failures = [_Killed()]  # type: ignore[list-item]  # what no handler catches
    with pytest.raises(_Killed):
        await setting.callback(CALLBACK)
    await setting.clock.advance(LEASE + timedelta(seconds=1))
    upsert, calls = setting.store.upsert, 0

    async def away_once(*arguments: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise StoreUnavailable("away")
        return await upsert(*arguments, **named)  # type: ignore[arg-type]  # passed on as it came

    setting.store.upsert = away_once  # type: ignore[method-assign, assignment]  # a fault of the store
    await setting.callback(CALLBACK)
    await setting.later(timedelta(hours=1))
    assert setting.adapter.texts == ["Working on it"]
    assert [letter.reason for letter in await setting.dead_letters()] == ["Unsure"]


@pytest.mark.parametrize("named", [{"conversationId": "unknown"}, {"channelId": "slack"}])
async def test_a_callback_for_a_conversation_that_nobody_stores_waits_a_while_and_is_a_dead_letter(
    named: dict[str, str],
) -> None:
    setting = an_ordering_agent()
    await setting.adapter.say(setting.agent, "order")
    await setting.callback({**CALLBACK, **named})
    assert await setting.dead_letters() == []
    for seconds in (1, 5):
        await setting.later(timedelta(seconds=seconds))
    (letter,) = await setting.dead_letters()
    assert (letter.reason, letter.attempts) == ("ConversationNotFound", 3)


async def test_a_callback_that_is_faster_than_its_conversation_is_not_lost() -> None:
    """6.3: the supplier answers before the turn that asked is stored."""
    setting = an_ordering_agent()
    await setting.callback(CALLBACK)
    await setting.adapter.say(setting.agent, "order")
    await setting.later(timedelta(seconds=1))
    assert setting.adapter.texts == ["Order #1292"]
    assert await setting.dead_letters() == []


@pytest.mark.parametrize("decision", ["unsent", "throttled", "rejected"])
async def test_a_worker_that_fails_and_finds_that_another_took_over_leaves_it_to_the_other(decision: Decision) -> None:
    """It stood still for longer than its lease; that is no error, and its message of the queue is done with."""
    setting = an_ordering_agent()

    @setting.agent.continuation("slow")
    async def slow(context: TurnContext, state: TurnState) -> None:
        page = await setting.store.query(CONVERSATIONS, partition="c1", where=[Where("kind", "=", "delivery")])
        (record,) = page.documents
        await setting.store.replace(CONVERSATIONS, {**record.body, "token": "another's"}, record.etag)
        setting.adapter.failures = [ChannelError("no", decision=decision)]
        await context.update_activity(context.activity.replace(id="out1", text="Done"))

    await setting.adapter.say(setting.agent, "order")
    await setting.callback({"conversationId": "c1", "continuation": "slow"})
    assert setting.adapter.texts == ["Working on it"]
    assert setting.queue.messages == []
