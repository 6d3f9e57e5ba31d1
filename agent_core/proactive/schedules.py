"""Schedules as they are kept: what to say where, and when it is next due."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from agent_core.proactive.work import WorkItem
from agent_core.store.document_store import (
    SCHEDULES,
    Document,
    DocumentStore,
    JsonObject,
    Where,
    parse_time,
    time_text,
)

# Enough to spread writes over partitions; the timer reads them all with one query.
SHARDS = 16
# How long a schedule that is done can still be looked at.
KEPT = timedelta(days=14)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Something to do at a time: send an activity, or run a continuation with a value.

    Attributes:
        id: tells its shard too.
        due: the nominal time, which is part of the delivery's key.
    """

    id: str
    due: datetime
    conversation_id: str
    channel_id: str | None
    activity: JsonObject | None = None
    continuation: str | None = None
    value: Any = None

    @property
    def key(self) -> str:
        """The key of this occurrence's delivery: a timer that fires twice names the same one twice."""
        return f"schedule:{self.id}:{time_text(self.due)}"

    def occurrence(self) -> WorkItem:
        """What delivers it, from the work queue."""
        return WorkItem("occurrence", self.key, {"schedule": self.id, "due": time_text(self.due)})

    def to_document(self) -> JsonObject:
        """The JSON object to store."""
        return {
            "id": self.id,
            SCHEDULES.partition_key: shard_of(self.id),
            "kind": "schedule",
            "status": "scheduled",
            "due": time_text(self.due),
            "conversation": self.conversation_id,
            "channel": self.channel_id,
            "activity": self.activity,
            "continuation": self.continuation,
            "value": self.value,
        }

    @classmethod
    def from_document(cls, document: Document) -> Schedule:
        """The schedule that `to_document` wrote."""
        body = document.body
        return cls(
            id=document.id,
            due=parse_time(body["due"]),
            conversation_id=body["conversation"],
            channel_id=body["channel"],
            activity=body["activity"],
            continuation=body["continuation"],
            value=body["value"],
        )


class Schedules:
    """Reads and writes schedules."""

    def __init__(self, store: DocumentStore) -> None:
        self._store = store

    async def add(self, schedule: Schedule) -> None:
        """Store a new one; when this returns it survives."""
        await self._store.create(SCHEDULES, schedule.to_document())

    async def get(self, schedule_id: str) -> Document | None:
        """The stored document, whatever its status."""
        return await self._store.read(SCHEDULES, shard_of(schedule_id), schedule_id)

    async def due(self, now: datetime) -> AsyncIterator[Document]:
        """All that are due and not handed over, oldest first."""
        continuation: str | None = None
        while True:
            page = await self._store.query(
                SCHEDULES,
                where=[Where("status", "=", "scheduled"), Where("due", "<=", time_text(now))],
                order_by="due",
                continuation=continuation,
            )
            for document in page.documents:
                yield document
            continuation = page.continuation
            if continuation is None:
                return

    async def settle(self, document: Document, status: str) -> None:
        """Give it a final status, if it is still this version; DocumentChanged otherwise."""
        body = {**document.body, "status": status, "ttl": int(KEPT.total_seconds())}
        await self._store.replace(SCHEDULES, body, document.etag)


def shard_of(schedule_id: str) -> str:
    """The partition of a schedule."""
    return f"{zlib.crc32(schedule_id.encode()) % SHARDS:02d}"
