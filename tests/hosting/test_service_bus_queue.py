"""Sending to Service Bus with the real SDK, against whatever SERVICE_BUS_TEST_CONNECTION names."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver

from agent_core.errors import QueueUnavailable, SettingsError
from agent_core.hosting.service_bus_queue import ServiceBusConnection, ServiceBusQueue
from agent_core.proactive.queue import Queue, QueueMessage
from tests.hosting.amqp_relay import relaying

CONNECTION = os.environ.get("SERVICE_BUS_TEST_CONNECTION", "")
QUEUE = os.environ.get("SERVICE_BUS_TEST_QUEUE", "agent-work")
NOWHERE = "Endpoint=sb://127.0.0.1:{port};SharedAccessKeyName=name;SharedAccessKey=a2V5;UseDevelopmentEmulator=true;"

needs_service_bus = pytest.mark.skipif(
    not CONNECTION, reason="set SERVICE_BUS_TEST_CONNECTION to the connection string of a Service Bus or its emulator"
)
needs_emulator = pytest.mark.skipif(
    "UseDevelopmentEmulator=true" not in CONNECTION, reason="a relay can only cut a connection without TLS"
)


def named(name: str) -> str:
    """The queue that this variable names, for a property of queues that not every one has."""
    queue = os.environ.get(name)
    if not queue:
        pytest.skip(f"set {name} to the name of such a queue")
    return queue


def new_message(body: bytes = b"{}", **fields: Any) -> QueueMessage:
    return replace(QueueMessage(body, message_id=uuid.uuid4().hex), **fields)


@asynccontextmanager
async def opened(text: str = CONNECTION, name: str = QUEUE, seconds: float = 10) -> AsyncIterator[ServiceBusQueue]:
    queue = ServiceBusQueue(ServiceBusConnection(text), name, timeout=timedelta(seconds=seconds))
    try:
        yield queue
    finally:
        await queue.close()


@asynccontextmanager
async def receiving(name: str = QUEUE, **options: Any) -> AsyncIterator[ServiceBusReceiver]:
    async with (
        ServiceBusClient.from_connection_string(CONNECTION) as client,
        client.get_queue_receiver(name, **options) as receiver,
    ):
        yield receiver


async def received(receiver: ServiceBusReceiver, ids: set[str]) -> list[ServiceBusReceivedMessage]:
    """The messages of these ids, each as often as it comes, until all came and the queue is quiet. Others are left."""
    found: list[ServiceBusReceivedMessage] = []
    while True:
        wanted = ids - {str(message.message_id) for message in found}
        batch = await receiver.receive_messages(100, max_wait_time=5 if wanted else 0.3)
        if not batch:
            return found
        for message in batch:
            await receiver.complete_message(message)
            if message.message_id in ids:
                found.append(message)


def test_the_queue_is_what_the_library_asks_for() -> None:
    queue: Queue = ServiceBusQueue(ServiceBusConnection(NOWHERE.format(port=1)), "q")
    assert queue is not None


def test_a_connection_keeps_its_secrets_out_of_its_text() -> None:
    assert "SharedAccessKey" not in repr(ServiceBusConnection(NOWHERE.format(port=1)))


@pytest.mark.parametrize("fields", [{}, {"fully_qualified_namespace": "x.servicebus.windows.net"}])
def test_a_connection_without_a_way_in_is_a_settings_error(fields: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="connection string"):
        ServiceBusConnection(**fields)


async def test_a_connection_string_that_is_none_is_a_settings_error_that_does_not_repeat_it() -> None:
    async with opened("SharedAccessKey=secret") as queue:
        with pytest.raises(SettingsError) as caught:
            await queue.send(new_message())
    assert "secret" not in str(caught.value)


def test_the_sdk_is_imported_only_to_send() -> None:
    program = (
        "import sys; from agent_core.hosting.service_bus_queue import *;"
        "ServiceBusQueue(ServiceBusConnection('Endpoint=sb://x/'), 'q'); print('azure.servicebus' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


async def test_a_schedule_without_a_time_zone_is_refused() -> None:
    async with opened(NOWHERE.format(port=1)) as queue:
        with pytest.raises(ValueError, match="time zone"):
            await queue.send(new_message(scheduled_enqueue_time=datetime(2026, 1, 5)))  # noqa: DTZ001  # that is it


async def test_an_integer_that_the_sdk_cannot_write_is_refused() -> None:
    async with opened(NOWHERE.format(port=1)) as queue:
        with pytest.raises(ValueError, match="'big'"):
            await queue.send(new_message(application_properties={"big": 2**31}))


async def test_an_endpoint_that_refuses_is_an_unavailable_queue() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        async with opened(NOWHERE.format(port=held.getsockname()[1])) as queue:
            with pytest.raises(QueueUnavailable):
                await queue.send(new_message())


async def test_an_endpoint_that_never_answers_is_an_unavailable_queue_within_the_time_out() -> None:
    """Also for those who wait for their turn behind the first."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        async with opened(NOWHERE.format(port=silent.getsockname()[1]), seconds=0.3) as queue:
            start = time.perf_counter()
            results = await asyncio.gather(*(queue.send(new_message()) for _ in range(3)), return_exceptions=True)
            assert [type(result) for result in results] == [QueueUnavailable] * 3
            assert time.perf_counter() - start < 2


