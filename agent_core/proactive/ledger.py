"""The ledger of deliveries: who holds which piece of work, and how far it came.

A delivery goes `claimed -> sending -> sent`, or ends as `parked` (it may have been sent, nobody can know), `dead` or
`dropped` (it was not wanted). One that is `held` waits for its recipient, and is claimed anew when its time comes.
Every step is conditional on the ETag of the step before, so of two workers with one delivery only one goes on. Each
message that it sends is a step of its own; what was sent is not sent again when the work is done again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from agent_core.errors import DocumentChanged, DocumentExists, StoreUnavailable
from agent_core.proactive import turn_order
from agent_core.proactive.claims import Mark, TakenOver, held, held_until, newest_marks
from agent_core.store.document_store import (
    CONVERSATIONS,
    Create,
    Delete,
    Document,
    DocumentStore,
    JsonObject,
    Operation,
    Replace,
    id_for,
    time_text,
)

KEPT = timedelta(days=14)
# A worker renews its claim while it works, so one whose lease is over has died, or stands still.
LEASE = turn_order.LEASE
RENEWED_EVERY = timedelta(seconds=10)
# How often workers may meet in one conversation before one of them comes again later.
TRIES = 10

# What becomes of a message of which nobody knows whether it arrived: `park` it for somebody to decide, or `resend` it.
WhenUnsure = Literal["park", "resend"]
# Looks up the expectation that a callback fulfils; None if there is none.
Expectation = Callable[[], Awaitable[Document | None]]
FINAL = ("sent", "parked", "dead", "dropped")


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be claimed.

    Attributes:
        what: for people, such as `callback 'order_placed'`.
        content: tells this work from another that was given the same key by mistake.
    """

    key: str
    conversation_id: str
    what: str
    content: str
    when_unsure: WhenUnsure = "park"

    @property
    def document_id(self) -> str:
        """The id of its record."""
        return id_for("delivery", self.key)


@dataclass(slots=True)
class Claim:
    """A delivery that this worker holds, and its turn in the conversation: the newest versions of both documents."""

    document: Document
    order: Document
    # Steps, renewals and the end are written one after the other.
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def token(self) -> str:
        """What says that it is ours."""
        return str(self.document.body["token"])

    @property
    def replaces(self) -> str | None:
        """The id of the placeholder that the first message edits; None: it is a new message."""
        placeholder: str | None = self.document.body["replaces"]
        return placeholder

    @property
    def steps(self) -> list[JsonObject]:
        """The messages so far: `{"status": "sending" | "sent", "id"}`."""
        return [dict(step) for step in self.document.body["steps"]]


@dataclass(frozen=True, slots=True)
class Settled:
    """The delivery ended before, as `status` says; `activity_ids` are what the channel has of it."""

    status: str
    activity_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """Another worker holds the delivery, `until` then at the longest."""

    until: datetime


@dataclass(frozen=True, slots=True)
class InLine:
    """Another turn of the conversation runs, or is due before this one."""


