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
from agent_core.store.document_store import (
    CONVERSATIONS,
    Create,
    Delete,
    Document,
    DocumentStore,
    JsonObject,
    Operation,
    id_for,
    parse_time,
    time_text,
)

KEPT = timedelta(days=14)
# Longer than a turn may take (host.json ends a function after five minutes), so that a claim whose lease is over has no
# living owner.
LEASE = timedelta(minutes=6)

# Looks up the expectation that a callback fulfils; None if there is none.
Expectation = Callable[[], Awaitable[Document | None]]


class TakenOver(Exception):
    """The record has another version than ours: another worker holds the delivery now."""


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
                **self._held("claimed", token),
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
        until = parse_time(stored.body["heldUntil"])
        if until > self._now():
            return Held(until)
        if status == "sending":
            return Unsure(Claim(stored))
        claim = Claim(stored)
        await self._write(claim, self._held("claimed", token))
        return claim

    async def step(self, claim: Claim, status: str, **changes: Any) -> None:
        """Write how far it came. Raises TakenOver if somebody else holds the delivery by now."""
        await self._write(claim, {**self._held(status, claim.document.body["token"]), **changes})

    async def release(self, claim: Claim) -> None:
        """Give it back as if it had never been begun; the next worker need not wait."""
        await self._write(claim, {"status": "claimed", "token": "", "heldUntil": time_text(self._now())})

    def _held(self, status: str, token: str) -> dict[str, Any]:
        now = self._now()
        return {"status": status, "token": token, "heldUntil": time_text(now + LEASE), "updated": time_text(now)}

    async def _write(self, claim: Claim, changes: dict[str, Any]) -> None:
        body = {**claim.document.body, **changes}
        try:
            claim.document = await self._store.replace(CONVERSATIONS, body, claim.document.etag)
        except DocumentChanged as error:
            raise TakenOver from error
