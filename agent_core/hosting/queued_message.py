"""A message on its way through the embedded queue: what receivers get of it, and how a row keeps it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from agent_core.errors import AgentError
from agent_core.proactive.queue import QueueMessage

# The limits of Service Bus's standard tier.
# https://learn.microsoft.com/azure/service-bus-messaging/service-bus-quotas
MAX_MESSAGE_BYTES = 256 * 1024
_MAX_ID = 128

COLUMNS = """sequence_number, message_id, session_id, header, body, enqueued_time, expires_at, delivery_count,
    lock_token, locked_until, reason, description"""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NEVER = datetime.max.replace(tzinfo=UTC)

Row = tuple[int, str, str | None, str, bytes, int, int, int, str | None, int | None, str | None, str | None]


class LockLost(AgentError):
    """The lock on a message has expired or was given up: somebody else may have the message now."""


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as the queue keeps it.

    Attributes:
        sequence_number: the order in the queue; negative while a scheduled message waits for its time.
        delivery_count: how often it was received, this time included; 1 at the first delivery.
        enqueued_time: when it became, or will become, receivable for the first time.
        expires_at: `datetime.max` in UTC if never.
    """

    message: QueueMessage
    sequence_number: int
    delivery_count: int
    enqueued_time: datetime
    expires_at: datetime

    @classmethod
    def from_row(cls, row: Row) -> Self:
        """From a row of `COLUMNS`."""
        return cls(*_stored_fields(row))


@dataclass(frozen=True, slots=True)
class ReceivedMessage(StoredMessage):
    """A message that is locked for its receiver until `locked_until`, unless the lock is renewed."""

    lock_token: str
    locked_until: datetime

    @classmethod
    def from_row(cls, row: Row) -> Self:
        """From a row of `COLUMNS` that is locked."""
        token, until = row[8], row[9]
        assert token is not None
        assert until is not None
        return cls(*_stored_fields(row), token, from_micros(until))


@dataclass(frozen=True, slots=True)
class DeadLetter(StoredMessage):
    """A message that is delivered no more, and why; `lock_token` only where it was received, not just looked at."""

    reason: str
    description: str
    lock_token: str | None

    @classmethod
    def from_row(cls, row: Row) -> Self:
        """From a row of `COLUMNS` that is dead."""
        return cls(*_stored_fields(row), row[10] or "", row[11] or "", row[8])


def checked_header(message: QueueMessage) -> str:
    """What a row keeps of a message as JSON. ValueError if Service Bus would not take the message."""
    if not 0 < len(message.message_id) <= _MAX_ID:
        raise ValueError(f"A message id has 1 to {_MAX_ID} characters, not {len(message.message_id)}")
    if message.session_id is not None and len(message.session_id) > _MAX_ID:
        raise ValueError(f"A session id has at most {_MAX_ID} characters, not {len(message.session_id)}")
    if message.scheduled_enqueue_time is not None and message.scheduled_enqueue_time.tzinfo is None:
        raise ValueError("A scheduled enqueue time needs a time zone")
    if message.time_to_live is not None and message.time_to_live <= timedelta(0):
        raise ValueError("A message needs a time to live above zero")
    header = json.dumps(
        {
            "content_type": message.content_type,
            "subject": message.subject,
            "correlation_id": message.correlation_id,
            "application_properties": dict(message.application_properties),
            "scheduled": message.scheduled_enqueue_time and to_micros(message.scheduled_enqueue_time),
            "time_to_live": message.time_to_live and message.time_to_live // _MICROSECOND,
        }
    )
    size = len(message.body) + len(header) + len(message.message_id) + len(message.session_id or "")
    if size > MAX_MESSAGE_BYTES:
        raise ValueError(f"The message {message.message_id} has {size} bytes; {MAX_MESSAGE_BYTES} are allowed")
    return header


def _stored_fields(row: Row) -> tuple[QueueMessage, int, int, datetime, datetime]:
    number, message_id, session_id, header_text, body, enqueued, expires, deliveries, *_ = row
    header = json.loads(header_text)
    message = QueueMessage(
        body=body,
        message_id=message_id,
        content_type=header["content_type"],
        subject=header["subject"],
        correlation_id=header["correlation_id"],
        session_id=session_id,
        application_properties=header["application_properties"],
        scheduled_enqueue_time=None if header["scheduled"] is None else from_micros(header["scheduled"]),
        time_to_live=None if header["time_to_live"] is None else header["time_to_live"] * _MICROSECOND,
    )
    return message, number, deliveries, from_micros(enqueued), from_micros(expires)


def moment_after(moment: datetime, span: timedelta | None) -> datetime:
    """`moment + span`; the last moment there is for None and for what lies behind it."""
    return _NEVER if span is None or span > _NEVER - moment else moment + span


def to_micros(moment: datetime) -> int:
    """Microseconds since 1970, which keep a time exactly."""
    return (moment - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """The aware time in UTC."""
    return _EPOCH + micros * _MICROSECOND
