"""Reads what Service Bus put aside by itself: the dead-letter queue that every queue of it has."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from azure.core.exceptions import AzureError
from azure.servicebus import ServiceBusReceivedMessage, ServiceBusSubQueue
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import MessageLockLostError

from agent_core.errors import QueueUnavailable
from agent_core.proactive.queue import Property, QueueMessage, Undeliverable

# An empty queue says nothing at all; what is there comes at once.
_WAIT_SECONDS = 1.0
# The SDK's receivers look once a second whether they are to end.
_CLOSE_SECONDS = 3.0
_BATCH = 20
# These two stand among the publisher's own properties in a dead letter.
_REASONS = ("DeadLetterReason", "DeadLetterErrorDescription")


async def drain(
    client: ServiceBusClient,
    queue_name: str,
    keep: Callable[[Undeliverable], Awaitable[None]],
    *,
    limit: int,
    within: timedelta,
) -> int:
    """See `DeadLetterQueue`; closes the client. The dead-letter queue of a queue with sessions has none.

    Args:
        within: for each exchange with the service.
    """
    seconds, seen, drained = within.total_seconds(), 0, 0
    receiver = client.get_queue_receiver(queue_name, sub_queue=ServiceBusSubQueue.DEAD_LETTER)
    try:
        while seen < limit:
            async with asyncio.timeout(seconds):
                batch = await receiver.receive_messages(min(_BATCH, limit - seen), max_wait_time=_WAIT_SECONDS)
            seen += len(batch)
            for message in batch:
                await keep(_undeliverable(message))
                # Kept too late, it comes again, and is the same dead letter.
                with suppress(MessageLockLostError):
                    async with asyncio.timeout(seconds):
                        await receiver.complete_message(message)
                    drained += 1
            if not batch:
                break
    except TimeoutError:
        raise QueueUnavailable(
            f"Service Bus did not answer within {seconds:g} s about the dead letters of {queue_name!r}"
        ) from None
    except AzureError as error:
        raise QueueUnavailable(f"The dead letters of {queue_name!r} were not reached: {error}") from error
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await receiver.close()
                await client.close()
    return drained


def _undeliverable(received: ServiceBusReceivedMessage) -> Undeliverable:
    properties: dict[str, Property] = {
        _text(name): _text(value) for name, value in (received.application_properties or {}).items()
    }
    reason, description = (properties.pop(name, None) for name in _REASONS)
    number = received.sequence_number or 0
    message = QueueMessage(
        body=b"".join(received.body),
        message_id=received.message_id or f"sequence-{number}",
        content_type=received.content_type or "",
        subject=received.subject,
        correlation_id=received.correlation_id,
        session_id=received.session_id,
        application_properties=properties,
    )
    return Undeliverable(
        message,
        number,
        str(received.dead_letter_reason or reason or ""),
        str(received.dead_letter_error_description or description or ""),
        received.delivery_count or 0,
    )


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
