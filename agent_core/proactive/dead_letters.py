"""What could not be done and will not be tried again by itself: kept, with the reason, until somebody decides."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from agent_core.errors import DeadLetterAmbiguous, DocumentChanged, InvalidCallback, NotReplayable
from agent_core.proactive.dead_letter_payload import bytes_of, text_of, without_tickets
from agent_core.proactive.queue import DeadLetterQueue, Queue, QueueMessage, Undeliverable
from agent_core.proactive.work import WorkItem
from agent_core.store.document_store import (
    CONVERSATIONS,
    Document,
    DocumentStore,
    JsonObject,
    Where,
    id_for,
    parse_time,
    time_text,
)

# The partition of those that name no conversation.
NO_CONVERSATION = "-"
# For how many seconds the ledger keeps the record of a delivery about which nobody has decided: ten years.
UNDECIDED = int(timedelta(days=3650).total_seconds())
# And after the decision, as long as that of any delivery.
DECIDED = int(timedelta(days=14).total_seconds())
# Enough for a tick of the timer; the next one goes on.
DRAINED_AT_ONCE = 100

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One piece of work that ended without its effect.

    Attributes:
        key: the delivery's key; the same work is one dead letter, however often it fails.
        what: what it is, such as `callback 'order_placed'`, `occurrence 'notification'`, `long-running turn`.
        reason: a stable word for programs, such as `ConversationNotFound`; `Unsure` and `FailedAfterSending` are parked
            deliveries, which may have been sent.
        explanation: a sentence for people, without texts of the conversation.
        conversation: the conversation's id, empty if none was named.
        payload: the message as it came, tickets and all; text, or base64 where it was no UTF-8.
        header: of a message that never became work, what came beside its body.
    """

    key: str
    what: str
    reason: str
    explanation: str
    conversation: str
    payload: str = field(repr=False)
    created: datetime
    attempts: int = 1
    header: JsonObject | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON, as the command line shows it: without tickets."""
        return {
            "key": self.key,
            "what": self.what,
            "reason": self.reason,
            "explanation": self.explanation,
            "conversation": self.conversation,
            "attempts": self.attempts,
            "created": time_text(self.created),
            "payload": text_of(without_tickets(bytes_of(self.payload))),
        }

    def matches(self, reason: str | None, what: str | None) -> bool:
        """Whether it is of this reason and of this sort, where they are given."""
        sort_fits = what is None or self.what == what or self.what.startswith(f"{what} ")
        return sort_fits and (reason is None or self.reason == reason)


class DeadLetters:
    """Keeps dead letters, lists them, and does what somebody decides about them.

    A parked delivery is decided like any other: `replay` sends it, again if it had arrived; `discard` says that it had.
    """

    def __init__(self, store: DocumentStore, now: Callable[[], datetime], queue: Queue | None = None) -> None:
        """`queue` is the agent's work queue; only `replay` needs it."""
        self._store = store
        self._now = now
        self._queue = queue

    async def add(
        self,
        *,
        key: str,
        what: str,
        reason: str,
        explanation: str,
        payload: bytes,
        conversation: str = "",
        attempts: int = 1,
        header: JsonObject | None = None,
    ) -> None:
        """Keep one; doing it again writes over the same one.

        Args:
            payload: a `WorkItem`'s body; or, with a `header`, what is none.

        Raises:
            StoreUnavailable: it is not kept, so the message must not be settled.
        """
        await self._store.upsert(
            CONVERSATIONS,
            {
                "id": id_for("dead", key),
                CONVERSATIONS.partition_key: conversation or NO_CONVERSATION,
                "kind": "dead_letter",
                "key": key,
                "what": what,
                "reason": reason,
                "explanation": explanation,
                "attempts": attempts,
                "created": time_text(self._now()),
                "payload": text_of(payload),
                "header": header,
            },
        )

    async def add_message(
        self, message: QueueMessage, *, key: str, what: str, reason: str, explanation: str, attempts: int = 1
    ) -> None:
        """Keep a message as it came from outside. Raises like `add`."""
        header = {
            "messageId": message.message_id,
            "contentType": message.content_type,
            "subject": message.subject,
            "correlationId": message.correlation_id,
            "sessionId": message.session_id,
            "properties": dict(message.application_properties),
        }
        await self.add(
            key=key,
            what=what,
            reason=reason,
            explanation=explanation,
            payload=message.body,
            attempts=attempts,
            header=header,
        )

    async def drain(self, source: DeadLetterQueue, name: str, *, is_work: bool, limit: int = DRAINED_AT_ONCE) -> int:
        """Take over what a queue put aside by itself, with its reasons; returns how much that was.

        Each is kept here before it goes there, so a death in between makes it come again, as the same dead letter.

        Args:
            name: the queue's, part of the keys.
            is_work: it is the work queue; only there messages are the agent's own.

        Raises:
            QueueUnavailable, StoreUnavailable: what is left waits for the next time.
        """

        async def keep(found: Undeliverable) -> None:
            message, reason = found.message, found.reason or "DeadLettered"
            key = f"{name}:{message.message_id}:{found.number}"
            explanation = found.description or f"The queue {name} put it aside and did not say why"
            logger.warning("Delivery: the queue %s put message %r aside (%s)", name, message.message_id, reason)
            if is_work:
                await self.add(
                    key=key,
                    what="work",
                    reason=reason,
                    explanation=explanation,
                    payload=message.body,
                    attempts=found.deliveries,
                )
            else:
                await self.add_message(
                    message,
                    key=key,
                    what="callback",
                    reason=reason,
                    explanation=explanation,
                    attempts=found.deliveries,
                )

        return await source.drain_dead_letters(keep, limit=limit)

    async def get(self, key: str, conversation: str | None = None) -> DeadLetter | None:
        """The dead letter of this key, or None.

        Raises:
            DeadLetterAmbiguous: several conversations have one.
        """
        if conversation is not None:
            found = await self._read(key, conversation)
            return None if found is None else _from_body(found.body)
        letters = [letter async for letter in self.list(key=key)]
        if len(letters) > 1:
            named = ", ".join(repr(letter.conversation) for letter in letters)
            raise DeadLetterAmbiguous(f"The key {key!r} is that of several dead letters; name a conversation: {named}")
        return letters[0] if letters else None

    async def list(
        self,
        *,
        key: str | None = None,
        reason: str | None = None,
        conversation: str | None = None,
        what: str | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[DeadLetter]:
        """Those that match everything given, oldest first.

        Args:
            conversation: its id; empty for those that name none.
            what: the whole of it, or its first words, such as `callback`.
            since: an aware time; those that were added then or later.
            limit: how many at most.
        """
        conditions = [Where("kind", "=", "dead_letter")]
        if key is not None:
            conditions.append(Where("key", "=", key))
        if since is not None:
            conditions.append(Where("created", ">=", time_text(since)))
        partition = None if conversation is None else conversation or NO_CONVERSATION
        continuation: str | None = None
        found = 0
        while True:
            page = await self._store.query(
                CONVERSATIONS, partition=partition, where=conditions, order_by="created", continuation=continuation
            )
            for document in page.documents:
                if found == limit:
                    return
                letter = _from_body(document.body)
                if letter.matches(reason, what):
                    found += 1
                    yield letter
            continuation = page.continuation
            if continuation is None:
                return

    async def replay(self, letter: DeadLetter) -> bool:
        """Do the work again under its key: what it had sent is not sent again; what it may have sent is.

        First the ledger lets go of it, then the message goes to the work queue, then the dead letter goes. A death in
        between leaves the dead letter, to be replayed again. Of two callers at once both put the same message on the
        queue, which takes it once. What fails again is a new dead letter.

        Returns:
            False if somebody has decided about it, or it has failed anew, since it was read: nothing was done.

        Raises:
            NotReplayable: it would fail as it did; nothing was done.
            QueueUnavailable, StoreError: do it again.
        """
        if self._queue is None:
            raise NotReplayable("These dead letters were opened without the work queue; use agent.dead_letters")
        stored = await self._stored(letter)
        if stored is None:
            return False
        item = _work_of(letter).replayed(f"{letter.created:%Y%m%d%H%M%S%f}")
        await self._decide(letter, item, replays=True)
        try:
            await self._queue.send(item.to_message())
        except ValueError as error:
            raise NotReplayable(f"It does not fit into a message of the work queue: {error}") from error
        await self._delete(stored)
        return True

    async def discard(self, letter: DeadLetter) -> bool:
        """Let it be: the dead letter goes, and the ledger answers late copies of the work as done.

        Of two callers at once both succeed; a replay that has begun goes on.

        Returns:
            False if somebody has decided about it, or it has failed anew, since it was read: nothing was done.
        """
        stored = await self._stored(letter)
        if stored is None:
            return False
        try:
            item = _work_of(letter)
        except NotReplayable:
            pass  # of such the ledger has nothing, or another delivery's record
        else:
            await self._decide(letter, item, replays=False)
        await self._delete(stored)
        return True

    async def _decide(self, letter: DeadLetter, item: WorkItem, *, replays: bool) -> None:
        """Write the decision into the ledger's record, if there is one and it has ended without its effect."""
        while True:
            partition = letter.conversation or NO_CONVERSATION
            record = await self._store.read(CONVERSATIONS, partition, id_for("delivery", item.key))
            if record is None or record.body["status"] not in ("dead", "parked"):
                return
            now = time_text(self._now())
            changes: JsonObject = {"token": "", "heldUntil": now, "updated": now, "ttl": DECIDED}
            if replays:
                sent = [step for step in record.body["steps"] if step["status"] == "sent"]
                changes |= {"status": "claimed", "steps": sent}
            else:
                changes |= {"status": "dead", "discarded": now}
            try:
                await self._store.replace(CONVERSATIONS, {**record.body, **changes}, record.etag)
                return
            except DocumentChanged:
                continue

    async def _stored(self, letter: DeadLetter) -> Document | None:
        """Its document, if it is still the one that was read."""
        stored = await self._read(letter.key, letter.conversation)
        return stored if stored is not None and stored.body["created"] == time_text(letter.created) else None

    async def _read(self, key: str, conversation: str) -> Document | None:
        return await self._store.read(CONVERSATIONS, conversation or NO_CONVERSATION, id_for("dead", key))

    async def _delete(self, stored: Document) -> None:
        try:
            await self._store.delete(CONVERSATIONS, stored.body[CONVERSATIONS.partition_key], stored.id, stored.etag)
        except DocumentChanged:
            return  # gone, or it has failed anew meanwhile and is to be decided anew


def message_of(item: WorkItem) -> QueueMessage:
    """The message as it first came, of work that is to look at it again."""
    header = item.payload["header"]
    return QueueMessage(
        body=bytes_of(item.payload["body"]),
        message_id=header["messageId"],
        content_type=header["contentType"],
        subject=header["subject"],
        correlation_id=header["correlationId"],
        session_id=header["sessionId"],
        application_properties=header["properties"],
    )


def _work_of(letter: DeadLetter) -> WorkItem:
    """The work that it was. Raises NotReplayable."""
    if letter.reason == "IdempotencyConflict":
        raise NotReplayable("Other work was done under this key, and would be met again: publish it anew, with its own")
    if letter.header is not None:
        return WorkItem("message", letter.key, {"header": letter.header, "body": letter.payload})
    try:
        return WorkItem.from_message(QueueMessage(bytes_of(letter.payload), letter.key))
    except InvalidCallback as error:
        raise NotReplayable("It is no work of the agent's, whoever put it on the work queue: discard it") from error


def _from_body(body: JsonObject) -> DeadLetter:
    conversation = body["conversation"]
    return DeadLetter(
        key=body["key"],
        what=body["what"],
        reason=body["reason"],
        explanation=body["explanation"],
        conversation="" if conversation == NO_CONVERSATION else conversation,
        payload=body["payload"],
        created=parse_time(body["created"]),
        attempts=body["attempts"],
        header=body.get("header"),
    )
