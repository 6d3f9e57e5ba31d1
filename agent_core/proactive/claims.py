"""Who holds a piece of work: documents with a token and a lease, and how the next step is written into them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeGuard

from agent_core.store.document_store import Document, JsonObject, parse_time, time_text

# A failure of the store that took no longer than this leaves time for a second try.
AT_ONCE = timedelta(seconds=1)


class TakenOver(Exception):
    """The document has another version than ours: another worker holds the work now."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The next step in a document that we hold, to be written if nobody else has written to it since.

    Attributes:
        document: the version that we hold, with our token.
        changes: the fields to set; `status` among them.
    """

    document: Document
    changes: JsonObject

    @property
    def body(self) -> JsonObject:
        """The document to write."""
        return {**self.document.body, **self.changes}

    def is_made_in(self, stored: Document | None) -> TypeGuard[Document]:
        """Whether the step is in there by our own hand: a write can be done and its answer lost."""
        return stored is not None and all(
            stored.body.get(name) == self.body.get(name) for name in ("token", "status", "updated")
        )


def held(status: str, token: str, now: datetime, lease: timedelta) -> dict[str, Any]:
    """The fields of a document that the bearer of the token holds for so long."""
    return {"status": status, "token": token, "heldUntil": time_text(now + lease), "updated": time_text(now)}


def held_until(document: Document) -> datetime:
    """When its lease is over."""
    return parse_time(document.body["heldUntil"])
