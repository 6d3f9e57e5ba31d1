"""What became of a delivery, and why: put together from the ledger and the dead letters, for whoever asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agent_core.proactive.claims import held_until
from agent_core.proactive.dead_letters import NO_CONVERSATION, DeadLetter, DeadLetters
from agent_core.proactive.ledger import Work
from agent_core.proactive.lifecycle_work import every
from agent_core.store.document_store import CONVERSATIONS, Document, DocumentStore, Where, parse_time, time_text


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """One delivery, without the texts of its messages.

    Attributes:
        status: `sent`, `held` (it waits for its recipient), `waiting` (for another attempt), `in work`, `interrupted`
            (its worker ended; the queue brings it again), `dropped`, `parked` (it may have been sent) or `dead`.
        why: a sentence for people; empty where there is nothing to say.
        attempts: how many were begun; waiting for people, a channel that throttles or a sign-in is none.
        messages: what was sent, by the channel's ids; "" where it gave none.
        begun: when it was claimed first, `updated` when something was last done; None if it was never begun.
        until: until when it waits, or a worker has it.
        urgent: it passed what other notifications wait for.
        dead_letter: where somebody is to decide about it.
    """

    key: str
    conversation: str
    what: str
    status: str
    why: str = ""
    attempts: int | None = None
    messages: tuple[str, ...] = ()
    begun: datetime | None = None
    updated: datetime | None = None
    until: datetime | None = None
    urgent: bool = False
    dead_letter: DeadLetter | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON, as the command line shows it."""
        letter = self.dead_letter
        return {
            "key": self.key,
            "conversation": self.conversation,
            "what": self.what,
            "status": self.status,
            "why": self.why,
            "attempts": self.attempts,
            "messages": list(self.messages),
            "begun": _text(self.begun),
            "updated": _text(self.updated),
            "until": _text(self.until),
            "urgent": self.urgent,
            "deadLetter": None if letter is None else {"reason": letter.reason, "explanation": letter.explanation},
        }


class DeliveryReports:
    """Looks deliveries up by their keys. Without a conversation it asks all partitions, so it is not for a turn."""

    def __init__(self, store: DocumentStore, now: Callable[[], datetime]) -> None:
        self._store = store
        self._letters = DeadLetters(store, now)
        self._now = now

    async def find(self, key: str, conversation: str | None = None) -> list[DeliveryReport]:
        """The deliveries of this key: mostly one, for a key is unique in a conversation; none if it is not known,
        which what ended two weeks ago is not any more."""
        documents = every(self._store, CONVERSATIONS, [Where("key", "=", key)], partition=conversation)
        partitions = {document.body[CONVERSATIONS.partition_key] async for document in documents}
        reports = [await self._report(key, partition) for partition in sorted(partitions)]
        return [report for report in reports if report is not None]

    async def _report(self, key: str, partition: str) -> DeliveryReport | None:
        work = Work(key, partition, "", "")
        record = await self._store.read(CONVERSATIONS, partition, work.document_id)
        letter = await self._letters.get(key, partition)
        conversation = "" if partition == NO_CONVERSATION else partition
        if record is None:
            if letter is None:  # gone meanwhile
                return None
            # It failed before the ledger was asked.
            return DeliveryReport(
                key, conversation, letter.what, "dead", letter.explanation, letter.attempts, dead_letter=letter
            )
        body, status = record.body, self._status(record)
        until = held_until(record) if status == "in work" else body.get("postponedUntil")
        return DeliveryReport(
            key=key,
            conversation=conversation,
            what=body["what"],
            status=status,
            why=body.get("why") or "",
            attempts=body.get("attempts"),
            messages=tuple(step.get("id") or "" for step in body["steps"] if step["status"] == "sent"),
            begun=parse_time(body["created"]),
            updated=parse_time(body["updated"]),
            until=parse_time(until) if isinstance(until, str) else until,
            urgent=body.get("urgent", False),
            dead_letter=letter,
        )

    def _status(self, record: Document) -> str:
        status = str(record.body["status"])
        if status not in ("claimed", "sending"):
            return status
        if record.body["token"] == "":
            return "waiting"
        return "in work" if held_until(record) > self._now() else "interrupted"


def _text(time: datetime | None) -> str | None:
    return None if time is None else time_text(time)
