"""What Service Bus does in bad moments, over a real connection: detached links, lost locks, a busy service, a cut line.

`test_service_bus_failures.py` holds the same at the SDK's boundary, on every machine.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from azure.servicebus import ServiceBusSubQueue

from agent_core.errors import QueueUnavailable
from agent_core.hosting.service_bus_queue import ServiceBusQueue
from agent_core.proactive.dead_letters import DeadLetters
from agent_core.proactive.queue import QueueMessage, Undeliverable
from agent_core.store.memory_store import MemoryStore
from agent_core.testing import ManualClock
from tests.hosting.amqp_relay import Fault, Relay, relaying
from tests.hosting.test_service_bus_queue import (
    CONNECTION,
    named,
    needs_emulator,
    needs_service_bus,
    new_message,
    opened,
    received,
    receiving,
)

pytestmark = [
    needs_service_bus,
    needs_emulator,
    # Of a cut connection the SDK only forgets the socket.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


@pytest.fixture
async def through() -> AsyncIterator[tuple[Relay, str]]:
    async with relaying(CONNECTION) as relayed:
        yield relayed
    gc.collect()  # while the event loop of forgotten sockets still runs


@pytest.fixture
def queue_name() -> str:
    """A queue that takes the second message of one id for the first."""
    return named("SERVICE_BUS_TEST_DUPLICATES_QUEUE")


async def counts(name: str, messages: list[QueueMessage]) -> list[int]:
    """How often each of them is on the queue."""
    async with receiving(name) as receiver:
        got = [str(each.message_id) for each in await received(receiver, {each.message_id for each in messages})]
    return [got.count(each.message_id) for each in messages]


async def test_sends_after_the_link_was_detached_all_arrive_once(through: tuple[Relay, str], queue_name: str) -> None:
    relay, connection = through
    messages = [new_message() for _ in range(12)]
    async with opened(connection, queue_name) as queue:
        await queue.send(messages[0])
        assert relay.detach() == 1
        await queue.send(messages[1])
        assert relay.detach() == 1
        await asyncio.gather(*(queue.send(message) for message in messages[2:]))
    assert await counts(queue_name, messages) == [1] * 12


@pytest.mark.parametrize("fault", ["detach", "taken and detach", "cut"])
async def test_a_message_that_a_detach_or_a_cut_hit_on_its_way_is_on_the_queue_once(
    through: tuple[Relay, str], queue_name: str, fault: Fault
) -> None:
    relay, connection = through
    messages = [new_message() for _ in range(3)]
    async with opened(connection, queue_name) as queue:
        await queue.send(messages[0])
        relay.fail_next_send(fault)
        await queue.send(messages[1])
        await queue.send(messages[2])
        assert relay.accepted == 2
    assert await counts(queue_name, messages) == [1, 1, 1]


async def test_a_message_that_is_hit_twice_is_an_unavailable_queue_and_sending_it_again_is_safe(
    through: tuple[Relay, str], queue_name: str
) -> None:
    relay, connection = through
    message = new_message()
    async with opened(connection, queue_name) as queue:
        relay.fail_next_send("taken and detach", "cut")
        with pytest.raises(QueueUnavailable, match=message.message_id):
            await queue.send(message)
        await queue.send(message)
    assert await counts(queue_name, [message]) == [1]


async def test_a_busy_service_is_an_unavailable_queue_and_is_not_asked_again(
    through: tuple[Relay, str], queue_name: str
) -> None:
    """It asks its clients to wait ten seconds; who sent decides, with the message still his."""
    relay, connection = through
    refused, following = new_message(), new_message()
    async with opened(connection, queue_name) as queue:
        relay.fail_next_send("busy")
        with pytest.raises(QueueUnavailable, match="server-busy"):
            await queue.send(refused)
        await queue.send(following)
        assert await counts(queue_name, [following]) == [1]
        await queue.send(refused)
    assert await counts(queue_name, [refused]) == [1]


# -- receiving: the dead letters of a queue, the one thing that the agent itself receives


async def with_dead_letter(name: str) -> str:
    """A message that is put aside on this queue, and that nothing else in its dead-letter queue is before it."""
    async with opened(name=name) as queue:
        await _drain(queue, [])
        message = new_message()
        await queue.send(message)
    async with receiving(name) as receiver:
        while True:
            (got,) = await receiver.receive_messages(1, max_wait_time=5)
            if got.message_id == message.message_id:
                await receiver.dead_letter_message(got, reason="Bad", error_description="It was bad")
                return message.message_id
            await receiver.complete_message(got)


async def _drain(queue: ServiceBusQueue, kept: list[str]) -> int:
    async def keep(found: Undeliverable) -> None:
        kept.append(found.message.message_id)

    return await queue.drain_dead_letters(keep, limit=100)


async def taken_again(name: str) -> None:
    """Return when the dead letter that was locked is free, by having received it and given it back."""
    async with receiving(name, sub_queue=ServiceBusSubQueue.DEAD_LETTER) as receiver:
        (got,) = await receiver.receive_messages(1, max_wait_time=30)
        await receiver.abandon_message(got)


@pytest.mark.parametrize(("bad_moment", "times_kept"), [("detach", 1), ("cut", 2)])
async def test_a_receiver_that_is_detached_or_cut_off_while_it_drains_loses_nothing(
    through: tuple[Relay, str], bad_moment: str, times_kept: int
) -> None:
    """Without the link the SDK settles by a request; without the connection the dead letter comes again."""
    relay, connection = through
    name = named("SERVICE_BUS_TEST_SHORT_LOCK_QUEUE")
    message_id = await with_dead_letter(name)
    kept: list[str] = []

    async def keep(found: Undeliverable) -> None:
        kept.append(found.message.message_id)
        if len(kept) == 1:
            getattr(relay, bad_moment)()

    async with opened(connection, name) as queue:
        with pytest.raises(QueueUnavailable, match=name):
            await queue.drain_dead_letters(keep, limit=100)
        if times_kept == 2:
            await taken_again(name)
            assert await queue.drain_dead_letters(keep, limit=100) == 1
        assert await queue.drain_dead_letters(keep, limit=100) == 0
    assert kept == [message_id] * times_kept


async def test_a_dead_letter_whose_lock_was_lost_while_it_was_kept_comes_again_and_is_the_same_one() -> None:
    """To complete it too late does no harm."""
    name = named("SERVICE_BUS_TEST_SHORT_LOCK_QUEUE")
    message_id = await with_dead_letter(name)
    clock = ManualClock()
    letters = DeadLetters(MemoryStore(clock.now), clock.now)
    async with opened(name=name) as queue:
        assert await letters.drain(_Slow(queue, name), name, is_work=False) == 0
        (first,) = [letter async for letter in letters.list()]
        assert await letters.drain(queue, name, is_work=False) == 1
        assert [letter.key async for letter in letters.list()] == [first.key]
        assert await letters.drain(queue, name, is_work=False) == 0
    assert first.reason == "Bad"
    assert message_id in first.key


class _Slow:
    """Drains the dead letters of a queue, and takes so long to keep one that it is free again before it goes."""

    def __init__(self, queue: ServiceBusQueue, name: str) -> None:
        self._queue = queue
        self._name = name

    async def drain_dead_letters(self, keep: Callable[[Undeliverable], Awaitable[None]], *, limit: int) -> int:
        async def keep_slowly(found: Undeliverable) -> None:
            await keep(found)
            await taken_again(self._name)

        # One: the second time, it is there again at once.
        return await self._queue.drain_dead_letters(keep_slowly, limit=1)
