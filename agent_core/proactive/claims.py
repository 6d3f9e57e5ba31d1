"""Who holds a piece of work: documents with a token and a lease, and how the next step is written into them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeGuard

from agent_core.store.document_store import (
    CONVERSATIONS,
    Delete,
    Document,
    DocumentStore,
    JsonObject,
    Replace,
    parse_time,
    time_text,
)

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
        finish: makes of the document with these changes what is written, by what others wrote into it; None: it goes.
    """

    document: Document
    changes: JsonObject
    finish: Callable[[JsonObject], JsonObject | None] | None = None

    @property
    def body(self) -> JsonObject:
        """The document with the changes."""
        return {**self.document.body, **self.changes}

    @property
    def operation(self) -> Replace | Delete:
        """What writes it."""
        body = self.finish(self.body) if self.finish else self.body
        return Replace(body, self.document.etag) if body else Delete(self.document.id, self.document.etag)

    def is_made_in(self, stored: Document | None) -> TypeGuard[Document]:
        """Whether the step is in there by our own hand: a write can be done and its answer lost."""
        wanted = {"token": self.document.body["token"], **self.changes}
        return stored is not None and all(stored.body.get(name) == value for name, value in wanted.items())


async def newest_marks(store: DocumentStore, partition: str, marks: Sequence[Mark]) -> list[Mark] | None:
    """Marks that met other versions of their documents, for the newest ones; None if they are made already, by a write
    of ours of which the answer was lost.

    TakenOver if the first document, the one that matters, is another's by now. Others of which that is so are left out.
    """
    stored = await asyncio.gather(*(store.read(CONVERSATIONS, partition, mark.document.id) for mark in marks))
    if marks[0].is_made_in(stored[0]):
        return None
    newest = [
        replace(mark, document=document)
        for mark, document in zip(marks, stored, strict=True)
        if document is not None and document.body["token"] == mark.document.body["token"]
    ]
    if not newest or newest[0].document.id != marks[0].document.id:
        raise TakenOver
    return newest


def held(status: str, token: str, now: datetime, lease: timedelta) -> dict[str, Any]:
    """The fields of a document that the bearer of the token holds for so long."""
    return {"status": status, "token": token, "heldUntil": time_text(now + lease), "updated": time_text(now)}


def held_until(document: Document) -> datetime:
    """When its lease is over."""
    return parse_time(document.body["heldUntil"])
