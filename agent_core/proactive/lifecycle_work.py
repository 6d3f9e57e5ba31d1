"""What a removal or a deletion means for other documents: done from the work queue, in pages, off any turn's path."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import suppress

from agent_core.activity.conversation_reference import ConversationAccount, ConversationReference, split_channel_id
from agent_core.errors import DocumentChanged
from agent_core.proactive.conversation import Conversation
from agent_core.proactive.conversations import Conversations
from agent_core.proactive.lifecycle import Change, after_change
from agent_core.proactive.schedules import PENDING, cancelled
from agent_core.proactive.work import WorkItem
from agent_core.store.document_store import (
    CONVERSATIONS,
    SCHEDULES,
    Container,
    Document,
    DocumentStore,
    Where,
)

logger = logging.getLogger(__name__)


class LifecycleWork:
    """Carries a change over to all conversations that it is about, and cancels what was pending where it ended.

    Done again, or by two workers at once, it has the same effect; so a message that is delivered again goes on where
    a death left it.
    """

    def __init__(self, store: DocumentStore, conversations: Conversations) -> None:
        self._store = store
        self._conversations = conversations

    async def work_on(self, item: WorkItem) -> None:
        """Raises StoreError if the store was not reached; let the message be delivered again."""
        change = Change.from_dict(item.payload["change"])
        changed = 0
        here = ConversationReference(
            channel_id=item.payload["channel"], conversation=ConversationAccount(id=item.payload["conversation"])
        )
        await self._apply(here, change)
        if change.is_wide:
            field, value = ("teamId", change.team_id) if change.team_id else ("teamsChannelId", change.teams_channel_id)
            async for document in every(self._store, CONVERSATIONS, [Where(field, "=", value or "")]):
                await self._apply(Conversation.from_document(document).reference, change)
                changed += 1
        logger.info("Lifecycle: %s (%s) carried over to %d conversations", change.to, change.reason, changed)

    async def _apply(self, reference: ConversationReference, change: Change) -> None:
        document = await self._conversations.change(
            reference, lambda known: _unless_the_same(known, after_change(known, change)) if known else None
        )
        if document is not None and Conversation.from_document(document).is_ended:
            await self._cancel_pending(reference)

    async def _cancel_pending(self, reference: ConversationReference) -> None:
        conversation_id, channel = reference.conversation_id, reference.channel
        of_conversation = [Where("conversation", "=", conversation_id)]
        async for document in every(self._store, SCHEDULES, of_conversation):
            if split_channel_id(document.body.get("channel"))[0] == channel and document.body["status"] in PENDING:
                # Another worker has it in hand: its delivery will find the conversation as it is.
                with suppress(DocumentChanged):
                    await self._store.replace(SCHEDULES, cancelled(document), document.etag)
        expected = [Where("kind", "=", "expected_callback")]
        async for document in every(self._store, CONVERSATIONS, expected, partition=conversation_id):
            if document.body["channel"] == channel:
                await self._store.delete(CONVERSATIONS, conversation_id, document.id)


async def every(
    store: DocumentStore, container: Container, where: list[Where], *, partition: str | None = None
) -> AsyncIterator[Document]:
    """Every document of a query, page after page; what was read may be changed or deleted meanwhile."""
    continuation: str | None = None
    while True:
        page = await store.query(container, partition=partition, where=where, continuation=continuation)
        for document in page.documents:
            yield document
        continuation = page.continuation
        if continuation is None:
            return


def _unless_the_same(before: Conversation, after: Conversation) -> Conversation | None:
    return after if after != before else None
