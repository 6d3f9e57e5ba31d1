"""State that could not be saved when its turn was over, though the user had heard the answer: it waits on the queue."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from agent_core.errors import DocumentChanged, DocumentExists, QueueUnavailable, StoreError
from agent_core.proactive.claims import Mark
from agent_core.proactive.conversation import conversation_document_id
from agent_core.proactive.dead_letters import DeadLetters
from agent_core.proactive.queue import Queue
from agent_core.proactive.turn_record import MAX_CONFLICTS, TurnRecord, merged, partition_of_user
from agent_core.proactive.work import WorkItem
from agent_core.store.document_store import (
    CONVERSATIONS,
    USERS,
    Container,
    Create,
    Document,
    DocumentStore,
    Operation,
    Replace,
)

logger = logging.getLogger(__name__)


class LateSaves:
    """Puts a turn's changes on the work queue, and writes them when they come from there."""

    def __init__(
        self,
        store: DocumentStore,
        queue: Queue,
        dead_letters: DeadLetters,
        *,
        now: Callable[[], datetime],
        new_id: Callable[[], str],
    ) -> None:
        self._store = store
        self._queue = queue
        self._dead_letters = dead_letters
        self._now = now
        self._new_id = new_id

    async def put_off(self, record: TurnRecord, marks: Sequence[Mark]) -> bool:
        """Let the changes wait on the queue; False if they cannot: it is not reached, or they are too large for it."""
        reference = record.reference
        payload: dict[str, Any] = {
            "conversation": reference.conversation_id,
            "document": conversation_document_id(reference.channel_id),
            "state": record.state.conversation.changes,
            "user": partition_of_user(reference, record.context.identity),
            "userState": record.state.user.changes,
            "marks": [
                {"id": mark.document.id, "token": mark.document.body["token"], "changes": mark.changes}
                for mark in marks
            ],
        }
        try:
            await self._queue.send(WorkItem("save", f"save:{self._new_id()}", payload).to_message())
        except (QueueUnavailable, ValueError) as error:
            logger.error("The state of conversation %r cannot wait on the queue: %s", reference.conversation_id, error)
            return False
        logger.warning("The state of conversation %r waits on the work queue to be saved", reference.conversation_id)
        return True

    async def work_on(self, item: WorkItem) -> None:
        """Write what waited. Done twice it has one effect; a key that was changed since keeps its newer value."""
        try:
            await self._write_all(item.payload)
        except StoreError as error:
            following = item.next_attempt()
            if following is not None:
                again, wait = following
                await self._queue.send(again.to_message(at=self._now() + wait))
                return
            await self._dead_letters.add(
                key=item.key,
                what="state of a turn",
                reason="StoreUnavailable",
                explanation=str(error),
                payload=item.to_message().body,
                conversation=item.payload["conversation"],
                attempts=item.attempt,
            )

    async def _write_all(self, payload: dict[str, Any]) -> None:
        if payload["user"] is not None and payload["userState"]:
            await self._write(USERS, payload["user"], "state", payload["userState"], [])
        await self._write(
            CONVERSATIONS, payload["conversation"], payload["document"], payload["state"], payload["marks"]
        )

    async def _write(
        self,
        container: Container,
        partition: str,
        document_id: str,
        changes: dict[str, Any],
        marks: list[dict[str, Any]],
    ) -> None:
        for _ in range(MAX_CONFLICTS):
            operations: list[Operation] = []
            for mark in marks:
                marked = await self._store.read(container, partition, mark["id"])
                if marked is not None and marked.body["token"] == mark["token"]:
                    operations.append(Replace({**marked.body, **mark["changes"]}, marked.etag))
            if changes:
                known = await self._store.read(container, partition, document_id)
                operations += _merge(container, partition, document_id, known, changes)
            if not operations:
                return
            try:
                await self._store.batch(container, partition, operations)
                return
            except (DocumentExists, DocumentChanged):
                continue
        raise DocumentChanged(f"A document of {partition!r} is written by too many at once; try again")


def _merge(
    container: Container, partition: str, document_id: str, known: Document | None, changes: dict[str, Any]
) -> list[Operation]:
    if known is not None and known.body.get("status") != "forgotten":
        return [Replace({**known.body, "state": merged(known.body["state"], changes)}, known.etag)]
    if container is CONVERSATIONS:
        return []  # the conversation was forgotten meanwhile
    body = {"id": document_id, container.partition_key: partition, "kind": "state", "state": merged({}, changes)}
    return [Create(body)]
