"""What became of a delivery, and why: put together from the ledger and the dead letters, for whoever asks."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agent_core.proactive.claims import held_until
from agent_core.proactive.dead_letters import NO_CONVERSATION, DeadLetter, DeadLetters
from agent_core.proactive.ledger import Work
from agent_core.proactive.lifecycle_work import every
from agent_core.proactive.occurrences import why_void
from agent_core.proactive.recipients import ConversationRecipient
from agent_core.proactive.schedules import Schedule, Schedules
from agent_core.store.document_store import CONVERSATIONS, Document, DocumentStore, Where, parse_time, time_text

_OCCURRENCE = re.compile(r"schedule:(?P<id>.+):(?P<generation>\d{1,9}):(?P<due>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)")
_WHY_DROPPED = {
    "expired": "it was not worth sending any more",
    "late": "it was late by more than the grace",
    "superseded": "a newer one of the schedule was due as well",
    "too many": "more were due than are handed over at once",
}


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """One delivery, without the texts of its messages.

    Attributes:
        status: `sent`, `scheduled` (its time is to come), `queued` (no worker has begun), `held` (it waits for its
            recipient), `waiting` (for another attempt), `in work`, `interrupted`
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
        return [report for report in reports if report is not None] or await self._not_begun(key)

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

    async def _not_begun(self, key: str) -> list[DeliveryReport]:
        """What the schedule says of an occurrence that no worker has had yet, or that none ever will."""
        if (named := _OCCURRENCE.fullmatch(key)) is None:
            return []
        schedule = await Schedules(self._store).get(named["id"])
        due = parse_time(named["due"])
        if schedule is None or (told := _told(schedule, int(named["generation"]), due)) is None:
            return []
        status, why = told
        conversation = schedule.to.name if isinstance(schedule.to, ConversationRecipient) else ""
        return [DeliveryReport(key, conversation, schedule.name, status, why, until=due, urgent=schedule.urgent)]

    def _status(self, record: Document) -> str:
        status = str(record.body["status"])
        if status not in ("claimed", "sending"):
            return status
        if record.body["token"] == "":
            return "waiting"
        return "in work" if held_until(record) > self._now() else "interrupted"


def _told(schedule: Schedule, generation: int, due: datetime) -> tuple[str, str] | None:
    """The status of an occurrence and the reason; None if it is none of this schedule's."""
    if generation > schedule.generation:
        return None
    if generation < schedule.generation or schedule.status in ("cancelled", "paused"):
        return "dropped", "dropped because " + (why_void(schedule, generation) or "its schedule is over")
    for stretch in schedule.dropped:
        if stretch.since <= due < stretch.before:
            return "dropped", f"dropped at {_minute(stretch.at)} because {_WHY_DROPPED[stretch.reason]}"
    if due in schedule.handed_over:
        return "queued", "on the work queue: no worker has begun with it"
    if schedule.next is not None and due >= schedule.next and schedule.recurrence.occurrences(due, 1) == [due]:
        return "scheduled", "the timer hands it over when its time comes"
    return None


def _minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _text(time: datetime | None) -> str | None:
    return None if time is None else time_text(time)