@needs_service_bus
async def test_each_field_arrives() -> None:
    message = new_message(
        b'{"a": "\xc3\xa4"}',
        content_type="application/cloudevents+json",
        subject="order_placed",
        correlation_id="corr|1",
        application_properties={"text": "ä", "number": 2**31 - 1, "small": -1, "share": 0.5, "yes": True},
        time_to_live=timedelta(minutes=5),
    )
    async with opened() as queue, receiving() as receiver:
        await queue.send(message)
        [got] = await received(receiver, {message.message_id})
    assert b"".join(got.body) == message.body
    assert (got.content_type, got.subject, got.correlation_id) == (
        message.content_type,
        message.subject,
        message.correlation_id,
    )
    properties = {_text(name): _text(value) for name, value in (got.application_properties or {}).items()}
    assert properties == message.application_properties
    assert properties["yes"] is True
    assert got.time_to_live == message.time_to_live
    assert got.session_id is None
    assert got.scheduled_enqueue_time_utc is None


def _text(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value


@needs_service_bus
async def test_a_scheduled_message_is_kept_back_until_its_time() -> None:
    due = datetime.now(UTC) + timedelta(seconds=2)
    message = new_message(scheduled_enqueue_time=due)
    async with opened() as queue, receiving() as receiver:
        await queue.send(message)
        [got] = await received(receiver, {message.message_id})
    assert datetime.now(UTC) >= due
    assert got.scheduled_enqueue_time_utc is not None
    assert abs(got.scheduled_enqueue_time_utc - due) < timedelta(milliseconds=2)


@needs_service_bus
async def test_a_second_message_of_one_id_is_dropped_also_if_both_are_scheduled() -> None:
    name = named("SERVICE_BUS_TEST_DUPLICATES_QUEUE")
    due = datetime.now(UTC) + timedelta(seconds=1)
    plain, scheduled = new_message(), new_message(scheduled_enqueue_time=due)
    async with opened(name=name) as queue, receiving(name) as receiver:
        for message in (plain, plain, scheduled, scheduled):
            await queue.send(message)
        got = await received(receiver, {plain.message_id, scheduled.message_id})
    assert sorted(str(each.message_id) for each in got) == sorted([plain.message_id, scheduled.message_id])


@needs_service_bus
async def test_a_session_arrives_and_a_queue_with_sessions_refuses_a_message_without() -> None:
    name = named("SERVICE_BUS_TEST_SESSION_QUEUE")
    session = uuid.uuid4().hex
    message = new_message(session_id=session)
    async with opened(name=name) as queue:
        with pytest.raises(ValueError, match="session_id"):
            await queue.send(new_message())
        await queue.send(message)
        async with receiving(name, session_id=session) as receiver:
            [got] = await received(receiver, {message.message_id})
    assert got.session_id == session


@needs_service_bus
async def test_a_message_that_is_too_large_is_refused_and_the_next_one_goes() -> None:
    message = new_message()
    async with opened() as queue, receiving() as receiver:
        with pytest.raises(ValueError, match="too large"):
            await queue.send(new_message(b"x" * 300_000))
        await queue.send(message)
        assert len(await received(receiver, {message.message_id})) == 1


@needs_service_bus
async def test_a_queue_that_does_not_exist_is_named() -> None:
    async with opened(name="no-such-queue") as queue:
        with pytest.raises(QueueUnavailable, match="no-such-queue"):
            await queue.send(new_message())


@needs_service_bus
async def test_many_sends_at_once_on_a_fresh_queue_all_arrive() -> None:
    """The SDK's sender fails all of them if they open it together."""
    messages = [new_message() for _ in range(50)]
    ids = {message.message_id for message in messages}
    async with opened() as queue, receiving() as receiver:
        await asyncio.gather(*(queue.send(message) for message in messages))
        got = await received(receiver, ids)
    assert {message.message_id for message in got} == ids
    assert len(got) == 50


@needs_service_bus
async def test_many_messages_go_in_batches_and_all_arrive_at_their_times() -> None:
    """More than one batch takes by number, and by bytes."""
    due = datetime.now(UTC) + timedelta(seconds=2)
    messages = [new_message(b"x" * 5_000, scheduled_enqueue_time=due if number % 2 else None) for number in range(230)]
    ids = {message.message_id for message in messages}
    async with opened() as queue, receiving() as receiver:
        await queue.send_many(messages)
        got = await received(receiver, ids)
    assert {message.message_id for message in got} == ids
    assert len(got) == 230


@needs_service_bus
async def test_many_messages_of_sessions_arrive_and_those_without_are_refused() -> None:
    name = named("SERVICE_BUS_TEST_SESSION_QUEUE")
    session = uuid.uuid4().hex
    messages = [new_message(session_id=session) for _ in range(3)]
    async with opened(name=name) as queue:
        with pytest.raises(ValueError, match="session_id"):
            await queue.send_many([new_message(), new_message()])
        await queue.send_many(messages)
        async with receiving(name, session_id=session) as receiver:
            got = await received(receiver, {message.message_id for message in messages})
    assert [each.message_id for each in got] == [message.message_id for message in messages]


@needs_service_bus
async def test_a_cancelled_send_does_not_stop_the_next_one() -> None:
    message = new_message()
    async with opened() as queue, receiving() as receiver:
        await queue.send(new_message())
        for wait in (0.0, 0.001, 0.002):
            task = asyncio.create_task(queue.send(new_message()))
            await asyncio.sleep(wait)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await queue.send(message)
        assert len(await received(receiver, {message.message_id})) == 1


@needs_service_bus
async def test_a_queue_used_in_another_event_loop_or_after_its_close_opens_anew() -> None:
    messages = [new_message() for _ in range(3)]
    queue = ServiceBusQueue(ServiceBusConnection(CONNECTION), QUEUE)

    async def use(message: QueueMessage) -> None:
        await queue.send(message)
        await queue.close()

    async with receiving() as receiver:
        await use(messages[0])
        await asyncio.to_thread(asyncio.run, use(messages[1]))
        await use(messages[2])
        assert len(await received(receiver, {message.message_id for message in messages})) == 3


@needs_service_bus
@needs_emulator
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # of a cut connection the SDK only forgets the socket
async def test_a_send_whose_answer_was_lost_is_repeated_and_is_on_the_queue_once() -> None:
    name = named("SERVICE_BUS_TEST_DUPLICATES_QUEUE")
    first, ambiguous = new_message(), new_message()
    async with relaying(CONNECTION) as (relay, through), receiving(name) as receiver:
        async with opened(through, name) as queue:
            await queue.send(first)
            relay.swallow_answers()
            sending = asyncio.create_task(queue.send(ambiguous))
            await relay.swallowed.wait()  # the service has it, and said so
            relay.cut()
            await sending
            assert relay.accepted == 2
        got = await received(receiver, {first.message_id, ambiguous.message_id})
        assert sorted(str(each.message_id) for each in got) == sorted([first.message_id, ambiguous.message_id])
    gc.collect()  # while the event loop of the forgotten socket still runs


@needs_service_bus
async def test_messages_that_a_publisher_sends_as_a_batch_arrive_one_by_one() -> None:
    messages = [ServiceBusMessage(b"{}", message_id=uuid.uuid4().hex) for _ in range(20)]
    ids = {str(message.message_id) for message in messages}
    async with (
        receiving() as receiver,
        ServiceBusClient.from_connection_string(CONNECTION) as client,
        client.get_queue_sender(QUEUE) as sender,
    ):
        batch = await sender.create_message_batch()
        for message in messages:
            batch.add_message(message)
        await sender.send_messages(batch)
        got = await received(receiver, ids)
    assert len(got) == len(ids) == 20


@needs_service_bus
@needs_emulator
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # of a cut connection the SDK only forgets the socket
async def test_sends_after_the_connection_was_dropped_all_arrive() -> None:
    messages = [new_message() for _ in range(12)]
    ids = {message.message_id for message in messages}
    async with relaying(CONNECTION) as (relay, through), receiving() as receiver:
        async with opened(through) as queue:
            await queue.send(messages[0])
            assert relay.accepted == 1
            relay.cut()
            await queue.send(messages[1])
            relay.cut()
            await asyncio.gather(*(queue.send(message) for message in messages[2:]))
            assert relay.accepted == 3
        assert {message.message_id for message in await received(receiver, ids)} == ids
    gc.collect()  # while the event loop of the forgotten socket still runs
