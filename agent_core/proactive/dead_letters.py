"""What could not be done and will not be tried again by itself: kept, with the reason, until somebody decides."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agent_core.store.document_store import CONVERSATIONS, DocumentStore, Where, id_for, parse_time, time_text

# The partition of those that name no conversation.
NO_CONVERSATION = "-"
_BASE64 = "base64:"

# In JSON, in JSON that is written into a string of JSON, and wherever a signed one stands.
_TICKET = re.compile(r'(ticket\\*"\s*:\s*\\*")[^"\\]+')
_SIGNED_TICKET = re.compile(r"\bt1\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_ENCODED = re.compile(r'(data_base64\\*"\s*:\s*\\*")([^"\\]+)')


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One piece of work that ended without its effect.

    Attributes:
        key: the delivery's key; the same work is one dead letter, however often it fails.
        reason: a stable word for programs, such as `ConversationNotFound`.
        explanation: a sentence for people, without texts of the conversation.
        conversation: the conversation's id, empty if none was named.
        payload: the message as it came; text, or base64 where it was no UTF-8.
    """

    key: str
    what: str
    reason: str
    explanation: str
    conversation: str
    payload: str
    created: datetime
    attempts: int = 1

    def to_dict(self) -> dict[str, Any]:
        """JSON, as the command line shows it: without tickets, with which anybody could continue conversations."""
        return {
            "key": self.key,
            "what": self.what,
            "reason": self.reason,
            "explanation": self.explanation,
            "conversation": self.conversation,
            "attempts": self.attempts,
            "created": time_text(self.created),
            "payload": _without_tickets(self.payload),
        }


class DeadLetters:
    """Keeps dead letters, and lists them."""

    def __init__(self, store: DocumentStore, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now

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
    ) -> None:
        """Keep one; doing it again writes over the same one.

        Raises:
            StoreUnavailable: it is not kept, so the message must not be settled.
        """
        letter = DeadLetter(key, what, reason, explanation, conversation, _text(payload), self._now(), attempts)
        await self._store.upsert(
            CONVERSATIONS,
            {
                **letter.to_dict(),
                # Whole, so that it can be done again.
                "payload": letter.payload,
                "id": id_for("dead", key),
                CONVERSATIONS.partition_key: conversation or NO_CONVERSATION,
                "kind": "dead_letter",
            },
        )

    async def list(self) -> AsyncIterator[DeadLetter]:
        """All of them, oldest first."""
        continuation: str | None = None
        while True:
            page = await self._store.query(
                CONVERSATIONS,
                where=[Where("kind", "=", "dead_letter")],
                order_by="created",
                continuation=continuation,
            )
            for document in page.documents:
                yield _from_body(document.body)
            continuation = page.continuation
            if continuation is None:
                return


def _from_body(body: dict[str, Any]) -> DeadLetter:
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
    )


def _text(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return _BASE64 + base64.b64encode(payload).decode()


def _without_tickets(payload: str) -> str:
    if payload.startswith(_BASE64):
        return _BASE64 + _unless_it_has_tickets(payload.removeprefix(_BASE64))
    payload = _ENCODED.sub(lambda found: found[1] + _unless_it_has_tickets(found[2]), payload)
    return _SIGNED_TICKET.sub("[ticket]", _TICKET.sub(r"\1[ticket]", payload))


def _unless_it_has_tickets(encoded: str) -> str:
    try:
        raw = base64.b64decode(encoded)
    except binascii.Error:
        return encoded
    # Text of two bytes a character is what a publisher may send by mistake.
    text = raw.replace(b"\0", b"").decode("latin-1")
    return encoded if _without_tickets(text) == text else f"[{len(raw)} bytes with a ticket in them]"
