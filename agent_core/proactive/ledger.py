"""The ledger of deliveries: who holds which piece of work, and how far it came.

A delivery goes `claimed -> sending -> sent`, or ends as `parked` (it may have been sent, nobody can know) or `dead`.
Every step is conditional on the ETag of the step before, so of two workers with one delivery only one goes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from agent_core.errors import DocumentChanged, DocumentExists, StoreUnavailable
from agent_core.proactive.claims import Mark, TakenOver, held, held_until
from agent_core.store.document_store import (
    CONVERSATIONS,
    Create,
    Delete,
    Document,
    DocumentStore,
    JsonObject,
    Operation,
    id_for,
    time_text,
)

KEPT = timedelta(days=14)
# Longer than a turn may take (host.json ends a function after five minutes), so that a claim whose lease is over has no
# living owner.
LEASE = timedelta(minutes=6)

# How often a step is written over a version that is ours too.
TRIES = 3

# Looks up the expectation that a callback fulfils; None if there is none.
Expectation = Callable[[], Awaitable[Document | None]]


@dataclass(slots=True)
class Claim:
    """A delivery that this worker holds: the newest version of its record."""

    document: Document

    @property
    def replaces(self) -> str | None:
        """The id of the placeholder that the first message edits; None: it is a new message."""
        placeholder: str | None = self.document.body["replaces"]
        return placeholder


@dataclass(frozen=True, slots=True)
class Settled:
    """The delivery ended before, as `status` says."""

    status: str


@dataclass(frozen=True, slots=True)
class Held:
    """Another worker holds the delivery, `until` then at the longest."""

    until: datetime


@dataclass(frozen=True, slots=True)
class Unsure:
    """The worker that held the delivery ended while it sent: nobody knows whether the message arrived."""

    claim: Claim


class Ledger:
    """Reads and writes the records."""

    def __init__(self, store: DocumentStore, *, now: Callable[[], datetime], new_id: Callable[[], str]) -> None:
        self._store = store
        self._now = now
        self._new_id = new_id

    async def claim(
        self, key: str, conversation_id: str, what: str, expectation: Expectation | None
    ) -> Claim | Settled | Held | Unsure:
        """Claim a delivery; of two callers at once one gets it. A callback's expectation is used up in the same batch.

        Raises:
            StoreUnavailable: whether it is claimed is unknown; a later try recognises its own claim or waits it out.
        """
        token = self._new_id()
        document_id = id_for("delivery", key)
        while True:
            expected = await expectation() if expectation else None
            body: JsonObject = {
                "id": document_id,
                CONVERSATIONS.partition_key: conversation_id,
                "kind": "delivery",
                "key": key,
                "what": what,
                "replaces": expected.body["replaces"] if expected else None,
                "created": time_text(self._now()),
                "ttl": int(KEPT.total_seconds()),
                **held("claimed", token, self._now(), LEASE),
            }
            operations: list[Operation] = [Create(body)]
            if expected is not None:
                operations.append(Delete(expected.id, expected.etag))
            try:
                await self._store.batch(CONVERSATIONS, conversation_id, operations)
            except DocumentExists:
                # The work is known: or it is our own write, repeated by the client after a time-out; the token tells.
                break
            except DocumentChanged:
                # Another callback used this expectation up; there may be a later one for us.
                continue
            break
        stored = await self._store.read(CONVERSATIONS, conversation_id, document_id)
        if stored is None:
            raise StoreUnavailable(f"The ledger's record of {key!r} was written and is not found")
        if stored.body["token"] == token:
            return Claim(stored)
        return await self._take_over(stored, token)

    async def _take_over(self, stored: Document, token: str) -> Claim | Settled | Held | Unsure:
        status = stored.body["status"]
        if status in ("sent", "parked", "dead"):
            return Settled(status)
        until = held_until(stored)
        if until > self._now():
            return Held(until)
        if status == "sending":
            return Unsure(Claim(stored))
        claim = Claim(stored)
        await self._write(claim, held("claimed", token, self._now(), LEASE), ours=token)
        return claim

    def mark(self, claim: Claim, status: str, **changes: Any) -> Mark:
        """The next step, to be written together with what else it belongs to."""
        token = claim.document.body["token"]
        return Mark(claim.document, {**held(status, token, self._now(), LEASE), **changes})

    async def step(self, claim: Claim, status: str, **changes: Any) -> None:
        """Write how far it came. Raises TakenOver if somebody else holds the delivery by now."""
        await self._write(claim, self.mark(claim, status, **changes).changes, ours=claim.document.body["token"])

    async def release(self, claim: Claim) -> None:
        """Give it back as if it had never been begun; the next worker need not wait."""
        now = time_text(self._now())
        given_back = {"status": "claimed", "token": "", "heldUntil": now, "updated": now}
        await self._write(claim, given_back, ours=claim.document.body["token"])

    async def _write(self, claim: Claim, changes: dict[str, Any], *, ours: str) -> None:
        mark = Mark(claim.document, changes)
        for _ in range(TRIES):
            document = mark.document
            try:
                claim.document = await self._store.replace(CONVERSATIONS, mark.body, document.etag)
                return
            except DocumentChanged:
                # By another worker; or by ourselves, in a write of which the answer was lost.
                stored = await self._store.read(CONVERSATIONS, document.body[CONVERSATIONS.partition_key], document.id)
            if mark.is_made_in(stored):
                claim.document = stored
                return
            if stored is None or stored.body["token"] != ours:
                raise TakenOver
            mark = Mark(stored, changes)
        raise TakenOver
