"""What every queue does, in Service Bus's words; a further implementation joins the list in `IMPLEMENTATIONS`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

import pytest

from agent_core.hosting.queued_message import DeadLetter, LockLost, ReceivedMessage, StoredMessage
from agent_core.hosting.sqlite_queue import SqliteQueue
from agent_core.proactive.queue import Queue, QueueMessage
from agent_core.testing import ManualClock

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
LOCK = timedelta(seconds=60)
DELIVERIES = 3
WINDOW = timedelta(minutes=10)


class ReceivingQueue(Queue, Protocol):
    """Both sides of a queue."""

    async def receive(self, limit: int = 1) -> list[ReceivedMessage]: ...
    async def complete(self, received: ReceivedMessage) -> None: ...
    async def abandon(self, received: ReceivedMessage) -> None: ...
    async def dead_letter(self, received: ReceivedMessage, reason: str, description: str) -> None: ...
    async def renew_lock(self, received: ReceivedMessage) -> datetime: ...
    async def peek(self, limit: int = 100) -> list[StoredMessage]: ...
    async def count(self) -> int: ...
    async def next_due(self) -> datetime | None: ...
    async def dead_letters(self, limit: int = 100) -> list[DeadLetter]: ...
    async def receive_dead_letters(self, limit: int = 1) -> list[DeadLetter]: ...
    async def delete_dead_letter(self, dead_letter: DeadLetter) -> None: ...


class QueueUnderTest(Protocol):
    """What the suite needs of an implementation: queues of LOCK, DELIVERIES and WINDOW, on a time that it can move."""

    def now(self) -> datetime: ...

    async def advance(self, delta: timedelta) -> None: ...

    def open(self, name: str = "work", *, requires_session: bool = False) -> ReceivingQueue:
        """A client of the queue of that name; a second one is another receiver of the same queue."""

    async def close(self) -> None: ...


class SqliteQueues:
    """The embedded queue, in a file of its own."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "queues.db"
        self._clock = ManualClock()
        self._open: list[SqliteQueue] = []

    def now(self) -> datetime:
        return self._clock.now()

    async def advance(self, delta: timedelta) -> None:
        await self._clock.advance(delta)

    def open(self, name: str = "work", *, requires_session: bool = False) -> ReceivingQueue:
        queue = SqliteQueue(
            self._path,
            name,
            now=self._clock.now,
            lock_duration=LOCK,
            max_delivery_count=DELIVERIES,
            duplicate_window=WINDOW,
            requires_session=requires_session,
        )
        self._open.append(queue)
        return queue

    async def close(self) -> None:
        for queue in self._open:
            await queue.close()


IMPLEMENTATIONS: list[Callable[[Path], QueueUnderTest]] = [SqliteQueues]


