"""Queue triggers: pumps messages from an embedded queue into a function, as the Service Bus listener does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from datetime import datetime
from typing import Any

from azure.functions.meta import Datum
from azure.functions.servicebus import ServiceBusMessageInConverter

from agent_core.errors import QueueUnavailable
from agent_core.hosting.clock import Clock
from agent_core.hosting.queued_message import LockLost, ReceivedMessage
from agent_core.hosting.sqlite_queue import SqliteQueue
from agent_core.local.bindings import QueueFunction
from agent_core.local.invoker import Invoker
from agent_core.local.tasks import Tasks

logger = logging.getLogger(__name__)

# How often to look for what other processes have sent, and how long to leave a file alone that could not be used.
_POLL_SECONDS = 0.1
_RETRY_SECONDS = 1.0


class QueueTrigger:
    """One function's pump: up to `max_concurrent_calls` messages at once, of one session one at a time."""

    def __init__(
        self,
        trigger: QueueFunction,
        queue: SqliteQueue,
        invoker: Invoker,
        clock: Clock,
        invocations: Tasks,
        max_concurrent_calls: int = 16,
    ) -> None:
        self._trigger = trigger
        self._queue = queue
        self._invoker = invoker
        self._clock = clock
        self._invocations = invocations
        self._max = max_concurrent_calls
        self._running = 0
        self._due: datetime | None = None

    async def run(self) -> None:
        """Run until cancelled; functions that are running then go on."""
        with self._queue.watch() as changed:
            changed.set()
            while True:
                try:
                    await self._look(changed)
                except QueueUnavailable as error:
                    logger.error("Function %s gets no messages for now: %s", self._trigger.function.name, error)
                    await asyncio.sleep(_RETRY_SECONDS)

    async def _look(self, changed: asyncio.Event) -> None:
        """Start the function for what can be received, and if that is not all there may be, wait for more."""

        def done() -> None:
            self._running -= 1
            changed.set()

        # What another process schedules is not looked for here: it is found when it is due, by looking again.
        news = changed.is_set() or (self._due is not None and self._due <= self._clock.now())
        changed.clear()
        free = self._max - self._running
        received = await self._receive(free) if free else []
        for each in received:
            self._running += 1
            self._invocations.start(self._handle(each), done)
        if self._running == self._max:
            await changed.wait()
            return
        if news or received:
            self._due = await self._queue.next_due()
        await self._wait(changed)

    async def _receive(self, limit: int) -> list[ReceivedMessage]:
        receiving = asyncio.ensure_future(self._queue.receive(limit))
        try:
            return await asyncio.shield(receiving)
        except asyncio.CancelledError:
            # What was being locked would stay so for as long as a lock lasts, and nobody would work on it.
            with contextlib.suppress(LockLost, QueueUnavailable):
                for each in await receiving:
                    await self._queue.abandon(each)
            raise

    async def _wait(self, changed: asyncio.Event) -> None:
        """Wait for a change, for the clock to reach the next message, or until it is time to look again."""
        waits: list[asyncio.Task[Any]] = [asyncio.create_task(changed.wait())]
        if self._due is not None:
            waits.append(asyncio.create_task(self._clock.sleep(self._due - self._clock.now())))
        try:
            await asyncio.wait(waits, timeout=_POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()

    async def _handle(self, received: ReceivedMessage) -> None:
        """Call the function and settle the message."""
        try:
            succeeded = await self._call_under_lock(received)
        except asyncio.CancelledError:
            # The engine stops. A coroutine has ended here, so its message is free; a thread goes on behind our back,
            # and what it works on must stay locked.
            if self._trigger.function.is_async:
                with contextlib.suppress(LockLost, QueueUnavailable):
                    await self._queue.abandon(received)
            raise
        try:
            await (self._queue.complete(received) if succeeded else self._queue.abandon(received))
        except (LockLost, QueueUnavailable) as error:
            logger.error("Function %s: %s", self._trigger.function.name, error)

    async def _call_under_lock(self, received: ReceivedMessage) -> bool:
        function = self._trigger.function
        renewal = asyncio.create_task(self._keep_locked(received))
        try:
            argument = trigger_message(received, binary=self._trigger.binary, session=self._trigger.sessions)
            await self._invoker.call_returning_nothing(function, argument)
        except Exception:
            delivery = f"{received.delivery_count} of {self._queue.max_delivery_count}"
            logger.exception(
                "Function %s failed for message %s, delivery %s", function.name, received.message.message_id, delivery
            )
            return False
        finally:
            renewal.cancel()
            await asyncio.wait([renewal])
        return True

    async def _keep_locked(self, received: ReceivedMessage) -> None:
        try:
            while True:
                await self._clock.sleep(self._queue.lock_duration / 2)
                await self._queue.renew_lock(received)
        except (LockLost, QueueUnavailable) as error:
            logger.warning("Function %s is still running: %s", self._trigger.function.name, error)


def trigger_message(received: ReceivedMessage, *, binary: bool, session: bool) -> object:
    """The `ServiceBusMessage` that a function gets, decoded by azure-functions from what the host would send.

    Unless `binary`, the keys of a JSON body overwrite the message's properties of the same name, as they do in Azure.
    """
    message = received.message
    metadata: dict[str, Datum] = {
        **_json("MessageActions", {}),
        **_json("MessageReceiver", {}),
        **_json("ReceiveActions", {}),
        **_json("Client", {"FullyQualifiedNamespace": "localhost", "IsClosed": False, "TransportType": 0}),
        **_json("DeliveryCount", received.delivery_count),
        **_json("SequenceNumber", received.sequence_number),
        **_times("EnqueuedTime", received.enqueued_time),
        **_times("ExpiresAt", received.expires_at),
        **_json("ApplicationProperties", dict(message.application_properties)),
        **_json("UserProperties", dict(message.application_properties)),
    }
    if session:
        locked_until = {"SessionLockedUntil": received.locked_until.isoformat()}
        metadata |= _json("MessageSession", locked_until) | _json("SessionActions", locked_until)
    texts = {
        "LockToken": received.lock_token,
        "MessageId": message.message_id,
        "ContentType": message.content_type,
        "Subject": message.subject,
        "Label": message.subject,
        "CorrelationId": message.correlation_id,
        "SessionId": message.session_id,
    }
    metadata |= {name: Datum(text, "string") for name, text in texts.items() if text is not None}
    if binary:
        data = Datum(message.body, "bytes")
    else:
        data = Datum(message.body.decode(errors="replace"), "string")
        names = {name.lower(): name for name in metadata}
        metadata |= {names.get(name.lower(), name): value for name, value in _body_properties(data.value).items()}
    return ServiceBusMessageInConverter.decode(data, trigger_metadata=metadata)


def _json(name: str, value: object) -> dict[str, Datum]:
    return {name: Datum(json.dumps(value), "json")}


def _times(name: str, moment: datetime) -> dict[str, Datum]:
    # The one in UTC comes without its zone.
    return _json(name, moment.isoformat()) | _json(f"{name}Utc", moment.replace(tzinfo=None).isoformat())


def _body_properties(body: str) -> dict[str, Datum]:
    """What the host adds to the metadata from a JSON body: its top-level keys, but for lists and nulls.

    https://github.com/Azure/azure-functions-host/blob/dev/src/WebJobs.Script/Utility.cs (ApplyBindingData)
    """
    try:
        parsed: Any = json.loads(body)
    except ValueError:
        return {}
    if not isinstance(parsed, dict):
        return {}
    return {
        name: Datum(json.dumps(value), "json") if isinstance(value, dict) else Datum(str(value), "string")
        for name, value in parsed.items()
        if value is not None and not isinstance(value, list)
    }
