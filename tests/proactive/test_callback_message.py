"""What external systems publish: three forms that say the same, and everything else refused with a word for it."""

from __future__ import annotations

import base64
import json
import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agent_core import Activity, CallbackTypes, TurnContext, TurnState
from agent_core.errors import InvalidCallback
from agent_core.hosting.sqlite_queue import SqliteQueue
from agent_core.proactive.callback_message import Callback, session_id
from agent_core.proactive.queue import Property, QueueMessage
from tests.proactive.malformed import ATTRIBUTES, EVENT, FAILED, MALFORMED, NOTIFICATION, PLAIN, PROGRESS, STRUCTURED
from tests.proactive.setting import Setting

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def read(
    body: object = PLAIN, content_type: str = "", properties: dict[str, Property] | None = None, **fields: Any
) -> Callback:
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Callback.from_message(
        QueueMessage(body, "m1", content_type=content_type, application_properties=properties or {}, **fields)
    )


def an_agent(channel_id: str = "emulator") -> Setting:
    setting = Setting(channel_id)

    @setting.agent.message("order")
    async def order(context: TurnContext, state: TurnState) -> None:
        await context.expect_callback("order_placed", replaces=await context.send_activity("Working on it"))

    @setting.agent.continuation("order_placed")
    async def order_placed(context: TurnContext, state: TurnState) -> None:
        value = context.activity.value
        if context.activity.value_type == CallbackTypes.failed:
            await context.send_activity(f"No laptop: {value['error']['code']}")
        else:
            await context.send_activity(f"Order #{value['number']}")

    return setting


@pytest.mark.parametrize("kind", MALFORMED, ids=lambda kind: kind.name)
async def test_a_malformed_message_is_quarantined_on_its_first_delivery_with_its_reason(kind: Any) -> None:
    """R4: it is settled, not raised, and nothing is tried again."""
    setting = an_agent()
    await setting.adapter.say(setting.agent, "order")
    await setting.agent.receive_callback(kind.message("m1"))
    (letter,) = await setting.dead_letters()
    assert letter.reason == kind.reason
    assert letter.explanation
    assert letter.attempts == 1
    assert setting.queue.messages == []
    assert setting.adapter.texts == ["Working on it"]


def test_there_are_sixty_kinds_of_malformed_messages_and_no_two_are_one() -> None:
    assert len({kind.name for kind in MALFORMED}) == len(MALFORMED) >= 60
    assert len({(kind.body, kind.content_type, str(kind.properties)) for kind in MALFORMED}) == len(MALFORMED)


async def test_good_messages_among_malformed_ones_are_delivered_at_once(tmp_path: Path) -> None:
    """R4: each message of the queue is received once, good or bad, and nothing is left waiting."""
    setting = an_agent("webchat")
    await setting.adapter.say(setting.agent, "order")
    queue = SqliteQueue(tmp_path / "queues.db", "agent-callbacks", now=setting.clock.now)
    for number, kind in enumerate(MALFORMED):
        await queue.send(kind.message(f"bad{number}"))
        good = {**PLAIN, "value": {"number": number}}
        await queue.send(QueueMessage(json.dumps(good).encode(), f"good{number}"))
    deliveries = []
    while batch := await queue.receive(16):
        for received in batch:
            await setting.agent.receive_callback(received.message)
            await queue.complete(received)
            deliveries.append(received.delivery_count)
    assert deliveries == [1] * (2 * len(MALFORMED))
    assert setting.adapter.texts[1:] == [f"Order #{number}" for number in range(len(MALFORMED))]
    assert setting.queue.messages == []
    assert await queue.dead_letters() == []
    assert len(await setting.dead_letters()) == len(MALFORMED)
    await queue.close()


def test_the_three_forms_say_the_same() -> None:
    plain, structured = read(), read(EVENT, STRUCTURED)
    forms = [structured, read(EVENT), read(EVENT, "application/json"), read(PLAIN, "application/json", ATTRIBUTES)]
    assert plain.key == "callback:m1"
    assert {form.key for form in forms} == {"event:/shop 1"}
    for form in (plain, *forms):
        assert (form.type, form.conversation_id, form.continuation) == (CallbackTypes.result, "c1", "order_placed")
        assert form.value == {"number": 1292}


@pytest.mark.parametrize("prefix", ["cloudEvents:", "cloudEvents_", "ce-", "ce_", "CloudEvents:"])
def test_binary_mode_is_read_with_every_prefix_in_use(prefix: str) -> None:
    properties = {name.replace("cloudEvents:", prefix): value for name, value in ATTRIBUTES.items()}
    assert read(properties=properties).key == "event:/shop 1"


def test_a_property_of_the_publishers_own_makes_no_event() -> None:
    assert read(properties={"ce_region": "west", "priority": 3}).key == "callback:m1"


def test_the_same_attribute_under_two_names_is_one() -> None:
    assert read(properties={**ATTRIBUTES, "ce-id": "1"}).key == "event:/shop 1"


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=utf-8", "text/json", "application/vnd.shop+JSON", ""],
)
def test_binary_data_may_be_any_json(content_type: str) -> None:
    assert read(PLAIN, content_type, ATTRIBUTES).conversation_id == "c1"


def test_the_data_of_an_event_may_come_in_base64() -> None:
    encoded = base64.b64encode(json.dumps(PLAIN).encode()).decode()
    event = {name: value for name, value in EVENT.items() if name != "data"}
    assert read({**event, "data_base64": encoded}, STRUCTURED).value == {"number": 1292}


