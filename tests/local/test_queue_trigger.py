"""Queue triggers: messages reach functions as in Azure, traps included, and are settled by how these end."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import azure.functions as func
import pytest

from agent_core.hosting import clock as app_clock
from agent_core.hosting.sqlite_queue import SqliteQueue
from agent_core.local.bindings import InvalidApp
from agent_core.proactive.queue import QueueMessage
from agent_core.testing import ManualClock
from tests.local.running import running, until

START = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
Handler = Callable[[func.ServiceBusMessage], Awaitable[object]]


def listening(handler: Handler, *, binary: bool = True, sessions: bool | None = None) -> func.FunctionApp:
    """An app with one function `work` on the queue `jobs`."""
    app = func.FunctionApp()

    @app.service_bus_queue_trigger(
        "message",
        connection="ServiceBusConnection",
        queue_name="%JOBS%",
        data_type=func.DataType.BINARY if binary else None,
        is_sessions_enabled=sessions,
    )
    async def work(message: func.ServiceBusMessage) -> object:
        return await handler(message)

    return app


SETTINGS = {"JOBS": "jobs"}


class Seen:
    """A handler that keeps what it got, and raises what it was told to first."""

    def __init__(self, *errors: Exception) -> None:
        self.messages: list[func.ServiceBusMessage] = []
        self._errors = list(errors)

    async def __call__(self, message: func.ServiceBusMessage) -> None:
        self.messages.append(message)
        if self._errors:
            raise self._errors.pop(0)

    @property
    def counts(self) -> list[int | None]:
        return [message.delivery_count for message in self.messages]


def job(message_id: str = "m1", body: bytes = b"{}", session_id: str | None = None) -> QueueMessage:
    return QueueMessage(body, message_id, session_id=session_id)


async def emptied(queue: SqliteQueue) -> None:
    """Return when the queue is empty."""
    async with asyncio.timeout(10):
        while await queue.count():  # noqa: ASYNC110  # it is a file
            await asyncio.sleep(0.005)


async def test_a_message_arrives_as_the_host_sends_it(tmp_path: Path) -> None:
    seen = Seen()
    async with running(listening(seen), tmp_path, settings=SETTINGS) as served:
        queue = served.queue("jobs")
        await queue.send(
            QueueMessage(
                b'{"label": "from the body"}',
                "m1",
                subject="order",
                correlation_id="c1",
                session_id="s1",
                application_properties={"text": "é", "number": 7, "flag": True},
                time_to_live=timedelta(minutes=5, milliseconds=250),
            )
        )
        await emptied(queue)
    [message] = seen.messages
    assert isinstance(message, func.ServiceBusMessage)
    assert message.get_body() == b'{"label": "from the body"}'
    assert (message.message_id, message.subject, message.label) == ("m1", "order", "order")
    assert (message.correlation_id, message.session_id, message.content_type) == ("c1", "s1", "application/json")
    assert message.application_properties == {"text": "é", "number": 7, "flag": True}
    assert message.user_properties == message.application_properties
    assert (message.delivery_count, message.sequence_number) == (1, 1)
    # The times come without a zone (and so cannot be compared with the time now), as in Azure.
    assert message.enqueued_time_utc == START.replace(tzinfo=None)
    assert message.expires_at_utc == START.replace(tzinfo=None) + timedelta(minutes=5, milliseconds=250)
    # What the host never sends.
    assert message.locked_until is None
    assert message.time_to_live is None
    assert message.scheduled_enqueue_time_utc is None
    assert message.dead_letter_reason is None
    assert message.metadata is not None
    assert message.metadata["EnqueuedTime"] == "2026-01-05T12:00:00+00:00"
    assert {"MessageReceiver", "MessageActions", "ReceiveActions", "Client", "LockToken"} <= set(message.metadata)
    assert "SessionActions" not in message.metadata


async def test_without_binary_the_keys_of_a_json_body_overwrite_the_messages_properties(tmp_path: Path) -> None:
    body = {"SESSIONID": "from the body", "label": 7, "correlationId": None, "to": ["list"], "extra": {"a": 1}}
    seen = Seen()
    async with running(listening(seen, binary=False), tmp_path, settings=SETTINGS) as served:
        queue = served.queue("jobs")
        sent = QueueMessage(json.dumps(body).encode(), "m1", session_id="s1", subject="order", correlation_id="c1")
        await queue.send(sent)
        await emptied(queue)
    [message] = seen.messages
    assert message.session_id == "from the body"
    assert message.label == "7"
    assert message.subject == "order"
    assert message.correlation_id == "c1"
    assert message.to is None
    assert message.metadata is not None
    assert message.metadata["extra"] == {"a": 1}
    assert json.loads(message.get_body()) == body


@pytest.mark.parametrize("body", [b"no json", b"[1]", b"", b'"text"'])
async def test_without_binary_any_other_body_overwrites_nothing(tmp_path: Path, body: bytes) -> None:
    seen = Seen()
    async with running(listening(seen, binary=False), tmp_path, settings=SETTINGS) as served:
        queue = served.queue("jobs")
        await queue.send(QueueMessage(body, "m1", session_id="s1"))
        await emptied(queue)
    assert seen.messages[0].session_id == "s1"
    assert seen.messages[0].get_body() == body


async def test_a_body_that_overwrites_the_properties_themselves_never_reaches_the_function(tmp_path: Path) -> None:
    """Trap: in Azure each delivery fails before the function, until the message is a dead letter."""
    seen = Seen()
    async with running(listening(seen, binary=False), tmp_path, settings=SETTINGS) as served:
        queue = served.queue("jobs")
        await queue.send(job(body=b'{"userProperties": "x"}'))
        await emptied(queue)
        [dead] = await queue.dead_letters()
    assert dead.reason == "MaxDeliveryCountExceeded"
    assert seen.messages == []


async def test_a_function_that_raises_gets_the_message_again_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen(LookupError("why"))
    async with running(listening(seen), tmp_path, settings=SETTINGS) as served:
        queue = served.queue("jobs")
        await queue.send(job())
        await emptied(queue)
        assert await queue.dead_letters() == []
    assert seen.counts == [1, 2]
    [failure] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert failure.getMessage() == "Function work failed for message m1, delivery 1 of 3"
    assert failure.exc_info is not None
    assert failure.exc_info[0] is LookupError


async def test_a_message_that_always_fails_becomes_a_dead_letter(tmp_path: Path) -> None:
    seen = Seen(*[LookupError("why")] * 9)
    async with running(listening(seen), tmp_path, settings=SETTINGS) as served:
        queue = served.queue("jobs")
        await queue.send(job())
        await emptied(queue)
        [dead] = await queue.dead_letters()
    assert seen.counts == [1, 2, 3]
    assert dead.reason == "MaxDeliveryCountExceeded"


async def test_a_function_that_returns_something_has_failed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def returning(message: func.ServiceBusMessage) -> str:
        return "done"

    async with running(listening(returning), tmp_path, settings=SETTINGS) as served:
        queue = served.queue("jobs")
        await queue.send(job())
        await emptied(queue)
        assert len(await queue.dead_letters()) == 1
    assert "no $return binding" in caplog.text


async def test_a_plain_function_takes_messages_in_a_thread(tmp_path: Path) -> None:
    app = func.FunctionApp()
    threads: list[int] = []

    @app.service_bus_queue_trigger("message", connection="ServiceBusConnection", queue_name="jobs")
    def work(message: func.ServiceBusMessage) -> None:
        threads.append(threading.get_ident())

    async with running(app, tmp_path) as served:
        queue = served.queue("jobs")
        await queue.send(job())
        await emptied(queue)
    assert threads
    assert threads != [threading.get_ident()]


async def test_sixteen_messages_are_worked_on_at_once_and_no_more(tmp_path: Path) -> None:
    going: list[str] = []
    go_on = asyncio.Event()

    async def slow(message: func.ServiceBusMessage) -> None:
        going.append(message.message_id)
        await go_on.wait()

    async with running(listening(slow), tmp_path, settings=SETTINGS) as served:
        queue = served.queue("jobs")
        for number in range(20):
            await queue.send(job(str(number)))
        await until(lambda: len(going) >= 16)
        assert len(await queue.receive(limit=20)) == 4
        assert len(going) == 16
        go_on.set()


async def test_messages_of_a_session_come_one_at_a_time_and_other_sessions_meanwhile(tmp_path: Path) -> None:
    order: list[str] = []
    first_of_a = asyncio.Event()

    async def handle(message: func.ServiceBusMessage) -> None:
        assert message.metadata is not None
        assert message.metadata["SessionActions"]["SessionLockedUntil"] == "2026-01-05T12:01:00+00:00"
        if message.message_id == "a1":
            await first_of_a.wait()
        order.append(message.message_id)

    app = listening(handle, sessions=True)
    async with running(app, tmp_path, settings=SETTINGS, sessions=True) as served:
        queue = served.queue("jobs")
        for name in ("a1", "a2", "b1", "b2"):
            await queue.send(job(name, session_id=name[0]))
        await until(lambda: len(order) == 2)
        assert order == ["b1", "b2"]
        first_of_a.set()
        await emptied(queue)
    assert order == ["b1", "b2", "a1", "a2"]


async def lock_left(queue: SqliteQueue, clock: ManualClock) -> timedelta:
    due = await queue.next_due()
    assert due is not None
    return due - clock.now()


async def test_a_lock_is_renewed_for_as_long_as_the_function_runs(tmp_path: Path) -> None:
    clock = ManualClock()
    started, go_on = asyncio.Event(), asyncio.Event()
    deliveries = Seen()

    async def slow(message: func.ServiceBusMessage) -> None:
        await deliveries(message)
        started.set()
        await go_on.wait()

    async with running(listening(slow), tmp_path, settings=SETTINGS, clock=clock) as served:
        queue = served.queue("jobs")
        await queue.send(job())
        await started.wait()
        for _ in range(18):
            await clock.advance(timedelta(seconds=10))
            async with asyncio.timeout(10):
                while await lock_left(queue, clock) <= timedelta(seconds=20):  # noqa: ASYNC110  # it is a file
                    await asyncio.sleep(0.005)
        go_on.set()
        await emptied(queue)
        assert await queue.dead_letters() == []
    assert deliveries.counts == [1]


async def test_a_scheduled_message_is_delivered_when_the_clock_reaches_it(tmp_path: Path) -> None:
    clock = ManualClock()
    times: list[datetime] = []

    async def note(message: func.ServiceBusMessage) -> None:
        times.append(app_clock.now())

    due = clock.now() + timedelta(days=30)
    async with running(listening(note), tmp_path, settings=SETTINGS, clock=clock) as served:
        queue = served.queue("jobs")
        await queue.send(QueueMessage(b"{}", "m1", scheduled_enqueue_time=due))
        await clock.advance(timedelta(days=30) - timedelta(seconds=1))
        await asyncio.sleep(0.25)  # long enough to look twice
        assert times == []
        await clock.advance(timedelta(seconds=1))
        await emptied(queue)
    assert times == [due]


async def test_what_waits_in_the_file_is_delivered_after_the_start(tmp_path: Path) -> None:
    earlier = SqliteQueue(tmp_path / "queues.db", "jobs", now=ManualClock().now)
    await earlier.send(job())
    await earlier.close()
    seen = Seen()
    async with running(listening(seen), tmp_path, settings=SETTINGS):
        await until(lambda: len(seen.messages) == 1)


async def test_a_function_that_ends_within_a_second_of_the_stop_is_settled(tmp_path: Path) -> None:
    started = asyncio.Event()
    seen = Seen()

    async def slow(message: func.ServiceBusMessage) -> None:
        started.set()
        await asyncio.sleep(0.5)
        await seen(message)

    async with running(listening(slow), tmp_path, settings=SETTINGS) as served:
        queue = served.queue("jobs")
        await queue.send(job())
        await started.wait()
    assert seen.counts == [1]
    assert await queue.count() == 0
    await queue.close()


async def test_a_function_that_does_not_end_is_cancelled_and_its_message_given_back(tmp_path: Path) -> None:
    started = asyncio.Event()

    async def endless(message: func.ServiceBusMessage) -> None:
        started.set()
        await asyncio.Event().wait()

    async with running(listening(endless), tmp_path, settings=SETTINGS) as served:
        queue = served.queue("jobs")
        await queue.send(job())
        await started.wait()
    [received] = await queue.receive()
    assert received.delivery_count == 2
    await queue.close()


async def test_a_function_with_sessions_needs_a_queue_with_sessions(tmp_path: Path) -> None:
    with pytest.raises(InvalidApp, match="'work' has is_sessions_enabled=True"):
        async with running(listening(Seen(), sessions=True), tmp_path, settings=SETTINGS):
            pass
