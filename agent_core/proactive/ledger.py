"""The ledger of deliveries: who holds which piece of work, and how far it came.

A delivery goes `claimed -> sending -> sent`, or ends as `parked` (it may have been sent, nobody can know), `dead` or
`dropped` (it was not wanted). One that is `held` waits for its recipient, and is claimed anew when its time comes.
Every step is conditional on the ETag of the step before, so of two workers with one delivery only one goes on. Each
message that it sends is a step of its own; what was sent is not sent again when the work is done again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
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
    """A delivery that this worker holds, and its turn in the conversation: the newest versions of both documents.

    Attributes:
        fulfils: the expectation that the next step uses up.
    """

    document: Document
    order: Document
    fulfils: Document | None = None
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
    """Another turn of the conversation runs, or is due before this one.

    Attributes:
        before: the keys of those that wait before it.
        not_before: when the first of them is to be tried again, if it waits for that.
    """

    before: tuple[str, ...] = ()
    not_before: datetime | None = None


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

    def new_token(self) -> str:
        """What a worker knows its own writes by."""
        return self._new_id()

    async def claim_new(self, work: Work, token: str) -> Claim | None:
        """Like `claim`, without a look, in one round trip; None if it may be known already, or another turn runs."""
        claim = await self._take(work, token, None, None)
        return claim if isinstance(claim, Claim) else None

    async def claim(self, work: Work, token: str) -> Found:
        """Claim a delivery and the conversation's turn in one batch.

        Of two callers at once with one delivery, or one conversation, one gets it.

        Raises:
            StoreUnavailable: whether it is claimed is unknown; a later try finds its lease over and takes it.
        """
        for _ in range(TRIES):
            record, order = await asyncio.gather(
                self._read(work.conversation_id, work.document_id),
                self._read(work.conversation_id, turn_order.DOCUMENT_ID),
            )
            found = self._decide(work, token, record, order)
            if found is None:
                found = await self._take(work, token, record, order)
            elif not await self._line_up(work, order, stays=isinstance(found, InLine)):
                continue
            if found is not None:
                return found
        return InLine()

    async def settled(self, key: str, conversation_id: str) -> Settled | None:
        """How a delivery ended; None if it did not, or nothing is known of it."""
        record = await self._read(conversation_id, id_for("delivery", key))
        return _settled(record) if record is not None and record.body["status"] in FINAL else None

    async def status(self, key: str, conversation_id: str) -> str | None:
        """How far a delivery came; None if nothing is known of it."""
        record = await self._read(conversation_id, id_for("delivery", key))
        return record.body["status"] if record is not None else None

    async def look(self, work: Work) -> turn_order.Outlook:
        """What work that is in line can expect: one read."""
        order = await self._read(work.conversation_id, turn_order.DOCUMENT_ID)
        return turn_order.outlook(order, work.key, self._now())

    async def _line_up(self, work: Work, order: Document | None, *, stays: bool) -> bool:
        """Take a place in the line, or leave it, so that nobody waits for a copy of what was done.

        False if others wrote the line meanwhile.
        """
        change = turn_order.join if stays else turn_order.leave
        operation = change(order, work.conversation_id, work.key, self._now()) if order else None
        if operation is not None:
            try:
                await self._store.batch(CONVERSATIONS, work.conversation_id, [operation])
            except DocumentChanged:
                return False
        return True

    async def _take(
        self, work: Work, token: str, record: Document | None, order: Document | None
    ) -> Claim | Unsure | None:
        """Claim these versions; None if another worker was as fast, or it is our own write, repeated below us."""
        body = self._record(work, token, record)
        taking = turn_order.begin(order, work.conversation_id, work.key, token, self._now())
        operations: list[Operation] = [Replace(body, record.etag) if record else Create(body), taking]
        try:
            etags = await self._store.batch(CONVERSATIONS, work.conversation_id, operations)
        except (DocumentExists, DocumentChanged):
            return None
        claim = Claim(Document(body, etags[0]), Document(taking.body, etags[1]))
        return Unsure(claim) if body["status"] == "sending" else claim

    async def use_up(self, claim: Claim, expected: Document | None, expectation: Expectation) -> None:
        """Let the delivery fulfil this expectation; or, where another used that up meanwhile, what is found then.

        One with a placeholder is used up at once: after a death the same placeholder is to be edited. Another one is
        with the first step, before which nothing was sent.
        """
        if claim.document.body["fulfils"] is not None or claim.steps:
            return  # an earlier attempt did
        claim.fulfils = expected
        while claim.fulfils is not None and claim.fulfils.body["replaces"] is not None:
            try:
                await self.step(claim, "claimed")
            except DocumentChanged:
                claim.fulfils = await expectation()

    def _decide(self, work: Work, token: str, record: Document | None, order: Document | None) -> Found | None:
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
        return InLine(*turn_order.before(order, work.key, now))

    def _record(self, work: Work, token: str, record: Document | None) -> JsonObject:
        taken = held("claimed", token, self._now(), LEASE)
        if record is None:
            return {
                "id": work.document_id,
                CONVERSATIONS.partition_key: work.conversation_id,
                "kind": "delivery",
                "key": work.key,
                "what": work.what,
                "content": work.content,
                "fulfils": None,
                "replaces": None,
                "steps": [],
                "created": time_text(self._now()),
                "ttl": int(KEPT.total_seconds()),
                **taken,
            }
        if record.body["status"] == "sending":
            if work.when_unsure == "park":
                return {**record.body, **taken, "status": "sending"}
            taken["steps"] = [step for step in record.body["steps"] if step["status"] != "sending"]
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
        """Write how far it came, and use up what it fulfils.

        Raises:
            TakenOver: somebody else holds the delivery by now.
            DocumentChanged: another delivery used up what this one was to fulfil; nothing was written.
        """
        async with claim.writing:
            expected = claim.fulfils
            if expected is not None:
                changes |= {"fulfils": expected.id, "replaces": expected.body["replaces"]}
            mark = Mark(claim.document, {**self._held(claim, status), **changes})
            await self._write(claim, [mark], [expected] if expected else [])
            claim.fulfils = None

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

    async def _write(self, claim: Claim, marks: Sequence[Mark], uses_up: Sequence[Document] = ()) -> None:
        """Write these marks of ours; what others wrote into the line meanwhile stays."""
        partition = claim.document.body[CONVERSATIONS.partition_key]
        using_up = [Delete(document.id, document.etag) for document in uses_up]
        for _ in range(TRIES):
            try:
                etags = await self._store.batch(
                    CONVERSATIONS, partition, [*(mark.operation for mark in marks), *using_up]
                )
            except (DocumentExists, DocumentChanged):
                newest = await newest_marks(self._store, partition, marks)
                if newest is None:
                    known = [await self._read(partition, mark.document.id) for mark in marks]
                    self._keep(claim, [document for document in known if document])
                    return
                for document in uses_up:
                    stored = await self._read(partition, document.id)
                    if stored is None or stored.etag != document.etag:
                        raise DocumentChanged("Another callback used the expectation up; try again") from None
                marks = newest
                continue
            # At the end of a turn the order's document may be gone, and nothing of it is written any more.
            self._keep(claim, [Document(mark.body, etag) for mark, etag in zip(marks, etags, strict=False) if etag])
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


def _settled(record: Document) -> Settled:
    return Settled(record.body["status"], tuple(step["id"] for step in record.body["steps"] if step.get("id")))
