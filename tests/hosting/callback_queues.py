"""A callback queue and a work queue with what receives from them, embedded or of Service Bus, with sessions or without.

They stand for the triggers of the Functions host: a message is completed when its function returns, and given back when
it raises.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import pytest
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver
from azure.servicebus.exceptions import MessageLockLostError, OperationTimeoutError, SessionLockLostError

from agent_core.hosting.queued_message import LockLost, ReceivedMessage
from agent_core.hosting.service_bus_queue import ServiceBusConnection, ServiceBusQueue
from agent_core.hosting.sqlite_queue import SqliteQueue
from agent_core.proactive.queue import QueueMessage
from agent_core.testing import ManualClock

Function = Callable[[QueueMessage], Awaitable[None]]
CONNECTION = os.environ.get("SERVICE_BUS_TEST_CONNECTION", "")
AT_ONCE = 8
# How many seconds without a message are none.
WAIT = 0.5
# What names the callback queue, by whether it has sessions and short locks; and what it is called if nothing does.
_VARIABLES = {
    (False, False): ("SERVICE_BUS_TEST_CALLBACK_QUEUE", "agent-callbacks"),
    (True, False): ("SERVICE_BUS_TEST_SESSION_QUEUE", ""),
    (False, True): ("SERVICE_BUS_TEST_SHORT_LOCK_QUEUE", ""),
    (True, True): ("SERVICE_BUS_TEST_SHORT_LOCK_SESSION_QUEUE", ""),
}


class Queues(Protocol):
    """The two queues, and what receives from them.

    Attributes:
        settled: what became of messages, in order: `complete` or `abandon` and the id, `late` if the lock was lost.
    """

    clock: ManualClock
    settled: list[tuple[str, str]]

    @property
    def callbacks(self) -> SqliteQueue | ServiceBusQueue:
        """Has sessions, or not."""

    @property
    def work(self) -> SqliteQueue | ServiceBusQueue:
        """Has none."""

    async def receive(self, on_callback: Function, on_work: Function) -> int:
        """Receive what there is, and call the functions, of several messages at once; how many messages it was."""

    async def deliver_twice(self, first: Function, second: Function) -> None:
        """Hand a callback over, and once its lock is lost hand it over again, while the first function still runs."""


class EmbeddedQueues:
    """In a file, on the time of the clock."""

    def __init__(self, folder: Path, sessions: bool) -> None:
        self.clock = ManualClock()
        path = folder / "queues.db"
        self.callbacks = SqliteQueue(path, "callbacks", now=self.clock.now, requires_session=sessions)
        self.work = SqliteQueue(path, "work", now=self.clock.now)
        self.settled: list[tuple[str, str]] = []

    async def receive(self, on_callback: Function, on_work: Function) -> int:
        count = 0
        for queue, function in ((self.callbacks, on_callback), (self.work, on_work)):
            received = await queue.receive(AT_ONCE)
            await asyncio.gather(*(self._call(queue, each, function) for each in received))
            count += len(received)
        if not count:
            await self.clock.advance(timedelta(seconds=1))
        return count

    async def deliver_twice(self, first: Function, second: Function) -> None:
        (received,) = await self.callbacks.receive()
        running = asyncio.create_task(self._call(self.callbacks, received, first))
        await self.clock.advance(self.callbacks.lock_duration + timedelta(seconds=1))
        (again,) = await self.callbacks.receive()
        await self._call(self.callbacks, again, second)
        await running

    async def _call(self, queue: SqliteQueue, received: ReceivedMessage, function: Function) -> None:
        message_id = received.message.message_id
        try:
            await function(received.message)
        except Exception:
            self.settled.append(("abandon", message_id))
            await queue.abandon(received)
            return
        try:
            await queue.complete(received)
            self.settled.append(("complete", message_id))
        except LockLost:
            self.settled.append(("late", message_id))


class ServiceBusQueues:
    """Of the Service Bus that SERVICE_BUS_TEST_CONNECTION names, on the time of the day."""

    def __init__(self, client: ServiceBusClient, names: tuple[str, str], sessions: bool, stack: AsyncExitStack) -> None:
        self.clock = ManualClock(datetime.now(UTC))
        self.callbacks, self.work = (ServiceBusQueue(ServiceBusConnection(CONNECTION), name) for name in names)
        self.settled: list[tuple[str, str]] = []
        self._names = names
        self._client = client
        self._sessions = sessions
        self._stack = stack
        self._kept: dict[int, ServiceBusReceiver] = {}

    async def receive(self, on_callback: Function, on_work: Function) -> int:
        await self._to_now()
        counts = await asyncio.gather(
            *(self._receive(0, on_callback) for _ in range(3 if self._sessions else 1)), self._receive(1, on_work)
        )
        return sum(counts)

    async def deliver_twice(self, first: Function, second: Function) -> None:
        async with self._receiver(0, 5) as receiver:
            (received,) = await receiver.receive_messages(1, max_wait_time=5)
            running = asyncio.create_task(self._call(receiver, received, first))
            async with self._receiver(0, 30) as other:
                (again,) = await other.receive_messages(1, max_wait_time=30)
                await self._to_now()
                await self._call(other, again, second)
            await running

    async def _receive(self, which: int, function: Function) -> int:
        """Up to eight messages at once; with sessions one after the other, of one of the sessions that have some."""
        if not (self._sessions and which == 0):
            if which not in self._kept:
                self._kept[which] = await self._stack.enter_async_context(self._receiver(which, WAIT))
            return await self._receive_from(self._kept[which], AT_ONCE, function)
        with suppress(OperationTimeoutError):
            async with self._receiver(which, WAIT) as receiver:
                return await self._receive_from(receiver, 1, function)
        return 0

    async def _receive_from(self, receiver: ServiceBusReceiver, at_once: int, function: Function) -> int:
        count = 0
        while batch := await receiver.receive_messages(at_once, max_wait_time=WAIT):
            await self._to_now()
            await asyncio.gather(*(self._call(receiver, each, function) for each in batch))
            count += len(batch)
        return count

    @asynccontextmanager
    async def _receiver(self, which: int, wait: float) -> AsyncIterator[ServiceBusReceiver]:
        """Raises OperationTimeoutError if no session has messages for so many seconds."""
        sessions = self._sessions and which == 0
        session = NEXT_AVAILABLE_SESSION if sessions else None
        async with self._client.get_queue_receiver(
            self._names[which], session_id=session, max_wait_time=wait
        ) as receiver:
            yield receiver

    async def _call(
        self, receiver: ServiceBusReceiver, received: ServiceBusReceivedMessage, function: Function
    ) -> None:
        message_id = str(received.message_id)
        try:
            await function(_message(received))
        except Exception:
            self.settled.append(("abandon", message_id))
            await receiver.abandon_message(received)
            return
        try:
            await receiver.complete_message(received)
            self.settled.append(("complete", message_id))
        except (MessageLockLostError, SessionLockLostError):
            self.settled.append(("late", message_id))

    async def _to_now(self) -> None:
        await self.clock.advance(datetime.now(UTC) - self.clock.now())


def _message(received: ServiceBusReceivedMessage) -> QueueMessage:
    return QueueMessage(
        b"".join(received.body),
        str(received.message_id),
        content_type=received.content_type or "",
        subject=received.subject,
        correlation_id=received.correlation_id,
        session_id=received.session_id,
    )


@asynccontextmanager
async def opened_queues(kind: str, folder: Path, *, sessions: bool, short_locks: bool = False) -> AsyncIterator[Queues]:
    """`embedded` queues in this folder, or those of `Service Bus`, where there is one."""
    queues: EmbeddedQueues | ServiceBusQueues
    async with AsyncExitStack() as stack:
        if kind == "embedded":
            queues = EmbeddedQueues(folder, sessions)
        else:
            if not CONNECTION:
                pytest.skip("set SERVICE_BUS_TEST_CONNECTION to the connection string of a Service Bus or its emulator")
            variable, default = _VARIABLES[sessions, short_locks]
            callbacks = os.environ.get(variable, default)
            if not callbacks:
                pytest.skip(f"set {variable} to the name of such a queue")
            client = await stack.enter_async_context(
                # No session with messages is a time-out, which the SDK would wait for again and again.
                ServiceBusClient.from_connection_string(CONNECTION, retry_total=0)
            )
            names = callbacks, os.environ.get("SERVICE_BUS_TEST_QUEUE", "agent-work")
            queues = ServiceBusQueues(client, names, sessions, stack)
        stack.push_async_callback(queues.callbacks.close)
        stack.push_async_callback(queues.work.close)
        yield queues