def test_the_key_is_the_events_then_the_bodys_then_the_messages() -> None:
    assert read(EVENT | {"data": PLAIN | {"id": "b"}}, STRUCTURED).key == "event:/shop 1"
    assert read(PLAIN | {"id": "b"}).key == "callback:b"
    assert read(PLAIN | {"id": None}).key == "callback:m1"
    assert read(EVENT | {"source": "/shop", "id": "a b"}).key != read(EVENT | {"source": "/shop%20a", "id": "b"}).key


def test_trace_and_correlation_come_along_and_a_trace_that_is_none_is_left_behind() -> None:
    assert read(correlation_id="job-7").correlation_id == "job-7"
    assert read(EVENT | {"traceparent": TRACE}).traceparent == TRACE
    assert read(properties=ATTRIBUTES | {"cloudEvents:traceparent": TRACE}).traceparent == TRACE
    assert read(properties={"traceparent": TRACE}).traceparent == TRACE
    assert read(properties={"Diagnostic-Id": TRACE}).traceparent == TRACE
    assert read(properties={"traceparent": "secret"}).traceparent is None
    assert read(EVENT | {"traceparent": 7}).traceparent is None


def test_the_session_is_the_conversation_as_far_as_a_session_may_be_long() -> None:
    assert session_id("c1") == "c1"
    assert len(session_id("x" * 129)) == 64


async def test_a_progress_edits_the_placeholder_and_leaves_it_for_the_result() -> None:
    setting = an_agent()
    await setting.adapter.say(setting.agent, "order")
    progress = {**PLAIN, "type": PROGRESS, "text": "In the warehouse"}
    await setting.callback(progress, "p1")
    assert setting.adapter.texts == ["In the warehouse"]
    await setting.callback({**progress, "text": "On the truck"}, "p2")
    await setting.callback({**progress, "text": "In the warehouse"}, "p1")
    assert setting.adapter.texts == ["On the truck"]
    await setting.callback(PLAIN, "m1")
    assert setting.adapter.texts == ["Order #1292"]
    await setting.callback({**progress, "text": "Late"}, "p3")
    assert setting.adapter.texts == ["Order #1292"]
    assert await setting.dead_letters() == []


async def test_where_nothing_can_be_edited_a_progress_is_a_message_of_its_own_until_the_end() -> None:
    setting = an_agent("webchat")
    await setting.adapter.say(setting.agent, "order")
    progress = {**PLAIN, "type": PROGRESS, "text": "On the truck"}
    for message_id, body in (("p1", progress), ("m1", PLAIN), ("p2", progress)):
        await setting.callback(body, message_id)
    assert setting.adapter.texts == ["Working on it", "On the truck", "Order #1292"]


async def test_a_failure_runs_the_continuation_which_can_tell() -> None:
    setting = an_agent()
    await setting.adapter.say(setting.agent, "order")
    await setting.callback({**PLAIN, "type": FAILED, "error": {"code": "OutOfStock", "message": "None left"}})
    assert setting.adapter.texts == ["No laptop: OutOfStock"]
    await setting.callback(PLAIN, "m2")
    assert setting.adapter.texts == ["No laptop: OutOfStock", "Order #1292"]


async def test_a_notification_needs_no_continuation() -> None:
    setting = an_agent()
    await setting.adapter.say(setting.agent, "order")
    await setting.callback({"type": NOTIFICATION, "conversationId": "c1", "text": "We close at five"}, "n1")
    card = {"attachments": [{"contentType": "application/vnd.microsoft.card.hero", "content": {"title": "Hi"}}]}
    await setting.callback({"type": NOTIFICATION, "conversationId": "c1", "activity": card}, "n2")
    assert setting.adapter.texts[:2] == ["Working on it", "We close at five"]
    (shown,) = list(setting.adapter.messages.values())[2:]
    assert isinstance(shown, Activity)
    assert shown.attachments[0].content == {"title": "Hi"}
    await setting.callback(PLAIN, "m1")
    assert setting.adapter.texts[0] == "Order #1292"


async def test_a_cloud_event_is_tried_again_under_its_own_key() -> None:
    setting = an_agent("webchat")
    await setting.adapter.say(setting.agent, "order")
    failures = [RuntimeError("once")]

    @setting.agent.continuation("flaky")
    async def flaky(context: TurnContext, state: TurnState) -> None:
        if failures:
            raise failures.pop()
        await context.send_activity(context.activity.value)

    data = {"conversationId": "c1", "continuation": "flaky", "value": "Done"}
    message = QueueMessage(json.dumps(data).encode(), "m1", content_type="", application_properties=ATTRIBUTES)
    await setting.agent.receive_callback(message)
    await setting.later(timedelta(seconds=1))
    structured = QueueMessage(json.dumps(EVENT | {"data": data}).encode(), "m2", content_type=STRUCTURED)
    await setting.agent.receive_callback(structured)
    assert setting.adapter.texts == ["Working on it", "Done"]


async def test_the_log_names_the_job_and_no_value(caplog: pytest.LogCaptureFixture) -> None:
    setting = an_agent()
    await setting.adapter.say(setting.agent, "order")
    body = json.dumps(PLAIN | {"value": {"number": "secret"}}).encode()
    with caplog.at_level(logging.INFO, "agent_core"):
        await setting.agent.receive_callback(
            QueueMessage(body, "m1", correlation_id="job-7", application_properties={"traceparent": TRACE})
        )
    assert "job-7" in caplog.text
    assert TRACE in caplog.text
    assert "secret" not in caplog.text


def test_an_activity_that_may_be_as_deep_as_a_body_can_still_be_handed_on() -> None:
    value: Any = 1
    for _ in range(58):
        value = [value]
    for body in (PLAIN | {"value": value}, PLAIN | {"type": FAILED, "error": {"code": "x"}, "value": value}):
        Activity(type="event", value=read(body).value)
    with pytest.raises(InvalidCallback, match="60 levels"):
        read(PLAIN | {"value": [[[value]]]})
