"""A durable queue in a SQLite file with the semantics of Service Bus, so that an app runs without Azure."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from agent_core.errors import QueueUnavailable, StoreUnavailable
from agent_core.hosting.queued_message import (
    COLUMNS,
    DeadLetter,
    LockLost,
    ReceivedMessage,
    Row,
    StoredMessage,
    checked_header,
    from_micros,
    moment_after,
    to_micros,
)
from agent_core.proactive.queue import QueueMessage, Undeliverable
from agent_core.store.sqlite_file import SqliteFile

T = TypeVar("T")

# Times are microseconds since 1970. A scheduled message gets its sequence number when its time comes, as in Service
# Bus; until then `sequence_number` is where it stands among the scheduled ones, below zero.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS queues (
    name TEXT PRIMARY KEY,
    last_sequence_number INTEGER NOT NULL,
    last_scheduled INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS messages (
    queue TEXT NOT NULL,
    sequence_number INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('scheduled', 'active', 'dead')),
    message_id TEXT NOT NULL,
    session_id TEXT,
    header TEXT NOT NULL,
    body BLOB NOT NULL,
    enqueued_time INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    delivery_count INTEGER NOT NULL DEFAULT 0,
    lock_token TEXT,
    locked_until INTEGER,
    reason TEXT,
    description TEXT,
    PRIMARY KEY (queue, sequence_number)
);
CREATE INDEX IF NOT EXISTS messages_free ON messages (queue, state, sequence_number) WHERE lock_token IS NULL;
CREATE INDEX IF NOT EXISTS messages_locked ON messages (queue, locked_until) WHERE lock_token IS NOT NULL;
CREATE INDEX IF NOT EXISTS messages_scheduled ON messages (queue, enqueued_time) WHERE state = 'scheduled';
CREATE INDEX IF NOT EXISTS messages_expiring ON messages (queue, expires_at) WHERE state = 'active';
CREATE INDEX IF NOT EXISTS messages_sessions ON messages (queue, session_id, sequence_number) WHERE state = 'active';
CREATE TABLE IF NOT EXISTS sent_ids (
    queue TEXT NOT NULL,
    message_id TEXT NOT NULL,
    known_until INTEGER NOT NULL,
    PRIMARY KEY (queue, message_id)
);
CREATE INDEX IF NOT EXISTS sent_ids_known_until ON sent_ids (queue, known_until);
"""
# Who in this process waits for messages, so that a send here wakes them at once. What other processes send is found
# by asking again.
_watchers: dict[tuple[Path, str], set[tuple[asyncio.AbstractEventLoop, asyncio.Event]]] = {}