@pytest.fixture(params=IMPLEMENTATIONS, ids=lambda each: each.__name__)
async def queues(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[QueueUnderTest]:
    queues: QueueUnderTest = request.param(tmp_path)
    yield queues
    await queues.close()


def message(
    message_id: str, session_id: str | None = None, *, at: datetime | None = None, ttl: timedelta | None = None
) -> QueueMessage:
    body = message_id.encode()
    return QueueMessage(body, message_id, session_id=session_id, scheduled_enqueue_time=at, time_to_live=ttl)


def ids(messages: list[ReceivedMessage] | list[StoredMessage] | list[DeadLetter]) -> list[str]:
    return [each.message.message_id for each in messages]


async def one(queue: ReceivingQueue) -> ReceivedMessage:
    """Receive the message that must be there."""
    [received] = await queue.receive()
    return received


async def fail(queue: ReceivingQueue, times: int) -> None:
    for _ in range(times):
        await queue.abandon(await one(queue))


async def test_a_message_arrives_as_it_was_sent(queues: QueueUnderTest) -> None:
    queue = queues.open()
    sent = QueueMessage(
        b"\x00\xff body",
        "m1",
        content_type="application/cloudevents+json",
        subject="order",
        correlation_id="c1",
        session_id="s1",
        application_properties={"text": "é", "number": 7, "ratio": 0.5, "flag": True},
        time_to_live=timedelta(days=1, microseconds=1),
    )
    await queue.send(sent)
    received = await one(queue)
    assert received.message == sent
    assert received.delivery_count == 1
    assert received.enqueued_time == queues.now()
    assert received.expires_at == queues.now() + timedelta(days=1, microseconds=1)
    assert received.locked_until == queues.now() + LOCK


async def test_messages_come_in_the_order_of_their_sequence_numbers(queues: QueueUnderTest) -> None:
    queue = queues.open()
    for name in "abc":
        await queue.send(message(name))
    received = await queue.receive(limit=2) + await queue.receive(limit=2)
    assert ids(received) == ["a", "b", "c"]
    numbers = [each.sequence_number for each in received]
    assert numbers == sorted(set(numbers))
    assert numbers[0] > 0


async def test_an_empty_queue_gives_nothing_and_does_not_wait(queues: QueueUnderTest) -> None:
    assert await queues.open().receive(limit=10) == []


async def test_a_message_is_received_by_one_consumer_at_a_time(queues: QueueUnderTest) -> None:
    first, second = queues.open(), queues.open()
    await first.send(message("a"))
    assert ids(await first.receive()) == ["a"]
    assert await second.receive() == []


async def test_queues_do_not_mix(queues: QueueUnderTest) -> None:
    work, callbacks = queues.open("work"), queues.open("callbacks")
    await work.send(message("a"))
    await callbacks.send(message("a"))
    assert await callbacks.count() == 1
    await callbacks.complete(await one(callbacks))
    assert (await work.count(), await callbacks.count()) == (1, 0)


async def test_a_completed_message_is_gone(queues: QueueUnderTest) -> None:
    queue = queues.open()
    await queue.send(message("a"))
    await queue.complete(await one(queue))
    await queues.advance(LOCK)
    assert await queue.receive() == []
    assert await queue.count() == 0


async def test_an_abandoned_message_is_first_again_and_the_delivery_counts(queues: QueueUnderTest) -> None:
    queue = queues.open()
    await queue.send(message("a"))
    await queue.send(message("b"))
    await queue.abandon(await one(queue))
    again = await one(queue)
    assert (again.message.message_id, again.delivery_count) == ("a", 2)


async def test_an_expired_lock_makes_the_message_visible_again_and_the_delivery_counts(queues: QueueUnderTest) -> None:
    queue = queues.open()
    await queue.send(message("a"))
    await queue.receive()
    await queues.advance(LOCK - SECOND)
    assert await queue.receive() == []
    await queues.advance(SECOND)
    assert (await one(queue)).delivery_count == 2


@pytest.mark.parametrize("settle", ["complete", "abandon", "renew_lock", "dead_letter"])
async def test_a_lost_lock_can_settle_nothing(queues: QueueUnderTest, settle: str) -> None:
    """Neither when it has just expired nor when somebody else holds the message."""
    queue, other = queues.open(), queues.open()
    settlements: dict[str, Callable[[ReceivedMessage], Awaitable[object]]] = {
        "complete": queue.complete,
        "abandon": queue.abandon,
        "renew_lock": queue.renew_lock,
        "dead_letter": lambda late: queue.dead_letter(late, "Late", "Too late"),
    }
    await queue.send(message("a"))
    late = await one(queue)
    await queues.advance(LOCK)
    with pytest.raises(LockLost, match="Message a of work"):
        await settlements[settle](late)
    held = await one(other)
    with pytest.raises(LockLost):
        await settlements[settle](late)
    await other.complete(held)
    assert await queue.count() == 0
    assert await queue.dead_letters() == []


async def test_a_message_is_settled_once(queues: QueueUnderTest) -> None:
    queue = queues.open()
    await queue.send(message("a"))
    received = await one(queue)
    await queue.abandon(received)
    with pytest.raises(LockLost):
        await queue.complete(received)


async def test_a_renewed_lock_lasts_from_the_renewal_on(queues: QueueUnderTest) -> None:
    queue = queues.open()
    await queue.send(message("a"))
    received = await one(queue)
    await queues.advance(LOCK - SECOND)
    assert await queue.renew_lock(received) == queues.now() + LOCK
    await queues.advance(LOCK - SECOND)
    assert await queue.receive() == []
    await queue.complete(received)
    assert await queue.count() == 0


async def test_after_the_last_delivery_a_message_is_a_dead_letter(queues: QueueUnderTest) -> None:
    queue = queues.open()
    await queue.send(message("a"))
    await fail(queue, DELIVERIES)
    assert await queue.receive() == []
    [dead] = await queue.dead_letters()
    assert (dead.message.body, dead.reason, dead.delivery_count) == (b"a", "MaxDeliveryCountExceeded", DELIVERIES)
    assert str(DELIVERIES) in dead.description


async def test_a_receiver_that_dies_each_time_makes_a_dead_letter_too(queues: QueueUnderTest) -> None:
    queue = queues.open()
    await queue.send(message("a"))
    for _ in range(DELIVERIES):
        await one(queue)
        await queues.advance(LOCK)
    assert await queue.receive() == []
    [dead] = await queue.dead_letters()
    assert dead.reason == "MaxDeliveryCountExceeded"


async def test_a_receiver_can_put_a_message_aside(queues: QueueUnderTest) -> None:
    queue = queues.open()
    await queue.send(message("a"))
    await queue.dead_letter(await one(queue), "InvalidJson", "The body is no JSON")
    [dead] = await queue.dead_letters()
    assert (dead.reason, dead.description, dead.lock_token) == ("InvalidJson", "The body is no JSON", None)
    assert await queue.count() == 0


async def test_what_lives_too_long_is_a_dead_letter(queues: QueueUnderTest) -> None:
    queue = queues.open()
    await queue.send(message("a", ttl=MINUTE))
    await queues.advance(MINUTE - SECOND)
    assert await queue.count() == 1
    await queues.advance(SECOND)
    assert await queue.receive() == []
    [dead] = await queue.dead_letters()
    assert dead.reason == "TTLExpiredException"


async def test_a_message_does_not_expire_in_its_receivers_hands(queues: QueueUnderTest) -> None:
    queue = queues.open()
    await queue.send(message("a", ttl=SECOND))
    received = await one(queue)
    await queues.advance(2 * SECOND)
    assert await queue.dead_letters() == []
    await queue.complete(received)
    assert await queue.count() == 0


async def test_the_time_to_live_of_a_scheduled_message_begins_at_its_time(queues: QueueUnderTest) -> None:
    queue = queues.open()
    await queue.send(message("a", at=queues.now() + MINUTE, ttl=SECOND))
    await queues.advance(MINUTE)
    received = await one(queue)
    assert received.expires_at == queues.now() + SECOND


async def test_nobody_receives_a_scheduled_message_before_its_time(queues: QueueUnderTest) -> None:
    queue = queues.open()
    due = queues.now() + MINUTE
    await queue.send(message("later", at=due))
    await queues.advance(MINUTE - SECOND)
    assert await queue.receive() == []
    await queues.advance(SECOND)
    received = await one(queue)
    assert (received.message.message_id, received.enqueued_time, received.delivery_count) == ("later", due, 1)
    assert received.message.scheduled_enqueue_time == due


async def test_scheduled_messages_come_by_their_times_and_behind_what_is_there(queues: QueueUnderTest) -> None:
    queue = queues.open()
    await queue.send(message("second", at=queues.now() + 2 * MINUTE))
    await queue.send(message("first", at=queues.now() + MINUTE))
    await queue.send(message("third", at=queues.now() + 2 * MINUTE))
    await queues.advance(MINUTE)
    await queue.send(message("already there"))
    await queues.advance(MINUTE)
    assert ids(await queue.receive(limit=9)) == ["first", "already there", "second", "third"]


async def test_a_time_that_has_passed_is_now(queues: QueueUnderTest) -> None:
    queue = queues.open()
    await queue.send(message("a", at=queues.now() - MINUTE))
    assert (await one(queue)).enqueued_time == queues.now()


@pytest.mark.parametrize("what_became_of_it", ["waiting", "scheduled", "completed", "dead"])
async def test_a_message_id_is_taken_once_within_the_window(queues: QueueUnderTest, what_became_of_it: str) -> None:
    queue = queues.open()
    at = queues.now() + timedelta(days=1) if what_became_of_it == "scheduled" else None
    await queue.send(message("a", at=at))
    if what_became_of_it == "completed":
        await queue.complete(await one(queue))
    if what_became_of_it == "dead":
        await fail(queue, DELIVERIES)
    before = await queue.count()
    await queues.advance(WINDOW - SECOND)
    await queue.send(message("a"))
    assert await queue.count() == before
    await queues.advance(SECOND)
    await queue.send(message("a"))
    assert await queue.count() == before + 1


async def test_many_messages_are_sent_at_once_in_their_order_and_each_by_its_time(queues: QueueUnderTest) -> None:
    queue = queues.open()
    later = queues.now() + MINUTE
    await queue.send_many([])
    await queue.send_many([message("a"), message("later", at=later), message("b"), message("a")])
    await queue.send_many([message("b"), message("c")])
    assert ids(await queue.receive(limit=10)) == ["a", "b", "c"]
    await queues.advance(MINUTE)
    assert "later" in ids(await queue.receive(limit=10))


async def test_of_many_messages_with_one_that_can_never_be_sent_all_can_be_sent_again(queues: QueueUnderTest) -> None:
    queue = queues.open()
    with pytest.raises(ValueError, match="message large has 262"):
        await queue.send_many([message("a"), QueueMessage(b"x" * 256 * 1024, "large"), message("b")])
    await queue.send_many([message("a"), message("b")])
    assert ids(await queue.receive(limit=10)) == ["a", "b"]


async def test_a_session_has_one_receiver_at_a_time(queues: QueueUnderTest) -> None:
    first, second = queues.open(requires_session=True), queues.open(requires_session=True)
    for name, session in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b")]:
        await first.send(message(name, session))
    received = await first.receive(limit=9)
    assert ids(received) == ["a1", "b1"]
    assert await second.receive(limit=9) == []
    await first.complete(received[0])
    assert ids(await second.receive(limit=9)) == ["a2"]


async def test_a_message_that_fails_holds_back_the_later_ones_of_its_session(queues: QueueUnderTest) -> None:
    queue = queues.open(requires_session=True)
    await queue.send(message("a1", "a"))
    await queue.send(message("a2", "a"))
    await fail(queue, DELIVERIES - 1)
    await queue.receive()
    await queues.advance(LOCK - SECOND)
    assert await queue.receive() == []
    await queues.advance(SECOND)
    assert ids(await queue.dead_letters()) == ["a1"]
    assert ids(await queue.receive()) == ["a2"]


async def test_without_sessions_a_session_id_orders_nothing(queues: QueueUnderTest) -> None:
    queue = queues.open()
    await queue.send(message("a1", "a"))
    await queue.send(message("a2", "a"))
    assert ids(await queue.receive(limit=9)) == ["a1", "a2"]


async def test_a_queue_with_sessions_refuses_a_message_without_one(queues: QueueUnderTest) -> None:
    with pytest.raises(ValueError, match="session id"):
        await queues.open(requires_session=True).send(message("a"))


async def test_a_message_too_large_can_never_be_sent(queues: QueueUnderTest) -> None:
    queue = queues.open()
    with pytest.raises(ValueError, match="message a has 262"):
        await queue.send(QueueMessage(b"x" * 256 * 1024, "a"))
    await queue.send(QueueMessage(b"x" * 255 * 1024, "a"))
    assert len((await one(queue)).message.body) == 255 * 1024


@pytest.mark.parametrize("message_id", ["", "x" * 129])
async def test_a_message_needs_an_id_of_at_most_128_characters(queues: QueueUnderTest, message_id: str) -> None:
    with pytest.raises(ValueError, match="128"):
        await queues.open().send(message(message_id))


async def test_peeking_shows_waiting_locked_and_scheduled_messages_and_locks_none(queues: QueueUnderTest) -> None:
    queue = queues.open()
    await queue.send(message("locked"))
    await queue.send(message("later", at=queues.now() + MINUTE))
    await queue.send(message("waiting"))
    await one(queue)
    assert ids(await queue.peek()) == ["locked", "waiting", "later"]
    assert ids(await queue.peek(limit=1)) == ["locked"]
    assert await queue.count() == 3
    assert ids(await queue.receive(limit=9)) == ["waiting"]


async def test_dead_letters_can_be_drained_by_one_receiver_at_a_time(queues: QueueUnderTest) -> None:
    queue = queues.open()
    for name in "ab":
        await queue.send(message(name))
        await queue.dead_letter(await one(queue), "Why", "")
    held = await queue.receive_dead_letters(limit=9)
    assert ids(held) == ["a", "b"]
    assert await queue.receive_dead_letters() == []
    await queue.delete_dead_letter(held[0])
    await queues.advance(LOCK)
    with pytest.raises(LockLost):
        await queue.delete_dead_letter(held[1])
    assert ids(await queue.receive_dead_letters(limit=9)) == ["b"]
    assert ids(await queue.dead_letters()) == ["b"]


async def test_a_dead_letter_that_was_only_looked_at_cannot_be_deleted(queues: QueueUnderTest) -> None:
    queue = queues.open()
    await queue.send(message("a"))
    await queue.dead_letter(await one(queue), "Why", "")
    [seen] = await queue.dead_letters()
    with pytest.raises(LockLost):
        await queue.delete_dead_letter(seen)


async def test_next_due_is_when_the_next_message_can_be_received(queues: QueueUnderTest) -> None:
    queue = queues.open()
    start = queues.now()
    assert await queue.next_due() is None
    await queue.send(message("later", at=start + 5 * MINUTE))
    assert await queue.next_due() == start + 5 * MINUTE
    await queue.send(message("a"))
    assert await queue.next_due() == start
    held = await one(queue)
    assert await queue.next_due() == start + LOCK
    await queue.complete(held)
    assert await queue.next_due() == start + 5 * MINUTE


async def test_what_waits_behind_a_locked_message_of_its_session_is_due_with_the_lock(queues: QueueUnderTest) -> None:
    queue = queues.open(requires_session=True)
    await queue.send(message("a1", "a"))
    await queue.send(message("a2", "a"))
    await one(queue)
    assert await queue.next_due() == queues.now() + LOCK


async def test_a_closed_queue_opens_again_when_it_is_used(queues: QueueUnderTest) -> None:
    queue = queues.open()
    await queue.send(message("a"))
    await queue.close()
    assert ids(await queue.receive()) == ["a"]
