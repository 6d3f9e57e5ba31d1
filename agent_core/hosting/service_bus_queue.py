"""Puts work on an Azure Service Bus queue; what is sent comes back through the Functions trigger."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from agent_core.errors import QueueUnavailable, SettingsError
from agent_core.proactive.queue import QueueMessage, Undeliverable

if TYPE_CHECKING:
    from azure.servicebus import ServiceBusMessage
    from azure.servicebus.aio import ServiceBusClient, ServiceBusSender

_CLOSE_SECONDS = 1.0
# The standard tier takes 256 KB in one transfer, the header and properties of each message included.
MAX_BATCH = 100
_MAX_BATCH_BYTES, _OVERHEAD = 200_000, 1_000


@dataclass(frozen=True, slots=True)
class ServiceBusConnection:
    """Which namespace, and as whom: a connection string, or the namespace's host name with a token credential."""

    connection_string: str | None = field(default=None, repr=False)
    fully_qualified_namespace: str | None = None
    credential: object | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.connection_string and not (self.fully_qualified_namespace and self.credential):
            raise SettingsError(
                "Service Bus needs a connection string, or a namespace (name.servicebus.windows.net) and a credential"
            )

    def open_client(self) -> ServiceBusClient:
        """A new client; it connects when it is used.

        Raises:
            SettingsError: the connection string is none.
        """
        # Takes 100 ms: what only answers the channel must not pay for it.
        from azure.servicebus.aio import ServiceBusClient

        # The SDK's own retries would double ours, and wait between for as long as the caller has in all.
        if not self.connection_string:
            return ServiceBusClient(str(self.fully_qualified_namespace), cast(Any, self.credential), retry_total=0)
        try:
            return ServiceBusClient.from_connection_string(self.connection_string, retry_total=0)
        except ValueError as error:
            raise SettingsError(f"The connection string of Service Bus cannot be used: {error}") from None


class ServiceBusQueue:
    """The sending side of one queue: one AMQP connection and link per event loop, opened once and kept.

    Sends take turns. A sender of the SDK that is not open yet, or no longer, fails all but one of the sends that
    open it at the same time, and loses their messages.

    Args:
        timeout: for a send in all: its turn, opening, and one further attempt on a fresh connection.
    """

    def __init__(
        self, connection: ServiceBusConnection, queue_name: str, *, timeout: timedelta = timedelta(seconds=10)
    ) -> None:
        self._connection = connection
        self._queue_name = queue_name
        self._timeout = timeout
        self._line: _Line | None = None

    async def send(self, message: QueueMessage) -> None:
        """Put a message on the queue; when this returns the service has it.

        Raises:
            QueueUnavailable: not taken, or not known to be, within the time-out; sending the same id again is safe.
            ValueError: the message can never be sent: too large, no session id for a queue with sessions, a
                `scheduled_enqueue_time` without a time zone, an id over 128 characters, an integer over 32 bits among
                the application properties.
        """
        await self._put(_outgoing(message), f"message {message.message_id}", message.session_id is not None)

    async def send_many(self, messages: Sequence[QueueMessage]) -> None:
        """Put messages on the queue, in batches that every tier of the service takes; raises like `send`."""
        for batch in _in_batches(messages):
            outgoing = [_outgoing(message) for message in batch]
            named = f"message {batch[0].message_id} and {len(batch) - 1} more"
            await self._put(outgoing, named, all(message.session_id is not None for message in batch))

    async def _put(self, outgoing: ServiceBusMessage | list[ServiceBusMessage], named: str, in_session: bool) -> None:
        from azure.core.exceptions import AzureError
        from azure.servicebus.exceptions import MessageSizeExceededError

        line = self._line_here()
        try:
            async with asyncio.timeout(self._timeout.total_seconds()), line.turn:
                await self._send(line, outgoing)
        except TimeoutError:
            raise QueueUnavailable(
                f"Service Bus did not confirm {named} on {self._queue_name!r} within "
                f"{self._timeout.total_seconds():g} s. It may have it; sending the same id again is safe."
            ) from None
        except MessageSizeExceededError as error:
            raise ValueError(
                f"{named.capitalize()} is too large for {self._queue_name!r}: store its content, send its key"
            ) from error
        except AzureError as error:
            if not in_session and "amqp:not-allowed" in str(error):
                raise ValueError(f"The queue {self._queue_name!r} needs a session_id on each message") from error
            raise QueueUnavailable(f"Service Bus did not take {named} on {self._queue_name!r}: {error}") from error

    async def drain_dead_letters(self, keep: Callable[[Undeliverable], Awaitable[None]], *, limit: int) -> int:
        """See `DeadLetterQueue`. A connection of its own, closed at the end: once a minute it is not worth keeping."""
        from agent_core.hosting.service_bus_dead_letters import drain

        return await drain(self._connection.open_client(), self._queue_name, keep, limit=limit, within=self._timeout)

    async def close(self) -> None:
        """Close the connection, after a send that is under way. A later send opens it again."""
        line, self._line = self._line, None
        if line and line.loop is asyncio.get_running_loop():
            async with line.turn:
                await line.hang_up()

    def _line_here(self) -> _Line:
        if self._line is None or self._line.loop is not asyncio.get_running_loop():
            self._line = _Line(self._connection, self._queue_name)
        return self._line

    async def _send(self, line: _Line, outgoing: ServiceBusMessage | list[ServiceBusMessage]) -> None:
        from azure.servicebus.exceptions import ServiceBusCommunicationError, ServiceBusConnectionError

        try:
            try:
                await line.sender().send_messages(outgoing)
            except (ServiceBusConnectionError, ServiceBusCommunicationError):
                # An idle connection is dropped by the service after minutes, and only noticed by sending.
                await line.hang_up()
                await line.sender().send_messages(outgoing)
        except BaseException:
            # Cut off in the middle, even by a cancellation, a link is in no state to be used again.
            await line.hang_up()
            raise