class SqliteQueue:
    """One named queue in a file that several queues and processes share.

    Receiving is peek-lock: a message is invisible to others while it is locked, gone when it is completed, and visible
    again when it is abandoned or its lock expires. In the `max_delivery_count`-th delivery that becomes a dead letter
    instead, with the reason `MaxDeliveryCountExceeded`. What expires unreceived is one with `TTLExpiredException`.

    With `requires_session` no two messages of a session are out at once, and they come in the order of their sequence
    numbers: one that is locked or abandoned holds back those behind it.

    Every method raises QueueUnavailable if the file cannot be used.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        *,
        now: Callable[[], datetime],
        lock_duration: timedelta = timedelta(seconds=60),
        max_delivery_count: int = 10,
        duplicate_window: timedelta = timedelta(hours=1),
        requires_session: bool = False,
    ) -> None:
        self.name = name
        self.lock_duration = lock_duration
        self.max_delivery_count = max_delivery_count
        self.requires_session = requires_session
        self._file = SqliteFile(path, _SCHEMA)
        self._key = (path.resolve(), name)
        self._now = now
        self._duplicate_window = duplicate_window

    async def send(self, message: QueueMessage) -> None:
        await self.send_many([message])

    async def send_many(self, messages: Sequence[QueueMessage]) -> None:
        now = self._now()
        rows = [self._row(message, now) for message in messages]

        def work(connection: sqlite3.Connection) -> None:
            # A scheduled message whose time has come stands before these.
            self._settle_overdue(connection, to_micros(now))
            connection.execute("DELETE FROM sent_ids WHERE queue = ? AND known_until <= ?", (self.name, to_micros(now)))
            for row in rows:
                self._insert(connection, row)

        await self._run(work)
        self._changed()

    def _row(self, message: QueueMessage, now: datetime) -> dict[str, str | int | bytes | None]:
        header = checked_header(message)
        if self.requires_session and not message.session_id:
            raise ValueError(f"The queue {self.name} has sessions: give the message a session id")
        scheduled = message.scheduled_enqueue_time
        waits = scheduled is not None and scheduled > now
        enqueued = scheduled if scheduled is not None and waits else now
        return {
            "queue": self.name,
            "state": "scheduled" if waits else "active",
            "message_id": message.message_id,
            "session_id": message.session_id,
            "header": header,
            "body": message.body,
            "enqueued_time": to_micros(enqueued),
            "expires_at": to_micros(moment_after(enqueued, message.time_to_live)),
            "known_until": to_micros(moment_after(now, self._duplicate_window)),
        }

    def _insert(self, connection: sqlite3.Connection, row: dict[str, str | int | bytes | None]) -> None:
        known = "INSERT OR IGNORE INTO sent_ids VALUES (:queue, :message_id, :known_until)"
        if connection.execute(known, row).rowcount == 0:
            return
        waits = row["state"] == "scheduled"
        number = _next_scheduled(connection, self.name) if waits else _next_number(connection, self.name)
        connection.execute(
            """INSERT INTO messages (queue, sequence_number, state, message_id, session_id, header, body,
                   enqueued_time, expires_at)
               VALUES (:queue, :number, :state, :message_id, :session_id, :header, :body,
                   :enqueued_time, :expires_at)""",
            row | {"number": number},
        )

    async def receive(self, limit: int = 1) -> list[ReceivedMessage]:
        """Lock and return up to `limit` messages, in order; none if none is there, without waiting.

        With sessions, at most one message of each.
        """
        now = self._now()
        until = to_micros(now + self.lock_duration)
        first_of_session = """AND (session_id IS NULL OR sequence_number = (
            SELECT min(sequence_number) FROM messages AS others
            WHERE others.queue = messages.queue AND others.state = 'active'
              AND others.session_id = messages.session_id))"""
        free = f"""SELECT sequence_number FROM messages WHERE queue = ? AND state = 'active' AND lock_token IS NULL
                   {first_of_session if self.requires_session else ""} ORDER BY sequence_number LIMIT ?"""
        lock = f"""UPDATE messages SET lock_token = ?, locked_until = ?, delivery_count = delivery_count + 1
                   WHERE queue = ? AND sequence_number = ? RETURNING {COLUMNS}"""

        def work(connection: sqlite3.Connection) -> list[Row]:
            self._settle_overdue(connection, to_micros(now))
            numbers = connection.execute(free, (self.name, limit)).fetchall()
            return [
                connection.execute(lock, (str(uuid.uuid4()), until, self.name, number)).fetchone()
                for (number,) in numbers
            ]

        return [ReceivedMessage.from_row(row) for row in await self._run(work)]

    async def complete(self, received: ReceivedMessage) -> None:
        """The message is done and goes. Raises LockLost if it is locked for this receiver no more."""
        await self._settle(received, "DELETE FROM messages")

    async def abandon(self, received: ReceivedMessage) -> None:
        """Give the message back: it is receivable at once, or a dead letter after the last delivery allowed.

        Raises:
            LockLost: it is locked for this receiver no more.
        """
        if received.delivery_count >= self.max_delivery_count:
            await self.dead_letter(received, *_too_often(self.max_delivery_count))
        else:
            await self._settle(received, "UPDATE messages SET lock_token = NULL, locked_until = NULL")

    async def dead_letter(self, received: ReceivedMessage, reason: str, description: str) -> None:
        """Put the message aside for good. Raises LockLost if it is locked for this receiver no more."""
        await self._settle(
            received,
            """UPDATE messages SET state = 'dead', lock_token = NULL, locked_until = NULL,
                   reason = :reason, description = :description""",
            reason=reason,
            description=description,
        )

    async def renew_lock(self, received: ReceivedMessage) -> datetime:
        """Lock the message for another `lock_duration` from now; returns until when.

        Raises:
            LockLost: it is locked for this receiver no more.
        """
        until = self._now() + self.lock_duration
        await self._settle(received, "UPDATE messages SET locked_until = :until", until=to_micros(until))
        return until

    async def peek(self, limit: int = 100) -> list[StoredMessage]:
        """The first messages that are not dead, locked and scheduled ones included, without locking them."""
        sql = f"""SELECT {COLUMNS} FROM messages WHERE queue = ? AND state <> 'dead'
                  ORDER BY state, abs(sequence_number) LIMIT ?"""
        return [StoredMessage.from_row(row) for row in await self._query(sql, limit)]

    async def count(self) -> int:
        """How many messages are not dead; locked and scheduled ones included."""
        sql = "SELECT count(*) FROM messages WHERE queue = ? AND state <> 'dead' LIMIT ?"
        return int((await self._query(sql, 1))[0][0])

    async def next_due(self) -> datetime | None:
        """When the next message becomes receivable: now, at its scheduled time, or when a lock expires."""
        now = to_micros(self._now())

        def work(connection: sqlite3.Connection) -> int | None:
            self._settle_overdue(connection, now)
            return _next_due(connection, self.name, now, self.requires_session)

        due = await self._run(work)
        return None if due is None else from_micros(due)

    async def dead_letters(self, limit: int = 100) -> list[DeadLetter]:
        """The first dead letters, without locking them."""
        sql = f"SELECT {COLUMNS} FROM messages WHERE queue = ? AND state = 'dead' ORDER BY sequence_number LIMIT ?"
        return [DeadLetter.from_row(row) for row in await self._query(sql, limit)]

    async def receive_dead_letters(self, limit: int = 1) -> list[DeadLetter]:
        """Lock and return up to `limit` dead letters; a lock that expires makes one receivable again."""
        now = self._now()
        values = {"queue": self.name, "limit": limit, "until": to_micros(now + self.lock_duration)}

        def work(connection: sqlite3.Connection) -> list[Row]:
            self._settle_overdue(connection, to_micros(now))
            rows: list[Row] = connection.execute(
                f"""UPDATE messages SET lock_token = lower(hex(randomblob(16))), locked_until = :until
                    WHERE queue = :queue AND sequence_number IN (
                        SELECT sequence_number FROM messages WHERE queue = :queue AND state = 'dead'
                            AND lock_token IS NULL ORDER BY sequence_number LIMIT :limit)
                    RETURNING {COLUMNS}""",
                values,
            ).fetchall()
            return sorted(rows)

        return [DeadLetter.from_row(row) for row in await self._run(work)]

    async def delete_dead_letter(self, dead_letter: DeadLetter) -> None:
        """A received dead letter is dealt with and goes. Raises LockLost if its lock has expired."""
        await self._settle(dead_letter, "DELETE FROM messages")

    async def drain_dead_letters(self, keep: Callable[[Undeliverable], Awaitable[None]], *, limit: int) -> int:
        """See `DeadLetterQueue`."""
        received = await self.receive_dead_letters(limit)
        for each in received:
            await keep(
                Undeliverable(each.message, each.sequence_number, each.reason, each.description, each.delivery_count)
            )
            await self.delete_dead_letter(each)
        return len(received)

    async def close(self) -> None:
        await self._file.close()

    @contextmanager
    def watch(self) -> Iterator[asyncio.Event]:
        """An event that is set whenever somebody in this process sends a message, settles one or gives one back."""
        watcher = (asyncio.get_running_loop(), asyncio.Event())
        watchers = _watchers.setdefault(self._key, set())
        watchers.add(watcher)
        try:
            yield watcher[1]
        finally:
            watchers.discard(watcher)

    def _changed(self) -> None:
        for loop, event in tuple(_watchers.get(self._key, ())):
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    def _settle_overdue(self, connection: sqlite3.Connection, now: int) -> None:
        """Do what time has brought: open locks, deaths, and scheduled messages whose time has come."""
        reason, description = _too_often(self.max_delivery_count)
        values = {
            "queue": self.name,
            "now": now,
            "max": self.max_delivery_count,
            "reason": reason,
            "description": description,
        }
        connection.execute(
            """UPDATE messages SET state = 'dead', lock_token = NULL, locked_until = NULL,
                   reason = :reason, description = :description
               WHERE queue = :queue AND lock_token IS NOT NULL AND locked_until <= :now AND state = 'active'
                 AND delivery_count >= :max""",
            values,
        )
        connection.execute(
            """UPDATE messages SET lock_token = NULL, locked_until = NULL
               WHERE queue = :queue AND lock_token IS NOT NULL AND locked_until <= :now""",
            values,
        )
        due = """SELECT sequence_number FROM messages WHERE queue = :queue AND state = 'scheduled'
                     AND enqueued_time <= :now ORDER BY enqueued_time, sequence_number DESC"""
        for (waiting,) in connection.execute(due, values).fetchall():
            connection.execute(
                "UPDATE messages SET state = 'active', sequence_number = ? WHERE queue = ? AND sequence_number = ?",
                (_next_number(connection, self.name), self.name, waiting),
            )
        connection.execute(
            """UPDATE messages SET state = 'dead', reason = 'TTLExpiredException',
                   description = 'The message expired and was dead lettered.'
               WHERE queue = :queue AND state = 'active' AND expires_at <= :now AND lock_token IS NULL""",
            values,
        )

    async def _settle(self, held: ReceivedMessage | DeadLetter, action: str, **values: str | int) -> None:
        """Run `action` on the message if `held` still locks it."""
        where = "WHERE queue = :queue AND sequence_number = :number AND lock_token = :token AND locked_until > :now"
        given = {
            "queue": self.name,
            "number": held.sequence_number,
            "token": held.lock_token,
            "now": to_micros(self._now()),
            **values,
        }
        if await self._run(lambda connection: connection.execute(f"{action} {where}", given).rowcount) == 0:
            raise LockLost(
                f"Message {held.message.message_id} of {self.name} is not locked by this receiver any more: the lock "
                "expired or was given up. The message is delivered again."
            )
        self._changed()

    async def _query(self, sql: str, limit: int) -> list[Row]:
        now = to_micros(self._now())

        def work(connection: sqlite3.Connection) -> list[Row]:
            self._settle_overdue(connection, now)
            return connection.execute(sql, (self.name, limit)).fetchall()

        return await self._run(work)

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await self._file.run(work)
        except StoreUnavailable as error:
            raise QueueUnavailable(f"The queue {self.name}: {error}") from error


def _next_number(connection: sqlite3.Connection, queue: str) -> int:
    sql = """INSERT INTO queues VALUES (?, 1, 0) ON CONFLICT (name)
             DO UPDATE SET last_sequence_number = last_sequence_number + 1 RETURNING last_sequence_number"""
    return int(connection.execute(sql, (queue,)).fetchone()[0])


def _next_scheduled(connection: sqlite3.Connection, queue: str) -> int:
    sql = """INSERT INTO queues VALUES (?, 0, -1) ON CONFLICT (name)
             DO UPDATE SET last_scheduled = last_scheduled - 1 RETURNING last_scheduled"""
    return int(connection.execute(sql, (queue,)).fetchone()[0])


def _next_due(connection: sqlite3.Connection, queue: str, now: int, sessions: bool) -> int | None:
    free = "SELECT 1 FROM messages WHERE queue = :queue AND state = 'active' AND lock_token IS NULL"
    if sessions:
        free += """ AND (session_id IS NULL OR NOT EXISTS (
            SELECT 1 FROM messages AS others WHERE others.queue = messages.queue AND others.state = 'active'
              AND others.session_id = messages.session_id AND others.lock_token IS NOT NULL))"""
    values = {"queue": queue}
    if connection.execute(f"{free} LIMIT 1", values).fetchone() is not None:
        return now
    times = connection.execute(
        """SELECT min(locked_until) FROM messages WHERE queue = :queue AND lock_token IS NOT NULL AND state = 'active'
           UNION ALL SELECT min(enqueued_time) FROM messages WHERE queue = :queue AND state = 'scheduled'""",
        values,
    ).fetchall()
    return min((moment for (moment,) in times if moment is not None), default=None)


def _too_often(most: int) -> tuple[str, str]:
    return "MaxDeliveryCountExceeded", f"Message could not be consumed after {most} delivery attempts."
