"""What a queue must do for work that waits: the protocol that Service Bus and the embedded queue both meet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

Property = str | int | float | bool


@dataclass(frozen=True, slots=True)
class QueueMessage:
    """A message to put on a queue, in Service Bus's words.

    Attributes:
        message_id: chosen by the sender, at most 128 characters. A second message of the same id within the queue's
            duplicate-detection window is accepted and dropped, so sending again after an unclear failure is safe.
        session_id: messages of one session are handled one at a time, in order. Required by a queue with sessions.
        scheduled_enqueue_time: an aware time before which nobody receives the message.
        time_to_live: after this the message is dead-lettered instead of delivered; None is the queue's own limit. Of a
            received message what is left of it; None if that is without an end.
    """

    body: bytes
    message_id: str
    content_type: str = "application/json"
    subject: str | None = None
    correlation_id: str | None = None
    session_id: str | None = None
    application_properties: Mapping[str, Property] = field(default_factory=dict)
    scheduled_enqueue_time: datetime | None = None
    time_to_live: timedelta | None = None


class Queue(Protocol):
    """The sending side of one queue; what is sent comes back through a trigger."""

    async def send(self, message: QueueMessage) -> None:
        """Put a message on the queue; when this returns it survives the death of this process.

        Raises:
            QueueUnavailable: the queue was not reached; the message may or may not have been taken.
            ValueError: the message can never be sent (no session id for a queue with sessions, too large).
        """

    async def send_many(self, messages: Sequence[QueueMessage]) -> None:
        """Put messages on the queue, in their order and in as few steps as it takes; raises like `send`.

        What was raised says nothing about which of them were taken; sending all of them again is safe.
        """

    async def close(self) -> None:
        """Let go of connections and files. The queue opens them again if it is used again."""


@dataclass(frozen=True, slots=True)
class Undeliverable:
    """A message that the queue itself put aside: delivered too often, or expired.

    Attributes:
        number: the queue's own number of it, unique in its dead-letter queue.
    """

    message: QueueMessage
    number: int
    reason: str
    description: str
    deliveries: int


class DeadLetterQueue(Protocol):
    """The receiving side of what one queue put aside."""

    async def drain_dead_letters(self, keep: Callable[[Undeliverable], Awaitable[None]], *, limit: int) -> int:
        """Hand up to `limit` of them over, one after the other; each goes when `keep` has returned.

        One that `keep` raised for, or that the process died with, comes again. Of two callers at once each gets others.

        Returns:
            How many went.

        Raises:
            QueueUnavailable: the queue was not reached.
            Exception: what `keep` raised.
        """
