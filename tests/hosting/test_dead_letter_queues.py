"""P6.12: what a queue put aside by itself becomes a dead letter that an operator can decide about."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import pytest
from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import MessageLockLostError, ServiceBusConnectionError, ServiceBusServerBusyError

from agent_core.errors import QueueUnavailable, StoreUnavailable
from agent_core.hosting.service_bus_dead_letters import drain
from agent_core.hosting.service_bus_queue import ServiceBusQueue
from agent_core.hosting.sqlite_queue import SqliteQueue
from agent_core.proactive.dead_letters import DeadLetters
from agent_core.proactive.queue import QueueMessage, Undeliverable
from agent_core.proactive.work import WorkItem
from agent_core.store.memory_store import MemoryStore
from agent_core.testing import ManualClock, MemoryQueue
from tests.hosting.test_service_bus_queue import CONNECTION, QUEUE, needs_service_bus, new_message, opened

WORK = WorkItem("callback", "callback:a", {"body": {}}, scope="c1", attempt=3)


async def test_what_was_delivered_too_often_or_expired_is_drained_with_its_reason(tmp_path: Path) -> None:
    clock = ManualClock()
    queue = SqliteQueue(tmp_path / "queues.db", "agent-work", now=clock.now, max_delivery_count=1)
    store = MemoryStore(clock.now)
    letters = DeadLetters(store, clock.now, MemoryQueue(clock))
    await queue.send(WORK.to_message())
    await queue.send(QueueMessage(b"\xff", "m2", time_to_live=timedelta(seconds=1)))
    (received, *_) = await queue.receive(1)
    await queue.abandon(received)
    await clock.advance(timedelta(seconds=2))
    assert await queue.receive(1) == []
    assert await letters.drain(queue, "agent-work", is_work=True, limit=1) == 1
    assert await letters.drain(queue, "agent-work", is_work=True) == 1
    assert await letters.drain(queue, "agent-work", is_work=True) == 0
    found = [letter async for letter in letters.list()]
    assert {letter.reason for letter in found} == {"MaxDeliveryCountExceeded", "TTLExpiredException"}
    work = next(letter for letter in found if letter.reason == "MaxDeliveryCountExceeded")
    assert await letters.replay(work)
    await queue.close()


async def test_work_that_was_drained_is_replayed_under_its_key_from_its_first_attempt(tmp_path: Path) -> None:
    clock = ManualClock()
    work = MemoryQueue(clock)
    letters = DeadLetters(MemoryStore(clock.now), clock.now, work)
    await letters.drain(_Aside([_undeliverable(WORK.to_message())]), "agent-work", is_work=True)
    (letter,) = [letter async for letter in letters.list()]
    assert await letters.replay(letter)
    (message,) = work.messages
    item = WorkItem.from_message(message)
    assert (item.key, item.scope, item.attempt) == (WORK.key, WORK.scope, 1)
    assert message.message_id != WORK.to_message().message_id


async def test_a_drained_callback_is_no_work_of_the_agents_whatever_it_looks_like(tmp_path: Path) -> None:
    clock = ManualClock()
    work = MemoryQueue(clock)
    letters = DeadLetters(MemoryStore(clock.now), clock.now, work)
    await letters.drain(_Aside([_undeliverable(WORK.to_message())]), "agent-callbacks", is_work=False)
    (letter,) = [letter async for letter in letters.list()]
    assert await letters.replay(letter)
    (message,) = work.messages
    assert WorkItem.from_message(message).kind == "message"


async def test_a_message_that_could_not_be_kept_stays_where_it_was(tmp_path: Path) -> None:
    clock = ManualClock()
    queue = SqliteQueue(tmp_path / "queues.db", "agent-work", now=clock.now)
    await queue.send(QueueMessage(b"{}", "m1"))
    (received, *_) = await queue.receive(1)
    await queue.dead_letter(received, "Why", "Because")

    async def fail(found: Undeliverable) -> None:
        raise StoreUnavailable("told to")

    with pytest.raises(StoreUnavailable):
        await queue.drain_dead_letters(fail, limit=10)
    assert [each.reason for each in await queue.dead_letters()] == ["Why"]
    await queue.close()


class _Aside:
    """A dead-letter queue in memory."""

    def __init__(self, messages: list[Undeliverable]) -> None:
        self._messages = messages

    async def drain_dead_letters(self, keep: Callable[[Undeliverable], Awaitable[None]], *, limit: int) -> int:
        for each in self._messages[:limit]:
            await keep(each)
        return len(self._messages[:limit])


def _undeliverable(message: QueueMessage) -> Undeliverable:
    return Undeliverable(message, 7, "MaxDeliveryCountExceeded", "Too often", 10)


# -- at the SDK's boundary


class _Received:
    """What the SDK gives of a message."""

    def __init__(self, message_id: str, **fields: Any) -> None:
        self.body = [b"{", b"}"]
        self.message_id = message_id
        self.content_type = self.subject = self.correlation_id = self.session_id = None
        self.sequence_number, self.delivery_count = 3, 10
        self.dead_letter_reason = self.dead_letter_error_description = None
        self.application_properties: dict[Any, Any] = {}
        self.__dict__.update(fields)


class _Client:
    """A client and its receiver in one, which has `answers` to give and notes what was completed."""

    def __init__(self, answers: list[list[_Received] | Exception], complete: Exception | None = None) -> None:
        self._answers = answers
        self._complete = complete
        self.completed: list[str] = []
        self.closed = 0

    def get_queue_receiver(self, name: str, *, sub_queue: str) -> Self:
        assert (name, sub_queue) == ("q", "deadletter")
        return self

    async def receive_messages(self, count: int, max_wait_time: float) -> list[ServiceBusReceivedMessage]:
        answer = self._answers.pop(0) if self._answers else []
        if isinstance(answer, Exception):
            raise answer
        return cast(list[ServiceBusReceivedMessage], answer[:count])

    async def complete_message(self, message: _Received) -> None:
        if self._complete:
            raise self._complete
        self.completed.append(message.message_id)

    async def close(self) -> None:
        self.closed += 1

    async def __aexit__(self, kind: type[BaseException], error: BaseException, trace: TracebackType) -> None:
        await self.close()


async def _drained(client: _Client, limit: int = 10) -> tuple[int, list[Undeliverable]]:
    found: list[Undeliverable] = []

    async def keep(message: Undeliverable) -> None:
        assert message.message.message_id not in client.completed, "first kept, then completed"
        found.append(message)

    count = await drain(cast(ServiceBusClient, client), "q", keep, limit=limit, within=timedelta(seconds=5))
    assert client.closed == 2
    return count, found


async def test_reasons_come_from_the_message_or_from_its_properties_and_the_rest_of_it_stays() -> None:
    mine = {b"p": b"1", "DeadLetterReason": b"Mine", b"DeadLetterErrorDescription": "Why"}
    client = _Client([[_Received("a", application_properties=mine), _Received("b", dead_letter_reason="Too often")]])
    count, (first, second) = await _drained(client)
    assert count == 2
    assert (first.reason, first.description, first.deliveries, first.number) == ("Mine", "Why", 10, 3)
    assert (first.message.body, first.message.application_properties) == (b"{}", {"p": "1"})
    assert (second.reason, second.description) == ("Too often", "")
    assert client.completed == ["a", "b"]


async def test_an_empty_dead_letter_queue_is_asked_once() -> None:
    client = _Client([[], [_Received("never")]])
    assert await _drained(client) == (0, [])


async def test_a_lock_that_was_lost_meanwhile_is_no_failure() -> None:
    """It comes again, and is written over the same dead letter."""
    client = _Client([[_Received("a")]], complete=MessageLockLostError())
    count, found = await _drained(client)
    assert (count, len(found)) == (0, 1)


@pytest.mark.parametrize(
    "error", [ServiceBusServerBusyError(message="busy"), ServiceBusConnectionError(message="amqp:link:detach-forced")]
)
async def test_a_busy_service_and_a_detached_link_are_an_unavailable_queue_and_what_was_kept_is_done_with(
    error: Exception,
) -> None:
    client = _Client([[_Received("a")], error])
    with pytest.raises(QueueUnavailable, match="'q'"):
        await _drained(client)
    assert client.completed == ["a"]
    assert client.closed == 2


async def test_a_link_that_is_detached_before_the_completion_leaves_the_message_to_come_again() -> None:
    client = _Client([[_Received("a")]], complete=ServiceBusConnectionError(message="amqp:link:detach-forced"))
    with pytest.raises(QueueUnavailable, match="detach"):
        await _drained(client)
    assert client.completed == []
    assert client.closed == 2


async def test_no_more_is_drained_at_once_than_the_limit_says() -> None:
    client = _Client([[_Received("a"), _Received("b")], [_Received("c"), _Received("d")]])
    count, _ = await _drained(client, limit=3)
    assert count == 3
    assert client.completed == ["a", "b", "c"]


# -- over a real connection


@needs_service_bus
async def test_the_dead_letter_queue_of_service_bus_is_drained_in_bounds_and_is_empty_then() -> None:
    ids = {uuid.uuid4().hex for _ in range(3)}
    async with opened() as queue:
        for each in ids:
            await queue.send(new_message(application_properties={"id": each}, message_id=each, subject="s"))
        await _put_aside(ids)
        found = await _of(queue, ids)
        assert {each.message.message_id for each in found} == ids
        assert {(each.reason, each.description, each.message.subject) for each in found} == {("Bad", "It was bad", "s")}
        assert {each.message.application_properties["id"] for each in found} == ids
        assert await _of(queue, ids) == []


async def _of(queue: ServiceBusQueue, ids: set[str]) -> list[Undeliverable]:
    found: list[Undeliverable] = []

    async def keep(message: Undeliverable) -> None:
        found.append(message)

    while await queue.drain_dead_letters(keep, limit=2):
        pass
    return [each for each in found if each.message.message_id in ids]


async def _put_aside(ids: set[str]) -> None:
    async with (
        ServiceBusClient.from_connection_string(CONNECTION) as client,
        client.get_queue_receiver(QUEUE) as receiver,
    ):
        left = set(ids)
        while left:
            for message in await receiver.receive_messages(10, max_wait_time=5):
                if message.message_id in left:
                    left.discard(str(message.message_id))
                    await receiver.dead_letter_message(message, reason="Bad", error_description="It was bad")
                else:
                    await receiver.complete_message(message)