class _Line:
    """What one event loop uses: whose turn it is, and the open connection."""

    def __init__(self, connection: ServiceBusConnection, queue_name: str) -> None:
        self.loop = asyncio.get_running_loop()
        self.turn = asyncio.Lock()
        self._connection = connection
        self._queue_name = queue_name
        self._client: ServiceBusClient | None = None
        self._sender: ServiceBusSender | None = None

    def sender(self) -> ServiceBusSender:
        if self._sender is None:
            self._client = self._connection.open_client()
            self._sender = self._client.get_queue_sender(self._queue_name)
        return self._sender

    async def hang_up(self) -> None:
        client, sender = self._client, self._sender
        self._client = self._sender = None
        if client is None or sender is None:
            return
        # To a service that no longer answers there is no orderly good-bye.
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await sender.close()  # by name: the client forgets senders that nobody holds
                await client.close()


def _in_batches(messages: Sequence[QueueMessage]) -> list[list[QueueMessage]]:
    """Lists that fit into one transfer each; what alone is too large is alone."""
    batches: list[list[QueueMessage]] = []
    size = 0
    for message in messages:
        size += len(message.body) + _OVERHEAD
        if not batches or len(batches[-1]) == MAX_BATCH or size > _MAX_BATCH_BYTES:
            batches.append([])
            size = len(message.body) + _OVERHEAD
        batches[-1].append(message)
    return batches


def _outgoing(message: QueueMessage) -> ServiceBusMessage:
    from azure.servicebus import ServiceBusMessage

    due = message.scheduled_enqueue_time
    if due is not None and due.tzinfo is None:
        raise ValueError("scheduled_enqueue_time needs a time zone: datetime.now(UTC), not datetime.now()")
    properties: dict[str | bytes, Any] = dict(message.application_properties.items())
    for name, value in properties.items():
        # The SDK writes every integer as an AMQP int.
        if isinstance(value, int) and not -(2**31) <= value < 2**31:
            raise ValueError(f"The application property {name!r} is over 32 bits: send it as text")
    return ServiceBusMessage(
        message.body,
        message_id=message.message_id,
        content_type=message.content_type,
        subject=message.subject,
        correlation_id=message.correlation_id,
        session_id=message.session_id,
        application_properties=properties,
        # On the message and not by `schedule_messages`: so duplicates of scheduled messages are found as well.
        scheduled_enqueue_time_utc=due,
        time_to_live=message.time_to_live,
    )