@dataclass(frozen=True, slots=True)
class Unsure:
    """The worker that held the delivery ended while it sent: nobody knows whether the message arrived."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class OtherContent:
    """The key is that of another piece of work."""


Found = Claim | Settled | Held | InLine | Unsure | OtherContent


class Ledger:
    """Reads and writes the records."""

    def __init__(
        self,
        store: DocumentStore,
        *,
        now: Callable[[], datetime],
        sleep: Callable[[timedelta], Awaitable[None]],
        new_id: Callable[[], str],
    ) -> None:
        self._store = store
        self._now = now
        self._sleep = sleep
        self._new_id = new_id

    async def claim(self, work: Work, expectation: Expectation | None) -> Found:
        """Claim a delivery and the conversation's turn, and use a callback's expectation up, all in one batch.

        Of two callers at once with one delivery, or one conversation, one gets it.

        Raises:
            StoreUnavailable: whether it is claimed is unknown; a later try finds its lease over and takes it.
        """
        token = self._new_id()
        for _ in range(TRIES):
            record, order, expected = await asyncio.gather(
                self._read(work.conversation_id, work.document_id),
                self._read(work.conversation_id, turn_order.DOCUMENT_ID),
                _none() if expectation is None else expectation(),
            )
            found = await self._decide(work, token, record, order)
            if found is not None:
                return found
            now = self._now()
            body = self._record(work, token, record, expected)
            taking = turn_order.begin(order, work.conversation_id, work.key, token, now)
            operations: list[Operation] = [Replace(body, record.etag) if record else Create(body), taking]
            if expected is not None and body["fulfils"] == expected.id:
                operations.append(Delete(expected.id, expected.etag))
            try:
                etags = await self._store.batch(CONVERSATIONS, work.conversation_id, operations)
            except (DocumentExists, DocumentChanged):
                # Another worker was as fast; or it is our own write, repeated below us: the next look tells.
                continue
            claim = Claim(Document(body, etags[0]), Document(taking.body, etags[1]))
            return Unsure(claim) if body["status"] == "sending" else claim
        return InLine()

    async def settled(self, key: str, conversation_id: str) -> Settled | None:
        """How a delivery ended; None if it did not, or nothing is known of it."""
        record = await self._read(conversation_id, id_for("delivery", key))
        return _settled(record) if record is not None and record.body["status"] in FINAL else None

    async def status(self, key: str, conversation_id: str) -> str | None:
        """How far a delivery came; None if nothing is known of it."""
        record = await self._read(conversation_id, id_for("delivery", key))
        return record.body["status"] if record is not None else None

    async def _decide(self, work: Work, token: str, record: Document | None, order: Document | None) -> Found | None:
        """What stands in the way of a claim; None if nothing does."""
        now = self._now()
        if record is not None:
            body = record.body
            if body["token"] == token and order is not None:
                claim = Claim(record, order)
                return Unsure(claim) if body["status"] == "sending" else claim
            if body["content"] != work.content:
                return OtherContent()
            if body["status"] in FINAL:
                return _settled(record)
            if held_until(record) > now:
                return Held(held_until(record))
        if turn_order.may_begin(order, work.key, now):
            return None
        joining = turn_order.join(order, work.conversation_id, work.key, now) if order else None
        if joining is not None:
            # Who is crossed by another gets its place when it comes again.
            with suppress(DocumentExists, DocumentChanged):
                await self._store.batch(CONVERSATIONS, work.conversation_id, [joining])
        return InLine()

    def _record(self, work: Work, token: str, record: Document | None, expected: Document | None) -> JsonObject:
        taken = held("claimed", token, self._now(), LEASE)
        if record is None:
            return {
                "id": work.document_id,
                CONVERSATIONS.partition_key: work.conversation_id,
                "kind": "delivery",
                "key": work.key,
                "what": work.what,
                "content": work.content,
                **_fulfilling(expected),
                "steps": [],
                "created": time_text(self._now()),
                "ttl": int(KEPT.total_seconds()),
                **taken,
            }
        if record.body["status"] == "sending":
            if work.when_unsure == "park":
                return {**record.body, **taken, "status": "sending"}
            taken["steps"] = [step for step in record.body["steps"] if step["status"] != "sending"]
        if record.body["fulfils"] is None and not record.body["steps"]:
            # It came before the turn that expects it was stored.
            taken |= _fulfilling(expected)
        return {**record.body, **taken}

    async def hold(self, claim: Claim) -> None:
        """Renew the claim until cancelled; ends if another worker took over."""
        while True:
            await self._sleep(RENEWED_EVERY)
            async with claim.writing:
                now = self._now()
                renewed = {"heldUntil": time_text(now + LEASE), "updated": time_text(now)}
                try:
                    await self._write(claim, [Mark(claim.document, renewed), Mark(claim.order, renewed)])
                except TakenOver:
                    return
                except StoreUnavailable:
                    continue

    async def step(self, claim: Claim, status: str, **changes: Any) -> None:
        """Write how far it came. Raises TakenOver if somebody else holds the delivery by now."""
        async with claim.writing:
            await self._write(claim, [Mark(claim.document, {**self._held(claim, status), **changes})])

    def last_marks(self, claim: Claim, status: str, **changes: Any) -> list[Mark]:
        """The last step and the end of the turn, to be written together with what else they belong to."""
        return [
            Mark(claim.document, {**self._held(claim, status), **changes}),
            turn_order.end(claim.order, self._now()),
        ]

    async def end(self, claim: Claim, status: str, **changes: Any) -> None:
        """Write the last step, and let the next turn begin."""
        async with claim.writing:
            await self._write(claim, self.last_marks(claim, status, **changes))

    async def release(self, claim: Claim, *, back_at: datetime | None, **changes: Any) -> None:
        """Give it back, to be gone on with at `back_at`; the next worker need not wait for the lease."""
        now = self._now()
        given_back = {"status": "claimed", "token": "", "heldUntil": time_text(now), "updated": time_text(now)}
        async with claim.writing:
            ending = turn_order.end(claim.order, now, back_at=back_at, key=claim.document.body["key"])
            await self._write(claim, [Mark(claim.document, {**given_back, **changes}), ending])

    async def _write(self, claim: Claim, marks: Sequence[Mark]) -> None:
        """Write these marks of ours; what others wrote into the line meanwhile stays."""
        partition = claim.document.body[CONVERSATIONS.partition_key]
        for _ in range(TRIES):
            try:
                etags = await self._store.batch(
                    CONVERSATIONS, partition, [Replace(mark.body, mark.document.etag) for mark in marks]
                )
            except (DocumentExists, DocumentChanged):
                newest = await newest_marks(self._store, partition, marks)
                if newest is None:
                    stored = [await self._read(partition, mark.document.id) for mark in marks]
                    self._keep(claim, [document for document in stored if document])
                    return
                marks = newest
                continue
            self._keep(claim, [Document(mark.body, etag) for mark, etag in zip(marks, etags, strict=True)])
            return
        raise TakenOver

    def _keep(self, claim: Claim, documents: Sequence[Document]) -> None:
        for document in documents:
            if document.id == turn_order.DOCUMENT_ID:
                claim.order = document
            else:
                claim.document = document

    def _held(self, claim: Claim, status: str) -> dict[str, Any]:
        return held(status, claim.token, self._now(), LEASE)

    async def _read(self, partition: str, document_id: str) -> Document | None:
        return await self._store.read(CONVERSATIONS, partition, document_id)


def _fulfilling(expected: Document | None) -> JsonObject:
    """Which expectation a delivery uses up, and the placeholder that its first message edits."""
    if expected is None:
        return {"fulfils": None, "replaces": None}
    return {"fulfils": expected.id, "replaces": expected.body["replaces"]}


def _settled(record: Document) -> Settled:
    return Settled(record.body["status"], tuple(step["id"] for step in record.body["steps"] if step.get("id")))


async def _none() -> None:
    return None
