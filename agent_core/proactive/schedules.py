"""Schedules as they are kept: what to say to whom, when, and how far the timer has come with it."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from agent_core.activity.json_text import dump
from agent_core.errors import DocumentChanged, InvalidSchedule
from agent_core.proactive.misfires import DropReason, Misfires
from agent_core.proactive.recipients import ConversationRecipient, Recipient, fields_of, recipient_from_dict
from agent_core.proactive.recurrence import Recurrence
from agent_core.proactive.work import WorkItem
from agent_core.store.document_store import (
    SCHEDULES,
    Document,
    DocumentStore,
    JsonObject,
    Replace,
    Where,
    is_good_id,
    parse_time,
    time_text,
)

# Enough to spread writes over partitions, and to divide them among timers.
SHARDS = tuple(f"{number:02d}" for number in range(16))
# How long a schedule that is done can still be looked at, and what it left on the queue delivered.
KEPT = timedelta(days=14)
_NAME = re.compile(r"[A-Za-z0-9._~-]{1,64}")
# How many of what was handed over and dropped last a schedule tells. A change brings anew what waits on the queue: so
# many of one for every minute, if whoever handed it over has a clock that is ten minutes ahead.
REMEMBERED = 12
# A batch of a store takes so many operations, and so many bytes in all.
MAX_BATCH, MAX_BATCH_BYTES = 100, 1_000_000

# Statuses of which something may be left to deliver; of `done` on the queue.
PENDING = ("scheduled", "paused", "done")
Status = Literal["scheduled", "paused", "done", "cancelled", "unusable"]


@dataclass(frozen=True, slots=True)
class DroppedStretch:
    """Occurrences that the timer did not hand over: those from `since` on and earlier than `before`; decided `at`."""

    since: datetime
    before: datetime
    reason: DropReason
    at: datetime


@dataclass(frozen=True, slots=True)
class HandingOver:
    """A timer hands a schedule over: what was late `at` then, and what was to come `until` then. Whoever goes on after
    a death decides by the same times."""

    at: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Schedule:
    """Something to say, or a continuation to run, at a time or at times that recur.

    Attributes:
        id: tells its shard too.
        next: the first nominal time that the timer has not decided about; None if there is none.
        generation: counts changes; what an earlier one left on the queue is not delivered.
        changed: when the present generation began; None for the first.
        is_notification: goes by what people want (quiet hours, opt-out); a turn's own work does not.
        urgent: passes quiet hours and the number a day.
        tag: what it is listed by, besides its recipient.
        claim: while somebody hands it over.
        handed_over: the last nominal times that were put on the queue, oldest first.
        dropped: the last stretches that were not.
        request: a digest of what it was made of, where the caller chose the id; see `chosen_id`.
        stored: the document it was read from.
    """

    id: str
    to: Recipient
    recurrence: Recurrence
    next: datetime | None
    activity: JsonObject | None = None
    continuation: str | None = None
    value: Any = None
    misfires: Misfires = Misfires()  # noqa: RUF009  # it is frozen
    is_notification: bool = True
    urgent: bool = False
    tag: str | None = None
    status: Status = "scheduled"
    generation: int = 1
    changed: datetime | None = None
    claim: HandingOver | None = None
    handed_over: tuple[datetime, ...] = ()
    dropped: tuple[DroppedStretch, ...] = ()
    created: datetime | None = None
    request: str | None = None
    stored: Document | None = field(default=None, compare=False, repr=False)

    @property
    def is_ended(self) -> bool:
        """Whether the timer has nothing more to do with it."""
        return self.status not in ("scheduled", "paused")

    @property
    def name(self) -> str:
        """What is done when it is due, for people."""
        return f"occurrence {self.continuation or 'notification'!r}"

    def expires_at(self, due: datetime) -> datetime | None:
        """From when on an occurrence is not worth sending."""
        return due + self.misfires.expires if self.misfires.expires is not None else None

    def key_of(self, due: datetime) -> str:
        """The key of an occurrence's delivery: a timer that fires twice names the same one twice."""
        return f"schedule:{self.id}:{self.generation}:{time_text(due)}"

    def occurrence(self, due: datetime) -> WorkItem:
        """What delivers it, from the work queue. It follows from the generation and the time alone."""
        payload: JsonObject = {"schedule": self.id, "generation": self.generation, "due": time_text(due)}
        if isinstance(self.to, ConversationRecipient):
            payload |= {"conversation": self.to.conversation_id, "channel": self.to.channel_id}
        return WorkItem("occurrence", self.key_of(due), {**payload, "continuation": self.continuation})

    def change(self, now: datetime, **values: Any) -> Schedule:
        """The next generation: what this one left on the queue is void, and nobody is handing it over."""
        return replace(self, generation=self.generation + 1, changed=now, claim=None, **values)

    def with_claim(self, look: datetime) -> JsonObject:
        """What is stored, with the claim; no timer looks at it before `look`."""
        body = self.stored.body if self.stored is not None else self.to_document()
        return {**body, "due": time_text(look), "claim": _claim_text(self.claim)}

    def to_document(self, kept: timedelta = KEPT) -> JsonObject:
        """The JSON object to store."""
        due = self.next
        return {
            "id": self.id,
            SCHEDULES.partition_key: shard_of(self.id),
            "kind": "schedule",
            "status": self.status,
            **({"due": time_text(due)} if due is not None else {}),
            **({"ttl": int(kept.total_seconds())} if self.is_ended else {}),
            **{name: value for name, value in fields_of(self.to).items() if value is not None},
            **({"tag": self.tag} if self.tag is not None else {}),
            "to": self.to.to_dict(),
            "recurrence": self.recurrence.to_dict(),
            "next": time_text(self.next) if self.next is not None else None,
            "misfires": self.misfires.to_dict(),
            "isNotification": self.is_notification,
            "urgent": self.urgent,
            "activity": self.activity,
            "continuation": self.continuation,
            "value": self.value,
            "generation": self.generation,
            "changed": time_text(self.changed) if self.changed is not None else None,
            "claim": _claim_text(self.claim),
            "handedOver": [time_text(due) for due in self.handed_over[-REMEMBERED:]],
            "dropped": [
                {
                    "since": time_text(stretch.since),
                    "before": time_text(stretch.before),
                    "reason": stretch.reason,
                    "at": time_text(stretch.at),
                }
                for stretch in self.dropped[-REMEMBERED:]
            ],
            "created": time_text(self.created) if self.created is not None else None,
            **({"request": self.request} if self.request is not None else {}),
        }

    @classmethod
    def from_document(cls, document: Document) -> Schedule:
        """The schedule that `to_document` wrote.

        Raises:
            InvalidSchedule: its zone or rule is none any more.
        """
        body = document.body
        return cls(
            id=document.id,
            to=recipient_from_dict(body["to"]),
            recurrence=Recurrence.from_dict(body["recurrence"]),
            next=_time(body["next"]),
            activity=body["activity"],
            continuation=body["continuation"],
            value=body["value"],
            misfires=Misfires.from_dict(body["misfires"]),
            is_notification=body["isNotification"],
            urgent=body["urgent"],
            tag=body.get("tag"),
            status=body["status"],
            generation=body["generation"],
            changed=_time(body["changed"]),
            claim=HandingOver(*map(parse_time, body["claim"])) if body["claim"] is not None else None,
            handed_over=tuple(parse_time(due) for due in body["handedOver"]),
            dropped=tuple(
                DroppedStretch(
                    parse_time(stretch["since"]),
                    parse_time(stretch["before"]),
                    stretch["reason"],
                    parse_time(stretch["at"]),
                )
                for stretch in body["dropped"]
            ),
            created=_time(body["created"]),
            request=body.get("request"),
            stored=document,
        )


@dataclass(frozen=True, slots=True)
class SchedulePage:
    """Some schedules; `continuation` asks for the rest and is None at the end."""

    schedules: list[Schedule]
    continuation: str | None = None


class Schedules:
    """Reads and writes schedules."""

    def __init__(self, store: DocumentStore) -> None:
        self._store = store

    async def add(self, schedule: Schedule) -> Schedule:
        """Store a new one; when this returns it survives. DocumentExists if there is one of that id."""
        return replace(schedule, stored=await self._store.create(SCHEDULES, schedule.to_document()))

    async def get(self, schedule_id: str) -> Schedule | None:
        """The stored one, whatever its status. InvalidSchedule if its zone or rule is none any more."""
        shard = shard_of(schedule_id)
        if not shard or not is_good_id(schedule_id):
            return None
        document = await self._store.read(SCHEDULES, shard, schedule_id)
        return Schedule.from_document(document) if document is not None else None

    async def change(
        self, schedule_id: str, change: Callable[[Schedule], Schedule | None], *, kept: timedelta = KEPT
    ) -> Schedule | None:
        """Write what `change` makes of it, None for no change; who is second makes it of what the first wrote.

        Args:
            kept: for how long it is kept, if it is done.

        Returns:
            What was written; None if nothing was, or there is none.
        """
        while True:
            schedule = await self.get(schedule_id)
            changed = change(schedule) if schedule is not None else None
            if schedule is None or changed is None or schedule.stored is None:
                return None
            try:
                body = changed.to_document(kept)
                return replace(changed, stored=await self._store.replace(SCHEDULES, body, schedule.stored.etag))
            except DocumentChanged:
                continue

    async def keep_until(self, schedule_id: str, until: datetime, now: datetime) -> None:
        """Keep one that is done as long as something of it waits, and a while longer."""

        def change(schedule: Schedule) -> Schedule | None:
            return schedule if schedule.is_ended else None

        await self.change(schedule_id, change, kept=KEPT + max(timedelta(0), until - now))

    async def due(self, shard: str, until: datetime, *, limit: int) -> list[Document]:
        """Those of a shard that the timer is to look at by then, oldest first."""
        page = await self._store.query(
            SCHEDULES,
            partition=shard,
            where=[
                Where("kind", "=", "schedule"),
                Where("status", "=", "scheduled"),
                Where("due", "<=", time_text(until)),
            ],
            order_by="due",
            limit=limit,
        )
        return list(page.documents)

    async def write(self, changes: Sequence[tuple[Document, JsonObject]]) -> list[Document | None]:
        """Write over each of some documents of one shard, if it is still that version; None for each that is not.

        All in one batch, as long as nobody else writes to them; else one by one.
        """
        if not changes:
            return []
        shard = changes[0][1][SCHEDULES.partition_key]
        try:
            etags = await self._store.batch(SCHEDULES, shard, [Replace(body, known.etag) for known, body in changes])
        except DocumentChanged:
            return [await self._write_one(known, body) for known, body in changes]
        return [Document(body, etag) for (_, body), etag in zip(changes, etags, strict=True)]

    async def _write_one(self, known: Document, body: JsonObject) -> Document | None:
        try:
            return await self._store.replace(SCHEDULES, body, known.etag)
        except DocumentChanged:
            return None

    async def matching(self, where: Sequence[Where]) -> AsyncIterator[Schedule]:
        """All that meet the conditions, page by page."""
        continuation: str | None = None
        while True:
            page = await self.page(where, continuation=continuation)
            for schedule in page.schedules:
                yield schedule
            continuation = page.continuation
            if continuation is None:
                return

    async def page(self, where: Sequence[Where], *, limit: int = 100, continuation: str | None = None) -> SchedulePage:
        """Some that meet the conditions, of 1 to 1000 documents; those that cannot be read any more are left out."""
        page = await self._store.query(
            SCHEDULES, where=[Where("kind", "=", "schedule"), *where], limit=limit, continuation=continuation
        )
        found = []
        for document in page.documents:
            with suppress(ValueError):
                found.append(Schedule.from_document(document))
        return SchedulePage(found, page.continuation)


def in_batches(documents: Sequence[Document]) -> list[list[Document]]:
    """The same documents in lists that a store writes in one batch each."""
    batches: list[list[Document]] = []
    size = 0
    for document in documents:
        size += len(dump(document.body))
        if not batches or len(batches[-1]) == MAX_BATCH or size > MAX_BATCH_BYTES:
            batches.append([])
            size = len(dump(document.body))
        batches[-1].append(document)
    return batches


def cancelled(document: Document) -> JsonObject:
    """What a stored schedule becomes whose conversation ended; also one that cannot be read any more."""
    body = document.body
    return {**body, "status": "cancelled", "generation": body["generation"] + 1, "ttl": int(KEPT.total_seconds())}


def new_id(to: Recipient, unique: str) -> str:
    """An id that tells the shard. All schedules of a recipient share one, so that what was late comes in its order."""
    return f"{SHARDS[zlib.crc32(to.name.encode('utf-8', 'surrogatepass')) % len(SHARDS)]}-{unique}"


def chosen_id(to: Recipient, name: object) -> str:
    """The id for a name that the caller chose; names are the caller's own for each recipient.

    Raises:
        InvalidSchedule: it is no name of 1 to 64 characters that are good in a URL and in every store.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidSchedule("'id' is a text of 1 to 64 characters of A-Z a-z 0-9 . _ ~ -", field="id")
    # Recipients share shards; two of them must not meet there under one name.
    return new_id(to, f"{name}.{hashlib.sha256(to.name.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}")


def digest(request: JsonObject) -> str:
    """The same for the same JSON and times, in whatever order."""
    text = json.dumps(json.loads(json.dumps(request, default=str)), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:40]


def shard_of(schedule_id: str) -> str:
    """The partition of a schedule; empty for what `new_id` did not make."""
    shard, _, unique = schedule_id.partition("-")
    return shard if shard in SHARDS and unique else ""


def _claim_text(claim: HandingOver | None) -> list[str] | None:
    return [time_text(claim.at), time_text(claim.until)] if claim is not None else None


def _time(text: str | None) -> datetime | None:
    return parse_time(text) if text is not None else None
